"""The start method "hookpool": multiprocessing with a pickler of its own, and without main.

``multiprocessing.get_context("hookpool")`` has all that multiprocessing has. What its processes,
pools, queues, pipes and managers send travels by value where it cannot be imported over there;
children start from a private fork server and never run the caller's main file.

Owns the context object, its name, and what `multiprocessing.Queue` and its like do once hookpool
is the default method. Every worker imports this, so it is light: classes come when first asked
for. Any thread may call, as in the standard library. Standard contexts are as they were.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import context as mp_context
from multiprocessing.process import BaseProcess
from types import FrameType, FunctionType

# Not from `typing`: what a program imports before its first fork server starts does without it,
# since importing it takes 2 ms, while all wait (tests/test_worker_imports.py has an eye on that).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

__all__ = ["HookContext", "HookProcess", "stop"]

#: What every child needs, whatever it then does. Nothing here starts threads.
PRELOAD: Final = ("hookpool.context", "hookpool.reduction", "hookpool._start", "hookpool._worker")

#: What many children need, and no worker before the first result of a program.
PRELOAD_LATER: Final = (
    "hookpool.errors",
    "hookpool._launch",
    "hookpool._primitives",
    "multiprocessing.pool",
    "multiprocessing.synchronize",
    "traceback",
    "typing",
)

_preload: tuple[str, ...] = PRELOAD


class _StartMethod(str):
    """The method's name. Its pickle imports us, so that a child knows the name it is told."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _start_method, ()


def _start_method() -> _StartMethod:
    return NAME


NAME: Final = _StartMethod("hookpool")


class HookProcess(BaseProcess):
    """A process whose target and arguments travel by value."""

    _start_method = NAME

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        from hookpool import _launch

        return _launch.popen(process_obj, _launch.Modules(_preload, PRELOAD_LATER))

    @staticmethod
    def _after_fork() -> None:
        # Also called in the child of a plain `multiprocessing.Process`, where we are the default.
        BaseProcess._after_fork()  # type: ignore[attr-defined]
        from hookpool._ending import end_in_order

        end_in_order()
        if multiprocessing.current_process().daemon:
            from hookpool._lifeline import die_with_parent

            die_with_parent()


class HookContext(mp_context.BaseContext):
    """What `multiprocessing.get_context("hookpool")` returns.

    It has all that the standard contexts have, `Process`, `Pool`, `Queue`, `Manager` and the like,
    and `Listener` and `Client` besides. All objects of this class do the same.
    """

    _name = NAME
    Process = HookProcess

    def Pipe(self, duplex: bool = True) -> tuple[Any, Any]:
        from hookpool._primitives import pipe

        return pipe(duplex)

    def Queue(self, maxsize: int = 0) -> Any:
        from hookpool._primitives import Queue

        return Queue(maxsize, ctx=self)

    def JoinableQueue(self, maxsize: int = 0) -> Any:
        from hookpool._primitives import JoinableQueue

        return JoinableQueue(maxsize, ctx=self)

    def SimpleQueue(self) -> Any:
        from hookpool._primitives import SimpleQueue

        return SimpleQueue(ctx=self)

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Any:
        from hookpool._pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def Lock(self) -> Any:
        _start_tracker()
        return super().Lock()

    def RLock(self) -> Any:
        _start_tracker()
        return super().RLock()

    def Semaphore(self, value: int = 1) -> Any:
        _start_tracker()
        return super().Semaphore(value)

    def BoundedSemaphore(self, value: int = 1) -> Any:
        _start_tracker()
        return super().BoundedSemaphore(value)

    def Manager(self) -> Any:
        from hookpool.managers import SyncManager

        manager = SyncManager(ctx=self)
        manager.start()
        return manager

    def Listener(
        self,
        address: Any = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
    ) -> Any:
        """As `multiprocessing.connection.Listener`; the connections it accepts send by value."""
        from hookpool._primitives import Listener

        return Listener(address, family, backlog, authkey)

    def Client(self, address: Any, family: str | None = None, authkey: bytes | None = None) -> Any:
        """As `multiprocessing.connection.Client`; the connection sends by value."""
        from hookpool._primitives import connect

        return connect(address, family, authkey)

    def set_forkserver_preload(self, module_names: Iterable[str]) -> None:
        """Name modules that new processes shall find imported, besides what they need anyway.

        They are imported once, in the fork server. A module that starts threads or opens
        connections when it is imported does not belong there.

        Raises:
            TypeError: one of the names is no string.
        """
        global _preload
        names = tuple(module_names)
        if not all(type(name) is str for name in names):
            raise TypeError(f"module names to preload must be strings, not {names!r}")
        _preload = PRELOAD + names

    def expect_processes(self) -> None:
        """Start what starts processes, if it does not run, and do not wait for it."""
        from hookpool import _launch

        _launch.expect(_launch.Modules(_preload, PRELOAD_LATER))

    def _check_available(self) -> None:
        # Called when somebody asks for the method by its name. Only who makes it the default asks
        # for more than a context: for `get_context` nothing changes anywhere else.
        asker: FrameType | None = sys._getframe(1)
        while asker is not None and asker.f_code in _GET_CONTEXT:
            asker = asker.f_back
        if asker is not None and asker.f_code is _SET_START_METHOD:
            _delegate_default_names()


def _start_tracker() -> None:
    """Have a resource tracker before the first lock that it shall know.

    The standard library makes the lock, which has a name, and then starts the tracker: a program
    that is killed in these milliseconds leaves the name behind. So it is some microseconds.
    """
    if sys.platform == "win32":
        return  # there locks have no names, and nobody tracks them
    from multiprocessing import resource_tracker

    from hookpool._streams import filled

    with filled():  # it does not start where a standard stream is closed
        resource_tracker.ensure_running()


def stop() -> None:
    """End the fork server; the next start of a process makes a new one.

    A program need not call it: the server ends with its owner. Where processes still run whose
    Process object exists, it stays, for their exit codes, until the last of them has ended.
    """
    from hookpool import _launch

    _launch.stop()


# --- as the default method -----------------------------------------------------------------------

#: What every context builds of the standard library's classes, whatever its method is, and the
#: default one with it. `Process` and all others already ask the method's context.
_BUILT_BY_DEFAULT: Final = (
    "BoundedSemaphore",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Queue",
    "RLock",
    "Semaphore",
    "SimpleQueue",
    "set_forkserver_preload",
)

#: Who asks for a context by its name.
_GET_CONTEXT: Final = (
    mp_context.BaseContext.get_context.__code__,
    mp_context.DefaultContext.get_context.__code__,
)
_SET_START_METHOD: Final = mp_context.DefaultContext.set_start_method.__code__


def _copy(function: Any) -> FunctionType:
    return FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )


#: The functions of `BaseContext` by these names, as they were.
_originals: Final = {
    name: _copy(getattr(mp_context.BaseContext, name)) for name in _BUILT_BY_DEFAULT
}


def _delegate_default_names() -> None:
    """Let `multiprocessing.Queue()` be ours as long as hookpool is the default start method.

    Programs take hold of it at their top, by `from multiprocessing import Queue`, and choose the
    method at their end. What they hold is a method of the default context, so it is the function
    behind it that has to look what the default is: it gets other code, and for every other context
    and default calls what it was. Another attribute of `multiprocessing` in its place would come
    too late for such a program: its queue would pickle by reference to a main module that the
    children do not have.
    """
    for name, original in _originals.items():
        function = getattr(mp_context.BaseContext, name)
        function.__wrapped__ = original  # whose signature it goes on to have
        # In this order: another thread may be about to call it, or to do the same.
        function.__kwdefaults__ = {"_build": _build, "_name": name}
        function.__code__ = _look.__code__.replace(co_name=name)
        function.__defaults__ = None


def _look(self: Any, *args: Any, _build: Any, _name: str, **kwargs: Any) -> Any:
    # Only its code is used, among the globals of the standard library: it is given what it calls.
    return _build(self, _name, args, kwargs)


def _build(context: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # Looks only: a default that is not decided yet must not be decided by this.
    actual = getattr(context, "_actual_context", None)
    if isinstance(actual, HookContext):
        return getattr(actual, name)(*args, **kwargs)
    return _originals[name](context, *args, **kwargs)


CONTEXT: Final = HookContext()
mp_context._concrete_contexts.setdefault(NAME, CONTEXT)  # type: ignore[attr-defined]
