"""The arithmetic of the benchmarks: pure functions over lists of numbers, no files, no processes.

The unit of everything is the *round*: in one round each subject had one block, within seconds of
the others. A shared machine moves by a factor between minutes, so two subjects are compared round
by round, and the interval of their ratio comes from drawing rounds with replacement. With the
handful of rounds that fit into minutes such an interval is on the narrow side; it says "the rounds
of this run agree so well", not more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Rounds = Mapping[int, Sequence[float]]  # round -> samples of one subject

RESAMPLES = 2000


class Interval(NamedTuple):
    """A value and where 95 % of its redrawn values lie."""

    value: float
    low: float
    high: float

    def holds(self, number: float) -> bool:
        return self.low <= number <= self.high


def quantile(samples: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics, as numpy's default."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(samples: Sequence[float]) -> float:
    return quantile(samples, 0.5)


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": median,
    "p99": lambda samples: quantile(samples, 0.99),
    "min": min,
}


def pooled(rounds: Rounds) -> list[float]:
    return [sample for samples in rounds.values() for sample in samples]


def spread(samples: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    middle = median(samples)
    return (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2 / middle if middle else 0.0


def round_ratios(subject: Rounds, baseline: Rounds, statistic: str) -> list[float]:
    """Subject over baseline in each round that has both."""
    reduce = STATISTICS[statistic]
    both = [number for number in sorted(subject) if subject[number] and baseline.get(number)]
    return [reduce(subject[number]) / reduce(baseline[number]) for number in both]


def bootstrap(draw: Callable[[random.Random], float], value: float) -> Interval:
    """The interval of a value from what `draw` gives; seeded: a file always prints one table."""
    source = random.Random(20190604)
    values = [draw(source) for _ in range(RESAMPLES)]
    return Interval(value, quantile(values, 0.025), quantile(values, 0.975))


def ratio(subject: Rounds, baseline: Rounds, statistic: str = "p50") -> Interval | None:
    """How many times the baseline the subject takes; None where no round has both."""
    ratios = round_ratios(subject, baseline, statistic)
    if not ratios:
        return None
    return bootstrap(lambda source: median(_redrawn(ratios, source)), median(ratios))


def change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """What became of a value, from the ratios of two independent runs."""
    return bootstrap(
        lambda source: median(_redrawn(after, source)) / median(_redrawn(before, source)),
        median(after) / median(before),
    )


def _redrawn(values: Sequence[float], source: random.Random) -> list[float]:
    return source.choices(values, k=len(values))


def scaled(value: float, unit: str) -> str:
    """A number a person reads: 3.2 us, 45 MB, 1.07x."""
    if unit == "x":
        return f"{value:.3g}x"
    steps = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
        "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    }[unit]
    for factor, name in steps:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value:.3g} {unit}"
