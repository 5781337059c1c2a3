"""hookpool under loky's names, so that loky's own tests can be run on it: see `agree_loky.py`.

A folder on the path, in place of the installed loky. It adds nothing to what hookpool does, but
where the tests look into loky's private parts for something that hookpool has under another name.
"""

from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    TimeoutError,
    as_completed,
    wait,
)

from hookpool.executor import cpu_count
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from loky.reusable_executor import get_reusable_executor

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenProcessPool",
    "CancelledError",
    "Executor",
    "Future",
    "ProcessPoolExecutor",
    "TimeoutError",
    "as_completed",
    "cpu_count",
    "get_reusable_executor",
    "wait",
]
