"""Its pickler."""

from hookpool.reduction import dumps

__all__ = ["dumps"]
