"""The owner's end of one worker's channel, and of its claims.

Owns the descriptors, what was not taken by the kernel yet, and the decoder.  Knows neither tasks
nor processes.  The driver's lock is around every call that writes; who reads is the driver's
business, one thread at a time.  Nothing here ever blocks.

Two pipes, not one socket pair: on Linux a read from a pipe takes 1 us where one from a socket,
which has to tell the sender, takes 5 to 10.

What is claimed, and what was started last, is told by what both ends share for that: `_claims`.
"""

from __future__ import annotations

import os
import signal

from hookpool import _claims, _wire
from hookpool._claims import Doing
from hookpool._streams import pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hookpool._claims import Board
    from hookpool._wire import Buffer

# Up to this size buffers are joined before they are written: one copy is cheaper than what the
# kernel needs per buffer. Beyond it the copy costs more.
_JOIN = 1 << 16
# Linux takes this many buffers in one call (IOV_MAX); every system takes at least 16.
_MOST_BUFFERS = 1024


class Channel:
    """See the module.

    Args:
        board: where the worker says what it has started; None: it gets one task at a time.
    """

    def __init__(self, board: Board | None = None) -> None:
        #: What the worker reads from, until `hand_over` as a rule, and where the owner writes.
        self.worker_in = self.out = -1
        #: Where the owner reads from, and what the worker writes to, until `hand_over`.
        self.inn = self.worker_out = -1
        #: The pipe for tokens, which both sides hold.
        self.claims: int | None = None
        self._board = board
        #: Where the worker's words are on the board.
        self.slot = -1
        self._words: memoryview | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        #: Of what comes from the worker.
        self.decoder = _wire.Decoder()
        #: What the kernel did not take yet, in order.
        self._outbox: list[Buffer] = []
        #: Nobody reads at the other end: the worker is gone or going.
        self.deaf = False
        #: Nobody writes there, and all that was written has been read.
        self.ended = False

    def _open(self) -> None:
        self.worker_in, self.out = pipe()
        self.inn, self.worker_out = pipe()
        os.set_blocking(self.out, False)
        os.set_blocking(self.inn, False)
        if self._board is not None:
            self.claims = _claims.new_pipe()
            self.slot, self._words = self._board.take()

    def hand_over(self) -> None:
        """The worker has its ends: give up our copies of them."""
        if self.worker_out >= 0:
            os.close(self.worker_out)
            self.worker_out = -1
        if self.worker_in >= 0 and not _ends_by_writing():
            os.close(self.worker_in)
            self.worker_in = -1

    def close(self) -> None:
        """Give up all descriptors, and the place on the board."""
        for fd in self.fds():
            os.close(fd)
        self.leave_board()

    def leave_board(self) -> None:
        """Give up the place on the board."""
        if self._board is not None and self._words is not None:
            self._words.release()
            self._words = None
            self._board.give_back(self.slot)

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
        self.add_claims(1)
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
            _claims.put(self.claims, tasks)

    def take_claims(self, tasks: int) -> int:
        """Win up to so many claims and return how many."""
        return 0 if self.claims is None else _claims.take(self.claims, tasks)

    def started(self) -> int:
        """The number of the task that the worker has started last; -1 if that is not known."""
        return -1 if self._words is None else self._words[0] - 1

    def doing(self) -> Doing:
        """What it does for that task, or did when it died."""
        return Doing.RUNNING if self._words is None else _claims.doing(self._words[1])

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


def _ends_by_writing() -> bool:
    """Whether this program ends, without a word, when it writes to a pipe that nobody reads.

    Python ignores the signal; command line tools may have it do what it did before.
    """
    pipe = getattr(signal, "SIGPIPE", None)
    return pipe is not None and signal.getsignal(pipe) is not signal.SIG_IGN
