"""Every exception is what the standard library raises, and survives the trip."""

from __future__ import annotations

import inspect
import pickle
import signal
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from hookpool import errors
from tests import odd_errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_pickling(cls):
    error = cls("what happened")
    error.extra = "fact"

    twin = pickle.loads(pickle.dumps(error))

    assert type(twin) is cls
    assert twin.args == error.args
    assert vars(twin) == vars(error)


def test_a_task_that_a_broken_pool_refuses_has_not_run():
    broken = errors.pool_broken_by_death(42, 1)

    refused = errors.refusal(broken)

    assert (str(refused), refused.pid) == (str(broken), 42)
    assert broken.may_have_run
    assert not refused.may_have_run


def test_every_error_is_exported():
    assert sorted([*(cls.__name__ for cls in CLASSES), "RemoteTraceback"]) == errors.__all__


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (TypeError(), (TypeError, pickle.PicklingError)),
        (AttributeError(), (AttributeError, pickle.PicklingError)),
        (RecursionError(), (RecursionError, pickle.PicklingError)),
        (NotImplementedError(), (NotImplementedError, pickle.PicklingError)),
        (KeyError(), (KeyError, pickle.PicklingError)),
        (ValueError(), (ValueError, pickle.PicklingError)),
        (RuntimeError(), (RuntimeError, pickle.PicklingError)),
        (OSError(), (pickle.PicklingError,)),
    ],
)
def test_what_cannot_be_pickled_is_caught_as_any_python_raises_it(error, kinds):
    raised = errors.cannot_pickle("why", error)

    assert all(isinstance(raised, kind) for kind in kinds)
    assert str(raised) == "why"


def test_a_death_names_pid_signal_and_task():
    error = errors.worker_died("task f at app.py:3", 42, -signal.SIGSEGV, running=True)

    assert isinstance(error, BrokenProcessPool)
    assert (error.pid, error.exitcode, error.may_have_run) == (42, -signal.SIGSEGV, True)
    for fact in ("42", "SIGSEGV", "task f at app.py:3"):
        assert fact in str(error)


def test_a_lost_result_says_that_the_task_may_have_run():
    error = errors.worker_died("task f", 42, 1, running=False)

    assert isinstance(error, errors.ResultLost)
    assert error.may_have_run
    assert "exited with code 1" in str(error)


@pytest.mark.parametrize(
    ("exitcode", "text"),
    [(0, "code 0"), (-9, "SIGKILL"), (-250, "signal 250"), (None, "unknown")],
)
def test_exit_codes_read_well(exitcode, text):
    assert text in errors.describe_exit(exitcode)


def test_an_error_raised_twice_is_two_objects_with_one_cause():
    error = errors.initializer_failed(ValueError("no model"))

    twin = errors.again(error)

    assert twin is not error
    assert twin.__cause__ is error.__cause__
    assert isinstance(twin, BrokenExecutor)
    assert "no model" in str(twin)


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_a_pool_that_cannot_start_says_so_whatever_was_raised(name):
    error = odd_errors.make(name)

    failed = errors.initializer_failed(error)
    cannot = errors.worker_cannot_start(3, None, error)

    assert vars(type)["__name__"].__get__(type(error)) in str(failed)
    assert "could not be started: " in str(cannot)
    assert failed.__cause__ is cannot.__cause__ is error
    assert type(errors.cannot_pickle("why", error)) is errors.CannotPickle


def test_a_pool_whose_start_says_nothing_has_an_error_that_reads_well():
    assert str(errors.initializer_failed(None)).startswith("the initializer raised; the pool")
    assert "raised NotImplementedError; the" in str(
        errors.initializer_failed(NotImplementedError())
    )
