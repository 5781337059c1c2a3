"""A program, not a test: CPython's own multiprocessing tests with the start method "hookpool".

`python -m tests.agree_multiprocessing BINDING [CLASS...]` runs the suite of the interpreter that
runs it, or the named classes of it, and says how many tests ran, passed and were skipped. Binding
"default" has the tests call what `multiprocessing` has; "context" what `get_context` returns has.

Processes of these tests import this module to find the test classes: it must be importable, and do
its work whenever it is imported.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import unittest

import hookpool  # noqa: F401 - registers the context
from hookpool.context import CONTEXT

# The tests take hold of `multiprocessing.Queue` and others when they are imported.
multiprocessing.get_context("hookpool")

from test import support  # noqa: E402

# Asks by making a lock, in every process that imports the suite: of the hundred that
# `test_many_processes` kills while they start, one leaves the name of its lock behind.
support.skip_if_broken_multiprocessing_synchronize = lambda: None

from test import _test_multiprocessing as suite  # noqa: E402

#: By test: the promise of ours that it contradicts. Our own tests show what we do instead.
DESELECTED = {
    "TestFlags.test_flags": (
        "runs `get_context('hookpool')` in a program that does not import hookpool; "
        "see test_launch.test_interpreter_flags_do_not_hide_us_from_the_child"
    ),
    "TestNoForkBomb.test_noforkbomb": "expects that a main file without a guard is an error",
    "WithProcessesTestPoolWorkerErrors.test_unpickleable_result": (
        "expects that a lambda cannot be sent back"
    ),
    # No promise of ours: a pool of threads, which the test stops before they begin, or else waits
    # for their sleep of five minutes.
    "WithThreadsTestPool.test_terminate": "a race of the test with its own threads",
}

#: In the environment, since the processes of the tests import this module too.
BINDING = "HOOKPOOL_AGREE_BINDING"


def bind_to_the_context() -> None:
    for name in vars(suite.ProcessesMixin):
        if name == "Process":
            suite.ProcessesMixin.Process = suite.ManagerMixin.Process = CONTEXT.Process
        elif not name.startswith("_") and hasattr(CONTEXT, name):
            setattr(suite.ProcessesMixin, name, staticmethod(getattr(CONTEXT, name)))


def deselect() -> None:
    for test, reason in DESELECTED.items():
        case, _, method = test.partition(".")
        if hasattr(globals().get(case), method):
            setattr(
                globals()[case], method, unittest.skip(f"deselected: {reason}")(lambda _: None)
            )


if os.environ.get(BINDING) == "context":
    bind_to_the_context()
suite.install_tests_in_module_dict(globals(), "hookpool")
deselect()


def main(binding: str, classes: list[str]) -> int:
    if os.environ.get(BINDING) != binding:
        os.environ[BINDING] = binding
        os.execv(
            sys.executable, [sys.executable, "-m", "tests.agree_multiprocessing", *sys.argv[1:]]
        )
    import tests.agree_multiprocessing as here  # by the name under which children import it

    loader = unittest.defaultTestLoader
    # Older versions have fewer classes.
    wanted = [f"{here.__name__}.{name}" for name in classes if hasattr(here, name)]
    found = loader.loadTestsFromNames(wanted) if wanted else loader.loadTestsFromModule(here)
    result = unittest.TextTestRunner(sys.stderr, verbosity=2).run(found)
    passed = result.testsRun - len(result.skipped) - len(result.failures) - len(result.errors)
    sys.stdout.write(f"{result.testsRun} run, {passed} passed, {len(result.skipped)} skipped\n")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
