"""The bookkeeping of shared memory, without the memory."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hookpool._slots import PAGE, Arena, Slot, Slots, gaps, slot_size


def grown(slots: Slots, size: int, room: int = 1 << 40) -> Arena:
    slot, count = slots.plan(size, room)
    arena = Arena(slots.next_number(), slot, count, slots.sizes())
    slots.add(arena)
    return arena


class Memory(Arena):
    """An arena that knows which of its slots have memory."""

    __slots__ = ("full", "is_there_more")

    def __init__(self, number: int, slot: int, count: int, sizes: dict[int, int]) -> None:
        super().__init__(number, slot, count, sizes)
        self.full = set(self.free)
        self.is_there_more = True

    def empty(self, offset: int) -> bool:
        self.full.remove(offset)
        return True

    def fill(self, offset: int) -> bool:
        if self.is_there_more:
            self.full.add(offset)
        return self.is_there_more


def test_an_arena_that_cannot_be_made_is_no_error_when_it_goes():
    """Its number and where arenas are noted are the first that it knows."""
    made = Arena.__new__(Arena)
    with pytest.raises(TypeError, match="float"):
        made.__init__(1, PAGE, 2.5, sizes := {})  # type: ignore[arg-type,misc]
    made.__del__()
    assert not sizes


@given(
    st.lists(st.tuples(st.integers(0, 7 * 16 - 1), st.integers(1, 3 * 16))),
    st.integers(1, 8),
)
def test_gaps_are_all_pages_on_which_there_is_no_part_and_no_others(
    parts: list[tuple[int, int]], pages: int
):
    page, size = 16, 16 * pages
    parts = [(offset % size, min(length, size - offset % size)) for offset, length in parts]
    used = {byte // page for offset, length in parts for byte in range(offset, offset + length)}

    found = gaps(parts, size, page)

    assert all(start % page == 0 == length % page and length for start, length in found)
    freed = [at // page for start, length in found for at in range(start, start + length, page)]
    assert sorted({*freed}) == freed
    assert {*freed} == {*range(pages)} - used


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 65536, 10**6, 10**8, 2**31 + 1])
def test_a_slot_is_whole_pages_and_wastes_an_eighth_at_most(size: int):
    slot = slot_size(size)
    assert size <= slot <= max(size * 9 / 8 + PAGE, PAGE)
    assert slot % PAGE == 0
    assert slot_size(slot) == slot


def test_there_is_no_slot_without_an_arena():
    assert Slots().take(1) is None


def test_a_slot_is_free_again_when_nothing_refers_to_it():
    slots = Slots()
    arena = grown(slots, 10**7)
    assert arena.count == 1
    slot = slots.take(10**7)
    other = slot
    assert slots.take(10**7) is None
    del slot
    assert slots.take(10**7) is None
    del other
    assert slots.take(10**7) is not None


def test_a_larger_slot_will_do_but_not_a_much_larger_one():
    slots = Slots()
    grown(slots, 1 << 20)
    assert slots.take(600_000) is not None
    assert slots.take(1 << 18) is None


def test_a_tainted_slot_is_never_used_again_nor_are_its_neighbours():
    slots = Slots()
    arena = grown(slots, 1 << 16)
    slot = slots.take(1 << 16)
    assert isinstance(slot, Slot)
    slot.taint()
    assert slots.take(1 << 16) is None
    offset = slot.offset
    del slot
    assert offset not in arena.free
    assert slots.take(1 << 16) is None
    assert slots.held == arena.size
    del arena
    assert slots.held == 0


def test_arenas_grow_with_what_is_held():
    """5 000 arrays of 1 MB in some 25 arenas, and no more than a quarter too much memory."""
    slots = Slots()
    kept, arenas = [], 0
    for _ in range(5000):
        slot = slots.take(1 << 20)
        if slot is None:
            grown(slots, 1 << 20)
            arenas += 1
            slot = slots.take(1 << 20)
        kept.append(slot)
    assert arenas < 30
    assert slots.held < 1.3 * len(kept) * (1 << 20)


def test_a_plan_fits_into_the_room():
    slots = Slots()
    assert slots.plan(1 << 20, 3 << 20) == (1 << 20, 3)
    assert slots.plan(1 << 20, 1000) == (1 << 20, 0)
    assert slots.plan(1 << 20, -1) == (1 << 20, 0)


def test_trimming_keeps_what_is_in_use():
    slots = Slots()
    grown(slots, 1 << 20)
    slot = slots.take(1 << 20)
    grown(slots, 1 << 25)
    slots.trim()
    assert slots.held == 8 << 20
    del slot
    slots.trim(keep=8 << 20)
    assert slots.held == 8 << 20
    slots.trim()
    assert slots.held == 0


def test_trimming_gives_back_free_memory_beside_what_is_in_use():
    slots = Slots()
    arena = Memory(1, 1 << 20, 8, slots.sizes())
    slots.add(arena)
    kept = arena.take()
    assert kept is not None

    slots.trim(keep=5 << 20)
    assert len(arena.full) == 6
    slots.trim()
    assert arena.full == {kept.offset}
    slots.trim()

    arena.is_there_more = False
    assert slots.take(1 << 20) is None
    arena.is_there_more = True
    other = slots.take(1 << 20)
    assert other is not None
    assert arena.full == {kept.offset, other.offset}
    slots.check()


def test_threads_never_have_the_same_slot():
    """Nor does one get lost, with a thread that trims while others take and drop."""
    slots = Slots()
    grown(slots, 1 << 16)
    owners: dict[tuple[int, int], int] = {}
    wrong: list[object] = []
    stop = threading.Event()

    def work(me: int) -> None:
        for _ in range(5000):
            slot = slots.take(1 << 16)
            if slot is None:
                continue
            key = (slot.arena.number, slot.offset)
            if owners.setdefault(key, me) != me:
                wrong.append(key)
            if owners.pop(key, None) != me:
                wrong.append(key)
            del slot

    def trim() -> None:
        while not stop.is_set():
            slots.trim(keep=0)
            if not slots.held:
                grown(slots, 1 << 16)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    trimmer = threading.Thread(target=trim)
    for thread in [*threads, trimmer]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    trimmer.join()
    assert not wrong
    slots.check()
    slots.trim()
    assert slots.held == 0


class Borrowing(RuleBasedStateMachine):
    """What is taken never overlaps, whatever is dropped, tainted, grown and trimmed."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        self.arenas: dict[int, tuple[int, int]] = {}  # number -> slot, count
        self.held: list[Slot] = []
        self.tainted: set[tuple[int, int]] = set()
        self.retired: set[int] = set()

    @rule(size=st.integers(1, 1 << 18), room=st.sampled_from([0, 1 << 20, 1 << 40]))
    def take(self, size: int, room: int) -> None:
        slot = self.slots.take(size)
        if slot is None:
            length, count = self.slots.plan(size, room)
            if not count:
                return
            arena = Memory(self.slots.next_number(), length, count, self.slots.sizes())
            self.arenas[arena.number] = length, count
            self.slots.add(arena)
            slot = self.slots.take(size)
            assert slot is not None
        assert slot.arena.slot >= size
        assert slot.offset in slot.arena.full  # type: ignore[attr-defined]
        assert slot.arena.number not in self.retired
        mine = slot.arena.number, slot.offset
        assert mine not in self.tainted
        assert mine not in {(b.arena.number, b.offset) for b in self.held}
        self.held.append(slot)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def drop(self, which: int) -> None:
        self.held.pop(which % len(self.held))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def taint(self, which: int) -> None:
        slot = self.held[which % len(self.held)]
        slot.taint()
        self.tainted.add((slot.arena.number, slot.offset))
        self.retired.add(slot.arena.number)

    @rule(keep=st.sampled_from([0, 1 << 20]))
    def trim(self, keep: int) -> None:
        self.slots.trim(keep)
        if not keep:
            used = {(slot.arena.number, slot.offset) for slot in self.held}
            for some in self.slots.arenas.values():
                for arena in some:
                    assert {(arena.number, at) for at in arena.full} <= used  # type: ignore[attr-defined]

    @invariant()
    def holds(self) -> None:
        self.slots.check()
        alive = {slot.arena.number for slot in self.held}
        assert alive <= set(self.slots.sizes())

    def teardown(self) -> None:
        self.held.clear()
        self.slots.trim()
        assert self.slots.held == 0
        self.slots.clear()


TestBorrowing = Borrowing.TestCase
