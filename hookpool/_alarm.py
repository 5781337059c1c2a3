"""A bell that any thread, signal handler or finalizer can ring and one thread waits for."""

from __future__ import annotations

import contextlib
import os

from hookpool._streams import pipe


class Alarm:
    """A pipe; closed when nobody refers to it any more.

    Not before: whoever rings holds a reference, so that the byte cannot go to another file that
    has been given the number of a closed descriptor.
    """

    __slots__ = ("_ends", "_write", "fd")

    def __init__(self) -> None:
        #: What is closed in the end: nothing, where no pipe was to be had.
        self._ends: tuple[int, ...] = ()
        self._ends = pipe()
        #: Readable once somebody has rung.
        self.fd, self._write = self._ends
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)

    def __del__(self) -> None:
        for fd in self._ends:
            os.close(fd)

    def ring(self) -> None:
        """Make `fd` readable; takes no lock, waits for nothing."""
        # No note that it rings already: an interrupt between the two would silence it.
        with contextlib.suppress(BlockingIOError):  # full: it rings all right
            os.write(self._write, b"\0")

    def quiet(self) -> None:
        """Take note of all rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
