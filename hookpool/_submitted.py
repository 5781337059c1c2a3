"""A map made of submits: what `map` is where somebody has replaced `submit`.

Whoever counts, bounds or marks all calls of a pool of the standard library replaces `submit`
alone, in a subclass or for the time of one map, since the `map` there calls it.

Knows no pool: what is given as `submit` need not return futures of ours.  Threads: the caller's.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Any

    Submit = Callable[..., Future[Any]]


def mapped(
    submit: Submit,
    fn: Callable[..., Any],
    rows: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int | None,
) -> Iterator[Any]:
    """Submit the calls, and return their values, in order.

    Args:
        submit: makes one call.
        fn: what is called.
        rows: the arguments of each call.
        deadline: of `time.monotonic`; `TimeoutError` where a value is not there by then.
        buffersize: the most calls submitted whose values are not yielded; None: all at once.
    """
    futures: deque[Future[Any]] = deque()
    calls = (submit(fn, *args) for args in rows)
    try:
        # Not by `extend`: had one been refused, those before it would be lost.
        for future in islice(calls, buffersize):
            futures.append(future)
    except BaseException:
        _cancel(futures)
        raise
    return _values(futures, iter(()) if buffersize is None else calls, deadline)


def _values(
    futures: deque[Future[Any]], calls: Iterator[Future[Any]], deadline: float | None
) -> Iterator[Any]:
    """Yield what they return; one more call is made for each."""
    try:
        while futures:
            futures.extend(islice(calls, 1))
            # No name here for the value: the generator would hold it until the next one.
            yield _value(futures.popleft(), deadline)
    finally:
        _cancel(futures)


def _value(future: Future[Any], deadline: float | None) -> Any:
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    finally:
        future.cancel()  # where it has none yet: nobody waits any more
        del future  # the traceback of its error will hold this frame


def _cancel(futures: deque[Future[Any]]) -> None:
    while futures:
        futures.pop().cancel()
