"""The owner's side of one worker: its process, its channel, and what it has been sent.

Owns the descriptors of a worker and closes them.  Takes no decisions: the driver says what is sent
to whom, and its lock is around every call here that writes.  Never blocks, but in `stop_at`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from hookpool import _wire
from hookpool._buffers import Parcel
from hookpool._claims import Doing
from hookpool._spin import Spin
from hookpool._task import Task, end_of_run, run_frame
from hookpool._wire import Form, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from multiprocessing.process import BaseProcess

    from hookpool._buffers import Exchange
    from hookpool._channel import Channel
    from hookpool._definition import Definition
    from hookpool._events import Span
    from hookpool._task import Work
    from hookpool._wire import Buffer


_PLAIN = Form.PLAIN


class Worker:
    """See the module."""

    __slots__ = (
        "channel", "death", "definitions", "ended_at", "exchange", "is_taking_in", "killed",
        "lacking", "number", "pidfd", "process", "reader", "reading", "retired", "spin", "unfit",
    )  # fmt: skip

    def __init__(
        self, number: int, process: BaseProcess, channel: Channel, exchange: Exchange
    ) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        #: What it has been lent, and what is borrowed from it.
        self.exchange = exchange
        #: Readable once the process has ended. A pidfd where there is one: the sentinel is a pipe,
        #: and a child that a task forked would keep it open beyond the worker's death.
        self.pidfd = _open_pidfd(process.pid)
        self.death = process.sentinel if self.pidfd is None else self.pidfd
        #: The numbers of the definitions it has been sent.
        self.definitions: set[int] = set()
        #: Those that did not arrive; it may have others that need them.
        self.lacking: set[int] = set()
        #: Held by the thread that reads its channel, and that thread.
        self.reading = threading.Lock()
        self.reader: int | None = None
        #: Whether that is a thread that waits for a result, and is about to read, or has read.
        self.is_taking_in = False
        #: For that thread.
        self.spin = Spin(channel.inn)
        #: Whether it was told to exit.
        self.retired = False
        #: Whether its initializer raised.
        self.unfit = False
        #: Whether the owner killed it, for a task that nobody wants any more or that has had its
        #: time; which one that was in the latter case, or -1.
        self.killed = False
        self.ended_at = -1

    def fds(self) -> list[int]:
        """The descriptors that a forked child of the owner must close, but for the exchange's."""
        pidfd = [] if self.pidfd is None else [self.pidfd]
        return self.channel.fds() + pidfd

    def task_at(self) -> int:
        """The task that it loads, runs, or pickles the result of; -1 if none, as far as is known.

        Not one whose result it writes: that has had what it needs.
        """
        doing = self.channel.doing()
        return -1 if doing is Doing.NOTHING or doing is Doing.SENDING else self.channel.started()

    def stop_at(self, task: int) -> bool:
        """Stop it where it is, if it is at this task; whether that is so.

        Between a look and a signal it might go on to the next task, which must not suffer.  For
        the driver's thread, without the lock: it may take as long as `_STOP_LOOKS` says.
        """
        self._signal(signal.SIGSTOP)
        for _ in range(_STOP_LOOKS):
            if _is_at_rest(self.process.pid):
                break
            time.sleep(0.001)
        if self.task_at() == task:
            return True
        self._signal(signal.SIGCONT)
        return False

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            if self.pidfd is None:
                os.kill(self.process.pid, number)  # type: ignore[arg-type]
            else:
                signal.pidfd_send_signal(self.pidfd, number)

    def pass_on_reading(self) -> None:
        """Let another thread read: the one that does has interrupted itself, and will not."""
        # Each its own: the frame that was interrupted still has the old ones in use.
        self.spin = Spin(self.channel.inn)
        self.reading = threading.Lock()

    def close(self) -> None:
        """Give up all descriptors; the process has ended."""
        self.channel.close()
        self.exchange.reclaim()
        self.exchange.close()
        if self.pidfd is not None:
            os.close(self.pidfd)

    def retire(self) -> None:
        """Tell it to exit when it has done what it holds."""
        self.retired = True
        self.channel.send(_wire.frame(Kind.EXIT))

    def send(self, table: Mapping[int, Work], spans: tuple[Span, ...]) -> None:
        """Send it tasks, with the definitions it lacks, as far as the kernel takes them now."""
        if len(spans) == 1:
            [(start, stop, _)] = spans
            head = table[start]
            if stop - start == 1 and type(head) is Task and self.send_one(head, start):
                return
        buffers: list[Buffer] = []
        news = self.exchange.news()
        if news:
            buffers += _wire.frame(Kind.NEWS, 0, news)
        count = 0
        for start, end, _ in spans:
            count += end - start
            while start < end:
                stop = end_of_run(table, start, end)
                head = table[start]
                definition = head.definition
                # Who has a definition has all that it needs, unless that did not arrive: these
                # live as long as it does.
                if definition is not None and (
                    definition.number not in self.definitions or self.lacking
                ):
                    self._define(definition.needs, buffers)
                    self._define((definition,), buffers)
                if head.needs:
                    self._define(head.needs, buffers)
                buffers += run_frame(table, start, stop, self.exchange)
                start = stop
        self.channel.add_claims(count)
        self.channel.send(buffers)

    def pass_news(self) -> None:
        """Tell it what has become of the memory that it has lent, and was lent."""
        news = self.exchange.news()
        if news:
            self.channel.send(_wire.frame(Kind.NEWS, 0, news))

    def send_one(self, task: Task, number: int) -> bool:
        """Send a plain call of a function that the worker has: the commonest, by a short way."""
        definition = task.definition
        if (
            task.form is not _PLAIN
            or definition is None
            or definition.number not in self.definitions
            or self.lacking
        ):
            return False
        self.channel.send_one(_wire.lone_call(number, definition.number, task.pickled()))
        return True

    def _define(self, definitions: Iterable[Definition], buffers: list[Buffer]) -> None:
        for definition in definitions:
            if definition.number not in self.definitions:
                self.definitions.add(definition.number)
                self.lacking.discard(definition.number)
                data = definition.data
                body = self.exchange.lend(data) if isinstance(data, Parcel) else data
                kind = Kind.HAND if definition.is_for_each else Kind.DEFINE
                buffers += _wire.frame(kind, definition.number, body)

    def note_lacking(self, number: int) -> None:
        """It has not got a definition that was sent: it will be sent again."""
        if number in self.definitions:  # not forgotten since
            self.definitions.discard(number)
            self.lacking.add(number)

    def forget(self, number: int) -> None:
        """Tell it that a definition is gone, if it has it."""
        if number in self.definitions or number in self.lacking:
            self.definitions.discard(number)
            self.lacking.discard(number)
            self.channel.send(_wire.frame(Kind.FORGET, number))


# How often, a millisecond apart, it is looked whether a worker has stopped.  Who is in a system
# call that nothing interrupts does not, and goes nowhere, either.
_STOP_LOOKS = 50


def _is_at_rest(pid: int | None) -> bool:
    """Whether a process has stopped, or ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:  # no descriptor left, say
        return False


def _open_pidfd(pid: int | None) -> int | None:
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # it has ended and is gone, or the kernel has no pidfds
        return None
