"""Cases about large data: what a copy costs, who makes how many, and what stays in memory.

Arrays are never the same twice: nobody shall be fast because it has it already. What arrives is
looked at from end to end (or, for a hundred tasks, at one place each): a lazy arrival is not to be
taken for a free one.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench import tasks
from bench.casework import (
    Case,
    echo_for,
    fitting,
    make_case,
    per_task,
    pin_to_one_core,
    started,
    timed,
)
from bench.subjects import Function, Subject

#: bytes of the large array
LARGE_SIZE = 100_000_000
#: how many tasks share it
SHARERS = 100


def array(number: int = 0, size: int = LARGE_SIZE) -> Any:
    import numpy

    return numpy.full(size // 8, float(number))


def _ready(subject: Subject) -> None:
    """Workers that have started and know numpy, and memory that nobody has touched."""
    import numpy

    started(subject)
    subject.submit_wait(tasks.total, numpy.ones(8))


# ---- one array, there, back, and both ----------------------------------------------------------


def _seconds(way: str, subject: Subject, number: int) -> float:
    """One call, without what making the array took."""
    made = array(number)
    if way == "argument":
        return timed(lambda: subject.submit_wait(tasks.total, made))
    if way == "echo":
        return timed(lambda: subject.submit_wait(echo_for(subject), made))
    return timed(lambda: subject.submit_wait(tasks.ones, LARGE_SIZE // 8))


def again(way: str, subject: Subject, size: int) -> list[float]:
    """Results are dropped, so that whoever uses memory again can; the first two do not count."""
    _ready(subject)
    return [_seconds(way, subject, number) for number in range(size + 2)][2:]


def first(way: str, subject: Subject, size: int) -> list[float]:
    """The first one of a program: all of the memory is new."""
    _ready(subject)
    return [_seconds(way, subject, 1)]


def kept(subject: Subject, size: int) -> list[float]:
    """Results are kept, so that each needs new memory."""
    _ready(subject)
    results: list[Any] = []

    def take_one() -> None:
        results.append(subject.submit_wait(tasks.ones, LARGE_SIZE // 8))

    samples = [timed(take_one) for _ in range(size)]
    assert all(result[-1] == 1 for result in results)
    return samples


#: how many copies have to be made, and whether the data are read once more
COPIES = {"argument": 1, "result": 1, "echo": 2}


def ideal(way: str, subject: Subject, size: int) -> list[float]:
    """The middle of `again`, times what its copies take here in warm memory.

    What the task itself does is added to the ideal, done here: read all of the argument, make the
    result, in memory that is new each time.
    """

    middle = statistics.median(again(way, subject, size))
    one, other = array(1), array(2)

    def copy() -> None:
        other[:] = one

    copy_seconds = min(timed(copy) for _ in range(5))
    make: Callable[[], Any] = partial(tasks.ones, LARGE_SIZE // 8)
    work = {"argument": one.sum, "result": make}.get(way, int)
    return [middle / (COPIES[way] * copy_seconds + min(timed(work) for _ in range(5)))]


# ---- one array for many tasks ------------------------------------------------------------------


def _for_all(
    subject: Subject, size: int, run: Callable[[Any, int], Any], budget: float = 6.0
) -> list[float]:
    """Seconds per task; whoever would take minutes gets fewer tasks."""
    _ready(subject)
    number = 0

    def run_anew(count: int) -> None:
        nonlocal number
        number += 1
        results = run(array(number), count)
        assert list(results) == [float(number)] * count

    return [per_task(subject, run_anew, size, 2, budget) for _ in range(2)][1:]


def for_all_put(subject: Subject, size: int) -> list[float]:
    """By what the library has to say that many tasks will read it."""
    at = fitting(subject, lambda pair: float(pair[0][pair[1]]), tasks.at)
    return _for_all(subject, size, lambda x, count: subject.spread(at, x, range(count)))


def for_all_captured(subject: Subject, size: int) -> list[float]:
    """Captured by the function; an importable one takes it along in a `partial`."""

    def run(x: Any, count: int) -> Any:
        fn = fitting(subject, lambda n: float(x[n]), partial(tasks.at_of, x))
        return subject.map_many(fn, range(count))

    return _for_all(subject, size, run)


def for_all_repeated(subject: Subject, size: int) -> list[float]:
    """The same object in each call of one map."""
    at = fitting(subject, lambda x, n: float(x[n]), tasks.at_of)
    return _for_all(subject, size, lambda x, count: subject.map_common(at, x, range(count)))


# ---- many middling ones, frames, bytes ----------------------------------------------------------


def many(subject: Subject, size: int) -> list[float]:
    """1 MB there and back, per task; results are looked at and dropped."""
    started(subject)
    echo = echo_for(subject)

    def run(count: int) -> None:
        arrays = [array(number, 1_000_000) for number in range(count)]
        results = subject.map_many(echo, arrays)
        assert all(result[-1] == number for number, result in enumerate(results))

    return [per_task(subject, run, size, 10, 8.0)]


def _echoes(subject: Subject, size: int, make: Callable[[int], Any]) -> list[float]:
    _ready(subject)
    echo = echo_for(subject)
    samples = []
    for number in range(size + 2):
        obj = make(number)
        samples.append(timed(partial(subject.submit_wait, echo, obj)))
    return samples[2:]


def frame(subject: Subject, size: int) -> list[float]:
    """A frame of 50 MB, there and back: numbers, and as many times as fit into a tenth."""
    import pandas

    def make(number: int) -> Any:
        return pandas.DataFrame(
            {f"column {n}": array(number + n, 10_000_000) for n in range(5)}, copy=False
        )

    return _echoes(subject, size, make)


def string_of_bytes(subject: Subject, size: int) -> list[float]:
    """100 MB of bytes, there and back."""
    return _echoes(subject, size, lambda number: bytes([number]) * LARGE_SIZE)


# ---- what it costs elsewhere --------------------------------------------------------------------


def peak_memory(subject: Subject, size: int) -> list[float]:
    """By how much parent and workers grow, at most, for the array and its way to a task."""
    _ready(subject)
    with _Watch() as watch:
        made = array(1)
        assert subject.submit_wait(tasks.total, made) == LARGE_SIZE // 8
        watch.look()  # with all there still that the task needed
        del made
    return [watch.growth]


class _Watch:
    """Sums the memory of this process and its descendants over and over, shared pages by share."""

    def __enter__(self) -> _Watch:
        self._before = _memory_of_all()
        self.growth = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on_looking)
        self._thread.start()
        return self

    def _go_on_looking(self) -> None:
        while not self._done.is_set():
            self.look()

    def look(self) -> None:
        self.growth = max(self.growth, _memory_of_all() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _memory_of_all() -> float:
    """A page that one process begins to share while another's are read would count twice: so each
    process is read twice, the other way round, and the smaller counts."""
    pids = list(_descendants("self"))
    there = [_memory_of(pid) for pid in pids]
    back = [_memory_of(pid) for pid in reversed(pids)]
    return sum(map(min, there, reversed(back)))


def _descendants(pid: str) -> Iterator[str]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _descendants(child)


def _memory_of(pid: str) -> float:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has ended
    return 1024.0 * sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")


def beside_large(subject: Subject, size: int) -> list[float]:
    """A tiny round trip of a pool with shared memory, times that of one without, by turns.

    On one core: where the kernel puts the two ends decides by a factor of two.
    """
    pin_to_one_core()
    subject.start_without_sharing(2)
    without = subject.pool  # type: ignore[attr-defined]
    subject.start(2)
    pools = [subject.pool, without]  # type: ignore[attr-defined]
    echo = echo_for(subject)
    seconds: list[list[float]] = [[], []]
    for turn in range(2 * size):
        at = (turn // 2 + turn) % 2
        pool = pools[at]
        run: Function = lambda count, pool=pool: [
            pool.submit(echo, 1).result() for _ in range(count)
        ]
        run(5)
        seconds[at].append(timed(partial(run, 100)))
    without.shutdown()
    return [statistics.median(seconds[0]) / statistics.median(seconds[1])]


NAMES = {
    "argument": "100 MB array as argument, summed",
    "result": "100 MB array as result",
    "echo": "100 MB array there and back",
}

LARGE: tuple[Case, ...] = (
    *(
        make_case(
            f"large_{way}", title, partial(again, way), "submit_wait", (2, 6), (0, 2), limit=40.0,
            large=True,
        )
        for way, title in NAMES.items()
    ),
    *(
        make_case(
            f"large_{way}_first", f"{title}: the first one", partial(first, way), "submit_wait",
            (1, 1), (0, 3), large=True,
        )
        for way, title in NAMES.items()
    ),
    *(
        make_case(
            f"large_{way}_ideal", f"{title}: times its copies in warm memory",
            partial(ideal, way), "submit_wait start_without_sharing", (3, 10), (0, 3), unit="x",
            baseline="hookpool", large=True,
        )
        for way, title in NAMES.items()
    ),
    make_case(
        "large_result_kept", "100 MB array as result: all are kept", kept, "submit_wait", (2, 4),
        (0, 2), limit=40.0, large=True,
    ),
    make_case(
        "large_put", "one 100 MB array for 100 tasks by what is there for it, per task",
        for_all_put, "spread", (4, SHARERS), (0, 2), baseline="joblib", limit=60.0, large=True,
    ),
    make_case(
        "large_captured", "map of a function that captures 100 MB, 100 tasks, per task",
        for_all_captured, "map_many", (4, SHARERS), (0, 2), limit=60.0, large=True,
    ),
    make_case(
        "large_repeated", "the same 100 MB array in 100 calls of one map, per task",
        for_all_repeated, "map_common", (4, SHARERS), (0, 2), limit=60.0, large=True,
    ),
    make_case(
        "large_many", "1 000 arrays of 1 MB there and back, per task", many, "map_many",
        (20, 1000), (0, 2), limit=60.0, large=True,
    ),
    make_case(
        "large_frame", "pandas frame of 50 MB there and back", frame, "submit_wait", (2, 6),
        (0, 2), limit=40.0, large=True,
    ),
    make_case(
        "large_bytes", "bytes of 100 MB there and back", string_of_bytes, "submit_wait", (2, 6),
        (0, 2), limit=40.0, large=True,
    ),
    make_case(
        "large_memory", "growth of parent and workers for a 100 MB argument", peak_memory,
        "submit_wait", (1, 1), (0, 2), unit="B", large=True,
    ),
    make_case(
        "large_beside", "tiny round trip with shared memory, times one without, all on one core",
        beside_large, "start_without_sharing", (5, 60), (0, 2), unit="x", baseline="hookpool",
        large=True,
    ),
)  # fmt: skip
