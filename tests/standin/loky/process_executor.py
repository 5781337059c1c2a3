"""`HookPoolExecutor` with the constructor and the private names that loky's tests use."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from hookpool import errors, executor
from hookpool._nesting import DEEPEST as MAX_DEPTH
from hookpool.executor import HookPoolExecutor

BrokenProcessPool = errors.BrokenProcessPool
#: Any death of a worker, and what comes of it.
TerminatedWorkerError = errors.BrokenProcessPool
LokyRecursionError = errors.NestedTooDeep
#: Ours is the standard library's.
ShutdownExecutorError = RuntimeError
_RemoteTraceback = errors.RemoteTraceback

#: "break": the contract in which any death breaks the pool, which is loky's.
POLICY: Any = os.environ.get("STANDIN_ON_WORKER_DEATH", "break")

__all__ = [
    "MAX_DEPTH",
    "BrokenProcessPool",
    "LokyRecursionError",
    "ProcessPoolExecutor",
    "ShutdownExecutorError",
    "TerminatedWorkerError",
    "_RemoteTraceback",
]


class NoQueue:
    """A test joins the feeder thread of a queue that we do not have."""

    def join_thread(self) -> None:
        """There is none."""


class Flags(NamedTuple):
    """What loky's executor, its threads and its tests share; here a look at the driver."""

    driver: Any

    @property
    def broken(self) -> BaseException | None:
        # That the workers were killed on request is for loky a shutdown like any other.
        broken: BaseException | None = self.driver.broken
        return None if isinstance(broken, errors.PoolTerminated) else broken

    @property
    def shutdown(self) -> bool:
        return bool(self.driver.closed)


class ProcessPoolExecutor(HookPoolExecutor):
    """See the module."""

    _call_queue = NoQueue()

    def __init__(
        self,
        max_workers: int | None = None,
        job_reducers: Any = None,
        result_reducers: Any = None,
        timeout: float | None = None,
        context: Any = None,
        initializer: Any = None,
        initargs: tuple[Any, ...] = (),
        env: Any = None,
        **ours: Any,
    ) -> None:
        ours = {"mp_context": context, "idle_timeout": timeout} | ours
        super().__init__(
            max_workers,
            initializer=initializer,
            initargs=initargs,
            env=env,
            on_worker_death=POLICY,
            job_reducers=job_reducers,
            result_reducers=result_reducers,
            **ours,
        )
        self._timeout = ours["idle_timeout"]
        self._primed = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # loky starts all its workers with the first call, which its tests count on; ours start
        # when there is work for them. So there is some.
        missing, self._primed = self._max_workers - self._primed, self._max_workers
        for _ in range(missing):
            super().submit(time.sleep, 0.02)
        return super().submit(fn, *args, **kwargs)

    def shutdown(
        self, wait: bool = True, *, kill_workers: bool = False, cancel_futures: bool = False
    ) -> None:
        if kill_workers:
            self.kill_workers()
        else:
            super().shutdown(wait, cancel_futures=cancel_futures)

    def _resize(self, max_workers: int | None) -> None:
        if max_workers is None:
            raise ValueError("Trying to resize with max_workers=None")
        self.resize(max_workers)

    @property
    def _flags(self) -> Flags:
        return Flags(self._driver)

    @property
    def _running_work_items(self) -> list[int]:
        return [number for number in list(self._driver._tasks) if self._driver.is_running(number)]

    @property
    def _pending_work_items(self) -> list[int]:
        return list(self._driver._tasks)


# So that `get_reusable_executor` makes these.
executor.HookPoolExecutor = ProcessPoolExecutor  # type: ignore[misc]
