"""A user's program for the type checker: `make check` reads it, and nobody runs it."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, assert_type

import hookpool
import hookpool.joblib
import hookpool.managers
from hookpool import HookPickler, HookPoolExecutor, WorkerDied, get_reusable_executor
from hookpool.context import HookContext, HookProcess
from hookpool.executor import cpu_count


def load(path: str, size: int) -> None: ...


def scaled(x: int, by: float = 1.0, *, places: int = 0) -> str:
    return f"{x * by:.{places}f}"


def the_executor_is_used() -> None:
    with HookPoolExecutor() as pool:
        assert_type(pool.submit(scaled, 1, by=2.0, places=3), Future[str])
        pool.submit(scaled, "one")  # type: ignore[arg-type]
        assert_type(pool.submit(lambda: 3).result(timeout=1), int)
        assert_type(pool.map(scaled, [1, 2]), Iterator[str])
        sums: list[int] = list(pool.map(lambda a, b, c: a + b + c, [1], (2,), range(3)))
        pool.map(len, [sums], timeout=3, chunksize=2, buffersize=4)
        table = pool.put({1: "one"}, read_only=True)
        names: list[str] = list(pool.map(lambda table, n: table[n], [table] * 2, [1, 1]))
        wait([pool.submit(len, names)])
        for future in as_completed([pool.submit(len, names)]):
            assert_type(future.result(), int)
        assert_type(pool.options(timeout=2.5).submit(scaled, 1), Future[str])
        assert_type(pool.options(timeout=None).map(scaled, [1, 2]), Iterator[str])
        pool.resize(cpu_count())
        pool.terminate_workers()
        pool.kill_workers()
        pool.shutdown(wait=False, cancel_futures=True, kill_workers=True)


async def the_executor_is_awaited(pool: HookPoolExecutor) -> None:
    assert_type(await asyncio.get_running_loop().run_in_executor(pool, scaled, 1), str)
    assert_type(await asyncio.wrap_future(pool.submit(scaled, 1)), str)


def executors_are_made() -> None:
    HookPoolExecutor(2, multiprocessing.get_context("spawn"), load, ("a", 1))
    HookPoolExecutor(mp_context="fork", initializer=lambda: None)
    HookPoolExecutor(
        max_tasks_per_child=3,
        on_worker_death="break",
        idle_timeout=1.5,
        env={"A": "1"},
        inner_threads=2,
        shared_memory=1 << 30,
        large=1 << 20,
        job_reducers={complex: lambda number: (complex, (number.real, number.imag))},
        result_reducers={},
    )
    HookPoolExecutor(inner_threads="all")  # type: ignore[arg-type]
    HookPoolExecutor(on_worker_death="panic")  # type: ignore[arg-type]
    pool = get_reusable_executor(2, "spawn", timeout=None, reuse=True, initializer=load)
    assert_type(pool, HookPoolExecutor)


def objects_are_pickled() -> None:
    file = io.BytesIO()
    hookpool.dump(lambda x: x, file, protocol=5)
    HookPickler(file, buffer_callback=[].append).dump(lambda x: x)
    data = hookpool.dumps(scaled)
    loaded: Any = hookpool.loads(data, buffers=[])
    hookpool.register_pickle_by_value(io)
    assert_type(hookpool.list_registry_pickle_by_value(), set[str])
    hookpool.unregister_pickle_by_value(loaded)


def errors_are_caught(future: Future[int]) -> None:
    try:
        future.result()
    except WorkerDied as error:
        assert_type((error.pid, error.exitcode), tuple[int | None, int | None])
        assert_type((error.phase, error.task), tuple[str, str | None])
    except (hookpool.CannotPickle, hookpool.InitializerFailed, BrokenProcessPool):
        pass


def the_context_is_used() -> None:
    context = HookContext()
    assert_type(context.Process(target=lambda: None, daemon=True), HookProcess)
    context.set_forkserver_preload(["decimal"])
    with context.Pool(2, initializer=load, initargs=("a", 1)) as pool:
        pool.map(lambda x: x, [context.Event(), context.Queue(), context.Lock()])
    multiprocessing.set_start_method("hookpool")
    hookpool.context.stop()
    hookpool.managers.BaseManager.register("numbers", lambda: [1, 2])


def joblib_is_told() -> None:
    hookpool.joblib.register(make_default=True)
    hookpool.joblib.stop_workers()


hookpool.HookPoolExcutor  # type: ignore[attr-defined]  # noqa: B018
