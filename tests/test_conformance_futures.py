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

DEVIATIONS = {
    "test_killed_child": "the death of a worker fails the task it ran, and nothing else; with "
    "on_worker_death='break' this test passes, see below",
    "test_max_tasks_per_child_defaults_to_spawn_context": "the default context is hookpool's, "
    "which replaces workers as safely as spawn does",
    "test_python_finalization_error": "it forbids the executor its second thread and expects "
    "the pool to break: there is no second thread, so everything works",
}
#: Fails whenever no worker was ready within the microseconds between submit and shutdown.
MAY_FAIL = {
    "test_cancel_futures": "cancel() is true until a worker has claimed the task: shutdown with "
    "cancel_futures cancels all that is not running, where the test counts on a started one",
}


def run(*arguments):
    out = run_python("-m", "tests.agree_futures", *arguments, timeout=280)
    return json.loads(out[out.rindex("{") :])


@pytest.mark.parametrize("method", ["hookpool", "spawn", "forkserver", "fork"])
def test_the_standard_tests_pass(method):
    result = run(method)

    assert result["ran"] >= 60
    assert set(result["failed"]) - set(MAY_FAIL) == set(DEVIATIONS)
    assert len(result["failed"]) <= 4


@pytest.mark.parametrize("method", ["hookpool", "spawn", "forkserver", "fork"])
def test_the_tests_about_a_killed_child_pass_when_a_death_breaks_the_pool(method):
    result = run(method, "--break")

    assert set(result["failed"]) - set(MAY_FAIL) == set(DEVIATIONS) - {"test_killed_child"}
