"""The bookkeeping of shared memory, without the memory."""

from __future__ import annotations

import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hookpool._blocks import PAGE, Arena, Block, Blocks, block_size


def grown(blocks: Blocks, size: int, room: int = 1 << 40) -> Arena:
    block, count = blocks.plan(size, room)
    arena = Arena(blocks.next_number(), block, count, blocks.sizes())
    blocks.add(arena)
    return arena


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 65536, 10**6, 10**8, 2**31 + 1])
def test_a_block_is_whole_pages_and_wastes_an_eighth_at_most(size: int):
    block = block_size(size)
    assert size <= block <= max(size * 9 / 8 + PAGE, PAGE)
    assert block % PAGE == 0
    assert block_size(block) == block


def test_there_is_no_block_without_an_arena():
    assert Blocks().take(1) is None


def test_a_block_is_free_again_when_nothing_refers_to_it():
    blocks = Blocks()
    arena = grown(blocks, 10**7)
    assert arena.count == 1
    block = blocks.take(10**7)
    other = block
    assert blocks.take(10**7) is None
    del block
    assert blocks.take(10**7) is None
    del other
    assert blocks.take(10**7) is not None


def test_a_larger_block_will_do_but_not_a_much_larger_one():
    blocks = Blocks()
    grown(blocks, 1 << 20)
    assert blocks.take(600_000) is not None
    assert blocks.take(1 << 18) is None


def test_a_tainted_block_is_never_used_again_nor_are_its_neighbours():
    blocks = Blocks()
    arena = grown(blocks, 1 << 16)
    block = blocks.take(1 << 16)
    assert isinstance(block, Block)
    block.taint()
    assert blocks.take(1 << 16) is None
    offset = block.offset
    del block
    assert offset not in arena.free
    assert blocks.take(1 << 16) is None
    assert blocks.held == arena.size
    del arena
    assert blocks.held == 0


def test_arenas_grow_with_what_is_held():
    """5 000 arrays of 1 MB in some 25 arenas, and no more than a quarter too much memory."""
    blocks = Blocks()
    kept, arenas = [], 0
    for _ in range(5000):
        block = blocks.take(1 << 20)
        if block is None:
            grown(blocks, 1 << 20)
            arenas += 1
            block = blocks.take(1 << 20)
        kept.append(block)
    assert arenas < 30
    assert blocks.held < 1.3 * len(kept) * (1 << 20)


def test_a_plan_fits_into_the_room():
    blocks = Blocks()
    assert blocks.plan(1 << 20, 3 << 20) == (1 << 20, 3)
    assert blocks.plan(1 << 20, 1000) == (1 << 20, 0)
    assert blocks.plan(1 << 20, -1) == (1 << 20, 0)


def test_trimming_keeps_what_is_in_use():
    blocks = Blocks()
    grown(blocks, 1 << 20)
    block = blocks.take(1 << 20)
    grown(blocks, 1 << 25)
    blocks.trim()
    assert blocks.held == 8 << 20
    del block
    blocks.trim(keep=8 << 20)
    assert blocks.held == 8 << 20
    blocks.trim()
    assert blocks.held == 0


def test_threads_never_have_the_same_block():
    """Nor does one get lost, with a thread that trims while others take and drop."""
    blocks = Blocks()
    grown(blocks, 1 << 16)
    owners: dict[tuple[int, int], int] = {}
    wrong: list[object] = []
    stop = threading.Event()

    def work(me: int) -> None:
        for _ in range(5000):
            block = blocks.take(1 << 16)
            if block is None:
                continue
            key = (block.arena.number, block.offset)
            if owners.setdefault(key, me) != me:
                wrong.append(key)
            if owners.pop(key, None) != me:
                wrong.append(key)
            del block

    def trim() -> None:
        while not stop.is_set():
            blocks.trim(keep=0)
            if not blocks.held:
                grown(blocks, 1 << 16)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    trimmer = threading.Thread(target=trim)
    for thread in [*threads, trimmer]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    trimmer.join()
    assert not wrong
    blocks.check()
    blocks.trim()
    assert blocks.held == 0


class Borrowing(RuleBasedStateMachine):
    """What is taken never overlaps, whatever is dropped, tainted, grown and trimmed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks()
        self.arenas: dict[int, tuple[int, int]] = {}  # number -> block, count
        self.held: list[Block] = []
        self.tainted: set[tuple[int, int]] = set()
        self.retired: set[int] = set()

    @rule(size=st.integers(1, 1 << 18), room=st.sampled_from([0, 1 << 20, 1 << 40]))
    def take(self, size: int, room: int) -> None:
        block = self.blocks.take(size)
        if block is None:
            length, count = self.blocks.plan(size, room)
            if not count:
                return
            arena = Arena(self.blocks.next_number(), length, count, self.blocks.sizes())
            self.arenas[arena.number] = length, count
            self.blocks.add(arena)
            block = self.blocks.take(size)
            assert block is not None
        assert block.arena.block >= size
        assert block.arena.number not in self.retired
        mine = block.arena.number, block.offset
        assert mine not in self.tainted
        assert mine not in {(b.arena.number, b.offset) for b in self.held}
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def drop(self, which: int) -> None:
        self.held.pop(which % len(self.held))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def taint(self, which: int) -> None:
        block = self.held[which % len(self.held)]
        block.taint()
        self.tainted.add((block.arena.number, block.offset))
        self.retired.add(block.arena.number)

    @rule(keep=st.sampled_from([0, 1 << 20]))
    def trim(self, keep: int) -> None:
        self.blocks.trim(keep)

    @invariant()
    def holds(self) -> None:
        self.blocks.check()
        alive = {block.arena.number for block in self.held}
        assert alive <= set(self.blocks.sizes())

    def teardown(self) -> None:
        self.held.clear()
        self.blocks.trim()
        assert self.blocks.held == 0
        self.blocks.clear()


TestBorrowing = Borrowing.TestCase
