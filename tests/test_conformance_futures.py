"""CPython's own tests of process pools, on our executor, for every start method.

The tests come from the running interpreter; some builds leave them out (then there is nothing to
agree with, and the test says so).  What fails must be exactly what `DEVIATIONS` lists, each with
the promise of ours that it contradicts.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from tests.helpers import run_python

pytestmark = [
    pytest.mark.agree,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("test.test_concurrent_futures") is None
        or sys.version_info < (3, 13),
        reason="this interpreter does not ship test.test_concurrent_futures as a package",
    ),
]

#: What fails, and what of DESIGN's contract it contradicts.
KILLED_CHILD = {
    "test_killed_child": "'one failure, one task': a death fails the task that ran, the pool goes "
    "on; with on_worker_death='break' this test passes, see below",
}
DEVIATIONS = {
    "test_max_tasks_per_child_defaults_to_spawn_context": "'the default mp_context is "
    "hookpool's': it replaces workers as safely as spawn does",
    "test_python_finalization_error": "'every wait is bounded or has a wake-up', by one thread: "
    "it forbids the executor its second thread and expects the pool to break; there is no second",
}
#: How many there are in 3.13.0 and how many of them the interpreter's tests skip for a method:
#: those about max_tasks_per_child and reuse on fork, about Windows, about other implementations.
RAN = 63
SKIPPED = {"hookpool": 2, "spawn": 2, "forkserver": 2, "fork": 5}


def run(*arguments):
    out = run_python("-m", "tests.agree_futures", *arguments, timeout=280)
    return json.loads(out[out.rindex("{") :])


def check(result, method, deviations):
    assert set(result["failed"]) == set(deviations)
    assert len(result["failed"]) == len(deviations)
    passed = result["ran"] - len(result["skipped"]) - len(result["failed"])
    least = RAN - SKIPPED[method] - len(deviations)
    # Later releases add tests.
    assert passed == least if sys.version_info[:3] == (3, 13, 0) else passed >= least


@pytest.mark.parametrize(
    "method", [pytest.param("hookpool", marks=pytest.mark.smoke), "spawn", "forkserver", "fork"]
)
def test_the_standard_tests_pass(method):
    check(run(method), method, DEVIATIONS | KILLED_CHILD)


@pytest.mark.parametrize("method", ["hookpool", "spawn", "forkserver", "fork"])
def test_the_tests_about_a_killed_child_pass_when_a_death_breaks_the_pool(method):
    check(run(method, "--break"), method, DEVIATIONS)
