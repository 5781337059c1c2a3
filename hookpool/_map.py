"""One call of `map`: items in, outcomes out, in the order of the items.

Owns the items taken and the outcomes not yet yielded.  Takes no decisions: how many items travel
together is the scheduler's, when something runs is the driver's.

Threads: the caller's thread feeds and consumes; the driver's thread brings outcomes.  They meet in
`_outcomes`, a dict, and in one lock used as a doorbell: the consumer says what it awaits, looks
once more, and sleeps; whoever brings that rings.  No lock is held while anything happens.

Values that arrive together stay together, in one list, until they are yielded: most of what an
item costs in the owner is done for hundreds at once, by one call.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections import deque
from itertools import chain, islice

from hookpool._plain import ATOMS, LONGEST, are_immutable, is_immutable
from hookpool._task import Block
from hookpool._wire import Form
from hookpool.errors import was_raised_by_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from hookpool._definition import Definition
    from hookpool._definitions import Ledger, Packet
    from hookpool._driver import Driver
    from hookpool._repeats import Repeats

# The first item is handed over alone, so that work starts, or as many as make work worth to be
# started if that is known, and then twice as many each time: a larger group costs less per item, a
# smaller one starts sooner. This is the largest.
LARGEST_FEED = 1000
# A group that took longer than this to collect is followed by a smaller one, in seconds: workers
# shall not wait for a slow iterable to fill it.
FEED_SECONDS = 0.001


class _Error:
    """In the place of a list of values: what to raise for one item."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _split(items: Iterator[Any]) -> tuple[list[Any], Iterator[Any]]:
    """The items up to the first that can be changed, and the others, of which none is taken."""
    fixed: list[Any] = []
    for item in items:
        if id(type(item)) not in ATOMS and not is_immutable(item):
            return fixed, chain((item,), items)
        fixed.append(item)
    return fixed, items


class Map:
    """See the module."""

    def __init__(
        self,
        driver: Driver,
        ledger: Ledger,
        fn: Callable[..., Any],
        group: int,
        items: Iterator[Any],
        is_lone: bool = False,
        repeats: Repeats | None = None,
        limit: float | None = None,
    ) -> None:
        self._driver = driver
        self._ledger = ledger
        self._fn = fn
        self._group = group
        #: For how many seconds each call may run.
        self._limit = limit
        #: The arguments of each call; or the only one, where each has one.  Without a tuple for
        #: each, both ends have half as much to do.
        self._items = items
        self._is_lone = is_lone
        #: What calls have in common, while items are taken in one go; None if that is not known.
        self._repeats = repeats
        self._form = Form.ARGS
        self._definition: Definition | None = None
        #: Why the function does not travel: then no item's call does.
        self._refusal: Exception | None = None
        #: How many items were taken, and how many outcomes the consumer has got.
        self._taken = 0
        self._got = 0
        #: The tasks handed over whose outcomes the consumer has not all got, and the index after
        #: that of the last. Not the blocks, which know us: a map that is dropped goes at once.
        self._handed: deque[tuple[range, int]] = deque()
        #: Outcomes not yielded yet, by the index of the first: the values of neighbouring items,
        #: or one error.
        self._outcomes: dict[int, list[Any] | _Error] = {}
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
            if self._repeats is not None and self._refusal is None:
                self._repeats.consider(self._fn)

    # -- items in ---------------------------------------------------------------------------

    def feed(self, most: int | None, are_at_hand: bool = False) -> None:
        """Take up to `most` items (all of them, when None) and hand their calls over.

        Args:
            most: the number.
            are_at_hand: whether to take an item takes no time.
        """
        left, size = most, self._driver.worth_waking(self._group) if are_at_hand else 1
        if self._repeats is not None:
            size = max(size, 2)  # what two calls have in common is known when there are two
        while left is None or left > 0:
            began = time.monotonic()
            asked = size if left is None else min(size, left)
            count = self._take(asked)
            slow = time.monotonic() - began > FEED_SECONDS
            if count < asked:
                # What has ended is not asked again: it might begin anew, and `zip` would take
                # one more item from the iterables before the one that has ended.
                self._items = iter(())
                break
            left = None if left is None else left - asked
            size = max(1, size // 2) if slow else min(size * 2, LARGEST_FEED)
        self._repeats = None  # from now on others run in between

    def _take(self, most: int) -> int:
        """Take up to `most` items and hand their calls over; returns how many there were.

        Taking an item may change the one before, as a generator does that fills one array again
        and again: what can be changed is pickled before the next item is taken.
        """
        before, items = self._taken, islice(self._items, most)
        if self._repeats is not None or self._refusal is not None:
            self._hand_over(list(items))
        else:
            fixed, others = _split(items)
            if fixed:
                self._hand_over(fixed)
            self._pickle(zip(others, strict=False) if self._is_lone else others)
        return self._taken - before

    def _hand_over(self, items: list[Any]) -> None:
        index = self._taken
        if self._refusal is not None:
            self._taken += len(items)
            for at in range(len(items)):
                self.take_error(index + at, self._refusal)
        elif self._form is Form.ARGS and self._are_for_one_pickle(items):
            self._taken += len(items)
            self._submit(index, Form.LONE if self._is_lone else Form.PLAIN, items, ())
        else:
            rows = [(item,) for item in items] if self._is_lone else items
            if self._repeats is not None:
                self._repeats.note(rows)
            self._pickle(rows)

    def _are_for_one_pickle(self, items: list[Any]) -> bool:
        """Whether all arguments refer to nothing, and are small on average."""
        values = items if self._is_lone else list(chain.from_iterable(items))
        if not are_immutable(values):
            return False
        # Pickled again when they are sent; once more costs less than a look at each.
        return len(pickle.dumps(items, pickle.HIGHEST_PROTOCOL)) <= LONGEST * len(items)

    def _pickle(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Hand over one pickle for each call; a call that does not travel fails alone."""
        payloads: list[Any] = []
        needs: dict[int, Definition] = {}
        for args in rows:
            index = self._taken
            self._taken += 1
            try:
                packet = self._packet(args)
            except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
                # A block has no gaps: this one ends here, and the next begins after it.
                self._submit(index - len(payloads), self._form, payloads, tuple(needs.values()))
                self.take_error(index, error)
                payloads, needs = [], {}
                continue
            payloads.append(packet.data)
            for definition in packet.needs:
                needs[definition.number] = definition
        index = self._taken - len(payloads)
        self._submit(index, self._form, payloads, tuple(needs.values()))

    def _packet(self, args: tuple[Any, ...]) -> Packet:
        if self._repeats is not None and self._repeats.handles:
            return self._repeats.dump(self._fn if self._form is Form.CALL else None, args)
        if self._form is Form.CALL:
            parts = {"the function": self._fn, "args": args}
            return self._ledger.dump((self._fn, args, {}), parts)
        return self._ledger.dump(args, {"args": args})

    def _submit(
        self, index: int, form: Form, payloads: list[Any], needs: tuple[Definition, ...]
    ) -> None:
        if payloads:
            fn, definition = self._fn, self._definition
            group, limit = self._group, self._limit
            block = Block(self, index, fn, definition, form, payloads, needs, group, limit)
            self._driver.submit_block(block)
            while self._handed and self._handed[0][1] <= self._got:
                self._handed.popleft()
            tasks = range(block.first, block.first + len(payloads))
            self._handed.append((tasks, block.end_index()))

    # -- outcomes out -----------------------------------------------------------------------

    def take_values(self, index: int, values: list[Any]) -> None:
        """The calls from this index on returned these; from the driver's thread."""
        self._outcomes[index] = values
        self._ring(index)

    def take_error(self, index: int, error: BaseException) -> None:
        """The call with this index failed; from the driver's thread, or the feeding one."""
        self._outcomes[index] = _Error(error)
        self._ring(index)

    def _ring(self, index: int) -> None:
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
            while self._got < self._taken:
                ready = self._next(deadline)
                # No name here for the value: the generator would hold it until the next one.
                while ready:
                    if refill is not None:
                        self.feed(1)
                    yield ready.pop()
        except KeyboardInterrupt as error:
            killing = not was_raised_by_task(error)
            raise
        finally:
            self.abandon(killing)

    def _next(self, deadline: float | None) -> list[Any]:
        """The next values to yield, the first one last; raises in the place of an error."""
        outcome = self._wait(self._got, deadline)
        if type(outcome) is list:
            self._got += len(outcome)
            outcome.reverse()
            return outcome
        self._got += 1
        try:
            raise outcome.error  # type: ignore[union-attr]
        finally:
            del outcome  # its traceback will hold this frame

    def _wait(self, index: int, deadline: float | None) -> list[Any] | _Error:
        while index not in self._outcomes:
            self._driver.before_wait()
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
        if self._got < self._taken:
            # The last first, or workers would be given these while the first are being taken back.
            for tasks, _ in reversed(self._handed):
                self._driver.abandon(tasks.start, tasks.stop, kill)
