"""Shared memory for large buffers: lending, borrowing, giving back, and what may go wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import resource
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookpool import _borrowed, _buffers
from hookpool._buffers import (
    READ_ONLY,
    SHARED,
    THRESHOLD,
    Borrowed,
    Exchange,
    Lender,
    loads_again,
    socket_pair,
)

pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

SIZE = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


class Pair:
    """Two exchanges in one process: each end maps the other's memory, as if it were another's."""

    def __init__(self, limit: int | None = None, threshold: int = THRESHOLD) -> None:
        self.lender = Lender(limit, threshold)
        ours, theirs = socket_pair()
        self.a = Exchange(ours, self.lender)
        self.b = Exchange(theirs, Lender())

    def carry(self, obj: Any, *, shared: bool = False, mode: int = 0) -> Borrowed:
        return self.b.borrow(self.a.lend(parcel(self.lender, obj, shared=shared, mode=mode)))

    def settle(self) -> None:
        """Have each side hear what the other has to say."""
        self.a.heard(self.b.news())
        self.b.heard(self.a.news())

    def close(self) -> None:
        for exchange in (self.a, self.b):
            exchange.close()
            exchange.lender.close()


def parcel(lender: Lender, obj: Any, *, shared: bool = False, mode: int = 0) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    return lender.parcel((data,), buffers, SHARED if shared else mode)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


class Data:
    """Something with a large buffer, which is `memoryview` when it arrives."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __reduce_ex__(self, protocol: int) -> Any:
        return Data, (pickle.PickleBuffer(self.raw),)


def data(fill: int, size: int = SIZE) -> Data:
    return Data(bytearray(bytes([fill]) * size))


def is_all(raw: Any, fill: int) -> bool:
    return bytes(raw) == bytes([fill]) * len(raw)


def fds() -> set[int]:
    return set(map(int, os.listdir("/proc/self/fd")))


def test_what_arrives_is_equal_and_writable(pair: Pair):
    arrived = pair.carry([data(1), data(2, 3 * SIZE + 17)]).load_once()
    assert is_all(arrived[0].raw, 1)
    assert is_all(arrived[1].raw, 2)
    assert len(arrived[1].raw) == 3 * SIZE + 17
    arrived[0].raw[0] = 7
    assert arrived[0].raw[0] == 7


def test_the_sender_keeps_its_own(pair: Pair):
    original = data(1)
    arrived = pair.carry(original).load_once()
    arrived.raw[:] = bytes(SIZE)
    assert is_all(original.raw, 1)
    original.raw[:] = bytes([9]) * SIZE
    assert is_all(arrived.raw, 0)


def test_a_large_pickle_travels_as_a_buffer(pair: Pair):
    rows = {str(n): n for n in range(20000)}
    row = pair.a.lend(parcel(pair.lender, rows))
    assert len(row) < 100
    assert pair.b.borrow(row).load_once() == rows
    assert pair.b.news()


def test_what_was_loaded_and_lost_to_an_interrupt_can_be_loaded_again(pair: Pair):
    arrived = pair.carry(data(1))

    assert is_all(loads_again(arrived).raw, 1)
    assert is_all(loads_again(arrived).raw, 1)


def test_memory_is_used_again_once_the_last_view_is_gone(pair: Pair):
    arrived = pair.carry(data(1)).load_once()
    held = pair.lender.held
    piece = arrived.raw[10:20].cast("B")[2:5]
    del arrived
    pair.settle()
    for n in range(50):  # whatever is lent now does not touch the slice
        pair.carry(data(2 + n)).load_once()
        pair.settle()
    assert bytes(piece) == b"\1\1\1"
    assert pair.lender.held == held
    del piece
    pair.settle()
    kept = [pair.carry(data(3)).load_once() for _ in range(8)]
    pair.settle()
    assert pair.lender.held == held
    assert all(is_all(one.raw, 3) for one in kept)


def test_an_array_keeps_its_memory(pair: Pair):
    numpy = pytest.importorskip("numpy")
    arrived = pair.carry(numpy.arange(1 << 17)).load_once()
    corner = arrived.reshape(1 << 7, 1 << 10)[::2, 5:7].T
    expected = corner.copy()
    del arrived
    for n in range(20):
        pair.carry(data(n)).load_once()
        pair.settle()
    assert (corner == expected).all()


def test_the_memory_of_free_slots_goes_back_though_one_beside_them_is_kept(pair: Pair):
    kept = pair.carry(data(1)).load_once()
    more = [pair.carry(data(n)).load_once() for n in range(2, 6)]
    [[arena]] = pair.lender._slots.arenas.values()
    assert memory_of_file(arena.fd) == arena.size == 8 * SIZE
    del more
    pair.settle()

    pair.lender.trim()
    assert memory_of_file(arena.fd) == SIZE

    later = [pair.carry(data(n)).load_once() for n in range(6, 9)]
    assert memory_of_file(arena.fd) == 4 * SIZE
    assert all(is_all(one.raw, n) for n, one in enumerate(later, 6))
    assert is_all(kept.raw, 1)


def memory_of_file(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_what_is_not_loaded_is_given_back(pair: Pair):
    borrowed = pair.carry([data(1), data(2)])
    assert not pair.b.news()
    del borrowed
    pair.settle()
    pair.lender.trim()
    assert pair.lender.held == 0


def test_a_parcel_taken_back_is_lent_again(pair: Pair):
    """It was sent, but its borrower never looked at it; then it is sent again."""
    package = parcel(pair.lender, data(5))
    unread = pair.a.lend(package)
    held = pair.lender.held
    arrived = pair.b.borrow(pair.a.lend(package)).load_once()
    assert pair.lender.held == held
    del package
    pair.b.refuse(unread)
    pair.settle()
    assert is_all(pair.carry(data(6)).load_once().raw, 6)
    assert is_all(arrived.raw, 5)
    del arrived
    pair.settle()
    pair.lender.trim()
    assert pair.lender.held == 0


def test_several_holders_do_not_see_each_others_writes(pair: Pair):
    package = parcel(pair.lender, data(4), shared=True)
    borrowed = pair.b.borrow(pair.a.lend(package))
    first, second = borrowed.loads(), pair.b.borrow(pair.a.lend(package)).load_once()
    third = borrowed.load_once()
    third.raw[5] = 99
    first.raw[:] = bytes(SIZE)
    second.raw[0] = 9
    assert is_all(first.raw, 0)
    assert is_all(second.raw[1:], 4)
    assert is_all(pair.b.borrow(package.inline()).load_once().raw, 4)
    del first, second, package
    pair.settle()
    assert pair.a._lent  # as long as the third lives
    del third, borrowed
    pair.settle()
    assert not pair.a._lent


def test_over_the_limit_the_row_carries_the_data():
    pair = Pair(limit=3 * SIZE)
    kept = [pair.carry(data(n)).load_once() for n in range(10)]
    assert 0 < pair.lender.held <= 3 * SIZE
    assert all(is_all(one.raw, n) for n, one in enumerate(kept))
    for one in kept:
        one.raw[5] = 77  # writable, too
    pair.close()


def test_threads_stay_below_the_limit_together():
    pair = Pair(limit=20 * SIZE)
    most = 0

    def work() -> None:
        nonlocal most
        kept = []
        for n in range(30):
            kept.append(parcel(pair.lender, data(n)))
            most = max(most, pair.lender.held)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Between its making and the second look, each thread may have one arena too many.
    assert most <= 20 * SIZE + 4 * 8 * SIZE
    gc.collect()
    assert pair.lender.held <= 20 * SIZE
    pair.close()


def test_memory_nobody_can_use_any_more_goes_back(pair: Pair):
    """The borrower unmaps an arena when it hears that the arena is gone; not before."""
    before = fds()
    arrived = pair.carry(data(1, 64 * SIZE)).load_once()
    pair.lender.trim()
    pair.settle()
    assert is_all(arrived.raw[:100], 1)
    assert is_mapped()
    del arrived
    pair.settle()
    pair.lender.trim()
    pair.settle()
    assert pair.lender.held == 0
    assert not is_mapped()
    assert fds() == before


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("is_back", [False, True], ids=["argument", "result"])
def test_an_arena_that_did_not_arrive_is_sent_again(pair: Pair, is_back: bool):
    one, other = (pair.b, pair.a) if is_back else (pair.a, pair.b)
    first, second = (parcel(one.lender, data(n)) for n in (1, 2))  # in one arena
    assert first.arenas() == second.arenas()
    with no_more_descriptors():
        lost = other.borrow(one.lend(first))
    with pytest.raises(OSError, match="limit of open files"):
        lost.load_once()
    assert lost.is_lost()
    assert other.is_urgent()
    pair.settle()
    assert is_all(other.borrow(one.lend(second)).load_once().raw, 2)
    assert not other.is_urgent()


def test_what_is_known_of_arenas_that_are_gone_does_not_grow(pair: Pair):
    for n in range(20):
        pair.carry(data(n)).load_once()
        pair.settle()
        pair.lender.trim()
        pair.settle()
    assert not pair.lender.held
    assert len(pair.lender.gone) == 1
    assert not pair.a._known
    assert not pair.b._arenas


def test_a_dead_borrower_does_not_have_memory_live_as_long_as_a_handle(pair: Pair):
    handle = parcel(pair.lender, data(1, SIZE), shared=True)
    of_task = pair.carry(data(2, SIZE)).load_once()
    kept = pair.lender.held
    pair.a.close()  # the borrower died
    pair.lender.trim()
    assert pair.lender.held < kept
    assert is_all(handle.view(1), 1)
    del of_task


def is_mapped() -> bool:
    """Does this process map any of our memory? By its name: a clone is called hookpool, too."""
    with open("/proc/self/maps") as file:
        return "memfd:hookpool" in file.read()


def test_a_view_outlives_both_ends():
    pair = Pair()
    arrived = pair.carry(data(3)).load_once()
    pair.close()
    pair.lender.close()
    del pair
    gc.collect()
    assert is_all(arrived.raw, 3)
    arrived.raw[0] = 1
    del arrived
    assert not is_mapped()


def test_a_view_that_outlives_both_ends_is_copied_by_a_fork():
    pair = Pair()
    arrived = pair.carry(data(3)).load_once()
    arrived.raw[0] = 4
    pair.close()
    status(forked(lambda: arrived.raw.__setitem__(slice(None), bytes(SIZE))))
    assert arrived.raw[0] == 4
    assert is_all(arrived.raw[1:], 3)


def test_what_a_dead_borrower_had_is_never_written_again():
    pair = Pair()
    arrived = pair.carry(data(1)).load_once()  # stands for what a child of the dead one still has
    pair.a.close()
    other = Pair()
    other.lender, lender = pair.lender, other.lender
    other.a.lender = pair.lender
    for n in range(20):
        other.carry(data(50 + n)).load_once()
        other.settle()
    assert is_all(arrived.raw, 1)
    del arrived, lender
    pair.b.close()
    pair.lender.trim()
    other.settle()
    other.close()


def test_the_memory_cannot_be_made_smaller_and_is_the_users_alone(pair: Pair):
    arrived = pair.carry(data(1)).load_once()
    [arena] = pair.b._arenas.values()
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    assert os.fstat(arena.fd).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(arena.fd)
    assert os.fstat(arena.fd).st_blocks * 512 >= arena.size  # reserved, all of it
    del arrived


def test_descriptors_grow_with_arenas_not_with_arrays(pair: Pair):
    before = len(fds())
    kept = [pair.carry(data(n % 256, THRESHOLD)).load_once() for n in range(2000)]
    assert len(fds()) - before < 100  # four for each arena here, where both ends are
    assert all(is_all(one.raw, n % 256) for n, one in enumerate(kept))


def test_without_descriptors_the_pipe_takes_it(pair: Pair):
    with no_more_descriptors():
        row = pair.a.lend(parcel(pair.lender, data(8)))
    assert len(row) > SIZE
    assert is_all(pair.b.borrow(row).load_once().raw, 8)


def test_a_socket_that_takes_no_more_is_no_error(pair: Pair):
    pair.b._socket.close()
    row = pair.a.lend(parcel(pair.lender, data(8)))
    assert len(row) > SIZE


def test_a_receiver_without_descriptors_says_so_and_gives_everything_back(pair: Pair):
    row = pair.a.lend(parcel(pair.lender, [data(8), data(9)]))
    with no_more_descriptors():
        borrowed = pair.b.borrow(row)
    with pytest.raises(OSError, match="ulimit"):
        borrowed.load_once()
    pair.settle()
    pair.lender.trim()
    assert pair.lender.held == 0


# -- a lender that is gone ----------------------------------------------------------------------


def blocks(pair: Pair) -> int:
    """Bytes that the arenas take of which anything is in use here; the others go with the end."""
    arenas = {arena for arena, _, _ in pair.b._borrowed.values()}
    return sum(os.fstat(arena.fd).st_blocks * 512 for arena in arenas)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 40 * PAGE]),
            st.sampled_from(["dropped", "kept", "written", "sliced", "not loaded"]),
            st.sampled_from([0, SHARED, READ_ONLY]),
        ),
        max_size=30,
    )
)
@settings(deadline=None)
def test_of_a_dead_lender_only_what_is_kept_takes_memory_and_all_of_that_stays(things: Any):
    pair = Pair(threshold=1)
    kept: list[tuple[Any, int, int]] = []
    late: list[tuple[Borrowed, int, int]] = []
    most = 0
    for fill, (size, fate, mode) in enumerate(things, 1):
        arrived = pair.carry(data(fill, size), mode=mode)
        if fate == "dropped":
            continue
        most += -(-size // PAGE) * PAGE + PAGE  # of its pickle
        if fate == "not loaded":
            late.append((arrived, fill, size))
            continue
        raw = arrived.load_once().raw
        if fate == "written" and not memoryview(raw).readonly:
            raw[:] = bytes([fill + 100]) * size
            kept.append((raw, fill + 100, size))
        else:
            raw = raw[size // 2 :] if fate == "sliced" else raw
            kept.append((raw, fill, size - (size // 2 if fate == "sliced" else 0)))
    arrived = raw = None

    pair.b.reclaim()
    assert blocks(pair) <= most
    pair.close()

    kept += [(one.load_once().raw, fill, size) for one, fill, size in late]
    for raw, fill, size in kept:
        assert len(raw) == size
        assert is_all(raw, fill)
        if not memoryview(raw).readonly:
            raw[:] = bytes(size)  # the pages are there


def test_what_a_forked_child_has_of_a_dead_lender_stays_in_memory(pair: Pair):
    """The parent has given it back, and what it still has is in the same arena."""
    kept = pair.carry(data(1)).load_once()
    dropped = pair.carry(data(2)).load_once()
    r, w = os.pipe()
    both = [kept, dropped]
    child = forked(lambda: os.read(r, 1) and is_all(both[0].raw, 1) and is_all(both[1].raw, 2))
    both.clear()
    del dropped
    pair.b.reclaim()
    os.write(w, b"x")
    os.close(r)
    os.close(w)
    assert status(child) == 0
    assert is_all(kept.raw, 1)


def test_what_came_and_went_during_a_fork_stays_in_memory():
    """The child may have it."""
    pair = Pair()
    _buffers._before_fork()
    kept = pair.carry(data(1)).load_once()
    pair.carry(data(2)).load_once()
    before = blocks(pair)
    pair.b.reclaim()
    assert blocks(pair) == before
    _buffers._after_fork_in_parent()
    pair.b.reclaim()
    assert blocks(pair) == before
    pair.close()
    assert is_all(kept.raw, 1)


def test_what_was_there_only_during_a_fork_stays_in_memory_also_beside_what_came_later():
    """Of that arena nothing was in use when the fork ended, so that it was not made private."""
    pair = Pair()
    _buffers._before_fork()
    pair.carry(data(2)).load_once()
    pair.b.news()  # it is known that it has ended, and not told yet
    _buffers._after_fork_in_parent()
    kept = pair.carry(data(1)).load_once()
    before = blocks(pair)
    assert before > SIZE
    pair.b.reclaim()
    assert blocks(pair) == before
    pair.close()
    assert is_all(kept.raw, 1)


def test_memory_that_came_after_a_fork_is_given_back(pair: Pair):
    assert status(forked(lambda: True)) == 0
    kept = pair.carry(data(1)).load_once()
    pair.b.reclaim()
    assert SIZE <= blocks(pair) < 2 * SIZE
    assert is_all(kept.raw, 1)


# -- forks --------------------------------------------------------------------------------------


def forked(task: Any) -> int:
    """Run the task in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if task() else 1)
        finally:
            os._exit(2)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_who_has_left_in_a_fork_closes_nothing_when_the_last_of_what_was_borrowed_goes(pair: Pair):
    """The descriptor that was the socket's is somebody else's by then."""
    kept = [pair.carry(data(1)).load_once()]

    def child() -> bool:
        number = pair.b._socket.fileno()
        pair.b.leave()
        pair.__dict__.clear()
        r, _ = os.pipe()
        os.dup2(r, number)
        same = is_all(kept.pop().raw, 1)
        gc.collect()
        os.fstat(number)
        return same

    assert status(forked(child)) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_parent_and_child_of_a_fork_have_copies(pair: Pair, shared: bool):
    arrived = pair.carry(data(1), shared=shared).load_once()
    arrived.raw[0] = 50
    their_turn, our_turn = os.pipe(), os.pipe()

    def child() -> bool:
        os.read(their_turn[0], 1)  # the parent has written, and reused what it could
        ok = arrived.raw[0] == 50 and is_all(arrived.raw[1:], 1)
        arrived.raw[:] = bytes([77]) * SIZE
        os.write(our_turn[1], b"x")
        return ok

    pid = forked(child)
    arrived.raw[:] = bytes([2]) * SIZE
    os.write(their_turn[1], b"x")
    os.read(our_turn[0], 1)
    assert is_all(arrived.raw, 2)
    assert status(pid) == 0
    for fd in (*their_turn, *our_turn):
        os.close(fd)


def test_a_child_sees_no_reuse(pair: Pair):
    """The parent of the fork gives back what its child still looks at."""
    arrived = pair.carry(data(1)).load_once()
    go = os.pipe()
    pid = forked(lambda kept=arrived: os.read(go[0], 1) and is_all(kept.raw, 1))
    del arrived
    pair.settle()
    for n in range(20):
        pair.carry(data(100 + n)).load_once()
        pair.settle()
    os.write(go[1], b"x")
    assert status(pid) == 0
    for fd in go:
        os.close(fd)


def test_after_a_fork_warm_memory_is_used_again(pair: Pair):
    arrived = pair.carry(data(1)).load_once()
    assert status(forked(lambda: True)) == 0
    del arrived
    pair.settle()
    for _ in range(5):
        pair.carry(data(2)).load_once()
        pair.settle()
    assert pair.lender.held == 8 * SIZE


def arena_of_next(pair: Pair) -> int:
    return next(iter(parcel(pair.lender, data(0)).arenas())).number


def test_what_is_lent_in_a_forked_arena_later_is_right_and_the_last(pair: Pair):
    kept, free = pair.carry(data(1)).load_once(), pair.carry(data(2)).load_once()
    free.raw[:] = bytes([22]) * SIZE
    del free
    pair.settle()
    assert status(forked(lambda: True)) == 0
    shared = arena_of_next(pair)
    for n in range(3, 6):
        arrived = pair.carry(data(n)).load_once()
        assert is_all(arrived.raw, n)
        arrived.raw[:] = bytes([99]) * SIZE
        del arrived
        pair.settle()
        assert arena_of_next(pair) != shared
    assert is_all(kept.raw, 1)


def test_what_ends_while_a_fork_makes_memory_private_is_not_lost_track_of(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
):
    """Another thread drops it, and its memory is lent anew."""
    kept, dropped = pair.carry(data(1)).load_once(), [pair.carry(data(2)).load_once()]
    anew = []
    isolate = _buffers.Mapped.isolate

    def isolate_late(arena: Any) -> None:
        if dropped:
            dropped.clear()
            pair.settle()
            anew.append(pair.carry(data(3)).load_once())
        isolate(arena)

    monkeypatch.setattr(_buffers.Mapped, "isolate", isolate_late)
    assert status(forked(lambda: True)) == 0
    assert is_all(anew[0].raw, 3)
    anew[0].raw[:] = bytes([99]) * SIZE
    anew.clear()
    pair.settle()
    for n in range(10):
        assert is_all(pair.carry(data(n)).load_once().raw, n)
        pair.settle()
    assert is_all(kept.raw, 1)


def test_what_comes_and_goes_during_a_fork_is_not_written_again(pair: Pair):
    _buffers._before_fork()
    during = arena_of_next(pair)
    pair.carry(data(1)).load_once()
    pair.settle()
    _buffers._after_fork_in_parent()
    assert arena_of_next(pair) != during


def test_many_small_ones_take_few_mappings(pair: Pair):
    arrived = [pair.carry(data(n % 100, 70_000)).load_once() for n in range(400)][::2]
    with open("/proc/self/maps") as file:
        before = len(list(file))
    kept = list(enumerate(arrived))
    assert status(forked(lambda: all(is_all(one.raw, 2 * n % 100) for n, one in kept))) == 0
    with open("/proc/self/maps") as file:
        assert len(list(file)) < before + 20


def test_what_cannot_be_made_private_stays_and_ends_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
):
    small, large = pair.carry(data(1)).load_once(), pair.carry(data(2, 20 * SIZE)).load_once()
    failures = [OSError(12, "no more mappings")]
    map_it = _borrowed._map

    def map_seldom(*args: Any) -> int:
        if failures:
            raise failures.pop()
        return map_it(*args)

    monkeypatch.setattr(_borrowed, "_map", map_seldom)
    assert len(pair.b.isolate()) == 1  # and the other one is
    failures.append(OSError(12, "no more mappings"))
    pair.close()
    assert not failures
    assert is_all(small.raw, 1)
    assert is_all(large.raw, 2)


def test_a_child_lends_nothing(pair: Pair):
    arrived = pair.carry(data(1)).load_once()
    assert status(forked(lambda: len(pair.a.lend(parcel(pair.lender, data(2)))) > SIZE)) == 0
    assert is_all(arrived.raw, 1)


def test_a_killed_lender_leaves_what_it_lent():
    """And the memory goes when the borrower drops it: it has no name."""
    ours, theirs = socket_pair()
    rows, writes = os.pipe()

    def lend_and_die() -> None:
        lender = Lender()
        os.write(writes, Exchange(theirs, lender).lend(parcel(lender, data(6))))
        os.kill(os.getpid(), signal.SIGKILL)

    pid = forked(lend_and_die)
    os.close(theirs)
    exchange = Exchange(ours, Lender())
    row = os.read(rows, 10000)
    assert status(pid) == -signal.SIGKILL
    arrived = exchange.borrow(row).load_once()
    assert is_all(arrived.raw, 6)
    exchange.close()
    assert is_all(arrived.raw, 6)
    del arrived
    assert not is_mapped()
    os.close(rows)
    os.close(writes)


# -- all at once --------------------------------------------------------------------------------


def test_nothing_that_is_kept_ever_changes():
    """Threads borrow, keep, slice, drop, and taint at random; each looks at all it has."""
    pair = Pair(limit=64 * SIZE)
    lock = threading.Lock()
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        kept: list[tuple[Any, int]] = []
        for n in range(300):
            fill = (seed * 97 + n) % 251
            size = rng.choice([THRESHOLD, THRESHOLD + 1, SIZE // 3, SIZE])
            package = parcel(pair.lender, data(fill, size), shared=rng.random() < 0.2)
            with lock:
                row = pair.a.lend(package)
                borrowed = pair.b.borrow(row)
            del package
            raw = borrowed.load_once().raw
            if rng.random() < 0.5:
                raw[:] = bytes([fill]) * size
            if rng.random() < 0.3:
                raw = raw[size // 2 :]
            kept.append((raw, fill))
            del raw, borrowed
            if len(kept) > 12:
                kept.pop(rng.randrange(len(kept)))
            raw, fill = rng.choice(kept)
            if not is_all(raw, fill):
                wrong.append((seed, n))
            del raw
            if rng.random() < 0.4:
                with lock:
                    pair.settle()
        wrong.extend((seed, "end") for raw, fill in kept if not is_all(raw, fill))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    pair.settle()
    assert not pair.a._lent
    pair.lender.trim()
    assert pair.lender.held == 0
    pair.close()
