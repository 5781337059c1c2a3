"""For the tests that are about Windows."""

from hookpool._arguments import _MOST_WORKERS_WINDOWS as _MAX_WINDOWS_WORKERS

__all__ = ["_MAX_WINDOWS_WORKERS"]
