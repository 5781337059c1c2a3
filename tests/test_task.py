"""From a result row to the outcome a caller sees."""

from __future__ import annotations

import pytest

from hookpool import errors, reduction
from hookpool._task import Task, describe, rebuilt, resolve
from hookpool._wire import Form, ResultRow, Status


class Sink:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def set_result(self, value, /):
        self.told.append(("value", value))

    def set_exception(self, error, /):
        self.told.append(("error", error))

    def set_cancelled(self):
        self.told.append(("cancelled", None))

    def has_callbacks(self):
        return False


def outcome(status, payload, function=len):
    sink = Sink()
    task = Task(sink, function, None, Form.ARGS, b"", (), 0)
    resolve(task, ResultRow(0, status, 1, payload))
    [told] = sink.told
    return told


def test_a_value_is_rebuilt():
    assert outcome(Status.VALUE, reduction.dumps([1, 2])) == ("value", [1, 2])


def test_what_a_task_raised_gets_the_remote_traceback_as_its_cause():
    kind, error = outcome(Status.RAISED, reduction.dumps((KeyError("x"), "where")))

    assert kind == "error"
    assert type(error) is KeyError
    assert "where" in str(error.__cause__)


def test_a_chain_of_causes_gets_it_at_its_end():
    outer, inner = RuntimeError("outer"), ValueError("inner")
    outer.__cause__ = inner

    _, error = outcome(Status.RAISED, reduction.dumps((outer, "where")))

    assert type(error.__cause__) is ValueError
    assert type(error.__cause__.__cause__) is errors.RemoteTraceback


def test_arguments_that_could_not_be_rebuilt_say_that_the_task_did_not_run():
    _, error = outcome(Status.UNREADABLE, reduction.dumps((ImportError("no such"), "where")))

    assert isinstance(error, errors.CannotUnpickle)
    assert not error.may_have_run
    assert isinstance(error.__cause__, ImportError)


@pytest.mark.parametrize("status", [Status.VALUE, Status.RAISED])
def test_a_result_that_cannot_be_rebuilt_says_that_the_task_ran(status):
    _, error = outcome(status, b"not a pickle")

    assert isinstance(error, errors.CannotUnpickle)
    assert error.may_have_run
    assert "task len" in str(error) or "exception" in str(error)


def test_an_error_from_an_initializer_is_rebuilt_with_its_traceback():
    error = rebuilt(reduction.dumps((ValueError("no model"), "where")))

    assert type(error) is ValueError
    assert "where" in str(error.__cause__)
    assert isinstance(rebuilt(b"nonsense"), errors.CannotUnpickle)


def test_tasks_are_named_by_function_and_place():
    assert describe(len) == "len"
    assert "<lambda> at test_task.py:" in describe(lambda: None)
    assert describe(3) == "3"
