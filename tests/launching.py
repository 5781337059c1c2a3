"""What the tests about starting processes share: a bare Process, and things for it to do."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from hookpool import _launch, _lifeline
from hookpool._lifeline import die_with_parent


class Process(BaseProcess):
    """As bare a Process as `_launch` may count on."""

    _start_method = None
    preload: tuple[str, ...] = ()

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        return _launch.popen(process_obj, _launch.Modules(Process.preload))


def in_child(function: Any, *args: object) -> Any:
    """What `function(*args)` returns in a child of its own."""
    reader, writer = connection.Pipe(duplex=False)

    def call() -> None:
        writer.send(function(*args))

    process = Process(target=call)
    process.start()
    try:
        assert reader.poll(20), "no answer"
        return reader.recv()
    finally:
        process.join()
        reader.close()
        writer.close()


def ended(process: Process) -> int | None:
    process.join(20)
    return process.exitcode


def nothing() -> None:
    pass


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


def end(process: Process) -> None:
    process.kill()
    process.join()
    process.close()


class Mortal(Process):
    """Ends with its parent; says so only once that is certain."""

    def run(self) -> None:
        die_with_parent()
        super().run()


def report_and_sleep(writer: Any) -> None:
    writer.send(os.getpid())
    sleep_for_ever()


def report_and_hold_the_interpreter(writer: Any) -> None:
    writer.send(os.getpid())
    ctypes.PyDLL(None).sleep(3600)  # in C, with the interpreter's lock: no Python code runs


def watch_and_sleep(writer: Any) -> None:
    _lifeline._start_watcher(multiprocessing.parent_process().join)
    report_and_sleep(writer)


def ask_when_told(pipe: Any) -> None:
    pipe.send(os.getpid())
    pipe.recv()
    die_with_parent()
    sleep_for_ever()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes() == b""  # a zombie
    except OSError:
        return True


@pytest.fixture
def sleeper() -> Iterator[Process]:
    process = Process(target=sleep_for_ever)
    process.start()
    yield process
    end(process)


@pytest.fixture
def fresh_server() -> Iterator[None]:
    _launch.stop()
    yield
    _launch.stop()
