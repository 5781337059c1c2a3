"""CPython's own multiprocessing tests pass in the start method "hookpool".

All of them with `make agree`; here a subset that takes seconds. `agree_multiprocessing.DESELECTED`
lists the few that contradict a promise of ours, each with that promise.
"""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

from tests.helpers import ROOT, run_python

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test._test_multiprocessing") is None,
    reason="this interpreter comes without its tests",
)

#: Classes without tests that wait for seconds on purpose.
QUICK = [
    "TestCloseFds",
    "TestInitializers",
    "TestManagerExceptions",
    "TestPoolNotLeakOnFailure",
    "TestSimpleQueue",
    "TestStartMethod",
    "WithManagerTestContainers",
    "WithManagerTestMyManager",
    "WithProcessesTestArray",
    "WithProcessesTestConnection",
    "WithProcessesTestHeap",
    "WithProcessesTestListener",
    "WithProcessesTestLock",
    "WithProcessesTestLogging",
    "WithProcessesTestPicklingConnections",
    "WithProcessesTestPoolWorkerErrors",
    "WithProcessesTestSemaphore",
    "WithProcessesTestSharedCTypes",
    "WithProcessesTestSharedMemory",
    "WithProcessesTestSubclassingProcess",
    "WithProcessesTestValue",
]

#: A trial context reached that much; what is skipped, the suite skips for other start methods too.
PASSED_AT_LEAST = 277


def run_suite(binding: str, *classes: str, timeout: float) -> tuple[int, int, int]:
    said = run_python(
        "-m", "tests.agree_multiprocessing", binding, *classes, cwd=ROOT, timeout=timeout
    )
    numbers = re.findall(r"\d+", said.splitlines()[-1])
    ran, passed, skipped = map(int, numbers)
    assert ran == passed + skipped
    return ran, passed, skipped


@pytest.mark.smoke
@pytest.mark.timeout(120)
def test_a_quick_part_of_the_suite_passes() -> None:
    _, passed, _ = run_suite("default", *QUICK, timeout=110)
    assert passed >= 70


@pytest.mark.agree
@pytest.mark.timeout(900)
@pytest.mark.parametrize("binding", ["default", "context"])
def test_the_whole_suite_passes(binding: str) -> None:
    _, passed, _ = run_suite(binding, timeout=850)
    if sys.version_info >= (3, 13):
        assert passed >= PASSED_AT_LEAST
