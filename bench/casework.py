"""What a case is, and what cases are made with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench import tasks
from bench.subjects import Function, Subject

WORKERS = 2
#: seconds a measurement of throughput may take: a subject that would need more gets fewer tasks,
#: and its row says so (costs per task are compared, so this favours nobody but those who warm up)
BUDGET = 2.5


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
    #: about large data: those take part, too, that are good at nothing else
    large: bool = False
    #: seconds after which a block is killed
    limit: float = 20.0


class Unfit(Exception):
    """The subject cannot answer; the text is its row in the table."""


def pin_to_one_core() -> None:
    """This process and those that it starts from now on."""
    if not hasattr(os, "sched_setaffinity"):
        raise Unfit("this system cannot pin a process")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


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


def per_task(
    subject: Subject, run: Callable[[int], Any], size: int, probe: int, budget: float = BUDGET
) -> float:
    """Seconds per task of `run(size)`; with fewer tasks where so many do not fit the budget."""
    for _ in range(2):  # a first run may pay for things that the others do not
        cost = timed(lambda: run(probe)) / probe
        count = max(probe, min(size, int(budget / cost)))
        if count == size:
            break
    if count < size:
        subject.note(f"{count} tasks in place of {size}")
    return timed(lambda: run(count)) / count


def several(call: Callable[[], Any], size: int, seconds: float) -> list[float]:
    """Up to `size` samples, at least one, for about so long."""
    until = time.perf_counter() + seconds
    samples = [timed(call)]
    while len(samples) < size and time.perf_counter() < until:
        samples.append(timed(call))
    return samples


def make_case(
    name: str,
    title: str,
    run: Callable[[Subject, int], list[float]],
    needs: str,
    sizes: tuple[int, int],
    rounds: tuple[int, int],
    **more: Any,
) -> Case:
    return Case(
        name, title, more.pop("unit", "s"), run, tuple(needs.split()), sizes, rounds, **more
    )
