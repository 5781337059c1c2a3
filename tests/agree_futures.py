"""Run CPython's own tests of process pools on `HookPoolExecutor`; a program, not a test module.

``python -m tests.agree_futures METHOD [--break]`` takes `test.test_concurrent_futures` from the
running interpreter, puts our executor in the place of theirs, and prints one JSON line: how many
tests ran, and which of them were skipped or failed.
"""

from __future__ import annotations

import json
import sys
import unittest
from collections.abc import Callable
from concurrent import futures
from importlib import import_module
from typing import Any

from test.support.script_helper import assert_python_ok
from test.test_concurrent_futures import util

import hookpool
from tests.processes import wait_until

MODULES = ("as_completed", "deadlock", "init", "process_pool", "shutdown", "wait")
MIXINS = {"fork": "Fork", "spawn": "Spawn", "forkserver": "Forkserver", "hookpool": "Spawn"}
OURS = "from hookpool import HookPoolExecutor as ProcessPoolExecutor"


class NoQueue:
    """Their shutdown tests join the feeder thread of a queue that we do not have."""

    def join_thread(self) -> None:
        """There is none."""


class ProcessPoolExecutor(hookpool.HookPoolExecutor):
    """Ours under their name, since their tests write it into the source of child programs."""

    _call_queue = NoQueue()
    on_worker_death = "replace"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"on_worker_death": self.on_worker_death, **kwargs})


def cases(method: str) -> unittest.TestSuite:
    """Their process-pool test cases for one start method."""
    mixin = getattr(util, f"ProcessPool{MIXINS[method]}Mixin")
    mixin.executor_type = futures.ProcessPoolExecutor = ProcessPoolExecutor
    mixin.ctx = method
    suite = unittest.TestSuite()
    for name in MODULES:
        module = import_module(f"test.test_concurrent_futures.test_{name}")
        if name == "shutdown":
            module.assert_python_ok = run_with_ours
        for case in vars(module).values():
            if (
                isinstance(case, type)
                and issubclass(case, unittest.TestCase)
                and mixin in case.mro()
            ):
                if "test_cancel_futures" in dir(case):
                    case.test_cancel_futures = when_one_has_begun(case.test_cancel_futures)
                suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    return suite


def when_one_has_begun(test: Callable[[Any], None]) -> Callable[[Any], None]:
    """Their test of ``shutdown(cancel_futures=True)``, not before a worker has begun a task.

    It wants one of its tasks to be done in the end. Theirs cannot cancel what is in the queue of
    the workers; ours cancels all that no worker has claimed, which may be all that there is.
    """

    def wrapped(self: Any) -> None:
        submit, shutdown = self.executor.submit, self.executor.shutdown
        kept: list[futures.Future[Any]] = []

        def submit_and_keep(*args: Any) -> futures.Future[Any]:
            kept.append(submit(*args))
            return kept[-1]

        def shutdown_in_time(**options: bool) -> None:
            wait_until(lambda: kept[0].running() or kept[0].done(), 60)
            shutdown(**options)

        self.executor.submit, self.executor.shutdown = submit_and_keep, shutdown_in_time
        try:
            test(self)
        finally:
            del self.executor.submit, self.executor.shutdown

    return wrapped


def run_with_ours(flag: str, source: str, **more: object) -> object:
    """Run their child program with our executor, which isolated mode would not find."""
    source = source.replace("from concurrent.futures import ProcessPoolExecutor", OURS)
    return assert_python_ok(flag, source, **{"__isolated": False, **more})


def main() -> None:
    """See the module."""
    if "--break" in sys.argv:
        ProcessPoolExecutor.on_worker_death = "break"
    result = unittest.TextTestRunner(stream=sys.stderr).run(cases(sys.argv[1]))
    names = {
        "skipped": [test.id().split(".")[-1] for test, _ in result.skipped],
        "failed": [test.id().split(".")[-1] for test, _ in result.failures + result.errors],
    }
    sys.stdout.write(json.dumps({"ran": result.testsRun, **names}) + "\n")


if __name__ == "__main__":
    main()
