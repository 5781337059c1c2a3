"""The memory of the arenas that this process lends: made, filled, compared.

Owns the files without a name, and their mappings in the process that has made them. Which slot is
whose is `_slots`' business, and what is lent, `_buffers`'. There is no state; any thread may call.
"""

from __future__ import annotations

import mmap
import os

from hookpool._borrowed import mapped
from hookpool._slots import Arena, Slot
from hookpool._streams import away

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hookpool._borrowed import Buffer

# What is copied at once: other threads of the process get their turn in between.
_PIECE = 8 << 20


class SharedArena(Arena):
    """An arena and its memory, mapped writable in the process that lends it."""

    __slots__ = ("_gone", "_mapping", "fd", "view")

    def __init__(
        self, number: int, slot: int, count: int, sizes: dict[int, int], gone: list[object]
    ) -> None:
        self.fd = -1
        #: Where to leave a mark when we are gone.
        self._gone = gone
        super().__init__(number, slot, count, sizes)
        self.fd = _reserved(self.size)
        self._mapping = mapped(self.fd, self.size)
        self.view = memoryview(self._mapping)

    def empty(self, offset: int) -> bool:
        """See `Arena`: nobody has the slot, so nobody sees what is zero from now on."""
        try:
            self._mapping.madvise(mmap.MADV_REMOVE, offset, self.slot)
        except (AttributeError, OSError):  # the system, or its file system, knows no such thing
            return False
        return True

    def fill(self, offset: int) -> bool:
        """See `Arena`; as in `_reserved`."""
        try:
            os.posix_fallocate(self.fd, offset, self.slot)
        except OSError:
            return False
        return True

    def __del__(self) -> None:
        super().__del__()
        if self.fd >= 0:
            os.close(self.fd)
            self._gone[0] = object()


def _reserved(size: int) -> int:
    """The descriptor of a new anonymous file, all of whose pages are there."""
    fd = away(os.memfd_create("hookpool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
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


def copy(target: memoryview, pieces: Iterable[Buffer]) -> None:
    """Write the pieces to the target, one after the other."""
    start = 0
    for piece in pieces:
        source = memoryview(piece)
        for at in range(0, len(source), _PIECE):
            some = source[at : at + _PIECE]
            target[start : start + len(some)] = some
            start += len(some)


def is_same(one: memoryview, other: Buffer) -> bool:
    """Whether two pieces of equal length have equal content."""
    other = memoryview(other)
    words = len(one) // 8 * 8
    for at in range(0, words, _PIECE):
        stop = min(at + _PIECE, words)
        # By words: by bytes it takes many times as long.
        if one[at:stop].cast("Q") != other[at:stop].cast("Q"):
            return False
    return one[words:] == other[words:]


def memory_of(slot: Slot, size: int) -> memoryview:
    """The first so many bytes of a slot of this process."""
    assert isinstance(slot.arena, SharedArena)
    return slot.arena.view[slot.offset : slot.offset + size]
