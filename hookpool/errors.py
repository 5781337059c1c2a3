"""Every exception hookpool raises, and its text.

::

    HookPoolError                       mixin: which task, and whether it may have run
    ├── CannotPickle                    pickle.PicklingError
    │   ├── CannotPickleType            ... and TypeError
    │   ├── CannotPickleAttribute       ... and AttributeError
    │   ├── CannotPickleRecursion       ... and RecursionError
    │   ├── CannotPickleUnsupported     ... and NotImplementedError
    │   ├── CannotPickleKey             ... and KeyError
    │   ├── CannotPickleValue           ... and ValueError
    │   └── CannotPickleNow             ... and RuntimeError
    ├── CannotUnpickle                  BrokenProcessPool, pickle.UnpicklingError
    ├── WorkerDied                      BrokenProcessPool
    ├── ResultLost                      BrokenProcessPool
    ├── TaskTimedOut                    TimeoutError
    ├── InitializerFailed               BrokenProcessPool
    ├── WorkerCannotStart               BrokenProcessPool
    ├── TooManyDeaths                   BrokenProcessPool
    ├── PoolTerminated                  BrokenProcessPool
    ├── ForkedPool                      RuntimeError
    ├── NestedTooDeep                   RuntimeError
    └── InternalError                   RuntimeError
    RemoteTraceback                     the ``__cause__`` of what a task raised

Each class inherits from what the standard library raises in the same place, so that code written
for `ProcessPoolExecutor` catches it.  A message says what happened, to what, and what to do, in
that order; the facts are attributes too.  Facts are keyword-only and live in ``__dict__``, which
`BaseException.__reduce__` carries: every class survives pickling (a test does all of them).
"""

from __future__ import annotations

import copy
import pickle
import signal
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback

from hookpool._raised import cause_of, summary_of, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CannotPickle",
    "CannotPickleAttribute",
    "CannotPickleKey",
    "CannotPickleNow",
    "CannotPickleRecursion",
    "CannotPickleType",
    "CannotPickleUnsupported",
    "CannotPickleValue",
    "CannotUnpickle",
    "ForkedPool",
    "HookPoolError",
    "InitializerFailed",
    "InternalError",
    "NestedTooDeep",
    "PoolTerminated",
    "RemoteTraceback",
    "ResultLost",
    "TaskTimedOut",
    "TooManyDeaths",
    "WorkerCannotStart",
    "WorkerDied",
]


#: What a worker does for a task, as errors put it.
RUNNING = "running"
LOADING = "unpickling the arguments of"
DUMPING = "pickling the result of"
SENDING = "sending the result of"


class HookPoolError(Exception):
    """What all errors of hookpool share.

    Attributes:
        task: a description of the task that failed; None where it is not about one task, or
            where the arguments of one could not be pickled.
        may_have_run: False when the task certainly had not started; True when it may have run,
            in part or whole, so that running it again is the caller's decision.
    """

    def __init__(
        self, message: str = "", *, task: str | None = None, may_have_run: bool = False
    ) -> None:
        super().__init__(message)
        self.task = task
        self.may_have_run = may_have_run


class CannotPickle(HookPoolError, pickle.PicklingError):
    """Something could not be pickled; the message names the path to it and a cure."""


class CannotPickleType(CannotPickle, TypeError):
    """As CPython up to 3.13 raises for an object whose type refuses to be pickled."""


class CannotPickleAttribute(CannotPickle, AttributeError):
    """As CPython up to 3.13 raises for an object that cannot be found by its name."""


class CannotPickleRecursion(CannotPickle, RecursionError):
    """The object is nested more deeply than the recursion limit lets a pickler follow."""


class CannotPickleUnsupported(CannotPickle, NotImplementedError):
    """A method that an object is pickled by has not been implemented, by its own account."""


class CannotPickleKey(CannotPickle, KeyError):
    """A method that an object is pickled by missed a key."""

    __str__ = Exception.__str__  # a KeyError's puts its message in quotes


class CannotPickleValue(CannotPickle, ValueError):
    """A method that an object is pickled by refused for what the object holds."""


class CannotPickleNow(CannotPickle, RuntimeError):
    """A lock or queue of multiprocessing, which travels only while a child is being started."""


def cannot_pickle(message: str, error: BaseException) -> CannotPickle:
    """The CannotPickle that is also an instance of what `error` is, as far as users catch it."""
    for kind, cls in (
        (RecursionError, CannotPickleRecursion),
        (AttributeError, CannotPickleAttribute),
        (TypeError, CannotPickleType),
        (NotImplementedError, CannotPickleUnsupported),
        (KeyError, CannotPickleKey),
        (ValueError, CannotPickleValue),
        (RuntimeError, CannotPickleNow),  # after those of its subclasses
    ):
        if issubclass(type(error), kind):  # isinstance would ask error.__class__
            return cls(message)
    return CannotPickle(message)


class CannotUnpickle(HookPoolError, BrokenProcessPool, pickle.UnpicklingError):
    """A task's arguments could not be rebuilt in the worker, or its result in the caller.

    Only that task fails.  The class is a `BrokenProcessPool` because that is what the standard
    executor raises here (it loses the whole pool).
    """


def cannot_rebuild(why: str) -> CannotUnpickle:
    """The error in the place of what a task raised."""
    return CannotUnpickle(
        f"the task raised an exception that cannot be rebuilt here: {why}", may_have_run=True
    )


class WorkerDied(HookPoolError, BrokenProcessPool):
    """The worker that ran this task died.

    Attributes:
        pid: process id of the worker.
        exitcode: as `multiprocessing.Process.exitcode`: negative for a signal, None if unknown.
        phase: what it did for the task when it died: "running", "unpickling the arguments of",
            "pickling the result of" or "sending the result of".
    """

    def __init__(
        self,
        message: str = "",
        *,
        task: str | None = None,
        may_have_run: bool = True,
        pid: int | None = None,
        exitcode: int | None = None,
        phase: str = RUNNING,
    ) -> None:
        super().__init__(message, task=task, may_have_run=may_have_run)
        self.pid = pid
        self.exitcode = exitcode
        self.phase = phase


class TaskTimedOut(HookPoolError, TimeoutError):
    """The task ran for longer than it may, see `HookPoolExecutor.options`, and was ended.

    Not what ``future.result(timeout=...)`` raises, which ends nothing: that is a `TimeoutError`,
    too, but none of this class.

    Attributes:
        limit: the seconds that it had.
        pid: process id of the worker, which was ended with it.
        phase: as of `WorkerDied`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task: str | None = None,
        may_have_run: bool = True,
        limit: float | None = None,
        pid: int | None = None,
        phase: str = RUNNING,
    ) -> None:
        super().__init__(message, task=task, may_have_run=may_have_run)
        self.limit = limit
        self.pid = pid
        self.phase = phase


class ResultLost(WorkerDied):
    """The task had been started, but its worker died before the result had left it."""


class InitializerFailed(HookPoolError, BrokenProcessPool):
    """The initializer raised in a worker, so that no worker can be had; see ``__cause__``."""


class WorkerCannotStart(HookPoolError, BrokenProcessPool):
    """Workers end before they are ready to take a task."""


class TooManyDeaths(HookPoolError, BrokenProcessPool):
    """Workers keep dying while they run no task, so that a new one would only die as well."""


class PoolTerminated(HookPoolError, BrokenProcessPool):
    """The pool was told to terminate or kill its workers while this task was not finished."""


class ForkedPool(HookPoolError, RuntimeError):
    """A forked child tried to use its parent's pool."""


class NestedTooDeep(HookPoolError, RuntimeError):
    """A pool in a worker of a pool in a worker ...: processes would multiply without end."""


class InternalError(HookPoolError, RuntimeError):
    """An invariant of hookpool is broken.  Please report it, with this text."""


#: The standard library's own class, which those who print remote tracebacks know.
RemoteTraceback: Any = _RemoteTraceback


def remote_traceback(text: str) -> BaseException:
    """The traceback in the worker, as text: the ``__cause__`` of an exception a task raised."""
    cause: BaseException = RemoteTraceback(f'\n"""\n{text}"""')
    return cause


def was_raised_by_task(error: BaseException | None) -> bool:
    """Whether an exception has come from a worker, and is not this process's own."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        if isinstance(error, RemoteTraceback):
            return True
        met.add(id(error))
        error = cause_of(error)
    return False


def describe_exit(exitcode: int | None) -> str:
    """``exited with code 3``, ``was killed by SIGKILL (perhaps out of memory)`` and so on."""
    if exitcode is None:
        return "ended in an unknown way"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (perhaps by the system, out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def worker_died(
    task: str,
    pid: int | None,
    exitcode: int | None,
    *,
    running: bool,
    breaks: bool = False,
    phase: str = RUNNING,
) -> WorkerDied:
    """The error of a task that was with a worker when it died.

    Args:
        task: what messages call it.
        pid: of the worker.
        exitcode: of the worker.
        running: whether it is the one that the worker was at.
        breaks: whether the pool breaks because of it.
        phase: what it did for that one.
    """
    what = describe_exit(exitcode)
    if running:
        fate = (
            "the pool is broken, as on_worker_death='break' asks"
            if breaks
            else "the other tasks of the pool are not affected and a new worker takes its place"
        )
        return WorkerDied(
            f"worker {pid} {what} while {phase} {task}; {fate}",
            task=task,
            may_have_run=phase is not LOADING,
            pid=pid,
            exitcode=exitcode,
            phase=phase,
        )
    return ResultLost(
        f"worker {pid} {what} after it had started {task} and before the result had been sent: "
        "it may have run; submit it again if running it twice does no harm",
        task=task,
        pid=pid,
        exitcode=exitcode,
    )


def timed_out(task: str, pid: int | None, limit: float, phase: str) -> TaskTimedOut:
    """The error of a task that was ended, with its worker, because it had had its time."""
    return TaskTimedOut(
        f"{task} did not end within its {limit:g} s: worker {pid} was ended while {phase} it; the "
        "other tasks of the pool are not affected and a new worker takes its place",
        task=task,
        may_have_run=phase is not LOADING,
        limit=limit,
        pid=pid,
        phase=phase,
    )


def too_many_deaths(deaths: int, seconds: float, exitcode: int | None) -> TooManyDeaths:
    """The error of a pool whose workers die although they run no task."""
    return TooManyDeaths(
        f"{deaths} workers died within {seconds:.0f} s while they ran no task; the last one "
        f"{describe_exit(exitcode)}; the pool is broken: look for what kills idle processes"
    )


def worker_cannot_start(
    tries: int, exitcode: int | None, error: BaseException | None
) -> WorkerCannotStart:
    """The error of a pool none of whose workers becomes ready."""
    if error is None:
        how = f"{describe_exit(exitcode)}; see also what it printed to standard error"
    else:
        how = f"could not be started: {text_of(error)}"
    cannot = WorkerCannotStart(
        f"{tries} workers in a row ended before they were ready to take a task; the last one {how}"
    )
    cannot.__cause__ = error
    return cannot


def initializer_failed(error: BaseException | None) -> InitializerFailed:
    """The error of a pool whose initializer raised."""
    what = "" if error is None else f" {summary_of(error)}"
    failed = InitializerFailed(
        f"the initializer raised{what}; the pool cannot have workers and is broken; the traceback "
        "of the worker is above"
    )
    failed.__cause__ = error
    return failed


def pool_broken_by_death(pid: int | None, exitcode: int | None) -> WorkerDied:
    """The error of every task of a pool that breaks when one worker dies."""
    return WorkerDied(
        f"worker {pid} {describe_exit(exitcode)}, and the pool was made with "
        "on_worker_death='break': no task will be run any more",
        pid=pid,
        exitcode=exitcode,
    )


def pool_terminated() -> PoolTerminated:
    """The error of what a pool ran, or is given, when it was told to end its workers."""
    return PoolTerminated(
        "the workers of the pool were terminated or killed, and it takes no more tasks: one that "
        "was running may have run in part; make a new pool for others",
        may_have_run=True,
    )


def refusal(error: BaseException) -> BaseException:
    """What a broken pool raises for a new task, which has certainly not started."""
    twin = again(error)
    if isinstance(twin, HookPoolError):
        twin.may_have_run = False
    return twin


def again(error: BaseException) -> BaseException:
    """A copy: an exception that is raised in several places would collect all their tracebacks."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
