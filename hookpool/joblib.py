"""The joblib backend: ``hookpool.joblib.register()``, then ``Parallel(backend="hookpool")``.

Owns what joblib asks of a backend, and the workers kept between calls.  Knows nothing of how tasks
reach workers (`executor`), of what a batch is on its way (`_batch`), of the files of large arrays
(`_arrays`), nor of how often joblib is going to call (`AutoBatchingMixin` decides on batches).

Joblib's callbacks come in a thread of the executor, `submit` in that thread or in the user's; the
rest in the user's.  Nothing here may raise into the executor's thread: joblib would wait forever
for a batch whose dispatch failed there, so what fails in `submit` becomes a failed future.

Never imports the standalone loky, which would replace a context below joblib's own copy of it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from multiprocessing import process
from typing import Any, NamedTuple

import joblib
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.externals.loky import process_executor as _loky
from joblib.parallel import BACKENDS, BatchedCalls, parallel_config

from hookpool import _batch, _nesting, errors
from hookpool._arrays import Arrays, File
from hookpool.executor import HookPoolExecutor

__all__ = ["HookPoolBackend", "TerminatedWorkerError", "register", "stop_workers"]

#: As joblib's own backend: long enough for the next cell of a notebook to find warm workers.
IDLE_TIMEOUT = 300.0
#: After an error, how long the other running batches may take to end by themselves, in seconds. A
#: shorter time kills workers that were about to be free; a longer one delays the error.
ABORT_GRACE = 0.05


def register(*, make_default: bool = False) -> None:
    """Make ``backend="hookpool"`` known to joblib, in this process and in its workers.

    Args:
        make_default: use it wherever no backend is named, scikit-learn's ``n_jobs`` included.

    >>> register()
    >>> joblib.Parallel(n_jobs=2, backend="hookpool")(
    ...     joblib.delayed(lambda x: x * 2)(i) for i in range(3)
    ... )
    [0, 2, 4]
    >>> stop_workers()
    """
    joblib.register_parallel_backend("hookpool", HookPoolBackend, make_default=make_default)


def stop_workers() -> None:
    """End the workers that are kept for the next call; calls that are running are not touched."""
    _stock.stop()


class TerminatedWorkerError(errors.WorkerDied, _loky.TerminatedWorkerError):  # type: ignore[misc]
    """A worker died while it ran a batch: hookpool's error, and the one joblib's users catch."""


def _terminated(error: errors.WorkerDied) -> TerminatedWorkerError:
    """The same facts, as far as they concern a batch."""
    terminated = TerminatedWorkerError(
        f"worker {error.pid} {errors.describe_exit(error.exitcode)} while it had a batch of this "
        f"Parallel ({error.task}): which of its tasks have run is not known; this call ends, and "
        "the next one has workers again"
    )
    terminated.__dict__.update(error.__dict__)
    return terminated


# ---- the backend ---------------------------------------------------------------------------


class HookPoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """What joblib calls; made by joblib from the registered name.

    Args:
        nesting_level: set by joblib.
        inner_max_num_threads: threads of numeric libraries in each worker.
        initializer, initargs, idle_worker_timeout: as in `configure`, for
            ``parallel_config(backend="hookpool", initializer=...)``.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    #: The executor of the calls in progress. None between calls.
    _workers: HookPoolExecutor | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: How many calls of `configure` await their `terminate`: more than one where generators of
        #: one ``parallel_config`` are consumed in turns. They share workers and files.
        self._calls = 0
        self._settings: _Settings
        self._arrays: Arrays
        self._packer: _batch.Packer
        self._configured: dict[str, Any] = {}
        #: Batches whose callback has not returned.
        self._unfinished: set[Future[Any]] = set()
        #: The `Parallel` whose user's thread waits for news, and what wakes it up.
        self._awaited: Any = None
        self._news = threading.Event()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches can run at a time; 1 where workers cannot be had, with a warning."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        obstacle = self._obstacle()
        if obstacle is not None:
            if n_jobs != 1:
                warnings.warn(f"{obstacle}, setting n_jobs=1", stacklevel=3)
            return 1
        if n_jobs < 0:
            return max(int(joblib.cpu_count()) + 1 + n_jobs, 1)
        return n_jobs

    def _obstacle(self) -> str | None:
        if process.current_process().daemon:
            return (
                "Hookpool-backed parallel loops cannot be called in a daemonic process of "
                "multiprocessing"
            )
        if not (self.in_main_thread() or self.nesting_level == 0):
            return "Hookpool-backed parallel loops cannot be nested below threads"
        return None

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        *,
        max_nbytes: float | None = 1e6,
        mmap_mode: str | None = "r",
        temp_folder: str | None = None,
        **options: Any,
    ) -> int:
        """Get workers for the calls of `parallel`; joblib passes what its user gave to Parallel.

        Args:
            options: `initializer`, `initargs` and `idle_worker_timeout` are for the workers;
                the rest is joblib's.
        """
        self._configured = dict(
            options, max_nbytes=max_nbytes, mmap_mode=mmap_mode, temp_folder=temp_folder
        )
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        if self._workers is None:
            self._settings = self._settings_for(n_jobs, options)
            self._arrays = Arrays(max_nbytes, mmap_mode, temp_folder)
            self._workers = _stock.take(self._settings)
            nested = __name__, self.nesting_level
            self._packer = _batch.Packer(self._workers._ledger, self._arrays, nested)
        self._calls += 1
        return n_jobs

    def _settings_for(self, n_jobs: int, options: dict[str, Any]) -> _Settings:
        options = {**getattr(self, "backend_kwargs", {}), **options}  # joblib 1.5 and later
        if "timeout" in options:
            raise ValueError(  # as joblib's own backend
                "the hookpool backend takes no 'timeout' for its workers; the time after which "
                "idle workers end is idle_worker_timeout"
            )
        idle = options.get("idle_worker_timeout")
        return _Settings(
            n_jobs,
            IDLE_TIMEOUT if idle is None else idle,
            options.get("initializer"),
            tuple(options.get("initargs", ())),
            tuple(sorted(self._prepare_worker_env(n_jobs=n_jobs).items())),
        )

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None
    ) -> Future[Any]:
        """Send a batch to a worker; `callback` gets the future once it is done, or has failed."""
        future, held = self._submitted(func)
        self._unfinished.add(future)
        future.add_done_callback(_Completion(self, self._arrays, held, callback))
        return future

    apply_async = submit  # the name before joblib 1.5

    def _submitted(self, func: Callable[[], Any]) -> tuple[Future[Any], list[File]]:
        arrays, workers = self._arrays, self._workers
        try:
            if workers is None:
                raise RuntimeError(
                    "the workers of this Parallel have been stopped; was its generator dropped?"
                )
            calls = func.items if isinstance(func, BatchedCalls) else func
            named = func if callable(calls) else calls[0][0]
            future = workers._submit_packet(_batch.run, self._packer.pack(calls), named)
        except BaseException as error:
            arrays.release(arrays.take_held())
            # What is no `Exception` may be Ctrl-C, but in the executor's thread it is the user's.
            # Not `isinstance`, which would ask the error's own `__class__`.
            in_pool = workers is not None and workers._driver.thread is threading.current_thread()
            if not issubclass(type(error), Exception) and not in_pool:
                raise
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed, []
        return future, arrays.take_held()

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of a batch, or what it raised."""
        try:
            return future.result()
        except errors.WorkerDied as error:
            if errors.was_raised_by_task(error):
                raise  # of a pool of the task's own
            raise _terminated(error) from None  # it says the same

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Joblib is about to look for results every 10 ms; wait here until there are some.

        Joblib's own eyes see to a timeout, and to calls that share this object.
        """
        if self._calls == 1 and self.parallel.timeout is None:
            self._awaited = self.parallel
            try:
                self._wait_for_news()
            finally:
                self._awaited = None
        yield

    def _wait_for_news(self) -> None:
        while True:
            self._news.clear()
            if self._has_news():
                return
            self._news.wait()

    def _has_news(self) -> bool:
        """Whether there are all results, or the first of a generator, or there is an error."""
        awaited = self._awaited
        if awaited is None:
            return False
        if not self._unfinished or awaited._aborting:
            return True
        return bool(awaited.return_generator and awaited.n_completed_tasks)

    def stop_call(self) -> None:
        """End of one call: its arrays are not looked at again, and may change before the next."""
        if self._calls == 1:
            self._arrays.forget()
            self._packer.end_call()

    def terminate(self) -> None:
        """End of a call outside, or of the whole of, a ``with`` block: keep the workers."""
        self._calls = max(self._calls - 1, 0)
        if self._calls == 0 and self._workers is not None:
            _stock.give(self._settings, self._workers)
            self._workers = None
            self._arrays.close()
            self._packer.end_call()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits, kill the workers of what runs."""
        # Batches that joblib has made ahead stay in a queue of the Parallel, and would be part of
        # its next call: after an error in a call, joblib's own backend may show that, too.
        with contextlib.suppress(AttributeError, queue.Empty):
            while True:
                self.parallel._ready_batches.get_nowait()
        workers, self._workers = self._workers, None
        if workers is None:
            return
        self._calls = 0
        unfinished = list(self._unfinished)
        for future in unfinished:
            future.cancel()
        if wait(unfinished, ABORT_GRACE).not_done:
            workers.kill_workers()
        else:
            _stock.give(self._settings, workers)
        self._arrays.close()
        self._packer.end_call()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self._configured)


class _Completion:
    """Called with the future of a batch when it is done."""

    __slots__ = ("_arrays", "_backend", "_callback", "_held")

    def __init__(
        self,
        backend: HookPoolBackend,
        arrays: Arrays,
        held: list[File],
        callback: Callable[[Any], None] | None,
    ) -> None:
        self._backend = backend
        self._arrays = arrays
        self._held = held
        self._callback = callback

    def __call__(self, future: Future[Any]) -> None:
        backend = self._backend
        try:
            if self._held:
                self._arrays.release(self._held)
            if self._callback is not None:
                self._callback(future)
        finally:
            # Only now: joblib may have dispatched the next batch meanwhile.
            backend._unfinished.discard(future)
            if backend._has_news():
                backend._news.set()


def nested(level: int) -> Any:
    """What a `Parallel` within a batch finds: a context manager, for a worker that runs one."""
    if "hookpool" not in BACKENDS:
        register()  # a task may name the backend itself
    # What joblib's multiprocessing backend looks at to see that it is in a worker, and loky's own
    # executor to see how deep.
    _loky._CURRENT_DEPTH = _nesting.depth
    backend, n_jobs = HookPoolBackend(nesting_level=level).get_nested_backend()
    return parallel_config(backend=backend, n_jobs=n_jobs)


# ---- workers between calls -----------------------------------------------------------------


class _Settings(NamedTuple):
    """What makes two executors interchangeable."""

    n_jobs: int
    idle_timeout: float
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    env: tuple[tuple[str, str], ...]

    def fits(self, other: _Settings) -> bool:
        """Initializers and their arguments are compared by identity: `==` of arrays is no bool."""
        return (
            self.n_jobs == other.n_jobs
            and self.idle_timeout == other.idle_timeout
            and self.env == other.env
            and self.initializer is other.initializer
            and [id(arg) for arg in self.initargs] == [id(arg) for arg in other.initargs]
        )

    def make(self) -> HookPoolExecutor:
        return HookPoolExecutor(
            self.n_jobs,
            initializer=self.initializer,
            initargs=self.initargs,
            idle_timeout=self.idle_timeout,
            env=dict(self.env),
            inner_threads=None,  # joblib's own rules are in `env`
        )


class _Stock:
    """At most one idle executor, for the next call with the same settings.

    A call has its executor to itself, so that an error in one call (which kills workers) cannot
    hurt another that runs beside it in another thread, or a generator that is not used up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: tuple[_Settings, HookPoolExecutor] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def take(self, settings: _Settings) -> HookPoolExecutor:
        """The idle executor if it fits, a new one if not."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            if idle[0].fits(settings) and _is_usable(idle[1]):
                return idle[1]
            idle[1].shutdown()
        return settings.make()

    def give(self, settings: _Settings, executor: HookPoolExecutor) -> None:
        """Keep an executor that has nothing to do."""
        if _nesting.depth:  # idle workers of each worker: they would multiply
            executor.shutdown()
            return
        with self._lock:
            former, self._idle = self._idle, (settings, executor)
        if former is not None:
            former[1].shutdown()

    def stop(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            idle[1].shutdown()

    def _forget(self) -> None:
        # In a forked child the executor is the parent's, and the lock may be held by a thread that
        # does not exist here.
        self._lock = threading.Lock()
        self._idle = None


def _is_usable(executor: HookPoolExecutor) -> bool:
    return not executor._broken and not executor._shutdown_thread


_stock = _Stock()
