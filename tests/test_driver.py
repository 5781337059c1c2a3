"""The driver under interrupts, re-entrance and threads: it may break, it must not hang or lie."""

from __future__ import annotations

import errno
import gc
import linecache
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import wait
from pathlib import Path

import pytest

from hookpool import _channel, _driver, errors
from hookpool._future import HookFuture
from hookpool._task import Values
from hookpool.executor import HookPoolExecutor
from tests import odd_errors
from tests.helpers import run_python, wait_until

OURS = f"{os.sep}hookpool{os.sep}"


def _is_in_finalizer(frame):
    """Whether what is raised here goes nowhere: the interpreter prints it and carries on."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False


class InterruptAt:
    """Raise KeyboardInterrupt at the n-th line that this thread runs inside hookpool.

    The interpreter looks for signals after calls, at the start of functions and at the end of
    loops.  So no interrupt can come on the way out of a `with` statement, which is traced just
    before the lock is given back, nor at a bare `try:`; none is injected there.
    """

    def __init__(self, line):
        self.left = line
        self.where = None
        self.entered = set()

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, arg):
        is_ours = OURS in frame.f_code.co_filename and not _is_in_finalizer(frame)
        return self._line if is_ours else None

    def _line(self, frame, event, arg):
        if event == "line" and self._can_come(frame):
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line

    def _can_come(self, frame):
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if not text.startswith("with "):
            return text != "try:"
        place = id(frame), frame.f_lineno
        known = place in self.entered
        self.entered.add(place)
        return not known


def still_good(pool):
    """Whether the pool works; False when it is broken, and says so."""
    try:
        assert pool.submit(abs, -7).result(timeout=20) == 7
    except errors.InternalError:
        return False
    return True


def interrupt_everywhere(call, lines):
    """Interrupt `call(pool)` at each of these lines, in a pool that is still good."""
    pool = HookPoolExecutor(1)
    pool.submit(abs, 1).result()
    broken, ran_through = [], 0
    for line in lines:
        at = InterruptAt(line)
        try:
            with at:
                call(pool)
        except KeyboardInterrupt:
            pass
        except errors.InternalError:
            assert at.where
        if at.where is None:
            ran_through += 1
            if ran_through > 3:
                break
        if not still_good(pool):
            broken.append(at.where)
            pool.shutdown()
            pool = HookPoolExecutor(1)
            pool.submit(abs, 1).result()
    pool.shutdown()
    assert ran_through, "the call has more lines than were tried"
    return broken


def submit_and_wait(pool):
    assert pool.submit(abs, -5).result(timeout=20) == 5


def test_an_interrupt_at_every_line_of_a_round_trip_hangs_nothing():
    broken = interrupt_everywhere(submit_and_wait, range(1, 3000))

    # Only in the middle of a decision is the pool given up: not while pickling or waiting.
    assert not [where for where in broken if where.startswith(("reduction", "_definitions"))]


def test_an_interrupt_at_every_line_of_a_map_hangs_nothing():
    interrupt_everywhere(lambda pool: list(pool.map(abs, range(3))), range(1, 4000, 3))


def test_a_signal_handler_may_submit_at_any_moment():
    done = []
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()

        def handler(signum, frame):
            done.append(pool.submit(abs, -1))

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            results = [pool.submit(abs, -n).result(timeout=20) for n in range(500)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

        assert results == list(range(500))
        assert {future.result(timeout=20) for future in done} == {1}


def test_a_finalizer_may_submit_at_any_moment():
    done = []
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()

        class Dropped:
            def __del__(self):
                done.append(pool.submit(abs, -1))

        for n in range(300):
            cycle = [Dropped()]
            cycle.append(cycle)
            del cycle
            pool.submit(abs, -n)
            if n % 10 == 0:
                gc.collect()
        gc.collect()

        assert [future.result(timeout=20) for future in done] == [1] * 300


def test_a_submit_inside_a_transition_of_the_same_thread_goes_late():
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        driver = pool._driver
        with driver._lock:
            future = pool.submit(abs, -3)
            assert not future.running()
            assert not future.cancel()
            with pytest.raises(errors.InternalError, match="signal handler or finalizer"):
                pool.shutdown()

        assert future.result(timeout=20) == 3


def test_a_task_whose_failure_is_decided_is_not_cancelled(monkeypatch):
    """The scheduler has forgotten it: asked to cancel it, it took it for one in the queue.

    Then it counted one too few there for ever, and lost the last of what was queued: found by the
    soak, when a map gave up at the first of many results that had died with their worker.
    """
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        driver, answers = pool._driver, []
        original = driver._pop

        def cancel_first(number):
            answers.append(driver.cancel(number))
            return original(number)

        monkeypatch.setattr(driver, "_pop", cancel_first)
        doomed = pool.submit(os._exit, 3)

        assert isinstance(doomed.exception(timeout=20), errors.WorkerDied)
        assert answers == [False]
        driver._scheduler.check()
        assert pool.submit(abs, -7).result(timeout=20) == 7


def test_a_map_that_gives_up_while_its_tasks_are_failed_loses_no_others():
    def last_words(n):
        if n % 300 == 299:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with HookPoolExecutor(1) as pool:
        for _ in range(20):
            with pytest.raises((errors.WorkerDied, errors.ResultLost)):
                list(pool.map(last_words, range(600)))
            driver = pool._driver
            assert pool.submit(abs, -7).result(timeout=20) == 7
            with driver._lock:
                driver._scheduler.check()


def test_a_late_task_is_not_cancelled_before_the_scheduler_knows_it(monkeypatch):
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        driver, answers = pool._driver, []
        original = driver._read_inbox

        def cancel_first():
            if driver._inbox:
                answers.append(driver.cancel(driver._inbox[0].start))
            original()

        monkeypatch.setattr(driver, "_read_inbox", cancel_first)
        with driver._lock:
            late = pool.submit(abs, -3)

        assert late.result(timeout=20) == 3
        assert answers == [False]
        monkeypatch.undo()


def test_a_worker_that_there_are_no_descriptors_for_is_one_that_does_not_start(monkeypatch):
    def scarce(board):
        raise OSError(errno.EMFILE, "Too many open files")

    with HookPoolExecutor(1) as pool:  # whatever lives on after a pool, is there
        pool.submit(abs, -1).result()
    monkeypatch.setattr(_driver, "Channel", scarce)
    before = sorted(os.listdir("/proc/self/fd"))
    pool = HookPoolExecutor(1)

    error = pool.submit(abs, -1).exception(timeout=20)

    assert isinstance(error, errors.WorkerCannotStart)
    assert "Too many open files" in str(error)
    pool.shutdown()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_bug_in_the_drivers_thread_fails_what_is_pending(monkeypatch):
    stories = []
    monkeypatch.setattr(threading, "excepthook", lambda args: stories.append(args.exc_value))
    pool = HookPoolExecutor(1)
    pool.submit(abs, 1).result()
    monkeypatch.setattr(pool._driver, "_ring", lambda: 1 / 0)

    future = pool.submit(time.sleep, 60)
    pool._driver._wake()

    assert isinstance(future.exception(timeout=20), errors.InternalError)
    pool.shutdown()
    assert isinstance(stories[0], ZeroDivisionError)


class Mute(odd_errors.NoText):
    """Says nothing of itself in any way."""

    __repr__ = odd_errors.NoText.__str__


@pytest.mark.parametrize("kind", [Mute, odd_errors.Frozen])
def test_a_bug_that_cannot_be_told_of_does_so_as_well(monkeypatch, kind):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    pool = HookPoolExecutor(1)
    pool.submit(abs, 1).result()

    def fail():
        raise kind("what")

    monkeypatch.setattr(pool._driver, "_ring", fail)

    future = pool.submit(time.sleep, 60)
    pool._driver._wake()

    error = future.exception(timeout=20)
    assert isinstance(error, errors.InternalError)
    assert kind.__name__ in str(error)
    pool.shutdown()


def test_a_task_whose_death_cannot_be_put_into_words_fails_all_the_same(monkeypatch):
    """It is in no table any more: nobody else would ever settle it."""
    monkeypatch.setattr(_driver, "describe", lambda work: 1 / 0)
    with HookPoolExecutor(1) as pool:
        error = pool.submit(os._exit, 3).exception(timeout=20)

        assert type(error) is errors.WorkerDied
        assert "exited with code 3 while running a task;" in str(error)
        assert pool.submit(abs, -1).result(timeout=20) == 1


def test_a_bug_while_results_are_settled_fails_what_came_with_them(monkeypatch, tmp_path):
    stories, gate = [], tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setattr(threading, "excepthook", lambda args: stories.append(args.exc_value))
    pool = HookPoolExecutor(1)
    pool.submit(abs, 1).result()
    monkeypatch.setattr(Values, "settle", lambda self: 1 / 0)
    futures = [pool.submit(lambda path: Path(path).read_text(), str(gate))]
    futures += [pool.submit(abs, -n) for n in range(50)]
    for future in futures:
        future.add_done_callback(lambda _: None)  # so that the driver's thread settles it

    gate.write_text("")

    outcomes = {type(future.exception(timeout=20)) for future in futures}
    assert outcomes == {errors.InternalError}
    pool.shutdown()
    assert isinstance(stories[0], ZeroDivisionError)


def test_a_pool_terminated_while_a_thread_reads_its_result_fails_that_alone(monkeypatch):
    """The thread found the task in the table, and then no more: it took that for a bug."""
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        driver = pool._driver
        original = HookFuture.has_callbacks

        def taken_meanwhile(future):
            task = driver._tasks.pop(future._number)
            task.set_exception(future._number, errors.PoolTerminated("taken"))
            return original(future) and False

        monkeypatch.setattr(HookFuture, "has_callbacks", taken_meanwhile)
        for _ in range(50):  # the thread that waits reads it, unless the driver's is faster
            error = pool.submit(abs, -1).exception(timeout=20)
            if error is not None:
                break
        monkeypatch.undo()

        assert isinstance(error, errors.PoolTerminated)
        assert pool.submit(abs, -7).result(timeout=20) == 7


def test_an_idle_pool_uses_no_cpu():
    with HookPoolExecutor(2) as pool:
        list(pool.map(abs, range(100)))
        driver = pool._driver
        threading.Event().wait(0.05)  # timers of the last tasks run out
        waits = []
        original = driver._wait
        driver._wait = lambda: (waits.append(1), original())

        threading.Event().wait(0.2)

        assert len(waits) <= 3


def test_cycles_of_pools_leave_nothing():
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
    del pool
    gc.collect()
    before = descriptors(), threading.active_count()
    for _ in range(20):
        with HookPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        del pool

    gc.collect()
    wait_until(lambda: descriptors() <= before[0] and threading.active_count() <= before[1], 10)


def test_who_was_interrupted_waiting_for_the_end_can_wait_for_it_again(tmp_path):
    pool = HookPoolExecutor(1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    future = pool.submit(gate.read_bytes)
    wait_until(future.running, 20)
    pool.shutdown(wait=False)
    driver = pool._driver

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            pool.shutdown()
    finally:
        signal.signal(signal.SIGALRM, before)

    driver.join(0.01)
    assert driver.thread.is_alive()
    gate.write_bytes(b"go")
    pool.shutdown()
    assert not driver.thread.is_alive()
    assert future.result(timeout=0) == b"go"


@pytest.mark.parametrize("method", ["hookpool", "fork"])
def test_a_pool_whose_thread_cannot_be_started_has_nothing_of_it(method, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pool = HookPoolExecutor(1, mp_context=multiprocessing.get_context(method))
    fds = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(abs, -1)

    driver = pool._driver
    assert driver.thread is None
    assert driver not in _driver._living
    assert len(os.listdir("/proc/self/fd")) <= fds
    if method == "fork":  # its workers are gone
        assert isinstance(driver.broken, errors.InternalError)
    else:
        assert pool.submit(abs, -1).result(timeout=20) == 1
    pool.shutdown()


TOO_LATE = """
import threading
from hookpool import HookPoolExecutor
{before}
def late():
    threading.main_thread().join()
    try:
        HookPoolExecutor(1).submit(abs, -1)
    except RuntimeError as error:
        print(error)

threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("before", ["", "HookPoolExecutor(1).submit(abs, 1)"])
def test_a_pool_after_the_end_of_the_main_thread_is_refused_as_elsewhere(before):
    said = run_python("-c", TOO_LATE.replace("{before}", before), timeout=20)
    assert said == "cannot schedule new futures after interpreter shutdown\n"


def test_of_an_abandoned_map_no_more_runs_than_had_been_claimed(tmp_path):
    gate, ran = tmp_path / "gate", tmp_path / "ran"
    os.mkfifo(gate)

    def run(number):
        with open(ran, "a") as file:
            file.write("x")
        if number == 1:
            gate.read_bytes()
        return number

    with HookPoolExecutor(1) as pool:
        results = pool.map(run, range(20_000))
        assert next(results) == 0
        wait_until(lambda: ran.stat().st_size > 1, 20)  # stuck in the second

        results.close()

        assert len(pool._driver._tasks) <= 2  # the third may have been claimed with the second
        gate.write_bytes(b"go")
        assert pool.submit(abs, -7).result(timeout=20) == 7
    assert ran.stat().st_size <= 3


def test_a_result_does_not_wait_for_the_next_task_that_was_sent_after_it(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with HookPoolExecutor(1) as pool:
        results = pool.map(lambda n: n and len(gate.read_bytes()), range(2))
        release = threading.Timer(20, gate.write_bytes, [b"late"])
        release.start()
        try:
            assert next(results) == 0
            assert release.is_alive(), "it waited"
        finally:
            release.cancel()
        gate.write_bytes(b"go")
        assert next(results) == 2


@pytest.fixture
def pauses(monkeypatch):
    """How long the driver's thread has paused, each time."""
    taken = []
    monkeypatch.setattr(_driver, "sleep", taken.append)
    return taken


def test_results_that_nobody_asks_for_may_wait_while_many_tasks_are_submitted(pauses):
    with HookPoolExecutor(1) as pool:
        futures = [pool.submit(abs, -1) for _ in range(_driver.UNASKED)]
        assert not pauses
        gives_up = time.monotonic() + 20
        while not pauses and time.monotonic() < gives_up:
            futures.append(pool.submit(abs, -1))

    assert set(pauses) == {_driver.PAUSE_SECONDS}
    assert {future.result() for future in futures} == {1}


@pytest.mark.parametrize(
    "ask",
    [
        lambda pool, future: future.result(),
        lambda pool, future: future.exception(),
        lambda pool, future: future.add_done_callback(str),
        lambda pool, future: wait([future]),
        lambda pool, future: list(pool.map(abs, range(3))),
    ],
    ids=["result", "exception", "callback", "wait", "map"],
)
def test_who_asks_for_results_is_not_kept_waiting(pauses, ask):
    with HookPoolExecutor(1) as pool:
        for _ in range(3 * _driver.UNASKED):
            ask(pool, pool.submit(abs, -1))

    assert not pauses


def test_what_the_kernel_does_not_take_is_sent_whoever_reads_results():
    """A thread that reads its own result makes room for a task longer than a pipe is."""
    data = bytes(40_000)
    with HookPoolExecutor(1) as pool:
        for _ in range(40):
            futures = [pool.submit(len, data) for _ in range(50)]
            for future in futures:
                assert future.result(timeout=20) == len(data)


def test_what_is_sent_while_the_driver_looks_at_a_channel_is_not_forgotten(monkeypatch):
    data = bytes(300_000)
    backed_up = _channel.Channel.backed_up.fget
    late = []

    def slow(channel):
        answer = backed_up(channel)
        caller = sys._getframe(1).f_code.co_name
        if caller == "_watch_outboxes" and not answer and not late:
            thread = threading.Thread(target=lambda: late.append(pool.submit(len, data)))
            late.append(thread)
            thread.start()
            thread.join(0.1)  # the driver's thread has the lock: then it comes afterwards
        return answer

    with HookPoolExecutor(1, shared_memory=0) as pool:
        monkeypatch.setattr(_channel.Channel, "backed_up", property(slow))
        while not late:
            assert pool.submit(len, data).result(timeout=20) == len(data)
        thread, *_ = late
        thread.join(20)
        assert late[1].result(timeout=20) == len(data)


def test_a_signal_handler_may_submit_while_the_pool_is_being_opened(monkeypatch):
    late = []

    class Alarm(_driver.Alarm):
        def __init__(self):
            super().__init__()
            late.append(pool.submit(abs, -2))  # as a handler or finalizer would, just here

    monkeypatch.setattr(_driver, "Alarm", Alarm)
    with HookPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result(timeout=20) == 1
        assert late[0].result(timeout=20) == 2


@pytest.mark.parametrize("needs", ["Poller", "Alarm"])
def test_what_a_signal_handler_submitted_fails_if_the_pool_cannot_be_opened(needs, monkeypatch):
    late = []

    def fail():
        late.append(pool.submit(abs, -2))
        raise OSError(errno.EMFILE, "no descriptor left")

    pool = HookPoolExecutor(1)
    with monkeypatch.context() as patch:
        patch.setattr(_driver, needs, fail)
        with pytest.raises(OSError, match="no descriptor"):
            pool.submit(abs, -1)

    assert isinstance(late[0].exception(timeout=20), errors.InternalError)
    pool.shutdown()


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_what_a_signal_handler_raises_while_the_thread_starts_leaves_a_good_pool(
    error, monkeypatch
):
    """It was taken for a thread that could not be started if it was an `Exception`."""
    start, undone = threading.Thread.start, threading.Event()

    def interrupted(thread):
        run = thread.run
        thread.run = lambda: (undone.wait(20), run())
        start(thread)
        raise error

    with HookPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(error):
                pool.submit(abs, -1)

        undone.set()
        assert pool.submit(abs, -2).result(timeout=20) == 2
    wait_until(lambda: "hookpool-driver" not in {t.name for t in threading.enumerate()}, 20)


@pytest.mark.parametrize("seconds", [float("inf"), 1e10])
def test_a_pool_may_wait_for_ever_before_its_workers_leave(seconds):
    with HookPoolExecutor(1, idle_timeout=seconds) as pool:
        assert pool.submit(abs, -1).result(timeout=20) == 1
        assert pool.submit(abs, -1).result(timeout=20) == 1


def test_what_a_cancelled_task_held_is_let_go_of_without_the_lock():
    """Its finalizer may wait for a thread that submits."""
    seen = []

    class Held:
        def __del__(self):
            seen.append(pool._driver._lock._is_owned())

        def __reduce__(self):
            return int, ()

    def make():
        held = Held()
        return lambda: held

    with HookPoolExecutor(1) as pool:
        pool.submit(abs, -1).result()
        running = [pool.submit(time.sleep, 0.5) for _ in range(3)]
        future = pool.submit(make())
        gc.collect()  # else it is part of a cycle
        assert future.cancel()
        assert seen == [False]
        for future in running:
            future.cancel()
