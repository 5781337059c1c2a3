"""The vocabulary of the scheduler: what can happen to a pool, and what can be done about it.

Events are past tense, actions imperative.  All of them hold numbers only.
"""

from __future__ import annotations

from enum import Enum

from hookpool._records import Record


class Span(Record):
    """Neighbouring tasks of one group: ``start <= task < stop``."""

    start: int
    stop: int
    group: int

    def tasks(self) -> range:
        """The numbers of the tasks."""
        return range(self.start, self.stop)


class Why(Enum):
    """Why the pool broke, or why a task failed."""

    DIED = "the worker died while it ran the task"
    LOST = "the worker died after it had started the task and before it had sent the result"
    CANNOT_START = "no worker becomes ready"
    TOO_MANY_DEATHS = "workers die while they run no task"
    INITIALIZER = "the initializer raised"
    TERMINATED = "the user terminated the workers"
    WORKER_DIED = "a worker died and the pool was told to break then"


# -- events -----------------------------------------------------------------------------------


class Submitted(Record):
    """Tasks ``start .. stop - 1`` of one group joined the end of the queue."""

    start: int
    stop: int
    group: int
    now: float


class Expected(Record):
    """A task is about to be submitted: a worker can start while it is being pickled."""

    now: float


class WorkerReady(Record):
    """The worker has started, ran its initializer, and waits for tasks."""

    worker: int
    now: float


class InitializerFailed(Record):
    """The initializer raised in the worker."""

    worker: int


class Finished(Record):
    """The first tasks of the worker have finished: runs of (tasks, microseconds together)."""

    worker: int
    runs: tuple[tuple[int, int], ...]
    now: float


class TookBack(Record):
    """The driver won this many claims from the tail of the worker (the answer to `TakeBack`)."""

    worker: int
    tasks: int
    now: float


class Dropped(Record):
    """The worker found this many tasks no longer its own, and has forgotten them."""

    worker: int
    tasks: int
    now: float


class WorkerExited(Record):
    """The process has ended; the last `unstarted` of the tasks it held it had not started.

    `finished`: it was through with all of the others.  `killed`: by the owner, so that it says
    nothing about what else may kill workers.
    """

    worker: int
    unstarted: int
    now: float
    finished: bool = False
    killed: bool = False


class CancelAsked(Record):
    """Somebody wants this unfinished task not to run."""

    task: int
    now: float


class Abandoned(Record):
    """Nobody wants the tasks ``start .. stop - 1`` any more: those not claimed shall not run."""

    start: int
    stop: int
    now: float


class ShutdownAsked(Record):
    """No task will be submitted any more; with `cancel`, those not claimed shall not run."""

    cancel: bool
    now: float


class TerminateAsked(Record):
    """Stop everything at once."""


class Resized(Record):
    """The pool shall have this many workers."""

    max_workers: int
    now: float


class Tick(Record):
    """The moment asked for by `WakeAt` has come."""

    now: float


Event = (
    Submitted
    | Expected
    | WorkerReady
    | InitializerFailed
    | Finished
    | TookBack
    | Dropped
    | WorkerExited
    | CancelAsked
    | Abandoned
    | ShutdownAsked
    | TerminateAsked
    | Resized
    | Tick
)


# -- actions ----------------------------------------------------------------------------------


class Launch(Record):
    """Start a worker under this number."""

    worker: int


class Send(Record):
    """Send these tasks to the worker, in this order."""

    worker: int
    spans: tuple[Span, ...]


class TakeBack(Record):
    """Try to win the claims of the worker's last so many tasks; answer with `TookBack`."""

    worker: int
    tasks: int


class Retire(Record):
    """Tell the worker to exit when it has done what it holds."""

    worker: int


class Fail(Record):
    """These tasks will never give a result; `worker` had them."""

    span: Span
    worker: int
    why: Why


class Cancel(Record):
    """These tasks will not run: nobody had started them."""

    span: Span


class WakeAt(Record):
    """Send a `Tick` at this moment (an earlier one already asked for stays)."""

    when: float


class Break(Record):
    """Fail every unfinished task, kill every worker."""

    why: Why
    worker: int
    deaths: int


class Done(Record):
    """The pool has ended: no worker is left."""


Action = Launch | Send | TakeBack | Retire | Fail | Cancel | WakeAt | Break | Done
