"""A joblib backend that makes no calls: what is left is joblib's own time.

A batch is answered by another thread, as by any backend, with a None for each of its calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import joblib
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

Callback = Callable[[list[None]], object]


def register() -> None:
    """Make ``backend="nothing"`` known."""
    joblib.register_parallel_backend("nothing", Nothing)


class Nothing(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """What joblib calls."""

    supports_retrieve_callback = True

    def effective_n_jobs(self, n_jobs: int) -> int:
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        self.parallel = parallel
        self._batches: SimpleQueue[tuple[int, Callback] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return n_jobs

    def submit(self, func: Any, callback: Callback) -> None:
        self._batches.put((len(func), callback))

    def _answer(self) -> None:
        while (batch := self._batches.get()) is not None:
            size, callback = batch
            callback([None] * size)

    def retrieve_result_callback(self, out: list[None]) -> list[None]:
        return out

    def terminate(self) -> None:
        self._batches.put(None)
        self._thread.join()
        self.reset_batch_stats()
