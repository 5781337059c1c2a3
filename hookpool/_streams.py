"""The numbers of the standard streams, 0 to 2, which no descriptor of ours may have.

Where a program runs with closed standard streams, the next files that it opens get their numbers.
Whatever then writes to standard output (print, a C library, a child) writes into these; and a
child, which is given its streams, has overwritten what it needs. So what we open here is moved
away, and in the processes that we start none of the numbers is free.

Any thread may call.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

if sys.platform != "win32":
    import fcntl

__all__ = ["away", "fill", "filled", "pipe", "socket_pair"]

_LAST = 2


def away(fd: int) -> int:
    """The descriptor under a number that no standard stream has; it is closed where it moves."""
    if fd > _LAST or sys.platform == "win32":  # there numbers are each process's own affair
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LAST + 1)
    finally:
        os.close(fd)


def pipe() -> tuple[int, int]:
    """As `os.pipe`."""
    inn, out = os.pipe()
    return _both_away(inn, out)


def socket_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """As `socket.socketpair`, of sockets that wait, whatever the program's default timeout."""
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    if min(one.fileno(), other.fileno()) <= _LAST:
        fds = _both_away(one.detach(), other.detach())
        one, other = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
    one.setblocking(True)
    other.setblocking(True)
    return one, other


def _both_away(one: int, other: int) -> tuple[int, int]:
    if one > _LAST and other > _LAST:
        return one, other
    try:
        one = away(one)
    except BaseException:
        os.close(other)
        raise
    try:
        return one, away(other)
    except BaseException:
        os.close(one)
        raise


def fill() -> list[int]:
    """Put the null device where a standard stream is closed; the numbers that it has got."""
    closed: list[int] = []
    with suppress(OSError):  # in a root directory of the program's own there may be none
        while (null := os.open(os.devnull, os.O_RDWR)) <= _LAST:
            os.set_inheritable(null, True)
            closed.append(null)
        os.close(null)
    return closed


@contextmanager
def filled() -> Iterator[None]:
    """As long as this lasts no standard stream is closed; what is started has the null device.

    Not only what is passed on to another Python must not be there: `subprocess` refuses to start
    anything where its own pipe is.
    """
    # The lock is held for a moment only: whoever starts a process in here may take a long time.
    with _filling.lock:
        if not _filling.users:
            _filling.nulls = fill()
        _filling.users += 1
    try:
        yield
    finally:
        with _filling.lock:
            _filling.users -= 1
            while not _filling.users and _filling.nulls:
                os.close(_filling.nulls.pop())


class _Filling:
    """Who counts on it that no standard stream is closed."""

    __slots__ = ("lock", "nulls", "users")

    def __init__(self) -> None:
        # Re-entrant, for a signal handler that starts a process.
        self.lock = threading.RLock()
        self.users = 0
        #: What the last of them closes.
        self.nulls: list[int] = []


_filling = _Filling()


def _after_fork_in_child() -> None:
    global _filling
    _filling = _Filling()  # those who had it are threads that do not exist here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
