"""What an executor may be given: each argument checked, with an error that says what is wrong.

Any thread may call.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping

from hookpool._cpus import cpu_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Windows waits for at most 63 handles at once, and two are not for workers.
_MOST_WORKERS_WINDOWS = 61


def whole(name: str, number: Any) -> int:
    try:
        return int(operator.index(number))
    except TypeError:
        raise TypeError(f"{name} must be an integer: {number!r}") from None


def checked_workers(max_workers: int | None) -> int:
    if max_workers is None:
        workers = cpu_count()
        return min(workers, _MOST_WORKERS_WINDOWS) if sys.platform == "win32" else workers
    max_workers = whole("max_workers", max_workers)
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")  # as loky, to the letter
    if sys.platform == "win32" and max_workers > _MOST_WORKERS_WINDOWS:
        raise ValueError(f"max_workers must be <= {_MOST_WORKERS_WINDOWS}: {max_workers}")
    return max_workers


def check_policy(on_worker_death: str) -> None:
    if on_worker_death not in ("replace", "break"):
        raise ValueError(f"on_worker_death must be 'replace' or 'break': {on_worker_death!r}")


def checked_reducers(name: str, reducers: object) -> dict[type, Callable[[Any], Any]]:
    """A copy of a table of reducers, or an empty one."""
    if reducers is None:
        return {}
    if not isinstance(reducers, Mapping):
        raise TypeError(
            f"{name} must map types to functions that reduce their objects: {reducers!r}"
        )
    for kind, reduce in reducers.items():
        if not isinstance(kind, type):
            raise TypeError(f"{name} has {kind!r}, which is not a type, among its keys")
        if not callable(reduce):
            raise TypeError(
                f"{name} has {reduce!r} for {kind.__qualname__}, which is not callable"
            )
    return dict(reducers)


def checked_memory(most: int | None, large: int) -> tuple[int | None, int]:
    most, large = None if most is None else whole("shared_memory", most), whole("large", large)
    if most is not None and most < 0:
        raise ValueError(f"shared_memory must be >= 0: {most}")
    if large < 1:
        raise ValueError(f"large must be >= 1: {large}")
    return most, large


def checked_seconds(name: str, seconds: float | None) -> float | None:
    """A time to wait; None also for the one that never comes."""
    if seconds is None:
        return None
    try:
        wait = float(0.0 + seconds)  # not for strings and all else that only looks like a number
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds or None: {seconds!r}") from None
    except OverflowError:
        return None
    if not wait >= 0:  # which a NaN is not, either
        raise ValueError(f"{name} must be >= 0: {seconds!r}")
    return None if wait == float("inf") else wait


def checked_limit(seconds: float | None) -> float | None:
    """The time that a call may take; None also for any."""
    limit = checked_seconds("timeout", seconds)
    if limit == 0:
        raise ValueError("timeout must be greater than 0: no call takes no time at all")
    return limit


def checked_environ(env: object) -> dict[str, str]:
    """A copy of the variables, which all workers get, whenever they start."""
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise TypeError(f"env must map names of environment variables to strings: {env!r}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env must map strings to strings, and has {value!r} for {name!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"env has what the system does not take: {value!r} for {name!r}")
    return dict(env)


def checked_threads(threads: object, workers: int) -> int | None:
    if threads == "share":
        return max(1, cpu_count() // workers)
    if threads is None:
        return None
    number = 0 if isinstance(threads, str) else whole("inner_threads", threads)
    if number < 1:
        raise ValueError(
            f"inner_threads must be a number of threads >= 1, 'share' or None: {threads!r}"
        )
    return number


def check_tasks_per_child(most: int | None, forks: bool) -> None:
    if most is None:
        return
    if not isinstance(most, int):
        raise TypeError(f"max_tasks_per_child must be an integer: {most!r}")
    if most <= 0:
        raise ValueError(f"max_tasks_per_child must be >= 1: {most}")
    if forks:
        # The replacements would be forked from a process that has threads by then.
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )


def copied(mapping: Any) -> Any:
    """What a mapping is now; what is none is for the executor to refuse."""
    return dict(mapping) if isinstance(mapping, Mapping) else mapping
