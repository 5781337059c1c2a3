"""Run CPython's own tests of process pools on `HookPoolExecutor`; a program, not a test module.

``python -m tests.agree_futures METHOD [--break]`` takes `test.test_concurrent_futures` from the
running interpreter, puts our executor in the place of theirs, and prints one JSON line: how many
tests ran, and which of them were skipped or failed.
"""

from __future__ import annotations

import json
import sys
import unittest
from concurrent import futures
from importlib import import_module

from test.support.script_helper import assert_python_ok
from test.test_concurrent_futures import util

import hookpool

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
                suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    return suite


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
