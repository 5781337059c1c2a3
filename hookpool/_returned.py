"""Plain values that neighbouring tasks have returned, on their way out of a worker.

Owns what is together in one frame, and which part of it has left.  The main thread of the worker
appends, without a lock; whoever flushes, under the worker's lock, takes what is there.
"""

from __future__ import annotations

import pickle

from hookpool import _wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Returned:
    """See the module.

    Args:
        first: the number of the task that returned the first.
        function: the number of the function that all of them called.
        now: when the first began to be worked for, by `time.perf_counter`.
    """

    __slots__ = ("first", "function", "items", "last", "sent", "since")

    def __init__(self, first: int, function: int, now: float) -> None:
        self.first = first
        self.function = function
        self.items: list[Any] = []
        #: How many of them have left.
        self.sent = 0
        #: When the first one that has not left began to be worked for.
        self.since = now
        #: When the last one was there.
        self.last = now

    def leads_to(self, task: int, function: int) -> bool:
        """Whether what this task returns can go with them."""
        is_next = self.function == function and self.first + len(self.items) == task
        # What has left stays in `items`: without an end there would be more and more of it.
        return is_next and not self.sent

    def has_unsent(self) -> bool:
        """Whether some have not left yet."""
        return self.sent < len(self.items)

    def frame(self) -> list[_wire.Buffer]:
        """What has not left yet."""
        count, last = len(self.items), self.last
        first, new = self.first + self.sent, self.items[self.sent : count]
        if not new:
            return []
        micros = int((last - self.since) * 1e6)
        self.sent, self.since = count, last
        data = pickle.dumps(new, pickle.HIGHEST_PROTOCOL)
        return _wire.values_frame(first, len(new), micros, data)
