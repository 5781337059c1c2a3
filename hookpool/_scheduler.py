"""The pure state machine of the pool: every decision, and nothing but decisions.

`Scheduler.handle(event)` takes what has happened (past tense) and returns what is to be done
(imperative).  It holds integers only: no clock (events carry ``now``), thread, pipe, process,
pickle or user object.  The driver feeds it, under one lock, and carries its actions out.

Theory of operation
-------------------
*Tasks* are numbered in the order of submission.  They stand in *spans* of neighbours that share a
*group* (one group per function, since durations are estimated per function), so that a map of a
million items costs a handful of entries here.  A task is in exactly one place: in the *queue*, or
*sent* to one worker.  A worker runs what it was sent strictly in order, so "the first n of worker
w have finished" names the tasks.

*Sent is not started.*  A worker claims each task, atomically, before it starts it; tiny ones some
at a time.  The owner can therefore take back the tail of what it sent: `TakeBack` asks the driver
to try, `TookBack` says how many it won.  The worker notices when its next claim fails; it then
drops everything it still holds and says so (`Dropped`).  Between `TookBack` and the matching
`Dropped` nothing is sent to that worker, or a fresh task's claim could be spent on a stale one.
Where the platform has no such claim (`Config.claims` false), a worker holds one task at a time.

States of a worker, and what moves it::

    STARTING --WorkerReady--> READY --(Retire)--> RETIRING --WorkerExited--> gone
        |                       |                     |
        +-------- WorkerExited at any moment ---------+----> gone; what it had started fails,
                                                             the rest goes back to the queue

States of the pool::

    OPEN --ShutdownAsked--> CLOSING --(all work done, all workers gone)--> DONE
      |                        |
      +------ a Break ---------+--> BROKEN --(all workers gone)--> DONE

Invariants, asserted by `check`:

 1. A task is in at most one place, and spans do not overlap.
 2. `_queued` counts the tasks in the queue that are not cancelled.
 3. Without claims a worker holds at most one task.
 4. Workers that are not RETIRING number at most `max_workers`.
 5. A worker is given at most `max_tasks_per_child` tasks over its life.
 6. Only READY and RETIRING workers hold tasks.
 7. Work in the queue has somebody to do it: a worker that starts, that has work (and will report)
    or that is dropping; or it is waited before another is launched, since one could not be started
    or too many are leaving; or the pool is DONE or BROKEN, and then the queue is empty.
 8. A BROKEN or DONE pool holds no task; a DONE pool holds no worker.
 9. `idle` holds the workers that are READY, hold nothing and drop nothing, and no others.
10. `_starting` and `_retiring` count the workers in these phases.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from hookpool._events import (
    Abandoned,
    Break,
    Cancel,
    CancelAsked,
    Done,
    Dropped,
    Expected,
    Fail,
    Finished,
    InitializerFailed,
    Launch,
    Resized,
    Retire,
    Send,
    ShutdownAsked,
    Span,
    Submitted,
    TakeBack,
    TerminateAsked,
    Tick,
    TookBack,
    WakeAt,
    Why,
    WorkerExited,
    WorkerReady,
)
from hookpool._records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hookpool._events import Action, Event

# How much work a worker is sent beyond its next task, in seconds, and how much of that may be
# missing before it is sent more.  It reports once a millisecond (`_worker.FLUSH_SECONDS`) or when
# a longer task ends, and may wait another one for the answer where cores are busy.  With less than
# that left it runs dry between reports where tasks take a little less than a millisecond
# (`tests/simulated_pool.py`).  So much again is one message for several tasks: one for each costs
# a machine whose cores all compute several per cent of tasks of a millisecond.  Still more makes
# cancel() and take-backs dearer, and results of a map uneven.
AHEAD_SECONDS = 0.004
REFILL_SECONDS = AHEAD_SECONDS / 2
# What it costs to wake a worker, and its owner for the answer, in seconds: for less work than that
# no second worker is woken.
WAKE_SECONDS = 50e-6
# The most tasks in one message, whatever their estimate: bounds what one flush can delay.
MOST_AHEAD = 1000
# The most that a worker holds: there is room for so many claims.
MOST_HELD = 2 * MOST_AHEAD
# A worker that has shown no progress for this long has its tail taken back when another is idle.
# Shorter would move tasks that were about to start; longer leaves a core idle.
STEAL_SECONDS = 0.001
# Each try in vain doubles that, so many times at most: to a tenth of a second.
MOST_DOUBLINGS = 7
# One that holds more than this, by what is known now, has half of it taken back as soon as another
# is idle: it was sent that many when they were thought to be shorter.
OVERLOAD_SECONDS = 3 * AHEAD_SECONDS
# Weight of the newest measurement in a group's estimate: high, since the first calls of a function
# (imports, caches) are often slower than all others.
NEWEST = 0.4
# A measurement counts as at most so many times what was estimated, or one long task among tiny
# ones would have the next dozens sent one by one.
MOST_GROWTH = 4
# No estimate is less than a call takes: from nothing it could not grow.
LEAST_SECONDS = 1e-7
# The most groups whose estimates are kept: a program that makes functions in a loop must not grow
# the table for ever, and what is forgotten is measured again within two tasks.
MOST_GROUPS = 4096
# Workers that end, one after the other, before any becomes ready: then the pool cannot work, if
# there is no other worker.
START_TRIES = 3
# After each of them it is waited so long for the next, in seconds, twice as long each time, and so
# often at most: what is missing (descriptors, memory, processes) may be there a moment later.
START_PAUSE = 0.05
MOST_PAUSES = 6
# Workers that have been told to go may take their time, and meanwhile have the memory that they
# have.  With as many of them as there shall be workers, there is one more after so many seconds.
LINGER_SECONDS = 1.0
# Deaths outside any task within DEATH_SECONDS that break the pool.  Deaths while a task runs never
# count: a thousand killer tasks are a thousand single failures.
DEATHS = 5
DEATH_SECONDS = 10.0


class Config(Record):
    """What the user chose, and what the platform offers."""

    max_workers: int
    max_tasks_per_child: int | None = None
    idle_timeout: float | None = None
    claims: bool = True
    break_on_death: bool = False
    all_at_once: bool = False


class Phase(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"


class Pool(Enum):
    """Where the pool is in its life."""

    OPEN = "open"
    CLOSING = "closing"
    BROKEN = "broken"
    DONE = "done"


class _Worker:
    __slots__ = ("dropping", "given", "held", "phase", "sent", "since", "tries")

    def __init__(self, now: float) -> None:
        #: Where it is in its life.
        self.phase = Phase.STARTING
        #: What it was sent and has not finished, in the order it runs them.
        self.sent: deque[Span] = deque()
        #: The number of tasks in `sent`.
        self.held = 0
        #: How many tasks it was ever given, those taken back not counted.
        self.given = 0
        #: Tasks taken back from it that it has not dropped yet: no sends until this is zero.
        self.dropping = 0
        #: When it last made progress (became idle, got work while idle, finished or dropped
        #: tasks), or when its tail was last wanted back.
        self.since = now
        #: How often its tail was wanted back since then.
        self.tries = 0

    def due(self) -> float:
        """When its tail is wanted back, if it makes no progress until then.

        Should nothing be won (all claimed meanwhile), the next try is not at once, and later each
        time: it may be stuck in C code, and can then put nothing back.
        """
        return self.since + STEAL_SECONDS * (1 << min(self.tries, MOST_DOUBLINGS))


class Scheduler:
    """See the module.  Not thread-safe: the driver's lock is around every call."""

    def __init__(self, config: Config) -> None:
        self.config = config
        #: What every worker together may number.
        self._max_workers = config.max_workers
        #: Tasks nobody has, oldest first; may hold cancelled ones.
        self._queue: deque[Span] = deque()
        #: Tasks in the queue that shall be passed over.
        self._cancelled: set[int] = set()
        #: Tasks with a worker that somebody wants back, while `TookBack` is awaited.
        self._asked: dict[int, int] = {}
        #: The number of tasks in the queue that are not cancelled.
        self._queued = 0
        #: The living workers, by number; how many of them are STARTING, and RETIRING.
        self._workers: dict[int, _Worker] = {}
        self._starting = 0
        self._retiring = 0
        #: Those that are READY, hold nothing and drop nothing; the last to become so is last.
        self.idle: dict[int, _Worker] = {}
        #: The number the next worker gets: they are never used twice.
        self._next_worker = 0
        #: Seconds per task, by group; a group not measured yet is not in here.
        self._estimates: dict[int, float] = {}
        #: Workers that ended before they were ready, since one last became ready.
        self._failed_starts = 0
        #: When the last of these tries failed, and when a worker was last launched.
        self._failed_at, self._launched = -1.0, 0.0
        #: Whether what waits is shared out however short it is thought to be.
        self._shares_evenly = False
        #: Whether one is wanted before that.
        self._awaits_launch = False
        #: When workers died outside any task, the last few.
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        #: Where the pool is in its life.
        self.state = Pool.OPEN
        #: Whether tasks that nobody claimed shall be cancelled (shutdown asked for it).
        self._cancelling = False
        #: Whether workers only come and go with the work there is.
        self._is_simple = (
            config.max_tasks_per_child is None
            and config.idle_timeout is None
            and not config.all_at_once
        )
        self._actions: list[Action] = []

    # -- what others may ask ----------------------------------------------------------------

    def handle(self, event: Event) -> list[Action]:
        """Take note of what happened and say what to do, in this order."""
        actions: list[Action] = []
        self._actions = actions
        _HANDLERS[type(event)](self, event)
        if self.state is not Pool.OPEN:
            self._settle()
        return actions

    def wants_more(self) -> bool:
        """Whether `Expected` would launch a worker; without the lock, a guess."""
        return not self.idle and self._active() < self._max_workers

    def worth_waking(self, group: int) -> int:
        """How many tasks of a group are work enough to wake a worker for; 1 if it is not known."""
        estimate = self._estimates.get(group)
        return 1 if estimate is None else _worth(estimate, WAKE_SECONDS)

    def runner(self, task: int) -> int:
        """The worker that has the task at its head, and runs it or will next; -1 if none has."""
        for number, worker in self._workers.items():
            if worker.sent and worker.sent[0].start == task:
                return number
        return -1

    def holder(self, task: int) -> int:
        """The worker that was sent the task and has not finished it; -1 if none was."""
        for number, worker in self._workers.items():
            if any(span.start <= task < span.stop for span in worker.sent):
                return number
        return -1

    def sent_to(self, number: int) -> tuple[Span, ...]:
        """What the worker was sent and has not finished, in the order it runs them."""
        worker = self._workers.get(number)
        return () if worker is None else tuple(worker.sent)

    def behind(self, number: int, task: int) -> int:
        """How many tasks the worker holds behind this one; all of them if it does not hold it."""
        behind = 0
        worker = self._workers.get(number)
        for span in reversed(worker.sent if worker is not None else ()):
            if span.start <= task < span.stop:
                return behind + span.stop - task - 1
            behind += span.stop - span.start
        return behind

    # -- two events by shorter ways: most of what a pool decides that is waited for ------------

    def give(self, task: int, group: int, now: float) -> int:
        """As `Submitted`, for one task that a worker can have at once.

        Returns:
            The worker, which is to be sent the task; -1 if it is not so simple, and nothing done.
        """
        if not self.idle or self._queue or self.state is not Pool.OPEN:
            return -1
        number, worker = self.idle.popitem()
        worker.since = now
        worker.sent.append(Span(task, task + 1, group))
        worker.held = 1
        worker.given += 1
        return number

    def finish(self, number: int, micros: int, now: float) -> bool:
        """As `Finished`, for the only task that any worker has, if nothing waits.

        Returns:
            Whether that is all; False if it is not so simple, and nothing done.
        """
        worker = self._workers.get(number)
        if (
            worker is None
            or worker.held != 1
            or worker.dropping
            or worker.phase is not Phase.READY
            or self._queue
            or not self._is_simple
            or self.state is not Pool.OPEN
            or not len(self.idle) + 1 == len(self._workers) <= self._max_workers
        ):
            return False
        self._measure(worker.sent.popleft().group, micros * 1e-6)
        worker.held = 0
        worker.since = now
        worker.tries = 0
        self.idle[number] = worker
        return True

    # -- events -----------------------------------------------------------------------------

    def _submitted(self, event: Submitted) -> None:
        start, stop, group, now = event
        if self.state is not Pool.OPEN:
            self._actions.append(Cancel(Span(start, stop, group)))
            return
        if stop - start == 1:
            number = self.give(start, group, now)
            if number >= 0:
                self._actions.append(Send(number, (Span(start, stop, group),)))
                return
        queue = self._queue
        was_waiting = self._queued
        if not was_waiting:
            self._shares_evenly = False
        if queue and queue[-1].stop == start and queue[-1].group == group:
            queue[-1] = Span(queue[-1].start, stop, group)
        else:
            queue.append(Span(start, stop, group))
        self._queued += stop - start
        # What waited has been looked at, and nothing has changed since: the next report makes room
        # for many in one message, where sending them this one would cost one of its own.
        if was_waiting and self.config.claims and self._active() >= self._max_workers:
            return
        if not self._busy_enough():
            self._assign(now)

    def _busy_enough(self) -> bool:
        """Whether what was just submitted can wait until a worker reports.

        All workers are there and have their next task.
        """
        if self._active() < self._max_workers or not self.config.claims:
            return False
        return all(
            worker.held > 1 or worker.phase is Phase.RETIRING for worker in self._workers.values()
        )

    def _expected(self, event: Expected) -> None:
        if self.state is Pool.OPEN and not self.idle:
            self._launch(event.now, self._starting + 1)

    def _worker_ready(self, event: WorkerReady) -> None:
        worker = self._workers.get(event.worker)
        self._failed_starts = 0
        if worker is None or worker.phase is not Phase.STARTING:
            return
        worker.phase = Phase.READY
        self._starting -= 1
        worker.since = event.now
        self.idle[event.worker] = worker
        self._assign(event.now)

    def _initializer_failed(self, event: InitializerFailed) -> None:
        self._break(Why.INITIALIZER, event.worker, 1)

    def _finished(self, event: Finished) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or self.state is Pool.BROKEN:
            return
        sent = worker.sent
        if len(event.runs) == 1:
            [(tasks, micros)] = event.runs
            start, stop, group = sent[0]
            if stop - start == tasks:  # the commonest case of all, by a shorter way
                sent.popleft()
                worker.held -= tasks
                self._measure(group, micros / tasks * 1e-6)
                self._reported(event.worker, worker, event.now)
                return
        # How long the tasks of each group took on average: one measurement for each.
        took: dict[int, tuple[int, float]] = {}
        for tasks, micros in event.runs:
            worker.held -= tasks
            each = micros / tasks
            while tasks:
                start, stop, group = sent[0]
                here = min(stop - start, tasks)
                count, total = took.get(group, (0, 0.0))
                took[group] = count + here, total + each * here
                if start + here < stop:
                    sent[0] = Span(start + here, stop, group)
                else:
                    sent.popleft()
                tasks -= here
        for group, (count, total) in took.items():
            self._measure(group, total / count * 1e-6)
        self._reported(event.worker, worker, event.now)

    def _reported(self, number: int, worker: _Worker, now: float) -> None:
        worker.since = now
        worker.tries = 0
        if not worker.held and not worker.dropping and worker.phase is Phase.READY:
            self.idle[number] = worker
            if (
                self._is_simple
                and not self._queue
                and len(self.idle) == len(self._workers) <= self._max_workers
                and self.state is Pool.OPEN
            ):
                return  # all are idle, and there is nothing to do
        self._assign(now, (number, worker))

    def _took_back(self, event: TookBack) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.held -= event.tasks
        worker.given -= event.tasks
        worker.dropping += event.tasks
        if event.tasks:
            worker.tries = 0
            self._shares_evenly = True  # they take longer than was thought
        self._give_back(_cut_tail(worker.sent, event.tasks))
        self._forget_asked(event.worker)
        if self._cancelling:
            self._cancel_queue()
        self._assign(event.now)

    def _dropped(self, event: Dropped) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.dropping -= event.tasks
        worker.since = event.now
        self._note_idle(event.worker, worker)
        self._assign(event.now)

    def _worker_exited(self, event: WorkerExited) -> None:
        worker = self._workers.pop(event.worker, None)
        self.idle.pop(event.worker, None)
        if worker is not None:
            self._starting -= worker.phase is Phase.STARTING
            self._retiring -= worker.phase is Phase.RETIRING
        if worker is None or self.state is Pool.BROKEN:
            return
        self._give_back(_cut_tail(worker.sent, min(event.unstarted, worker.held)))
        self._forget_asked(event.worker)
        had_started = bool(worker.sent)
        self._fail_started(event.worker, worker, not event.finished)
        if had_started or worker.phase is not Phase.RETIRING:
            self._note_death(event, worker, had_started)
        if self._cancelling:
            self._cancel_queue()
        self._assign(event.now)

    def _cancel_asked(self, event: CancelAsked) -> None:
        if self.state is Pool.BROKEN or self.state is Pool.DONE:
            return
        task = event.task
        for number, worker in self._workers.items():
            behind = 0
            for span in reversed(worker.sent):
                if span.start <= task < span.stop:
                    # Claims have no names: winning this one means winning all behind it as well.
                    # Those come back to the queue and go elsewhere.
                    self._asked[task] = number
                    self._actions.append(TakeBack(number, behind + span.stop - task))
                    return
                behind += span.stop - span.start
        if task not in self._cancelled:
            self._cancelled.add(task)
            self._queued -= 1
            self._actions.append(Cancel(Span(task, task + 1, 0)))
        self._assign(event.now)

    def _abandoned(self, event: Abandoned) -> None:
        """As `CancelAsked` for each of the tasks, but so that none of them starts meanwhile."""
        if self.state is Pool.BROKEN or self.state is Pool.DONE:
            return
        start, stop, now = event
        kept: deque[Span] = deque()
        for span in self._queue:
            before, gone, after = _split(span, start, stop)
            kept.extend(part for part in (before, after) if part.start < part.stop)
            for part in self._without_cancelled(gone) if gone.start < gone.stop else ():
                self._queued -= part.stop - part.start
                self._actions.append(Cancel(part))
        self._queue = kept
        for number, worker in self._workers.items():
            sent = [_split(span, start, stop)[1] for span in worker.sent]
            wanted = [part for part in sent if part.start < part.stop]
            if wanted:
                for part in wanted:
                    self._asked.update(dict.fromkeys(part.tasks(), number))
                behind = self.behind(number, wanted[0].start)
                self._actions.append(TakeBack(number, behind + 1))
        if not self._asked:
            self._assign(now)

    def _forget_asked(self, number: int) -> None:
        for task in [task for task, worker in self._asked.items() if worker == number]:
            del self._asked[task]

    def _shutdown_asked(self, event: ShutdownAsked) -> None:
        if self.state is Pool.OPEN:
            self.state = Pool.CLOSING
        if event.cancel and self.state is Pool.CLOSING:
            self._cancelling = True
            self._cancel_queue()
            for number, worker in self._workers.items():
                if self.config.claims and worker.held > 1 and not worker.dropping:
                    self._actions.append(TakeBack(number, worker.held - 1))
        self._assign(event.now)

    def _terminate_asked(self, event: TerminateAsked) -> None:
        if self.state in (Pool.OPEN, Pool.CLOSING):
            self._break(Why.TERMINATED, -1, 0)

    def _resized(self, event: Resized) -> None:
        self._max_workers = event.max_workers
        self._assign(event.now)

    def _tick(self, event: Tick) -> None:
        self._assign(event.now)

    # -- decisions --------------------------------------------------------------------------

    def _assign(self, now: float, reporting: tuple[int, _Worker] | None = None) -> None:
        """Give queued work to those who should have it, then see who is too many or missing.

        Where one worker has reported, no other can use more than it could before.
        """
        if self.state is Pool.BROKEN or self.state is Pool.DONE:
            return
        if len(self._workers) > self._max_workers:
            self._shrink()
        if self._queued:
            if self.idle:
                self._feed_idle(now)
        elif self._queue:
            self._queue.clear()  # nothing but cancelled tasks
            self._cancelled.clear()
        config = self.config
        if config.max_tasks_per_child is not None:
            self._retire_spent()
        if (self._queued or config.all_at_once) and self._active() < self._max_workers:
            self._launch(now, self._queued)
        if config.claims:
            if self._queued:
                self._feed_ahead(now, [reporting] if reporting else list(self._workers.items()))
            elif self.idle or self._cancelling or self._active() < self._max_workers:
                self._steal(now)
        if self.state is Pool.CLOSING or config.idle_timeout is not None:
            self._let_idle_go(now)

    def _feed_idle(self, now: float) -> None:
        """Share the queue among the idle, so that no worker gets two where another gets none."""
        # Last in, first out: its caches are warm, and the others get old enough to leave.
        for number, worker in reversed(list(self.idle.items())):
            group = self._queue[0].group
            least = 1 if self._shares_evenly else self.worth_waking(group)
            share = max(-(-self._queued // len(self.idle)), least)
            estimate = self._estimates.get(group)
            most = 1 if estimate is None or not self.config.claims else _worth(estimate)
            self._send(number, worker, self._take(min(share, most, self._left(worker))), now)
            if not self._queued:
                return

    def _feed_ahead(self, now: float, workers: list[tuple[int, _Worker]]) -> None:
        """Send busy workers more, lest they wait while the owner learns that they are through."""
        # What they are asked for is the tail of what they hold, and must go on to be that.
        asked = set(self._asked.values())
        for number, worker in sorted(workers, key=_held):
            if worker.phase is not Phase.READY or worker.dropping or number in asked:
                continue
            # What is meant for workers that start stays here, or they would have to steal it.
            spare = self._queued - self._starting
            if spare <= 0:
                return
            count = min(self._ahead(worker), spare, self._left(worker))
            if count > 0:
                self._send(number, worker, self._take(count), now)

    def _ahead(self, worker: _Worker) -> int:
        """How many more tasks this busy worker should hold."""
        estimate = self._estimates.get(self._queue[0].group)
        if estimate is None:
            # One runs and one waits, which can be taken back. But while others start, the second
            # one is left to them: it would wait for the first, however long that takes.
            return 0 if self._starting else 2 - worker.held
        most = min(-(-self._queued // len(self._workers)), MOST_HELD - worker.held)
        missing = AHEAD_SECONDS + estimate - self._load(worker)
        return min(most, _worth(estimate, missing)) if missing >= REFILL_SECONDS else 0

    def _load(self, worker: _Worker) -> float:
        """How long the worker will be busy with what it holds, as far as is known, in seconds."""
        load = 0.0
        for start, stop, group in worker.sent:
            load += (stop - start) * self._estimates.get(group, AHEAD_SECONDS)
        return load

    def _left(self, worker: _Worker) -> int:
        """How many tasks the worker may still be given in its life."""
        most = self.config.max_tasks_per_child
        return MOST_AHEAD if most is None else most - worker.given

    def _take(self, count: int) -> tuple[Span, ...]:
        """Up to `count` tasks from the front of the queue, all of one group, none cancelled."""
        taken: list[Span] = []
        queue = self._queue
        while count > 0 and queue:
            span = queue.popleft()
            if taken and span.group != taken[0].group:
                queue.appendleft(span)
                break
            stop = min(span.stop, span.start + count)
            if stop < span.stop:
                queue.appendleft(Span(stop, span.stop, span.group))
            for part in self._without_cancelled(Span(span.start, stop, span.group)):
                taken.append(part)
                count -= part.stop - part.start
        for span in taken:
            self._queued -= span.stop - span.start
        return tuple(taken)

    def _without_cancelled(self, span: Span) -> list[Span]:
        gone = self._cancelled
        if not gone:
            return [span]
        parts, start = [], span.start
        for task in range(span.start, span.stop):
            if task in gone:
                gone.discard(task)
                if start < task:
                    parts.append(Span(start, task, span.group))
                start = task + 1
        if start < span.stop:
            parts.append(Span(start, span.stop, span.group))
        return parts

    def _send(self, number: int, worker: _Worker, spans: tuple[Span, ...], now: float) -> None:
        if not spans:
            return
        if not worker.held:
            worker.since = now
            del self.idle[number]
        count = 0
        for span in spans:
            count += span.stop - span.start
        worker.sent.extend(spans)
        worker.held += count
        worker.given += count
        self._actions.append(Send(number, spans))

    def _retire_spent(self) -> None:
        """Workers that have had their share of tasks go once they are through."""
        most = self.config.max_tasks_per_child
        if most is None:
            return
        for number, worker in self._workers.items():
            if worker.phase is Phase.READY and worker.given >= most and not worker.held:
                self._retire(number, worker)

    def _shrink(self) -> None:
        """After a resize: those beyond the wanted number go when they have done what they hold.

        Idle ones first, and of the others the youngest of those that hold least.
        """
        surplus = self._active() - self._max_workers
        if surplus > 0:
            for number, worker in sorted(self._workers.items(), key=_held_and_age):
                if surplus and worker.phase is not Phase.RETIRING:
                    self._retire(number, worker)
                    surplus -= 1

    def _retire(self, number: int, worker: _Worker) -> None:
        self._starting -= worker.phase is Phase.STARTING
        self._retiring += 1
        worker.phase = Phase.RETIRING
        self.idle.pop(number, None)
        self._actions.append(Retire(number))

    def _note_idle(self, number: int, worker: _Worker) -> None:
        if not worker.held and not worker.dropping and worker.phase is Phase.READY:
            self.idle[number] = worker

    def _active(self) -> int:
        return len(self._workers) - self._retiring

    def _launch(self, now: float, tasks: int) -> None:
        """Start workers for so many tasks, as far as none that starts is meant for them."""
        wanted = self._max_workers - self._active()
        if not self.config.all_at_once or self.state is not Pool.OPEN:
            wanted = min(wanted, tasks - self._starting)
        self._awaits_launch = False
        if wanted <= 0:
            return
        due, room = self._next_try(), 2 * self._max_workers - len(self._workers)
        if room <= 0:
            due, room = max(due, self._launched + LINGER_SECONDS), 1
        if now < due:
            self._awaits_launch = True
            self._actions.append(WakeAt(due))
            return
        self._launched = now
        for _ in range(min(wanted, room)):
            self._workers[self._next_worker] = _Worker(now)
            self._starting += 1
            self._actions.append(Launch(self._next_worker))
            self._next_worker += 1

    def _next_try(self) -> float:
        """When a worker may be launched, after the tries that failed since one became ready."""
        if not self._failed_starts:
            return 0.0
        doublings = min(self._failed_starts - 1, MOST_PAUSES)
        return self._failed_at + START_PAUSE * (1 << doublings)

    def _steal(self, now: float) -> None:
        """Take back the tail of a worker that is stuck in a long task while another could have it.

        An idle one, or one that could be started.  Or while nothing shall be started any more: a
        worker may have claimed tasks together with the one that it is stuck in, and have put those
        claims back since the last try.
        """
        # Also from one that has yet to drop what was taken back before.
        victims = [
            (self._wanted_at(worker), -worker.held, number)
            for number, worker in self._workers.items()
            if worker.held > 1
        ]
        if not victims:
            return
        due, held, number = min(victims)
        if now < due:
            self._actions.append(WakeAt(due))
            return
        victim = self._workers[number]
        victim.since = now
        victim.tries += 1
        self._actions.append(TakeBack(number, -held - 1 if self._cancelling else -held // 2))

    def _wanted_at(self, worker: _Worker) -> float:
        """When the tail of a worker that holds several tasks is wanted back."""
        if not worker.tries and self._load(worker) > OVERLOAD_SECONDS:
            return worker.since
        return worker.due()

    def _let_idle_go(self, now: float) -> None:
        """Workers without work for longer than the idle timeout leave; all of them on closing."""
        if self._queued:
            return
        if self.state is Pool.CLOSING:
            # Work sent ahead to others may come back, and would then need a worker.
            if not any(worker.held > 1 for worker in self._workers.values()):
                for number, worker in self._workers.items():
                    if worker.phase is Phase.STARTING or number in self.idle:
                        self._retire(number, worker)
        elif self.config.idle_timeout is not None:
            for number, worker in list(self.idle.items()):
                leaves = worker.since + self.config.idle_timeout
                if now >= leaves:
                    self._retire(number, worker)
                else:
                    self._actions.append(WakeAt(leaves))

    def _measure(self, group: int, seconds: float) -> None:
        old = self._estimates.get(group)
        if old is not None:
            seconds = old + NEWEST * (min(seconds, MOST_GROWTH * old) - old)
        self._estimates[group] = max(seconds, LEAST_SECONDS)
        if len(self._estimates) > MOST_GROUPS:
            del self._estimates[next(iter(self._estimates))]

    # -- failures ---------------------------------------------------------------------------

    def _give_back(self, spans: list[Span]) -> None:
        """Put tasks that nobody started at the front of the queue again (`spans` in order)."""
        for span in reversed(spans):
            for task in range(span.start, span.stop) if self._asked else ():
                if task in self._asked:
                    self._cancelled.add(task)
                    self._queued -= 1
                    self._actions.append(Cancel(Span(task, task + 1, span.group)))
            self._queued += span.stop - span.start
            front = self._queue[0] if self._queue else None
            if front is not None and span.stop == front.start and span.group == front.group:
                self._queue[0] = Span(span.start, front.stop, span.group)
            else:
                self._queue.appendleft(span)

    def _fail_started(self, number: int, worker: _Worker, was_running: bool) -> None:
        """The last task started is the one it ran, if any; the others had finished, unheard."""
        for at, span in enumerate(worker.sent):
            last = was_running and at == len(worker.sent) - 1
            lost = Span(span.start, span.stop - 1 if last else span.stop, span.group)
            if lost.start < lost.stop:
                self._actions.append(Fail(lost, number, Why.LOST))
            if last:
                self._actions.append(
                    Fail(Span(span.stop - 1, span.stop, span.group), number, Why.DIED)
                )

    def _note_death(self, event: WorkerExited, worker: _Worker, had_started: bool) -> None:
        if event.killed:
            return
        if self.config.break_on_death:
            self._break(Why.WORKER_DIED, event.worker, 1)
        elif had_started:
            return
        elif worker.phase is Phase.STARTING:
            self._note_failed_start(event, worker)
        else:
            self._deaths.append(event.now)
            if len(self._deaths) == DEATHS and event.now - self._deaths[0] <= DEATH_SECONDS:
                self._break(Why.TOO_MANY_DEATHS, event.worker, DEATHS)

    def _note_failed_start(self, event: WorkerExited, worker: _Worker) -> None:
        """Whoever is there goes on, and another start is tried when there may be room for it.

        Workers that were launched together count as one try.
        """
        if worker.since > self._failed_at:
            self._failed_starts += 1
            self._failed_at = event.now
        others = [w for w in self._workers.values() if w.held or w.phase is not Phase.RETIRING]
        if self._failed_starts >= START_TRIES and not others:
            self._break(Why.CANNOT_START, event.worker, self._failed_starts)

    def _break(self, why: Why, worker: int, deaths: int) -> None:
        if self.state in (Pool.BROKEN, Pool.DONE):
            return
        self.state = Pool.BROKEN
        self._queue.clear()
        self._cancelled.clear()
        self._asked.clear()
        self.idle.clear()
        self._queued = 0
        for each in self._workers.values():
            each.sent.clear()
            each.held = 0
        self._actions.append(Break(why, worker, deaths))

    def _cancel_queue(self) -> None:
        for span in self._queue:
            for part in self._without_cancelled(span):
                self._actions.append(Cancel(part))
        self._queue.clear()
        self._cancelled.clear()
        self._queued = 0

    def _settle(self) -> None:
        """The pool has ended when it takes no work any more and the last worker is gone."""
        ending = self.state is Pool.BROKEN or (self.state is Pool.CLOSING and not self._queued)
        if ending and not self._workers:
            self.state = Pool.DONE
            self._actions.append(Done())

    # -- invariants -------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants in the module's docstring.  For tests."""
        places = [*self._queue, *(s for w in self._workers.values() for s in w.sent)]
        tasks = [task for span in places for task in range(span.start, span.stop)]
        assert len(tasks) == len(set(tasks)), f"1: {sorted(tasks)}"
        assert all(span.start < span.stop for span in places), "1"
        queued = [t for s in self._queue for t in range(s.start, s.stop)]
        assert self._queued == len(set(queued) - self._cancelled), "2"
        for worker in self._workers.values():
            assert worker.held == sum(s.stop - s.start for s in worker.sent), "1"
            assert self.config.claims or worker.held <= 1, "3"
            assert worker.dropping >= 0, "1"
            most = self.config.max_tasks_per_child
            assert most is None or worker.given <= most, "5"
            assert worker.phase is not Phase.STARTING or not worker.held, "6"
        if self.state is not Pool.BROKEN:
            assert self._active() <= self._max_workers, "4"
        phases = [worker.phase for worker in self._workers.values()]
        assert self._starting == phases.count(Phase.STARTING), "10"
        assert self._retiring == phases.count(Phase.RETIRING), "10"
        idle = {n for n, w in self._workers.items() if w.phase is Phase.READY and not w.held}
        assert set(self.idle) == {n for n in idle if not self._workers[n].dropping} or (
            self.state is Pool.BROKEN
        ), "9"
        if self.state in (Pool.BROKEN, Pool.DONE):
            assert not tasks, "8"
            assert self.state is not Pool.DONE or not self._workers, "8"
        elif self._queued:
            assert self._awaits_launch or any(
                w.phase is Phase.STARTING or w.held or w.dropping for w in self._workers.values()
            ), "7"


def _held(item: tuple[int, _Worker]) -> int:
    return item[1].held


def _held_and_age(item: tuple[int, _Worker]) -> tuple[int, int]:
    return item[1].held, -item[0]


def _worth(estimate: float, seconds: float = AHEAD_SECONDS) -> int:
    """How many tasks of this estimate last so many seconds: at least one."""
    if estimate * MOST_AHEAD <= seconds:
        return MOST_AHEAD
    return max(1, int(-(-seconds // estimate)))


def _split(span: Span, start: int, stop: int) -> tuple[Span, Span, Span]:
    """The parts of a span before, within and after this range; any may be empty."""
    start = min(max(start, span.start), span.stop)
    stop = min(max(stop, start), span.stop)
    return (
        Span(span.start, start, span.group),
        Span(start, stop, span.group),
        Span(stop, span.stop, span.group),
    )


def _cut_tail(sent: deque[Span], count: int) -> list[Span]:
    """Remove the last `count` tasks and return them, in order."""
    cut: list[Span] = []
    while count > 0:
        span = sent.pop()
        here = min(count, span.stop - span.start)
        if span.stop - here > span.start:
            sent.append(Span(span.start, span.stop - here, span.group))
        cut.append(Span(span.stop - here, span.stop, span.group))
        count -= here
    cut.reverse()
    return cut


_HANDLERS: dict[type, Callable[[Scheduler, Any], None]] = {
    Submitted: Scheduler._submitted,
    Expected: Scheduler._expected,
    WorkerReady: Scheduler._worker_ready,
    InitializerFailed: Scheduler._initializer_failed,
    Finished: Scheduler._finished,
    TookBack: Scheduler._took_back,
    Dropped: Scheduler._dropped,
    WorkerExited: Scheduler._worker_exited,
    CancelAsked: Scheduler._cancel_asked,
    Abandoned: Scheduler._abandoned,
    ShutdownAsked: Scheduler._shutdown_asked,
    TerminateAsked: Scheduler._terminate_asked,
    Resized: Scheduler._resized,
    Tick: Scheduler._tick,
}
