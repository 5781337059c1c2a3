"""How long each worker has been at its task: which calls have had their time.

Pure: no clock, no process.  Whoever asks looks at a worker now and then, sees which task it is at,
and tells; a call is over its limit when it has been seen for that long.  So nothing is ever ended
early, and nothing later than by the time between two looks.
"""

from __future__ import annotations

__all__ = ["Limits", "pause"]

# A worker that has a call with a limit is looked at after an eighth of that, within these bounds
# in seconds: then such a call is ended at most so much late, and looking costs next to nothing.
_PART = 8
_SHORTEST, _LONGEST = 0.005, 0.25


def pause(limit: float) -> float:
    """How long to wait before the next look at a worker that has a call with this limit."""
    return min(max(limit / _PART, _SHORTEST), _LONGEST)


class Limits:
    """What was seen of each worker."""

    def __init__(self) -> None:
        #: By worker: the task that it is at, and since when it was seen at it.
        self._seen: dict[int, tuple[int, float]] = {}

    def look(self, worker: int, task: int, limit: float | None, least: float, now: float) -> float:
        """The worker is at this task now.

        Args:
            limit: of that task, if it has one.
            least: the least limit among all that the worker holds.

        Returns:
            When to look again; `now` or earlier if the task has had its time.
        """
        known = self._seen.get(worker)
        if known is None or known[0] != task:
            known = self._seen[worker] = task, now
        again = now + pause(least)
        return again if limit is None else min(again, known[1] + limit)

    def forget(self, worker: int) -> None:
        """The worker has no call with a limit, or is gone."""
        self._seen.pop(worker, None)
