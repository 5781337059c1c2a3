"""How a child ends that a user's code has left something open in: a pool of its own, say.

Owns the order of what is told about the end. An interpreter tells who has asked for that (by
``threading._register_atexit``: every kind of executor, so that its threads end), then joins its
threads, then its children. A child of multiprocessing joins its children first: those of an
executor, which nobody has told to let them go, and it waits for ever.
"""

from __future__ import annotations

import threading
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["end_in_order"]

#: Before all that is called at such an end by the standard library, by loky, and by us.
_FIRST: Final = 1000


def end_in_order() -> None:
    """In a child that multiprocessing has just started: have it end as an interpreter does."""
    util.Finalize(None, _tell_executors, exitpriority=_FIRST)


def _tell_executors() -> None:
    # Private, hence asked for; without it all is as it was. What has been called is removed, or
    # the interpreter would call it again.
    calls: list[Callable[[], Any]] = getattr(threading, "_threading_atexits", [])
    while calls:
        calls.pop()()
