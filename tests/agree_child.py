"""The far end of the pickler's tests: a process that can import hookpool and nothing of the tests.

As a script it loads what it is sent (with plain `pickle.loads`, or a rival's), calls it, and
answers with what came out, described by `describe`. As a module it has the near end, `Child`.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

ROOT = Path(__file__).parents[1]


def describe(obj: Any, seen: dict[int, int] | None = None) -> Any:
    """Plain data, equal for two objects that are alike in types, values and sharing."""
    seen = {} if seen is None else seen
    kind = type(obj).__qualname__
    if isinstance(obj, type):
        return kind, obj.__qualname__
    if obj is None or isinstance(obj, (bool, int, float, complex, str, bytes, range)):
        return kind, repr(obj)
    if not isinstance(obj, (tuple, frozenset)):  # equal ones may be one object or two
        if id(obj) in seen:
            return "seen", seen[id(obj)]
        seen[id(obj)] = len(seen)
    if isinstance(obj, dict):
        inner: Any = [(describe(k, seen), describe(v, seen)) for k, v in obj.items()]
    elif isinstance(obj, (set, frozenset)):
        inner = sorted(repr(describe(item)) for item in obj)
    elif isinstance(obj, BaseException):
        inner = describe(obj.args, seen)
    elif hasattr(obj, "__iter__") and hasattr(obj, "__len__"):
        inner = [describe(item, seen) for item in obj]
    else:
        inner = re.sub(r" at 0x[0-9a-f]+", "", repr(obj))
    return kind, inner, describe(vars(obj), seen) if hasattr(obj, "__dict__") else None


def observe(probe: Callable[[], object]) -> tuple[str, Any]:
    """What calling `probe` gives, described; or the error."""
    try:
        return "gave", describe(probe())
    except Exception as error:
        return "raised", (type(error).__qualname__, str(error))


class Child:
    """One process for many questions; to be closed."""

    def __init__(self, loader: str = "pickle", **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), loader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.sep,
            env=os.environ | {"PYTHONPATH": "", "HOOKPOOL_ROOT": str(ROOT)} | environment,
        )

    def ask(self, data: bytes) -> tuple[str, Any]:
        """Have `data` loaded and called there; `("lost", traceback)` if it cannot be."""
        answer: tuple[str, Any] = self._sent(b"call" + data)
        return answer

    def use(self, data: bytes) -> tuple[str, Any]:
        """Have `data` loaded there, an object and a function that takes it, and its result."""
        answer: tuple[str, Any] = self._sent(b"use" + data)
        return answer

    def relay(self, data: bytes) -> bytes:
        """Have `data` loaded there and what it gives pickled again, by hookpool."""
        kind, again = self._sent(b"relay" + data)
        assert kind == "gave", again
        return bytes(again)

    def _sent(self, message: bytes) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, message)
        return pickle.loads(_receive(self._process.stdout))

    def close(self) -> None:
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


def _send(stream: BinaryIO | Any, data: bytes) -> None:
    stream.write(struct.pack("!I", len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO | Any) -> bytes:
    header = stream.read(4)
    return stream.read(struct.unpack("!I", header)[0]) if len(header) == 4 else b""


def _raise_timeout(*_: object) -> NoReturn:
    raise TimeoutError("no answer")


def main() -> None:
    # Nothing of the tests may be found, so that by value means by value.
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    signal.signal(signal.SIGALRM, _raise_timeout)
    loads = importlib.import_module(sys.argv[1]).loads
    while data := _receive(sys.stdin.buffer):
        signal.alarm(3)  # a lock that arrives held would hold us for ever
        try:
            if data.startswith(b"relay"):
                from hookpool import dumps

                answer = "gave", dumps(loads(data.removeprefix(b"relay")))
            elif data.startswith(b"use"):
                obj, use = loads(data.removeprefix(b"use"))
                answer = observe(lambda: use(obj))  # noqa: B023 - called at once
            else:
                answer = observe(loads(data.removeprefix(b"call")))
        except Exception:
            answer = "lost", traceback.format_exc()
        finally:
            signal.alarm(0)
        _send(sys.stdout.buffer, pickle.dumps(answer))


if __name__ == "__main__":
    sys.path.append(os.environ["HOOKPOOL_ROOT"])  # for a hookpool that is not installed
    # `tests` lies beside hookpool: block it.
    sys.modules["tests"] = None  # type: ignore[assignment]
    main()
