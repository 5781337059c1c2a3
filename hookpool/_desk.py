"""A pool as any of its threads may change it: under one lock, by asking the scheduler.

The first of the three layers of the driver.  Owns the lock and what it guards: the scheduler, the
table of tasks, the writing ends of the channels.  What a decision asks for beyond that is noted
for the driver's thread.

Threads and the lock
--------------------
Any thread may call the public methods.  Under the lock there is no blocking call, no user code, no
logging and no pickling but of plain values (see `_plain`): scheduler, table, non-blocking writes,
reads of the claims.  What else a decision asks for (starting processes, failing futures, which
runs callbacks) is a *chore*: it is put on a list and done by the driver's thread after the lock is
released.

Sends and take-backs are carried out under the lock, in the order decided: the messages of one
worker must arrive in that order, and `cancel` can so answer with the truth.

A thread that already holds the lock may come here again: a signal handler or a finalizer that
submits.  It must neither wait for itself nor see a half-made transition: what it wants is put into
the inbox, and the driver's thread does it.  Finalizers of hookpool itself only ever append to the
inbox.  An exception in the middle of a transition (Ctrl-C, say) leaves a state nobody can vouch
for: the pool breaks, with an `InternalError` that says so, rather than hang.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections import deque
from time import monotonic

from hookpool import _events, _scheduler, errors
from hookpool._claims import are_possible
from hookpool._events import Why
from hookpool._limits import pause
from hookpool._task import Block, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.process import BaseProcess

    from hookpool._alarm import Alarm
    from hookpool._crew import Worker
    from hookpool._definitions import Ledger
    from hookpool._poller import Poller
    from hookpool._task import Work

# How long terminated workers may take to end before they are killed, in seconds. SIGTERM is final
# in an ordinary worker; only one whose task handles the signal, or is stopped, needs the rest.
KILL_AFTER = 2.0
# How long shared memory is kept that nobody uses, in seconds: at least so long, at most twice. The
# first use of new memory costs some five times what its next one costs.
TRIM_SECONDS = 2.0
# How long a look at the processes waits for those being started, in seconds: a start that takes
# longer (an overloaded machine) is then not in the list.
START_WAIT = 10.0

#: Whether the interpreter is on its way out, and waits for what is pending.
exiting = False

_Send = _events.Send


class _Transition:
    """Around what must not be left half-done: an exception that comes through breaks the pool.

    The lock itself is taken by a `with` statement of its own, outside of this one: an interrupt
    cannot come between taking a lock of the `threading` module so and the promise to give it back.
    """

    __slots__ = ("_desk",)

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._desk._interrupt()


class Desk(ABC):
    """See the module."""

    #: Why the pool is broken; what submit then raises.
    broken: BaseException | None = None
    #: Whether no task may be submitted any more.
    closed = False
    #: Whether this is a forked copy in another process.
    forked = False

    def __init__(self, config: _scheduler.Config, ledger: Ledger) -> None:
        self._ledger = ledger
        claims = config.claims and are_possible()
        self._scheduler = _scheduler.Scheduler(config._replace(claims=claims))
        # Re-entrant only so that it knows its owner: see `_is_inside`.
        self._lock = threading.RLock()
        self._transition = _Transition(self)
        #: Unfinished tasks by number.
        self._tasks: dict[int, Work] = {}
        #: Those that the scheduler does not know: not yet, since they were submitted late, or not
        #: any more, since a chore will settle them. It must not be asked to cancel them.
        self._unknown: set[int] = set()
        #: The number of the next task.
        self._next = 0
        #: From this task on all have come one by one, and nobody has asked for a result.
        self._unasked = 0
        #: Numbers for tasks of those who may not take the lock: far from all others, and from
        #: each other, since each is the first of a block.
        self._late = itertools.count(1 << 62, 1 << 20)
        #: Living workers by number.
        self._workers: dict[int, Worker] = {}
        #: Workers that the driver's thread has yet to start.
        self._unstarted = 0
        self._started = threading.Condition(self._lock)
        #: Those of them that shall exit already.
        self._unwanted: set[int] = set()
        #: Decisions for the driver's thread, in order.
        self._chores: deque[_events.Action] = deque()
        #: What came of decisions that were carried out at once, to tell the scheduler.
        self._answers: deque[_events.Event] = deque()
        #: The tasks that are being cancelled, and what the table had for those that were.
        self._cancelling = range(0)
        self._dropped: list[Work | None] = []
        #: Events from those who may not take the lock.
        self._inbox: deque[_events.Event] = deque()
        #: When the scheduler wants to be woken, by `time.monotonic`.
        self._wake_at: float | None = None
        #: When workers are looked at that have calls with a time limit.
        self._look_at: float | None = None
        #: When what is left of the workers is killed.
        self._kill_at: float | None = None
        #: Why a process could not be started, or what its initializer raised, the last time.
        self._start_error: BaseException | None = None
        #: When memory that has not been used is let go.
        self._trim_at: float | None = None
        #: Workers whose channels wait for the kernel; under the lock.
        self._backed_up: set[Worker] = set()
        #: How processes are ended when the pool breaks.
        self._kill: Callable[[BaseProcess], None] = kill
        #: Whether an exception left the scheduler in an unknown state: it is not asked any more.
        self._interrupted = False
        self._poller: Poller | None = None
        self._alarm: Alarm | None = None
        #: The driver's thread; None until the first task.
        self.thread: threading.Thread | None = None
        self._thread_ident: int | None = None
        #: A lock of each thread that waits for the end of that one, and whether it has come.
        self._joiners: list[threading.Lock] = []
        self._gone = False

    @abstractmethod
    def _open(self) -> None:
        """Start the driver's thread, unless it runs."""

    # -- what the executor calls, from any thread -------------------------------------------

    def submit(self, task: Task) -> int:
        """Queue a task and return its number.

        Raises:
            BrokenProcessPool: the pool is broken.
            RuntimeError: the pool is shut down.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            return self._submit_late(task, 1)
        if self.thread is None and self._refusal() is None:
            self._open()
        with self._lock:
            if self.closed or self.broken is not None or self.forked:
                refusal = self._refusal()
            else:
                try:
                    number = self._next
                    self._next = number + 1
                    self._tasks[number] = task
                    now = monotonic()
                    idle = self._scheduler.give(number, task.group, now)
                    if idle < 0:
                        self._tell(_events.Submitted(number, number + 1, task.group, now))
                    else:
                        self._send_alone(self._workers[idle], task, number)
                except BaseException:
                    self._interrupt()
                    raise
                refusal = None
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # else a cycle of it and this frame would keep the task
        if self._chores:
            self._wake()
        return number

    def submit_block(self, block: Block) -> None:
        """Queue the tasks of a block; raises what `submit` raises."""
        if self._is_inside():
            block.first = self._submit_late(block, len(block))
            return
        if self.thread is None and self._refusal() is None:
            self._open()
        with self._lock, self._transition:
            refusal = self._refusal()
            if refusal is None:
                block.first = first = self._next
                self._next = stop = first + len(block)
                self._unasked = stop  # who takes a block waits for the first of it
                self._tasks.update(zip(range(first, stop), itertools.repeat(block)))
                self._tell(_events.Submitted(first, stop, block.group, monotonic()))
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # as in `submit`
        self._after_transition()

    def _take_dropped(self) -> list[Work | None]:
        dropped, self._dropped = self._dropped, []
        return dropped

    def note_asked(self) -> None:
        """Somebody wants to know what becomes of a task."""
        self._unasked = self._next

    def _submit_late(self, work: Work, count: int) -> int:
        """Queue tasks for a thread that is inside a transition: the driver's thread will."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        first = next(self._late)
        if isinstance(work, Block):
            work.first = first
        self._unknown.update(range(first, first + count))
        self._tasks.update(zip(range(first, first + count), itertools.repeat(work)))
        self.tell(_events.Submitted(first, first + count, work.group, monotonic()))
        return first

    def expect(self) -> None:
        """A task is about to be submitted: start a worker meanwhile, if one is needed."""
        if not self._scheduler.wants_more():
            return
        if self._is_inside() or self._refusal() is not None:
            return
        if self.thread is None:
            self._open()
        with self._lock, self._transition:
            self._tell(_events.Expected(monotonic()))
        self._after_transition()

    def cancel(self, number: int) -> bool:
        """Whether the task had not been started and now never will be; it is not told."""
        if self._is_inside():
            return False  # in the middle of a transition of this very thread: cannot be known
        if self.forked:
            return False  # it is the parent's
        with self._lock, self._transition:
            if number not in self._tasks or number in self._unknown:
                return False
            self._cancelling = range(number, number + 1)
            self._tell(_events.CancelAsked(number, monotonic()))
            cancelled = number not in self._tasks
            self._cancelling = range(0)
            dropped = self._take_dropped()
            _note_dropped(dropped)
        del dropped  # without the lock: what it held may run a finalizer
        self._after_transition()
        return cancelled

    def worth_waking(self, group: int) -> int:
        """How many tasks of a group are work enough to wake a worker for; a guess."""
        return self._scheduler.worth_waking(group)

    def check_open(self) -> None:
        """Raise what `submit` would raise for any task."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def check_fork(self) -> None:
        """Raise where this is a forked copy, to which no result comes."""
        if self.forked:
            raise _not_ours()

    def is_running(self, number: int) -> bool:
        """Whether a worker has started the task."""
        if self._is_inside():
            return False  # in the middle of a transition of this very thread: cannot be known
        with self._lock, self._transition:
            holder = self._scheduler.holder(number)
            worker = self._workers.get(holder)
            if worker is None:
                return False
            if not self._scheduler.config.claims:
                return True  # a worker has one task at a time
            behind, started = self._scheduler.behind, worker.channel.started()
            return behind(holder, started) <= behind(holder, number)

    def abandon(self, first: int, stop: int, kill: bool) -> None:
        """Nobody wants these tasks: cancel those not started, `kill` the workers of the rest.

        Those that are cancelled are not told.
        """
        if self.forked:
            return  # they are the parent's
        if not self._is_inside():  # else it cannot be known which they are
            with self._lock, self._transition:
                self._cancelling = range(first, stop)
                self._tell(_events.Abandoned(first, stop, monotonic()))
                self._cancelling = range(0)
                dropped = self._take_dropped()
            # As in `cancel`, without the lock; a block may have others that go on.
            for block in {work for work in dropped if type(work) is Block}:
                block.drop_all_but(self._tasks)
            del dropped
            self._after_transition()
        if kill:
            for number in range(first, stop):
                if number in self._tasks:
                    self._kill_runner(number)

    def _kill_runner(self, number: int) -> None:
        self._refuse_reentrance()
        with self._lock, self._transition:
            holder = self._scheduler.holder(number)
            worker = self._workers.get(holder)
            if worker is not None and self._scheduler.config.claims:
                behind, started = self._scheduler.behind, worker.channel.started()
                if behind(holder, number) > behind(holder, started):
                    return  # it has run, and the worker is at another one
        if worker is not None:
            worker.killed = True
            kill(worker.process)

    def tell(self, event: _events.Event) -> None:
        """Have the driver's thread take note of the event; safe in finalizers and handlers."""
        self._inbox.append(event)
        self._wake()

    def shut_down(self, cancel: bool) -> None:
        """Take no more tasks; with `cancel`, those not started do not run."""
        self._refuse_reentrance()
        if self.forked:
            return  # it is the parent's to shut down
        with self._lock, self._transition:
            self.closed = True
            self._tell(_events.ShutdownAsked(cancel, monotonic()))
        self._after_transition()

    def terminate(self, kill: Callable[[BaseProcess], None]) -> None:
        """End all workers at once, by `kill`; whatever is unfinished fails."""
        self._refuse_reentrance()
        if self.forked:
            return  # it is the parent's to terminate
        with self._lock, self._transition:
            self.closed = True
            self._kill = kill
            self._tell(_events.TerminateAsked())
        self._after_transition()

    def resize(self, max_workers: int) -> None:
        """Have so many workers from now on."""
        self.check_fork()
        self._refuse_reentrance()
        with self._lock, self._transition:
            self._tell(_events.Resized(max_workers, monotonic()))
        self._after_transition()

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of the pool is left; at once from the driver's own thread."""
        thread = self.thread
        if thread is None or thread is threading.current_thread() or self.forked:
            return
        # Not by `Thread.join` alone: until Python 3.13, once that has been interrupted (by Ctrl-C)
        # it takes the thread for ended, so that the next one does not wait.
        mine = threading.Lock()
        mine.acquire()
        self._joiners.append(mine)
        try:
            if self._gone or mine.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                thread.join(timeout)
        finally:
            self._joiners.remove(mine)

    def end(self, kill: Callable[[BaseProcess], None]) -> None:
        """End all workers at once, and wait until nothing is left."""
        self.shut_down(cancel=True)
        self.terminate(kill)
        self.join()

    def _let_joiners_go(self) -> None:
        self._gone = True  # first: who comes meanwhile sees this, or is in the list
        for joiner in list(self._joiners):
            joiner.release()

    def processes(self) -> dict[int, BaseProcess]:
        """The processes of the workers by pid, but for those told to exit.

        Waits for those being started: in the standard library they are there when submit returns.
        """
        waits = not self._is_inside() and self.thread is not threading.current_thread()
        with self._started:
            if waits:
                self._started.wait_for(lambda: not self._unstarted or self._ended(), START_WAIT)
            workers = list(self._workers.values())
        return {
            worker.process.pid: worker.process
            for worker in workers
            if worker.process.pid is not None and not worker.retired
        }

    # -- transitions ------------------------------------------------------------------------

    def _is_inside(self) -> bool:
        """Whether a signal handler or finalizer asks while its own thread is in a transition."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def _refuse_reentrance(self) -> None:
        if self._is_inside():
            raise errors.InternalError(
                "a signal handler or finalizer controlled the pool while its own thread was inside"
                " it; do so from another thread"
            )

    def _interrupt(self) -> None:
        """An exception came half-way through a transition."""
        self._interrupted = True
        self.broken = errors.InternalError(
            "an exception interrupted a decision of the pool half-way, so that its state is "
            "unknown; the pool is broken: make a new one"
        )
        self._chores.append(_events.Break(Why.TERMINATED, -1, 0))
        self._wake()

    def _after_transition(self) -> None:
        """Wake the driver's thread if the transition left something for it."""
        if self._chores:
            self._wake()

    def _wake(self) -> None:
        """Make the driver's thread look around; safe anywhere, also in finalizers."""
        alarm = self._alarm
        if alarm is not None:
            alarm.ring()

    def _refusal(self) -> BaseException | None:
        """Why no task can be submitted, or None."""
        if self.forked:
            return _not_ours()
        if self.broken is not None:
            return errors.refusal(self.broken)
        if self.closed:
            when = "interpreter shutdown" if exiting else "shutdown"
            return too_late(when)
        return None

    def _tell(self, event: _events.Event) -> None:
        """Tell the scheduler; carry out at once what must keep its order, and note the rest."""
        if self._interrupted:
            return
        for action in self._scheduler.handle(event):
            if type(action) is _Send:
                self._send(self._workers[action.worker], action.spans)
            else:
                self._carry_out(action)
        while self._answers:
            self._tell(self._answers.popleft())

    def _carry_out(self, action: _events.Action) -> None:
        match action:
            case _events.TakeBack(number, tasks):
                won = self._workers[number].channel.take_claims(tasks)
                self._answers.append(_events.TookBack(number, won, monotonic()))
            case _events.Retire(number):
                self._retire(number)
            case _events.WakeAt(when):
                self._set_alarm(when)
            case _events.Cancel(span) | _events.Fail(span):
                asked = _overlap(span.tasks(), self._cancelling)
                # Whoever asked hears it at once.
                self._dropped.extend(map(self._tasks.pop, asked, itertools.repeat(None)))
                if len(asked) < span.stop - span.start:
                    self._unknown.update(span.tasks())
                    self._unknown.difference_update(asked)
                    if type(action) is _events.Cancel:
                        _note_dropped(map(self._tasks.get, span.tasks()))
                    self._chores.append(action)
            case _:
                self._unstarted += isinstance(action, _events.Launch)
                self._chores.append(action)

    def _send_alone(self, worker: Worker, task: Task, number: int) -> None:
        """Send a task to a worker that has no other."""
        task.worker = worker
        if self._ledger.forgotten or not worker.send_one(task, number):
            self._send(worker, (_events.Span(number, number + 1, task.group),))
        else:
            self._note_outbox(worker)
            if task.limit is not None:
                self._note_limit(task.limit)

    def _send(self, worker: Worker, spans: tuple[_events.Span, ...]) -> None:
        if self._ledger.forgotten:
            self._forget_definitions()
        worker.send(self._tasks, spans)
        self._note_outbox(worker)
        for span in spans:
            limit = self._tasks[span.start].limit
            if limit is not None:
                self._note_limit(limit)
        if worker.exchange.used:
            self._note_large()

    def _retire(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is None:
            self._unwanted.add(number)
            return
        worker.retire()
        self._note_outbox(worker)

    def _note_outbox(self, worker: Worker) -> None:
        """Have the driver's thread write what the kernel did not take, if anything."""
        if worker.channel.backed_up and worker not in self._backed_up:
            self._backed_up.add(worker)
            # Here, and not after the transition: whoever reads a result may have caused it.
            self._wake()

    def _forget_definitions(self) -> None:
        forgotten = self._ledger.forgotten
        while forgotten:
            number = forgotten.popleft()
            for worker in self._workers.values():
                worker.forget(number)
                self._note_outbox(worker)

    def _note_large(self) -> None:
        """Something large is on its way: memory for it is kept for a while."""
        if self._trim_at is None:
            self._trim_at = monotonic() + TRIM_SECONDS
            self._wake()

    def _note_limit(self, limit: float) -> None:
        """A worker has a call with this limit: it is looked at in time."""
        when = monotonic() + pause(limit)
        if self._look_at is None or when < self._look_at:
            self._look_at = when
            if threading.current_thread() is not self.thread:
                self._wake()

    def _set_alarm(self, when: float) -> None:
        if self._wake_at is None or when < self._wake_at:
            self._wake_at = when
            if threading.current_thread() is not self.thread:
                self._wake()

    def _ended(self) -> bool:
        if self._chores or self._inbox:
            return False
        if self._interrupted:
            return not self._workers
        return self._scheduler.state is _scheduler.Pool.DONE


def too_late(when: str) -> RuntimeError:
    """What `submit` raises after the end, in the words of the standard library."""
    return RuntimeError(f"cannot schedule new futures after {when}")


def _note_dropped(works: Iterable[Work | None]) -> None:
    """Have futures know what will be said of them when the lock is released."""
    for work in works:
        if type(work) is Task:
            work.note_dropped()


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _not_ours() -> BaseException:
    return errors.ForkedPool(
        "this pool belongs to the parent process: a forked child cannot use it, nor wait for its "
        "results; make a new pool in the child"
    )


def kill(process: BaseProcess) -> None:
    """End a process at once, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
