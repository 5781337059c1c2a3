"""Subjects: an adapter for each way to run functions in processes, with the same few methods.

A subject knows how its library wants to be used and nothing about what is measured. Libraries are
imported in `start` or later, never at import of this module: a block that measures one library
must not pay for, or be disturbed by, another (loky and joblib replace each other's context in one
process). Nor is anything else that a block could do without.

A subject *can* do a case when it overrides the methods the case needs; what the base class
refuses, it cannot.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias

Function: TypeAlias = "Callable[[Any], Any]"
LOST_POOL = "pool lost, made anew"  # a crash has cost it, and whatever was queued
#: how many items `consume` may have under way
WINDOW = 1000


class Subject:
    """The methods that cases call. `start` comes first, `stop` last, all from one thread."""

    name: ClassVar[str]
    #: what a user of the library writes at the top of a program
    import_line: ClassVar[str]
    #: distributions whose versions are recorded, empty for the standard library
    packages: ClassVar[tuple[str, ...]] = ()
    #: False: the subject is given an importable function where others get a lambda
    takes_lambdas: ClassVar[bool] = False
    #: True: differs from a sibling in how processes start and nothing else, so it is asked about
    #: that only
    only_starts: ClassVar[bool] = False
    #: True: has its own way with large data and is asked about nothing else
    only_large: ClassVar[bool] = False
    #: True: a sibling on the same engine, shown beside it: one round of each case is enough
    once: ClassVar[bool] = False

    def __init__(self) -> None:
        #: what has to be said next to the numbers of this block
        self.notes: list[str] = []

    def start(self, workers: int) -> None:
        raise NotImplementedError

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        """Start with an initializer for each worker."""
        raise NotImplementedError

    def preload(self, module: str) -> None:
        """Have workers start with this module imported, where that takes no more than a call.

        By fork they do anyway: this program has imported it.
        """

    def start_recycling(self, workers: int) -> None:
        """Start with a new worker for each task that is submitted."""
        raise NotImplementedError

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        """One task, and wait for its result."""
        raise NotImplementedError

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        """One call per task, then all results."""
        raise NotImplementedError

    def completed_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        """One call per task, results in the order of completion."""
        raise NotImplementedError

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        """The library's map at default arguments."""
        raise NotImplementedError

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        """The map of a function of two arguments, the first of which is the same in each call."""
        raise NotImplementedError

    def spread(self, fn: Function, common: Any, items: Iterable[Any]) -> list[Any]:
        """A function of (common, item), by what is there for large data that all tasks read."""
        raise NotImplementedError

    def start_without_sharing(self, workers: int) -> None:
        """Start so that large data go through pipes."""
        raise NotImplementedError

    def consume(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Results one by one, by what the library has to keep few of them in memory."""
        raise NotImplementedError

    def run_process(self, fn: Callable[[], None]) -> None:
        """Start a process and join it."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def stop(self) -> None:
        raise NotImplementedError

    def can(self, methods: Iterable[str]) -> bool:
        return all(getattr(type(self), name) is not getattr(Subject, name) for name in methods)


class ExecutorSubject(Subject):
    """Anything with the interface of `concurrent.futures.Executor`."""

    pool: Executor

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.pool.submit(fn, arg).result()

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        futures = [self.pool.submit(fn, arg) for arg in args]
        return [future.result() for future in futures]

    def completed_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        futures = [self.pool.submit(fn, arg) for arg in args]
        return [future.result() for future in as_completed(futures)]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        return list(self.pool.map(fn, itertools.repeat(common), items))

    def stop(self) -> None:
        self.pool.shutdown()


class StdlibExecutor(ExecutorSubject):
    import_line = "from concurrent.futures import ProcessPoolExecutor"
    method: ClassVar[str]

    def _start(self, workers: int, **more: Any) -> None:
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self.method)
        self.pool = ProcessPoolExecutor(workers, mp_context=context, **more)

    def start(self, workers: int) -> None:
        self._start(workers)

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        self._start(workers, initializer=initializer, initargs=args)


class Recycling(StdlibExecutor):
    """Its start methods that can replace workers; fork cannot."""

    def start_recycling(self, workers: int) -> None:
        self._start(workers, max_tasks_per_child=1)


class PpeFork(StdlibExecutor):
    name = "ppe-fork"
    method = "fork"


class PpeForkserver(Recycling):
    name = "ppe-forkserver"
    only_starts = True
    method = "forkserver"


class PpeSpawn(Recycling):
    name = "ppe-spawn"
    only_starts = True
    method = "spawn"


def _preload(subject: Subject, module: str) -> None:
    import hookpool  # noqa: F401 - registers the start method

    context: Any = multiprocessing.get_context("hookpool")
    context.set_forkserver_preload([module])
    subject.note(f"{module} preloaded")


class HookPool(ExecutorSubject):
    name = "hookpool"
    import_line = "from hookpool import HookPoolExecutor"
    packages = ("hookpool",)
    takes_lambdas = True

    def _start(self, workers: int, **more: Any) -> None:
        from hookpool import HookPoolExecutor

        self.pool = HookPoolExecutor(workers, **more)

    def start(self, workers: int) -> None:
        self._start(workers)

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        self._start(workers, initializer=initializer, initargs=args)

    def start_recycling(self, workers: int) -> None:
        self._start(workers, max_tasks_per_child=1)

    def start_without_sharing(self, workers: int) -> None:
        self._start(workers, shared_memory=0)

    def preload(self, module: str) -> None:
        _preload(self, module)

    def spread(self, fn: Function, common: Any, items: Iterable[Any]) -> list[Any]:
        handle = self.pool.put(common)  # type: ignore[attr-defined]
        return [future.result() for future in [self.pool.submit(fn, (handle, n)) for n in items]]

    def consume(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        more: Any = {"buffersize": WINDOW}  # not in the type of every Executor's map yet
        return self.pool.map(fn, items, **more)


class Loky(ExecutorSubject):
    name = "loky"
    import_line = "from loky import get_reusable_executor"
    packages = ("loky", "cloudpickle")
    takes_lambdas = True

    def start(self, workers: int) -> None:
        from loky import get_reusable_executor

        self.pool = get_reusable_executor(workers)

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        from loky import get_reusable_executor

        self.pool = get_reusable_executor(workers, initializer=initializer, initargs=args)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        # Asked for anew each time, as its users do: this is what brings it back after a crash.
        from loky import get_reusable_executor

        current = get_reusable_executor(reuse=True)
        if current is not self.pool:
            self.note(LOST_POOL)
        self.pool = current
        return self.pool.submit(fn, arg).result()


class PoolSubject(Subject):
    """`multiprocessing.Pool` of some context."""

    pool: Any
    method: ClassVar[str]

    def _start(self, workers: int, *more: Any, **options: Any) -> None:
        self.pool = multiprocessing.get_context(self.method).Pool(workers, *more, **options)

    def start(self, workers: int) -> None:
        self._start(workers)

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        self._start(workers, initializer, args)

    def start_recycling(self, workers: int) -> None:
        self._start(workers, maxtasksperchild=1)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.pool.apply(fn, (arg,))

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        pending = [self.pool.apply_async(fn, (arg,)) for arg in args]
        return [result.get() for result in pending]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        # A chunk is one pickle, so that it is in each but once; its tasks share it, too.
        return list(self.pool.starmap(fn, zip(itertools.repeat(common), items)))

    def consume(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, items, chunksize=100))

    def run_process(self, fn: Callable[[], None]) -> None:
        context: Any = multiprocessing.get_context(self.method)
        process = context.Process(target=fn)
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{self.name}: Process ended with exit code {process.exitcode}")

    def stop(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()
            self.pool.join()


class PoolFork(PoolSubject):
    name = "pool-fork"
    import_line = "import multiprocessing.pool"
    method = "fork"


class PoolForkserver(PoolSubject):
    name = "pool-forkserver"
    only_starts = True
    import_line = "import multiprocessing.pool"
    method = "forkserver"


class PoolSpawn(PoolSubject):
    name = "pool-spawn"
    only_starts = True
    import_line = "import multiprocessing.pool"
    method = "spawn"


class PoolHook(PoolSubject):
    name = "pool-hookpool"
    import_line = "import hookpool"
    packages = ("hookpool",)
    takes_lambdas = True
    once = True
    method = "hookpool"

    def _start(self, workers: int, *more: Any, **options: Any) -> None:
        import hookpool  # noqa: F401 - registers the start method

        super()._start(workers, *more, **options)

    def preload(self, module: str) -> None:
        _preload(self, module)

    def run_process(self, fn: Callable[[], None]) -> None:
        import hookpool  # noqa: F401 - registers the start method

        super().run_process(fn)


class JoblibSubject(Subject):
    """joblib has no submit: one task is a call of `Parallel` with one item, as users write it."""

    takes_lambdas = True
    backend: ClassVar[str]
    parallel: Any
    workers: int

    def start(self, workers: int) -> None:
        from joblib import Parallel

        self.workers = workers
        self.parallel = Parallel(n_jobs=workers, backend=self.backend)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.map_many(fn, [arg])[0]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        from joblib import delayed

        return list(self.parallel(delayed(fn)(item) for item in items))

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        from joblib import delayed

        return list(self.parallel(delayed(fn)(common, item) for item in items))

    def spread(self, fn: Function, common: Any, items: Iterable[Any]) -> list[Any]:
        return self.map_many(fn, ((common, item) for item in items))  # mapped from a file

    def consume(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        from joblib import Parallel, delayed

        stream = Parallel(n_jobs=self.workers, backend=self.backend, return_as="generator")
        return iter(stream(delayed(fn)(item) for item in items))


class JoblibLoky(JoblibSubject):
    name = "joblib"
    import_line = "from joblib import Parallel, delayed"
    packages = ("joblib", "cloudpickle")
    backend = "loky"

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class JoblibNothing(JoblibSubject):
    """What joblib itself takes: its calls are answered, by another thread, and never made."""

    name = "nothing"
    import_line = "from joblib import Parallel, delayed"
    packages = ("joblib",)
    backend = "nothing"

    def start(self, workers: int) -> None:
        from bench import nothing

        nothing.register()
        super().start(workers)

    def stop(self) -> None:
        pass  # a call ends its own thread


class JoblibHook(JoblibSubject):
    name = "joblib-hookpool"
    import_line = "from joblib import Parallel, delayed; import hookpool.joblib"
    packages = ("joblib", "hookpool")
    once = True
    backend = "hookpool"

    def start(self, workers: int) -> None:
        import hookpool.joblib

        hookpool.joblib.register()
        super().start(workers)

    def stop(self) -> None:
        import hookpool.joblib

        hookpool.joblib.stop_workers()


class _Unpacking:
    """mpire hands an initializer all shared objects as one argument."""

    def __init__(self, fn: Callable[..., object]) -> None:
        self.fn = fn

    def __call__(self, shared: tuple[Any, ...]) -> None:
        self.fn(*shared)


class _Ignoring:
    """A function without what mpire puts before its argument when there are shared objects."""

    def __init__(self, fn: Function) -> None:
        self.fn = fn

    def __call__(self, shared: object, item: Any) -> Any:
        return self.fn(item)


class Mpire(Subject):
    name = "mpire"
    import_line = "from mpire import WorkerPool"
    packages = ("mpire",)
    pools: dict[str, Any]
    workers: int
    #: arguments of every map
    per_map: dict[str, Any]

    def start(self, workers: int) -> None:
        self.workers = workers
        self.pools = {}
        # Else arrays that are results come back as one array.
        self.per_map = {"concatenate_numpy_output": False}

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        self.start(workers)
        # Shared objects are what it has for data that all tasks read: with fork nothing is copied.
        from mpire.pool import WorkerPool

        self.pools["map"] = WorkerPool(workers, keep_alive=True, shared_objects=args)
        self.per_map["worker_init"] = _Unpacking(initializer)

    def _pool(self, purpose: str) -> Any:
        # One for apply and one for map: version 2.10.2 calls a function wrongly that a living pool
        # has applied before it maps it. keep_alive is how its documentation says to use a pool for
        # several calls.
        from mpire.pool import WorkerPool

        if purpose not in self.pools:
            self.pools[purpose] = WorkerPool(self.workers, keep_alive=True)
        return self.pools[purpose]

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self._pool("apply").apply(fn, (arg,))

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        pool = self._pool("apply")
        pending = [pool.apply_async(fn, (arg,)) for arg in args]
        return [result.get() for result in pending]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        # Its map takes an item that can be iterated over for the arguments of a call.
        from mpire.utils import make_single_arguments

        arguments = make_single_arguments(items, generator=False)
        if "worker_init" in self.per_map:
            fn = _Ignoring(fn)
        return list(self._pool("map").map(fn, arguments, **self.per_map))

    def stop(self) -> None:
        for pool in self.pools.values():
            pool.stop_and_join()


class Pebble(Subject):
    name = "pebble"
    import_line = "from pebble import ProcessPool"
    packages = ("pebble",)
    pool: Any

    def _start(self, workers: int, **more: Any) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=workers, **more)

    def start(self, workers: int) -> None:
        self._start(workers)

    def start_with(self, workers: int, initializer: Callable[..., object], *args: Any) -> None:
        self._start(workers, initializer=initializer, initargs=args)

    def start_recycling(self, workers: int) -> None:
        self._start(workers, max_tasks=1)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.pool.schedule(fn, args=(arg,)).result()

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        futures = [self.pool.schedule(fn, args=(arg,)) for arg in args]
        return [future.result() for future in futures]

    def completed_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        futures = [self.pool.schedule(fn, args=(arg,)) for arg in args]
        return [future.result() for future in as_completed(futures)]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items).result())

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        return list(self.pool.map(fn, itertools.repeat(common), items).result())

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()


class Ray(Subject):
    """An object store in shared memory. What arrives from it cannot be written to."""

    name = "ray"
    import_line = "import ray"
    packages = ("ray",)
    takes_lambdas = True
    only_large = True

    def start(self, workers: int) -> None:
        import ray

        options: Any = {"include_dashboard": False, "log_to_driver": False}
        ray.init(num_cpus=workers, object_store_memory=2 << 30, **options)
        self._remote: dict[Any, Any] = {}

    def _call(self, fn: Callable[..., Any], *args: Any) -> Any:
        import ray

        if fn not in self._remote:
            self._remote[fn] = ray.remote(fn)
        return self._remote[fn].remote(*args)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        import ray

        return ray.get(self._call(fn, arg))

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        import ray

        return list(ray.get([self._call(fn, item) for item in items]))

    def map_common(
        self, fn: Callable[..., Any], common: Any, items: Iterable[Any]
    ) -> Iterable[Any]:
        import ray

        return list(ray.get([self._call(fn, common, item) for item in items]))

    def spread(self, fn: Function, common: Any, items: Iterable[Any]) -> list[Any]:
        import ray

        handle = ray.put(common)
        return list(ray.get([self._call(_pair, fn, handle, item) for item in items]))

    def stop(self) -> None:
        import ray

        ray.shutdown()


def _pair(fn: Function, common: Any, item: Any) -> Any:
    """ray finds a handle among the arguments only, not in a tuple that is one of them."""
    return fn((common, item))


def known(name: str) -> Subject:
    """The subject of that name."""
    try:
        return SUBJECTS[name]()
    except KeyError:
        raise SystemExit(f"no subject {name!r}; there are {', '.join(SUBJECTS)}") from None


def is_supported(subject: Subject) -> bool:
    """False where the operating system lacks the start method, or ray is not installed.

    ray is in no list of what to install: it is larger than all the others together.
    """
    from importlib.util import find_spec  # not for a program that is timed from its start

    if subject.only_large and find_spec(subject.name) is None:
        return False
    method = getattr(subject, "method", "hookpool")
    return method == "hookpool" or method in multiprocessing.get_all_start_methods()


#: in the order of the printed tables
SUBJECTS: dict[str, type[Subject]] = {
    subject.name: subject
    for subject in (
        PpeFork,
        PpeForkserver,
        PpeSpawn,
        PoolFork,
        PoolForkserver,
        PoolSpawn,
        Loky,
        JoblibLoky,
        Mpire,
        Pebble,
        Ray,
        HookPool,
        PoolHook,
        JoblibHook,
    )
}

#: enough for a first look
QUICK = (
    "ppe-fork",
    "ppe-spawn",
    "pool-fork",
    "loky",
    "joblib",
    "mpire",
    "pebble",
    "hookpool",
)
