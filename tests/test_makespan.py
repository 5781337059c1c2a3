"""How long a map takes by the scheduler's decisions, next to the shortest time: a simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookpool import _scheduler, _worker
from tests.simulated_pool import DECISION, LATENCY, list_schedule, makespan

#: Until workers are there, and the last result is: some messages.
ENDS = 10 * (LATENCY + DECISION)


def _drawn(draw, count):
    generator = random.Random(7)
    return [draw(generator) for _ in range(count)]


SHAPES = {
    "growing": [1e-6 * 1.0015**at for at in range(6000)],
    "falling": [1e-6 * 1.0015**at for at in range(6000, 0, -1)],
    "long after tiny": [1e-6] * 2000 + [0.9e-3] * 2000,
    "tiny after long": [0.9e-3] * 2000 + [1e-6] * 2000,
    "turn and turn about": [1e-6, 5e-3] * 500,
    "any up to 2 ms": _drawn(lambda draw: draw.uniform(0, 2e-3), 3000),
    "exponential": _drawn(lambda draw: draw.expovariate(1000), 3000),
    "some of 200 ms": _drawn(lambda draw: 0.2 if draw.random() < 0.002 else 1e-4, 5000),
    "with a long tail": _drawn(lambda draw: min(0.5, 1e-5 * draw.paretovariate(0.8)), 6000),
}


def test_the_scheduler_counts_on_reports_as_often_as_workers_send_them():
    """A millisecond until the report and one for the answer."""
    left = _scheduler.AHEAD_SECONDS - _scheduler.REFILL_SECONDS
    assert left == 2 * _worker.FLUSH_SECONDS


@pytest.mark.parametrize("latency", [LATENCY, 6 * LATENCY], ids=["quiet", "busy"])
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize(
    "micros", [5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 990, 1000, 1500, 2500, 9000]
)
def test_no_worker_waits_between_tasks_of_one_length(micros, workers, latency):
    durations = [micros * 1e-6] * max(20 * workers, 500_000 // micros)

    took = makespan(durations, workers, latency=latency)

    assert took <= 1.02 * list_schedule(durations, workers) + 10 * (latency + DECISION)


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_uneven_tasks_take_little_longer_than_if_the_free_one_always_had_the_next(shape, workers):
    durations = SHAPES[shape]

    took = makespan(durations, workers)

    # What a worker holds when there is nothing else left is the unevenness that remains.
    assert took <= 1.02 * list_schedule(durations, workers) + 2 * _scheduler.OVERLOAD_SECONDS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.sampled_from([1e-6, 3e-5, 4e-4, 9e-4, 2e-3, 0.05])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 16),
)
def test_many_at_a_time_are_never_worse_than_one_by_one(pieces, workers):
    durations = [seconds for count, seconds in pieces for _ in range(count)]

    one_by_one = makespan(durations, workers, claims=False)

    # Any order of tasks may end a task later or earlier than another.
    spare = max(durations) + _scheduler.OVERLOAD_SECONDS + ENDS
    assert makespan(durations, workers) <= one_by_one + spare
