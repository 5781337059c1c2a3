"""One call of `map`: items in, outcomes out, in the order of the items.

Owns the items taken and the outcomes not yet yielded.  Takes no decisions: how many items travel
together is the scheduler's, when something runs is the driver's.

Threads: the caller's thread feeds and consumes; the driver's thread calls the sinks.  They meet in
`_outcomes`, a dict, and in one lock used as a doorbell: the consumer says what it awaits, looks
once more, and sleeps; whoever brings that rings.  No lock is held while anything happens.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError
from itertools import islice
from typing import TYPE_CHECKING, Any

from hookpool._task import Task
from hookpool._wire import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hookpool._definitions import Definition, Ledger
    from hookpool._driver import Driver

# The first item is handed over alone, so that work starts, and then twice as many each time: a
# larger group costs less per item, a smaller one starts sooner. This is the largest.
LARGEST_FEED = 256


class Map:
    """See the module."""

    def __init__(
        self,
        driver: Driver,
        ledger: Ledger,
        fn: Callable[..., Any],
        group: int,
        items: Iterator[tuple[Any, ...]],
    ) -> None:
        self._driver = driver
        self._ledger = ledger
        self._fn = fn
        self._group = group
        self._items = items
        self._form = Form.ARGS
        self._definition: Definition | None = None
        #: What each task needs for the function, closed and in order.
        self._needs: tuple[Definition, ...] = ()
        #: Why the function does not travel: then no item's call does.
        self._refusal: Exception | None = None
        #: How many items were taken, and yielded.
        self._taken = 0
        self._yielded = 0
        #: The tasks handed over: number of the first, number after the last.
        self._handed: list[tuple[int, int]] = []
        #: Outcomes not yielded yet, by index: whether it is a value, and the value or error.
        self._outcomes: dict[int, tuple[bool, Any]] = {}
        #: The index that the consumer sleeps for, or -1.
        self._awaited = -1
        #: Held but for the moment between a ring and the consumer's waking.
        self._doorbell = threading.Lock()
        self._doorbell.acquire()
        self._pickle_function()

    def _pickle_function(self) -> None:
        try:
            self._definition = self._ledger.call(self._fn)
        except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
            self._refusal = error
        if self._definition is None:
            self._form = Form.CALL
        else:
            self._needs = (*self._definition.needs, self._definition)

    # -- items in ---------------------------------------------------------------------------

    def feed(self, most: int | None) -> None:
        """Take up to `most` items (all of them, when None) and hand their calls over."""
        left, size = most, 1
        while left is None or left > 0:
            taken = self._take(size if left is None else min(size, left))
            if not taken:
                return
            left = None if left is None else left - taken
            size = min(size * 2, LARGEST_FEED)

    def _take(self, most: int) -> int:
        tasks: list[Task] = []
        before = self._taken
        try:
            for args in islice(self._items, most):
                index = self._taken
                self._taken += 1
                task = self._task(index, args)
                if task is not None:
                    tasks.append(task)
        finally:
            # Also what was taken before the user's iterable raised: its outcome is then dropped.
            if tasks:
                first = self._driver.submit(tasks)
                self._handed.append((first, first + len(tasks)))
        return self._taken - before

    def _task(self, index: int, args: tuple[Any, ...]) -> Task | None:
        """The task of an item; when its call does not travel, the item fails instead."""
        item = _Item(self, index)
        try:
            if self._refusal is not None:
                raise self._refusal
            if self._form is Form.CALL:
                parts = {"the function": self._fn, "args": args}
                packet = self._ledger.dump((self._fn, args, {}), parts)
            else:
                packet = self._ledger.dump(args, {"args": args})
        except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
            item.set_exception(error)
            return None
        # One tuple for all tasks, as far as possible: the driver looks at it once per message.
        needs = (*self._needs, *packet.needs) if packet.needs else self._needs
        return Task(item, self._fn, self._definition, self._form, packet.data, needs, self._group)

    # -- outcomes out -----------------------------------------------------------------------

    def arrived(self, index: int, is_value: bool, outcome: Any) -> None:
        """An item's call has ended; from the driver's thread, or the feeding one."""
        self._outcomes[index] = (is_value, outcome)
        if self._awaited == index:
            self._awaited = -1
            # A consumer that gave up meanwhile has left the last ring unheard: one is enough.
            with contextlib.suppress(RuntimeError):
                self._doorbell.release()

    def results(self, deadline: float | None, refill: object) -> Iterator[Any]:
        """Yield the values in order.

        Args:
            deadline: of `time.monotonic`.
            refill: when not None, one more item is taken for each value; it is the executor,
                which must live for that.

        Raises:
            TimeoutError: a value was not there by the deadline.
        """
        killing = False
        try:
            while self._yielded < self._taken:
                # No name here for the value: the generator would hold it until the next one.
                yield self._next(deadline, refill is not None)
        except KeyboardInterrupt:
            killing = True
            raise
        finally:
            self.abandon(killing)

    def _next(self, deadline: float | None, refill: bool) -> Any:
        is_value, outcome = self._wait(self._yielded, deadline)
        self._yielded += 1
        if refill:
            self.feed(1)
        if is_value:
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback will hold this frame

    def _wait(self, index: int, deadline: float | None) -> tuple[bool, Any]:
        while index not in self._outcomes:
            self._awaited = index
            # The look after the announcement: what came before it did not ring.
            if index in self._outcomes:
                self._quiet()
                break
            left = -1 if deadline is None else deadline - time.monotonic()
            if (left <= 0 and deadline is not None) or not self._doorbell.acquire(timeout=left):
                self._quiet()
                if index in self._outcomes:
                    break
                raise TimeoutError
        return self._outcomes.pop(index)

    def _quiet(self) -> None:
        """Take the announcement back, and the ring if it has come already."""
        self._awaited = -1
        self._doorbell.acquire(blocking=False)

    def abandon(self, kill: bool) -> None:
        """Nobody wants the other outcomes: cancel what has not started; `kill` the rest."""
        if self._yielded < self._taken:
            for first, stop in self._handed:
                self._driver.abandon(first, stop, kill)


class _Item:
    """The sink of one item of a map."""

    __slots__ = ("_index", "_map")

    def __init__(self, map: Map, index: int) -> None:
        self._map = map
        self._index = index

    def set_result(self, value: Any, /) -> None:
        self._map.arrived(self._index, True, value)

    def set_exception(self, error: BaseException, /) -> None:
        self._map.arrived(self._index, False, error)

    def set_cancelled(self) -> None:
        self._map.arrived(self._index, False, CancelledError())

    def has_callbacks(self) -> bool:
        return False
