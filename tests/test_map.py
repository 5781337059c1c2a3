"""One map: items in, outcomes out, with a driver that does what the test says."""

from __future__ import annotations

import pickle
import threading
import time

import pytest

from hookpool import _map
from hookpool._definitions import Ledger
from hookpool._map import FEED_SECONDS, LARGEST_FEED, Map
from hookpool._wire import Form


class Driver:
    """Takes blocks, and finishes their tasks when told."""

    def __init__(self):
        self.tasks = []
        self.feeds = []
        self.abandoned = []

    def submit_block(self, block):
        block.first = len(self.tasks)
        self.tasks += [block] * len(block)
        self.feeds.append(len(block))

    def before_wait(self):
        pass

    def worth_waking(self, group):
        return 50

    def abandon(self, first, stop, kill):
        self.abandoned.append((first, stop, kill))

    def finish(self, number, *values):
        self.tasks[number].set_values(number, list(values))

    def fail(self, number, error):
        self.tasks[number].set_exception(number, error)


@pytest.fixture
def driver():
    return Driver()


def start(driver, items, most=None, refill=None, deadline=None):
    run = Map(driver, Ledger(), abs, 0, ((item,) for item in items))
    run.feed(most)
    return run.results(deadline, refill)


def test_items_are_handed_over_in_growing_groups(driver):
    start(driver, range(10_000))

    assert driver.feeds[:4] == [1, 2, 4, 8]
    assert max(driver.feeds) == LARGEST_FEED
    assert sum(driver.feeds) == 10_000


@pytest.mark.parametrize(("items", "feeds"), [(8, [8]), (50, [50]), (200, [50, 100, 50])])
def test_what_is_at_hand_is_handed_over_in_groups_worth_waking_a_worker_for(driver, items, feeds):
    run = Map(driver, Ledger(), abs, 0, iter(range(items)), is_lone=True)
    run.feed(None, are_at_hand=True)

    assert driver.feeds == feeds


def test_results_come_in_order_whatever_the_order_they_arrive_in(driver):
    results = start(driver, range(3))
    for index in (2, 0, 1):
        driver.finish(index, index * 10)

    assert list(results) == [0, 10, 20]
    assert driver.abandoned == []


def test_a_consumer_that_sleeps_is_woken(driver):
    results = start(driver, range(50))
    thread = threading.Thread(target=lambda: [driver.finish(n, n) for n in range(50)])
    thread.start()

    assert list(results) == list(range(50))
    thread.join()


def refilled(make):
    """One list, or what `make` makes of it, again and again, changed each time."""
    buffer = [0]
    for n in range(50):
        buffer[0] = n
        yield make(buffer)


@pytest.mark.parametrize(
    "make",
    [lambda one: one, lambda one: (one,), lambda one: 0 if one[0] in (0, 1, 9, 25) else one],
    ids=["bare", "in-a-tuple", "after-numbers"],
)
@pytest.mark.parametrize("is_lone", [True, False])
def test_each_call_gets_what_its_item_was_when_it_was_taken(driver, make, is_lone):
    items = refilled(make)
    Map(driver, Ledger(), repr, 0, items if is_lone else zip(items), is_lone).feed(None)

    calls = []
    for block in dict.fromkeys(driver.tasks):
        loaded = [pickle.loads(one) if type(one) is bytes else one for one in block.payloads]
        calls += [(one,) for one in loaded] if block.form is Form.LONE else loaded
    assert calls == [(pickle.loads(pickle.dumps(item)),) for item in refilled(make)]


def test_an_iterable_that_raises_among_what_is_pickled_at_once_says_so(driver):
    def items():
        yield from ([n] for n in range(20))
        raise LookupError("of the iterable")

    with pytest.raises(LookupError, match="of the iterable"):
        Map(driver, Ledger(), repr, 0, items(), is_lone=True).feed(None)


def test_with_a_buffer_one_item_is_taken_for_each_value(driver):
    taken = []
    items = (taken.append(n) or n for n in range(100))
    results = start(driver, items, most=3, refill=object())
    assert taken == [0, 1, 2]

    driver.finish(0, "a")

    assert next(results) == "a"
    assert taken == [0, 1, 2, 3]


class Again:
    """Items that begin anew once they have ended, as those of a data set may."""

    def __init__(self, count):
        self.asked, self.count = 0, count

    def __iter__(self):
        return self

    def __next__(self):
        self.asked += 1
        if self.asked > 100:
            raise AssertionError("asked for ever")
        if self.asked % (self.count + 1) == 0:
            raise StopIteration
        return self.asked


@pytest.mark.parametrize("most", [None, 1, 3, 20])
def test_items_that_have_ended_are_not_asked_for_again(driver, most):
    items = Again(4)
    run = Map(driver, Ledger(), abs, 0, items, is_lone=True)
    run.feed(most)
    results = run.results(None, object())
    for number in range(4):
        driver.finish(number, number)
        assert next(results) == number

    assert list(results) == []
    assert items.asked == 5


def test_a_deadline_that_passes_abandons_the_rest(driver):
    results = start(driver, range(2), deadline=time.monotonic() + 0.01)

    with pytest.raises(TimeoutError):
        next(results)
    assert driver.abandoned == [(1, 2, False), (0, 1, False)]


def test_what_has_arrived_is_given_even_after_the_deadline(driver):
    results = start(driver, range(1), deadline=time.monotonic() - 1)
    driver.finish(0, "there")

    assert next(results) == "there"


def test_an_error_comes_in_its_place_and_abandons_the_rest(driver):
    results = start(driver, range(3))
    driver.finish(0, 0)
    driver.fail(1, LookupError())

    assert next(results) == 0
    with pytest.raises(LookupError):
        next(results)
    assert driver.abandoned


def test_ctrl_c_abandons_and_kills(driver):
    results = start(driver, range(3))
    driver.finish(0, 0)
    next(results)

    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    assert {kill for _, _, kill in driver.abandoned} == {True}


def test_a_generator_closed_early_abandons(driver):
    results = start(driver, range(3))
    driver.finish(0, 0)
    next(results)
    results.close()

    assert {kill for _, _, kill in driver.abandoned} == {False}


def test_the_last_items_are_abandoned_first(driver):
    results = start(driver, range(1000))
    driver.finish(0, 0)
    next(results)
    results.close()

    firsts = [first for first, _, _ in driver.abandoned]
    assert len(firsts) > 1
    assert firsts == sorted(firsts, reverse=True)


def test_values_that_arrive_together_come_one_by_one(driver):
    results = start(driver, range(7))
    driver.finish(3, 30, 40, 50)
    driver.finish(0, 0)
    driver.finish(1, 10, 20)
    driver.finish(6, 60)

    assert list(results) == [0, 10, 20, 30, 40, 50, 60]


def test_a_slow_iterable_is_handed_over_in_small_groups(driver, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_map.time, "monotonic", lambda: now[0])

    def slow():
        for n in range(40):
            now[0] += FEED_SECONDS
            yield n

    start(driver, slow())

    assert max(driver.feeds) <= 2
    assert sum(driver.feeds) == 40


def test_what_has_been_yielded_is_forgotten(driver):
    items = iter(range(1000))
    run = Map(driver, Ledger(), abs, 0, ((item,) for item in items))
    run.feed(2)
    results = run.results(None, object())
    for n in range(900):
        driver.finish(n, n)
        assert next(results) == n

    assert len(run._handed) <= 4
    results.close()


@pytest.mark.parametrize(
    ("items", "is_lone", "form", "payload"),
    [
        ([(1, "a"), (None, 2.5)], False, Form.PLAIN, (1, "a")),
        ([(1, (2, b"c")), 3], True, Form.LONE, (1, (2, b"c"))),
        ([[1]], True, Form.ARGS, None),
        ([(True, object())], False, Form.ARGS, None),
        (["x" * 10_000], True, Form.ARGS, None),
        ([(((((1,),),),),)], True, Form.ARGS, None),
    ],
)
def test_only_calls_that_refer_to_nothing_share_a_pickle(driver, items, is_lone, form, payload):
    run = Map(driver, Ledger(), abs, 0, iter(items), is_lone)
    run.feed(None)

    assert driver.tasks[0].form is form
    assert payload is None or driver.tasks[0].payloads[0] == payload


def test_an_item_that_does_not_pickle_has_no_task(driver):
    results = start(driver, [1, threading.Lock(), 3])
    assert len(driver.tasks) == 2
    driver.finish(0, 1)

    assert next(results) == 1
    with pytest.raises(Exception, match="lock"):
        next(results)
