"""`python -m hookpool`, as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hookpool
from tests.helpers import ROOT

APP = """
import json, sqlite3

def helper(x): return json.dumps(x)
def work(x): return helper(x) + str(Point())
class Point: pass
point = Point()
db = sqlite3.connect(":memory:")
def query(x): return db.execute(x)
if __name__ == "__main__": raise SystemExit("nobody is to run this as main")
"""


def command(
    *arguments: str, given: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hookpool", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_info_says_what_there_is():
    done = command("info")
    assert (done.returncode, done.stderr) == (0, "")
    assert hookpool.__version__ in done.stdout
    assert "CPUs" in done.stdout
    assert "shared memory" in done.stdout


def test_check_tries_everything():
    done = command("check")
    assert (done.returncode, done.stderr) == (0, "")
    *trials, last = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in trials)
    assert last == f"{len(trials)} of {len(trials)} work"


def test_check_says_what_does_not_work(tmp_path):
    broken = "import multiprocessing.pool\nmultiprocessing.pool.Pool.map = lambda *_: [0]\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "hookpool", "check"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=False,
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "it is [0] where it should be [1, 2, 3]" in done.stdout


@pytest.mark.parametrize("where", ["app", "app.py"])
def test_explain_says_how_an_object_travels(tmp_path, where):
    (tmp_path / "app.py").write_text(APP)
    done = command("explain", f"{where}:work", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"{where}:work travels in ")
    if where == "app":
        assert lines == ["  by reference  app.work"]
    else:
        assert set(lines) == {
            "  by value      app.work",
            "  by value      app.helper",
            "  by value      app.Point",
            "  by reference  module json",
        }


def test_explain_says_of_an_instance_how_its_class_travels(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    done = command("explain", "app.py:point", folder=tmp_path)
    assert done.stdout.splitlines()[1:] == ["  by value      app.Point"]


def test_explain_says_why_an_object_does_not_travel(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    done = command("explain", "app.py:query", folder=tmp_path)
    assert done.returncode == 1
    assert "app.py:query does not travel: " in done.stdout
    assert "'db'" in done.stdout
    assert "sqlite3.Connection" in done.stdout


@pytest.mark.parametrize("name", ["json:nothing", "no_such_module:x", "no_such_file.py:x", "json"])
def test_explain_says_what_it_cannot_find(name):
    done = command("explain", name)
    assert done.returncode == 1
    assert f"{name} cannot be had: " in done.stderr
    assert "Traceback" not in done.stderr


def test_map_calls_a_function_with_each_line_in_order():
    lines = "".join(f"{n}\n" for n in range(3000))
    done = command("map", "-i", "math", "-j", "2", "lambda s: math.floor(int(s) / 2)", given=lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(n // 2) for n in range(3000)]


def test_map_reads_a_file_too(tmp_path):
    (tmp_path / "lines").write_text("a\nbb")
    done = command("map", "len", str(tmp_path / "lines"))
    assert (done.returncode, done.stdout) == (0, "1\n2\n")


def test_map_goes_on_when_a_line_fails():
    # Not at once: what its worker has done in the last millisecond would go with it.
    die = "[time.sleep(0.1), os._exit(1)]"
    expression = f"lambda s: {die} if s == 'die' else time.sleep(int(s))"
    given = "0\nx\ndie\n60\n0\n"
    done = command("map", "-t", "0.5", "-i", "os", "-i", "time", expression, given=given)
    assert done.returncode == 1
    assert done.stdout == "None\nNone\n"
    bad = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in bad] == ["line 2", "line 3", "line 4"]
    assert "ValueError" in bad[0]
    assert "WorkerDied" in bad[1]
    assert "TaskTimedOut" in bad[2]


def test_map_binds_what_an_import_statement_would():
    expression = "lambda s: os.path.basename(s) + os.sep"
    done = command("map", "-i", "os.path", expression, given="/a/b\n")
    assert (done.returncode, done.stdout) == (0, f"b{os.sep}\n")


@pytest.mark.parametrize("arguments", [("-j", "0"), ("-t", "0"), ("-t", "nan"), ("-i", "no.such")])
def test_map_says_what_is_wrong_with_its_options(arguments):
    done = command("map", *arguments, "len", given="a\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_map_of_nothing_is_nothing():
    done = command("map", "len")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("expression", ["lambda", "no_such_name", "1/0"])
def test_map_says_what_is_wrong_with_an_expression(expression):
    done = command("map", expression, given="1\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{expression!r}: ")


def test_map_ends_when_nobody_reads_on():
    line = f"{sys.executable} -m hookpool map len | head -1"
    done = subprocess.run(
        ["sh", "-c", line],
        input="abc\n" * 100_000,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_without_a_command_it_says_which_there_are():
    done = command()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
    helped = command("--help")
    assert helped.returncode == 0
    assert all(name in helped.stdout for name in ("info", "check", "explain", "map"))
