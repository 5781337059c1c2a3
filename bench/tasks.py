"""The importable twins of the lambdas in `bench.cases`, for peers that cannot take a lambda.

Importing this module must cost next to nothing: workers that receive a function by reference
import it.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False  # from `typing`, it would cost what ten modules do
if TYPE_CHECKING:
    from typing import Any


def echo(x: Any) -> Any:
    return x


def lookup(table: Any, index: int) -> Any:
    return table[index]


def total(array: Any) -> float:
    return float(array.sum())


def at(pair: Any) -> float:
    array, index = pair
    return float(array[index])


def at_of(array: Any, index: int) -> float:
    return float(array[index])


def ones(count: int) -> Any:
    import numpy

    return numpy.ones(count)


def pid_after_a_while(_: Any) -> int:
    """Stay long enough that the other workers take the other tasks."""
    time.sleep(0.05)
    return os.getpid()


def kill_me(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nothing() -> None:
    pass


def sleep_for(seconds: float) -> None:
    time.sleep(seconds)


def spin_for(seconds: float) -> None:
    """Need so much CPU time: whoever takes the core away meanwhile prolongs it."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
