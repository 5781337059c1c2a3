"""Taking in what workers send: by the driver's thread, or by one that waits for a result itself.

The second layer of the driver.  Owns the order of things between a byte in a channel and an
outcome in a future: who reads holds the worker's `reading`; what is read is taken out of the table
and told to the scheduler in one transition, so that the worker gets its next tasks first; then
results are settled, by the driver's thread but for the one that its reader waits for.

An interrupt may come to a reader between any two lines.  What is read and not taken in is lost:
the pool breaks.  What is taken in and not settled is left where the driver's thread finds it.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections import deque
from threading import get_ident
from time import monotonic

from hookpool import _events, _wire, errors
from hookpool._buffers import is_borrowed
from hookpool._desk import KILL_AFTER, Desk
from hookpool._future import RebuildInterrupted, settle_one
from hookpool._poller import CAN_MUTE
from hookpool._task import Rows, Task, Values, rebuilt, resolve_here
from hookpool._wire import Kind, ResultRow, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from hookpool._crew import Worker
    from hookpool._definitions import Ledger
    from hookpool._scheduler import Config
    from hookpool._spin import Spin
    from hookpool._task import Arrival

# How long a thread that waits for a result reads in place of the driver's thread, in seconds.
# Longer saves the detour, some 50 us, for longer tasks, where it does not matter; shorter bounds
# what a cancel from elsewhere can be delayed by.
HELP_SECONDS = 0.02

# Members of an IntEnum cost two look-ups and a conversion each time.
_VALUES, _RESULTS = int(Kind.VALUES), int(Kind.RESULTS)


class Reader(Desk):
    """See the module."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        super().__init__(config, ledger)
        #: Results that have arrived, for the driver's thread to give to those who wait.
        self._arrived: deque[Arrival] = deque()
        #: By thread: the worker that it reads in place of the driver's thread.
        self._helped: dict[int, Worker] = {}
        #: What is on its way from the table of tasks to there.
        self._arriving: Arrival | None = None

    # -- a thread that waits for a result ---------------------------------------------------

    def help(self, number: int, timeout: float | None) -> None:
        """Read in place of the driver's thread, for a thread that waits for this task's result.

        That saves waking the one to wake the other, most of a short round trip.  Done only for a
        task that its worker was given alone or has begun, which therefore will hardly move; only
        for `HELP_SECONDS`, after which it does not matter any more; and so that the driver's
        thread takes over whatever happens here.
        """
        self.before_wait()
        poller, task = self._poller, self._tasks.get(number)
        if (
            not CAN_MUTE
            or poller is None
            or type(task) is not Task
            or self._thread_ident == get_ident()
        ):
            return
        worker = task.worker or self._runner(number)
        if worker is None or worker.reading.locked():
            return
        channel, ident = worker.channel, get_ident()
        reading, spin = worker.reading, worker.spin
        with reading:
            if channel.ended or worker.reading is not reading:
                return  # and its descriptors may be closed
            try:
                worker.reader, self._helped[ident] = ident, worker
                poller.mute(channel.inn)
                self._read_for(number, worker, reading, spin, timeout)
                poller.unmute(channel.inn)
            except BaseException:
                poller.unmute(channel.inn)
                self._wake()  # for what has arrived and was not settled
                raise
            finally:
                self._helped.pop(ident, None)

    def before_wait(self) -> None:
        """A thread is about to wait for results of this pool.

        It may be in a signal handler that has interrupted it where it reads for another result:
        then the driver's thread does that from now on, or what it waits for may never be read.

        Raises:
            ForkedPool: no results come to this process.
            InternalError: it has interrupted itself where nobody can take over.
        """
        self.check_fork()
        self.note_asked()
        ident = get_ident()
        worker = self._helped.get(ident)
        if worker is not None and (worker.reader != ident or not worker.reading.locked()):
            worker = None  # left behind by an interrupt
        if self._is_inside() or (worker is not None and worker.is_taking_in):
            raise errors.InternalError(
                "a signal handler or finalizer waited for a result while its own thread was inside"
                " the pool; wait in another thread"
            )
        if worker is None:
            return
        worker.pass_on_reading()  # which the frame below will see
        if self._poller is not None:
            self._poller.unmute(worker.channel.inn)

    def _runner(self, number: int) -> Worker | None:
        """The worker that runs the task, or will next."""
        with self._lock:
            return self._workers.get(self._scheduler.runner(number))

    def _read_for(
        self,
        number: int,
        worker: Worker,
        reading: threading.Lock,
        spin: Spin,
        timeout: float | None,
    ) -> None:
        until = None
        while number in self._tasks and not worker.channel.ended:
            if not spin.look():
                if until is None:
                    most = HELP_SECONDS if timeout is None else min(timeout, HELP_SECONDS)
                    until = monotonic() + most
                left = until - monotonic()
                if left <= 0 or not spin.sleep(left):
                    return
            try:
                worker.is_taking_in = True  # before the look: see `before_wait`
                if worker.reading is not reading:
                    return
                self._read(worker, number)
            finally:
                worker.is_taking_in = False
            if self._arrived or self._chores:
                self._wake()  # the driver's thread does the others

    # -- whoever reads ----------------------------------------------------------------------

    def _receive(self, worker: Worker) -> bool:
        """Read what a worker sent, unless a thread that waits does; whether there is more."""
        if not worker.reading.acquire(blocking=False):
            return False
        try:  # no interrupt comes to this thread
            worker.reader = self._thread_ident
            return self._read(worker)
        finally:
            worker.reading.release()

    @contextlib.contextmanager
    def _reading_alone(self, worker: Worker) -> Iterator[None]:
        """Be the one who reads what a worker sent, once no thread that waits does."""
        # Not by waiting for one lock: who has that may pass the reading on.
        while not (reading := worker.reading).acquire(timeout=HELP_SECONDS):
            pass
        try:
            yield
        finally:
            reading.release()

    def _read(self, worker: Worker, own: int = -1) -> bool:
        """Read once, and take in what it brings; the result of the task `own` is settled."""
        assert worker.reading.locked()
        interrupted: RebuildInterrupted | None = None
        channel = worker.channel
        try:
            size, more = channel.read()
            if own >= 0 and size and self._take_own_value(worker, own, size):
                return more
            for frame in channel.decoder.filled(size) if size else ():
                try:
                    if frame.kind != _RESULTS or own < 0 or not self._take_own(worker, frame, own):
                        self._take_in(worker, frame)
                except RebuildInterrupted as error:
                    interrupted = error  # the frames behind it are taken in first
        except BaseException:  # an interrupt: what was read and not taken in is lost
            self._interrupt()
            raise
        if channel.ended and self._poller is not None:
            # End of file says nothing about the process: its sentinel does.
            self._poller.forget(channel.inn)
        if interrupted is not None:
            raise interrupted
        return more

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
        if kind == Kind.LACKS:
            with self._lock, self._transition:
                worker.note_lacking(frame.number)
            return
        now = monotonic()
        match kind:
            case Kind.READY:
                event: _events.Event = _events.WorkerReady(worker.number, now)
            case Kind.DROPPED:
                event = _events.Dropped(worker.number, frame.number, now)
            case Kind.UNFIT:
                body = frame.body
                large = worker.exchange.borrow(body) if is_borrowed(body) else body
                self._start_error = rebuilt(large)
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

    # -- the one result that its reader waits for -------------------------------------------

    def _take_own_value(self, worker: Worker, own: int, size: int) -> bool:
        """Settle the task that this thread waits for, if its plain value is all that was read."""
        found = worker.channel.decoder.lone_value(size)
        task = self._tasks.get(own)
        if found is None or found[0] != own or type(task) is not Task:
            return False
        if task.future.has_callbacks():
            return False  # the driver's thread does it: user code may wait for a very long time
        _, micros, payload = found
        [value] = pickle.loads(payload)
        try:
            if self._finish_own(worker, own, micros):
                settle_one(task.future, value)
        except BaseException:
            self._leave(task, Values(own, [value]))
            raise
        return True

    def _take_own(self, worker: Worker, frame: _wire.Frame, own: int) -> bool:
        """As `_take_own_value`, for a frame with the result."""
        task = self._tasks.get(own)
        if frame.number != 1 or type(task) is not Task or task.future.has_callbacks():
            return False
        [row] = _wire.result_rows(frame)
        if row.task != own:
            return False
        row = self._borrowed(row, worker)
        try:
            if self._finish_own(worker, own, row.micros):
                resolve_here(task, row)
        except BaseException:
            self._leave(task, Rows([row]))
            raise
        return True

    def _finish_own(self, worker: Worker, own: int, micros: int) -> bool:
        """Have the scheduler know; False if the pool was just terminated, and the task with it."""
        with self._lock:
            try:
                work = self._tasks.pop(own, None)
                now = monotonic()
                if self._interrupted or not self._scheduler.finish(worker.number, micros, now):
                    self._tell(_events.Finished(worker.number, ((1, micros),), now))
            except BaseException:
                self._interrupt()
                raise
        return work is not None

    def _leave(self, task: Task, arrival: Arrival) -> None:
        """After an interrupt, leave a result where the driver's thread finds it.

        What is no longer in the table would never be settled else.  Twice is no harm.
        """
        arrival.works.append(task)
        self._arrived.append(arrival)
        self._wake()

    # -- settling, by the driver's thread ---------------------------------------------------

    def _settle(self) -> None:
        """Give the results that have arrived to those who wait for them."""
        while self._arrived:
            # Removed when that is done: should it go wrong, `_collapse` finds the others there.
            self._arrived[0].settle()
            self._arrived.popleft()
