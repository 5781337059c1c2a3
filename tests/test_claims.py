"""Whether a task was started: tokens that one side wins, and words that outlive a process."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import subprocess
import sys
import threading

import pytest

from hookpool import _claims, errors
from hookpool._claims import MOST_TOGETHER, Board, Claims, Doing, are_possible
from hookpool._scheduler import MOST_HELD
from hookpool.executor import HookPoolExecutor
from tests.helpers import wait_until

pytestmark = pytest.mark.skipif(not are_possible(), reason="there is no atomic claim here")


@pytest.fixture
def pipe():
    fd = _claims.new_pipe()
    yield fd
    os.close(fd)


@pytest.fixture
def board():
    board = Board()
    take, taken = board.take, []

    def noted():
        taken.append(take())
        return taken[-1]

    board.take = noted
    yield board
    for _, words in taken:
        words.release()
    board.close()


@pytest.fixture
def clock(monkeypatch):
    """The time as the claims see it, in a list of one that can be changed."""
    now = [1000.0]
    monkeypatch.setattr(_claims, "perf_counter", lambda: now[0])
    return now


def use(claims, here=1):
    """Start a task: whether there was a token, here or in the pipe."""
    try:
        claims.use()
    except IndexError:
        return claims.claim(here)
    return True


def test_each_token_is_had_by_one_side(pipe):
    _claims.put(pipe, 5)
    claims = Claims(pipe)

    assert use(claims)
    assert _claims.take(pipe, 3) == 3
    assert use(claims)
    assert not use(claims)
    assert _claims.take(pipe, 3) == 0


def test_as_many_tokens_as_a_worker_may_hold_fit(pipe):
    for _ in range(3):
        for _ in range(MOST_HELD):
            _claims.put(pipe, 1)
        assert _claims.take(pipe, 1 << 20) == MOST_HELD


def test_a_pipe_that_is_too_short_is_none(monkeypatch):
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command: 4096)
    before = len(os.listdir("/proc/self/fd"))

    assert not are_possible()
    assert len(os.listdir("/proc/self/fd")) == before


def test_tiny_tasks_are_claimed_together_more_and_more_of_them(pipe, clock):
    _claims.put(pipe, 200)
    claims = Claims(pipe)
    claims.begin_run()
    left = []
    for done in range(200):
        assert use(claims, 200 - done)
        left.append(_claims.take(pipe, 1 << 20))
        _claims.put(pipe, left[-1])

    together = [before - after for before, after in zip([200, *left], left, strict=False)]
    assert [count for count in together if count][:7] == [1, 2, 4, 8, 16, 32, 32]


def test_the_first_of_a_run_is_claimed_alone(pipe, clock):
    _claims.put(pipe, 100)
    claims = Claims(pipe)
    claims.begin_run()
    for _ in range(7):
        assert use(claims, 7)

    claims.begin_run()
    assert claims.claim(50)

    assert not claims.has_unused()


def test_longer_tasks_are_claimed_one_by_one(pipe, clock):
    _claims.put(pipe, 100)
    claims = Claims(pipe)
    for _ in range(20):
        assert use(claims, 50)
        clock[0] += 30e-6
        assert not claims.has_unused()


def test_no_more_is_claimed_than_is_here(pipe, clock):
    _claims.put(pipe, 100)
    claims = Claims(pipe)
    for here in (5, 4, 3, 2, 1):
        assert use(claims, here)

    assert not claims.has_unused()
    assert _claims.take(pipe, 1 << 20) == 95


def test_what_is_not_used_for_long_is_put_back(pipe, clock):
    _claims.put(pipe, 10)
    claims = Claims(pipe)
    for _ in range(4):
        assert use(claims, 10)  # 1, 2 and 4 of them
    assert claims.has_unused()

    claims.put_back()
    assert claims.has_unused()  # not yet
    clock[0] += 2 * _claims.UNUSED_SECONDS
    claims.put_back()

    assert not claims.has_unused()
    assert _claims.take(pipe, 1 << 20) == 6
    assert not use(claims)


def test_no_token_is_lost_or_doubled_while_some_are_put_back(pipe, monkeypatch):
    monkeypatch.setattr(_claims, "UNUSED_SECONDS", 0.0)
    monkeypatch.setattr(_claims, "TOGETHER_SECONDS", 1e9)
    tokens, used, stop = 4000, 0, threading.Event()
    _claims.put(pipe, tokens)
    claims = Claims(pipe)

    def put_back():
        while not stop.is_set():
            claims.put_back()

    other = threading.Thread(target=put_back)
    other.start()
    while use(claims, MOST_TOGETHER):
        used += 1
    stop.set()
    other.join()

    assert used == tokens


def test_where_nothing_can_be_claimed_every_task_may_start():
    claims = Claims(None)

    assert claims.claim()
    claims.put_back()
    claims.close()


def test_what_a_worker_says_is_on_the_board(board):
    (slot, words), (other_slot, other_words) = board.take(), board.take()
    theirs = _claims.words_of(board.fd, slot)

    theirs[0], theirs[1] = 1 << 63, Doing.LOADING

    assert list(words) == [1 << 63, Doing.LOADING]
    assert list(other_words) == [0, 0]
    assert slot != other_slot


def test_a_slot_is_taken_again_when_it_was_given_back_and_is_blank(board, monkeypatch):
    monkeypatch.setattr(_claims, "_SLOTS", 3)
    slots = [board.take()[0] for _ in range(3)]
    with pytest.raises(OSError, match="at most 3 processes"):
        board.take()
    _claims.words_of(board.fd, slots[1])[0] = 7

    board.give_back(slots[1])

    slot, words = board.take()
    assert (slot, words[0]) == (slots[1], 0)


def test_the_last_slot_of_a_page_and_the_first_of_the_next_are_two(board):
    slots = [board.take() for _ in range(300)]
    for slot, _ in slots:
        _claims.words_of(board.fd, slot)[0] = slot + 1

    assert [words[0] for _, words in slots] == list(range(1, 301))


def test_a_board_needs_no_memfd(monkeypatch):
    def denied(name):
        raise OSError(errno.EPERM, "denied")

    monkeypatch.setattr(os, "memfd_create", denied)
    board = Board()
    slot, words = board.take()

    _claims.words_of(board.fd, slot)[0] = 5

    assert words[0] == 5
    words.release()
    board.close()


def test_where_there_is_no_proc_nothing_is_claimed(monkeypatch):
    def missing(path, flags):
        raise FileNotFoundError(errno.ENOENT, path)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "open", missing)

    assert not are_possible()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_no_worker_of_ours_has_written_is_taken_for_running():
    assert _claims.doing(99) is Doing.RUNNING
    assert [_claims.doing(word) for word in Doing] == list(Doing)


def test_descriptors_are_given_up():
    before = sorted(os.listdir("/proc/self/fd"))
    board = Board()
    claims = Claims(_claims.new_pipe())

    claims.close()
    board.close()

    assert sorted(os.listdir("/proc/self/fd")) == before


# -- with a pool: one of many tiny tasks turns out not to be tiny --------------------------------

ODD = 100


@pytest.fixture
def gate(tmp_path):
    """A FIFO: who opens it to read waits until somebody opens it to write."""
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


def odd_one(n, path):
    if n == ODD:
        with open(path):
            pass
    return n


def open_gate(path):
    with open(path, "w"):
        pass


def waits_for_the_next(n, path):
    if n == ODD:
        with open(path):
            pass
    if n == ODD + 1:
        with open(path, "w"):
            pass
    return n


def test_a_tiny_task_that_waits_for_the_next_one_does_not_hold_it_up(gate):
    with HookPoolExecutor(2) as pool:
        list(pool.map(waits_for_the_next, range(ODD), [gate] * ODD))  # they are known to be tiny

        assert list(pool.map(waits_for_the_next, range(300), [gate] * 300)) == list(range(300))


def test_what_was_claimed_with_the_task_that_runs_is_neither_running_nor_past_cancelling(gate):
    with HookPoolExecutor(1) as pool:
        futures = [pool.submit(odd_one, n, gate) for n in range(300)]
        assert futures[ODD - 1].result(timeout=20) == ODD - 1
        wait_until(futures[ODD].running, 20)

        assert not any(future.running() for future in futures[ODD + 1 :])
        wait_until(lambda: all(future.cancel() for future in futures[ODD + 1 :]), 20)
        assert not futures[ODD].cancel()
        open_gate(gate)

        assert futures[ODD].result(timeout=20) == ODD


def test_shutdown_cancels_what_was_claimed_with_the_task_that_runs(gate):
    pool = HookPoolExecutor(1)
    futures = [pool.submit(odd_one, n, gate) for n in range(300)]
    assert futures[ODD - 1].result(timeout=20) == ODD - 1
    wait_until(futures[ODD].running, 20)

    pool.shutdown(wait=False, cancel_futures=True)

    wait_until(lambda: all(future.cancelled() for future in futures[ODD + 1 :]), 20)
    open_gate(gate)
    assert futures[ODD].result(timeout=20) == ODD
    pool.shutdown()


def dies_at_odd(n, path):
    with open(path, "ab", buffering=0) as log:
        log.write(b"%d\n" % n)
    if n == ODD:
        os._exit(3)
    return n


def test_a_death_concerns_what_was_started_and_nothing_behind_it(tmp_path):
    path = str(tmp_path / "log")
    with HookPoolExecutor(1) as pool:
        futures = [pool.submit(dies_at_odd, n, path) for n in range(300)]
        errors_ = [future.exception(timeout=20) for future in futures]

    assert type(errors_[ODD]) is errors.WorkerDied
    assert errors_[ODD].phase == "running"
    assert {type(error) for error in errors_[:ODD]} <= {type(None), errors.ResultLost}
    assert set(errors_[ODD + 1 :]) == {None}
    with open(path) as log:
        runs = [int(line) for line in log]
    assert sorted(runs) == list(range(300))


def test_two_tiny_tasks_of_which_one_waits_for_the_other_get_a_worker_each(gate):
    def waits(n):
        if n == 1:
            with open(gate):
                pass
        if n == 2:
            with open(gate, "w"):
                pass
        return n

    with HookPoolExecutor(2) as pool:
        for _ in range(20):  # known to be tiny, and one worker is enough for them
            assert pool.submit(waits, 0).result(timeout=20) == 0

        assert list(pool.map(waits, [1, 2], timeout=20)) == [1, 2]


def test_a_worker_that_wrote_nonsense_where_it_says_what_it_does_hurts_no_other():
    def scribble(pid):
        words = gc.get_objects()
        for one in words:
            if type(one) is Claims:
                one.words[1] = 99
        os._exit(3)

    with HookPoolExecutor(1) as pool:
        assert isinstance(pool.submit(scribble, 0).exception(timeout=20), errors.WorkerDied)
        assert pool.submit(abs, -7).result(timeout=20) == 7


FORKS = """
import multiprocessing, os, sys
from hookpool import HookPoolExecutor, errors

sys.others = others = [HookPoolExecutor(1) for _ in range(4)]
assert [pool.submit(abs, -1).result() for pool in others] == [1] * 4

def use(n):
    try:
        sys.others[n].submit(abs, -1)
    except errors.ForkedPool:
        return "refused"

with HookPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
    print(*pool.map(use, range(4)))
print(*[pool.submit(abs, -2).result(timeout=20) for pool in others])
for pool in others:
    pool.shutdown()
"""


def test_workers_that_are_forked_refuse_the_pools_of_their_parent_and_harm_none():
    """Also while one of them is being started, which has its place on the board by then."""
    out = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True
    )

    assert out.stdout.split() == ["refused"] * 4 + ["2"] * 4
    assert out.stderr == ""


def test_who_cannot_put_back_takes_one_by_one(pipe, clock):
    claims = Claims(pipe)
    _claims.put(pipe, 20)
    for _ in range(4):
        assert use(claims, 20)
    assert claims.has_unused()

    claims.take_one_by_one()

    assert not claims.has_unused()
    for _ in range(5):
        assert use(claims, 20)
        assert not claims.has_unused()
