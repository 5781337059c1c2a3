"""The impure heart of the pool: it owns the workers, the wait loop and the clock.

The driver feeds what happens to the scheduler and carries out what that decides.  It decides
nothing itself and knows no futures: the entries of its table of tasks take their outcomes.

Threads and the lock
--------------------
Any thread may call the public methods.  One lock is around the scheduler, the table of tasks and
the writing ends of the channels.  Under it there is no blocking call, no user code, no logging and
no pickling but of plain values (see `_plain`): scheduler, table, non-blocking writes, reads of the
claims.  What else a decision asks
for (starting processes, failing futures, which runs callbacks) is a *chore*: it is put on a list
and done by the driver's thread after the lock is released.

Sends and take-backs are carried out under the lock, in the order decided: the messages of one
worker must arrive in that order, and `cancel` can so answer with the truth.

A thread that already holds the lock may come here again: a signal handler or a finalizer that
submits.  It must neither wait for itself nor see a half-made transition: what it wants is put into
the inbox, and the driver's thread does it.  Finalizers of hookpool itself only ever append to the
inbox.  An exception in the middle of a transition (Ctrl-C, say) leaves a state nobody can vouch
for: the pool breaks, with an `InternalError` that says so, rather than hang.

What ends what: the driver's thread ends when the scheduler says `Done`, closes everything the pool
ever opened, and is joined by `shutdown(wait=True)` and at the exit of the interpreter.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import threading
import weakref
from collections import deque
from multiprocessing import util
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from hookpool import _events, _scheduler, _wire, _worker, errors
from hookpool._alarm import Alarm
from hookpool._buffers import Exchange, is_borrowed, socket_pair
from hookpool._channel import CLAIMS, Channel
from hookpool._crew import Worker
from hookpool._events import Why
from hookpool._future import RebuildInterrupted, settle_one
from hookpool._poller import CAN_MUTE, Poller
from hookpool._task import Block, Rows, Task, Values, describe, rebuilt, resolve_here
from hookpool._wire import Kind, ResultRow, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from hookpool._buffers import Lender
    from hookpool._definitions import Ledger
    from hookpool._task import Arrival, Work
    from hookpool._wire import ResultRow

# How long a thread that waits for a result reads in place of the driver's thread, in seconds.
# Longer saves the detour, some 50 us, for longer tasks, where it does not matter; shorter bounds
# what a cancel from elsewhere can be delayed by.
HELP_SECONDS = 0.02
# How long terminated workers may take to end before they are killed, in seconds. SIGTERM is final
# in an ordinary worker; only one whose task handles the signal, or is stopped, needs the rest.
KILL_AFTER = 2.0
# How long shared memory is kept that nobody uses, in seconds: at least so long, at most twice. The
# first use of new memory costs some five times what its next one costs.
TRIM_SECONDS = 2.0
# How long a look at the processes waits for those being started, in seconds: a start that takes
# longer (an overloaded machine) is then not in the list.
START_WAIT = 10.0


class _Exit:
    """How a worker ended, for the errors of the tasks it had."""

    __slots__ = ("exitcode", "pid")

    def __init__(self, pid: int | None, exitcode: int | None) -> None:
        self.pid = pid
        self.exitcode = exitcode


_UNKNOWN = _Exit(None, None)
_Send = _events.Send
# Members of an IntEnum cost two look-ups and a conversion each time.
_VALUES, _RESULTS = int(Kind.VALUES), int(Kind.RESULTS)


class _Transition:
    """Around what must not be left half-done: an exception that comes through breaks the pool.

    The lock itself is taken by a `with` statement of its own, outside of this one: an interrupt
    cannot come between taking a lock of the `threading` module so and the promise to give it back.
    """

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._driver._interrupt()


class Driver:
    """See the module."""

    def __init__(
        self,
        config: _scheduler.Config,
        context: BaseContext,
        start: _worker.Start,
        ledger: Ledger,
        lender: Lender,
    ) -> None:
        self._context = context
        self._lender = lender
        self._start = start
        self._ledger = ledger
        self._scheduler = _scheduler.Scheduler(config._replace(claims=config.claims and CLAIMS))
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
        #: The task that is being cancelled, or -1.
        self._cancelling = -1
        #: Events from those who may not take the lock.
        self._inbox: deque[_events.Event] = deque()
        #: Results that have arrived, for the driver's thread to give to those who wait.
        self._arrived: deque[Arrival] = deque()
        #: What is on its way from the table of tasks to there.
        self._arriving: Arrival | None = None
        #: When the scheduler wants to be woken, by `time.monotonic`.
        self._wake_at: float | None = None
        #: When memory that has not been used is let go.
        self._trim_at: float | None = None
        #: When what is left of the workers is killed.
        self._kill_at: float | None = None
        #: Workers whose channels wait for the kernel.
        self._backed_up: set[Worker] = set()
        #: How processes are ended when the pool breaks.
        self._kill: Callable[[BaseProcess], None] = _kill
        #: Why the pool is broken; what submit then raises.
        self.broken: BaseException | None = None
        #: Whether no task may be submitted any more.
        self.closed = False
        #: Whether this is a forked copy in another process.
        self.forked = False
        #: Whether an exception left the scheduler in an unknown state: it is not asked any more.
        self._interrupted = False
        #: How workers ended whose tasks are being failed, by number.
        self._exits: dict[int, _Exit] = {}
        #: Why a process could not be started, or what its initializer raised, the last time.
        self._start_error: BaseException | None = None
        self._poller: Poller | None = None
        self._alarm: Alarm | None = None
        #: The driver's thread; None until the first task.
        self.thread: threading.Thread | None = None
        self._thread_ident: int | None = None
        self._opening = threading.Lock()

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
            refusal = self._refusal()
            if refusal is None:
                try:
                    number = self._next
                    self._next = number + 1
                    self._tasks[number] = task
                    self._tell(_events.Submitted(number, number + 1, task.group, monotonic()))
                except BaseException:
                    self._interrupt()
                    raise
        if refusal is not None:
            raise refusal
        if self._chores or self._backed_up:
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
                self._tasks.update(zip(range(first, stop), itertools.repeat(block)))
                self._tell(_events.Submitted(first, stop, block.group, monotonic()))
        if refusal is not None:
            raise refusal
        self._after_transition()

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
        with self._lock, self._transition:
            if number not in self._tasks or number in self._unknown:
                return False
            self._cancelling = number
            self._tell(_events.CancelAsked(number, monotonic()))
            cancelled = number not in self._tasks
            self._cancelling = -1
        self._after_transition()
        return cancelled

    def check_open(self) -> None:
        """Raise what `submit` would raise for any task."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def is_running(self, number: int) -> bool:
        """Whether a worker has claimed the task."""
        if self._is_inside():
            return False  # in the middle of a transition of this very thread: cannot be known
        with self._lock, self._transition:
            runner, held = self._scheduler.runner(number)
            worker = self._workers.get(runner)
            # The head of what a worker holds is claimed if anything is.
            return worker is not None and worker.channel.unclaimed() < held

    def abandon(self, first: int, stop: int, kill: bool) -> None:
        """Nobody wants these tasks: cancel those not started, `kill` the workers of the rest."""
        for number in range(first, stop):
            if number in self._tasks and not self.cancel(number) and kill:
                self._kill_runner(number)

    def _kill_runner(self, number: int) -> None:
        self._refuse_reentrance()
        with self._lock, self._transition:
            worker = self._workers.get(self._scheduler.runner(number)[0])
        if worker is not None:
            _kill(worker.process)

    def help(self, number: int, timeout: float | None) -> None:
        """Read in place of the driver's thread, for a thread that waits for this task's result.

        That saves waking the one to wake the other, most of a short round trip.  Done only for a
        task that its worker has begun, which therefore will not move; only for `HELP_SECONDS`,
        after which it does not matter any more; and so that the driver's thread takes over
        whatever happens here.
        """
        lock = self._lock
        if not CAN_MUTE or self._thread_ident == get_ident() or lock._is_owned():  # type: ignore[attr-defined]
            return
        with lock:
            worker = self._workers.get(self._scheduler.runner(number)[0])
        if worker is None or worker.reading.locked() or worker.channel.ended:
            return
        with worker.reading:
            poller, fd = self._poller, worker.channel.inn
            if poller is None or worker.channel.ended:
                return  # the worker ended meanwhile, and its descriptors may be closed
            try:
                poller.mute(fd)
                self._read_for(number, worker, timeout)
                poller.unmute(fd)
            except BaseException:
                poller.unmute(fd)
                self._wake()  # for what has arrived and was not settled
                raise

    def _read_for(self, number: int, worker: Worker, timeout: float | None) -> None:
        until = None
        while number in self._tasks and not worker.channel.ended:
            if not worker.spin.look():
                if until is None:
                    most = HELP_SECONDS if timeout is None else min(timeout, HELP_SECONDS)
                    until = monotonic() + most
                left = until - monotonic()
                if left <= 0 or not worker.spin.sleep(left):
                    return
            self._read(worker, number)
            if self._arrived or self._chores:
                self._wake()  # the driver's thread does the others

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
        self._refuse_reentrance()
        with self._lock, self._transition:
            self._tell(_events.Resized(max_workers, monotonic()))
        self._after_transition()

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of the pool is left; at once from the driver's own thread."""
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

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
        if self._chores or self._backed_up:
            self._wake()

    def _refusal(self) -> BaseException | None:
        """Why no task can be submitted, or None."""
        if self.forked:
            return errors.ForkedPool(
                "this pool belongs to the parent process: a forked child cannot use it; "
                "make a new pool in the child"
            )
        if self.broken is not None:
            return errors.again(self.broken)
        if self.closed:
            when = "interpreter shutdown" if _exiting else "shutdown"
            return RuntimeError(f"cannot schedule new futures after {when}")
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
                self._unknown.update(span.tasks())
                if self._cancelling in span.tasks():  # whoever asked hears it at once
                    self._unknown.discard(self._cancelling)
                    del self._tasks[self._cancelling]
                self._chores.append(action)
            case _:
                self._unstarted += isinstance(action, _events.Launch)
                self._chores.append(action)

    def _send(self, worker: Worker, spans: tuple[_events.Span, ...]) -> None:
        if self._ledger.forgotten:
            self._forget_definitions()
        worker.send(self._tasks, spans)
        if worker.channel.backed_up:
            self._backed_up.add(worker)
        if worker.exchange.used:
            self._note_large()

    def _retire(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is None:
            self._unwanted.add(number)
            return
        worker.retire()
        if worker.channel.backed_up:
            self._backed_up.add(worker)

    def _forget_definitions(self) -> None:
        forgotten = self._ledger.forgotten
        while forgotten:
            number = forgotten.popleft()
            for worker in self._workers.values():
                worker.forget(number)
                if worker.channel.backed_up:
                    self._backed_up.add(worker)

    def _set_alarm(self, when: float) -> None:
        if self._wake_at is None or when < self._wake_at:
            self._wake_at = when
            if threading.current_thread() is not self.thread:
                self._wake()

    # -- opening and closing ----------------------------------------------------------------

    def _open(self) -> None:
        with self._opening:
            if self.thread is not None:
                return
            self._poller = Poller()
            self._alarm = Alarm()
            self._poller.watch(self._alarm.fd, None)
            _living.add(self)
            _register_exit()
            if self._scheduler.config.all_at_once:
                # The workers are forked from here, so no thread may run yet.
                with self._lock, self._transition:
                    self._tell(_events.Tick(monotonic()))
                self._do_chores()
            self.thread = threading.Thread(target=self._run, name="hookpool-driver")
            self.thread.start()

    def _close(self) -> None:
        _living.discard(self)
        with self._opening, self._lock:
            assert self._poller is not None
            self._poller.close()
            self._alarm = None
        self._lender.close()

    def after_fork(self) -> None:
        """In a forked child: close what was inherited.  Nothing of the parent's is touched."""
        self.forked = True
        # Held by a thread that does not exist here.
        self._lock = threading.RLock()
        self._started = threading.Condition(self._lock)
        self._opening = threading.Lock()
        for worker in list(self._workers.values()):
            for fd in worker.fds():
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._workers.clear()
        if self._poller is not None:
            self._poller.close()
        self._alarm = None

    def _wake(self) -> None:
        """Make the driver's thread look around; safe anywhere, also in finalizers."""
        alarm = self._alarm
        if alarm is not None:
            alarm.ring()

    # -- the driver's thread ----------------------------------------------------------------

    def _run(self) -> None:
        self._thread_ident = get_ident()
        try:
            while not self._ended():
                self._wait()
                self._read_inbox()
                self._do_chores()
        except BaseException as error:  # a bug of ours: nobody may wait for ever because of it
            self._collapse(error)
            raise
        finally:
            self._close()

    def _ended(self) -> bool:
        if self._chores:
            return False
        if self._interrupted:
            return not self._workers
        return self._scheduler.state is _scheduler.Pool.DONE

    def _collapse(self, error: BaseException) -> None:
        story = errors.InternalError(f"the pool's own thread failed: {error!r}; please report it")
        story.__cause__ = error
        self.broken = story
        for worker in list(self._workers.values()):
            _kill(worker.process)
            worker.process.join(KILL_AFTER)
            with worker.reading:  # who reads for a result sees the end of the file, or gives up
                worker.channel.ended = True
            worker.close()
        self._workers.clear()
        arrived = [pair for arrival in self._arrived for pair in arrival.tasks()]
        for number, work in [*arrived, *self._tasks.items()]:
            work.set_exception(number, errors.again(story))
        self._arrived.clear()
        self._tasks.clear()

    def _wait(self) -> None:
        """Sleep until something happens, and tell the scheduler what it was."""
        assert self._poller is not None
        assert self._alarm is not None
        for worker, fd, writable in self._poller.wait(self._patience()):
            if worker is None:
                self._alarm.quiet()
            elif worker.number not in self._workers:
                pass  # it ended a moment ago, in this very loop
            elif fd == worker.death:
                self._worker_exited(worker)
            elif writable:
                self._drain_outbox(worker)
            else:
                self._receive(worker)
        self._settle()
        self._pass_news()
        self._watch_outboxes()
        self._ring()

    def _patience(self) -> float | None:
        times = (self._wake_at, self._kill_at, self._trim_at)
        moments = [when for when in times if when is not None]
        if self._inbox or self._chores or self._arrived:
            return 0.0
        return max(0.0, min(moments) - monotonic()) if moments else None

    def _ring(self) -> None:
        """What was to happen at a certain time."""
        now = monotonic()
        if self._wake_at is not None and now >= self._wake_at:
            with self._lock, self._transition:
                self._wake_at = None
                self._tell(_events.Tick(now))
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for worker in list(self._workers.values()):
                _kill(worker.process)
        if self._trim_at is not None and now >= self._trim_at:
            self._trim(now)

    # -- shared memory ----------------------------------------------------------------------

    def _note_large(self) -> None:
        """Something large is on its way: memory for it is kept for a while."""
        if self._trim_at is None:
            self._trim_at = monotonic() + TRIM_SECONDS
            self._wake()

    def _pass_news(self) -> None:
        """Tell workers at once what has become of their memory, where that is much."""
        for worker in list(self._workers.values()):
            if worker.exchange.is_urgent():
                with self._lock, self._transition:
                    self._pass_news_to(worker)

    def _pass_news_to(self, worker: Worker) -> None:
        worker.pass_news()
        if worker.channel.backed_up:
            self._backed_up.add(worker)

    def _trim(self, now: float) -> None:
        """Let memory go that has not been used for a while, here and in the workers."""
        workers = list(self._workers.values())
        if any(worker.exchange.used for worker in workers):
            self._trim_at = now + TRIM_SECONDS
            for worker in workers:
                worker.exchange.used = False
            return
        self._trim_at = None
        self._lender.trim()
        for worker in workers:
            worker.exchange.ask_to_trim()
            with self._lock, self._transition:
                self._pass_news_to(worker)

    def _read_inbox(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            with self._lock, self._transition:
                match event:
                    case _events.ShutdownAsked():
                        self.closed = True
                    case _events.Submitted(start, stop):
                        self._unknown.difference_update(range(start, stop))
                self._tell(event)

    def _receive(self, worker: Worker) -> bool:
        """Read what a worker sent, unless a thread that waits does; whether there is more."""
        if not worker.reading.acquire(blocking=False):
            return False
        try:  # no interrupt comes to this thread
            return self._read(worker)
        finally:
            worker.reading.release()

    def _read(self, worker: Worker, own: int = -1) -> bool:
        """Read once, and take in what it brings; the result of the task `own` is settled."""
        assert worker.reading.locked()
        interrupted: RebuildInterrupted | None = None
        try:
            frames, more = worker.channel.receive()
            for frame in frames:
                try:
                    if frame.number != 1 or own < 0 or not self._take_own(worker, frame, own):
                        self._take_in(worker, frame)
                except RebuildInterrupted as error:
                    interrupted = error  # the frames behind it are taken in first
        except BaseException:  # an interrupt: what was read and not taken in is lost
            self._interrupt()
            raise
        if worker.channel.ended and self._poller is not None:
            # End of file says nothing about the process: its sentinel does.
            self._poller.forget(worker.channel.inn)
        if interrupted is not None:
            raise interrupted
        return more

    def _take_own(self, worker: Worker, frame: _wire.Frame, own: int) -> bool:
        """Take in and settle the result of the task that this thread waits for, if it is that."""
        if frame.kind == _VALUES and not frame.is_cut:
            number, micros, payload = _wire.values(frame)
        elif frame.kind == _RESULTS:
            [row] = _wire.result_rows(frame)
            number, micros, payload = row.task, row.micros, None
        else:
            return False
        task = self._tasks.get(own)
        if number != own or type(task) is not Task or task.future.has_callbacks():
            return False  # the driver's thread does it: user code may wait for a very long time
        if payload is None:
            row = self._borrowed(row, worker)
        try:
            with self._lock:
                try:
                    # None: the pool was terminated just now, and the task has failed with it.
                    work = self._tasks.pop(own, None)
                    runs = ((1, micros),)
                    self._tell(_events.Finished(worker.number, runs, monotonic()))
                except BaseException:
                    self._interrupt()
                    raise
            if work is None:
                pass
            elif payload is not None:
                settle_one(task.future, pickle.loads(payload)[0])
            else:
                resolve_here(task, row)
        except BaseException:
            # An interrupt: what is no longer in the table must be where the driver's thread finds
            # it, or nobody would ever settle it. To be settled twice is no harm.
            arrival = Rows([row]) if payload is None else Values(own, pickle.loads(payload))
            arrival.works.append(task)
            self._arrived.append(arrival)
            self._wake()
            raise
        return True

    def _take_in(self, worker: Worker, frame: _wire.Frame) -> None:
        kind = frame.kind
        if kind == _VALUES:
            first, micros, payload = _wire.values(frame)
            count = frame.number
            if frame.is_cut:
                lost = [ResultRow(first + at, Status.NO_ROOM, 0, b"") for at in range(count)]
                numbers = range(first, first + count)
                self._results(worker, Rows(lost), numbers, ((count, micros),))
                return
            # Plain values: nobody's code runs, here or there, so any thread may load them.
            arrival: Arrival = Values(first, pickle.loads(payload))
            self._results(worker, arrival, range(first, first + count), ((count, micros),))
            return
        if kind == _RESULTS:
            rows = [self._borrowed(row, worker) for row in _wire.result_rows(frame)]
            tasks = [row.task for row in rows]
            runs = tuple([(1, row.micros) for row in rows])
            self._results(worker, Rows(rows), tasks, runs)
            return
        if kind == Kind.NEWS:
            with self._lock, self._transition:
                worker.exchange.heard(frame.body)
            return
        now = monotonic()
        match kind:
            case Kind.READY:
                event: _events.Event = _events.WorkerReady(worker.number, now)
            case Kind.DROPPED:
                event = _events.Dropped(worker.number, frame.number, now)
            case Kind.UNFIT:
                self._start_error = rebuilt(frame.body)
                # The pool breaks when it has ended: it may still have logs to send on its way.
                worker.unfit = True
                self._kill_at = now + KILL_AFTER
                return
            case _:
                raise errors.InternalError(f"a worker sent a frame of kind {frame.kind}")
        with self._lock, self._transition:
            self._tell(event)

    def _results(
        self,
        worker: Worker,
        arrival: Arrival,
        numbers: Sequence[int],
        runs: tuple[tuple[int, int], ...],
    ) -> None:
        with self._lock:
            try:
                # From one table to the other in one call, or an interrupt could come in between;
                # and reachable before that, for the same reason.
                self._arriving = arrival
                arrival.works.extend(map(self._tasks.pop, numbers, itertools.repeat(None)))
                self._arrived.append(arrival)
                self._arriving = None
                # The worker gets its next tasks before the user's code (unpickling, callbacks)
                # runs.
                self._tell(_events.Finished(worker.number, runs, monotonic()))
            except BaseException:
                if self._arriving is not None:
                    self._arrived.append(self._arriving)  # twice is no harm
                self._interrupt()
                raise

    def _borrowed(self, row: ResultRow, worker: Worker) -> ResultRow:
        """The result with what was lent for it, which is given back when nobody has it any more.

        Once only for each: also where nobody waits for the result.
        """
        if not is_borrowed(row.payload):
            return row
        self._note_large()
        return row._replace(payload=worker.exchange.borrow(row.payload))  # type: ignore[arg-type]

    def _settle(self) -> None:
        """Give the results that have arrived to those who wait for them."""
        while self._arrived:
            # Removed when that is done: should it go wrong, `_collapse` finds the others there.
            self._arrived[0].settle()
            self._arrived.popleft()

    def _drain_outbox(self, worker: Worker) -> None:
        with self._lock, self._transition:
            worker.channel.flush()

    def _watch_outboxes(self) -> None:
        """Wait for room in the channels that wait for the kernel, and in no others."""
        assert self._poller is not None
        for worker in tuple(self._backed_up):
            if worker.channel.backed_up and worker.number in self._workers:
                self._poller.watch(worker.channel.out, worker, write=True)
            else:
                self._backed_up.discard(worker)
                self._poller.forget(worker.channel.out)

    # -- chores -----------------------------------------------------------------------------

    def _do_chores(self) -> None:
        while self._chores:
            match self._chores.popleft():
                case _events.Launch(number):
                    self._launch(number)
                case _events.Fail(span, _, why) as chore:
                    self._fail(span, self._exits.get(chore.worker, _UNKNOWN), why)
                case _events.Cancel(span):
                    for number in range(span.start, span.stop):
                        work = self._pop(number)
                        if work is not None:
                            work.set_cancelled(number)
                case _events.Break() as chore:
                    self._break(chore)

    def _pop(self, number: int) -> Work | None:
        with self._lock:
            self._unknown.discard(number)
            return self._tasks.pop(number, None)

    def _fail(self, span: _events.Span, exit: _Exit, why: Why) -> None:
        for number in range(span.start, span.stop):
            work = self._pop(number)
            if work is not None:
                error = errors.worker_died(
                    describe(work),
                    exit.pid,
                    exit.exitcode,
                    running=why is Why.DIED,
                    breaks=self._scheduler.config.break_on_death,
                )
                work.set_exception(number, error)

    def _launch(self, number: int) -> None:
        """Start a worker; should that fail, it counts as one that ended at its start."""
        assert self._poller is not None
        if number in self._unwanted:
            self._note_start_failed(number)
            return
        channel = Channel()
        rights, worker_rights = socket_pair()
        exchange = Exchange(rights, self._lender, self._wake)
        try:
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_worker.main,
                args=(
                    _worker.Link(
                        channel.worker_in, channel.worker_out, channel.claims, worker_rights
                    ),
                    self._start,
                ),
                name=f"HookPoolWorker-{number}",
            )
            process.start()
        except Exception as error:  # noqa: BLE001 - no processes left, unpicklable initializer
            channel.close()
            exchange.close()
            self._start_error = error
            self._note_start_failed(number)
            return
        finally:
            if worker_rights is not None:
                os.close(worker_rights)
        channel.hand_over()
        worker = Worker(number, process, channel, exchange)
        self._poller.watch(channel.inn, worker)
        self._poller.watch(worker.death, worker)
        self._note_start(worker)
        if self.broken is not None:
            self._kill(process)

    def _note_start(self, worker: Worker) -> None:
        with self._started:
            self._workers[worker.number] = worker
            if worker.number in self._unwanted:
                self._retire(worker.number)
            self._unstarted -= 1
            self._started.notify_all()

    def _note_start_failed(self, number: int) -> None:
        with self._lock, self._transition:
            self._unstarted -= 1
            self._started.notify_all()
            self._tell(_events.WorkerExited(number, 0, monotonic()))

    def _worker_exited(self, worker: Worker) -> None:
        assert self._poller is not None
        # What it had sent before it ended still counts.
        with worker.reading:  # whoever waited for it has seen the end of file, or gives up soon
            while not worker.channel.ended and self._read(worker):
                pass
            self._read(worker)
            worker.channel.ended = True  # also where a child of the worker holds its pipes open
        worker.process.join()
        self._poller.forget(worker.death)
        self._poller.forget(worker.channel.inn)
        self._poller.forget(worker.channel.out)
        self._exits[worker.number] = _Exit(worker.process.pid, worker.process.exitcode)
        with self._lock, self._transition:
            del self._workers[worker.number]
            self._backed_up.discard(worker)
            unclaimed = worker.channel.take_claims()
            if worker.unfit:
                self._tell(_events.InitializerFailed(worker.number))
            self._tell(_events.WorkerExited(worker.number, unclaimed, monotonic()))
        self._do_chores()
        del self._exits[worker.number]
        worker.close()

    def _break(self, chore: _events.Break) -> None:
        """Fail whatever is unfinished and end all workers."""
        error = self._why_broken(chore)
        with self._lock:
            self.broken = error
            tasks, self._tasks = self._tasks, {}
            self._unknown.clear()
        for worker in list(self._workers.values()):
            self._kill(worker.process)
        self._kill_at = monotonic() + KILL_AFTER
        for number, work in tasks.items():
            work.set_exception(number, errors.again(error))

    def _why_broken(self, chore: _events.Break) -> BaseException:
        exit = self._exits.get(chore.worker, _UNKNOWN)
        pid, exitcode = exit.pid, exit.exitcode
        match chore.why:
            case Why.INITIALIZER:
                return errors.initializer_failed(self._start_error)
            case Why.CANNOT_START:
                return errors.worker_cannot_start(chore.deaths, exitcode, self._start_error)
            case Why.TOO_MANY_DEATHS:
                return errors.too_many_deaths(chore.deaths, _scheduler.DEATH_SECONDS, exitcode)
            case Why.WORKER_DIED:
                return errors.pool_broken_by_death(pid, exitcode)
        return self.broken or errors.PoolTerminated(
            "the workers of the pool were terminated while this task was not finished",
            may_have_run=True,
        )


def _kill(process: BaseProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


# -- the program's start, forks and end --------------------------------------------------------

#: Drivers whose thread runs.
_living: weakref.WeakSet[Driver] = weakref.WeakSet()
_exit_registered = False
_exiting = False


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        _exit_registered = True
        # Before the interpreter joins its threads, as `concurrent.futures` does it: pending work
        # is finished, and the thread that does that is told to end.  (`atexit` comes too late.)
        threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
        # A child of multiprocessing joins its own children before that: so earlier still, there.
        util.Finalize(None, _finish_all, exitpriority=100)


def _finish_all() -> None:
    global _exiting
    _exiting = True
    drivers = list(_living)
    for driver in drivers:
        driver.tell(_events.ShutdownAsked(False, monotonic()))
    for driver in drivers:
        driver.join()


def _after_fork() -> None:
    global _exit_registered
    _exit_registered = False
    for driver in list(_living):
        driver.after_fork()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
