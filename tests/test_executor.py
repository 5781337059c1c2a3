"""`HookPoolExecutor` as its users know `ProcessPoolExecutor`, and what it does beyond."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import math
import multiprocessing
import os
import pickle
import signal
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from operator import add, mul

import pytest

import hookpool
from hookpool import _desk, _driver, errors
from hookpool._future import HookFuture
from hookpool.executor import HookPoolExecutor, get_reusable_executor
from tests import odd_errors
from tests.helpers import (
    Raising,
    exit_code_of_fork,
    held_elsewhere,
    run_as,
    run_python,
    wait_until,
)

CONTEXTS = ["hookpool", "spawn", "forkserver", "fork"]

LOCK = threading.Lock()


@pytest.fixture(scope="module")
def pool():
    """One pool for all tests that do not harm it."""
    with HookPoolExecutor(2) as pool:
        yield pool


def gate(tmp_path, name="gate"):
    """A pair of functions: the first waits in a worker until the second is called here."""
    path = str(tmp_path / name)
    os.mkfifo(path)

    def pass_through():
        with open(path) as end:
            return end.read()

    def open_it():
        with open(path, "w") as end:
            end.write("open")

    return pass_through, open_it


# -- calls ----------------------------------------------------------------------------------------


def test_the_first_tasks_start_in_their_order(tmp_path):
    gates = [gate(tmp_path, name) for name in "abc"]
    with HookPoolExecutor(2) as pool:
        futures = [pool.submit(wait_here) for wait_here, _ in gates]
        try:
            wait_until(lambda: futures[0].running() and futures[1].running(), 10)
        finally:
            for _, let_go in gates:
                let_go()


def test_a_lambda_runs_in_another_process(pool):
    assert pool.submit(lambda: os.getpid()).result() != os.getpid()


def test_arguments_arrive_by_position_and_name(pool):
    assert pool.submit(lambda *a, **k: (a, k), 1, 2, fn=3, self=4).result() == (
        (1, 2),
        {"fn": 3, "self": 4},
    )


def test_a_closure_keeps_what_it_captured(pool):
    factor = 3

    assert pool.submit(lambda x: x * factor, 14).result() == 42


def test_an_importable_function_runs(pool):
    assert pool.submit(mul, 6, 7).result() == 42


def test_a_bound_method_and_a_partial_run(pool):
    import functools

    assert pool.submit("a,b".split, ",").result() == ["a", "b"]
    assert pool.submit(functools.partial(add, 40), 2).result() == 42


def test_a_local_class_keeps_its_identity(pool):
    class Point:
        def __init__(self, x):
            self.x = x

    back = pool.submit(lambda point: Point(point.x + 1), Point(41)).result()

    assert type(back) is Point
    assert back.x == 42


def test_arguments_are_a_snapshot(pool):
    items = [1]
    future = pool.submit(lambda x: list(x), items)
    items.append(2)

    assert future.result() == [1]


def test_two_closures_of_one_factory_stay_two(pool):
    def counter():
        count = 0

        def bump():
            nonlocal count
            count += 1
            return count, os.getpid()

        return bump

    first, second = counter(), counter()
    seen = {}
    for bump in (first, second, first, second):
        count, pid = pool.submit(bump).result()
        seen.setdefault((bump, pid), []).append(count)

    assert all(counts == list(range(1, len(counts) + 1)) for counts in seen.values())


def test_a_function_edited_at_the_owner_is_sent_again(pool):
    rate = [1]

    def taxed(x):
        return x * rate[0]

    assert pool.submit(taxed, 7).result() == 7
    rate[0] = 6
    assert pool.submit(taxed, 7).result() == 42


# -- errors ---------------------------------------------------------------------------------------


def test_an_exception_of_the_task_comes_back_with_the_remote_traceback(pool):
    def fails():
        raise KeyError("here")

    error = pool.submit(fails).exception()

    assert type(error) is KeyError
    assert error.args == ("here",)
    assert isinstance(error.__cause__, errors.RemoteTraceback)
    assert "in fails" in str(error.__cause__)
    assert "_worker" not in str(error.__cause__)


def test_the_cause_of_an_exception_is_kept(pool):
    def fails():
        try:
            int("x")
        except ValueError as error:
            raise RuntimeError("outer") from error

    error = pool.submit(fails).exception()

    assert type(error.__cause__) is ValueError
    assert isinstance(error.__cause__.__cause__, errors.RemoteTraceback)


def test_an_exception_whose_init_takes_other_arguments_costs_nothing_else(pool):
    class Odd(Exception):
        def __init__(self, first, *, second):
            super().__init__(f"{first} {second}")
            self.second = second

    def fails():
        raise Odd(1, second=2)

    error = pool.submit(fails).exception()

    assert type(error) is Odd
    assert error.second == 2
    assert pool.submit(add, 1, 1).result() == 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_task_raises_is_in_the_future_and_the_worker_lives(pool, kind):
    def fails():
        raise kind(3)

    pool.submit(abs, 1).result()
    before = set(pool._processes)

    assert type(pool.submit(fails).exception()) is kind
    assert set(pool._processes) == before


def test_an_argument_that_does_not_pickle_fails_its_future_with_the_path(pool):
    future = pool.submit(print, {"key": [1, threading.Lock()]})

    error = future.exception()
    assert isinstance(error, (pickle.PicklingError, TypeError))
    assert "args[0]" in str(error)
    assert "lock" in str(error)


def test_a_result_that_does_not_pickle_fails_its_future_only(pool):
    error = pool.submit(lambda: (i for i in "abc")).exception()

    assert isinstance(error, (pickle.PicklingError, TypeError))
    assert "generator" in str(error)
    assert error.may_have_run
    assert "<lambda>" in error.task


class _Unreadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ValueError("not to be rebuilt")


def test_an_argument_that_does_not_unpickle_fails_its_future_only(pool):
    error = pool.submit(print, _Unreadable()).exception()

    assert isinstance(error, errors.CannotUnpickle)
    assert isinstance(error, BrokenProcessPool)
    assert not error.may_have_run
    assert "not to be rebuilt" in str(error)
    assert "print" in str(error)


def test_a_result_that_does_not_unpickle_fails_its_future_only(pool):
    error = pool.submit(_Unreadable).exception()

    assert isinstance(error, errors.CannotUnpickle)
    assert error.may_have_run
    assert pool.submit(add, 1, 1).result() == 2


def _column_of(cls):
    return cls.column


def test_the_error_of_a_class_that_cannot_be_made_anew_says_so(pool):
    class Column:
        def __reduce__(self):
            return _column_of, (Table,)  # as the mapped classes of some libraries

    class Table:
        column = Column()

    error = pool.submit(lambda: Table).exception(30)
    assert isinstance(error, errors.CannotUnpickle)
    (note,) = error.__cause__.__notes__
    assert "Table: what was sent of the class does not make one" in note


@pytest.fixture
def bystander(pool, tmp_path):
    """A task that runs all the while, and must not be touched by what becomes of others."""
    wait_here, open_it = gate(tmp_path)
    future = pool.submit(wait_here)
    wait_until(future.running, 20)
    yield
    open_it()
    assert future.result(timeout=20) == "open"


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_exceptions_of_any_class_are_in_the_future_and_nowhere_else(pool, bystander, name):
    kind = type(odd_errors.make(name))

    worker = pool.submit(os.getpid).result(timeout=20)

    raised = pool.submit(odd_errors.throw, name)
    result = pool.submit(odd_errors.AtLoad, name)
    argument = pool.submit(print, odd_errors.AtLoad(name))

    with pytest.raises(kind):
        raised.result(timeout=20)
    for future in result, argument:
        error = future.exception(timeout=20)
        assert type(error) is errors.CannotUnpickle
        assert type(error.__cause__) is kind
        assert kind.__name__ in str(error)
    assert pool.submit(os.getpid).result(timeout=20) == worker


def test_an_exception_that_does_not_travel_costs_no_worker(pool, bystander):
    def fails():
        raise odd_errors.NotSent("what")

    worker = pool.submit(os.getpid).result(timeout=20)

    assert "NotSent: what" in str(pool.submit(fails).exception(timeout=20))
    assert pool.submit(os.getpid).result(timeout=20) == worker


def test_an_exception_that_does_not_travel_says_what_in_it_does_not(pool):
    def fails():
        error = ValueError("what")
        error.held = sys._getframe()
        raise error

    error = pool.submit(fails).exception(timeout=20)

    assert "ValueError: what" in str(error)
    assert "(the exception -> attribute 'held': cannot pickle 'frame' object" in str(error)
    assert error.may_have_run


def test_a_done_callback_may_raise_what_cannot_be_logged(pool, bystander, logging_fails):
    done = threading.Event()

    def fails(future):
        try:
            odd_errors.throw("no notes")
        finally:
            done.set()

    pool.submit(time.sleep, 0.01).add_done_callback(fails)

    assert done.wait(20)
    assert pool.submit(add, 1, 1).result(timeout=20) == 2


@pytest.mark.parametrize("name", ["frozen", "no text", "no notes"])
def test_the_error_of_an_initializer_is_that_whatever_its_class(name):
    with HookPoolExecutor(1, initializer=odd_errors.throw, initargs=(name,)) as pool:
        error = pool.submit(abs, -1).exception(timeout=20)

    kind = type(odd_errors.make(name))
    assert type(error) is errors.InitializerFailed
    assert type(error.__cause__) is kind
    assert kind.__name__ in str(error)


@pytest.mark.parametrize("kind", [odd_errors.NoText, odd_errors.Frozen, SystemExit])
def test_what_an_initializer_is_given_may_raise_anything_when_it_is_pickled(kind):
    with HookPoolExecutor(1, initializer=len, initargs=(Raising(kind("what")),)) as pool:
        error = pool.submit(abs, -1).exception(timeout=20)

    assert type(error) is errors.WorkerCannotStart
    assert type(error.__cause__) is kind


@pytest.mark.parametrize("method", ["hookpool", "spawn"])
@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"initializer": print, "initargs": (1, {"a": LOCK})}, "initargs[1]['a']: "),
        ({"initializer": lambda: LOCK}, "the initializer -> global 'LOCK' "),
        ({"result_reducers": {str: lambda _: LOCK}}, "result_reducers[<type>] -> global 'LOCK' "),
    ],
    ids=["argument", "initializer", "reducers"],
)
def test_what_workers_cannot_be_given_is_named_as_it_was_given(method, arguments, path):
    with LOCK, HookPoolExecutor(1, method, **arguments) as pool:
        error = pool.submit(abs, -1).exception(timeout=20)

    assert type(error) is errors.WorkerCannotStart
    assert f"could not be started: {path}" in str(error)
    assert "standard error" not in str(error)


def test_a_done_callback_may_submit(pool):
    done = concurrent.futures.Future()

    def again(future):
        pool.submit(add, future.result(), 1).add_done_callback(
            lambda last: done.set_result(last.result())
        )

    pool.submit(add, 39, 2).add_done_callback(again)

    assert done.result(timeout=20) == 42


# -- map ------------------------------------------------------------------------------------------


def test_map_keeps_the_order(pool):
    assert list(pool.map(lambda x: x * 2, range(5000))) == [x * 2 for x in range(5000)]


def test_map_takes_several_iterables_and_stops_at_the_shortest(pool):
    assert list(pool.map(pow, (2, 3, 4), (5, 2))) == [32, 9]


def test_map_of_nothing_is_nothing(pool):
    assert list(pool.map(abs, [])) == []


def test_an_error_in_the_middle_of_a_map_comes_at_its_place(pool):
    results = pool.map(lambda x: 10 // x, [5, 2, 0, 1])

    assert next(results) == 2
    assert next(results) == 5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_item_that_does_not_pickle_fails_at_its_place(pool):
    results = pool.map(lambda x: 1, [1, threading.Lock(), 2])

    assert next(results) == 1
    with pytest.raises((pickle.PicklingError, TypeError), match="lock"):
        next(results)


def test_a_map_of_a_function_that_does_not_pickle_fails_at_the_first_item(pool):
    lock = threading.Lock()
    lock.acquire()
    with pytest.raises((pickle.PicklingError, TypeError)):
        list(pool.map(lambda x: lock, [1, 2]))


def test_map_with_a_timeout_raises_in_time(pool, tmp_path):
    wait_here, open_it = gate(tmp_path)
    results = pool.map(lambda f: f(), [wait_here], timeout=0.05)

    with pytest.raises(TimeoutError):
        next(results)
    open_it()


def test_map_with_a_buffer_takes_from_an_endless_iterable(pool):
    taken = []

    def endless():
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    results = pool.map(lambda x: x, endless(), buffersize=4)

    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) == 14
    results.close()


@pytest.mark.parametrize("chunksize", [1, 7, 10_000])
def test_map_with_a_chunksize_gives_the_same(pool, chunksize):
    assert list(pool.map(abs, range(-50, 0), chunksize=chunksize)) == list(range(50, 0, -1))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"chunksize": -1}, ValueError, "chunksize must be >= 1"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": "7"}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_map_checks_its_arguments(pool, arguments, error, text):
    with pytest.raises(error, match=text):
        pool.map(abs, [1], **arguments)


def test_an_iterable_that_raises_raises_from_map(pool):
    def items():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError):
        pool.map(abs, items())


def test_items_of_one_map_do_not_share_objects(pool):
    shared = [0]

    def bump(box):
        box[0] += 1
        return box[0]

    assert list(pool.map(bump, [shared] * 100)) == [1] * 100


def test_a_map_outlives_the_executor_it_came_from():
    before = threading.active_count()
    results = HookPoolExecutor(1).map(lambda x: x + 1, range(20))
    gc.collect()

    assert list(results) == list(range(1, 21))
    wait_until(lambda: threading.active_count() == before, 20)


# -- futures --------------------------------------------------------------------------------------


def test_running_and_cancel_tell_the_truth(tmp_path):
    wait_here, open_it = gate(tmp_path)
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        running = pool.submit(wait_here)
        behind = [pool.submit(abs, -n) for n in range(10)]
        wait_until(running.running, 10)

        assert not running.cancel()
        assert not any(future.running() for future in behind)
        assert all(future.cancel() for future in behind[::2])
        assert all(future.cancelled() for future in behind[::2])
        open_it()
        assert [future.result() for future in behind[1::2]] == [1, 3, 5, 7, 9]
        assert running.result() == "open"
        assert not running.running()
        assert not running.cancel()


def test_two_threads_that_cancel_one_future_hear_the_same(tmp_path, monkeypatch):
    """The second one heard no, between the pool's word and the future's."""
    (wait_here, open_it), answers = gate(tmp_path), []
    say = HookFuture.set_cancelled

    def cancel_once_more(future):
        monkeypatch.setattr(HookFuture, "set_cancelled", say)
        second = threading.Thread(target=lambda: answers.append(future.cancel()))
        second.start()
        second.join(20)
        say(future)

    with HookPoolExecutor(1) as pool:
        pool.submit(wait_here)
        future = pool.submit(abs, -1)
        monkeypatch.setattr(HookFuture, "set_cancelled", cancel_once_more)
        assert future.cancel()
        assert answers == [True]
        assert future.cancelled()
        open_it()


def test_what_shutdown_is_to_cancel_can_be_cancelled_meanwhile(tmp_path, monkeypatch):
    (wait_here, open_it), answers = gate(tmp_path), []
    pool = HookPoolExecutor(1)
    running, pending = pool.submit(wait_here), pool.submit(abs, -1)
    do_chores = pool._driver._do_chores

    def cancel_first():
        if pool._driver._chores:
            answers.append(pending.cancel())
        do_chores()

    wait_until(running.running, 20)
    monkeypatch.setattr(pool._driver, "_do_chores", cancel_first)
    pool.shutdown(wait=False, cancel_futures=True)
    open_it()
    pool.shutdown()

    assert answers[:1] == [True]
    assert pending.cancelled()


def test_a_cancelled_future_wakes_those_who_wait(tmp_path):
    wait_here, open_it = gate(tmp_path)
    with HookPoolExecutor(1) as pool:
        pool.submit(wait_here)
        future = pool.submit(abs, 1)
        called = []
        future.add_done_callback(called.append)

        assert future.cancel()
        assert future.cancel()
        assert wait([future], timeout=10).done == {future}
        assert called == [future]
        with pytest.raises(CancelledError):
            future.result()
        open_it()


def test_as_completed_and_wait_take_our_futures(pool):
    futures = [pool.submit(abs, -n) for n in range(100)]

    assert {f.result() for f in as_completed(futures, timeout=20)} == set(range(100))
    assert wait(futures).not_done == set()


def test_asyncio_takes_our_futures(pool):
    async def main():
        loop = asyncio.get_running_loop()
        direct = await asyncio.wrap_future(pool.submit(lambda: 41))
        return direct + await loop.run_in_executor(pool, lambda: 1)

    assert asyncio.run(main()) == 42


@pytest.mark.parametrize(("make", "first"), [(list, 20), (tuple, 20), (iter, 1)])
def test_a_map_waits_for_no_items_that_have_yet_to_be_made(pool, monkeypatch, make, first):
    """Of a function that is known to be short."""
    list(pool.map(abs, range(2000)))
    sizes = []
    submit_block = pool._driver.submit_block
    monkeypatch.setattr(
        pool._driver, "submit_block", lambda block: sizes.append(len(block)) or submit_block(block)
    )
    monkeypatch.setattr(pool._driver, "worth_waking", lambda group: 20)

    assert list(pool.map(abs, make(range(100)))) == list(range(100))

    assert sizes[0] == first


def test_many_threads_submit_to_one_pool(pool):
    results = [None] * 8

    def submit(at):
        results[at] = [pool.submit(add, at, n) for n in range(100)]

    threads = [threading.Thread(target=submit, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [[f.result() for f in futures] for futures in results] == [
        [at + n for n in range(100)] for at in range(8)
    ]


def test_what_a_finished_task_held_is_let_go(pool):
    class Big:
        pass

    big = Big()
    watch = weakref.ref(big)
    pool.submit(type, big).result()
    del big

    wait_until(lambda: gc.collect() is not None and watch() is None, 5)


# -- the constructor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 3}, TypeError, "initializer must be a callable: 3"),
        ({"max_tasks_per_child": "3"}, TypeError, "max_tasks_per_child must be an integer: '3'"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1: 0"),
        ({"on_worker_death": "panic"}, ValueError, "on_worker_death must be"),
        ({"max_workers": 2.5}, TypeError, "max_workers must be an integer: 2.5"),
        ({"shared_memory": 3.5e6}, TypeError, "shared_memory must be an integer: 3500000.0"),
        ({"shared_memory": -1}, ValueError, "shared_memory must be >= 0: -1"),
        ({"large": 1e6}, TypeError, "large must be an integer: 1000000.0"),
        ({"large": 0}, ValueError, "large must be >= 1: 0"),
        ({"idle_timeout": "5"}, TypeError, "idle_timeout must be a number of seconds or None"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout must be >= 0: -1"),
        ({"idle_timeout": math.nan}, ValueError, "idle_timeout must be >= 0: nan"),
        ({"env": ["A"]}, TypeError, "env must map names of environment variables to strings"),
        ({"env": {"A": 1}}, TypeError, "env must map strings to strings, and has 1 for 'A'"),
        ({"env": {1: "A"}}, TypeError, "env must map strings to strings, and has 'A' for 1"),
        (
            {"env": {"A=B": "C"}},
            ValueError,
            "env has what the system does not take: 'C' for 'A=B'",
        ),
        ({"inner_threads": "all"}, ValueError, "inner_threads must be .* 'share' or None: 'all'"),
        ({"inner_threads": 0}, ValueError, "inner_threads must be .* >= 1.*: 0"),
        ({"inner_threads": 2.5}, TypeError, "inner_threads must be .*: 2.5"),
        ({"mp_context": "spwan"}, ValueError, "cannot find context for 'spwan'"),
        ({"mp_context": 3}, TypeError, "mp_context must be a .*context, or the name of one .*: 3"),
    ],
)
def test_the_constructor_checks_its_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        HookPoolExecutor(**arguments)


def test_the_context_may_be_given_by_its_name():
    """As to joblib and to loky's reusable executor."""
    with HookPoolExecutor(1, "spawn") as pool:
        assert pool._mp_context is multiprocessing.get_context("spawn")
        assert pool.submit(abs, -1).result() == 1


def test_numbers_of_any_kind_that_are_whole_will_do():
    class Whole:
        def __index__(self) -> int:
            return 1 << 20

    with HookPoolExecutor(1, shared_memory=Whole(), large=Whole(), inner_threads=True) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


@pytest.mark.parametrize("seconds", [math.inf, 1e12])
def test_idle_workers_may_have_all_the_time_in_the_world(seconds: float):
    with HookPoolExecutor(1, idle_timeout=seconds) as pool:
        pid = pool.submit(os.getpid).result()
        wait_until(lambda: not pool._driver._tasks)
        assert pool.submit(os.getpid).result() == pid


def test_the_variables_are_those_that_there_were_when_the_pool_was_made():
    env = {"HOOKPOOL_TEST_VARIABLE": "before"}
    with HookPoolExecutor(1, env=env) as pool:
        env["HOOKPOOL_TEST_VARIABLE"] = "after"
        assert pool.submit(os.getenv, "HOOKPOOL_TEST_VARIABLE").result() == "before"


def test_tasks_per_child_do_not_go_with_fork():
    with pytest.raises(ValueError, match="incompatible with the 'fork'"):
        HookPoolExecutor(1, mp_context=multiprocessing.get_context("fork"), max_tasks_per_child=1)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", CONTEXTS)
def test_any_context_starts_workers(method):
    with HookPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert pool.submit(lambda x: x + 1, 41).result() == 42
        assert list(pool.map(lambda x: -x, range(10))) == [-x for x in range(10)]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", CONTEXTS)
def test_an_initializer_with_a_lambda_a_lock_and_a_queue(method):
    context = multiprocessing.get_context(method)
    lock, queue = context.Lock(), context.SimpleQueue()

    def keep(lock, queue, call):
        sys.kept = lock, queue, call

    with HookPoolExecutor(
        1, context, initializer=keep, initargs=(lock, queue, lambda: 42)
    ) as pool:

        def use():
            lock, queue, call = sys.kept
            with lock:
                queue.put(call())

        assert pool.submit(use).exception() is None
        assert queue.get() == 42
    queue.close()


@pytest.mark.parametrize("leave", [lambda: None, sys.exit], ids=["returns", "exits"])
def test_what_an_initializer_forks_does_not_speak_for_the_worker(leave):
    def start_helper():
        if os.fork() == 0:
            leave()

    with HookPoolExecutor(2, initializer=start_helper) as pool:
        assert list(pool.map(abs, range(1000))) == list(range(1000))


def test_a_child_that_a_task_forked_ends_as_it_wants_to(pool):
    def fork():
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert pool.submit(fork).result(timeout=20) == 7


class ForksWhen:
    """Forks when it is pickled, or rebuilt, and the child leaves as a program does."""

    def __init__(self, dumping):
        self.dumping = dumping

    def __reduce__(self):
        return (int, (fork_and_leave(5),)) if self.dumping else (fork_and_leave, (5,))


def fork_and_leave(value):
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    return value


def test_what_is_forked_while_a_task_is_loaded_or_its_result_dumped_does_not_speak_for_it(pool):
    assert pool.submit(abs, ForksWhen(dumping=False)).result(timeout=20) == 5
    assert pool.submit(lambda: ForksWhen(dumping=True)).result(timeout=20) == 5
    assert list(pool.map(abs, range(100))) == list(range(100))


def test_workers_of_lokys_context_work_and_end_with_their_owner(tmp_path):
    pytest.importorskip("loky")
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "from hookpool import HookPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    from loky.backend import get_context\n"
        "    pool = HookPoolExecutor(1, get_context('loky'))\n"
        "    print(pool.submit(abs, -1).result(timeout=60), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with pytest.raises(AssertionError, match="-9"):  # and leaves no process behind
        run_python(str(program))


def test_a_worker_does_its_work_where_no_thread_can_be_started():
    def allow_no_threads():
        def refuse(self):
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse

    def slow(n):
        time.sleep(0.0005)
        return n if n % 3 else [n]

    with HookPoolExecutor(1, initializer=allow_no_threads) as pool:
        assert list(pool.map(abs, range(5000))) == list(range(5000))
        assert list(pool.map(slow, range(60))) == [n if n % 3 else [n] for n in range(60)]
        assert pool.submit(str, [1]).result(timeout=20) == "[1]"


def test_a_worker_is_replaced_after_its_share_of_tasks():
    with HookPoolExecutor(1, max_tasks_per_child=3) as pool:
        pids = list(pool.map(lambda _: os.getpid(), range(9)))

    assert [len(set(pids[at : at + 3])) for at in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_the_environment_of_the_workers_is_set_and_ours_is_not(pool):
    with HookPoolExecutor(1, env={"HOOKPOOL_TEST": "yes"}) as pool:
        assert pool.submit(os.getenv, "HOOKPOOL_TEST").result() == "yes"
    assert "HOOKPOOL_TEST" not in os.environ


def test_numeric_libraries_get_their_share_of_the_cpus():
    with HookPoolExecutor(1, inner_threads=3) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() in (
            "3",
            os.environ.get("OMP_NUM_THREADS"),
        )


def test_workers_are_started_on_demand(pool):
    with HookPoolExecutor(8) as pool:
        assert pool._processes == {}
        pool.submit(abs, 1).result()
        assert len(pool._processes) == 1


def test_pools_nest():
    def outer(n):
        with HookPoolExecutor(1) as inner:
            return inner.submit(lambda: n + 1).result()

    with HookPoolExecutor(1) as pool:
        assert pool.submit(outer, 41).result() == 42


def test_a_pool_left_open_in_a_worker_does_not_hold_up_the_end():
    def leave_open():
        global left_open
        left_open = HookPoolExecutor(1)
        return left_open.submit(abs, -1).result()

    with HookPoolExecutor(1) as pool:
        assert pool.submit(leave_open).result() == 1


LEFT_OPEN = """
import concurrent.futures, multiprocessing, sys
from hookpool import HookPoolExecutor

def leave_open():
    global left_open
    left_open = concurrent.futures.ProcessPoolExecutor(1)
    return left_open.submit(abs, -1).result()

with HookPoolExecutor(1, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
    assert pool.submit(leave_open).result() == 1
process = multiprocessing.get_context("hookpool").Process(target=leave_open)
process.start()
process.join()
assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["hookpool", "spawn", "fork"])
def test_nor_does_one_of_the_standard_library(method):
    run_python("-c", LEFT_OPEN, method, timeout=20)


def test_pools_in_pools_without_end_are_an_error():
    def deeper(n):
        with HookPoolExecutor(1) as inner:
            return inner.submit(deeper, n + 1).result()

    from hookpool import _nesting

    with HookPoolExecutor(
        1, initializer=lambda: setattr(_nesting, "depth", _nesting.DEEPEST)
    ) as p:
        assert isinstance(p.submit(deeper, 0).exception(), errors.NestedTooDeep)


# -- the namespace of a worker -------------------------------------------------------------------


def test_a_global_set_by_the_initializer_is_there_for_tasks():
    out = run_as(
        "file",
        """
        from hookpool import HookPoolExecutor
        model = None
        def init(value):
            global model
            model = value
        def work(x):
            return model * x
        with HookPoolExecutor(2, initializer=init, initargs=(6,)) as pool:
            print(list(pool.map(work, [7, 8])), pool.submit(lambda: model).result())
        """,
    )

    assert out.strip() == "[42, 48] 6"


def test_a_cache_filled_by_one_function_is_read_by_another():
    out = run_as(
        "file",
        """
        from hookpool import HookPoolExecutor
        cache = {}
        def fill(x):
            cache[x] = x * 2
        def read(x):
            return cache.get(x)
        with HookPoolExecutor(1) as pool:
            list(pool.map(fill, range(3)))
            print(list(pool.map(read, range(4))))
            cache["owner"] = 1
            print(pool.submit(lambda: dict(cache)).result())
        """,
    )

    assert out.split("\n")[:2] == ["[0, 2, 4, None]", "{'owner': 1}"]


# -- the end --------------------------------------------------------------------------------------


def test_submitting_after_shutdown_is_an_error():
    pool = HookPoolExecutor(1)
    pool.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(abs, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.map(abs, [1])


def test_shutdown_finishes_what_is_pending():
    pool = HookPoolExecutor(2)
    futures = [pool.submit(abs, -n) for n in range(50)]
    pool.shutdown()

    assert [future.result(timeout=0) for future in futures] == list(range(50))
    assert pool._processes == {}


def test_shutdown_without_waiting_finishes_what_is_pending():
    pool = HookPoolExecutor(2)
    futures = [pool.submit(abs, -n) for n in range(50)]
    pool.shutdown(wait=False)

    assert [future.result(timeout=30) for future in futures] == list(range(50))
    pool.shutdown()


def test_shutdown_with_cancel_cancels_what_has_not_started(tmp_path):
    wait_here, open_it = gate(tmp_path)
    pool = HookPoolExecutor(1)
    running = pool.submit(wait_here)
    wait_until(running.running, 20)
    pending = [pool.submit(abs, 1) for _ in range(10)]

    pool.shutdown(wait=False, cancel_futures=True)
    open_it()
    pool.shutdown()

    assert running.result() == "open"
    assert all(future.cancelled() for future in pending)


def test_an_executor_dropped_with_work_pending_finishes_it():
    pool = HookPoolExecutor(1)
    futures = [pool.submit(abs, -n) for n in range(20)]
    thread = pool._executor_manager_thread
    del pool
    gc.collect()

    assert [future.result(timeout=30) for future in futures] == list(range(20))
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_program_that_ends_without_shutdown_finishes_its_work():
    out = run_as(
        "file",
        """
        from hookpool import HookPoolExecutor
        pool = HookPoolExecutor(1)
        for n in range(3):
            pool.submit(print, n, flush=True)
        """,
    )

    assert out.split() == ["0", "1", "2"]


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_ends_everything(tmp_path, end):
    wait_here, _ = gate(tmp_path)
    pool = HookPoolExecutor(1)
    running = pool.submit(wait_here)
    wait_until(running.running, 20)
    pending = [pool.submit(abs, 1) for _ in range(5)]

    getattr(pool, end)()

    assert isinstance(running.exception(timeout=0), BrokenProcessPool)
    assert all(future.cancelled() for future in pending)
    assert pool._processes == {}
    with pytest.raises(errors.PoolTerminated, match="takes no more tasks") as refused:
        pool.submit(abs, 1)
    assert running.exception().may_have_run
    assert not refused.value.may_have_run


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_kills_workers_where_it_is_asked_to_as_loky_s_does(wait, tmp_path):
    wait_here, _ = gate(tmp_path)
    pool = HookPoolExecutor(1)
    running = pool.submit(wait_here)
    wait_until(running.running, 20)
    pending = pool.submit(abs, 1)

    pool.shutdown(wait=wait, kill_workers=True)

    assert isinstance(running.exception(timeout=20), BrokenProcessPool)
    assert pending.cancelled()
    pool.shutdown()
    assert pool._processes == {}


def test_ctrl_c_inside_the_with_block_does_not_wait(tmp_path):
    wait_here, _ = gate(tmp_path)
    started = time.monotonic()

    pool = HookPoolExecutor(1)
    future = pool.submit(wait_here)
    wait_until(future.running, 20)
    with pytest.raises(KeyboardInterrupt), pool:
        raise KeyboardInterrupt

    assert pool._processes == {}
    assert time.monotonic() - started < 20
    assert isinstance(future.exception(timeout=0), BrokenProcessPool)


@pytest.mark.parametrize(
    "give_up",
    [lambda pool, stop: stop.result(), lambda pool, stop: list(pool.map(stop_here, [1]))],
    ids=["submit", "map"],
)
def test_an_interrupt_that_a_task_raised_is_that_tasks_alone(tmp_path, give_up):
    wait_here, go_on = gate(tmp_path)
    pool = HookPoolExecutor(2)
    wait([pool.submit(time.sleep, 0.05) for _ in range(2)])
    wait_until(lambda: len(pool._driver._scheduler.idle) == 2, 20)
    other = pool.submit(wait_here)
    wait_until(other.running, 20)
    threading.Timer(0.5, go_on).start()

    with pytest.raises(KeyboardInterrupt), pool:
        give_up(pool, pool.submit(stop_here, 1))

    assert other.exception(timeout=0) is None


def stop_here(_):
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_is_told_so_also_while_a_thread_of_its_parent_submits(pool):
    pool.submit(lambda: 1).result()

    def submit():
        with pytest.raises(errors.ForkedPool):
            pool.submit(lambda: 2)
        return 7

    with held_elsewhere(pool._ledger._lock):
        assert exit_code_of_fork(submit) == 7


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_is_told_that_the_pool_is_not_its_own(pool):
    pool.submit(abs, 1).result()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            pool.submit(abs, 1)
        except BaseException as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 100) == b"ForkedPool"
    assert pool.submit(abs, -3).result() == 3
    os.close(read)
    os.close(write)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("with_map", [False, True])
def test_a_forked_child_does_not_wait_for_its_parents_results(pool, tmp_path, with_map):
    wait_here, let_go = gate(tmp_path)
    done = pool.submit(abs, -1)
    done.result()
    if with_map:
        results = pool.map(lambda _: wait_here(), [0])
        wait = results.__next__
    else:
        wait = pool.submit(wait_here).result
    pid = os.fork()
    if pid == 0:
        try:
            code = 10 * (done.result() == 1)
            wait()
        except hookpool.ForkedPool:
            code += 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    let_go()
    assert wait() == "open"
    assert os.waitstatus_to_exitcode(status) == 11


def test_the_drivers_thread_reads_what_a_dead_worker_sent_also_where_reading_is_passed_on_late(
    tmp_path,
):
    """The thread that reads for its result is interrupted, and waits for another one there."""
    wait_here, _ = gate(tmp_path)
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        future = pool.submit(wait_here)
        wait_until(future.running, 20)
        [worker] = pool._driver._workers.values()
        with worker.reading:
            worker.process.kill()
            wait_until(lambda: not worker.process.is_alive(), 20)
            worker.pass_on_reading()
            assert pool.submit(abs, -3).result(timeout=30) == 3
        assert isinstance(future.exception(timeout=0), errors.WorkerDied)


@pytest.mark.parametrize("ask", ["submit", "map"])
def test_who_waits_where_its_own_thread_is_inside_the_pool_hears_of_it(tmp_path, ask):
    """As a finalizer would that runs in the middle of a decision."""
    wait_here, let_go = gate(tmp_path)
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        results = pool.map(lambda _: wait_here(), [0]) if ask == "map" else None
        wait = results.__next__ if ask == "map" else pool.submit(wait_here).result
        with pool._driver._lock, pytest.raises(errors.InternalError, match="inside the pool"):
            wait()
        let_go()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_that_were_forked_do_not_leave_since_others_could_not_be_forked_safely():
    context = multiprocessing.get_context("fork")
    with HookPoolExecutor(2, context, idle_timeout=0.01) as pool:
        pool.submit(abs, 1).result()
        assert pool._driver._scheduler.config.idle_timeout is None


@pytest.mark.parametrize("milliseconds", [1, 3, 5, 8])
@pytest.mark.parametrize("ask", ["submit", "map"])
def test_a_signal_handler_may_wait_for_results_also_where_it_interrupts_that(
    tmp_path, milliseconds, ask
):
    wait_here, let_go = gate(tmp_path)
    got = []

    def handle(signum, frame):
        let_go()
        if ask == "map":
            got.extend(pool.map(abs, [-3]))
        else:
            got.append(pool.submit(abs, -3).result(timeout=30))

    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        before = signal.signal(signal.SIGALRM, handle)
        try:
            future = pool.submit(wait_here)
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            assert future.result(timeout=30) == "open"
            wait_until(lambda: got, 30)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert got == [3]
        assert pool.submit(abs, -4).result() == 4


# -- the reusable executor -----------------------------------------------------------------------


@pytest.fixture
def reusable():
    yield
    get_reusable_executor(1).shutdown()


def test_the_reusable_executor_is_reused(reusable):
    first = get_reusable_executor(2)
    pid = first.submit(os.getpid).result()

    second = get_reusable_executor(2)

    assert second is first
    assert pid in second._processes


def test_the_reusable_executor_is_resized(reusable):
    first = get_reusable_executor(1)
    first.submit(abs, 1).result()

    second = get_reusable_executor(2)

    assert second is first
    assert second._max_workers == 2
    assert get_reusable_executor(reuse=True)._max_workers == 2


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (0, ValueError, "max_workers must be greater than 0, got 0"),
        ("2", TypeError, "max_workers must be an integer: '2'"),
    ],
)
def test_the_reusable_executor_checks_its_size(reusable, number, error, text):
    with pytest.raises(error, match=text):
        get_reusable_executor(number)


def test_other_arguments_give_another_reusable_executor(reusable):
    first = get_reusable_executor(1)

    second = get_reusable_executor(1, env={"A": "b"})

    assert second is not first
    assert first._shutdown_thread


class Sent:
    """Says which reducers it went through."""

    def __init__(self, *how):
        self.how = how


@pytest.mark.parametrize("name", ["hookpool", "fork"])
def test_reducers_of_a_pool_are_for_what_it_sends_and_for_what_comes_back(name):
    mark = "by the pool's"
    reducers = {
        "job_reducers": {Sent: lambda one: (Sent, (*one.how, "there", mark))},
        "result_reducers": {Sent: lambda one: (Sent, (*one.how, "and back", mark))},
    }
    captured = Sent("captured")
    with HookPoolExecutor(1, multiprocessing.get_context(name), **reducers) as one:
        there, back = one.submit(lambda x: ([x.how, captured.how], x), Sent()).result()
        [mapped] = one.map(lambda x: [x], [Sent("mapped")])
        kept = one.submit(lambda x: x.how, one.put(Sent("put"))).result()
    assert there == [("there", mark), ("captured", "there", mark)]
    assert back.how == ("there", mark, "and back", mark)
    assert mapped[0].how == ("mapped", "there", mark, "and back", mark)
    assert kept == ("put", "there", mark)
    assert hookpool.loads(hookpool.dumps(Sent("else"))).how == ("else",)


@pytest.mark.parametrize("name", ["job_reducers", "result_reducers"])
@pytest.mark.parametrize(
    ("reducers", "message"),
    [
        ([Sent], "must map types to functions that reduce their objects: .*Sent"),
        ({"Sent": repr}, "has 'Sent', which is not a type, among its keys"),
        ({Sent: "reduce"}, "has 'reduce' for Sent, which is not callable"),
    ],
)
def test_what_is_not_a_table_of_reducers_is_refused(name, reducers, message):
    with pytest.raises(TypeError, match=f"{name} {message}"):
        HookPoolExecutor(1, **{name: reducers})


def test_other_reducers_give_another_reusable_executor(reusable):
    first = get_reusable_executor(1)
    second = get_reusable_executor(1, job_reducers={Sent: lambda one: (Sent, ("reduced",))})
    assert second is not first
    assert second.submit(lambda one: one.how, Sent()).result() == ("reduced",)


def test_the_parameters_of_the_reusable_executor_are_lokys():
    """As far as version 3.7 had them, in this order; to import it would change this process."""
    parameters = inspect.signature(get_reusable_executor).parameters.values()
    assert [(one.name, one.default) for one in parameters] == [
        ("max_workers", None),
        ("context", None),
        ("timeout", 10),
        ("kill_workers", False),
        ("reuse", "auto"),
        ("job_reducers", None),
        ("result_reducers", None),
        ("initializer", None),
        ("initargs", ()),
        ("env", None),
    ]


def test_what_a_replacement_waits_for_may_ask_for_the_reusable_executor(reusable, tmp_path):
    wait_here, let_go = gate(tmp_path)
    asked = []
    first = get_reusable_executor(1)
    future = first.submit(wait_here)
    future.add_done_callback(lambda _: asked.append(get_reusable_executor(1, timeout=20)))
    replacing = threading.Thread(target=lambda: asked.append(get_reusable_executor(1, timeout=20)))
    replacing.start()
    wait_until(lambda: first._driver.closed, 20)
    let_go()
    replacing.join(30)
    assert len(asked) == 2
    assert asked[0] is asked[1] is not first


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_forked_while_the_reusable_executor_is_replaced_has_its_own(reusable, tmp_path):
    wait_here, let_go = gate(tmp_path)
    first = get_reusable_executor(1)
    first.submit(wait_here)
    replacing = threading.Thread(target=get_reusable_executor, kwargs={"timeout": 20})
    replacing.start()
    wait_until(lambda: first._driver.closed, 20)

    def use_its_own():
        with get_reusable_executor(1) as own:
            return own.submit(abs, -7).result()

    code = exit_code_of_fork(use_its_own)
    let_go()
    replacing.join(30)
    assert code == 7


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_forked_while_another_thread_starts_a_process_can_start_its_own():
    """That one has the standard library's lock, which nobody lets go of in the child."""

    def use_its_own():
        with HookPoolExecutor(1) as pool:
            return pool.submit(abs, -7).result()

    with held_elsewhere(resource_tracker._resource_tracker._lock):
        assert exit_code_of_fork(use_its_own) == 7


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_forked_while_a_worker_starts_does_not_wait_for_that(monkeypatch):
    start, may_start = _driver.Driver._start_worker, threading.Event()

    def late(driver, number):
        may_start.wait(60)
        return start(driver, number)

    monkeypatch.setattr(_driver.Driver, "_start_worker", late)
    monkeypatch.setattr(_desk, "START_WAIT", 60)
    with HookPoolExecutor(1) as pool:
        future = pool.submit(abs, -7)
        code = exit_code_of_fork(lambda: len(pool._processes))
        may_start.set()
        assert future.result(timeout=20) == 7
    assert code == 0


class Array:
    """As numpy's are: their comparison has no single answer."""

    def __eq__(self, other):
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None


def test_arguments_are_compared_as_they_were(reusable):
    env, array = {"A": "1"}, Array()
    first = get_reusable_executor(1, env=env, initargs=(array,), initializer=len_of)
    assert get_reusable_executor(1, env=dict(env), initargs=(array,), initializer=len_of) is first
    env["A"] = "2"
    second = get_reusable_executor(1, env=env, initargs=(array,), initializer=len_of)
    assert second is not first
    assert get_reusable_executor(1, env=env, initargs=(Array(),), initializer=len_of) is not second


def len_of(_):
    pass


def test_a_shut_down_reusable_executor_is_replaced(reusable):
    first = get_reusable_executor(1)
    first.shutdown()

    assert get_reusable_executor(1).submit(abs, -1).result() == 1


def test_idle_workers_of_the_reusable_executor_end(reusable):
    pool = get_reusable_executor(1, timeout=0.01)
    pool.submit(abs, 1).result()

    wait_until(lambda: not pool._processes, 20)
    assert pool.submit(abs, -2).result() == 2


def test_names_are_handed_out_by_the_package():
    assert hookpool.HookPoolExecutor is HookPoolExecutor
    assert hookpool.get_reusable_executor is get_reusable_executor
    assert sys.modules["hookpool.executor"].cpu_count() >= 1


def test_no_task_waits_behind_a_long_one_where_another_worker_is_idle(tmp_path):
    """Nor where many of them have been sent together, being known to be short."""
    go = tmp_path / "go"

    def work(number):
        if number == 0:
            wait_until(go.exists, 40)
        (tmp_path / str(number)).touch()
        return number

    with HookPoolExecutor(2) as pool:
        list(pool.map(work, range(100, 300)))
        results = pool.map(work, range(20))
        wait_until(lambda: all((tmp_path / str(number)).exists() for number in range(1, 20)), 20)
        go.touch()

        assert list(results) == list(range(20))


# -- what is not what it should be ---------------------------------------------------------------


def test_pools_and_futures_say_why_they_stay_where_they_are(pool):
    future = pool.submit(abs, -1)
    future.result(timeout=20)

    with pytest.raises(TypeError, match=r"HookPoolExecutor stays in the process .* make a pool"):
        pickle.dumps(pool)
    with pytest.raises(TypeError, match=r"HookFuture stays in the process .* wait for its result"):
        pickle.dumps(future)
    error = pool.submit(abs, pool).exception(timeout=20)
    assert "a HookPoolExecutor stays in the process that made it" in str(error)


@pytest.mark.parametrize("workers", [2.5, "2", 2.0])
def test_a_number_of_workers_is_an_integer(workers):
    with pytest.raises(TypeError):
        HookPoolExecutor(workers)


class Sealed:
    """Has nothing but what the class has, and says so in its own way."""

    def __call__(self, x):
        return os._exit(3) if x is None else x + 1

    def __getattr__(self, name):
        if name.startswith("__") and name not in ("__code__", "__qualname__"):
            raise AttributeError(name)
        raise LookupError(name)


def test_a_callable_that_raises_what_it_likes_for_an_attribute_is_called(pool):
    assert pool.submit(Sealed(), 1).result(timeout=20) == 2
    assert list(pool.map(Sealed(), [1, 2], timeout=20)) == [2, 3]
    assert "<Sealed object>" in str(pool.submit(Sealed(), None).exception(timeout=20))
    assert pool.submit(abs, -1).result(timeout=20) == 1


def test_a_callable_that_has_every_attribute_may_end_its_worker(pool, bystander):
    error = pool.submit(odd_errors.Proxy(os._exit), 3).exception(timeout=20)

    assert type(error) is errors.WorkerDied
    assert "exited with code 3 while running task <" in str(error)
    assert "Proxy object" in str(error)


def test_a_pool_can_be_made_after_multiprocessing_has_run_its_finalizers():
    """As test suites do between two modules; it is not the end of the program."""
    code = """
    from multiprocessing import util
    from hookpool import HookPoolExecutor
    with HookPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1
    util._run_finalizers()
    with HookPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1
    """
    run_python("-c", textwrap.dedent(code))
