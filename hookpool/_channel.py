"""The owner's end of one worker's channel, and of its claims.

Owns the descriptors, what was not taken by the kernel yet, and the decoder.  Knows neither tasks
nor processes.  The driver's lock is around every call that writes; who reads is the driver's
business, one thread at a time.  Nothing here ever blocks.

Two pipes, not one socket pair: on Linux a read from a pipe takes 1 us where one from a socket,
which has to tell the sender, takes 5 to 10.

Claims: an eventfd in semaphore mode counts the tasks that were sent and not claimed.  The worker
takes one from it just before it runs a task (always the oldest), the owner takes some back (always
the newest): a read is atomic, so no task is ever claimed by both.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from hookpool import _wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hookpool._wire import Buffer, Frame

#: Whether a worker can hold more than one task: whether there is an atomic claim.
CLAIMS = sys.platform == "linux"

# Up to this size buffers are joined before they are written: one copy is cheaper than what the
# kernel needs per buffer. Beyond it the copy costs more.
_JOIN = 1 << 16
# Linux takes this many buffers in one call (IOV_MAX); every system takes at least 16.
_MOST_BUFFERS = 1024


class Channel:
    """See the module."""

    def __init__(self) -> None:
        #: What the worker reads from, until `hand_over`, and where the owner writes to it.
        self.worker_in, self.out = os.pipe()
        #: Where the owner reads from, and what the worker writes to, until `hand_over`.
        self.inn, self.worker_out = os.pipe()
        os.set_blocking(self.out, False)
        os.set_blocking(self.inn, False)
        #: The claims, which both sides hold.
        self.claims = _new_claims()
        #: Of what comes from the worker.
        self.decoder = _wire.Decoder()
        #: What the kernel did not take yet, in order.
        self._outbox: list[Buffer] = []
        #: Nobody reads at the other end: the worker is gone or going.
        self.deaf = False
        #: Nobody writes there, and all that was written has been read.
        self.ended = False

    def hand_over(self) -> None:
        """The worker has its ends: give up our copies of them."""
        for fd in (self.worker_in, self.worker_out):
            if fd >= 0:
                os.close(fd)
        self.worker_in = self.worker_out = -1

    def close(self) -> None:
        """Give up all descriptors."""
        for fd in self.fds():
            os.close(fd)

    def fds(self) -> list[int]:
        """The descriptors that are open here, which a forked child of the owner must close."""
        fds = (self.inn, self.out, self.worker_in, self.worker_out, self.claims)
        return [fd for fd in fds if fd is not None and fd >= 0]

    # -- writing ----------------------------------------------------------------------------

    @property
    def backed_up(self) -> bool:
        """Whether something waits for the kernel to take it."""
        return bool(self._outbox)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queue the buffers, and write as much as the kernel takes now."""
        if self.deaf:
            return
        if self._outbox:
            self._outbox += buffers
            return
        self._outbox += buffers
        self.flush()

    def send_one(self, data: bytes) -> None:
        """Send one task and its claim, in a short buffer: the commonest, by the shortest way."""
        if self.claims is not None:
            os.eventfd_write(self.claims, 1)
        if not self._outbox and not self.deaf:
            try:
                sent = os.write(self.out, data)
            except OSError:
                pass  # for `flush` to find out
            else:
                if sent == len(data):
                    return
                data = data[sent:]
        self.send((data,))

    def flush(self) -> None:
        """Write as much as the kernel takes now."""
        buffers = self._outbox
        try:
            while buffers:
                head = buffers[:_MOST_BUFFERS]
                if _wire.size(head) <= _JOIN:
                    sent = os.write(self.out, _wire.join(head))
                else:
                    sent = os.writev(self.out, head)
                buffers = _wire.after(buffers, sent)
        except BlockingIOError:
            pass
        except OSError:
            # Broken pipe: the worker's death is seen by other means, not here.
            self.deaf = True
            buffers = []
        self._outbox = buffers

    # -- claims -----------------------------------------------------------------------------

    def add_claims(self, tasks: int) -> None:
        """Let the worker claim so many more tasks.

        Called before the tasks are sent: a worker that had a task and found no claim for it would
        take it for taken back.
        """
        if self.claims is not None:
            os.eventfd_write(self.claims, tasks)

    def take_claims(self, tasks: int | None = None) -> int:
        """Win up to so many claims (all that are left, when None) and return how many."""
        won = 0
        if self.claims is not None:
            with contextlib.suppress(BlockingIOError):
                while won != tasks:
                    os.eventfd_read(self.claims)
                    won += 1
        return won

    def unclaimed(self) -> int:
        """How many claims are left, as far as the system tells; 0 where it does not."""
        try:
            with open(f"/proc/self/fdinfo/{self.claims}") as info:
                count = next(line for line in info if line.startswith("eventfd-count:"))
        except (OSError, StopIteration):
            return 0
        return int(count.split()[1], 16)

    # -- reading ----------------------------------------------------------------------------

    def read(self) -> tuple[int, bool]:
        """Read once; how much came, for the decoder, and whether there may be more to read now."""
        room = self.decoder.room()
        try:
            size = os.readv(self.inn, [room])
        except BlockingIOError:
            return 0, False
        if not size:
            self.ended = True
        return size, size == len(room)

    def receive(self) -> tuple[list[Frame], bool]:
        """Read once; the frames completed, and whether there may be more to read now."""
        size, more = self.read()
        return (self.decoder.filled(size) if size else []), more


def _new_claims() -> int | None:
    if sys.platform != "linux":
        return None
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
