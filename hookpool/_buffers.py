"""Shared memory for large buffers: lend, borrow, give back.  docs/buffers.md has the picture.

Owns the memory (anonymous files, their mappings and descriptors), what one process has lent to
another, and what it has borrowed.  Which block is free is `_blocks`' business; what a pickle is,
the caller's; and the channel on which rows and news travel is not known here.

A `Lender` makes and fills blocks; a process has one per pool.  An `Exchange` is one end of a
socket pair between two processes: what is lent over there, and borrowed from there.

Threads: any thread may make parcels, and drop whatever it likes at any time.  `lend`, `news` and
`heard` belong to whoever writes to the channel, `take_arenas` and `borrow` to whoever reads
it: one thread at a time each.  Finalizers only append to deques.
"""

from __future__ import annotations

import array
import functools
import mmap
import os
import pickle
import socket
import struct
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from hookpool import _memory
from hookpool._blocks import Arena, Block, Blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Buffer: TypeAlias = "bytes | bytearray | memoryview"

# Smaller buffers take the pipe: it costs some 20 us more to hand a block over and get it back,
# which is what copying so much through the pipe costs more.
THRESHOLD = 1 << 16
# Memory that nobody uses may stay for those who come next; a new arena lets go of what is more.
WARM = 512 << 20
# What is copied at once: other threads of the process get their turn in between.
_PIECE = 8 << 20

#: Whether memory can be shared without a name that would have to be cleaned up.
CAN_LEND = hasattr(os, "memfd_create") and sys.platform == "linux"

# A payload with buffers: the first lease and the number of parts, the parts, what is inline.  The
# first part is the pickle, the others are its buffers in order.
_HEAD = struct.Struct("=QQ")
# A part: number of the arena (0: inline), mode, offset there (or in what is inline), length.
_PART = struct.Struct("=IIQQ")
_SHARED = 1  # others hold it too: map it privately

# What travels with a descriptor: the arena's number and its size.
_ANNOUNCEMENT = struct.Struct("=QQ")
# News: an arena that is gone, or a lease that has ended; whether a forked child may still see it.
_GONE = 1 << 63
_TAINTED = 1 << 62


# -- memory -------------------------------------------------------------------------------------


class SharedArena(Arena):
    """An arena and its memory, mapped writable in the process that lends it."""

    __slots__ = ("_gone", "fd", "view")

    def __init__(
        self, number: int, block: int, count: int, sizes: dict[int, int], gone: list[int]
    ) -> None:
        self.fd = -1
        #: Where to leave our number when we are gone.
        self._gone = gone
        super().__init__(number, block, count, sizes)
        self.fd = _reserved(self.size)
        self.view = memoryview(_mapped(self.fd, self.size))

    def __del__(self) -> None:
        super().__del__()
        if self.fd >= 0:
            os.close(self.fd)
            self._gone.append(self.number)


def _reserved(size: int) -> int:
    """The descriptor of a new anonymous file, all of whose pages are there."""
    fd = os.memfd_create("hookpool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        import fcntl

        os.fchmod(fd, 0o600)
        # Nobody meets SIGBUS for want of memory, and that is known before anything is promised.
        os.posix_fallocate(fd, 0, size)
        # Nor because somebody who has it made it smaller.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mapped(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    return mmap.mmap(fd, size)  # holds a descriptor of its own


def _copy(target: memoryview, pieces: Iterable[Buffer]) -> None:
    start = 0
    for piece in pieces:
        source = memoryview(piece)
        for at in range(0, len(source), _PIECE):
            some = source[at : at + _PIECE]
            target[start : start + len(some)] = some
            start += len(some)


class Lender:
    """Blocks for whoever wants to send something large.

    Args:
        limit: the most bytes of shared memory to hold; None: each new arena may have half of the
            memory that is available by then.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._blocks = Blocks(mmap.PAGESIZE)
        #: The numbers of arenas that are gone, in the order of their going.
        self.gone: list[int] = []
        #: Whether nothing is lent any more.
        self._closed = not CAN_LEND
        _lenders.add(self)

    @property
    def held(self) -> int:
        """Bytes of shared memory that this lender has made and that still exist."""
        return self._blocks.held

    def parcel(
        self,
        pickled: Sequence[Buffer],
        buffers: Iterable[pickle.PickleBuffer] = (),
        *,
        shared: bool = False,
    ) -> Parcel:
        """A pickle ready for its journey; what is large is copied into blocks here and now.

        Args:
            pickled: the pickle, in pieces.
            buffers: its out-of-band buffers, in order.
            shared: whether several processes are to have the parcel at a time.
        """
        parcel = Parcel(_SHARED if shared else 0)
        for pieces in (pickled, *[(buffer.raw(),) for buffer in buffers]):
            size = sum(map(len, pieces))
            parcel.add(pieces, size, self._write(pieces, size) if size >= THRESHOLD else None)
        return parcel

    def trim(self, keep: int = 0) -> None:
        """Let go of memory that nobody uses, but for `keep` bytes."""
        self._blocks.trim(keep)

    def close(self) -> None:
        """Lend nothing more; what is lent stays until it comes back."""
        self._closed = True
        self._blocks.clear()

    def _write(self, pieces: Sequence[Buffer], size: int) -> Block | None:
        """A block with this content; None where the pipe must do."""
        if self._closed:
            return None
        block = self._blocks.take(size)
        if block is None:
            block = self._grow(size)
        if block is not None:
            _copy(_memory_of(block, size), pieces)
        return block

    def _grow(self, size: int) -> Block | None:
        """The first block of a new arena, if there may be one."""
        blocks = self._blocks
        blocks.trim(WARM)
        length, count = blocks.plan(size, self._room())
        if not count:
            blocks.trim()
            length, count = blocks.plan(size, self._room())
        if not count:
            return None
        number = blocks.next_number()
        try:
            arena = SharedArena(number, length, count, blocks.sizes(), self.gone)
        except OSError:  # no descriptors or no memory left, or not allowed
            return None
        if self._limit is not None and blocks.held > self._limit:
            return None  # another thread was faster
        block = arena.take()
        blocks.add(arena)
        return block

    def _room(self) -> int:
        if self._limit is not None:
            return self._limit - self._blocks.held
        return _memory.available() // 2


def _memory_of(block: Block, size: int) -> memoryview:
    assert isinstance(block.arena, SharedArena)
    return block.arena.view[block.offset : block.offset + size]


class Parcel:
    """A pickle and its buffers on their journey; refers to its blocks until it is dropped."""

    __slots__ = ("_inline", "_inline_size", "_mode", "_parts", "blocks", "lent")

    def __init__(self, mode: int = 0) -> None:
        self._mode = mode
        self._parts: list[tuple[int, int, int, int]] = []
        #: By part; None for what is inline.
        self.blocks: list[Block | None] = []
        self._inline: list[bytes] = []
        self._inline_size = 0
        #: To whom it is lent, and under which first lease.
        self.lent: tuple[Exchange, int] | None = None

    def add(self, pieces: Sequence[Buffer], size: int, block: Block | None) -> None:
        """One more part, which has been written to the block, if there is one."""
        self.blocks.append(block)
        if block is None:
            self._parts.append((0, self._mode, self._inline_size, size))
            # A copy: what belongs to somebody else may change before this is sent.
            self._inline.append(b"".join(pieces))
            self._inline_size += size
        else:
            self._parts.append((block.arena.number, self._mode, block.offset, size))

    def arenas(self) -> set[Arena]:
        """The arenas in which parts of it are."""
        return {block.arena for block in self.blocks if block is not None}

    def retake(self) -> None:
        """The borrower will never look at it: its leases end, and it may be lent again."""
        lent, self.lent = self.lent, None
        if lent is not None:
            exchange, first = lent
            for lease in range(first, first + len(self.blocks)):
                exchange.end(lease)

    def packed(self, first: int) -> bytes:
        """What a row carries, for a borrower who has the parts under leases from `first` on."""
        parts = [_PART.pack(*part) for part in self._parts]
        return b"".join([_HEAD.pack(first, len(parts)), *parts, *self._inline])

    def inline(self) -> bytes:
        """What a row carries to somebody who cannot be lent anything."""
        plain = Parcel()
        inline = memoryview(b"".join(self._inline))
        for (_, _, offset, size), block in zip(self._parts, self.blocks, strict=True):
            raw = inline[offset : offset + size] if block is None else _memory_of(block, size)
            plain.add((raw,), size, None)
        return plain.packed(0)


# -- what is borrowed ---------------------------------------------------------------------------


class _Mapped:
    """An arena of somebody else's, as it is mapped here."""

    __slots__ = ("_exporter", "_mapping", "fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._mapping = _mapped(fd, size)
        self._exporter = _exporter(size)

    def whole(self, lease: int, ended: Callable[[int], None]) -> memoryview:
        """All of it, in the name of a lease: `ended` is called when the last view is gone."""
        exporter = self._exporter.from_buffer(self._mapping)
        exporter.lease = lease
        exporter.ended = ended
        return memoryview(exporter).cast("B")

    def private(
        self, offset: int, length: int, lease: int, ended: Callable[[int], None]
    ) -> memoryview:
        """A part, mapped so that nobody else sees what is written to it here."""
        more = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        flags = mmap.MAP_PRIVATE
        mapping = _PrivateMapping(self.fd, length, flags, offset=offset, **more)
        mapping.lease = lease
        mapping.ended = ended
        return memoryview(mapping)

    def isolate(self, offset: int, length: int) -> None:
        """Make a part of the mapping private in place: same addresses, same content."""
        import ctypes

        base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        _libc_mmap()(
            base + offset,
            length,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_PRIVATE | _MAP_FIXED,
            self.fd,
            offset,
        )

    def __del__(self) -> None:
        os.close(self.fd)


_MAP_FIXED = 0x10


class _PrivateMapping(mmap.mmap):
    """The exporter of a block that others hold, too."""

    lease: int
    ended: Callable[[int], None]

    def __del__(self) -> None:
        self.ended(self.lease)


@functools.lru_cache(64)
def _exporter(size: int) -> Any:
    """The type of exporters of arenas of this size.

    From ctypes, because before Python 3.12 nothing else that is written in Python can export the
    memory of another object; imported late, because few processes need it.
    """
    import ctypes

    class Exporter(ctypes.c_ubyte * size):  # type: ignore[misc]
        __slots__ = ("ended", "lease")

        def __del__(self) -> None:
            self.ended(self.lease)

    return Exporter


@functools.cache
def _libc_mmap() -> Any:
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    integers = ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    function.argtypes = (ctypes.c_void_p, *integers)
    return function


class Borrowed:
    """What has arrived; its leases end when neither it nor anything loaded from it is left."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[Buffer]) -> None:
        self._parts = parts

    def loads(self) -> Any:
        """Unpickle it; once only."""
        parts, self._parts = iter(self._parts), []
        return pickle.loads(next(parts), buffers=parts)


# -- between two processes ----------------------------------------------------------------------


def socket_pair() -> tuple[int, int]:
    """The descriptors of a pair of sockets for two exchanges, on which descriptors can travel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


class Exchange:
    """What this process has lent to one other, and borrowed from it.

    Args:
        fd: this end of a `socket_pair`; closed by `close`.
        lender: of this process.
    """

    def __init__(self, fd: int, lender: Lender) -> None:
        self.lender = lender
        self._socket = socket.socket(fileno=fd)
        #: Numbers of our arenas that were sent over.
        self._known: set[int] = set()
        #: How many of those that are gone have been looked at.
        self._gone = 0
        #: The blocks that the other process has, by lease.
        self._lent: dict[int, Block] = {}
        self._next_lease = 1
        #: The leases that have ended here.
        self._ended: deque[int] = deque()
        #: Their arenas, by number.
        self._arenas: dict[int, _Mapped] = {}
        #: What is in use here, by lease: where it is mapped, and whether others see what we write.
        self._borrowed: dict[int, tuple[_Mapped, int, int, bool]] = {}
        #: Those of them that a forked child may use.
        self._tainted: set[int] = set()
        _exchanges.add(self)

    def fileno(self) -> int:
        """The descriptor of the socket; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """The other process is gone, or of no interest any more; what is borrowed stays usable."""
        for block in list(self._lent.values()):
            block.taint()
        self._lent.clear()
        self._forget_ended()
        # Without the descriptors a later fork could not do this; what was written is not copied.
        self.isolate()
        self._borrowed.clear()
        self._arenas.clear()
        self._socket.close()

    # -- lending ----------------------------------------------------------------------------

    def lend(self, parcel: Parcel) -> bytes:
        """Lend the parcel's blocks and return what its row carries."""
        parcel.retake()
        for arena in parcel.arenas():
            if arena.number not in self._known and not self._announce(arena):
                return parcel.inline()
        first = self._next_lease
        self._next_lease += len(parcel.blocks)
        parcel.lent = self, first
        for lease, block in enumerate(parcel.blocks, first):
            if block is not None:
                self._lent[lease] = block
        return parcel.packed(first)

    def end(self, lease: int) -> None:
        """The borrower does not have it any more."""
        self._lent.pop(lease, None)

    def _announce(self, arena: Arena) -> bool:
        assert isinstance(arena, SharedArena)
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
        while True:
            try:
                message, rights, _, _ = self._socket.recvmsg(_ANNOUNCEMENT.size, room, flags)
            except BlockingIOError:
                return
            if not message:
                return
            number, size = _ANNOUNCEMENT.unpack(message)
            for _, _, data in rights:  # none, if this process has no descriptor left
                [fd] = array.array("i", data)
                self._arenas[number] = _Mapped(fd, size)

    def borrow(self, payload: Buffer) -> Borrowed:
        """What the payload of a row refers to.

        Raises:
            OSError: the memory cannot be mapped here.
        """
        payload = memoryview(payload)
        first, count = _HEAD.unpack_from(payload)
        start = _HEAD.size + count * _PART.size
        inline = payload[start:]
        entries = list(_PART.iter_unpack(payload[_HEAD.size : start]))
        parts: list[Buffer] = []
        try:
            for lease, (number, mode, offset, length) in enumerate(entries, first):
                if number:
                    parts.append(self._part(lease, number, mode, offset, length))
                else:
                    part = inline[offset : offset + length]
                    # Of several tasks in one message each gets memory of its own, to write to.
                    parts.append(bytearray(part) if parts else part)
        except BaseException:
            for lease, (number, *_) in enumerate(entries[len(parts) :], first + len(parts)):
                if number:
                    self._ended.append(lease)
            raise
        return Borrowed(parts)

    def _part(self, lease: int, number: int, mode: int, offset: int, length: int) -> memoryview:
        arena = self._arenas.get(number)
        if arena is None:
            self.take_arenas()
            arena = self._arenas.get(number)
        if arena is None:
            raise OSError(
                "the shared memory of this data could not be received: most likely the limit of "
                "open files (ulimit -n) is reached"
            )
        self._borrowed[lease] = arena, offset, length, mode != _SHARED
        if mode == _SHARED:
            return arena.private(offset, length, lease, self._ended.append)
        return arena.whole(lease, self._ended.append)[offset : offset + length]

    # -- news -------------------------------------------------------------------------------

    def news(self) -> bytes:
        """What the other process has to hear; empty if nothing."""
        gone = self.lender.gone
        if not self._ended and len(gone) == self._gone:
            return b""
        codes = self._forget_ended()
        for number in gone[self._gone :]:
            self._gone += 1
            if number in self._known:
                self._known.discard(number)
                codes.append(number | _GONE)
        return codes.tobytes()

    def _forget_ended(self) -> array.array[int]:
        codes = array.array("Q")
        for _ in range(len(self._ended)):
            lease = self._ended.popleft()
            self._borrowed.pop(lease, None)
            if lease in self._tainted:
                self._tainted.discard(lease)
                lease |= _TAINTED
            codes.append(lease)
        return codes

    def heard(self, news: Buffer) -> None:
        """Take in what the other process has said."""
        codes = array.array("Q")
        codes.frombytes(news)
        for code in codes:
            if code & _GONE:
                self.take_arenas()
                self._arenas.pop(code & ~_GONE, None)
                continue
            block = self._lent.pop(code & ~_TAINTED, None)
            if block is not None and code & _TAINTED:
                block.taint()

    # -- forks ------------------------------------------------------------------------------

    def isolate(self) -> None:
        """Make what is borrowed private: what parent and child write is then their own."""
        for lease, (arena, offset, length, is_seen) in list(self._borrowed.items()):
            if lease not in self._tainted:
                self._tainted.add(lease)
                if is_seen:
                    arena.isolate(offset, length)


# -- forks, for all exchanges and lenders -------------------------------------------------------

_exchanges: weakref.WeakSet[Exchange] = weakref.WeakSet()
_lenders: weakref.WeakSet[Lender] = weakref.WeakSet()


def _isolate() -> None:
    for exchange in list(_exchanges):
        exchange.isolate()


def _after_fork_in_child() -> None:
    # Again: another thread may have borrowed something between the first time and the fork.
    _isolate()
    for lender in list(_lenders):
        lender.close()


if CAN_LEND:
    os.register_at_fork(
        before=_isolate, after_in_parent=_isolate, after_in_child=_after_fork_in_child
    )
