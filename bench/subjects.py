"""Subjects: an adapter for each way to run functions in processes, with the same few methods.

A subject knows how its library wants to be used and nothing about what is measured. Libraries are
imported in `start` or later, never at import of this module: a block that measures one library
must not pay for, or be disturbed by, another (loky and joblib replace each other's context in one
process).

A subject *can* do a case when it overrides the methods the case needs; what the base class
refuses, it cannot.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, as_completed
from typing import Any, ClassVar

Function = Callable[[Any], Any]


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
    #: becomes true when a crash has cost the pool, and with it whatever was queued
    lost_pool: bool = False

    def start(self, workers: int) -> None:
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

    def run_process(self, fn: Callable[[], None]) -> None:
        """Start a process and join it."""
        raise NotImplementedError

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

    def stop(self) -> None:
        self.pool.shutdown()


class StdlibExecutor(ExecutorSubject):
    import_line = "from concurrent.futures import ProcessPoolExecutor"
    method: ClassVar[str]

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self.method)
        self.pool = ProcessPoolExecutor(workers, mp_context=context)


class PpeFork(StdlibExecutor):
    name = "ppe-fork"
    method = "fork"


class PpeForkserver(StdlibExecutor):
    name = "ppe-forkserver"
    method = "forkserver"


class PpeSpawn(StdlibExecutor):
    name = "ppe-spawn"
    only_starts = True
    method = "spawn"


class HookPool(ExecutorSubject):
    name = "hookpool"
    import_line = "from hookpool import HookPoolExecutor"
    packages = ("hookpool",)
    takes_lambdas = True

    def start(self, workers: int) -> None:
        from hookpool import HookPoolExecutor

        self.pool = HookPoolExecutor(workers)


class Loky(ExecutorSubject):
    name = "loky"
    import_line = "from loky import get_reusable_executor"
    packages = ("loky", "cloudpickle")
    takes_lambdas = True

    def start(self, workers: int) -> None:
        from loky import get_reusable_executor

        self.pool = get_reusable_executor(workers)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        # Asked for anew each time, as its users do: this is what brings it back after a crash.
        from loky import get_reusable_executor

        current = get_reusable_executor(reuse=True)
        self.lost_pool = self.lost_pool or current is not self.pool
        self.pool = current
        return self.pool.submit(fn, arg).result()


class PoolSubject(Subject):
    """`multiprocessing.Pool` of some context."""

    pool: Any
    method: ClassVar[str]

    def start(self, workers: int) -> None:
        self.pool = multiprocessing.get_context(self.method).Pool(workers)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.pool.apply(fn, (arg,))

    def submit_many(self, fn: Function, args: Iterable[Any]) -> list[Any]:
        pending = [self.pool.apply_async(fn, (arg,)) for arg in args]
        return [result.get() for result in pending]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

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
    method = "hookpool"

    def start(self, workers: int) -> None:
        import hookpool  # noqa: F401 - registers the start method

        super().start(workers)

    def run_process(self, fn: Callable[[], None]) -> None:
        import hookpool  # noqa: F401 - registers the start method

        super().run_process(fn)


class JoblibSubject(Subject):
    """joblib has no submit: one task is a call of `Parallel` with one item, as users write it."""

    takes_lambdas = True
    backend: ClassVar[str]
    parallel: Any

    def start(self, workers: int) -> None:
        from joblib import Parallel

        self.parallel = Parallel(n_jobs=workers, backend=self.backend)

    def submit_wait(self, fn: Function, arg: Any) -> Any:
        return self.map_many(fn, [arg])[0]

    def map_many(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        from joblib import delayed

        return list(self.parallel(delayed(fn)(item) for item in items))


class JoblibLoky(JoblibSubject):
    name = "joblib"
    import_line = "from joblib import Parallel, delayed"
    packages = ("joblib", "cloudpickle")
    backend = "loky"

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class JoblibHook(JoblibSubject):
    name = "joblib-hookpool"
    import_line = "from joblib import Parallel, delayed; import hookpool.joblib"
    packages = ("joblib", "hookpool")
    backend = "hookpool"

    def start(self, workers: int) -> None:
        import hookpool.joblib

        hookpool.joblib.register()
        super().start(workers)

    def stop(self) -> None:
        import hookpool.joblib

        hookpool.joblib.stop_workers()


class Mpire(Subject):
    name = "mpire"
    import_line = "from mpire import WorkerPool"
    packages = ("mpire",)
    pools: dict[str, Any]
    workers: int

    def start(self, workers: int) -> None:
        self.workers = workers
        self.pools = {}

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

        return list(self._pool("map").map(fn, make_single_arguments(items, generator=False)))

    def stop(self) -> None:
        for pool in self.pools.values():
            pool.stop_and_join()


class Pebble(Subject):
    name = "pebble"
    import_line = "from pebble import ProcessPool"
    packages = ("pebble",)
    pool: Any

    def start(self, workers: int) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=workers)

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

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()


def known(name: str) -> Subject:
    """The subject of that name."""
    try:
        return SUBJECTS[name]()
    except KeyError:
        raise SystemExit(f"no subject {name!r}; there are {', '.join(SUBJECTS)}") from None


def is_supported(subject: Subject) -> bool:
    """False where the operating system lacks the start method."""
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
        HookPool,
        PoolHook,
        JoblibHook,
    )
}

#: enough for a first look
QUICK = (
    "ppe-fork",
    "ppe-forkserver",
    "pool-fork",
    "loky",
    "joblib",
    "mpire",
    "pebble",
    "hookpool",
)
