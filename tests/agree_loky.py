"""Get loky's own tests and run them on hookpool, which takes loky's place under its names.

The source archive is downloaded into `build/` (never copied into this repository); the tests run
in a process of their own, with `tests/standin` on the path: a package called `loky` that hands out
hookpool's executor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.archives import archive

VERSION = "3.7.0"
ROOT = Path(__file__).parents[1]
STANDIN = ROOT / "tests" / "standin"


class Results(NamedTuple):
    """Names of tests by what became of them."""

    passed: set[str]
    failed: set[str]
    skipped: set[str]


def unpack(folder: Path) -> Path:
    """Lay out loky's tests in `folder`, without loky."""
    with tarfile.open(archive("loky", VERSION)) as tar:
        tar.extractall(folder, filter="data")
    root = folder / f"loky-{VERSION}"
    (root / "loky").rename(root / "not-on-the-path")
    (root / "pytest.ini").write_text("[pytest]\n")  # none of the settings of wherever this runs
    return root


def run(folder: Path, file: str, timeout: float) -> Results:
    """Run one file of the tests."""
    root, report = unpack(folder), folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "loky_tests_plugin", "--rootdir", str(root), f"--junitxml={report}"]
    # The log level: their default has every worker of every test tell its life.
    command += ["--loky-verbosity", "50", "--skip-high-memory", "--timeout=100", f"tests/{file}"]
    path = os.pathsep.join(map(str, [root, STANDIN, ROOT]))
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert report.exists(), f"no report: {done.stdout}{done.stderr}"
    return _results(report)


def _results(report: Path) -> Results:
    results = Results(set(), set(), set())
    for case in ElementTree.parse(report).iter("testcase"):
        name, tags = case.get("name", ""), {child.tag for child in case}
        if tags & {"failure", "error"}:
            results.failed.add(name)
        elif "skipped" in tags:
            results.skipped.add(name)
        else:
            results.passed.add(name)
    # A test whose clean-up fails comes twice.
    return results._replace(passed=results.passed - results.failed)
