"""The line by which a child process learns that its parent has ended, and ends with it.

Owns the watch on the pipe behind ``multiprocessing.parent_process().sentinel``, where the kernel
shows end-of-file once the parent is gone, whatever ended it. Knows neither how the child was
started nor what it does; any multiprocessing start method gives such a pipe.

Call it in the child, from any thread, once, after the child has read all that its parent sent it
at its start. Where the kernel can turn the end-of-file into a signal nothing else runs for it, and
a child inside one long C call ends too; elsewhere a thread waits, and has to get the interpreter's
lock first.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if sys.platform == "linux":
    import fcntl

__all__ = ["die_with_parent"]


def die_with_parent() -> None:
    """End this process with ``SIGKILL`` as soon as its parent process has ended.

    Does nothing in a process that multiprocessing did not start.

    Not ``PR_SET_PDEATHSIG``: behind a fork server that watches the server instead of the owner,
    and it fires when the *thread* that started the child ends.
    """
    parent = process.parent_process()
    if parent is None:
        return
    sentinel: Any = parent.sentinel
    if sentinel is None:  # in loky's processes
        _start_watcher(lambda: _wait_for_another_parent(parent.pid))
    elif sys.platform == "linux":
        _ask_for_signal(sentinel)
        # The parent may have ended before the kernel was asked: no signal comes for that.
        if _has_ended(sentinel):
            _die()
    else:
        _start_watcher(parent.join)


def _ask_for_signal(pipe: int) -> None:
    # The settings belong to the open file description. It is this child's alone (each start
    # makes a pipe), so that no other process changes them or is killed by them.
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC)


def _has_ended(sentinel: int) -> bool:
    # What `is_alive` does, which imports `multiprocessing.connection` for that: too much for the
    # first steps of a worker.
    poll = select.poll()
    poll.register(sentinel, select.POLLIN)
    return bool(poll.poll(0))


def _start_watcher(wait_for_parent: Callable[[], None]) -> None:
    def watch() -> None:
        wait_for_parent()
        _die()

    threading.Thread(target=watch, name="hookpool-lifeline", daemon=True).start()


def _wait_for_another_parent(pid: int | None) -> None:
    while os.getppid() == pid:
        time.sleep(_LOOK_SECONDS)


# How often to look where nothing can be waited for, in seconds.
_LOOK_SECONDS = 0.5


def _die() -> None:
    if sys.platform == "win32":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)
