"""Time limits: who is ended, when, and that nobody else is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import resource
import select
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookpool import TaskTimedOut, WorkerDied, _crew, _desk, _driver
from hookpool._limits import Limits, pause
from hookpool.executor import HookPoolExecutor
from tests.helpers import wait_until

NO_TIME = 0.05
LONG = 60.0


# -- the pure part ------------------------------------------------------------------------------


def test_looks_are_neither_many_nor_far_apart():
    assert [pause(limit) for limit in (0.001, 0.8, 100.0)] == [0.005, 0.1, 0.25]


@given(
    durations=st.lists(st.floats(0.001, 3), min_size=1, max_size=20),
    limit=st.floats(0.01, 2),
    begin=st.floats(0, 100),
)
def test_a_call_is_over_its_limit_when_it_is_and_soon_after(durations, limit, begin):
    """One worker with calls one after the other; it is looked at when it was said to be."""
    limits = Limits()
    starts = [begin]
    for duration in durations:
        starts.append(starts[-1] + duration)
    now = begin - 0.001
    while now < starts[-1]:
        task = sum(start <= now for start in starts) - 1  # -1: it has not begun
        again = limits.look(7, task, limit if task >= 0 else None, limit, now)
        if again <= now:
            assert now >= starts[task] + limit
            return
        assert again <= now + pause(limit)
        now = again
    late = pause(limit) + 1e-9
    assert all(duration <= limit + late for duration in durations)


def test_calls_without_a_limit_have_any_time():
    limits = Limits()
    assert limits.look(1, 5, None, 0.8, 0.0) == 0.1
    assert limits.look(1, 5, None, 0.8, 1000.0) == 1000.1


def test_what_is_forgotten_is_seen_anew():
    limits = Limits()
    limits.look(1, 5, 0.8, 0.8, 0.0)
    limits.forget(1)
    limits.forget(1)
    assert limits.look(1, 5, 0.8, 0.8, 1000.0) > 1000.0


# -- in a pool ----------------------------------------------------------------------------------


def ready() -> None:
    """In workers that have run this, this module is there: to import it takes time, too."""


@pytest.fixture
def pool() -> Iterator[HookPoolExecutor]:
    with HookPoolExecutor(2, initializer=ready) as pool:
        yield pool


def note_and_sleep(path: str, seconds: float) -> None:
    with open(path, "a") as file:
        file.write(".")
    time.sleep(seconds)


def test_a_call_that_takes_too_long_fails_alone(pool: HookPoolExecutor, tmp_path: Any):
    path = tmp_path / "runs"
    stuck = pool.options(timeout=NO_TIME).submit(note_and_sleep, str(path), LONG)
    others = [pool.submit(abs, -number) for number in range(100)]
    with pytest.raises(TaskTimedOut) as raised:
        stuck.result()
    error = raised.value
    assert isinstance(error, TimeoutError)
    assert isinstance(error, concurrent.futures.TimeoutError)
    assert "note_and_sleep at test_limits.py" in str(error)
    assert "did not end within its 0.05 s" in str(error)
    assert (error.limit, error.phase, error.may_have_run) == (NO_TIME, "running", True)
    assert f"worker {error.pid} " in str(error)
    assert [other.result() for other in others] == list(range(100))
    assert pool.submit(abs, -1).result() == 1
    assert path.read_text() == "."


def hold_the_interpreter(seconds: float) -> None:
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def ignore_all(seconds: float) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(seconds)
        except BaseException:
            pass


@pytest.mark.parametrize("stay", [hold_the_interpreter, ignore_all])
def test_whatever_it_does(pool: HookPoolExecutor, stay: Any):
    assert type(pool.options(timeout=NO_TIME).submit(stay, LONG).exception()) is TaskTimedOut


class SlowToLoad:
    def __reduce__(self) -> Any:
        return time.sleep, (LONG,)


class SlowToPickle:
    def __reduce__(self) -> Any:
        time.sleep(LONG)
        return int, ()


def test_to_load_its_arguments_and_to_pickle_its_result_is_part_of_it(pool: HookPoolExecutor):
    limited = pool.options(timeout=NO_TIME)
    loading = limited.submit(type, SlowToLoad()).exception()
    dumping = limited.submit(SlowToPickle).exception()
    assert isinstance(loading, TaskTimedOut)
    assert isinstance(dumping, TaskTimedOut)
    assert (loading.phase, loading.may_have_run) == ("unpickling the arguments of", False)
    assert (dumping.phase, dumping.may_have_run) == ("pickling the result of", True)


@pytest.mark.parametrize("argument", [1, [1]])
def test_to_load_its_function_is_too(pool: HookPoolExecutor, argument: Any):
    """It was not where the arguments are plain: what hung there hung for ever."""
    captured = SlowToLoad()
    error = pool.options(timeout=NO_TIME).submit(lambda _: captured, argument).exception(LONG / 2)
    assert isinstance(error, TaskTimedOut)
    assert (error.phase, error.may_have_run) == ("unpickling the arguments of", False)


def test_to_wait_for_a_worker_is_not():
    with HookPoolExecutor(1) as pool:
        limited = pool.options(timeout=0.5)
        futures = [limited.submit(time.sleep, 0.1) for _ in range(8)]  # together more than that
        assert [future.result() for future in futures] == [None] * 8


def test_others_of_its_message_are_not_ended_with_it():
    with HookPoolExecutor(1) as pool:
        limited = pool.options(timeout=0.5)
        futures = [limited.submit(time.sleep, LONG if n in (30, 60) else 0) for n in range(100)]
        late = {n for n, future in enumerate(futures) if future.exception() is not None}
        assert late == {30, 60}


def test_calls_with_and_without_a_limit_go_together():
    with HookPoolExecutor(1) as pool:
        short, long = pool.options(timeout=NO_TIME), pool.options(timeout=LONG)
        views = (short, pool, long, short)
        futures = [view.submit(time.sleep, 0.3) for view in views]
        assert [type(future.exception()) for future in futures] == [
            TaskTimedOut, type(None), type(None), TaskTimedOut,
        ]  # fmt: skip


def test_map_raises_it_at_the_turn_of_the_item(pool: HookPoolExecutor):
    limited = pool.options(timeout=0.5)
    found = limited.map(time.sleep, [0, 0.01, LONG, 0])
    assert [next(found), next(found)] == [None, None]
    with pytest.raises(TaskTimedOut):
        next(found)
    assert list(limited.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))


def test_it_does_not_break_a_pool_that_a_death_would():
    with HookPoolExecutor(1, on_worker_death="break") as pool:
        assert isinstance(
            pool.options(timeout=NO_TIME).submit(time.sleep, LONG).exception(), TaskTimedOut
        )
        assert pool.submit(abs, -1).result() == 1
        assert isinstance(pool.submit(os._exit, 1).exception(), WorkerDied)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_with_other_contexts(method: str):
    with HookPoolExecutor(2, method) as pool:
        short, long = pool.options(timeout=NO_TIME), pool.options(timeout=LONG)
        assert isinstance(short.submit(time.sleep, LONG).exception(), TaskTimedOut)
        assert long.submit(abs, -1).result() == 1


def test_a_view_goes_where_an_executor_does(pool: HookPoolExecutor):
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        good = await loop.run_in_executor(pool.options(timeout=LONG), abs, -1)
        with pytest.raises(TimeoutError):
            await loop.run_in_executor(pool.options(timeout=NO_TIME), time.sleep, LONG)
        return good

    assert asyncio.run(main()) == 1


def wait_for_file(path: str) -> str:
    wait_until(lambda: os.path.exists(path), LONG)
    return path


def test_what_is_sent_to_a_worker_that_has_been_ended_runs_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    """One task at a time, and the first is through in the moment in which it would be ended."""
    path, kill = tmp_path / "go", _driver.kill

    def kill_late(process: Any) -> None:
        path.touch()
        [worker] = pool._driver._workers.values()
        assert select.select([worker.channel.inn], [], [], LONG)[0]
        monkeypatch.undo()
        kill(process)

    monkeypatch.setattr(_desk, "are_possible", lambda: False)
    with HookPoolExecutor(1, initializer=ready) as pool:
        monkeypatch.setattr(_driver, "kill", kill_late)
        limited = pool.options(timeout=0.5)
        first = limited.submit(wait_for_file, str(path))
        second = limited.submit(abs, -1)
        assert second.result() == 1
        assert first.result() == str(path)


def test_whether_a_worker_has_stopped_is_not_known_without_a_descriptor():
    with no_descriptors_left():
        assert not _crew._is_at_rest(os.getppid())
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert _crew._is_at_rest(gone.pid)


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_to_end_a_view_is_to_end_the_pool():
    with HookPoolExecutor(1).options(timeout=LONG) as limited:
        assert isinstance(limited, concurrent.futures.Executor)
        assert limited.submit(abs, -1).result() == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        limited.submit(abs, -1)


def test_a_pool_is_there_as_long_as_a_view():
    limited = HookPoolExecutor(1).options(timeout=LONG)
    assert limited.submit(abs, -1).result() == 1
    limited.shutdown()


def test_nobody_looks_when_there_is_nothing_to_see(pool: HookPoolExecutor):
    pool.submit(int).result()
    future = pool.options(timeout=0.2).submit(time.sleep, 0.01)
    assert pool._driver._look_at is not None
    future.result()
    wait_until(lambda: pool._driver._look_at is None)


def test_a_worker_that_has_gone_on_is_left_alone(pool: HookPoolExecutor):
    first, second = pool.submit(os.getpid), pool.submit(time.sleep, LONG)
    pid = first.result()
    wait_until(second.running)
    workers = {worker.process.pid: worker for worker in pool._driver._workers.values()}
    for worker in workers.values():
        task = worker.task_at()
        assert not worker.stop_at(task + 1000)
    assert pool.submit(os.getpid).result() in {pid, *workers}
    pool.kill_workers()


@pytest.mark.parametrize("timeout", [None, float("inf"), 10**400, Fraction(120), True])
def test_any_number_of_seconds_will_do(pool: HookPoolExecutor, timeout: Any):
    limited = pool.options(timeout=timeout)
    assert limited.submit(abs, -1).result() == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_is_none(pool: HookPoolExecutor, timeout: float):
    with pytest.raises(ValueError, match="timeout must be"):
        pool.options(timeout=timeout)


@pytest.mark.parametrize("timeout", ["1", [1], 1j])
def test_what_is_no_number_is_refused(pool: HookPoolExecutor, timeout: Any):
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        pool.options(timeout=timeout)


def test_a_call_with_a_limit_can_be_cancelled():
    with HookPoolExecutor(1) as pool:
        limited = pool.options(timeout=0.5)
        running, waiting = limited.submit(time.sleep, 0.1), limited.submit(time.sleep, LONG)
        assert waiting.cancel()
        assert running.result() is None


def test_where_nobody_says_what_has_begun(monkeypatch: pytest.MonkeyPatch):
    """Elsewhere than on Linux a worker has one call at a time."""
    monkeypatch.setattr(_desk, "are_possible", lambda: False)
    with HookPoolExecutor(1) as pool:
        limited = pool.options(timeout=0.2)
        futures = [limited.submit(time.sleep, seconds) for seconds in (0.05, LONG, 0.05)]
        kinds = [type(future.exception()) for future in futures]
        assert kinds == [type(None), TaskTimedOut, type(None)]
