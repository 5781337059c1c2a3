"""Which slot of which arena is free: the bookkeeping of shared memory, without the memory.

Owns arenas as numbers and sizes, and the slots in them.  Pure: no I/O, no clock, no lock.  What
memory an arena stands for is `_buffers`' business.

Any thread may call anything, also from a finalizer or a signal handler in the middle of a call:
each step that matters is one call of a C function (`deque.pop`, `deque.append`, `dict.pop`).  That
is why slots have fixed sizes, an arena's slots all the same one, and are never split or merged;
and why nothing counts references but Python itself.  Whoever refers to a `Slot` holds it.

Invariants, asserted by `check()`:

1. The offset of a slot is never in `free` while the slot exists.
2. Each offset of an arena is in `free` at most once, is a multiple of the slot size, and lies
   inside of the arena.
3. An arena that is retired is not in `arenas`, so no slot of it is handed out any more.
4. A tainted slot never gets back into `free`, and its arena is retired.
5. `held` is the size of all arenas that exist: those in `arenas`, and those retired of which a
   slot still exists.
6. A slot that somebody has is not `bare`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The smallest page there is; an arena's slots start on pages of the system.
PAGE = 4096

#: Steps per doubling of the size of slots: more waste less of a slot (an eighth at most), and
#: find a free one of their size less often. Of large ones there are few, and each is worth more.
_STEPS = 8
_STEPS_LARGE = 32
#: A free slot up to so many times as large will do, rather than a new arena.
_LARGER = 2
#: A new arena has at least so many slots, as far as they fit in `_FEW_BYTES`.
_FEW = 8
_FEW_BYTES = 8 << 20
#: And at least this part of what is held already: so 5 000 arrays need some 25 arenas, each of
#: which costs descriptors. That much may be left unused.
_PART = 4


def slot_size(size: int, page: int = PAGE) -> int:
    """The size of the slots in which so many bytes are put."""
    size = max(size, 1)
    steps = _STEPS if size <= _FEW_BYTES else _STEPS_LARGE
    step = max(page, (1 << (size - 1).bit_length()) // (2 * steps))
    return -(-size // step) * step


def gaps(parts: list[tuple[int, int]], size: int, page: int = PAGE) -> list[tuple[int, int]]:
    """Where in an arena of this size are whole pages without any of these parts.

    Args:
        parts: where they start and how long they are; in any order, and they may overlap.
        size: a multiple of the page.
        page: on whose multiples all that is returned starts and ends.
    """
    found, end = [], 0
    for offset, length in sorted(parts):
        start = offset // page * page
        if start > end:
            found.append((end, start - end))
        end = max(end, -(-(offset + length) // page) * page)
    if end < size:
        found.append((end, size - end))
    return found


class Arena:
    """Some slots of one size."""

    __slots__ = ("_closing", "_sizes", "bare", "count", "free", "number", "retired", "slot")

    def __init__(self, number: int, slot: int, count: int, sizes: dict[int, int]) -> None:
        # First of all: who cannot be made is still finalized, and looks at these.
        self._sizes = sizes
        self.number = number
        #: The size of each slot.
        self.slot = slot
        self.count = count
        #: The offsets of the slots that nobody refers to.
        self.free: deque[int] = deque(range(0, slot * count, slot))
        #: Those of them that have no memory until they are taken.
        self.bare: set[int] = set()
        #: Whether no more slots are handed out, ever.
        self.retired = False
        #: Whether `Slots.trim` is looking at it.
        self._closing = False
        sizes[number] = self.size

    @property
    def size(self) -> int:
        """The bytes in all slots."""
        return self.slot * self.count

    def take(self) -> Slot | None:
        """A free slot, if there is one."""
        try:
            offset = self.free.pop()
        except IndexError:
            return None
        slot = Slot(self, offset)
        # Looked at after the slot is out: `trim` looks at them in the opposite order.
        if self.retired or self._closing:
            return None
        if offset in self.bare:
            if not self.fill(offset):
                return None
            self.bare.discard(offset)
        return slot

    def strip(self, most: int) -> int:
        """Give back the memory of free slots until it is this much, in bytes.

        Returns:
            How much it was: a slot too much, or less, where there is no more.
        """
        slots, stripped = [], 0  # they are ours meanwhile, and free again when this returns
        while stripped < most:
            try:
                slots.append(Slot(self, self.free.pop()))
            except IndexError:
                break
            offset = slots[-1].offset
            if offset not in self.bare and self.empty(offset):
                self.bare.add(offset)
                stripped += self.slot
        return stripped

    def empty(self, offset: int) -> bool:
        """Give back the memory of a slot; whether that was possible."""
        return False

    def fill(self, offset: int) -> bool:
        """Give a slot memory again; whether there was any."""
        return True

    def __del__(self) -> None:
        self._sizes.pop(self.number, None)

    def __repr__(self) -> str:
        state = "retired" if self.retired else f"{len(self.free)} free"
        return f"<Arena {self.number}: {self.count} x {self.slot}, {state}>"


class Slot:
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
        return f"<Slot {self.arena.number}+{self.offset:#x}>"


class Slots:
    """All arenas of a lender, or all of one kind.

    Args:
        page: what the size of a slot is a multiple of.
        numbers: those of its arenas, greater than 0; shared with other kinds.
    """

    def __init__(self, page: int = PAGE, numbers: Iterator[int] | None = None) -> None:
        self._page = page
        #: By slot size, in the order in which they were made: the older ones are used first, so
        #: that the younger ones become free as a whole.
        self.arenas: dict[int, list[Arena]] = {}
        #: The sizes of all arenas that exist, by number; arenas take themselves out.
        self._sizes: dict[int, int] = {}
        self._numbers = numbers or itertools.count(1)

    @property
    def held(self) -> int:
        """The bytes in all arenas that exist."""
        return sum(list(self._sizes.values()))

    def take(self, size: int) -> Slot | None:
        """A free slot for so many bytes, if there is one."""
        wanted = slot_size(size, self._page)
        for slot in sorted(self.arenas):
            if wanted <= slot <= _LARGER * wanted:
                for arena in tuple(self.arenas[slot]):
                    found = arena.take()
                    if found is not None:
                        return found
                    if arena.retired:
                        self._remove(arena)
        return None

    def plan(self, size: int, room: int) -> tuple[int, int]:
        """How large the slots of a new arena should be, for `size` bytes, and how many.

        Args:
            size: what cannot be put into the arenas that there are.
            room: how large the arena may be; where a slot is larger, the number is 0.
        """
        slot = slot_size(size, self._page)
        wanted = max(min(_FEW * slot, _FEW_BYTES), self.held // _PART)
        return slot, min(max(1, wanted // slot), max(room, 0) // slot)

    def next_number(self) -> int:
        """The number of the next arena; greater than 0."""
        return next(self._numbers)

    def sizes(self) -> dict[int, int]:
        """Where arenas note that they exist."""
        return self._sizes

    def add(self, arena: Arena) -> None:
        """Hand out the slots of this arena, too."""
        self.arenas.setdefault(arena.slot, []).append(arena)

    def trim(self, keep: int = 0) -> None:
        """Let go of retired arenas, and of free memory until at most `keep` bytes are free."""
        for some in list(self.arenas.values()):
            for arena in tuple(some):
                if arena.retired:
                    self._remove(arena)
        left = [arena for some in list(self.arenas.values()) for arena in some]
        free = sum([(len(arena.free) - len(arena.bare)) * arena.slot for arena in left])
        for slot in sorted(self.arenas, reverse=True):  # the fewest arenas for the most memory
            for arena in self.arenas[slot][::-1]:
                if free <= keep:
                    return
                arena._closing = True
                if len(arena.free) == arena.count:
                    free -= arena.size - len(arena.bare) * slot
                    self._remove(arena)
                else:
                    arena._closing = False
                    free -= arena.strip(free - keep)

    def _remove(self, arena: Arena) -> None:
        arena.retired = True
        with contextlib.suppress(ValueError):  # another thread was faster
            self.arenas[arena.slot].remove(arena)

    def clear(self) -> None:
        """Hand out no slot any more."""
        for some in list(self.arenas.values()):
            for arena in tuple(some):
                self._remove(arena)

    def check(self) -> None:
        """Assert the invariants that can be seen from here."""
        for slot, some in self.arenas.items():
            for arena in some:
                free = list(arena.free)
                assert arena.slot == slot
                assert len(set(free)) == len(free)
                assert all(0 <= offset < arena.size and not offset % slot for offset in free)
                assert arena.bare <= set(free)
                assert self._sizes[arena.number] == arena.size
        assert all(number > 0 for number in self._sizes)
