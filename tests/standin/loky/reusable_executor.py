"""hookpool's own reusable executor."""

from __future__ import annotations

from typing import Any

from hookpool import executor
from loky.backend import get_context
from loky.process_executor import ProcessPoolExecutor

__all__ = ["_ReusablePoolExecutor", "get_reusable_executor"]


def get_reusable_executor(max_workers: int | None = None, **options: Any) -> Any:
    """hookpool's, with its context where loky's is asked for by name."""
    if isinstance(options.get("context"), str):
        options["context"] = get_context(options["context"])
    return executor.get_reusable_executor(max_workers, **options)


class _ReusablePoolExecutor(ProcessPoolExecutor):
    @staticmethod
    def get_reusable_executor(**options: Any) -> tuple[Any, bool]:
        """Also whether it was there before."""
        before = executor._reusable
        found = get_reusable_executor(**options)
        return found, found is before
