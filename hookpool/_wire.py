"""Messages to bytes and back: what travels on the channel between owner and worker.

Owns the format and the incremental decoder.  Never pickles, never reads or writes a descriptor:
the driver and the worker do the I/O and hand the bytes in.

A *frame* is a header (kind, number, length of the body) and a body.  A frame of tasks or results
starts its body with a table of that number of fixed-size rows, so that a batch is parsed by one
C call; the payloads follow in the order of the rows.

Byte order and sizes are the machine's own: both ends are the same Python on the same machine.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_HEADER = struct.Struct("=BxxxIQ")
_TASK = struct.Struct("=QIIQ")
_RESULT = struct.Struct("=QIIQ")

# Room for one read.  Larger saves reads of medium messages; smaller saves memory per worker.
# A whole socket buffer (208 KiB by default on Linux) fits a few times a second at most.
ROOM = 1 << 16


class Kind(IntEnum):
    """What a frame says."""

    # owner to worker
    DEFINE = 1  # number = that of the definition; body = its pickle
    FORGET = 2  # number = that of the definition
    TASKS = 3
    EXIT = 4
    # worker to owner
    READY = 5
    UNFIT = 6  # the initializer raised; body = the pickled exception
    RESULTS = 7
    DROPPED = 8  # number = how many tasks


class Form(IntEnum):
    """What a task's payload holds."""

    ARGS = 0  # args
    KWARGS = 1  # (args, kwargs)
    CALL = 2  # (function, args, kwargs)


class Status(IntEnum):
    """What a result's payload holds."""

    VALUE = 0  # what the task returned
    RAISED = 1  # (what it raised, the traceback as text)
    UNREADABLE = 2  # the same, but the task never started: its payload could not be unpickled
    UNSENDABLE = 3  # the same, for a result that could not be pickled


class TaskRow(NamedTuple):
    """One task on its way to a worker; `function` is a definition's number, or 0 (see `form`)."""

    task: int
    function: int
    form: int
    payload: Buffer


class ResultRow(NamedTuple):
    """One result on its way to the owner, with the microseconds the task took."""

    task: int
    status: int
    micros: int
    payload: Buffer


class Frame(NamedTuple):
    """A decoded frame; the body's meaning depends on the kind."""

    kind: int
    number: int
    body: Buffer


def frame(kind: Kind, number: int = 0, body: Buffer = b"") -> list[Buffer]:
    """The buffers of a frame without a table, in order."""
    header = _HEADER.pack(kind, number, len(body))
    return [header, body] if body else [header]


def tasks_frame(rows: Sequence[tuple[int, int, int, Buffer]]) -> list[Buffer]:
    """The buffers of a TASKS frame; each row is like a `TaskRow`."""
    return _table_frame(Kind.TASKS, _TASK, rows)


def results_frame(rows: Sequence[tuple[int, int, int, Buffer]]) -> list[Buffer]:
    """The buffers of a RESULTS frame; each row is like a `ResultRow`."""
    return _table_frame(Kind.RESULTS, _RESULT, rows)


def _table_frame(
    kind: Kind, row: struct.Struct, rows: Sequence[tuple[int, int, int, Buffer]]
) -> list[Buffer]:
    if len(rows) == 1:
        [(a, b, c, payload)] = rows
        size = len(payload)
        return [_HEADER.pack(kind, 1, row.size + size) + row.pack(a, b, c, size), payload]
    sizes = [len(payload) for _, _, _, payload in rows]
    body = row.size * len(rows) + sum(sizes)
    head = [_HEADER.pack(kind, len(rows), body)]
    head += [row.pack(a, b, c, size) for (a, b, c, _), size in zip(rows, sizes, strict=True)]
    return [b"".join(head), *(payload for _, _, _, payload in rows if payload)]


def task_rows(frame: Frame) -> Iterator[TaskRow]:
    """The tasks of a TASKS frame."""
    return map(TaskRow._make, _rows(frame, _TASK))


def result_rows(frame: Frame) -> Iterator[ResultRow]:
    """The results of a RESULTS frame."""
    return map(ResultRow._make, _rows(frame, _RESULT))


def _rows(frame: Frame, row: struct.Struct) -> Iterator[tuple[int, int, int, memoryview]]:
    body = memoryview(frame.body)
    at = row.size * frame.number
    for first, second, third, size in row.iter_unpack(body[:at]):
        yield first, second, third, body[at : at + size]
        at += size


class Decoder:
    """Bytes in, frames out, whatever the boundaries of the reads.

    Read into `room()`, then pass the number of bytes to `filled()`.  The body of a large frame is
    read straight into memory of its own and never copied.
    """

    def __init__(self) -> None:
        #: Where reads go while no large body is on its way; holds `_have` bytes of the next frame.
        self._chunk = memoryview(bytearray(ROOM))
        self._have = 0
        #: The header and the memory of the large body on its way, of which `_have` bytes are here.
        self._large: tuple[int, int, memoryview] | None = None

    def room(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        target = self._chunk if self._large is None else self._large[2]
        return target[self._have :]

    def filled(self, size: int) -> list[Frame]:
        """Take note of `size` new bytes in the room and return the frames they complete."""
        self._have += size
        if self._large is None:
            return self._parse()
        kind, number, body = self._large
        if self._have < len(body):
            return []
        self._large = None
        self._have = 0
        return [Frame(kind, number, body)]

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
        body = memoryview(bytearray(length))
        here = self._have - start
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
