"""From a result row to the outcome a caller sees."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import CancelledError

import pytest

from hookpool import _task, errors, reduction
from hookpool._future import HookFuture, RebuildInterrupted
from hookpool._raised import cause_of
from hookpool._task import (
    Block,
    Rows,
    Task,
    Values,
    describe,
    end_of_run,
    name_of,
    rebuilt,
    resolve,
    resolve_here,
)
from hookpool._wire import Form, ResultRow, Status
from tests import odd_errors
from tests.helpers import AtUnpickle


class Pool:
    """Nobody waits for its futures."""

    thread = None

    def note_asked(self):
        pass


def make_task(function=len, definition=None, form=Form.ARGS, payload=b""):
    return Task(HookFuture(Pool()), function, definition, form, payload, (), 0)


def outcome(status, payload, function=len, resolve=resolve):
    task = make_task(function)
    resolve(task, ResultRow(0, status, 1, payload))
    error = task.future.exception(0)
    return ("value", task.future.result(0)) if error is None else ("error", error)


class Consumer:
    """Remembers what it was told."""

    def __init__(self):
        self.values = {}
        self.errors = {}

    def take_values(self, index, values):
        self.values[index] = values

    def take_error(self, index, error):
        self.errors[index] = error


def make_block(consumer, size, first=0, index=0):
    block = Block(consumer, index, len, None, Form.PLAIN, [()] * size, (), 0)
    block.first = first
    return block


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


@pytest.mark.parametrize("how", [resolve, resolve_here])
@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_whatever_a_task_raised_gets_it(name, how):
    _, error = outcome(Status.RAISED, reduction.dumps((odd_errors.make(name), "where")), len, how)

    assert type(error) is type(odd_errors.make(name))
    assert "where" in str(cause_of(error))


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_whatever_is_raised_while_things_are_rebuilt_fails_the_task_only(name):
    kind = type(odd_errors.make(name))

    _, result = outcome(Status.VALUE, reduction.dumps(odd_errors.AtLoad(name)))
    _, arguments = outcome(Status.UNREADABLE, reduction.dumps((odd_errors.make(name), "where")))

    for error in (result, arguments):
        assert type(error) is errors.CannotUnpickle
        assert vars(type)["__name__"].__get__(kind) in str(error)
        assert type(error.__cause__) is kind


@pytest.mark.parametrize("how", [resolve, resolve_here])
def test_an_outcome_that_cannot_be_put_into_words_is_one_all_the_same(how, monkeypatch):
    """The task is in no table any more: nobody else would ever settle it."""
    monkeypatch.setattr(_task, "_told", lambda *_: 1 / 0)

    _, error = outcome(Status.RAISED, reduction.dumps((KeyError("x"), "where")), len, how)

    assert type(error) is errors.CannotUnpickle
    assert type(error.__cause__) is ZeroDivisionError


@pytest.mark.parametrize("status", [Status.VALUE, Status.RAISED])
def test_what_may_be_an_interrupt_leaves_the_task_to_the_pools_own_thread(status):
    task, calls = make_task(), []
    _calls.append(calls)
    what = AtLoadOnce()
    payload = reduction.dumps(what if status == Status.VALUE else (what, "where"))

    with pytest.raises(RebuildInterrupted):
        resolve_here(task, ResultRow(0, status, 1, payload))

    assert not task.future.done()
    assert calls == ["rebuilt"]


_calls = []


class AtLoadOnce:
    """Raises what Ctrl-C raises when it is unpickled."""

    def __reduce__(self):
        return _interrupt, ()


def _interrupt():
    _calls.pop().append("rebuilt")
    raise KeyboardInterrupt


def test_arguments_that_could_not_be_rebuilt_say_that_the_task_did_not_run():
    _, error = outcome(Status.UNREADABLE, reduction.dumps((ImportError("no such"), "where")))

    assert isinstance(error, errors.CannotUnpickle)
    assert not error.may_have_run
    assert isinstance(error.__cause__, ImportError)


def test_a_result_that_there_is_no_memory_for_says_that_the_task_ran():
    _, error = outcome(Status.NO_ROOM, b"")

    assert type(error) is MemoryError
    assert "the task has run" in str(error)


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
    assert isinstance(rebuilt(reduction.dumps(("no exception", ""))), errors.CannotUnpickle)


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_whatever_an_initializer_raised_is_rebuilt_so(name):
    error = rebuilt(reduction.dumps((odd_errors.make(name), "where")))

    assert type(error) is type(odd_errors.make(name))
    assert "where" in str(cause_of(error))


def test_what_an_initializer_raised_may_exit_when_it_is_rebuilt():
    """Ctrl-C comes to the main thread only: what looks like it elsewhere is the user's."""
    made = []
    data = reduction.dumps((AtUnpickle(sys.exit), "where"))
    thread = threading.Thread(target=lambda: made.append(rebuilt(data)))
    thread.start()
    thread.join()

    assert type(made[0]) is errors.CannotUnpickle
    assert type(made[0].__cause__) is SystemExit
    with pytest.raises(SystemExit):
        rebuilt(data)


def test_the_cause_of_what_an_initializer_raised_is_kept():
    error = ValueError("no model")
    error.__cause__ = KeyError("inner")

    made = rebuilt(reduction.dumps((error, "where")))

    assert type(made.__cause__) is KeyError
    assert "where" in str(made.__cause__.__cause__)


def test_tasks_are_named_by_function_and_place():
    assert describe(make_task(len)) == "task len"
    assert "<lambda> at test_task.py:" in name_of(lambda: None)
    assert name_of(3) == "3"


def test_callables_are_named_whatever_their_attributes_are():
    class Named(odd_errors.Proxy):
        def __repr__(self):
            return "proxy"

    assert name_of(Named()) == "proxy"
    assert name_of(odd_errors.ExitingText) == "ExitingText"
    assert name_of(Exiting()) == "<Exiting object>"
    assert name_of(OfNamelessKind()) == "<OfNamelessKind object>"


class Exiting:
    def __getattr__(self, name):
        raise SystemExit(name)


class Nameless(type):
    def __getattribute__(cls, name):
        raise RuntimeError(name)


class OfNamelessKind(Exiting, metaclass=Nameless):
    pass


def test_values_of_a_block_stay_together():
    consumer = Consumer()
    block = make_block(consumer, 3, first=100, index=10)
    arrived = Values(101, ["a", "b"])
    arrived.works += [block, block]

    arrived.settle()

    assert consumer.values == {11: ["a", "b"]}


def test_values_of_several_blocks_stay_together_by_block():
    consumer = Consumer()
    one, other = (
        make_block(consumer, 2, first=5, index=0),
        make_block(consumer, 9, first=7, index=2),
    )
    arrived = Values(6, ["b", "c", "d", "e"])
    arrived.works += [one, other, None, other]

    arrived.settle()

    assert consumer.values == {1: ["b"], 2: ["c", "d", "e"]}


def test_values_of_a_block_whose_last_is_wanted_no_more_come_one_by_one():
    consumer = Consumer()
    block = make_block(consumer, 3)
    arrived = Values(0, ["a", "b", "c"])
    arrived.works += [block, block, None]

    arrived.settle()

    assert consumer.values == {0: ["a"], 1: ["b"]}


def test_values_find_their_tasks_whatever_stands_between_them():
    consumer = Consumer()
    tasks = [make_task(), make_task()]
    arrived = Values(0, ["a", "gone", "b", "c", "d"])
    arrived.works += [tasks[0], None, make_block(consumer, 2, first=2), tasks[1], None]
    arrived.works[3:] = [make_block(consumer, 1, first=3, index=7), tasks[1]]

    arrived.settle()

    assert [task.future.result(0) for task in tasks] == ["a", "d"]
    assert consumer.values == {0: ["b"], 7: ["c"]}


def test_what_an_interrupt_kept_in_the_table_is_not_settled():
    Values(0, [1, 2]).settle()
    Rows([ResultRow(0, Status.VALUE, 1, reduction.dumps(1))]).settle()


def test_a_block_tells_who_failed_and_who_was_cancelled():
    consumer = Consumer()
    block = make_block(consumer, 3, first=5, index=1)

    block.set_exception(6, KeyError())
    block.set_cancelled(7)

    assert type(consumer.errors[2]) is KeyError
    assert type(consumer.errors[3]) is CancelledError


def test_a_run_ends_where_the_function_or_the_form_changes():
    one, other = object(), object()
    table = {
        0: make_task(definition=one),
        1: make_task(definition=one),
        2: make_task(definition=other),
        3: make_task(definition=other, form=Form.PLAIN),
        4: make_block(Consumer(), 4, first=4),
    }
    table |= {5: table[4], 6: table[4]}

    ends = [end_of_run(table, start, 7) for start in range(7)]

    assert ends == [2, 2, 3, 4, 7, 7, 7]
