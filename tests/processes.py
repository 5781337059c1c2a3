"""Programs run by tests: each is watched while it runs, and looked for after it has ended.

A program and all that it starts carry a mark in their environment, however deep and in whatever
session; so one that leaves a process behind, or does not end, is found out and cleaned up.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

ROOT = Path(__file__).parents[1]
MARK = "HOOKPOOL_TEST_RUN"
#: The contract gives workers one second after their owner; a loaded machine gets some more.
GONE_WITHIN = 5.0


def wait_until(predicate: Callable[[], object], timeout: float = 10.0) -> None:
    """Return once `predicate()` is true; fail when it is not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true after {timeout} s: {predicate}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def run_python(
    *arguments: str,
    stdin: str | None = None,
    cwd: str | Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60,
) -> str:
    """Run this Python with `arguments`; return its standard output.

    Fails when the program fails, when it takes more than `timeout` seconds (all its processes then
    print their tracebacks), and when it leaves a process behind.
    """
    # Files, not pipes: the end of a pipe comes with the end of the last process that holds it.
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        Program(
            arguments,
            env=env,
            timeout=timeout,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=out,
            stderr=err,
            text=True,
            cwd=cwd,
        ) as program,
    ):
        try:
            program.process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            program.give_up()
            program.fail(f"no end within {timeout} s", _text(out), _text(err))
        program.expect_a_good_end(_text(out), _text(err))
        return _text(out)


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


class Program:
    """A Python of its own, with all that it starts; none of it survives the `with` block."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        *,
        timeout: float,
        env: dict[str, str] | None,
        **popen: Any,
    ) -> None:
        self.mark = secrets.token_hex(8)
        self.deadline = time.monotonic() + timeout
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        ours = {MARK: self.mark, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | ours | (env or {}),
            start_new_session=True,
            **popen,
        )

    def __enter__(self) -> Self:
        self.process.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signal_all(signal.SIGKILL)
        self.process.__exit__(kind, value, trace)

    def remaining(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def give_up(self) -> None:
        """End all of it, by SIGABRT first: faulthandler then prints where each process hangs."""
        self._signal_all(signal.SIGABRT)
        try:
            wait_until(lambda: not marked_processes(self.mark), 2)
        except AssertionError:
            self._signal_all(signal.SIGKILL)

    def expect_a_good_end(self, out: str, err: str) -> None:
        """Exit status 0, and nothing left behind."""
        if self.process.returncode != 0:
            self.fail(f"exit status {self.process.returncode}", out, err)
        try:
            wait_until(lambda: not marked_processes(self.mark), GONE_WITHIN)
        except AssertionError:
            left = [describe_process(pid) for pid in marked_processes(self.mark)]
            self.fail("\n".join(["it ended but left behind", *left]), out, err)

    def fail(self, what: str, out: str, err: str) -> NoReturn:
        raise AssertionError(
            f"{what}: {self.process.args!r}\n--- stdout\n{out}\n--- stderr\n{err}"
        )

    def _signal_all(self, number: int) -> None:
        for pid in marked_processes(self.mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def marked_processes(mark: str) -> list[int]:
    """Every live process that was started with the environment variable MARK=`mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and wanted in Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
        except OSError:  # gone meanwhile, a zombie, or another user's
            continue
    return found


def describe_process(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return f"pid {pid} (gone)"
    command = " ".join(word.decode(errors="replace") for word in words)
    return f"pid {pid} state {state}: {command.strip() or '(no command line)'}"


def written() -> int:
    """The bytes that this process has written so far, to pipes, too."""
    with open("/proc/self/io") as io:
        return int(io.read().split()[3])
