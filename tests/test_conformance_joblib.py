"""Joblib's own tests, from the installed joblib, with our backend in loky's place.

`agree_joblib/sitecustomize.py` makes the exchange in every interpreter that the tests start.  What
fails must be exactly what `DEVIATIONS` lists, each with the promise of ours that it contradicts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

joblib = pytest.importorskip("joblib", reason="the extra `joblib` is not installed")
pytest.importorskip("numpy", reason="half of these tests are about arrays")

ROOT = Path(__file__).parents[1]
MODULES = ("test_parallel", "test_memmapping", "test_config", "test_cloudpickle_wrapper")

#: Tests that replace PYTHONPATH for a program of theirs, so that loky itself runs in it. (The
#: first failed once: a worker of loky's had been killed in the middle of its imports.)
NOT_ON_US = (
    "test_child_raises_parent_exits_cleanly",
    "test_many_parallel_calls_on_same_object",
    "test_permission_error_windows_memmap_sent_to_parent",
)

#: What is run: all that names loky, and all that names no backend of processes. Not the tests of
#: joblib's backend on `multiprocessing.Pool`, which are not about us, and of which one hangs when
#: a process is terminated while it holds the lock of the pool's queue (`test_error_capture`).
SELECTED = " and not ".join(("(loky or not multiprocessing)", *NOT_ON_US))

KEPT = "workers that did nothing wrong are kept after another's error; the test wants new ones"
APART = (
    "two calls have an executor each, so dropping the generator of one does not break the other; "
    "the test wants it to"
)
DEVIATIONS = {
    "test_error_capture[loky]": KEPT,
    "test_parallel_with_interactively_defined_bound_method_loky": (
        "looks for the name LokyProcess in the log of multiprocessing"
    ),
    **{
        f"test_multiple_generator_call_separated_gc[{one}-{two}-loky-True]": APART
        for one in ("generator", "generator_unordered")
        for two in ("generator", "generator_unordered")
    },
}


#: What loky's own backend passes of these tests with joblib 1.6.0 on CPython 3.13.
LOKY_PASSES = 608


class Outcome(NamedTuple):
    passed: set[str]
    failed: set[str]
    skipped: set[str]


def outcome_of(report: Path) -> Outcome:
    """The names of the tests, by what became of them."""
    names: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ElementTree.parse(report).iter("testcase"):
        found = {child.tag for child in case}
        kind = "skipped" if "skipped" in found else "failed"
        kind = kind if found & {"skipped", "failure", "error"} else "passed"
        names[kind].add(f"{case.get('name')}")
    return Outcome(**names)


@pytest.fixture
def folder(tmp_path: Path):
    """Where joblib's tests run, and put what they leave behind."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    yield tmp_path
    # `test_pool_get_temp_dir` makes it and leaves it.
    shutil.rmtree("/dev/shm/test.tmpdir", ignore_errors=True)


@pytest.mark.agree
@pytest.mark.timeout(900)
def test_joblibs_own_tests_pass_with_our_backend_in_lokys_place(folder: Path):
    path = os.pathsep.join([str(ROOT / "tests" / "agree_joblib"), str(ROOT)])
    command = [
        "-m",
        "pytest",
        "-q",
        "-l",
        "-p",
        "no:cacheprovider",
        "-c",
        "pytest.ini",
        "-k",
        SELECTED,
    ]
    command += ["--timeout=60", "--junitxml=report.xml", "--pyargs"]
    subprocess.run(
        [sys.executable, *command, *(f"joblib.test.{name}" for name in MODULES)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        timeout=850,
    )
    outcome = outcome_of(folder / "report.xml")

    assert outcome.failed - set(DEVIATIONS) == set()
    assert set(DEVIATIONS) - outcome.failed == set(), "these agree now: remove them from the list"
    assert len(outcome.passed) >= LOKY_PASSES - len(DEVIATIONS)


@pytest.mark.agree
@pytest.mark.timeout(600)
def test_our_tests_pass_on_the_oldest_joblib_we_take(tmp_path: Path):
    """1.4.0 has all that is asked for; 1.3 has no `generator_unordered`, nor numpy 2."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    oldest = extras["joblib"][0].replace(">=", "==")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, "--disable-pip-version-check", oldest], check=True, timeout=120)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_joblib.py"]
    done = subprocess.run(
        [sys.executable, *tests],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        timeout=450,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
