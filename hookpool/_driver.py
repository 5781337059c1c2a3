"""The impure heart of the pool: it owns the workers' processes, the wait loop and the clock.

The driver feeds what happens to the scheduler and carries out what that decides.  It decides
nothing itself and knows no futures: the entries of its table of tasks take their outcomes.

It is one object in three layers, a module each, that only ever call down: what any thread may do
under the lock (`_desk`), what takes in results (`_reader`), and here the one thread of its own,
which waits for everything and does the chores that the others leave it.

What ends what: the driver's thread ends when the scheduler says `Done`, closes everything the pool
ever opened, and is joined by `shutdown(wait=True)` and at the exit of the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from multiprocessing import util
from threading import get_ident
from time import monotonic, sleep

from hookpool import _desk, _events, _nesting, _scheduler, _worker, errors
from hookpool._alarm import Alarm
from hookpool._buffers import Exchange, socket_pair
from hookpool._channel import Channel
from hookpool._claims import Board, Doing
from hookpool._crew import Worker
from hookpool._desk import KILL_AFTER, TRIM_SECONDS, kill, too_late
from hookpool._events import Why
from hookpool._limits import Limits, pause
from hookpool._link import Link
from hookpool._poller import Poller
from hookpool._raised import summary_of
from hookpool._reader import Reader
from hookpool._streams import away
from hookpool._task import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from hookpool._buffers import Lender
    from hookpool._definitions import Ledger
    from hookpool._start import Start
    from hookpool._task import Work


# So many tasks after anybody asked for a result, what comes is not read at once while somebody is
# busy submitting more.
UNASKED = 100
# But after a pause of so many seconds. To read the results of tiny tasks a few at a time, in turns
# of the interpreter's lock with the thread that submits, costs the owner more than to submit them.
PAUSE_SECONDS = 200e-6


class _Exit:
    """How a worker ended, for the errors of the tasks it had."""

    __slots__ = ("exitcode", "is_overdue", "phase", "pid")

    def __init__(
        self,
        pid: int | None,
        exitcode: int | None,
        phase: str = errors.RUNNING,
        is_overdue: bool = False,
    ) -> None:
        self.pid = pid
        self.exitcode = exitcode
        #: What it did for its last task.
        self.phase = phase
        #: Whether it was ended because that one had had its time.
        self.is_overdue = is_overdue


_PHASES = {
    Doing.RUNNING: errors.RUNNING,
    Doing.LOADING: errors.LOADING,
    Doing.DUMPING: errors.DUMPING,
    Doing.SENDING: errors.SENDING,
    Doing.NOTHING: errors.RUNNING,  # something else, beside tasks
}


_UNKNOWN = _Exit(None, None)


class Driver(Reader):
    """See the module."""

    def __init__(
        self,
        config: _scheduler.Config,
        context: BaseContext,
        start: Start,
        ledger: Ledger,
        lender: Lender,
    ) -> None:
        super().__init__(config, ledger)
        self._context = context
        self._lender = lender
        self._start = start
        #: Since when workers are at what they are at.
        self._limits = Limits()
        #: How workers ended whose tasks are being failed, by number.
        self._exits: dict[int, _Exit] = {}
        #: Where workers say what they have started; None: each gets one task at a time.
        self._board: Board | None = None
        # Re-entrant only so that it knows its owner.
        self._opening = threading.RLock()
        #: The number of the next task when the driver's thread last woke up.
        self._known = 0

    # -- opening and closing ----------------------------------------------------------------

    def _open(self) -> None:
        if self._opening._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler or finalizer submits: what it wants is found afterwards
        lost: dict[int, Work] = {}
        try:
            with self._opening:
                if self.thread is not None:
                    return
                _register_exit()
                user = _nesting.being_imported()
                self._start.users = _nesting.users_below(user)
                try:
                    if user is not None and not self._scheduler.config.all_at_once:
                        self._start.pack()
                    self._set_up()
                except BaseException:
                    lost = self._undo_open()
                    raise
        finally:
            # Without the lock: callbacks may wait for a thread that submits.
            for number, work in lost.items():
                assert self.broken is not None
                work.set_exception(number, errors.again(self.broken))

    def _set_up(self) -> None:
        if self._scheduler.config.claims:
            self._board = Board()
        self._poller = Poller()
        _living.add(self)
        self._alarm = Alarm()
        self._poller.watch(self._alarm.fd, None)
        if self._scheduler.config.all_at_once:
            # The workers are forked from here, so no thread may run yet.
            with self._lock, self._transition:
                self._tell(_events.Tick(monotonic()))
            self._do_chores()
        self._ledger.forgotten.wake = self._note_release
        self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="hookpool-driver")
        thread.start()
        # An interrupt before this line leaves a thread that is nobody's, as it will find out.
        self.thread = thread

    def _undo_open(self) -> dict[int, Work]:
        """Nothing is left of the attempt, and there may be another; but workers cannot go back.

        Returns:
            Tasks that a signal handler has submitted meanwhile, and that are lost.
        """
        if self.thread is not None:
            return {}  # an interrupt when all was done
        _living.discard(self)
        lost, self._tasks = self._tasks, {}
        if self._workers or lost:
            self.broken = errors.InternalError(
                "the pool has workers or tasks, but no thread for itself"
            )
        for worker in list(self._workers.values()):
            kill(worker.process)
            worker.process.join(KILL_AFTER)
            worker.close()
        self._workers.clear()
        if self._poller is not None:
            self._poller.close()
        if self._board is not None:
            self._board.close()
        self._alarm = self._poller = self._board = None
        self._ledger.forgotten.__dict__.pop("wake", None)
        return lost

    def _close(self) -> None:
        _living.discard(self)
        with self._opening, self._lock:
            assert self._poller is not None
            self._poller.close()
            self._alarm = None
            if self._board is not None:
                self._board.close()
        del self._ledger.forgotten.wake  # which would keep us alive
        self._ledger.close()
        self._lender.close()

    def after_fork(self) -> None:
        """In a forked child: close what was inherited.  Nothing of the parent's is touched."""
        # Held by a thread that does not exist here.
        self._lock = threading.RLock()
        self._started = threading.Condition(self._lock)
        self._opening = threading.RLock()
        self._unstarted = 0  # those that the parent is starting are not to be waited for
        self._ledger.renew_lock()
        for worker in list(self._workers.values()):
            for fd in worker.fds():
                with contextlib.suppress(OSError):
                    os.close(fd)
            worker.exchange.leave()
            worker.channel.leave_board()
        self._workers.clear()
        if self._poller is not None:
            self._poller.close()
        if self._board is not None:
            self._board.close()
        self._alarm = None

    # -- the driver's thread ----------------------------------------------------------------

    def _run(self) -> None:
        with self._opening:  # only then it is known whether the attempt has been undone
            if self.thread is not threading.current_thread():
                return
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
            try:
                self._close()
            finally:
                self._let_joiners_go()

    def _collapse(self, error: BaseException) -> None:
        what = summary_of(error)
        story = errors.InternalError(f"the pool's own thread failed: {what}; please report it")
        story.__cause__ = error
        self.broken = story
        for worker in list(self._workers.values()):
            kill(worker.process)
            worker.process.join(KILL_AFTER)
            with self._reading_alone(worker):  # who reads for a result sees the end, or gives up
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
        self._watch_outboxes()
        events = self._poller.wait(self._patience())
        known, self._known = self._known, self._next
        if known < self._known and self._known - self._unasked > UNASKED:
            sleep(PAUSE_SECONDS)
        for worker, fd, writable in events:
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
        self._ring()

    def _patience(self) -> float | None:
        times = (self._wake_at, self._look_at, self._kill_at, self._trim_at)
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
        if self._look_at is not None and now >= self._look_at:
            self._look(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for worker in list(self._workers.values()):
                kill(worker.process)
        if self._trim_at is not None and now >= self._trim_at:
            self._trim(now)

    # -- time limits ------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """End workers whose call has had its time, and see when to look again."""
        self._look_at = None  # others set it again with what they send from now on
        for worker in list(self._workers.values()):
            with self._lock, self._transition:
                limits = self._limits_of(worker)
                task = self._task_at(worker)
                work = self._tasks.get(task)
            if not limits or worker.killed:
                self._limits.forget(worker.number)
                continue
            limit, least = None if work is None else work.limit, min(limits)
            again = self._limits.look(worker.number, task, limit, least, now)
            if again <= now:
                if self._end_at(worker, task):
                    continue
                again = now + pause(least)
            with self._lock:
                if self._look_at is None or again < self._look_at:
                    self._look_at = again

    def _limits_of(self, worker: Worker) -> list[float]:
        """Those of the calls that a worker holds; those of a span have the same, if they have any,
        since their group has."""
        works = map(self._first_of, self._scheduler.sent_to(worker.number))
        return [work.limit for work in works if work is not None and work.limit is not None]

    def _first_of(self, span: _events.Span) -> Work | None:
        for number in span.tasks():
            if number in self._tasks:
                return self._tasks[number]
        return None

    def _task_at(self, worker: Worker) -> int:
        """The task that a worker loads, runs, or pickles the result of; -1 if none."""
        if self._scheduler.config.claims:
            return worker.task_at()
        sent = self._scheduler.sent_to(worker.number)  # a worker has one task at a time
        return sent[0].start if sent else -1

    def _end_at(self, worker: Worker, task: int) -> bool:
        """End a worker, unless it has gone on from this task in this very moment."""
        if self._scheduler.config.claims:
            if not worker.stop_at(task):
                return False
            self._kill_at_task(worker, task)
            return True
        with self._lock:  # it is sent no other before it is killed; what is sent later is not lost
            is_there = self._task_at(worker) == task
            if is_there:
                self._kill_at_task(worker, task)
        return is_there

    def _kill_at_task(self, worker: Worker, task: int) -> None:
        worker.killed, worker.ended_at = True, task
        kill(worker.process)

    # -- shared memory ----------------------------------------------------------------------

    def _note_release(self) -> None:
        """Something large is used no more; called by finalizers."""
        self._note_large()
        self._wake()

    def _pass_news(self) -> None:
        """Tell workers at once what has become of their memory, where that is much."""
        self._ledger.bury()
        if self._ledger.forgotten:
            with self._lock, self._transition:
                self._forget_definitions()
        for worker in list(self._workers.values()):
            if worker.exchange.is_urgent():
                with self._lock, self._transition:
                    self._pass_news_to(worker)

    def _pass_news_to(self, worker: Worker) -> None:
        worker.pass_news()
        self._note_outbox(worker)

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

    def _drain_outbox(self, worker: Worker) -> None:
        with self._lock, self._transition:
            worker.channel.flush()

    def _watch_outboxes(self) -> None:
        """Wait for room in the channels that wait for the kernel, and in no others."""
        assert self._poller is not None
        if not self._backed_up:
            return
        with self._lock:  # or one could be backed up again between the look and the forgetting
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
                work.set_exception(number, self._death(work, exit, why))

    def _death(self, work: Work, exit: _Exit, why: Why) -> BaseException:
        try:
            task = describe(work)
        except BaseException:  # noqa: BLE001 - it is in no table any more: it must be settled
            task = "a task"
        if exit.is_overdue and why is Why.DIED and work.limit is not None:
            return errors.timed_out(task, exit.pid, work.limit, exit.phase)
        return errors.worker_died(
            task,
            exit.pid,
            exit.exitcode,
            running=why is Why.DIED,
            breaks=self._scheduler.config.break_on_death,
            phase=exit.phase,
        )

    def _launch(self, number: int) -> None:
        """Start a worker; should that fail, it counts as one that ended at its start."""
        assert self._poller is not None
        if number in self._unwanted:
            self._note_start_failed(number)
            return
        try:
            worker = self._start_worker(number)
        except BaseException as error:
            # No processes left, an initializer that does not pickle; or it raises SystemExit where
            # it should. In a thread of the user's, who is opening the pool, that is an interrupt.
            if not issubclass(type(error), Exception) and self._thread_ident != get_ident():
                raise
            self._start_error = error
            self._note_start_failed(number)
            return
        self._poller.watch(worker.channel.inn, worker)
        self._poller.watch(worker.death, worker)
        self._note_start(worker)
        if self.broken is not None:
            self._kill(worker.process)

    def _start_worker(self, number: int) -> Worker:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            channel = Channel(self._board)
            undo.callback(channel.close)
            rights, worker_rights = socket_pair()
            if worker_rights is not None:
                given.callback(os.close, worker_rights)
            exchange = Exchange(rights, self._lender, self._wake)
            undo.callback(exchange.close)
            board = None
            if self._board is not None:
                # A copy: a child that is forked closes the pool's own.
                board = away(os.dup(self._board.fd))
                given.callback(os.close, board)
            link = Link(
                channel.worker_in,
                channel.worker_out,
                channel.claims,
                board,
                channel.slot,
                worker_rights,
            )
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_worker.main,
                args=(link, self._start.through(exchange)),
                name=f"HookPoolWorker-{number}",
            )
            process.start()
            undo.pop_all()
        channel.hand_over()
        return Worker(number, process, channel, exchange)

    def _note_start(self, worker: Worker) -> None:
        with self._started:
            self._workers[worker.number] = worker
            if worker.number in self._unwanted:
                self._unwanted.discard(worker.number)
                self._retire(worker.number)
            self._unstarted -= 1
            self._started.notify_all()

    def _note_start_failed(self, number: int) -> None:
        with self._lock, self._transition:
            self._unwanted.discard(number)
            self._unstarted -= 1
            self._started.notify_all()
            self._tell(_events.WorkerExited(number, 0, monotonic()))

    def _worker_exited(self, worker: Worker) -> None:
        assert self._poller is not None
        # What it had sent before it ended still counts. Whoever waited for it gives up soon.
        with self._reading_alone(worker):
            while not worker.channel.ended and self._read(worker):
                pass
            self._read(worker)
            worker.channel.ended = True  # also where a child of the worker holds its pipes open
        worker.process.join()
        self._poller.forget(worker.death)
        self._poller.forget(worker.channel.inn)
        self._poller.forget(worker.channel.out)
        doing = worker.channel.doing()
        phase = _PHASES[doing]
        process = worker.process
        is_overdue = worker.ended_at >= 0
        self._exits[worker.number] = _Exit(process.pid, process.exitcode, phase, is_overdue)
        self._limits.forget(worker.number)
        with self._lock, self._transition:
            del self._workers[worker.number]
            self._backed_up.discard(worker)
            unstarted = self._unstarted_of(worker)
            if worker.unfit:
                self._tell(_events.InitializerFailed(worker.number))
            finished = doing is Doing.NOTHING
            now = monotonic()
            self._tell(
                _events.WorkerExited(worker.number, unstarted, now, finished, worker.killed)
            )
        self._do_chores()
        del self._exits[worker.number]
        worker.close()

    def _unstarted_of(self, worker: Worker) -> int:
        """How many of the tasks that a worker had when it died can go elsewhere."""
        if self._scheduler.config.claims:
            return self._scheduler.behind(worker.number, worker.channel.started())
        # One at a time, which it may have started; but not after we have ended it at another.
        return 0 if worker.ended_at < 0 else self._scheduler.behind(worker.number, worker.ended_at)

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
        return self.broken or errors.pool_terminated()


# -- the program's start, forks and end --------------------------------------------------------

#: Drivers whose thread runs.
_living: weakref.WeakSet[Driver] = weakref.WeakSet()
_exit_registered = False


def _register_exit() -> None:
    global _exit_registered
    if getattr(threading, "_SHUTTING_DOWN", False):
        raise too_late("interpreter shutdown")
    if not _exit_registered:
        # Before the interpreter joins its threads, as `concurrent.futures` does it: pending work
        # is finished, and the thread that does that is told to end.  (`atexit` comes too late.)
        try:
            threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
        except RuntimeError:
            raise too_late("interpreter shutdown") from None
        _exit_registered = True
        # A child of multiprocessing joins its own children before that: so earlier still, there.
        util.Finalize(None, _finish_all, exitpriority=100)


def _finish_all() -> None:
    _desk.exiting = True
    drivers = list(_living)
    if _dies_of_interrupt():
        _end_all(drivers)
        return
    for driver in drivers:
        driver.tell(_events.ShutdownAsked(False, monotonic()))
    try:
        for driver in drivers:
            driver.join()
    except KeyboardInterrupt:
        _end_all(drivers)
        raise


def _dies_of_interrupt() -> bool:
    """Whether the program ends because nobody in it has caught a Ctrl-C.

    Nobody waits for its pending work then. In the standard library that ends as well, since its
    workers get the Ctrl-C of the terminal and die of it. At a prompt the last exception is that of
    some earlier command, and the end is something else.
    """
    is_interactive = bool(sys.flags.interactive) or hasattr(sys, "ps1")
    return not is_interactive and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)


def _end_all(drivers: list[Driver]) -> None:
    for driver in drivers:  # all, before any of them is waited for
        driver.shut_down(cancel=True)
        driver.terminate(kill)
    for driver in drivers:
        driver.join()


def _after_fork() -> None:
    global _exit_registered
    _exit_registered = False
    drivers = list(_living)
    _living.clear()
    for driver in drivers:  # whatever may go wrong below: none of them is used here
        driver.forked = True
    for driver in drivers:
        driver.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
