"""Cases: what is measured. A case is a function of a subject and a size; it returns raw samples.

Each runs in a fresh process of its own (see `bench.block`), so that nothing is left over from
another case or another library. Cases never decide what is good: ratios and intervals are
`bench.stats`'s.

Lambdas are made here, inside functions, so that they cannot be imported by name; a subject that
cannot take one gets the twin of the same body from `bench.tasks`, and the row says so.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import scenarios, tasks
from bench.casework import (
    BUDGET,
    WORKERS,
    Case,
    Unfit,
    echo_for,
    fitting,
    make_case,
    per_task,
    pin_to_one_core,
    several,
    started,
    timed,
)
from bench.large_cases import LARGE
from bench.subjects import LOST_POOL, Function, Subject

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


def recycling(subject: Subject, size: int) -> list[float]:
    """A new worker for each task, per task."""
    subject.start_recycling(WORKERS)
    echo = echo_for(subject)
    subject.submit_many(echo, range(WORKERS))
    return [timed(lambda: subject.submit_many(echo, range(size))) / size]


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
    nothing = tasks.nothing
    if subject.takes_lambdas:
        nothing = lambda: None
    subject.run_process(nothing)  # the fork server, where there is one
    return [timed(lambda: subject.run_process(nothing)) for _ in range(size)]


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


# ---- latency and throughput ---------------------------------------------------------------------


def round_trip(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return several(lambda: subject.submit_wait(echo, 1), size, 1.0)


def round_trip_one_core(subject: Subject, size: int) -> list[float]:
    """Both ends on one core, which spares the wake-up of another: that decides by 2-4x."""
    pin_to_one_core()
    return round_trip(subject, size)


def submit_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [per_task(subject, lambda n: subject.submit_many(echo, range(n)), size, 200)]


def completed_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [per_task(subject, lambda n: subject.completed_many(echo, range(n)), size, 200)]


def map_many(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return [per_task(subject, lambda n: subject.map_many(echo, range(n)), size, 200)]


def map_few(subject: Subject, size: int) -> list[float]:
    echo = started(subject)
    return several(lambda: subject.map_many(echo, range(8)), size, 1.0)


def map_size(subject: Subject, size: int) -> list[float]:
    """As `map_many`, of just that size, for those who can do it in the time."""
    echo = started(subject)
    cost = min(timed(lambda: subject.map_many(echo, range(1000))) for _ in range(2)) / 1000
    if cost * size > 5 * BUDGET:
        raise Unfit(f"{size} tasks would take {cost * size:.0f} s")
    return [timed(lambda: subject.map_many(echo, range(size))) / size]


def memory_of_a_stream(subject: Subject, size: int) -> list[float]:
    """What the parent's memory grows by while results are taken one by one and dropped."""
    echo = started(subject)
    stream = subject.consume(echo, iter(range(size)))
    for _ in itertools.islice(stream, size // 10):
        pass
    before = most = _resident()
    for number, _ in enumerate(stream):
        if number % 1000 == 0:
            most = max(most, _resident())
    return [float(most - before)]


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- how near to the ideal ----------------------------------------------------------------------
# The ideal is list scheduling: each task, in the order of submission, begins on the worker that is
# free first, at no cost at all.

LONG = 0.2


def even(size: int) -> list[float]:
    return [0.001] * size


def uneven(size: int) -> list[float]:
    """Tasks of 0.1 ms, five of 200 ms among them at random places: batching blindly costs here."""
    durations = [0.0001] * size
    for place in random.Random(20190604).sample(range(size), min(5, size)):
        durations[place] = LONG
    return durations


def ideal(durations: Sequence[float], workers: int) -> float:
    """How long list scheduling takes."""
    free = [0.0] * workers  # a heap: the worker that is free first is at its root
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def sleeping(
    durations_of: Callable[[int], list[float]], subject: Subject, size: int
) -> list[float]:
    pause = fitting(subject, lambda s: time.sleep(s), tasks.sleep_for)
    # What a sleep takes here beyond what was asked for belongs to the task, not to the subject.
    late = sorted(timed(lambda: time.sleep(0.0001)) for _ in range(99))[49] - 0.0001
    return _over_ideal(subject, pause, durations_of(size), late)


def spinning(
    durations_of: Callable[[int], list[float]], subject: Subject, size: int
) -> list[float]:
    """Tasks that need so much CPU time: what the subject needs itself comes on top."""
    return _over_ideal(
        subject, fitting(subject, lambda s: tasks.spin_for(s), tasks.spin_for), durations_of(size)
    )


def _over_ideal(
    subject: Subject, task: Function, durations: list[float], late: float = 0.0
) -> list[float]:
    started(subject)
    subject.map_many(task, [0.0] * 2 * WORKERS)  # the function is known; its duration is not
    best = ideal([duration + late for duration in durations], WORKERS)
    return [timed(lambda: subject.map_many(task, durations)) / best]


# ---- large data
# -----------------------------------------------------------------------------------------


def big_closure(subject: Subject, size: int) -> list[float]:
    """A function that carries 10 MB along: is it pickled and sent per task, or once per worker?"""
    return _big_closure(subject, size, subject.map_many)


def big_closure_submit(subject: Subject, size: int) -> list[float]:
    return _big_closure(subject, size, subject.submit_many)


def _big_closure(subject: Subject, size: int, run: Callable[..., Any]) -> list[float]:
    started(subject)

    def run_anew(count: int) -> None:
        table = os.urandom(1000) * 10_000  # never the same one, or it would be there already
        run(
            fitting(subject, lambda index: table[index], partial(tasks.lookup, table)),
            range(count),
        )

    return [per_task(subject, run_anew, size, 2 * WORKERS, 2 * BUDGET)]


def many_objects(subject: Subject, size: int) -> list[float]:
    """1 000 instances there and back: of a dataclass made here, or of an importable one."""
    from bench.pickle_shapes import rows

    echo = started(subject)
    (instances,) = rows(subject.takes_lambdas, 1)
    return [
        per_task(subject, lambda n: subject.map_many(echo, [instances] * n), size, 2 * WORKERS)
    ]


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
            subject.note(LOST_POOL)
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


P50_AND_P99 = ("p50", "p99")

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        make_case(
            "cold_start",
            "interpreter start to first result",
            cold_start,
            "submit_wait",
            (1, 1),
            (1, 3),
            baseline="ppe-spawn",
            starts=True,
        ),
        make_case(
            "second_pool",
            "another pool in the same program, start to first result",
            second_pool,
            "submit_wait",
            (1, 2),
            (0, 2),
            baseline="ppe-spawn",
            starts=True,
        ),
        make_case(
            "recycling",
            "a new worker for each task (max_tasks_per_child=1), per task",
            recycling,
            "start_recycling submit_many",
            (6, 20),
            (0, 2),
            baseline="ppe-spawn",
            starts=True,
        ),
        make_case(
            "round_trip",
            "submit one tiny task and wait",
            round_trip,
            "submit_wait",
            (100, 1_000),
            (1, 4),
            statistics=P50_AND_P99,
        ),
        make_case(
            "round_trip_one_core",
            "submit one tiny task and wait, all on one core",
            round_trip_one_core,
            "submit_wait",
            (100, 1_000),
            (0, 2),
            statistics=P50_AND_P99,
        ),
        make_case(
            "submit_many",
            "submit tiny tasks, then all results, per task",
            submit_many,
            "submit_many",
            (500, 20_000),
            (1, 3),
        ),
        make_case(
            "completed_many",
            "as_completed over tiny tasks, per task",
            completed_many,
            "completed_many",
            (500, 5_000),
            (0, 3),
        ),
        make_case(
            "map_few",
            "map of 8 tiny tasks, until all results are there",
            map_few,
            "map_many",
            (100, 1_000),
            (0, 2),
            statistics=P50_AND_P99,
        ),
        make_case(
            "map_many",
            "map of tiny tasks at default arguments, per task",
            map_many,
            "map_many",
            (1_000, 20_000),
            (1, 3),
        ),
        *(
            make_case(
                f"map_1e{power}",
                f"map of 1e{power} tiny tasks, per task",
                map_size,
                "map_many",
                (10**power, 10**power),
                (0, 1),
                baseline="pool-fork",
                limit=60.0,
            )
            for power in (3, 4, 5, 6)
        ),
        make_case(
            "memory_of_a_stream",
            "growth of the parent while 100 000 results are taken one by one",
            memory_of_a_stream,
            "consume",
            (1_000, 100_000),
            (0, 1),
            unit="B",
            baseline="pool-fork",
        ),
        *(
            make_case(
                f"{kind}_{what.__name__}",
                f"map of tasks that {verb} {how_long}, times the ideal",
                partial(run, durations),
                "map_many",
                (size // 20, size),
                (0, 2),
                unit="x",
            )
            for kind, durations, size, how_long in (
                ("short", even, 2_000, "for 1 ms"),
                ("uneven", uneven, 5_000, "for 0.1 ms, five of them for 200 ms"),
            )
            for what, run, verb in (
                (sleeping, sleeping, "sleep"),
                (spinning, spinning, "compute"),
            )
        ),
        make_case(
            "big_closure",
            "map of a function that carries 10 MB, per task",
            big_closure,
            "map_many",
            (10, 200),
            (0, 2),
        ),
        make_case(
            "big_closure_submit",
            "submit of a function that carries 10 MB, per task",
            big_closure_submit,
            "submit_many",
            (10, 200),
            (0, 1),
        ),
        make_case(
            "many_objects",
            "1 000 dataclass instances as argument and result, per task",
            many_objects,
            "map_many",
            (10, 200),
            (0, 2),
        ),
        make_case(
            "scenario_numerical",
            "twenty filters over one image of 8 MB",
            scenarios.numerical,
            "start_with map_many",
            (4, 20),
            (0, 2),
            baseline="mpire",
        ),
        make_case(
            "scenario_stateful",
            "counts of prefixes kept in the workers, 60 documents",
            scenarios.stateful,
            "start_with map_many",
            (4, 60),
            (0, 2),
            baseline="mpire",
        ),
        make_case(
            "scenario_initialization",
            "a model loaded once per worker, 50 evaluations",
            scenarios.initialization,
            "start_with map_many",
            (2, 10),
            (0, 2),
            baseline="mpire",
        ),
        make_case(
            "recovery",
            "task that kills its worker to next result",
            recovery,
            "submit_wait",
            (1, 1),
            (1, 2),
            limit=10.0,
        ),
        make_case(
            "process_start_join",
            "Process: start and join",
            process_start_join,
            "run_process",
            (3, 10),
            (0, 2),
            baseline="pool-fork",
            starts=True,
        ),
        make_case("import_time", "import", import_time, "", (1, 5), (0, 2)),
        make_case(
            "idle_memory",
            "memory of an idle worker (proportional set size)",
            idle_memory,
            "map_many",
            (3, 3),
            (0, 2),
            unit="B",
            baseline="ppe-spawn",
            starts=True,
        ),
        *LARGE,
    )
}
