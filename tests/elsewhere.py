"""A process that cannot import the tests, to see what a pickle brings along.

`Elsewhere` runs one child for many tests: a bare interpreter with hookpool and nothing of ours on
its path.  It speaks in plain pickles of (operation, arguments), of basic types only; what is
tested travels inside as bytes.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[1]
# The tests are made impossible to import; this file is loaded under a name of its own.
CHILD = """
import importlib.util, sys
sys.path.insert(0, {root!r})
sys.modules["tests"] = None
spec = importlib.util.spec_from_file_location("elsewhere", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
del importlib, spec
module.serve({worker})
"""
SIZE = struct.Struct("!Q")


def send(file: BinaryIO, message: Any) -> None:
    data = pickle.dumps(message)
    file.write(SIZE.pack(len(data)) + data)
    file.flush()


def receive(file: BinaryIO) -> Any:
    head = file.read(SIZE.size)
    if len(head) < SIZE.size:
        raise EOFError("the other process has ended")
    return pickle.loads(file.read(SIZE.unpack(head)[0]))


class RaisedElsewhere(Exception):
    """What was raised there, as text."""


class Elsewhere:
    """The other process.  Calls block until it has answered."""

    def __init__(self, *, worker: bool = False) -> None:
        source = CHILD.format(root=str(ROOT), file=__file__, worker=worker)
        self._child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONHASHSEED": "random"},
        )

    def ask(self, operation: str, *arguments: Any) -> Any:
        send(self._child.stdin, (operation, arguments))
        is_fine, answer = receive(self._child.stdout)
        if not is_fine:
            raise RaisedElsewhere(answer)
        return answer

    def call(self, fn: Any, *args: Any) -> Any:
        """The result of a call there, everything by our pickler."""
        from hookpool import reduction

        return pickle.loads(self.ask("call", reduction.dumps((fn, args))))

    def close(self) -> None:
        self._child.stdin.close()
        self._child.wait(10)
        self._child.stdout.close()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Operations:
    """What can be asked for."""

    def __init__(self) -> None:
        from hookpool import reduction
        from hookpool._shelf import Shelf

        self.reduction = reduction
        self.shelf = Shelf()

    def call(self, data: bytes) -> bytes:
        fn, args = pickle.loads(data)
        return self.reduction.dumps(fn(*args))

    def define(self, number: int, data: bytes) -> None:
        self.shelf.define(number, data)

    def forget(self, number: int) -> None:
        self.shelf.forget(number)

    def run(self, number: int, data: bytes) -> bytes:
        return self.shelf.dump(self.shelf.function(number)(*self.shelf.load(data)))


def serve(worker: bool) -> None:
    with os.fdopen(os.dup(0), "rb") as stdin, os.fdopen(os.dup(1), "wb") as stdout:
        os.dup2(2, 1)  # what is printed here must not get between the answers
        if worker:
            from hookpool import _rebuild

            _rebuild.enter_worker()
        answer_all(stdin, stdout)


def answer_all(stdin: BinaryIO, stdout: BinaryIO) -> None:
    operations = Operations()
    while True:
        try:
            operation, arguments = receive(stdin)
        except EOFError:
            return
        try:
            answer = True, getattr(operations, operation)(*arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        send(stdout, answer)
