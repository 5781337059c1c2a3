"""The joblib backend: ``hookpool.joblib.register()``, then ``Parallel(backend="hookpool")``.

Owns what joblib asks of a backend, the workers kept between calls, and the large arrays of a call,
which travel as files that workers map.  Knows nothing of how tasks reach workers (`executor`) nor
of how often joblib is going to call (`AutoBatchingMixin` decides on batches).

Joblib's callbacks come in a thread of the executor, `submit` in that thread or in the user's; the
rest in the user's.  Nothing here may raise into the executor's thread: joblib would wait forever
for a batch whose dispatch failed there, so what fails in `submit` becomes a failed future.

Never imports the standalone loky, which would replace a context below joblib's own copy of it.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import sys
import threading
import uuid
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from multiprocessing import process
from typing import Any, NamedTuple

import joblib
from joblib._memmapping_reducer import _get_backing_memmap, _get_temp_dir, _reduce_memmap_backed
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.externals.loky import process_executor as _loky
from joblib.externals.loky.backend import resource_tracker
from joblib.parallel import BACKENDS

from hookpool import _worker, errors
from hookpool.executor import HookPoolExecutor
from hookpool.reduction import WorkerPickler

__all__ = ["HookPoolBackend", "TerminatedWorkerError", "register", "stop_workers"]

#: As joblib's own backend: long enough for the next cell of a notebook to find warm workers.
IDLE_TIMEOUT = 300.0
#: After an error, how long the other running batches may take to end by themselves, in seconds. A
#: shorter time kills workers that were about to be free; a longer one delays the error.
ABORT_GRACE = 0.05

Reducer = Callable[[Any], Any]


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
        self._arrays: _Arrays
        self._configured: dict[str, Any] = {}
        self._unfinished: set[Future[Any]] = set()

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
            self._arrays = _Arrays(max_nbytes, mmap_mode, temp_folder)
            self._workers = _stock.take(self._settings)
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
        future = self._submitted(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # the name before joblib 1.5

    def _submitted(self, func: Callable[[], Any]) -> Future[Any]:
        workers = self._workers
        try:
            if workers is None:
                raise RuntimeError(
                    "the workers of this Parallel have been stopped; was its generator dropped?"
                )
            payload, held = self._arrays.dump(func)
            future = workers.submit(_run_batch, payload)
        except Exception as error:  # noqa: BLE001 - see the module docstring
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        if held:
            arrays = self._arrays
            future.add_done_callback(lambda _: arrays.release(held))
        return future

    def retrieve_result_callback(self, future: Future[bytes]) -> Any:
        """The results of a batch, or what it raised."""
        try:
            return pickle.loads(future.result())
        except (errors.WorkerDied, errors.ResultLost) as error:
            terminated = TerminatedWorkerError(*error.args)
            terminated.__dict__.update(error.__dict__)
            raise terminated from error

    def stop_call(self) -> None:
        """End of one call: its arrays are not looked at again, and may change before the next."""
        if self._calls == 1:
            self._arrays.forget()

    def terminate(self) -> None:
        """End of a call outside, or of the whole of, a ``with`` block: keep the workers."""
        self._calls = max(self._calls - 1, 0)
        if self._calls == 0 and self._workers is not None:
            _stock.give(self._settings, self._workers)
            self._workers = None
            self._arrays.close()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits, kill the workers of what runs."""
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
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self._configured)


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
        if _worker.depth:  # idle workers of each worker: they would multiply
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


# ---- large arrays --------------------------------------------------------------------------


class _File:
    """An array on disk (or in shared memory), as long as it or a batch that uses it exists."""

    __slots__ = ("array", "path", "users")

    def __init__(self, path: str, array: weakref.ref[Any]) -> None:
        self.path = path
        self.array = array
        #: Batches that have been sent with it and are not done.
        self.users = 0


class _Arrays:
    """The large arrays of one Parallel: written once each, mapped by every worker that needs them.

    The files are in a folder of their own, removed at the end of the Parallel. Joblib's resource
    tracker, a process that outlives this one by a moment, is told of the folder when it is made,
    and removes it should this process be killed.
    """

    def __init__(
        self, max_nbytes: float | None, mmap_mode: str | None, temp_folder: str | None
    ) -> None:
        self._max_nbytes = None if mmap_mode is None else max_nbytes
        self._mmap_mode = mmap_mode
        self._temp_folder = temp_folder
        self._folder: str | None = None
        self._files: dict[int, _File] = {}  # by the id of the array
        self._lock = threading.Lock()
        # Ids of arrays that are gone: their weak references append here, and do nothing else,
        # since they may come at any moment in a thread that holds the lock.
        self._gone: deque[int] = deque()
        #: The files of the dump in progress. Joblib dispatches one batch at a time, in its lock.
        self._held: list[_File] = []

    def dump(self, func: Callable[[], Any]) -> tuple[bytes, list[_File]]:
        """The pickle of a batch, and the files that must stay until it is done."""
        self._held = []
        try:
            data = _dump(func, self._reduce)
        except BaseException:
            self.release(self._held)
            raise
        return data, self._held

    def release(self, held: list[_File]) -> None:
        """A batch is done; files that nobody can ask for again are removed."""
        with self._lock:
            for file in held:
                file.users -= 1
                if file.users == 0 and file.array() is None:
                    _remove(file.path)
            self._sweep()

    def forget(self) -> None:
        """Remove all files: the arrays may change, and must then be written again."""
        with self._lock:
            for file in self._files.values():
                _remove(file.path)
            self._files.clear()

    def close(self) -> None:
        """Remove the folder."""
        self.forget()
        folder, self._folder = self._folder, None
        if folder is not None:
            try:
                _remove_folder(folder)
            except OSError:
                return  # a worker on Windows maps it still; the tracker removes it at exit
            resource_tracker.unregister(folder, "folder")

    def _reduce(self, array: Any) -> Any:
        """How arrays travel; called by the pickler."""
        backing = _get_backing_memmap(array)
        if backing is not None and hasattr(backing, "filename"):
            return _reduce_memmap_backed(array, backing)
        if self._max_nbytes is None or array.nbytes <= self._max_nbytes or array.dtype.hasobject:
            return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._sweep()
            file = self._files.get(id(array))
            if file is None:
                file = self._files[id(array)] = self._written(array)
            file.users += 1
        self._held.append(file)
        return _mapped, (file.path, self._mmap_mode)

    def _written(self, array: Any) -> _File:
        if self._folder is None:
            self._folder = _make_folder(self._temp_folder)
        path = os.path.join(self._folder, f"{uuid.uuid4().hex}.pkl")
        joblib.dump(array, path)
        number, gone = id(array), self._gone
        return _File(path, weakref.ref(array, lambda _: gone.append(number)))

    def _sweep(self) -> None:
        while self._gone:
            number = self._gone.popleft()
            file = self._files.get(number)
            # Another array may have got the id since.
            if file is not None and file.array() is None:
                del self._files[number]
                if file.users == 0:
                    _remove(file.path)


#: The start of the name of every folder made here: whose leftovers they are, and which memory maps
#: in a worker are ours.
_FOLDER = "joblib_memmapping_folder_hookpool_"


def _make_folder(temp_folder: str | None) -> str:
    """A private folder where joblib's documentation says, known to joblib's tracker."""
    name = f"{_FOLDER}{os.getpid()}_{uuid.uuid4().hex}"
    folder: str = _get_temp_dir(name, temp_folder)[0]
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o700)
    resource_tracker.register(folder, "folder")
    return folder


def _remove_folder(folder: str) -> None:
    for name in os.listdir(folder):
        _remove(os.path.join(folder, name))
    os.rmdir(folder)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):  # the latter: mapped, on Windows
        os.unlink(path)


# ---- both sides ----------------------------------------------------------------------------


def _dump(obj: Any, reduce_array: Reducer) -> bytes:
    file = io.BytesIO()
    pickler = WorkerPickler(file)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        pickler.dispatch_table = {
            **copyreg.dispatch_table,
            numpy.ndarray: reduce_array,
            numpy.memmap: reduce_array,
        }
    try:
        pickler.dump(obj)
    except pickle.PicklingError:
        raise
    except Exception as error:  # a __reduce__ of the user's may raise anything
        raise errors.CannotPickle(
            f"could not pickle the task to send to the workers: {type(error).__name__}: {error}"
        ) from error
    return file.getvalue()


# ---- the worker's side ---------------------------------------------------------------------


def _run_batch(payload: bytes) -> bytes:
    """Run a batch of joblib's in a worker."""
    if "hookpool" not in BACKENDS:
        register()  # a task may name the backend itself
    # What joblib's multiprocessing backend looks at to see that it is in a worker, and loky's own
    # executor to see how deep.
    _loky._CURRENT_DEPTH = _worker.depth
    return _dump(pickle.loads(payload)(), _reduce_result)


def _mapped(path: str, mmap_mode: str) -> Any:
    """Stands in the pickle of a batch for a large array."""
    return joblib.load(path, mmap_mode=mmap_mode)


def _reduce_result(array: Any) -> Any:
    """Arrays go back as they are, maps of the user's own files by the name of the file."""
    backing = _get_backing_memmap(array)
    if backing is None or not hasattr(backing, "filename"):
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if os.path.basename(os.path.dirname(backing.filename)).startswith(_FOLDER):
        # The file ends with the call; results must not refer to it.
        plain = array.view(sys.modules["numpy"].ndarray)
        return plain.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return _reduce_memmap_backed(array, backing)
