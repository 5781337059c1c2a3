"""`HookPoolExecutor`: the pool as its users see it.

::

      user thread                        driver thread                    worker process
    submit() --pickle--+            +-- wait: channels, deaths, time     _worker.main
      executor.py      |  _driver   |                                  +------------------+
        Future <-------+- outcomes -+   Scheduler.handle(event)        | loads -> call -> |
                       +- Submitted --> (lock; integers only)          | dumps            |
                          Send(worker, tasks) -- _wire, _channel ----->|                  |
                          Finished, WorkerExited <---------------------+------------------+

Owns arguments, futures and the order of a map's results.  Takes no decisions (`_scheduler`) and
does no I/O (`_driver`).  Any thread may call anything here.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import weakref
from concurrent.futures import Executor, Future

from hookpool import _arguments, _nesting
from hookpool._cpus import cpu_count
from hookpool._plain import THRESHOLD, are_plain
from hookpool.context import HookContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess
    from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

    # For the type checker; `_import_engine` binds these names.
    from hookpool import _desk, _events, _scheduler, errors
    from hookpool._buffers import Lender
    from hookpool._definitions import Ledger, Packet
    from hookpool._driver import Driver
    from hookpool._future import HookFuture
    from hookpool._map import Map
    from hookpool._repeats import repeats_in
    from hookpool._start import Start
    from hookpool._task import Task
    from hookpool._wire import Form
    from hookpool.reduction import Table

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["HookPoolExecutor", "cpu_count", "get_reusable_executor"]


def _import_engine() -> None:
    """Import what moves a pool, into this module's names; the first pool that is made does.

    Not at the top, as elsewhere: it takes about as long as a fork server takes to start, which it
    does meanwhile. Together with the imports there it is most of what a short program waits for.
    """
    global Driver, Form, HookFuture, Ledger, Lender, Map, Start, Task, repeats_in
    global _desk, _events, _scheduler, errors
    if getattr(threading, "_SHUTTING_DOWN", False):  # what is imported would say it otherwise
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")
    from hookpool import _desk, _events, _scheduler, errors
    from hookpool._buffers import Lender
    from hookpool._definitions import Ledger
    from hookpool._driver import Driver
    from hookpool._future import HookFuture
    from hookpool._map import Map
    from hookpool._repeats import repeats_in
    from hookpool._start import Start
    from hookpool._task import Task
    from hookpool._wire import Form


class _Calls(Executor):
    """What is called in the workers of a pool: an executor, or a view of one."""

    _driver: Driver
    _ledger: Ledger
    #: For how many seconds each call may run.
    _limit: float | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)`` and return the future of its result.

        What the call refers to is pickled here and now: later changes are not seen by the worker.
        What cannot be pickled fails the future, with the path to it. What the call raises does,
        too, with the traceback of the worker; and `WorkerDied`, should its worker die.

        Raises:
            BrokenProcessPool: the pool is broken.
            RuntimeError: the pool is shut down, or belongs to the parent of a forked process.
            NestedTooDeep: a module does this when it is imported, and is imported in a worker of
                the pool that it used then.
        """
        driver = self._driver
        future: HookFuture[T] = HookFuture(driver)
        driver.expect()
        try:
            task = self._task(future, fn, args, kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
            driver.check_open()
            future.set_exception(error)
            return future
        future._number = driver.submit(task)
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the built-in `map`, with the calls made in workers; yields in the order of the items.

        The iterator raises what a call raised when its turn comes, and ends. Closing or dropping
        it after the first value cancels the calls that no worker has started.  Where `submit` has
        been replaced, by a subclass or on the executor, each call is made by that.

        Args:
            fn: called with one item of each iterable; pickled once.
            iterables: taken from at once, all of them, unless `buffersize` is given.
            timeout: seconds from this call within which a result must be there, or `TimeoutError`.
            chunksize: accepted as in the standard library, and only checked: how many items travel
                together is decided by how long they are measured to take, and each item has an
                outcome of its own.
            buffersize: the most items taken and not yielded; the iterables may then be endless.

        Raises:
            ValueError: `chunksize` or `buffersize` is less than one.
            TypeError: `buffersize` is not an integer.
            BrokenProcessPool, RuntimeError, NestedTooDeep: as `submit`.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._driver.check_open()
        if getattr(self.submit, "__func__", None) is not _own_submit:
            from hookpool._submitted import mapped

            return mapped(self.submit, fn, zip(*iterables, strict=False), deadline, buffersize)
        is_lone = len(iterables) == 1
        items = iter(iterables[0]) if is_lone else zip(*iterables, strict=False)
        repeats = repeats_in(self._ledger, iterables)
        group, limit = _group(fn, self._limit), self._limit
        run = Map(self._driver, self._ledger, fn, group, items, is_lone, repeats, limit)
        try:
            run.feed(buffersize, all(type(one) in _AT_HAND for one in iterables))
        except BaseException:
            run.abandon(kill=False)  # the user's iterable raised, or Ctrl-C
            raise
        return run.results(deadline, None if buffersize is None else self)

    def _task(
        self,
        future: HookFuture[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Task:
        group, limit = _group(fn, self._limit), self._limit
        definition = self._ledger.call(fn)
        if definition is None:
            parts = {"the function": fn, "args": args, "kwargs": kwargs}
            packet, form = self._ledger.dump((fn, args, kwargs), parts), Form.CALL
        elif kwargs:
            parts = {"args": args, "kwargs": kwargs}
            packet, form = self._ledger.dump((args, kwargs), parts), Form.KWARGS
        elif are_plain(args):
            return Task(future, fn, definition, Form.PLAIN, args, (), group, limit)
        else:
            packet, form = self._ledger.dump(args, {"args": args}), Form.ARGS
        return Task(future, fn, definition, form, packet.data, packet.needs, group, limit)


class HookPoolExecutor(_Calls):
    """Run calls in worker processes: `concurrent.futures.ProcessPoolExecutor`, and more.

    Lambdas, closures and whatever is defined in ``__main__`` or at a prompt may be called, passed
    and returned; no ``if __name__ == "__main__"`` guard is needed.  A worker that dies fails the
    task it ran, and no other.

    Args:
        max_workers: the most workers at a time; by default the CPUs this process may use (see
            `cpu_count`).
        mp_context: the multiprocessing context that starts workers, or the name of one, such as
            ``"spawn"``; by default hookpool's. Others run the main file as they always do, so that
            it needs its guard.
        initializer: called as ``initializer(*initargs)`` in each worker before its first task.
            Should it raise, the pool is broken, and all tasks fail with `InitializerFailed`.
        initargs: its arguments; multiprocessing's locks and queues may be among them.
        max_tasks_per_child: a worker is replaced after so many tasks; None means never.
        on_worker_death: ``"replace"``: the death of a worker fails the task it ran, and only that.
            ``"break"``: the contract of the standard library, any death breaks the pool, but of
            those that the pool ends itself, see `options`.
        idle_timeout: a worker without work for so many seconds ends; None means never.  Workers
            of a ``"fork"`` context stay: others could not be forked without a risk.
        env: environment variables to set in each worker, strings to strings.
        inner_threads: how many threads numeric libraries (OpenMP, BLAS, ...) may start in a
            worker, unless the environment says so already.  By default the CPUs divided by
            `max_workers`, so that workers times threads fit; None leaves them alone.
        shared_memory: the most bytes of shared memory for arguments, and as much for the results
            of all workers together, each of which has an equal share; what exceeds it goes through
            pipes. What is kept of workers that have ended does not count. By default new memory
            may be half of what is available at the time. 0: none at all.
        large: from how many bytes on buffers and pickles are large and go into shared memory.
        job_reducers: by exact type, how objects in calls are pickled: functions that take the
            object and give a reduce value, as with `copyreg.pickle`. They come before all other
            reducers, and know nothing of the rest of the program.
        result_reducers: the same for objects in results.

    Raises:
        ValueError: a number is too small, or too large here, a word is none of those above, or
            there is no context of that name; or `max_tasks_per_child` is used with a context that
            forks.
        TypeError: an argument is not of the kind that is asked for.
        NestedTooDeep: this process is itself in a pool in a pool ... ten deep.

    Example:
        >>> with HookPoolExecutor(2) as pool:
        ...     list(pool.map(lambda x: x * 2, range(5)))
        [0, 2, 4, 6, 8]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        on_worker_death: Literal["replace", "break"] = "replace",
        idle_timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        inner_threads: int | Literal["share"] | None = "share",
        shared_memory: int | None = None,
        large: int = THRESHOLD,
        job_reducers: Table | None = None,
        result_reducers: Table | None = None,
    ) -> None:
        workers = _arguments.checked_workers(max_workers)
        context = _checked_context(mp_context)
        _expect_processes(context)
        _import_engine()
        forks = context.get_start_method(allow_none=False) == "fork"
        _arguments.check_tasks_per_child(max_tasks_per_child, forks)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable: {initializer!r}")
        shared_memory, large = _arguments.checked_memory(shared_memory, large)
        _arguments.check_policy(on_worker_death)
        idle_timeout = _arguments.checked_seconds("idle_timeout", idle_timeout)
        environ = _arguments.checked_environ(env)
        results = _arguments.checked_reducers("result_reducers", result_reducers)
        jobs = _arguments.checked_reducers("job_reducers", job_reducers)
        _nesting.check_depth()
        threads = _arguments.checked_threads(inner_threads, workers)
        self._max_workers = workers
        self._mp_context = context
        self._shared_memory = shared_memory
        lender = Lender(shared_memory, large)
        self._ledger = Ledger(lender, jobs)
        self._start = start = Start(
            initializer,
            initargs,
            environ,
            threads,
            _nesting.depth + 1,
            (self._share(), large),
            results,
            self._ledger.sharing,
        )
        config = _scheduler.Config(
            workers,
            max_tasks_per_child,
            None if forks else idle_timeout,
            break_on_death=on_worker_death == "break",
            all_at_once=forks,
        )
        self._driver = Driver(config, context, start, self._ledger, lender)
        # Pending work completes when the executor is dropped, and then the workers end. The
        # driver must not know the executor, or it would never be dropped.
        dropped = _events.ShutdownAsked(False, 0.0)
        weakref.finalize(self, self._driver.tell, dropped).atexit = False

    # -- more than the standard library has -------------------------------------------------

    def options(self, *, timeout: float | None) -> Executor:
        """A view of this pool, whose calls have a time limit each.

        It has the same `submit` and `map`, whose own arguments are the function's, and may go
        wherever an executor is taken; there may be many for one pool. To end it is to end the
        pool.

        Args:
            timeout: seconds for which a call may run, or None for any time; what it waits for a
                worker does not count. To load the function, with all that it imports, belongs to
                the first call of it in a worker. One that is not through by then fails with
                `TaskTimedOut`, a `TimeoutError`, and its worker is ended: whatever it does, also
                in C, also if it catches exceptions. That is at most an eighth of the time later,
                or 0.25 seconds. No other call is affected; but what a tiny one just before it has
                returned may be lost (`ResultLost`) where it lets no other thread run.

        Raises:
            ValueError: the time is not positive.
            TypeError: it is no number.

        Example:
            >>> with HookPoolExecutor(2) as pool:
            ...     quick = pool.options(timeout=0.5)
            ...     stuck, fine = quick.submit(time.sleep, 60), quick.submit(abs, -1)
            ...     type(stuck.exception()).__name__, fine.result()
            ('TaskTimedOut', 1)
        """
        return _View(self, _arguments.checked_limit(timeout))

    def put(self, obj: Any, *, read_only: bool = False) -> Any:
        """Keep an object for all tasks of this pool: what is returned stands for it, and is cheap.

        Wherever it is in the arguments of a call, or in what its function captures, the task finds
        the object itself. It is pickled and copied once, now, and sent to each worker once; large
        buffers in it are in shared memory, which goes back when the last reference to what is
        returned is gone, and the tasks that were given it are done. What a function captures,
        handles too, is loaded with the function: it is one object for all tasks of a worker, and
        stays as long as the function, or in a global as long as the worker. Past the pool's limit
        of shared memory it goes through the pipes, to each worker once.

        Args:
            obj: any object; later changes to it are not seen by tasks. But a function in it has
                the globals that all functions of its module share in a worker.
            read_only: by default each task gets a copy of its own and may write to it: of the
                large buffers only the pages that it writes to are copied, but all else is
                unpickled for each task. If true, it is unpickled once in each worker. Then numpy's
                arrays in it cannot be written to, nor can what a class hands over as a
                `pickle.PickleBuffer`; tasks must leave the rest of it as it is, too, to which
                `bytearray`, masked arrays and other subclasses of numpy's array belong.

        Raises:
            pickle.PicklingError: something in it cannot travel; the message says where it is.
            BrokenProcessPool: the pool is broken.
            RuntimeError: the pool is shut down, or belongs to the parent of a forked process.

        Example:
            >>> with HookPoolExecutor(2) as pool:
            ...     table = pool.put({n: n * n for n in range(100_000)}, read_only=True)
            ...     list(pool.map(lambda table, n: table[n], [table] * 3, [7, 8, 9]))
            [49, 64, 81]
        """
        driver = self._driver
        driver.check_open()
        driver.expect()
        return self._ledger.put(obj, read_only)

    def _submit_packet(
        self, fn: Callable[..., T], packet: Packet, named: Callable[..., Any]
    ) -> HookFuture[T]:
        """As `submit`, where a backend has had the arguments pickled by our ledger.

        Args:
            fn: what is called with them; importable.
            packet: the arguments, a tuple.
            named: the function that errors name, and by which it is learnt how long calls last.
        """
        future: HookFuture[T] = HookFuture(self._driver)
        self._driver.expect()
        definition = self._ledger.call(fn)
        task = Task(future, named, definition, Form.ARGS, packet.data, packet.needs, _group(named))
        future._number = self._driver.submit(task)
        return future

    # -- ending -----------------------------------------------------------------------------

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, kill_workers: bool = False
    ) -> None:
        """Take no more calls and end the workers when the pending ones are done.

        Args:
            wait: return only when nothing of the pool is left.
            cancel_futures: cancel what no worker has started.
            kill_workers: as with loky, end the workers at once, by SIGKILL; pending futures are
                cancelled, running ones fail with `PoolTerminated`.
        """
        self._driver.shut_down(cancel_futures or kill_workers)
        if kill_workers:
            self._driver.terminate(_desk.kill)
        if wait:
            self._driver.join()

    def terminate_workers(self) -> None:
        """End the workers by SIGTERM, without waiting for what they do; as in Python 3.14.

        Pending futures are cancelled, running ones fail with `PoolTerminated`, and the pool takes
        no more calls.
        """
        self._driver.end(_terminate)

    def kill_workers(self) -> None:
        """As `terminate_workers`, by SIGKILL."""
        self._driver.end(_desk.kill)

    def resize(self, max_workers: int) -> None:
        """Have at most so many workers from now on; surplus ones end when they have no work.

        Workers that start from now on get shares of `shared_memory` by this number; those that
        there are keep theirs.

        Raises:
            ValueError: `max_workers` is not positive, or too large here.
            TypeError: `max_workers` is not an integer.
        """
        self._max_workers = _arguments.checked_workers(max_workers)
        self._start.lending = self._share(), self._start.lending[1]
        self._driver.resize(self._max_workers)

    def _share(self) -> int | None:
        """The most bytes of shared memory for the results of one worker."""
        return None if self._shared_memory is None else self._shared_memory // self._max_workers

    def _retire(self, kill: bool) -> None:
        if kill:
            self.kill_workers()
        else:
            self.shutdown(wait=True)

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, *rest: object
    ) -> Literal[False]:
        if isinstance(error, KeyboardInterrupt) and not errors.was_raised_by_task(error):
            self.kill_workers()  # whoever presses Ctrl-C does not want to wait
            return False
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:  # nor whoever presses it only now
            self.kill_workers()
            raise
        return False

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} stays in the process that made it: submit functions to it "
            "and pass them arguments, or make a pool in the worker"
        )

    # -- what other libraries look at -------------------------------------------------------

    @property
    def _processes(self) -> dict[int, BaseProcess]:
        return self._driver.processes()

    @property
    def _broken(self) -> str | bool:
        return False if self._driver.broken is None else str(self._driver.broken)

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._driver.thread

    @property
    def _shutdown_thread(self) -> bool:
        return self._driver.closed


class _View(_Calls):
    """What `HookPoolExecutor.options` returns."""

    def __init__(self, pool: HookPoolExecutor, limit: float | None) -> None:
        self._pool = pool  # which is not dropped as long as somebody may submit
        self._driver = pool._driver
        self._ledger = pool._ledger
        self._limit = limit

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of the pool."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(self, *raised: Any) -> Literal[False]:
        return self._pool.__exit__(*raised)


#: Not asked for by name when it is compared: it may have been replaced in the class itself.
_own_submit = _Calls.submit

#: Whose items are there, and not yet to be made.
_AT_HAND = frozenset({list, tuple, range, set, frozenset, dict, str, bytes})


def _group(fn: object, limit: float | None = None) -> int:
    """Calls of one function are expected to last equally long, whatever object carries it.

    Those with a time limit are by themselves.
    """
    try:
        group = id(getattr(fn, "__code__", None) or type(fn))
    except Exception:  # noqa: BLE001 - whatever a user's __getattr__ raises
        group = id(type(fn))
    return group if limit is None else hash((group, limit))


def _terminate(process: BaseProcess) -> None:
    process.terminate()


def _checked_context(context: BaseContext | str | None) -> BaseContext:
    if context is None:
        context = "hookpool"
    if isinstance(context, str):
        return multiprocessing.get_context(context)
    # The module `multiprocessing` itself will do, and whatever else looks like one.
    if not hasattr(context, "Process") or not hasattr(context, "get_start_method"):
        raise TypeError(
            "mp_context must be a multiprocessing context, or the name of one such as 'spawn': "
            f"{context!r}"
        )
    return context


def _expect_processes(context: BaseContext) -> None:
    # Not in a worker: it imports modules that make a pool and use it in the program only.
    if isinstance(context, HookContext) and not _nesting.depth:
        context.expect_processes()


# -- the reusable executor ---------------------------------------------------------------------

_reusable: HookPoolExecutor | None = None
_reusable_arguments: dict[str, Any] = {}
_reusable_lock = threading.RLock()


def get_reusable_executor(
    max_workers: int | None = None,
    context: BaseContext | str | None = None,
    timeout: float | None = 10,
    kill_workers: bool = False,
    reuse: bool | Literal["auto"] = "auto",
    job_reducers: Table | None = None,
    result_reducers: Table | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    env: Mapping[str, str] | None = None,
) -> HookPoolExecutor:
    """Return the program's shared executor, making it, resizing it or replacing it as needed.

    Meaning and names of the arguments are loky's.  Any thread may call.

    Args:
        max_workers: with ``reuse=True`` None keeps the present size.
        context: a multiprocessing context or the name of one.
        timeout: workers without work for so many seconds end, as with `idle_timeout`.
        kill_workers: when the executor is replaced, kill its workers, and do not wait for them.
        reuse: True: reuse the present executor whatever its other arguments were; False: make a
            new one; ``"auto"``: reuse it if they were the same.
        job_reducers: as for `HookPoolExecutor`.
        result_reducers: as for `HookPoolExecutor`.
        initializer: as for `HookPoolExecutor`.
        initargs: as for `HookPoolExecutor`.
        env: as for `HookPoolExecutor`.

    Raises:
        ValueError: an argument is out of range, as for `HookPoolExecutor`.
        TypeError: an argument is not of the kind that is asked for.
    """
    global _reusable, _reusable_arguments
    if max_workers is not None and _arguments.whole("max_workers", max_workers) <= 0:
        raise ValueError(f"max_workers must be greater than 0, got {max_workers}.")
    if isinstance(context, str):
        context = multiprocessing.get_context(context)
    arguments: dict[str, Any] = {
        "mp_context": context,
        "idle_timeout": timeout,
        "job_reducers": _arguments.copied(job_reducers),
        "result_reducers": _arguments.copied(result_reducers),
        "initializer": initializer,
        "initargs": initargs,
        "env": _arguments.copied(env),
    }
    with _reusable_lock:
        present = _reusable
        if present is not None and _is_usable(present, reuse, arguments):
            if max_workers is None:
                max_workers = present._max_workers if reuse is True else cpu_count()
            present.resize(max_workers)
            return present
        _reusable = made = HookPoolExecutor(max_workers, **arguments)
        _reusable_arguments = arguments
    # Not under the lock: what this waits for may ask for the reusable executor, too.
    if present is not None:
        present._retire(kill_workers)
    return made


def _renew_reusable_lock() -> None:
    global _reusable_lock
    _reusable_lock = threading.RLock()  # a thread that does not exist here may have had it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_reusable_lock)


def _is_usable(
    present: HookPoolExecutor, reuse: bool | Literal["auto"], arguments: dict[str, Any]
) -> bool:
    driver = present._driver
    if driver.broken is not None or driver.closed or driver.forked:
        return False
    return _is_equal(arguments, _reusable_arguments) if reuse == "auto" else reuse


def _is_equal(one: Any, other: Any) -> bool:
    """Whether arguments are the same, as far as they can say so: arrays cannot."""
    if one is other:
        return True
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(map(_is_equal, one, other))
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - whatever a user's __eq__ raises
        return False
