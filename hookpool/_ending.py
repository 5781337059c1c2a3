"""How a child ends that a user's code has left something open in: a pool of its own, say.

Owns the order of what is told about the end. An interpreter tells who has asked for that (by
``threading._register_atexit``: every kind of executor, so that its threads end), then joins its
threads, then its children. A child of multiprocessing joins its children first: those of an
executor, which nobody has told to let them go, and it waits for ever.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

__all__ = ["end_copy", "end_in_order"]

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


def end_copy(error: BaseException | None) -> NoReturn:
    """End a process that a user's code has forked, and that has come back from that code.

    Args:
        error: what it raised; `SystemExit` counts as it does at the end of a program.
    """
    code = 1
    if isinstance(error, SystemExit):
        _util._flush_std_streams()
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    os._exit(code & 0xFF)


# Typed by hand: typeshed leaves out what is private.
_util: Any = util
