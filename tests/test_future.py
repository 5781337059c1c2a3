"""A future that makes its condition late behaves as one that has it from the start."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ALL_COMPLETED, CancelledError, InvalidStateError, as_completed, wait
from concurrent.futures._base import LOGGER

import pytest

from hookpool import _future
from hookpool._future import HookFuture, settle, settle_one
from tests import odd_errors
from tests.helpers import exit_code_of_fork, held_elsewhere, no_collections


class Pool:
    """Says of every task what it is told to say."""

    thread = None

    def __init__(self, cancels=False, runs=False):
        self.cancels = cancels
        self.runs = runs
        self.helped = []
        self.asked = 0

    def note_asked(self):
        self.asked += 1

    def cancel(self, number):
        return self.cancels

    def is_running(self, number):
        return self.runs

    def help(self, number, timeout):
        self.helped.append((number, timeout))


def make(number=1, **answers):
    future = HookFuture(Pool(**answers))
    future._number = number
    return future


def is_bare(future):
    return "_condition" not in future.__dict__


def test_a_future_that_is_settled_before_it_is_asked_never_has_a_condition():
    future = make()
    settle([(future, 7)])

    assert future.done()
    assert not future.cancelled()
    assert future.result() == 7
    assert future.exception() is None
    assert is_bare(future)
    assert not future._pool.asked


def test_a_future_that_somebody_waits_for_wakes_it():
    future = make()
    got = []
    thread = threading.Thread(target=lambda: got.append(future.result(timeout=20)))
    thread.start()
    settle([(future, 7)])
    thread.join()

    assert got == [7]


def test_all_that_look_like_a_standard_future_see_one():
    first, second = make(), make()
    settle([(first, 1)])
    called = []
    second.add_done_callback(called.append)
    assert second.has_callbacks()
    settle([(second, 2)])

    assert called == [second]
    assert wait([first, second], return_when=ALL_COMPLETED).not_done == set()
    assert {future.result() for future in as_completed([first, second])} == {1, 2}
    assert "finished" in repr(first)


def test_what_a_callback_raises_is_logged_and_the_next_one_is_called(caplog):
    future = make()
    future._pool.thread = threading.current_thread()  # where nothing may come through
    called = []
    for what in (ValueError("plain"), SystemExit("exit"), KeyboardInterrupt("ctrl-c")):
        future.add_done_callback(lambda _, what=what: (called.append(what), _raise(what)))
    settle([(future, 1)])

    assert len(called) == 3
    assert len(caplog.records) == 3


@pytest.mark.parametrize("name", odd_errors.NAMES)
@pytest.mark.parametrize("in_pool", [True, False])
def test_what_cannot_be_logged_of_a_callback_is_let_go(logging_fails, name, in_pool):
    future = make()
    if in_pool:
        future._pool.thread = threading.current_thread()
    called = []
    future.add_done_callback(lambda _: odd_errors.throw(name))
    future.add_done_callback(called.append)

    settle([(future, 1)])

    assert called == [future]


def test_an_exit_while_a_callback_is_logged_ends_no_thread_of_the_pool(monkeypatch):
    """Nor is Ctrl-C kept from a user's thread."""
    monkeypatch.setattr(LOGGER, "exception", lambda *_: _raise(SystemExit()))
    inside, outside = make(), make()
    inside._pool.thread = threading.current_thread()
    for future in (inside, outside):
        future.add_done_callback(lambda _: _raise(ValueError()))

    settle([(inside, 1)])
    with pytest.raises(SystemExit):
        settle([(outside, 1)])


def test_ctrl_c_in_a_callback_comes_through_in_a_users_thread():
    future = make(cancels=True)
    future.add_done_callback(lambda _: _raise(KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        future.cancel()


def _raise(error):
    raise error


def test_asyncio_takes_it():
    future = make()

    async def main():
        wrapped = asyncio.wrap_future(future)
        asyncio.get_running_loop().call_soon(settle, [(future, 3)])
        return await wrapped

    assert asyncio.run(main()) == 3


def test_waiters_that_come_while_it_is_settled_miss_nothing():
    for _ in range(300):
        futures = [make() for _ in range(20)]
        thread = threading.Thread(
            target=lambda futures=futures: [settle([(f, n)]) for n, f in enumerate(futures)]
        )
        thread.start()
        assert {f.result() for f in as_completed(futures, timeout=20)} == set(range(20))
        thread.join()


def test_a_result_that_the_user_has_set_counts():
    future = make()
    future.set_result("theirs")
    settle([(future, "ours")])
    future.settle_exception(KeyError())

    assert future.result() == "theirs"
    with pytest.raises(InvalidStateError):
        future.set_result("again")


def test_a_result_that_the_user_has_set_counts_whatever_it_says_of_its_class():
    class Hidden:
        @property
        def __class__(self):
            raise RuntimeError("no class")

    future, value = make(), Hidden()
    future.set_result(value)
    settle([(future, "ours")])
    future.settle_exception(KeyError())

    assert future.result() is value


def test_what_is_settled_twice_keeps_its_first_value():
    future = make()
    settle([(future, "first")])
    settle_one(future, "second")

    assert future.result() == "first"


def test_an_exception_is_raised_and_returned():
    future = make()
    future.settle_exception(KeyError("x"))

    with pytest.raises(KeyError):
        future.result()
    assert isinstance(future.exception(), KeyError)


def test_who_raises_what_a_future_failed_with_leaves_no_cycle():
    """As in the standard library: its traceback holds no frame that holds the future."""
    future = make()
    future.settle_exception(KeyError("x"))
    with pytest.raises(KeyError):
        future.result()

    gone = weakref.ref(future)
    with no_collections():
        del future
        assert gone() is None


def test_cancel_and_running_are_what_the_pool_says():
    assert make(cancels=True).cancel()
    assert not make(cancels=False).cancel()
    assert make(runs=True).running()
    assert not make(number=None, runs=True).running()


def test_a_cancelled_future_says_so():
    future = make(cancels=True)
    future.cancel()

    assert future.cancelled()
    assert future.done()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()


def test_who_cancels_what_another_is_just_cancelling_hears_the_truth():
    future = make(cancels=False)
    future.note_dropped()

    assert future.cancel()
    assert future.cancelled()
    future.set_cancelled()  # as the other one does now
    assert wait([future], timeout=20).done == {future}


def test_a_finished_future_cannot_be_cancelled():
    future = make(cancels=True)
    settle([(future, 1)])

    assert not future.cancel()
    assert not future.cancelled()


def test_who_waits_helps_first_and_then_waits_for_what_is_left():
    future = make(number=5)

    with pytest.raises(TimeoutError):
        future.result(timeout=0.001)

    [(number, timeout)] = future._pool.helped
    assert (number, timeout) == (5, 0.001)


def test_a_signal_handler_may_ask_between_two_steps_of_settling():
    """The handler's callback is called, not forgotten: settling looks twice for a condition."""
    called = []

    class Interrupting(HookFuture):
        """Runs a "handler" when its state is set for the first time."""

        @property
        def __dict__(self):
            return attributes

    class Attributes(dict):
        def __setitem__(self, name, value):
            super().__setitem__(name, value)
            if name == "_state" and not called:
                called.append("handler")
                future.add_done_callback(called.append)

    future = Interrupting(Pool())
    attributes = Attributes()
    settle([(future, 1)])

    assert called == ["handler", future]


def test_a_future_does_not_keep_its_value_alive():
    class Value:
        pass

    future = make()
    value = Value()
    ref = weakref.ref(value)
    settle([(future, value)])
    del value
    assert ref() is not None
    del future
    gc.collect()

    assert ref() is None


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_that_settled_in_the_parent():
    future = make()
    with held_elsewhere(_future._lock):
        assert exit_code_of_fork(lambda: 7 if future.add_done_callback(str) is None else 1) == 7
