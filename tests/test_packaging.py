"""What the package is to others: names, weight, dependencies, version, the commands around it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(path.stem for path in (ROOT / "hookpool").glob("*.py"))
NEEDS_AN_EXTRA = {"joblib", "_arrays", "dask", "progress"}

LOADED = "import json, sys; print(json.dumps([n for n in sys.modules if '__mp_main__' not in n]))"


def loaded_after(statement: str) -> set[str]:
    """The modules that a statement brings in, where there is only the standard library."""
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r});"
    bare = set(json.loads(run_python("-I", "-S", "-c", f"{path} {LOADED}")))
    return set(json.loads(run_python("-I", "-S", "-c", f"{path} {statement}; {LOADED}"))) - bare


def test_importing_hookpool_is_light():
    """Each worker pays for it: the executor, joblib and what they need come when asked for."""
    ours = {name for name in loaded_after("import hookpool") if name.startswith("hookpool")}
    assert not ours & {"hookpool.executor", "hookpool._driver", "hookpool.joblib"}


def test_the_start_method_is_registered_by_the_import():
    out = run_python(
        "-c",
        "import multiprocessing, hookpool\nprint(multiprocessing.get_context('hookpool')"
        ".get_start_method(), multiprocessing.get_start_method(allow_none=True))",
    )
    assert out == "hookpool None\n"


@pytest.mark.parametrize("module", sorted(set(MODULES) - NEEDS_AN_EXTRA - {"__main__"}))
def test_the_core_needs_nothing_but_the_standard_library(module: str):
    name = "hookpool" if module == "__init__" else f"hookpool.{module}"
    tops = {loaded.partition(".")[0] for loaded in loaded_after(f"import {name}")}
    assert tops <= sys.stdlib_module_names | {"hookpool"}


def test_all_matches_what_each_module_defines():
    """`from hookpool.x import *` gives what `__all__` promises, and that exists."""
    for module in set(MODULES) - NEEDS_AN_EXTRA - {"__main__", "__init__"}:
        loaded = importlib.import_module(f"hookpool.{module}")
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), f"{module}.{name}"


def test_the_metadata_say_what_pyproject_says():
    metadata = importlib.metadata.metadata("hookpool")
    assert metadata["Version"] == PROJECT["project"]["version"]
    required = importlib.metadata.requires("hookpool") or []
    assert [line for line in required if "extra ==" not in line] == []
    assert set(metadata.get_all("Provides-Extra")) == {"joblib", "dask", "progress", "loky"}


def test_the_package_is_typed_and_licensed():
    assert (ROOT / "hookpool" / "py.typed").is_file()
    assert "hookpool developers" in (ROOT / "LICENSE").read_text()


def test_nothing_in_the_core_names_loky():
    """Importing loky changes the standard library under everybody's feet."""
    for path in (ROOT / "hookpool").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            assert "loky" not in {name.partition(".")[0] for name in names}
            assert not (getattr(node, "module", None) or "").startswith("loky")


@pytest.mark.parametrize("path", sorted((ROOT / "changes").glob("*")), ids=lambda path: path.name)
def test_changelog_fragments_are_named_by_issue_and_kind(path: Path):
    assert re.fullmatch(r"\d+\.(added|changed|fixed|removed)\.md", path.name)
    assert path.read_text().strip()


def test_make_alone_lists_the_targets():
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    assert re.search(r"^  make demo +\w", out, re.M)
    assert re.search(r"^  make test +\w", out, re.M)


def test_the_python_finder_gives_an_interpreter_that_will_do(tmp_path: Path):
    (tmp_path / "python3.13").write_text("#!/bin/sh\necho 'a shim of nothing' >&2\nexit 127\n")
    (tmp_path / "python3.13").chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    path = f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"
    finder = [str(ROOT / "tools" / "find_python.sh")]
    found = subprocess.run(
        finder, env={"PATH": path}, capture_output=True, text=True, timeout=30
    ).stdout.strip()
    version = run_python_version(found)
    assert version >= (3, 11)


def test_the_python_finder_says_what_is_wrong_with_a_given_one():
    finder = [str(ROOT / "tools" / "find_python.sh")]
    env = {"PATH": os.environ["PATH"], "PYTHON": "/bin/false"}
    done = subprocess.run(finder, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "/bin/false is not a CPython >= 3.11" in done.stderr


def run_python_version(python: str) -> tuple[int, ...]:
    ask = "import sys; print(*sys.version_info[:2])"
    out = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=30).stdout
    return tuple(map(int, out.split()))
