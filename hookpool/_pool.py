"""The standard library's `Pool`, not woken by its own results.

Its thread that replaces workers also waits for the pipe on which results come, and looks at all
workers whenever one does: as long as a large result is on its way, over and over, in turns of the
interpreter's lock with the thread that reads it, which then needs many times as long.  It need not
know of results: it is told when the last one has come, and each worker's end is among what it
waits for (so `ThreadPool`, in the same module, does without).

Knows nothing of how processes start: that is the context's, which makes it.
"""

from __future__ import annotations

from multiprocessing import pool
from typing import Any

__all__ = ["Pool"]


class Pool(pool.Pool):
    """See `multiprocessing.pool.Pool`."""

    def _get_sentinels(self) -> list[Any]:
        notifier = getattr(self, "_change_notifier", None)
        if notifier is None:  # a Python whose pool is another one
            return super()._get_sentinels()  # type: ignore[misc,no-any-return]
        return [notifier._reader]
