"""Messages to bytes and back: what travels on the channel between owner and worker.

Owns the format and the incremental decoder.  Never pickles, never reads or writes a descriptor:
the driver and the worker do the I/O and hand the bytes in.

A *frame* is a header (kind, number, length of the body) and a body.  Tasks travel in *runs*:
neighbours that call one function.  A run of plain calls (see `Form`) has one payload for all of
them, any other run one for each.  Results travel as runs of plain values, or else in a table of
fixed-size rows, so that a batch is parsed by one C call; their payloads follow in their order.

Byte order and sizes are the machine's own: both ends are the same Python on the same machine.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import chain

from hookpool._records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_HEADER = struct.Struct("=BxxxIQ")
_RESULT = struct.Struct("=QIIQ")
# Of a run: first task, function, form. Of values: first task, microseconds.
_RUN = struct.Struct("=QII")
_VALUES = struct.Struct("=QQ")
# The same with the header before it, for one call instead of two.
_RUN_FRAME = struct.Struct("=BxxxIQQII")
_VALUES_FRAME = struct.Struct("=BxxxIQQQ")

_HEADER_SIZE, _CALL_START, _VALUE_START = _HEADER.size, _RUN_FRAME.size, _VALUES_FRAME.size

# Room for one read.  Larger saves reads of medium messages; smaller saves memory per worker.
# A whole socket buffer (208 KiB by default on Linux) fits a few times a second at most.
ROOM = 1 << 16


class Kind(IntEnum):
    """What a frame says."""

    # owner to worker
    DEFINE = 1  # number = that of the definition; body = its pickle
    HAND = 11  # the same; it is loaded anew for each task that refers to it
    FORGET = 2  # number = that of the definition
    TASKS = 3  # number = how many tasks; body = a run
    EXIT = 4
    # worker to owner
    READY = 5
    UNFIT = 6  # the initializer raised; body = the pickled exception
    RESULTS = 7  # number = how many rows
    DROPPED = 8  # number = how many tasks
    LACKS = 12  # number = that of a definition that did not arrive
    # both ways
    NEWS = 10  # body = what became of shared memory
    VALUES = 9  # number = how many tasks; body = a run of plain values


class Form(IntEnum):
    """What the payload of a task, or of a run of them, holds."""

    ARGS = 0  # args
    KWARGS = 1  # (args, kwargs)
    CALL = 2  # (function, args, kwargs)
    # From here on one payload serves all tasks of a run.
    PLAIN = 3  # the args of each task of the run, in one pickle: these refer to nothing
    LONE = 4  # as PLAIN, but the only argument of each task instead of its args


# A member of an IntEnum costs two look-ups and a conversion each time.
_TASKS, _VALUES_KIND, _PLAIN = int(Kind.TASKS), int(Kind.VALUES), int(Form.PLAIN)


class Status(IntEnum):
    """What a result's payload holds."""

    VALUE = 0  # what the task returned
    RAISED = 1  # (what it raised, the traceback as text)
    UNREADABLE = 2  # the same, but the task never started: its payload could not be unpickled
    UNSENDABLE = 3  # the same, for a result that could not be pickled
    NO_ROOM = 4  # nothing: the owner had no memory for it; never sent


class Run(Record):
    """Neighbouring tasks on their way to a worker; `function` is a definition's number, or 0."""

    first: int
    function: int
    form: int
    tasks: int
    #: One for each task; the only one, for all of them, where the form is PLAIN or LONE; none
    #: where there was no memory for them.
    payloads: list[memoryview]


class Values(Record):
    """What neighbouring tasks returned, and the microseconds they took together."""

    first: int
    micros: int
    payload: memoryview


class ResultRow(Record):
    """One result on its way to the owner, with the microseconds the task took."""

    task: int
    status: int
    micros: int
    payload: Buffer


class Frame(Record):
    """A decoded frame; the body's meaning depends on the kind."""

    kind: int
    number: int
    body: Buffer
    #: Whether there was no memory for the body: then it is only the beginning of it.
    is_cut: bool = False


def frame(kind: Kind, number: int = 0, body: Buffer = b"") -> list[Buffer]:
    """The buffers of a frame without a table, in order."""
    header = _HEADER.pack(kind, number, len(body))
    return [header, body] if body else [header]


def run_frame(first: int, function: int, form: Form, payloads: Sequence[Buffer]) -> list[Buffer]:
    """The buffers of a TASKS frame with a payload for each task."""
    count = len(payloads)
    sizes = struct.pack(f"={count}Q", *map(len, payloads))
    length = _RUN.size + len(sizes) + size(payloads)
    head = _RUN_FRAME.pack(Kind.TASKS, count, length, first, function, form)
    return [head + sizes, *payloads]


def plain_frame(
    first: int, count: int, function: int, payload: Buffer, form: Form = Form.PLAIN
) -> list[Buffer]:
    """The buffers of a TASKS frame with one payload for all tasks."""
    length = _RUN.size + len(payload)
    return [_RUN_FRAME.pack(_TASKS, count, length, first, function, form), payload]


def lone_call(task: int, function: int, payload: bytes) -> bytes:
    """As `plain_frame` for one task, in one piece."""
    return _RUN_FRAME.pack(_TASKS, 1, _RUN.size + len(payload), task, function, _PLAIN) + payload


def lone_value(task: int, micros: int, payload: bytes) -> bytes:
    """As `values_frame` for one task, in one piece."""
    return _VALUES_FRAME.pack(_VALUES_KIND, 1, _VALUES.size + len(payload), task, micros) + payload


def values_frame(first: int, count: int, micros: int, payload: Buffer) -> list[Buffer]:
    """The buffers of a VALUES frame; the payload is a pickle of the list of the values."""
    length = _VALUES.size + len(payload)
    return [_VALUES_FRAME.pack(_VALUES_KIND, count, length, first, micros), payload]


def results_frame(rows: Sequence[tuple[int, int, int, Buffer]]) -> list[Buffer]:
    """The buffers of a RESULTS frame; each row is like a `ResultRow`."""
    sizes = [len(payload) for _, _, _, payload in rows]
    head = [_HEADER.pack(Kind.RESULTS, len(rows), _RESULT.size * len(rows) + sum(sizes))]
    head += [_RESULT.pack(a, b, c, size) for (a, b, c, _), size in zip(rows, sizes, strict=True)]
    return [b"".join(head), *(payload for _, _, _, payload in rows if payload)]


def run(frame: Frame) -> Run:
    """What a TASKS frame holds."""
    first, function, form = _RUN.unpack_from(frame.body)
    if frame.is_cut:
        return Run(first, function, form, frame.number, [])
    body = memoryview(frame.body)[_RUN.size :]
    if form >= _PLAIN:
        return Run(first, function, form, frame.number, [body])
    at = 8 * frame.number
    payloads = []
    for length in struct.unpack_from(f"={frame.number}Q", body):
        payloads.append(body[at : at + length])
        at += length
    return Run(first, function, form, frame.number, payloads)


def values(frame: Frame) -> Values:
    """What a VALUES frame holds."""
    first, micros = _VALUES.unpack_from(frame.body)
    return Values(first, micros, memoryview(frame.body)[_VALUES.size :])


def result_rows(frame: Frame) -> Iterator[ResultRow]:
    """The results of a RESULTS frame."""
    body = memoryview(frame.body)
    at = _RESULT.size * frame.number
    if frame.is_cut:
        for task, _, micros, _ in _RESULT.iter_unpack(body[:at]):
            yield ResultRow(task, Status.NO_ROOM, micros, b"")
        return
    for task, status, micros, length in _RESULT.iter_unpack(body[:at]):
        yield ResultRow(task, status, micros, body[at : at + length])
        at += length


class Decoder:
    """Bytes in, frames out, whatever the boundaries of the reads.

    Read into `room()`, then pass the number of bytes to `filled()`.  The body of a large frame is
    read straight into memory of its own and never copied.  If there is no memory for it, it is
    passed over, all but its beginning, which says whose it was: one message that is too large must
    not end the stream.
    """

    def __init__(self) -> None:
        #: Where reads go while no large body is on its way; holds `_have` bytes of the next frame.
        self._chunk = memoryview(bytearray(ROOM))
        self._have = 0
        #: The header and the memory of the large body on its way, of which `_have` bytes are here.
        self._large: tuple[int, int, memoryview] | None = None
        #: The beginning of a body that there is no memory for, once it is here.
        self._beginning: memoryview | None = None
        #: How much of such a body is still to be read after what `_large` has room for.
        self._beyond = 0

    def room(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        target = self._chunk if self._large is None else self._large[2]
        return target[self._have :] if self._have else target

    def lone_call(self, size: int) -> tuple[int, int, memoryview] | None:
        """The task, function and payload, if `size` new bytes are one plain call and no more.

        Then they count as taken out; the payload is there until the next read.  If not, nothing
        has changed, and they are for `filled`.
        """
        if self._large is None and not self._have and size >= _RUN_FRAME.size:
            kind, count, length, task, function, form = _RUN_FRAME.unpack_from(self._chunk)
            if kind == _TASKS and count == 1 and form == _PLAIN and size == _HEADER_SIZE + length:
                return task, function, self._chunk[_CALL_START:size]
        return None

    def lone_value(self, size: int) -> tuple[int, int, memoryview] | None:
        """As `lone_call`: the task, its microseconds and the payload of one plain value."""
        if self._large is None and not self._have and size >= _VALUES_FRAME.size:
            kind, count, length, task, micros = _VALUES_FRAME.unpack_from(self._chunk)
            if kind == _VALUES_KIND and count == 1 and size == _HEADER_SIZE + length:
                return task, micros, self._chunk[_VALUE_START:size]
        return None

    def filled(self, size: int) -> list[Frame]:
        """Take note of `size` new bytes in the room and return the frames they complete."""
        if self._large is None:
            if not self._have and size >= _HEADER.size:
                # By far the commonest case: what was read is one frame.
                kind, number, length = _HEADER.unpack_from(self._chunk)
                if size == _HEADER.size + length:
                    return [Frame(kind, number, bytes(self._chunk[_HEADER.size : size]))]
            self._have += size
            return self._parse()
        self._have += size
        kind, number, body = self._large
        if self._have < len(body):
            return []
        self._have = 0
        if self._beyond:
            self._pass_over(kind, number, body)
            return []
        self._large = None
        beginning, self._beginning = self._beginning, None
        if beginning is not None:
            return [Frame(kind, number, beginning, True)]
        return [Frame(kind, number, body)]

    def _pass_over(self, kind: int, number: int, body: memoryview) -> None:
        if self._beginning is None:
            self._beginning = body
        here = min(self._beyond, len(self._chunk))
        self._large = (kind, number, self._chunk[:here])
        self._beyond -= here

    def _parse(self) -> list[Frame]:
        frames: list[Frame] = []
        at, have, chunk = 0, self._have, self._chunk
        while have - at >= _HEADER.size:
            kind, number, length = _HEADER.unpack_from(chunk, at)
            stop = at + _HEADER.size + length
            if stop > have:
                if _HEADER.size + length > len(chunk):
                    self._begin_large(kind, number, length, at + _HEADER.size)
                    return frames
                break
            frames.append(Frame(kind, number, bytes(chunk[at + _HEADER.size : stop])))
            at = stop
        if at:
            chunk[: have - at] = bytes(chunk[at:have])
            self._have = have - at
        return frames

    def _begin_large(self, kind: int, number: int, length: int, start: int) -> None:
        here = self._have - start
        try:
            body = memoryview(bytearray(length))
        except MemoryError:
            body = memoryview(bytearray(ROOM))
            self._beyond = length - ROOM
        body[:here] = self._chunk[start : self._have]
        self._large = (kind, number, body)
        self._have = here


def size(buffers: Sequence[Buffer]) -> int:
    """The bytes in all buffers."""
    return sum(map(len, buffers))


def join(buffers: Sequence[Buffer]) -> Buffer:
    """All buffers in one, without a copy where there is only one."""
    return buffers[0] if len(buffers) == 1 else b"".join(buffers)


def after(buffers: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What remains of the buffers once `sent` bytes are gone."""
    rest = chain(buffers)
    for buffer in rest:
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *rest]
        sent -= len(buffer)
    return []
