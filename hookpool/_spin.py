"""Looking a few times before going to sleep: for answers that are on their way already.

To be woken costs a process tens of microseconds, most of a short round trip, and costs the one
who wakes it as much again.  So whoever waits for a descriptor looks at it for `SPIN_SECONDS`
first, if that was any use lately; it never gets to wait for long at the cost of a core.

Owns the decision whether to look and the looking; reads nothing.  One thread at a time.
"""

from __future__ import annotations

import os
import select
from time import perf_counter

# The longest look, in seconds.  Longer would catch slower answers, at the cost of a core that
# somebody else could use; this is about what being woken costs.
SPIN_SECONDS = 20e-6
# Looks in vain, one after the other, before the next ones are not tried.
PATIENCE = 3
# How many are then not tried: one look in so many is what it costs to notice a change.
PAUSE = 50


class Spin:
    """See the module."""

    __slots__ = ("_credit", "_poll")

    def __init__(self, fd: int) -> None:
        #: Looks that may still be in vain; negative: so many are not tried.
        self._credit = PATIENCE
        self._poll = None
        if hasattr(select, "poll") and hasattr(os, "sched_yield"):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)

    def look(self) -> bool:
        """Whether there is something to read, or the other end gone, within a moment."""
        poll = self._poll
        if poll is None:
            return False
        if self._credit <= 0:
            self._credit += 1
            if self._credit <= 0:
                return bool(poll.poll(0))
        until = perf_counter() + SPIN_SECONDS
        while not poll.poll(0):
            if perf_counter() > until:
                self._credit -= 1
                if self._credit <= 0:
                    self._credit = -PAUSE
                return False
            # On a core that both ends share, the other one can only answer if it gets it.
            os.sched_yield()
        self._credit = PATIENCE
        return True

    def sleep(self, seconds: float) -> bool:
        """Whether there is something to read, after at most so many seconds; sleeps for it."""
        return bool(self._poll is not None and self._poll.poll(seconds * 1000))
