"""What several test files share: a program run in every launch mode, ways to die, waiting.

A program of ours must behave the same however it was started, so `run_as` starts it in each way
that a person does and hands back what it printed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import signal
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tests.processes import ROOT, describe_process, marked_processes, run_python, wait_until
from tests.terminal import at_the_prompt, in_the_editor

__all__ = [
    "CRASHES",
    "MODES",
    "ROOT",
    "AtPickle",
    "AtUnpickle",
    "c_exit",
    "describe_process",
    "error",
    "exit_code_of_fork",
    "hard_exit",
    "held_elsewhere",
    "killed",
    "marked_processes",
    "numbers",
    "run_as",
    "run_python",
    "segfault",
    "system_exit",
    "wait_until",
]

MODES = ("file", "c", "stdin", "prompt", "module", "notebook")
if sys.version_info >= (3, 13):
    MODES += ("editor",)


def run_as(mode: str, source: str, *, timeout: float = 60) -> str:
    """Run `source` as a `__main__` of its own, started as `mode` says; return what it printed.

    Fails when the program fails, when it takes more than `timeout` seconds (all its processes
    then print their tracebacks), and when it leaves a process behind.
    """
    source = textwrap.dedent(source)
    with tempfile.TemporaryDirectory(prefix="hookpool-run-") as folder:
        if mode == "prompt":
            return at_the_prompt(source, Path(folder), timeout)
        if mode == "editor":
            return in_the_editor(source, Path(folder), timeout)
        Path(folder, "program.py").write_text(source)
        arguments = {
            "file": ["program.py"],
            "c": ["-c", source],
            "stdin": ["-"],
            "module": ["-m", "program"],
            "notebook": [str(ROOT / "tests" / "notebook.py"), "program.py", str(timeout)],
        }[mode]
        stdin = source if mode == "stdin" else None
        return run_python(*arguments, stdin=stdin, cwd=folder, timeout=timeout)


# --- memory --------------------------------------------------------------------------------------


@contextmanager
def no_collections() -> Iterator[None]:
    """What goes meanwhile goes with its last reference, and was in no cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- forks ---------------------------------------------------------------------------------------


@contextmanager
def held_elsewhere(lock: AbstractContextManager[Any]) -> Iterator[None]:
    """A thread has the lock as long as this lasts: a child that is forked finds it taken."""
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        yield
    finally:
        let_go.set()
        thread.join()


def exit_code_of_fork(call: Callable[[], int]) -> int:
    """Call in a forked child, which what the call returns ends; it is ended if that takes long."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            code = call()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- ways to die, and objects that do ----------------------------------------------------------


def killed(*_: object) -> NoReturn:
    """As the kernel's out-of-memory killer does it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def segfault(*_: object) -> None:
    """Read address 0, with no traceback and no core file."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def hard_exit(*_: object) -> NoReturn:
    """Leave without any clean-up, with a status one can recognise."""
    os._exit(13)


def c_exit(*_: object) -> None:
    """libc's exit(): atexit handlers of C run, Python's do not."""
    ctypes.CDLL(None).exit(14)


def system_exit(*_: object) -> NoReturn:
    sys.exit(15)


def error(*_: object) -> NoReturn:
    raise ArithmeticError("raised on purpose")


#: name -> function: ways in which a process ends without being asked. Each takes any arguments.
CRASHES: dict[str, Callable[..., object]] = {
    "killed": killed,
    "segfault": segfault,
    "hard_exit": hard_exit,
    "c_exit": c_exit,
}


class AtPickle:
    """Calls `how()` when it is pickled."""

    def __init__(self, how: Callable[[], object]) -> None:
        self.how = how

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        self.how()
        return object, ()


class Raising:
    """Cannot be pickled, for any reason one likes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


class AtUnpickle:
    """Calls `how()` when it is unpickled."""

    def __init__(self, how: Callable[[], object]) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return self.how, ()


def numbers(size: int = 4 << 20) -> Any:
    """An array of so many bytes, of which each item says where it stands."""
    import numpy as np

    return np.arange(size // 8)
