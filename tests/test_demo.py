"""The demo runs, on a small part of what `make demo` gives it."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_python


def test_the_demo_gives_the_same_answer_in_every_way_and_a_table(tmp_path: Path):
    library = Path(sysconfig.get_path("stdlib"), "json")
    out = run_python(str(ROOT / "demo" / "stdlib_census.py"), str(library), cwd=tmp_path)

    assert re.search(r"HookPoolExecutor\(\)\.map\(lambda \.\.\.\) +\d", out)
    assert re.search(r"Pool\(\)\.imap\(lambda \.\.\.\) +\d", out)
    assert re.search(r'joblib\.Parallel\(backend="hookpool"\) +\d', out)
    assert f"The same {len(list(library.rglob('*.py')))} answers each time" in out
    assert re.search(r"^ +\d+ lines +\w+ +decoder\.py:\d+$", out, re.M)
    assert re.search(r"^ +\d+  functions$", out, re.M)
    assert max(map(len, out.splitlines()[1:])) <= 80
    assert "Can't pickle" in out or "Can't get local object" in out


def test_a_file_that_does_not_parse_is_counted_and_named(tmp_path: Path):
    (tmp_path / "good.py").write_text("def f():\n    return 1\n")
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    out = run_python(str(ROOT / "demo" / "stdlib_census.py"), str(tmp_path))

    assert re.search(r"^ +3  files$", out, re.M)
    assert re.search(r"^ +2  files that do not parse:$", out, re.M)
    assert "2 x SyntaxError: bad.py, latin.py" in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_reads_the_whole_standard_library():
    out = run_python(str(ROOT / "demo" / "stdlib_census.py"), timeout=250)
    files = int(re.search(r"The same ([\d ]+) answers", out)[1].replace(" ", ""))
    assert files > 500, sys.version
