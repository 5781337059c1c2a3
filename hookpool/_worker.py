"""What runs in a worker process of the executor: take tasks, call, send results.

Owns the worker's end of the channel and its claims.  Knows neither the pool nor how the process
was started.  `main` is the target of the worker's `Process`; everything here runs in the worker's
main thread, but for the flusher.

The life of a task here; tasks come in runs, neighbours that call one function::

    run --> queue --claim--> load --> call --> dump --> outgoing --flush--> channel
               |
               +-- no claim left: the owner has taken back what is here; drop it and say so

Plain values (see `_plain`) are not pickled one by one, but together when they leave.

What may happen in between: the process dies anywhere.  Started and not reported means that the
owner fails the task; not started means that it runs elsewhere.  Nothing else is shared with the
owner or with other workers, so no lock can be left behind.

Results of tiny tasks wait so that many leave in one write: until the queue is empty,
`FLUSH_SECONDS` have passed, or `FLUSH_BYTES` are there.  The flusher thread sees to the second
when the main thread is inside a long task; it sleeps on a lock while nothing waits.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from itertools import groupby
from time import perf_counter, sleep

from hookpool import _rebuild, _wire
from hookpool._buffers import Exchange, Lender, Parcel, is_borrowed, loads
from hookpool._claims import Doing
from hookpool._ending import end_copy, end_in_order
from hookpool._lifeline import die_with_parent
from hookpool._link import Link
from hookpool._plain import FIXED, is_plain
from hookpool._raised import summary_of, text_of, traceback_text
from hookpool._returned import Returned
from hookpool._shelf import Shelf
from hookpool._spin import Spin
from hookpool._wire import Form, Kind, ResultRow, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from hookpool._buffers import Borrowed
    from hookpool._start import Start

# The longest that the result of a finished task waits for company (DESIGN: "by the millisecond").
FLUSH_SECONDS = 0.001
# Results of this size together are worth a write of their own: more would only use memory.
FLUSH_BYTES = 1 << 16

# Whose frames come before those of the task in a traceback, and say nothing to the user.
_OURS = frozenset({__name__, "hookpool._batch"})


def main(link: Link, start: Start) -> None:
    """Run a worker until its owner sends EXIT or is gone.

    Args:
        link: this worker's descriptors.
        start: the initializer and its like.
    """
    die_with_parent()
    end_in_order()
    # Ctrl-C reaches the whole terminal, but what it means for the pool is the owner's decision.
    # A handler that does nothing and not SIG_IGN: children inherit an ignored signal, as they
    # are to do where the owner has it ignored, a shell's background job for instance.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _do_nothing)
    _note_forks()
    _rebuild.enter_worker()
    worker = _Worker(link, Lender(*start.lending))
    try:
        if worker.prepare(start):
            del start
            worker.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the owner has closed the channel: nobody waits for anything any more
    finally:
        worker.close()


def _do_nothing(signum: int, frame: object) -> None:
    pass


#: Whether this process is a copy of a worker, which a task has forked.
_is_copy = False


def _note_forks() -> None:
    global _is_copy
    _is_copy = False  # as the worker of a pool in a worker, it may have been forked itself
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_become_copy)


def _become_copy() -> None:
    global _is_copy
    _is_copy = True


_PROTOCOL = pickle.HIGHEST_PROTOCOL
_PLAIN, _LONE = int(Form.PLAIN), int(Form.LONE)


class _Worker:
    def __init__(self, link: Link, lender: Lender) -> None:
        self._inn, self._out = link.inn, link.out
        self._claims = link.take_claims()
        self._decoder = _wire.Decoder()
        self._spin = Spin(self._inn)
        #: What is borrowed from the owner, and lent to it.
        self._exchange = Exchange(link.rights, lender)
        self._shelf = Shelf(lender)
        #: Definitions that did not arrive, which the owner has not heard of yet.
        self._lacking: deque[int] = deque()
        lender.shortage = self._catch_up
        #: Runs received and not begun yet, in order.
        self._queue: deque[_wire.Run] = deque()
        #: Whether the owner said that nothing comes any more.
        self._exiting = False
        #: Guards the four below, and the order of writes.
        self._lock = threading.Lock()
        #: Results that have not left, in order; after them the values of the run being worked off.
        #: Whoever leaves some here and goes on to a task wakes the flusher.
        self._outgoing: list[Returned | ResultRow] = []
        self._values: Returned | None = None
        self._outgoing_bytes = 0
        self._outgoing_since = 0.0
        #: Held while the flusher has nothing to do.
        self._nothing_waits = threading.Lock()
        self._flusher: threading.Thread | None = None
        self._closing = False

    def close(self) -> None:
        """End the flusher and give up the descriptors."""
        self._closing = True
        if self._flusher is not None:
            self._wake_flusher()
            self._flusher.join()
        os.close(self._inn)
        os.close(self._out)
        self._claims.close()
        self._exchange.close()

    def prepare(self, start: Start) -> bool:
        """Run the initializer and report; False when it raised."""
        try:
            start.prepare(self._exchange)
            self._stop_copy()
        except BaseException as error:  # noqa: BLE001 - the outer edge: the owner hears of it
            self._stop_copy(error)
            _log_failed_initializer()
            self._write(_wire.frame(Kind.UNFIT, 0, self._dump_error(error)))
            return False
        self._shelf.reducers = start.reducers
        self._write(_wire.frame(Kind.READY))
        return True

    def run(self) -> None:
        """Work until the owner says that nothing comes any more, or is gone."""
        while True:
            if self._queue:
                self._work_off(self._queue.popleft())
                continue
            self._flush()
            if self._exiting:
                return
            self._spin.look()
            size = self._read()
            if not size:
                return
            call = self._decoder.lone_call(size)
            if call is None:
                self._take_in(size)
            else:
                self._work_alone(*call)

    # -- receiving --------------------------------------------------------------------------

    def _read(self) -> int:
        """Wait for bytes; 0 at the end of the stream."""
        return os.readv(self._inn, [self._decoder.room()])

    def _catch_up(self) -> None:
        """Take in what is there, in the middle of a task: the owner may have given memory back."""
        while self._spin.sleep(0):
            size = self._read()
            if not size:
                return
            self._take_in(size)

    def _take_in(self, size: int) -> None:
        """Take in the frames that so many new bytes complete."""
        for frame in self._decoder.filled(size):
            self._take_in_frame(frame)

    def _take_in_frame(self, frame: _wire.Frame) -> None:
        match frame.kind:
            case Kind.TASKS:
                self._queue.append(_wire.run(frame))
            case Kind.DEFINE:
                self._shelf.define(frame.number, self._definition(frame))
            case Kind.HAND:
                self._shelf.hand(frame.number, self._definition(frame))
            case Kind.FORGET:
                self._shelf.forget(frame.number)
            case Kind.NEWS:
                with self._lock:
                    self._exchange.heard(frame.body)
            case Kind.EXIT:
                self._exiting = True

    def _definition(self, frame: _wire.Frame) -> bytes | Borrowed:
        """What a definition is here; the owner hears of it if it has not arrived."""
        data: bytes | Borrowed = _NO_ROOM
        if not frame.is_cut:
            if not is_borrowed(frame.body):
                return bytes(frame.body)
            data = self._exchange.borrow(frame.body)
        if frame.is_cut or (not isinstance(data, bytes) and data.is_lost()):
            # Tasks that are here already fail with it; with the next one it is sent again.
            self._lacking.append(frame.number)
        return data

    # -- a run of tasks ---------------------------------------------------------------------

    def _work_alone(self, task: int, number: int, payload: _wire.Buffer) -> None:
        """As `_work_off`, for a plain call that came alone and that nothing waits before."""
        function = self._shelf.loaded(number)
        if function is None:
            self._work_off(_wire.Run(task, number, _PLAIN, 1, [memoryview(payload)]))
        else:
            self._call_one(task, function, pickle.loads(payload)[0])

    def _work_off(self, run: _wire.Run) -> None:
        if run.form >= _PLAIN and run.payloads:
            self._work_off_plain(run)
            return
        for at in range(run.tasks):
            if not self._claims.claim():
                self._refuse(run.payloads[at:])
                self._drop(run.tasks - at)
                return
            began = perf_counter()
            status, payload = self._run(run, at)
            ended = perf_counter()
            micros = _micros(ended - began)
            idle = not self._queue and at == run.tasks - 1
            self._send(ResultRow(run.first + at, status, micros, payload), ended, idle)

    def _work_off_plain(self, run: _wire.Run) -> None:
        rows = pickle.loads(run.payloads[0])
        if run.form == _LONE:
            rows = zip(rows)
        rows, function = iter(rows), self._shelf.loaded(run.function)
        while function is None and run.tasks:
            # To load it is part of the first call: its time counts, and it may be the death of it.
            self._flush()  # what is through is not lost with it, and leaves before that one
            if not self._claims.claim():
                self._drop(run.tasks)
                return
            args = next(rows)
            function = self._load_function(run)
            if function is not None:
                self._call_claimed(run.first, function, args)
            run = run._replace(first=run.first + 1, tasks=run.tasks - 1)
        if function is None or not run.tasks:
            return
        if run.tasks == 1 and not self._queue and not self._outgoing:
            self._call_one(run.first, function, *rows)
        else:
            self._call_each(run, function, rows)

    def _load_function(self, run: _wire.Run) -> Callable[..., Any] | None:
        """What the first task of a run calls; None: that has failed because it does not load."""
        began = perf_counter()
        words = self._claims.words
        words[1], words[0] = Doing.LOADING, run.first + 1
        try:
            function: Callable[..., Any] = self._shelf.function(run.function)
        except BaseException as error:  # noqa: BLE001 - the outer edge: ends a task, not us
            self._stop_copy(error)
            payload, ended = self._dump_error(error), perf_counter()
            row = ResultRow(run.first, Status.UNREADABLE, _micros(ended - began), payload)
            self._send(row, ended, run.tasks == 1 and not self._queue)
            return None
        self._stop_copy()
        return function

    def _call_one(self, number: int, function: Callable[..., Any], args: Any) -> None:
        """As `_call_each`, for what is the only task here: its result leaves at once."""
        if self._claims.claim():
            self._call_claimed(number, function, args)
        else:
            self._drop(1)

    def _call_claimed(self, number: int, function: Callable[..., Any], args: Any) -> None:
        """Call for a task that has been claimed, and before which no result waits."""
        began = perf_counter()
        words = self._claims.words
        words[1], words[0] = Doing.RUNNING, number + 1
        try:
            value = function(*args)
        except BaseException as error:  # noqa: BLE001 - the outer edge: ends a task, not us
            self._stop_copy(error)
            status, payload = Status.RAISED, self._dump_error(error)
        else:
            self._stop_copy()
            if is_plain(value):
                micros = int((perf_counter() - began) * 1e6)
                data = _wire.lone_value(number, micros, pickle.dumps([value], _PROTOCOL))
                with self._lock:
                    sent = os.write(self._out, data)
                    if sent < len(data):
                        self._write([data[sent:]])
                words[1] = Doing.NOTHING
                return
            status, payload = self._dump(value)
        now = perf_counter()
        micros = _micros(now - began)
        self._send(ResultRow(number, status, micros, payload), now, True)

    def _call_each(
        self, run: _wire.Run, function: Callable[..., Any], rows: Iterable[Any]
    ) -> None:
        """Call a function with plain arguments, and keep plain values together."""
        first, tasks = run.first, run.tasks
        claims, clock, fixed = self._claims, perf_counter, FIXED
        use, words = claims.use, claims.words
        claims.begin_run()
        values = self._begin_values(first, run.function, clock())
        append = values.items.append
        for number, args in enumerate(rows, first):
            try:
                use()
            except IndexError:
                here = first + tasks - number
                if not claims.claim(here):
                    self._drop(here)
                    return
                words[1] = Doing.RUNNING
                # For results, and for what was claimed and is not used: neither is to wait for it.
                if (values.has_unsent() or claims.has_unused()) and not self._wake_flusher():
                    self._flush()
            words[0] = number + 1
            try:
                value = function(*args)
                kind = type(value)
                is_value = kind is int or id(kind) in fixed or is_plain(value)
            except BaseException as error:  # noqa: BLE001 - the outer edge: ends a task, not us
                self._stop_copy(error)
                values = self._interject(number, Status.RAISED, self._dump_error(error), values)
                append = values.items.append
                continue
            if _is_copy:
                self._stop_copy()
            if is_value:
                append(value)
                values.last = now = clock()
                if now - values.since > FLUSH_SECONDS:
                    self._flush()
            else:
                status, payload = self._dump(value)
                del value
                values = self._interject(number, status, payload, values)
                append = values.items.append
        words[1] = Doing.NOTHING
        self._end_values()
        # They shall not wait for the next run, which may take long.
        if self._queue and self._outgoing and not self._wake_flusher():
            self._flush()

    def _stop_copy(self, error: BaseException | None = None) -> None:
        if _is_copy:
            end_copy(error)  # a child the task forked came back here: it must not speak for us

    def _drop(self, here: int) -> None:
        # All that is here was taken back, for a claim is won from the tail: had the owner won
        # only some, those before them would still have theirs.
        self._claims.words[1] = Doing.NOTHING
        dropped = here + sum(run.tasks for run in self._queue)
        for run in self._queue:
            self._refuse(run.payloads)
        self._queue.clear()
        self._end_values()
        self._flush()
        self._write(_wire.frame(Kind.DROPPED, dropped))

    def _refuse(self, payloads: Sequence[_wire.Buffer]) -> None:
        for payload in payloads:
            if is_borrowed(payload):
                self._exchange.refuse(payload)

    def _run(self, run: _wire.Run, at: int) -> tuple[Status, bytes]:
        """Load, call, dump.  References to the user's objects end with this frame."""
        words = self._claims.words
        words[1], words[0] = Doing.LOADING, run.first + at + 1
        try:
            if not run.payloads:
                no_room()
            function, args, kwargs = self._load(run, at)
            self._stop_copy()
        except BaseException as error:  # noqa: BLE001 - the outer edge: ends a task, not us
            self._stop_copy(error)
            return Status.UNREADABLE, self._dump_error(error)
        words[1] = Doing.RUNNING
        try:
            value = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - as above
            self._stop_copy(error)
            return Status.RAISED, self._dump_error(error)
        self._stop_copy()
        return self._dump(value)

    def _load(self, run: _wire.Run, at: int) -> tuple[Any, Any, Any]:
        payload: Any = run.payloads[at]
        if is_borrowed(payload):
            payload = self._exchange.borrow(payload)
        if run.form == Form.CALL:
            function, args, kwargs = self._shelf.load(payload)
            return function, args, kwargs
        function = self._shelf.function(run.function)
        if run.form == Form.ARGS:
            return function, self._shelf.load(payload), {}
        args, kwargs = self._shelf.load(payload)
        return function, args, kwargs

    def _dump(self, value: Any) -> tuple[Status, bytes]:
        try:
            return Status.VALUE, self._pickled(value)
        except BaseException as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
            return Status.UNSENDABLE, self._dump_error(error)

    def _pickled(self, obj: Any, parts: Mapping[str, Any] | None = None) -> bytes:
        words = self._claims.words
        words[1] = Doing.DUMPING
        try:
            data = self._shelf.dump(obj, parts)
            self._stop_copy()
        except BaseException as error:
            self._stop_copy(error)
            raise
        finally:
            words[1] = Doing.RUNNING
        if not isinstance(data, Parcel):
            return data
        with self._lock:  # news of what has come back may be in the making
            return self._exchange.lend(data)

    def _dump_error(self, error: BaseException) -> bytes:
        """The exception and its traceback as text; a stand-in for one that does not travel."""
        text = traceback_text(error, _OURS)
        try:
            bare = BaseException.with_traceback(error, None)
            return self._pickled((bare, text), {"the exception": bare})
        except BaseException as why:  # noqa: BLE001 - whatever a user's __reduce__ raises
            from hookpool.errors import CannotPickle

            stand_in = CannotPickle(
                f"the task raised {summary_of(error)}; the exception itself does not travel "
                f"({text_of(why)}); the traceback of the worker is above",
                may_have_run=True,
            )
            return self._pickled((stand_in, text))

    # -- sending ----------------------------------------------------------------------------

    def _begin_values(self, first: int, function: int, now: float) -> Returned:
        """Collect plain values from this task on: with those before it, if they still wait."""
        with self._lock:
            last = self._outgoing[-1] if self._outgoing else None
            if type(last) is Returned and last.leads_to(first, function):
                values = last
                self._outgoing.pop()
            else:
                values = Returned(first, function, now)
            self._values = values
        return values

    def _end_values(self) -> None:
        """No more of them come."""
        with self._lock:
            if self._values is not None:
                if self._values.has_unsent():
                    if not self._outgoing:
                        self._outgoing_since = self._values.since
                    self._outgoing.append(self._values)
                self._values = None

    def _interject(self, task: int, status: Status, payload: bytes, values: Returned) -> Returned:
        """A result between plain values that is not one; returns where the next ones go."""
        self._end_values()
        now = perf_counter()
        micros = _micros(now - values.last)
        self._send(ResultRow(task, status, micros, payload), now, False)
        self._claims.words[1] = Doing.RUNNING  # unless the next one must be claimed first
        return self._begin_values(task + 1, values.function, now)

    def _send(self, row: ResultRow, now: float, idle: bool) -> None:
        words = self._claims.words
        words[1] = Doing.SENDING
        with self._lock:
            if len(row.payload) > FLUSH_BYTES:
                # In a frame of its own: should the owner have no memory for it, only this is lost.
                self._write_outgoing()
            if not self._outgoing:
                self._outgoing_since = now
            self._outgoing.append(row)
            self._outgoing_bytes += len(row.payload)
            leaves = (
                idle
                or row.micros > FLUSH_SECONDS * 1e6
                or self._outgoing_bytes > FLUSH_BYTES
                or now - self._outgoing_since > FLUSH_SECONDS
            )
            if leaves or not self._wake_flusher():
                self._write_outgoing()
        words[1] = Doing.NOTHING

    def _flush(self) -> None:
        with self._lock:
            self._write_outgoing()

    def _write_outgoing(self) -> None:
        assert self._lock.locked()
        buffers: list[_wire.Buffer] = []
        news = self._exchange.news()
        if news:
            buffers += _wire.frame(Kind.NEWS, 0, news)
        while self._lacking:
            buffers += _wire.frame(Kind.LACKS, self._lacking.popleft())
        if self._outgoing:
            pieces, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
            for are_values, group in groupby(pieces, _are_values):
                if are_values:
                    for values in group:
                        buffers += values.frame()  # type: ignore[union-attr]
                else:
                    buffers += _wire.results_frame(list(group))  # type: ignore[arg-type]
        if self._values is not None:
            buffers += self._values.frame()
        if buffers:
            self._write(buffers)

    def _write(self, buffers: list[_wire.Buffer]) -> None:
        if _wire.size(buffers) <= FLUSH_BYTES:
            buffers = [_wire.join(buffers)]
        while buffers:
            # A system takes at least 16 buffers at once, Linux 1024 (IOV_MAX).
            sent = os.writev(self._out, buffers[:1024])
            buffers = _wire.after(buffers, sent)

    def _wake_flusher(self) -> bool:
        """Have results sent, and claims put back, in a moment; False if there is nobody for it."""
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush_late, name="hookpool-flush", daemon=True)
            try:
                flusher.start()
            except (RuntimeError, MemoryError):  # the user has limited threads, or memory
                self._claims.take_one_by_one()
                return False
            self._flusher = flusher
        elif self._nothing_waits.locked():
            self._nothing_waits.release()
        return True

    def _flush_late(self) -> None:
        while not self._closing:
            sleep(FLUSH_SECONDS)
            try:
                self._flush()
            except OSError:
                return  # the owner is gone; the main thread will find out
            self._claims.put_back()
            # In this order: who has used the last claim looks for what waits, before the next.
            if not self._claims.has_unused() and not self._has_unsent():
                self._nothing_waits.acquire()

    def _has_unsent(self) -> bool:
        values = self._values
        return bool(self._outgoing) or (values is not None and values.has_unsent())


def _micros(seconds: float) -> int:
    """As a row has room for."""
    return min(int(seconds * 1e6), 0xFFFFFFFF)


def _are_values(piece: Returned | ResultRow) -> bool:
    return type(piece) is Returned


def no_room() -> None:
    """Raise what the tasks of a message fail with for which this process had no memory."""
    raise MemoryError("the worker has no memory for the arguments of the task")


class _NoRoom:
    def __reduce__(self) -> Any:
        return no_room, ()


#: In the place of a definition that there was no memory for.
_NO_ROOM = pickle.dumps(_NoRoom())


def _log_failed_initializer() -> None:
    """Say it as the standard pool does, to whoever listens there."""
    try:
        import logging  # see `traceback_text` for why only here

        logger = logging.getLogger("concurrent.futures")
        logger.critical("Exception in initializer:", exc_info=True)
    except BaseException:  # noqa: BLE001 - a user's handler, or what its exception is told by
        pass  # the owner hears of it in any case


def read_error(
    data: _wire.Buffer | Borrowed, load: Callable[[Any], Any] = loads
) -> tuple[BaseException, str]:
    """The owner's side of `_dump_error`; raises `CannotUnpickle` when it cannot be rebuilt."""
    try:
        error, text = load(data)
    except Exception as why:  # whatever a user's __setstate__ raises
        from hookpool import errors

        raise errors.cannot_rebuild(text_of(why)) from why
    if not issubclass(type(error), BaseException):  # isinstance would ask error.__class__
        from hookpool import errors

        raise errors.cannot_rebuild(f"its pickle makes a {type(error).__name__}")
    return error, text
