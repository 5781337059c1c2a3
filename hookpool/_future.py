"""`HookFuture`: the standard future, that costs what is used of it.

Owns the change of a future's state.  A standard future makes a condition, a lock and two lists
when it is made; most futures of a pool are settled before anybody waits for them and need none.
Here they come into being, all at once, when something first asks for one.

Threads: anybody may ask, one thread settles.  Two things must not come between each other: making
the condition, and settling a future that has none.  Otherwise somebody could begin to wait for
what has just happened.  One lock for all futures is around both; it is held for a few dictionary
operations and never while anything is waited for.  (Settling without any lock looks safe, and
makes `concurrent.futures.as_completed` fail with a `KeyError`: it reads the states twice.)
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import LOGGER

from hookpool._raised import cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, Protocol, TypeVar

    T = TypeVar("T")

    class Pool(Protocol):
        """What a future asks its pool."""

        #: The pool's own thread, where most futures are settled.
        thread: threading.Thread | None

        def cancel(self, number: int) -> bool:
            """Whether the task had not been started and now never will be."""

        def is_running(self, number: int) -> bool:
            """Whether a worker has started the task."""

        def help(self, number: int, timeout: float | None) -> None:
            """Read results in the calling thread, for a while, if that is possible."""

        def note_asked(self) -> None:
            """Somebody wants to know what becomes of a task."""


# The states of `concurrent.futures._base`, which have no public names.
_PENDING = "PENDING"
_FINISHED = "FINISHED"
_ENDED = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", _FINISHED})

# Re-entrant, for a signal handler that asks for a condition while its own thread settles.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that does not exist here may have had it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _Late:
    """An attribute that a future gets when it is first asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, owner: type) -> Any:
        if future is None:
            return self
        future._pool.note_asked()
        _equip(future.__dict__)
        return future.__dict__[self._name]


def _equip(attributes: dict[str, Any]) -> None:
    """Give a future all that a standard one has from the start."""
    condition = threading.Condition()
    with _lock:
        if "_condition" not in attributes:
            attributes["_waiters"] = []
            attributes["_done_callbacks"] = []
            attributes["_condition"] = condition  # the last: it says that the others are there


class RebuildInterrupted(BaseException):
    """While a user's thread rebuilt a result: `SystemExit`, `KeyboardInterrupt` or the like.

    Either the result raised it, and its future is to fail; or it is Ctrl-C, meant for the thread.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


# How long that thread waits for the driver's to find out which of the two it is, in seconds.
_VERDICT_SECONDS = 5.0


class HookFuture(Future["T"]):
    """A `concurrent.futures.Future` whose `cancel` and `running` ask the pool for the truth."""

    # What `Future.__init__` would set, until it differs.
    _state: str = _PENDING
    _result: T | None = None
    _exception: BaseException | None = None
    _condition = _Late()
    _waiters = _Late()
    _done_callbacks = _Late()
    #: The number of its task, once submitted.
    _number: int | None = None
    #: Whether the pool has decided that the call never runs, and somebody will say so.
    _never_runs = False

    def __init__(self, pool: Pool) -> None:
        # Not `super().__init__`: what that makes is made late, or never.
        self._pool = pool

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} stays in the process whose pool it belongs to: wait for its "
            "result() there and pass that"
        )

    def cancel(self) -> bool:
        """Cancel the call if no worker has claimed it.

        Returns:
            True if it is cancelled, now or earlier; False if it is running or finished.
        """
        if self.done():
            return self.cancelled()
        if self._number is not None and self._pool.cancel(self._number):
            self.set_cancelled()
            return True
        if self._never_runs:
            # Somebody else is about to say so: this must be true already when we return.
            super().cancel()
        return self.cancelled()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._state in _ENDED and self._state != _FINISHED

    def done(self) -> bool:
        """Whether the call was cancelled or has ended."""
        return self._state in _ENDED

    def running(self) -> bool:
        """Whether a worker has started the call and has not finished it."""
        return not self.done() and self._number is not None and self._pool.is_running(self._number)

    def result(self, timeout: float | None = None) -> T:
        """As in the standard library."""
        if self._state not in _ENDED:
            timeout = self._help(timeout)
        # The state is what settling sets last.
        if self._state == _FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        try:
            return super().result(timeout)
        finally:
            del self  # the traceback of what is raised holds this frame, and we that

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As in the standard library."""
        if self._state not in _ENDED:
            timeout = self._help(timeout)
        if self._state == _FINISHED:
            return self._exception
        return super().exception(timeout)

    def _help(self, timeout: float | None) -> float | None:
        """Read the result oneself, if that is possible now; the time then left to wait."""
        if self._number is None:
            return timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._pool.help(self._number, timeout)
        except RebuildInterrupted as interrupted:
            error = interrupted.error
            if not self._fails_with(error):
                raise error from None
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _fails_with(self, error: BaseException) -> bool:
        """Whether the result raises this again when the driver's thread rebuilds it."""
        try:
            verdict = super().exception(_VERDICT_SECONDS)
        except (TimeoutError, CancelledError):
            return False
        return verdict is not None and type(cause_of(verdict)) is type(error)

    def has_callbacks(self) -> bool:
        """Whether the outcome makes code of the user run."""
        return "_condition" in self.__dict__ and bool(self._done_callbacks)

    def _invoke_callbacks(self) -> None:
        """As in the standard library, but for what is no `Exception`.

        In the pool's own thread that would end the thread, and with it every other task. In a
        user's thread it may be Ctrl-C.
        """
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException as error:
                if self._comes_through(error):
                    raise
                self._log_callback()

    def _log_callback(self) -> None:
        try:
            LOGGER.exception("exception calling callback for %r", self)
        except BaseException as error:  # a handler of the user's, or what the exception is told by
            if self._comes_through(error):
                raise

    def _comes_through(self, error: BaseException) -> bool:
        """Whether what a callback raised goes on to who settles the future."""
        # Not `isinstance`, which would ask the error's own `__class__`.
        in_pool = self._pool.thread is threading.current_thread()
        return not issubclass(type(error), Exception) and not in_pool

    # -- the pool's word --------------------------------------------------------------------

    def note_dropped(self) -> None:
        """The pool's word, given under its lock, that `set_cancelled` will follow."""
        self._never_runs = True

    def set_cancelled(self) -> None:
        """The pool's word that the call will never run."""
        if super().cancel():
            self.set_running_or_notify_cancel()

    def settle_exception(self, error: BaseException) -> None:
        """The pool's word that the call failed."""
        if self.done():
            return  # as in `_set_result`
        try:
            self.set_exception(error)
        except InvalidStateError:
            pass


def settle_one(future: HookFuture[Any], value: Any) -> None:
    """As `settle`, for one."""
    with _lock:
        is_settled = _settle_bare(future.__dict__, value)
    if not is_settled:
        _set_result(future, value)


def settle(outcomes: Sequence[tuple[HookFuture[Any], Any]]) -> None:
    """Give futures their results, those that nobody has asked anything of all at once."""
    asked: list[tuple[HookFuture[Any], Any]] = []
    with _lock:  # no comprehension: an interrupt in one that 3.12 inlines leaves the lock held
        for future, value in outcomes:
            if not _settle_bare(future.__dict__, value):
                asked.append((future, value))
    for future, value in asked:
        _set_result(future, value)


def _settle_bare(attributes: dict[str, Any], value: Any) -> bool:
    """Give a future its result if nobody has asked anything of it; under the lock."""
    if "_condition" in attributes:
        return False
    if "_state" not in attributes:  # or it has one: an interrupt had it settled twice
        attributes["_result"] = value
        attributes["_state"] = _FINISHED
        if "_condition" in attributes:
            attributes["_state"] = _PENDING  # a signal handler has asked just now
            return False
    return True


def _set_result(future: HookFuture[Any], value: Any) -> None:
    # The user may have set it, or it was cancelled: then that counts. Mostly that is known before,
    # and better so: to say that it is an error asks the value that it has for its class.
    if future.done():
        return
    try:
        future.set_result(value)
    except InvalidStateError:
        pass
