"""Whether a task that was sent has been started: told at any moment, and after a death.

Owns the two things that an owner and a worker share for that.  Knows neither messages nor who
decides what.

*Tokens.*  For each task that is sent a token, one byte, goes into a pipe.  The worker takes tokens
before it starts tasks, always for the oldest that have none; the owner takes some to have tasks
back, always for the newest.  A read from a pipe is atomic, so no token is ever had by both.  The
worker takes those of tiny tasks several at a time: a system call for each would cost more than the
task.  What it does not use within a moment it puts back, since the task that runs may be longer
than thought, and may even wait for one behind it.

*A word.*  Before a task is started its number is written to memory that both have mapped.  That
outlives the worker, so it is known which tasks its death concerns.  A second word says what is
being done for the task.

Threads of the worker: the main thread takes tokens and uses them, another one puts them back.
Each use and each putting back is one `deque.pop`; a lock is around what touches the pipe, or the
main thread could find none left there while the other one holds some in its hand.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from collections import deque
from enum import IntEnum
from itertools import repeat
from time import perf_counter

from hookpool._streams import away, filled

# Tasks are claimed together as far as they take no longer than this together, in seconds.  A claim
# costs half a microsecond; more than this would only make cancelling and taking back less exact.
TOGETHER_SECONDS = 20e-6
#: The most that are.
MOST_TOGETHER = 32
# Tokens that have not been used for so long are put back, in seconds: far more than they last.
UNUSED_SECONDS = 0.001

# Workers that a board has room for: more processes than any system runs for one user.
_SLOTS = 8192
_WORDS = 2
_SIZE = _SLOTS * _WORDS * 8
_TOKENS = bytes(4096)


class Doing(IntEnum):
    """What a worker does for the task it has started last."""

    RUNNING = 0
    LOADING = 1  # rebuilds the arguments
    DUMPING = 2  # pickles the result
    SENDING = 3  # writes the result
    NOTHING = 4  # is through with it; the result may still wait for company


def doing(word: int) -> Doing:
    """What that word says; RUNNING for what no worker of ours has written there."""
    return Doing(word) if word in _DOINGS else Doing.RUNNING


_DOINGS = frozenset(map(int, Doing))


class Board:
    """The owner's memory for the words of all its workers; each has a slot."""

    def __init__(self) -> None:
        #: A file without a name, for the workers to map.
        self.fd = _nameless_file(_SIZE)
        try:
            with filled():  # before Python 3.13 it holds a descriptor of its own
                memory = mmap.mmap(self.fd, _SIZE)
            self._words = memoryview(memory).cast("Q")
        except BaseException:
            os.close(self.fd)
            raise
        #: Slots that were given back, and the first that never was taken.
        self._free: deque[int] = deque()
        self._next = 0

    def take(self) -> tuple[int, memoryview]:
        """A slot for a new worker, and its words.

        Raises:
            OSError: there are more workers than a board has room for.
        """
        if self._free:
            slot = self._free.popleft()
        elif self._next < _SLOTS:
            slot = self._next
            self._next += 1
        else:
            raise OSError(f"a pool can have at most {_SLOTS} processes at a time")
        words = self._words[_WORDS * slot : _WORDS * (slot + 1)]
        words[0] = words[1] = 0
        return slot, words

    def give_back(self, slot: int) -> None:
        """The worker with this slot is gone."""
        self._free.append(slot)

    def close(self) -> None:
        """Give up the descriptor, and the memory unless some words are still had by somebody."""
        os.close(self.fd)
        self._words.release()


def _nameless_file(size: int) -> int:
    try:
        fd = away(os.memfd_create("pool-board"))
    except (AttributeError, OSError):  # no such call, or not allowed
        import tempfile  # seldom, and not cheap to import

        with tempfile.TemporaryFile() as file:
            fd = away(os.dup(file.fileno()))
    try:
        os.truncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def words_of(fd: int, slot: int) -> memoryview:
    """The words of a worker, in the worker; the descriptor is not needed any more afterwards."""
    page, at = divmod(8 * _WORDS * slot, mmap.PAGESIZE)
    memory = mmap.mmap(fd, mmap.PAGESIZE, offset=page * mmap.PAGESIZE)
    return memoryview(memory)[at : at + 8 * _WORDS].cast("Q")


# -- the pipe ----------------------------------------------------------------------------------


def new_pipe() -> int:
    """A pipe for tokens, both ends of it in one descriptor.

    Raises:
        OSError: there is no such thing here, no descriptor is left, or only short pipes are.
    """
    import fcntl  # not everywhere, and needed by the owner only

    inn, out = os.pipe()
    try:
        # Who has very many pipes gets short ones, in which a page may be full of spent tokens.
        if fcntl.fcntl(inn, fcntl.F_GETPIPE_SZ) < 2 * len(_TOKENS):
            raise OSError("a pipe for tokens has no room for those that a worker may hold")
        # Half the descriptors: a machine with many CPUs may have as many workers.
        return away(os.open(f"/proc/self/fd/{inn}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    finally:
        os.close(inn)
        os.close(out)


def are_possible() -> bool:
    """Whether tasks can be claimed here."""
    if sys.platform != "linux":
        return False
    try:
        os.close(new_pipe())
    except OSError:
        return False
    return True


def put(fd: int, tokens: int) -> None:
    """Put so many tokens in.  There is room: see `new_pipe`, and how many a worker may hold."""
    while tokens > 0:
        tokens -= os.write(fd, _TOKENS[:tokens])


def take(fd: int, most: int) -> int:
    """Take up to so many tokens and return how many."""
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while taken < most:
            taken += len(os.read(fd, most - taken))
    return taken


class Claims:
    """The worker's side.

    Args:
        fd: the pipe; None where there is none: a worker then has one task at a time.
        words: where the worker says what it does.
    """

    __slots__ = ("_fd", "_lock", "_most", "_since", "_together", "_tokens", "use", "words")

    def __init__(self, fd: int | None, words: memoryview | None = None) -> None:
        self._fd = fd
        #: The number of the last task started, plus one, and what is being done for it.
        self.words = memoryview(bytearray(8 * _WORDS)).cast("Q") if words is None else words
        #: Tokens taken and not used.
        self._tokens: deque[None] = deque()
        #: Use a token, if there is one here; else IndexError, and `claim` is to be asked.
        self.use = self._tokens.pop
        self._lock = threading.Lock()
        #: How many tasks are claimed together now, at most how many, and when that was last done.
        self._together = 1
        self._most = MOST_TOGETHER
        self._since = 0.0

    def close(self) -> None:
        """Give up the descriptor and the memory."""
        if self._fd is not None:
            os.close(self._fd)
        self.words.release()

    def begin_run(self) -> None:
        """Nothing is known of the next tasks: the first of them is claimed alone."""
        self._since = 0.0

    def take_one_by_one(self) -> None:
        """There is nobody who puts back what is not used: have nothing that is not."""
        self._together = self._most = 1
        self._since = 0.0
        self.put_back()

    def claim(self, here: int = 1) -> bool:
        """Whether the next task may be started; to be asked when there is no token to `use`.

        Args:
            here: how many tasks are here, that one included.  Some of them are claimed with it, if
                those before took no time.
        """
        if self._fd is None:
            return True
        now = perf_counter()
        took = now - self._since
        if took > TOGETHER_SECONDS:
            self._together = 1
        elif took * 2 < TOGETHER_SECONDS:
            self._together = min(2 * self._together, self._most)
        self._since = now
        with self._lock:
            try:
                taken = len(os.read(self._fd, min(self._together, here)))
            except BlockingIOError:
                return False
            self._tokens.extend(repeat(None, taken - 1))
        return True

    def has_unused(self) -> bool:
        """Whether there is, or may soon be, something to put back."""
        return bool(self._tokens)

    def put_back(self) -> None:
        """Put tokens back that have not been used for long; from any thread."""
        if self._fd is None or perf_counter() - self._since < UNUSED_SECONDS:
            return
        unused = 0
        with self._lock, contextlib.suppress(IndexError):
            try:
                while True:  # the main thread may use some of them meanwhile
                    self._tokens.pop()
                    unused += 1
            finally:
                put(self._fd, unused)
