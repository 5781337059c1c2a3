"""Shared memory for large buffers: lend, borrow, give back.  docs/buffers.md has the picture.

Owns what one process has lent to another, and what it has borrowed.  The memory itself is
`_arena`'s business, and `_borrowed`'s where it has arrived; which slot is free, `_slots`'; what a
pickle is, the caller's; and the channel on which rows and news travel is not known here.

A `Lender` makes and fills slots; a process has one per pool.  An `Exchange` is one end of a
socket pair between two processes: what is lent over there, and borrowed from there.

Threads: any thread may make parcels, and drop whatever it likes at any time.  `lend`, `news` and
`heard` belong to whoever writes to the channel, `take_arenas` and `borrow` to whoever reads
it: one thread at a time each.  Finalizers append to deques, and give back mappings and
descriptors.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import mmap
import os
import pickle
import socket
import struct
import sys
import weakref
from collections import deque

from hookpool import _streams
from hookpool._arena import SharedArena, copy, is_same, memory_of
from hookpool._borrowed import (
    Borrowed,
    Common,
    Inline,
    Mapped,
    Tenure,
    after_fork_in_child,
    loads,
    loads_again,
)
from hookpool._plain import THRESHOLD
from hookpool._slots import Arena, Slot, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol, TypeVar

    from hookpool._borrowed import Buffer

    T = TypeVar("T")

    class Copied(Protocol):
        """Where the copy of a buffer is, if there is one."""

        slot: Slot | None


__all__ = [
    "CAN_LEND",
    "READ_ONLY",
    "SHARED",
    "THRESHOLD",
    "Borrowed",
    "Exchange",
    "Lender",
    "Parcel",
    "is_borrowed",
    "loads",
    "loads_again",
    "socket_pair",
]

# Memory that nobody uses may stay for those who come next; a new arena lets go of what is more.
WARM = 1 << 30
# What was given back is reported at once when it is more than this, so that the other process can
# use it; smaller would wake a thread more often, larger would have it take more new memory.
REPORT = 4 << 20

#: Whether memory can be shared without a name that would have to be cleaned up.
CAN_LEND = hasattr(os, "memfd_create") and sys.platform == "linux"

# A payload with buffers: a zero, with which no pickle begins, the number of parts and the first
# lease; the parts, what is inline.  The first part is the pickle, then its buffers in order.
_HEAD = struct.Struct("=BxxxIQ")
# A part: number of the arena (0: inline), mode, offset there (or in what is inline), length.
_PART = struct.Struct("=IIQQ")
#: Others hold it, too: each loading gets a copy of its own, or a look at it.
SHARED = 1
READ_ONLY = 2

# What travels with a descriptor: the arena's number and its size.
_ANNOUNCEMENT = struct.Struct("=QQ")
# News: an arena that is gone, or a lease that has ended; whether a forked child may still see it.
_GONE = 1 << 63
_TAINTED = 1 << 62
# Both: an arena that did not arrive, so that it has to be sent again with the next parcel.
_MISSED = _GONE | _TAINTED
# Or a request: let go of what nobody uses.  No lease and no arena has this number.
_TRIM = 0


class Lender:
    """Slots for whoever wants to send something large.

    Args:
        limit: the most bytes of shared memory to hold; None: each new arena may have half of the
            memory that is available by then.
        threshold: smaller parts of a parcel go inline.
    """

    def __init__(self, limit: int | None = None, threshold: int = THRESHOLD) -> None:
        self._limit = limit
        self.threshold = threshold
        numbers = itertools.count(1)
        self._slots = Slots(mmap.PAGESIZE, numbers)
        #: What several hold has arenas of its own: a worker that dies has all retired in which it
        #: had something, and these live as long as whatever else is in them, a handle say.
        self._common = Slots(mmap.PAGESIZE, numbers)
        #: Called before a new arena is made: perhaps there is news of what has come back.
        self.shortage: Callable[[], None] = _do_nothing
        #: Another object whenever an arena is gone.
        self.gone: list[object] = [None]
        #: Whether nothing is lent any more.
        self.closed = not CAN_LEND or limit == 0
        #: Parcels that are not dropped when they have been sent, but with the pool at the latest.
        self._shared: weakref.WeakSet[Parcel] = weakref.WeakSet()
        _lenders.add(self)

    @property
    def held(self) -> int:
        """Bytes of shared memory that this lender has made and that still exist."""
        return self._slots.held + self._common.held

    def has(self, number: int) -> bool:
        """Whether an arena still exists."""
        return number in self._slots.sizes() or number in self._common.sizes()

    def parcel(
        self,
        pickled: Sequence[Buffer],
        buffers: Iterable[pickle.PickleBuffer] = (),
        mode: int = 0,
        copies: Sequence[Copied] = (),
    ) -> Parcel:
        """A pickle ready for its journey; what is large is copied into slots here and now.

        Args:
            pickled: the pickle, in pieces.
            buffers: its out-of-band buffers, in order.
            mode: `SHARED` or `READ_ONLY` where several processes are to have it at a time.
            copies: of the buffers: the slots that there are already with this content; those
                that are made now are noted there, so that what comes twice is copied once.
        """
        parcel = Parcel(mode)
        if mode:
            self._shared.add(parcel)
        known = itertools.chain((None,), copies, itertools.repeat(None))
        for pieces in (pickled, *[(buffer.raw(),) for buffer in buffers]):
            size = sum(map(len, pieces))
            copied = next(known)
            slot = None if copied is None else copied.slot
            if slot is None and size >= self.threshold:
                slot = self._write(pieces, size, self._common if mode else self._slots)
                if copied is not None:
                    copied.slot = slot
            parcel.add(pieces, size, slot)
        if mode and self.closed and parcel.is_in_memory():
            parcel.let_go()  # in another thread, and it may not have seen this one
        return parcel

    def least(self) -> int:
        """From which size on something is worth a parcel."""
        return sys.maxsize if self.closed else self.threshold

    def trim(self, keep: int = 0) -> None:
        """Let go of memory that nobody uses, but for `keep` bytes."""
        for slots in (self._common, self._slots):
            slots.trim(keep)

    def close(self) -> None:
        """Lend nothing more; what is lent to one stays until it comes back."""
        self.closed = True
        self._slots.clear()
        self._common.clear()
        for parcel in _living(self._shared):
            parcel.let_go()

    def _write(self, pieces: Sequence[Buffer], size: int, slots: Slots) -> Slot | None:
        """A slot with this content; None where the pipe must do."""
        if self.closed:
            return None
        slot = slots.take(size)
        if slot is None:
            slot = self._grow(size, slots)
        if slot is not None:
            copy(memory_of(slot, size), pieces)
        return slot

    def _grow(self, size: int, slots: Slots) -> Slot | None:
        """The first slot of a new arena, if there may be one."""
        self.shortage()
        slot = slots.take(size)
        if slot is not None:
            return slot
        self.trim(WARM)
        length, count = slots.plan(size, self._room())
        if not count:
            self.trim()
            length, count = slots.plan(size, self._room())
        if not count:
            return None
        number = slots.next_number()
        try:
            arena = SharedArena(number, length, count, slots.sizes(), self.gone)
        except OSError:  # no descriptors or no memory left, or not allowed
            return None
        if self._limit is not None and self.held > self._limit:
            return None  # another thread was faster
        slot = arena.take()
        slots.add(arena)
        return slot

    def _room(self) -> int:
        if self._limit is not None:
            return self._limit - self.held
        from hookpool import _memory  # with pathlib: much to import for a worker's first task

        return _memory.available() // 2


def _do_nothing() -> None:
    pass


class Parcel:
    """A pickle and its buffers on their journey; refers to its slots until it is dropped."""

    __slots__ = (
        "__weakref__", "_inline", "_inline_size", "_mode", "_parts", "slots", "tickets",
    )  # fmt: skip

    #: What it has to let go of when it goes, if anything: see `_ticket`.
    tickets: object

    def __init__(self, mode: int = 0) -> None:
        self._mode = mode
        self._parts: list[tuple[int, int, int, int]] = []
        #: By part; None for what is inline.
        self.slots: list[Slot | None] = []
        self._inline: list[bytes] = []
        self._inline_size = 0

    def add(self, pieces: Sequence[Buffer], size: int, slot: Slot | None) -> None:
        """One more part, which has been written to the slot, if there is one."""
        self.slots.append(slot)
        if slot is None:
            self._parts.append((0, self._mode, self._inline_size, size))
            # A copy: what belongs to somebody else may change before this is sent.
            self._inline.append(b"".join(pieces))
            self._inline_size += size
        else:
            self._parts.append((slot.arena.number, self._mode, slot.offset, size))

    def __len__(self) -> int:
        """The bytes in all parts."""
        return sum(size for *_, size in self._parts)

    def is_in_memory(self) -> bool:
        """Whether any of it is in shared memory."""
        return any(self.slots)

    def let_go(self) -> None:
        """Be of no use any more: the memory goes back, but for what is lent."""
        self.slots, self._parts, self._inline = [], [], []

    def slot(self, part: int) -> Slot | None:
        """Where a part is, if it is in shared memory."""
        return self.slots[part] if part < len(self.slots) else None

    def view(self, part: int) -> memoryview:
        """A part's content."""
        slot = self.slots[part]
        if slot is None:
            return memoryview(self._inline[self.slots[:part].count(None)])
        return memory_of(slot, self._parts[part][3])

    def is_like(self, other: Parcel) -> bool:
        """Whether it has the same content."""
        if len(self._parts) != len(other._parts):
            return False
        return all(
            self._parts[at][3] == other._parts[at][3]
            and (
                (slot is not None and slot is other.slots[at])
                or is_same(self.view(at), other.view(at))
            )
            for at, slot in enumerate(self.slots)
        )

    def arenas(self) -> set[Arena]:
        """The arenas in which parts of it are."""
        return {slot.arena for slot in self.slots if slot is not None}

    def packed(self, first: int) -> bytes:
        """What a row carries, for a borrower who has the parts under leases from `first` on."""
        parts = [_PART.pack(*part) for part in self._parts]
        return b"".join([_HEAD.pack(0, len(parts), first), *parts, *self._inline])

    def inline(self) -> bytes:
        """What a row carries to somebody who cannot be lent anything."""
        plain = Parcel(self._mode)
        inline = memoryview(b"".join(self._inline))
        for (_, _, offset, size), slot in zip(self._parts, self.slots, strict=True):
            raw = inline[offset : offset + size] if slot is None else memory_of(slot, size)
            plain.add((raw,), size, None)
        return plain.packed(0)


def is_borrowed(payload: Buffer) -> bool:
    """Whether a payload is a parcel's, and not a pickle."""
    return bool(payload) and not payload[0]


# -- between two processes ----------------------------------------------------------------------


def socket_pair() -> tuple[int, int] | tuple[None, None]:
    """A pair of sockets for two exchanges, on which descriptors travel; None where none do."""
    if not CAN_LEND:
        return None, None
    ours, theirs = _streams.socket_pair(socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


class Exchange:
    """What this process has lent to one other, and borrowed from it.

    Args:
        fd: this end of a `socket_pair`; closed by `close`. None: everything goes inline.
        lender: of this process.
        wake: called, possibly from finalizers, when there is news that should not wait.
    """

    def __init__(
        self, fd: int | None, lender: Lender, wake: Callable[[], None] | None = None
    ) -> None:
        self.lender = lender
        self._wake = wake
        #: Whether anything was lent or borrowed since this was last set to False.
        self.used = False
        self._socket = None if fd is None else socket.socket(fileno=fd)
        #: Numbers of our arenas that were sent over.
        self._known: set[int] = set()
        #: The lender's mark when it was last looked at which of them are gone.
        self._gone = lender.gone[0]
        #: Numbers of their arenas that did not arrive here.
        self._missed: deque[int] = deque()
        #: The slots that the other process has, by lease.
        self._lent: dict[int, Slot] = {}
        self._next_lease = 1
        #: The leases that have ended here, and how much memory that is.
        self._ended: deque[int] = deque()
        self._ended_bytes = 0
        #: Whether the other side shall let go of memory that nobody uses.
        self._trims = False
        #: Their arenas, by number.
        self._arenas: dict[int, Mapped] = {}
        #: What is in use here, by lease: in which arena, from where on, and how much it is.
        self._borrowed: dict[int, tuple[Mapped, int, int]] = {}
        _exchanges.add(self)

    def close(self) -> None:
        """The other process is gone, or of no interest any more; what is borrowed stays usable."""
        for slot in list(self._lent.values()):
            slot.taint()
        self._lent.clear()
        self._forget_ended()
        # Without the descriptors a later fork could not do this; what was written is not copied.
        self.isolate()
        self._borrowed.clear()
        self._arenas.clear()
        self.leave()

    def reclaim(self) -> None:
        """Give back what nobody here has of the memory that was lent by the other process.

        For the owner of a worker that has ended, before `close`. Nobody else was lent anything by
        it, so nobody but what is borrowed here looks at that memory, and no more will be borrowed.
        """
        self._forget_ended()
        kept: dict[Mapped, list[tuple[int, int]]] = {}
        # More than what is in use at the end of this line is not in use later, not even in a child
        # that another thread forks just then. One that was forked before has what there was then.
        for arena, offset, length in list(self._borrowed.values()):
            kept.setdefault(arena, []).append((offset, length))
        for arena, parts in kept.items():
            if not _forking and arena.forks is _forks[0]:
                arena.punch(parts)

    def leave(self) -> None:
        """Neither send nor receive any more: in a forked child, what is borrowed stays usable.

        Not by its number: the socket lives as long as what is borrowed, and would close that again
        when it is somebody else's.
        """
        if self._socket is not None:
            self._socket.close()

    # -- lending ----------------------------------------------------------------------------

    def lend(self, parcel: Parcel) -> bytes:
        """Lend the parcel's slots and return what its row carries."""
        for arena in parcel.arenas():
            if arena.number not in self._known and not self._announce(arena):
                return parcel.inline()
        self.used = True
        first = self._next_lease
        self._next_lease += len(parcel.slots)
        for lease, slot in enumerate(parcel.slots, first):
            if slot is not None:
                self._lent[lease] = slot
        return parcel.packed(first)

    def _announce(self, arena: Arena) -> bool:
        assert isinstance(arena, SharedArena)
        if self._socket is None:
            return False
        message = _ANNOUNCEMENT.pack(arena.number, arena.size)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [arena.fd]))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            self._socket.sendmsg([message], [rights], flags)
        except OSError:  # they take no descriptors any more, now or for ever
            return False
        self._known.add(arena.number)
        return True

    # -- borrowing --------------------------------------------------------------------------

    def take_arenas(self) -> None:
        """Map what the other process has sent over."""
        room = socket.CMSG_SPACE(struct.calcsize("i"))
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        while self._socket is not None:
            try:
                message, rights, _, _ = self._socket.recvmsg(_ANNOUNCEMENT.size, room, flags)
            except BlockingIOError:
                return
            if not message:
                return
            number, size = _ANNOUNCEMENT.unpack(message)
            for _, _, data in rights:  # none, if this process has no descriptor left
                [fd] = array.array("i", data)
                with contextlib.suppress(OSError):  # no address space left
                    self._arenas[number] = Mapped(fd, size, _forks[0])
            if number not in self._arenas:
                self._missed.append(number)
                if self._wake is not None:
                    self._wake()

    def borrow(self, payload: Buffer) -> Borrowed:
        """What the payload of a row refers to; where it cannot be mapped, loading it raises."""
        self.used = True
        payload = memoryview(payload)
        _, count, first = _HEAD.unpack_from(payload)
        start = _HEAD.size + count * _PART.size
        inline = payload[start:]
        entries = list(_PART.iter_unpack(payload[_HEAD.size : start]))
        parts: list[Buffer | Common | Inline] = []
        try:
            for lease, (number, mode, offset, length) in enumerate(entries, first):
                part = inline[offset : offset + length]
                if number:
                    parts.append(self._part(lease, number, mode, offset, length))
                elif mode:
                    parts.append(Inline(part, mode == READ_ONLY))
                else:
                    # Of several tasks in one message each gets memory of its own, to write to.
                    parts.append(bytearray(part) if parts else part)
        except OSError as error:
            self._ended.extend(range(first + len(parts), first + count))
            return Borrowed([], error)
        return Borrowed(parts)

    def refuse(self, payload: Buffer) -> None:
        """Give back what the payload of a row refers to, without a look at it."""
        _, count, first = _HEAD.unpack_from(payload)
        self._ended.extend(range(first, first + count))

    def _part(
        self, lease: int, number: int, mode: int, offset: int, length: int
    ) -> memoryview | Common:
        arena = self._arenas.get(number)
        if arena is None:
            self.take_arenas()
            arena = self._arenas.get(number)
        if arena is None:
            raise OSError(
                f"process {os.getpid()} could not map the shared memory of this data: most likely "
                "it has reached its limit of open files (ulimit -n) or of memory (ulimit -v). "
                "Close files there, or raise the limit; the memory is sent again with the next "
                "task that needs it"
            )
        self._borrowed[lease] = arena, offset, length
        if mode:
            tenure = Tenure(lease, self._end)
            return Common(arena, offset, length, tenure, mode == READ_ONLY)
        return arena.whole(lease, self._end)[offset : offset + length]

    def _end(self, lease: int) -> None:
        """The last view is gone; called by finalizers."""
        self._ended.append(lease)
        borrowed = self._borrowed.get(lease)
        if borrowed is not None:
            self._ended_bytes += borrowed[2]
            if self._ended_bytes > REPORT and self._wake is not None:
                self._wake()

    # -- news -------------------------------------------------------------------------------

    def news(self) -> bytes:
        """What the other process has to hear; empty if nothing."""
        gone = self.lender.gone[0]
        if not (self._ended or self._trims or self._missed) and gone is self._gone:
            return b""
        codes = self._forget_ended()
        if self._trims:
            self._trims = False
            codes.append(_TRIM)
        while self._missed:
            codes.append(self._missed.popleft() | _MISSED)
        if gone is not self._gone:
            self._gone = gone  # as it was before the look: what goes meanwhile leaves another
            for number in [number for number in self._known if not self.lender.has(number)]:
                self._known.discard(number)
                codes.append(number | _GONE)
        return codes.tobytes()

    def _forget_ended(self) -> array.array[int]:
        codes = array.array("Q")
        self._ended_bytes = 0
        for _ in range(len(self._ended)):
            lease = self._ended.popleft()
            borrowed = self._borrowed.pop(lease, None)
            if borrowed is not None and (borrowed[0].is_forked or _forking):
                lease |= _TAINTED
            codes.append(lease)
        return codes

    def is_urgent(self) -> bool:
        """Whether there is news that should not wait for the next message."""
        return self._ended_bytes > REPORT or bool(self._missed)

    def ask_to_trim(self) -> None:
        """Have the other side let go of memory that nobody uses."""
        self._trims = True

    def heard(self, news: Buffer) -> None:
        """Take in what the other process has said."""
        codes = array.array("Q")
        codes.frombytes(news)
        for code in codes:
            if code == _TRIM:
                self.lender.trim()
                continue
            if code & _MISSED == _MISSED:
                self._known.discard(code & ~_MISSED)
                continue
            if code & _GONE:
                self.take_arenas()
                self._arenas.pop(code & ~_GONE, None)
                continue
            slot = self._lent.pop(code & ~_TAINTED, None)
            if slot is not None and code & _TAINTED:
                slot.taint()

    # -- forks ------------------------------------------------------------------------------

    def isolate(self) -> list[OSError]:
        """Make what is borrowed private: what parent and child write is then their own.

        Returns:
            Why some of it could not be, which a fork then shares.
        """
        failures = []
        for arena in {arena for arena, _, _ in list(self._borrowed.values())}:
            try:
                arena.isolate()
            except OSError as error:
                failures.append(error)
        return failures


# -- forks, for all exchanges and lenders -------------------------------------------------------

_exchanges: weakref.WeakSet[Exchange] = weakref.WeakSet()
_lenders: weakref.WeakSet[Lender] = weakref.WeakSet()
#: For each fork in progress: what is borrowed meanwhile its child may have, too.
_forking: list[None] = []
#: Another object whenever a fork begins or has ended.
_forks: list[object] = [None]


def _living(those: weakref.WeakSet[T]) -> list[T]:
    """All that are in a set now, to which another thread may be adding one."""
    while True:
        with contextlib.suppress(RuntimeError):
            return list(those)


def _isolate() -> None:
    failures = [one for exchange in _living(_exchanges) for one in exchange.isolate()]
    if failures:
        raise failures[0]  # which Python prints, and forks


def _before_fork() -> None:
    _forking.append(None)
    _forks[0] = object()
    _isolate()


def _after_fork_in_parent() -> None:
    # Again: another thread may have borrowed something between the first time and the fork.
    try:
        _isolate()
    finally:
        _forks[0] = object()  # while this fork still counts as being in progress
        with contextlib.suppress(IndexError):  # an interrupt came before it was there
            _forking.pop()


def _after_fork_in_child() -> None:
    _forks[0] = object()
    _forking.clear()
    after_fork_in_child()
    try:
        _isolate()
    finally:
        for lender in _living(_lenders):
            lender.close()


if CAN_LEND:
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
