"""Programs with closed standard streams: nothing of ours gets their numbers."""

from __future__ import annotations

import errno
import fcntl as stdlib
import os
import threading
from itertools import chain, combinations

import pytest

from hookpool import _launch, _streams
from hookpool._rebound import Overlay
from tests.helpers import run_python
from tests.launching import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="about how POSIX numbers files")

SUBSETS = list(chain.from_iterable(combinations((0, 1, 2), size) for size in (1, 2, 3)))

#: In a program that was started like this, not only one that closes them, `sys.stdin` is None.
START_AGAIN = "os.execl(sys.executable, sys.executable, '-c', {program!r})"

CLOSE = """
import os, sys
for fd in {fds}:
    os.close(fd)
{then}
"""

PROGRAM = """
import multiprocessing, os, hookpool
context = multiprocessing.get_context("hookpool")

def process():
    for number in range(2):
        process = context.Process(target=lambda: os.write(1, b"noise") and exit(3), daemon=True)
        process.start()
        process.join()
        assert process.exitcode == 3

def queue():
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(lambda: 42))
    process.start()
    assert queue.get()() == 42
    process.join()

def pool():
    with context.Pool(1) as pool:
        assert pool.apply(lambda: 42) == 42
        pool.close()
        pool.join()

def executor():
    with hookpool.HookPoolExecutor(1) as executor:
        assert executor.submit(os.write, 1, b"noise").result() == 5
        assert executor.submit(len, bytes(1 << 20)).result() == 1 << 20
"""


@pytest.mark.parametrize("from_the_start", [False, True])
@pytest.mark.parametrize("fds", SUBSETS)
def test_everything_works_with_closed_streams(fds: tuple[int, ...], from_the_start: bool) -> None:
    """In one order and in the other: what comes first finds the numbers free."""
    for order in ("process(); queue(); pool(); executor()", "pool(); executor(); queue()"):
        program = PROGRAM + order
        then = START_AGAIN.format(program=program) if from_the_start else program
        run_python("-c", CLOSE.format(fds=fds, then=then))


SPAWNED = """
from hookpool import _launch
_launch.HAVE_FORK_SERVER = False
process()
"""


@pytest.mark.parametrize("fds", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_spawned_children_write_to_nothing_of_ours(fds: tuple[int, ...]) -> None:
    run_python("-c", CLOSE.format(fds=fds, then=PROGRAM + SPAWNED))


OWNER_WRITES = """
import errno, hookpool
with hookpool.HookPoolExecutor(1) as pool:
    def write(data):
        for fd in (0, 1):
            try:
                os.write(fd, data)
            except OSError as exc:
                assert exc.errno in (errno.EBADF, errno.EINVAL), exc
            else:
                raise AssertionError(os.readlink(f"/proc/self/fd/{fd}"))
    write(b"noise")
    assert pool.submit(lambda x: x + 1, 41).result() == 42
    write(b"noise")
    assert pool.submit(len, bytes(1 << 20)).result() == 1 << 20
"""


def test_what_the_owner_prints_goes_into_no_channel() -> None:
    run_python("-c", CLOSE.format(fds=(0, 1), then=OWNER_WRITES))


OTHER_FILE = """
import os
from tests.launching import in_child
def outputs():
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)]
before = in_child(outputs)
keep = os.dup(1)
os.close(1)
reader, writer = os.pipe()  # one of them is 1
assert 1 in (reader, writer)
assert in_child(outputs) == ["/dev/null", before[1]]
os.dup2(keep, 1)
assert in_child(outputs) == before
"""


@pytest.mark.skipif(not _launch.HAVE_FORK_SERVER, reason="about the fork server")
def test_another_file_under_the_number_of_a_stream_is_not_given_to_children() -> None:
    """As it would not be if they were started by `exec`: they would keep a pipe open, say."""
    run_python("-c", OTHER_FILE)


def low_numbers() -> list[int]:
    """How numbers are given out, in a process that has its standard streams closed."""
    for fd in range(3):
        os.close(fd)
    spoilt = [fd for fd in _streams.pipe() if fd <= 2]
    spoilt += [end.fileno() for end in _streams.socket_pair(1) if end.fileno() <= 2]
    with _streams.filled():
        spoilt += [fd for fd in os.pipe() if fd <= 2]
    return spoilt + sorted(_streams.fill())


def test_nothing_gets_a_number_of_a_stream() -> None:
    assert in_child(low_numbers) == [0, 1, 2]


def two_that_count_on_it() -> list[int]:
    """What is free while one of two threads still counts on it, and afterwards."""
    for fd in range(3):
        os.close(fd)

    def come_and_go() -> None:
        with _streams.filled():
            pass

    with _streams.filled():
        other = threading.Thread(target=come_and_go, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), "whoever fills the streams keeps others waiting"
        spoilt = [fd for fd in os.pipe() if fd <= 2]
    return spoilt + sorted(_streams.fill())


def test_threads_that_start_processes_do_not_wait_for_each_other() -> None:
    assert in_child(two_that_count_on_it) == [0, 1, 2]


def no_room_for(moves: int) -> list[str]:
    """What is open before and after, where so many descriptors can be moved and no more."""
    for fd in range(3):
        os.close(fd)
    room = iter(range(moves))

    def fcntl(fd: int, what: int, arg: int) -> int:
        if next(room, None) is None:
            raise OSError(errno.EMFILE, "no room")
        return stdlib.fcntl(fd, what, arg)

    _streams.fcntl = Overlay(stdlib, fcntl=fcntl)  # type: ignore[assignment]
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no room"):
        _streams.pipe()
    return sorted({*before} ^ {*os.listdir("/proc/self/fd")})


@pytest.mark.parametrize("moves", [0, 1])
def test_where_there_is_no_room_nothing_stays_open(moves: int) -> None:
    assert in_child(no_room_for, moves) == []
