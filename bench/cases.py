"""Cases: what is measured. A case is a function of a subject and a size; it returns raw samples.

Each runs in a fresh process of its own (see `bench.block`), so that nothing is left over from
another case or another library. Cases never decide what is good: ratios and intervals are
`bench.stats`'s.

Lambdas are made here, inside functions, so that they cannot be imported by name; a subject that
cannot take one gets the twin of the same body from `bench.tasks`, and the row says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bench import tasks
from bench.subjects import Function, Subject

WORKERS = 2


class Case(NamedTuple):
    """One question to every subject that can answer it."""

    name: str
    title: str
    #: "s" seconds, "B" bytes, "x" times the ideal
    unit: str
    run: Callable[[Subject, int], list[float]]
    #: methods a subject must have
    needs: tuple[str, ...]
    #: how many (items, samples: the case says), quick and full
    sizes: tuple[int, int]
    #: blocks per subject, quick (0: only when named) and full
    rounds: tuple[int, int]
    #: what the samples of a block are reduced to
    statistics: tuple[str, ...] = ("p50",)
    baseline: str = "ppe-fork"
    #: about how processes start: siblings that differ in this alone take part
    starts: bool = False
    #: seconds after which a block is killed
    limit: float = 20.0


class Unfit(Exception):
    """The subject cannot answer; the text is its row in the table."""


def fitting(subject: Subject, by_value: Function, importable: Function) -> Function:
    return by_value if subject.takes_lambdas else importable


def echo_for(subject: Subject) -> Function:
    return fitting(subject, lambda x: x, tasks.echo)


def started(subject: Subject, warm: int = 20) -> Function:
    """Start the subject, warm its workers up, return the trivial function for it."""
    echo = echo_for(subject)
    subject.start(WORKERS)
    for number in range(warm):
        if subject.submit_wait(echo, number) != number:
            raise AssertionError(f"{subject.name} returned a wrong result")
    return echo


def timed(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


# ---- starting -----------------------------------------------------------------------------------

FIRST_RESULT = """
import time
from bench.subjects import known
if __name__ == "__main__":
    subject = known({name!r})
    if subject.takes_lambdas:
        echo = lambda x: x
    else:
        from bench.tasks import echo
    subject.start({workers})
    assert subject.submit_wait(echo, 7) == 7
    print("first result at", time.monotonic(), flush=True)
    subject.stop()
"""


def cold_start(subject: Subject, size: int) -> list[float]:
    """Interpreter start to first result; `time.monotonic` is one clock for all processes."""
    source = FIRST_RESULT.format(name=subject.name, workers=WORKERS)
    samples = []
    for _ in range(size):
        before = time.monotonic()
        out = subprocess.run(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        samples.append(float(out.rpartition("first result at")[2]) - before)
    return samples


def second_pool(subject: Subject, size: int) -> list[float]:
    """Another pool in a program that has already had one: start to first result."""
    echo = started(subject, warm=1)
    subject.stop()
    samples = []

    def start_to_first_result() -> None:
        subject.start(WORKERS)
        subject.submit_wait(echo, 1)

    for _ in range(size):
        samples.append(timed(start_to_first_result))
        subject.stop()
    return samples


IMPORT_TIME = """
import time
before = time.perf_counter()
{line}
print("took", time.perf_counter() - before)
"""


def import_time(subject: Subject, size: int) -> list[float]:
    source = IMPORT_TIME.format(line=subject.import_line)
    return [
        float(
            subprocess.run(
                [sys.executable, "-c", source], stdout=subprocess.PIPE, check=True, text=True
            ).stdout.rpartition("took")[2]
        )
        for _ in range(size)
    ]


def process_start_join(subject: Subject, size: int) -> list[float]:
    subject.run_process(tasks.nothing)  # the fork server, where there is one
    return [timed(lambda: subject.run_process(tasks.nothing)) for _ in range(size)]


def idle_memory(subject: Subject, size: int) -> list[float]:
    """Memory of each worker after a task, shared pages counted by their share."""
    started(subject)
    pids: set[int] = set()
    for _ in range(size):
        pids.update(subject.map_many(tasks.pid_after_a_while, range(4 * WORKERS)))
        if len(pids) >= WORKERS:
            break
    return [_proportional_set_size(pid) for pid in pids]


def _proportional_set_size(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except OSError as exc:
        raise Unfit(f"no proportional set size on this system ({exc})") from exc


# ---- latency and throughput
# -----------------------------------------------------------------------------


def round_trip(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [timed(lambda: subject.submit_wait(echo, 1)) for _ in range(size)]


def round_trip_one_core(subject: Subject, size: int) -> list[float]:
    """Both ends on one core, which spares the wake-up of another: that decides by 2-4x."""
    if not hasattr(os, "sched_setaffinity"):
        raise Unfit("this system cannot pin a process")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return round_trip(subject, size)


def submit_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [timed(lambda: subject.submit_many(echo, range(size))) / size]


def completed_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [timed(lambda: subject.completed_many(echo, range(size))) / size]


def map_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    subject.map_many(echo, range(100))
    return [timed(lambda: subject.map_many(echo, range(size))) / size]


def short_tasks(subject: Subject, size: int) -> list[float]:
    """Tasks of a millisecond each, against the time they need with no cost at all."""
    started(subject)
    pause = fitting(subject, lambda s: time.sleep(s), tasks.sleep_for)
    return [_over_ideal(subject, pause, [0.001] * size)]


def uneven_tasks(subject: Subject, size: int) -> list[float]:
    """Tasks of 0.1 ms, a few of 200 ms in between: whoever batches blindly waits for these."""
    started(subject)
    pause = fitting(subject, lambda s: time.sleep(s), tasks.sleep_for)
    every = max(size // 5, 1)
    durations = [0.2 if index % every == every // 2 else 0.0001 for index in range(size)]
    return [_over_ideal(subject, pause, durations)]


def _over_ideal(subject: Subject, pause: Function, durations: list[float]) -> float:
    # What a sleep really takes here (timer slack) belongs to the ideal, not to the subject.
    slack = min(timed(lambda: time.sleep(0.0001)) for _ in range(20)) - 0.0001
    free = [0.0] * WORKERS
    for duration in durations:
        free.sort()
        free[0] += duration + slack
    return timed(lambda: subject.map_many(pause, durations)) / max(free)


# ---- large data
# -----------------------------------------------------------------------------------------


def _array_argument(subject: Subject, size: int, megabytes: int) -> list[float]:
    import numpy

    started(subject)
    ends = fitting(subject, lambda a: float(a[0] + a[-1]), tasks.ends)
    subject.submit_wait(ends, numpy.ones(8))
    samples = []
    for number in range(size):
        array = numpy.full(megabytes * 1_000_000 // 8, float(number))  # never the same one
        samples.append(timed(partial(subject.submit_wait, ends, array)))
    return samples


def _array_result(subject: Subject, size: int, megabytes: int) -> list[float]:
    started(subject)
    count = megabytes * 1_000_000 // 8
    subject.submit_wait(tasks.ones, 8)
    return [timed(lambda: subject.submit_wait(tasks.ones, count)[-1]) for _ in range(size)]


def array_argument_1(subject: Subject, size: int) -> list[float]:
    return _array_argument(subject, size, 1)


def array_argument_100(subject: Subject, size: int) -> list[float]:
    return _array_argument(subject, size, 100)


def array_result_1(subject: Subject, size: int) -> list[float]:
    return _array_result(subject, size, 1)


def array_result_100(subject: Subject, size: int) -> list[float]:
    return _array_result(subject, size, 100)


def big_closure(subject: Subject, size: int) -> list[float]:
    """A function that carries 10 MB along: is it pickled and sent per task, or once per worker?"""
    started(subject)
    table = bytes(10_000_000)
    fn = fitting(subject, lambda index: table[index], partial(tasks.lookup, table))
    return [timed(lambda: subject.map_many(fn, range(size))) / size]


def many_objects(subject: Subject, size: int) -> list[float]:
    """1 000 instances there and back: of a dataclass made here, or of an importable one."""
    from bench.pickle_shapes import rows

    echo = started(subject)
    (instances,) = rows(subject.takes_lambdas, 1)
    return [timed(lambda: subject.map_many(echo, [instances] * size)) / size]


# ---- a worker dies
# --------------------------------------------------------------------------------------

PATIENCE = 3.0


def recovery(subject: Subject, size: int) -> list[float]:
    """From a task that kills its worker to the next result, by whatever a user has to do."""
    echo = started(subject)
    samples = []
    for _ in range(size):
        before = time.perf_counter()
        _fails_within_patience(subject)
        try:
            subject.submit_wait(echo, 1)
        except Exception:
            subject.start(WORKERS)  # the pool is lost: what its user must do to go on
            subject.submit_wait(echo, 1)
            subject.lost_pool = True
        samples.append(time.perf_counter() - before)
    return samples


def _fails_within_patience(subject: Subject) -> None:
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            subject.submit_wait(tasks.kill_me, None)
        except BaseException as exc:  # whatever kind of error, it is the answer we wait for
            outcome.append(exc)

    waiter = threading.Thread(target=run, daemon=True)
    waiter.start()
    waiter.join(PATIENCE)
    if waiter.is_alive():
        raise Unfit(f"the killed task never fails (waited {PATIENCE:g} s)")
    if not outcome:
        raise Unfit("the killed task counts as done")


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "cold_start",
            "interpreter start to first result",
            "s",
            cold_start,
            ("submit_wait",),
            (1, 2),
            (1, 3),
            baseline="ppe-spawn",
            starts=True,
        ),
        Case(
            "second_pool",
            "another pool in the same program, start to first result",
            "s",
            second_pool,
            ("submit_wait",),
            (1, 2),
            (0, 3),
            baseline="ppe-spawn",
            starts=True,
        ),
        Case(
            "round_trip",
            "submit one tiny task and wait",
            "s",
            round_trip,
            ("submit_wait",),
            (100, 200),
            (1, 5),
            statistics=("p50", "p99"),
        ),
        Case(
            "round_trip_one_core",
            "submit one tiny task and wait, all on one core",
            "s",
            round_trip_one_core,
            ("submit_wait",),
            (100, 150),
            (0, 3),
            statistics=("p50", "p99"),
        ),
        Case(
            "submit_many",
            "submit tiny tasks, then all results, per task",
            "s",
            submit_many,
            ("submit_many",),
            (500, 10_000),
            (1, 3),
        ),
        Case(
            "completed_many",
            "as_completed over tiny tasks, per task",
            "s",
            completed_many,
            ("completed_many",),
            (500, 5_000),
            (0, 3),
        ),
        Case(
            "map_many",
            "map of tiny tasks at default arguments, per task",
            "s",
            map_many,
            ("map_many",),
            (1_000, 20_000),
            (1, 3),
        ),
        Case(
            "short_tasks",
            "map of 1 ms tasks, times the ideal",
            "x",
            short_tasks,
            ("map_many",),
            (100, 600),
            (0, 3),
        ),
        Case(
            "uneven_tasks",
            "map of 0.1 ms tasks with five of 200 ms, times the ideal",
            "x",
            uneven_tasks,
            ("map_many",),
            (500, 1_500),
            (0, 3),
        ),
        Case(
            "array_argument_1",
            "1 MB array as argument",
            "s",
            array_argument_1,
            ("submit_wait",),
            (10, 20),
            (1, 3),
        ),
        Case(
            "array_argument_100",
            "100 MB array as argument",
            "s",
            array_argument_100,
            ("submit_wait",),
            (1, 1),
            (0, 3),
        ),
        Case(
            "array_result_1",
            "1 MB array as result",
            "s",
            array_result_1,
            ("submit_wait",),
            (10, 20),
            (0, 3),
        ),
        Case(
            "array_result_100",
            "100 MB array as result",
            "s",
            array_result_100,
            ("submit_wait",),
            (1, 1),
            (0, 3),
        ),
        Case(
            "big_closure",
            "map of a function that carries 10 MB, per task",
            "s",
            big_closure,
            ("map_many",),
            (10, 30),
            (0, 3),
        ),
        Case(
            "many_objects",
            "1 000 instances of a dataclass as argument and result, per task",
            "s",
            many_objects,
            ("map_many",),
            (10, 50),
            (0, 3),
        ),
        Case(
            "recovery",
            "task that kills its worker to next result",
            "s",
            recovery,
            ("submit_wait",),
            (1, 1),
            (1, 3),
            limit=10.0,
        ),
        Case(
            "process_start_join",
            "Process: start and join",
            "s",
            process_start_join,
            ("run_process",),
            (3, 10),
            (0, 3),
            baseline="pool-fork",
            starts=True,
        ),
        Case(
            "import_time",
            "import",
            "s",
            import_time,
            (),
            (1, 3),
            (0, 3),
        ),
        Case(
            "idle_memory",
            "memory of an idle worker (proportional set size)",
            "B",
            idle_memory,
            ("map_many",),
            (3, 3),
            (0, 3),
            baseline="ppe-spawn",
            starts=True,
        ),
    )
}
