"""Which block of which arena is free: the bookkeeping of shared memory, without the memory.

Owns arenas as numbers and sizes, and the blocks in them.  Pure: no I/O, no clock, no lock.  What
memory an arena stands for is `_buffers`' business.

Any thread may call anything, also from a finalizer or a signal handler in the middle of a call:
each step that matters is one call of a C function (`deque.pop`, `deque.append`, `dict.pop`).  That
is why blocks have fixed sizes, an arena's blocks all the same one, and are never split or merged;
and why nothing counts references but Python itself.  Whoever refers to a `Block` holds it.

Invariants, asserted by `check()`:

1. The offset of a block is never in `free` while the block exists.
2. Each offset of an arena is in `free` at most once, is a multiple of the block size, and lies
   inside of the arena.
3. An arena that is retired is not in `arenas`, so no block of it is handed out any more.
4. A tainted block never gets back into `free`, and its arena is retired.
5. `held` is the size of all arenas that exist: those in `arenas`, and those retired of which a
   block still exists.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque

#: The smallest page there is; an arena's blocks start on pages of the system.
PAGE = 4096

#: Steps per doubling of the size of blocks: more waste less of a block (an eighth at most), and
#: find a free one of their size less often.
_STEPS = 8
#: A free block up to so many times as large will do, rather than a new arena.
_LARGER = 2
#: A new arena has at least so many blocks, as far as they fit in `_FEW_BYTES`.
_FEW = 8
_FEW_BYTES = 8 << 20
#: And at least this part of what is held already: so 5 000 arrays need some 25 arenas, each of
#: which costs descriptors. That much may be left unused.
_PART = 4


def block_size(size: int, page: int = PAGE) -> int:
    """The size of the blocks in which so many bytes are put."""
    size = max(size, 1)
    step = max(page, (1 << (size - 1).bit_length()) // (2 * _STEPS))
    return -(-size // step) * step


class Arena:
    """Some blocks of one size."""

    __slots__ = ("_closing", "_sizes", "block", "count", "free", "number", "retired")

    def __init__(self, number: int, block: int, count: int, sizes: dict[int, int]) -> None:
        self.number = number
        #: The size of each block.
        self.block = block
        self.count = count
        #: The offsets of the blocks that nobody refers to.
        self.free: deque[int] = deque(range(0, block * count, block))
        #: Whether no more blocks are handed out, ever.
        self.retired = False
        #: Whether `Blocks.trim` is looking at it.
        self._closing = False
        self._sizes = sizes
        sizes[number] = self.size

    @property
    def size(self) -> int:
        """The bytes in all blocks."""
        return self.block * self.count

    def take(self) -> Block | None:
        """A free block, if there is one."""
        try:
            offset = self.free.pop()
        except IndexError:
            return None
        block = Block(self, offset)
        # Looked at after the block is out: `trim` looks at them in the opposite order.
        return None if self.retired or self._closing else block

    def __del__(self) -> None:
        self._sizes.pop(self.number, None)

    def __repr__(self) -> str:
        state = "retired" if self.retired else f"{len(self.free)} free"
        return f"<Arena {self.number}: {self.count} x {self.block}, {state}>"


class Block:
    """A part of an arena that is somebody's as long as there is a reference to this."""

    __slots__ = ("arena", "offset", "tainted")

    def __init__(self, arena: Arena, offset: int) -> None:
        self.tainted = False
        self.arena = arena
        self.offset = offset

    def taint(self) -> None:
        """Somebody of whom we will not hear any more may still see it: never use it again."""
        self.tainted = True
        self.arena.retired = True

    def __del__(self) -> None:
        if not self.tainted:
            self.arena.free.append(self.offset)

    def __repr__(self) -> str:
        return f"<Block {self.arena.number}+{self.offset:#x}>"


class Blocks:
    """All arenas of a lender."""

    def __init__(self, page: int = PAGE) -> None:
        self._page = page
        #: By block size, in the order in which they were made: the older ones are used first, so
        #: that the younger ones become free as a whole.
        self.arenas: dict[int, list[Arena]] = {}
        #: The sizes of all arenas that exist, by number; arenas take themselves out.
        self._sizes: dict[int, int] = {}
        self._numbers = itertools.count(1)

    @property
    def held(self) -> int:
        """The bytes in all arenas that exist."""
        return sum(list(self._sizes.values()))

    def take(self, size: int) -> Block | None:
        """A free block for so many bytes, if there is one."""
        wanted = block_size(size, self._page)
        for block in sorted(self.arenas):
            if wanted <= block <= _LARGER * wanted:
                for arena in tuple(self.arenas[block]):
                    found = arena.take()
                    if found is not None:
                        return found
                    if arena.retired:
                        self._remove(arena)
        return None

    def plan(self, size: int, room: int) -> tuple[int, int]:
        """How large the blocks of a new arena should be, for `size` bytes, and how many.

        Args:
            size: what cannot be put into the arenas that there are.
            room: how large the arena may be; where a block is larger, the number is 0.
        """
        block = block_size(size, self._page)
        wanted = max(min(_FEW * block, _FEW_BYTES), self.held // _PART)
        return block, min(max(1, wanted // block), max(room, 0) // block)

    def next_number(self) -> int:
        """The number of the next arena; greater than 0."""
        return next(self._numbers)

    def sizes(self) -> dict[int, int]:
        """Where arenas note that they exist."""
        return self._sizes

    def add(self, arena: Arena) -> None:
        """Hand out the blocks of this arena, too."""
        self.arenas.setdefault(arena.block, []).append(arena)

    def trim(self, keep: int = 0) -> None:
        """Let go of retired arenas, and of free ones until at most `keep` bytes are free."""
        for some in list(self.arenas.values()):
            for arena in tuple(some):
                if arena.retired:
                    self._remove(arena)
        free = sum([len(a.free) * a.block for some in list(self.arenas.values()) for a in some])
        for block in sorted(self.arenas, reverse=True):  # the fewest arenas for the most memory
            for arena in self.arenas[block][::-1]:
                if free <= keep:
                    return
                arena._closing = True
                if len(arena.free) == arena.count:
                    free -= arena.size
                    self._remove(arena)
                else:
                    arena._closing = False

    def _remove(self, arena: Arena) -> None:
        arena.retired = True
        with contextlib.suppress(ValueError):  # another thread was faster
            self.arenas[arena.block].remove(arena)

    def clear(self) -> None:
        """Hand out no block any more."""
        for some in list(self.arenas.values()):
            for arena in tuple(some):
                self._remove(arena)

    def check(self) -> None:
        """Assert the invariants that can be seen from here."""
        for block, some in self.arenas.items():
            for arena in some:
                free = list(arena.free)
                assert arena.block == block
                assert len(set(free)) == len(free)
                assert all(0 <= offset < arena.size and not offset % block for offset in free)
                assert self._sizes[arena.number] == arena.size
        assert all(number > 0 for number in self._sizes)
