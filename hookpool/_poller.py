"""Waiting for many descriptors, some of which others may take over for a while.

`select.epoll` where there is one: there a descriptor can be muted and unmuted from another thread
while one thread waits, which the `selectors` classes do not promise.  Elsewhere `selectors`, and
nothing is ever muted.  One thread waits and watches; any thread may mute.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Whether `mute` works here.
CAN_MUTE = sys.platform == "linux"


# In seconds: the kernel counts milliseconds in 31 bits.  Who is woken before anything has happened
# looks at the clock, and waits again.
_LONGEST = 1_000_000.0

_READABLE = getattr(select, "EPOLLIN", 0)


class Poller:
    """See the module."""

    def __init__(self) -> None:
        #: What the caller has put with each descriptor.
        self._data: dict[int, Any] = {}
        if sys.platform == "linux":
            self._epoll = select.epoll()
        else:
            self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        """Watch nothing any more."""
        self._data.clear()
        if sys.platform == "linux":
            self._epoll.close()
        else:
            self._selector.close()

    def watch(self, fd: int, data: Any, *, write: bool = False) -> None:
        """Wait for the descriptor to be readable, or else writable; again is no harm."""
        if fd in self._data:
            return
        self._data[fd] = data
        if sys.platform == "linux":
            self._epoll.register(fd, select.EPOLLOUT if write else select.EPOLLIN)
        else:
            self._selector.register(fd, selectors.EVENT_WRITE if write else selectors.EVENT_READ)

    def forget(self, fd: int) -> None:
        """Do not wait for the descriptor any more; it may be unknown already."""
        if self._data.pop(fd, None) is not None:
            if sys.platform == "linux":
                with contextlib.suppress(FileNotFoundError):
                    self._epoll.unregister(fd)
            else:
                self._selector.unregister(fd)

    def mute(self, fd: int) -> None:
        """Do not wake the waiting thread for this descriptor until `unmute`."""
        if sys.platform == "linux":
            self._epoll.modify(fd, 0)

    def unmute(self, fd: int) -> None:
        """Wait for the descriptor again; what came meanwhile counts."""
        if sys.platform == "linux" and fd in self._data:
            self._epoll.modify(fd, _READABLE)

    def wait(self, timeout: float | None) -> list[tuple[Any, int, bool]]:
        """Wait for something, at most so many seconds; less where they are very many.

        Returns:
            For each descriptor that is ready: its data, itself, and whether it is one to write to.
            Ready is also one whose other end is gone, which a read or write then shows.
        """
        if timeout is not None and timeout > _LONGEST:
            timeout = _LONGEST
        ready: list[tuple[Any, int, bool]] = []
        if sys.platform == "linux":
            for fd, events in self._epoll.poll(timeout):
                data = self._data.get(fd, _GONE)
                if data is not _GONE:
                    writable = events & (select.EPOLLOUT | select.EPOLLERR)
                    ready.append((data, fd, bool(writable)))
        else:
            for key, events in self._selector.select(timeout):
                data = self._data.get(key.fd, _GONE)
                if data is not _GONE:
                    ready.append((data, key.fd, bool(events & selectors.EVENT_WRITE)))
        return ready


_GONE = object()
