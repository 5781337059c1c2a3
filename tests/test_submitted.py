"""A map by a `submit` that somebody has put in the place of the executor's."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from functools import partial

import pytest

from hookpool import HookPoolExecutor
from hookpool._submitted import mapped


class Submit:
    """Makes futures that the test fulfils, or that have their values already."""

    def __init__(self, are_done=True):
        self.futures = []
        self.are_done = are_done

    def __call__(self, fn, *args):
        future = Future()
        self.futures.append(future)
        if self.are_done:
            future.set_result(fn(*args))
        return future


def start(submit, items, deadline=None, buffersize=None):
    return mapped(submit, lambda x: x + 1, zip(items, strict=True), deadline, buffersize)


def test_values_come_in_the_order_of_the_calls():
    submit = Submit(are_done=False)
    results = start(submit, [1, 2])
    submit.futures[1].set_result("second")
    submit.futures[0].set_result("first")

    assert list(results) == ["first", "second"]


def test_without_a_buffersize_all_calls_are_made_at_once_and_else_one_for_each_value():
    everything, some = Submit(), Submit()
    start(everything, range(7))
    results = start(some, itertools.count(), buffersize=3)

    assert len(everything.futures) == 7
    assert len(some.futures) == 3
    assert [next(results), next(results)] == [1, 2]
    assert len(some.futures) == 5


def test_an_error_comes_at_its_place_and_what_has_not_started_is_cancelled():
    submit = Submit(are_done=False)
    results = start(submit, range(3))
    submit.futures[0].set_exception(LookupError("the first"))

    with pytest.raises(LookupError, match="the first"):
        next(results)
    assert [future.cancelled() for future in submit.futures] == [False, True, True]


def test_after_the_deadline_the_call_that_was_waited_for_is_cancelled_as_well():
    submit = Submit(are_done=False)

    with pytest.raises(TimeoutError):
        next(start(submit, range(2), deadline=0.0))
    assert all(future.cancelled() for future in submit.futures)


def test_items_that_cannot_be_had_cancel_the_calls_made_before():
    submit = Submit(are_done=False)

    def items():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        start(submit, items())
    assert submit.futures[0].cancelled()


class Counting(HookPoolExecutor):
    submitted = 0

    def submit(self, fn, /, *args, **kwargs):
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


def test_map_goes_by_the_submit_of_a_subclass():
    with Counting(1) as pool:
        assert list(pool.map(lambda x, y: x * y, [2, 3], [5, 7], chunksize=2)) == [10, 21]
        assert pool.submitted == 2


def test_map_goes_by_a_submit_that_is_the_executors_for_the_time_of_one_map():
    """As progress bars do it: what they add to each future tells how far the map is."""
    done = []
    with HookPoolExecutor(1) as pool:
        own = pool.submit

        def told(*args):
            future = own(*args)
            future.add_done_callback(done.append)
            return future

        pool.submit = told
        assert list(pool.map(lambda x: x + 1, range(5))) == [1, 2, 3, 4, 5]
        assert len(done) == 5
        del pool.submit
        assert list(pool.map(lambda x: x + 1, range(5))) == [1, 2, 3, 4, 5]
        assert len(done) == 5


def test_map_goes_by_a_submit_that_has_been_replaced_in_the_class(monkeypatch):
    own, seen = HookPoolExecutor.submit, []

    def traced(self, fn, /, *args, **kwargs):
        seen.append(args)
        return own(self, partial(fn), *args, **kwargs)

    monkeypatch.setattr(HookPoolExecutor, "submit", traced)
    with HookPoolExecutor(1) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    assert seen == [(-1,), (-2,)]
