"""What became of each number between two runs.

    python -m bench.compare A.json B.json [--cases NAME,...] [--subjects NAME,...]

A machine moves between runs, so times of two runs are not compared. What is compared is each
subject's ratio to the case's baseline, measured in the same rounds; the change is (ratio in B) /
(ratio in A), with an interval from redrawing the rounds of both. An interval that holds 1 is "no
difference", whatever the middle says.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.record import Record, read, samples_of, subjects_of
from bench.stats import Interval, change, round_ratios

#: with fewer rounds on a side an interval says nothing
ENOUGH = 3


class Change(NamedTuple):
    """One line; the interval is None where one of the runs has nothing to compare."""

    case: str
    statistic: str
    subject: str
    interval: Interval | None
    rounds: int

    def verdict(self) -> str:
        if self.interval is None:
            return "not in both runs"
        if self.rounds < ENOUGH:
            return f"no verdict from {self.rounds} round{'s' * (self.rounds > 1)}"
        if self.interval.holds(1.0):
            return "no difference"
        return "slower" if self.interval.value > 1 else "faster"


def changes(before: Record, after: Record) -> Iterator[Change]:
    """Every case, statistic and subject that both runs know."""
    for case, about in after["cases"].items():
        if case not in before["cases"]:
            continue
        for statistic in about["statistics"]:
            for subject in subjects_of(after, case):
                if subject != about["baseline"]:
                    yield _change_of(before, after, case, statistic, subject)


def _change_of(before: Record, after: Record, case: str, statistic: str, subject: str) -> Change:
    baseline = after["cases"][case]["baseline"]
    ratios = [
        round_ratios(
            samples_of(record, case, subject), samples_of(record, case, baseline), statistic
        )
        for record in (before, after)
    ]
    interval = change(ratios[0], ratios[1]) if all(ratios) else None
    return Change(case, statistic, subject, interval, min(map(len, ratios)))


def line(found: Change) -> str:
    start = f"  {found.subject:18}{found.statistic:>4}"
    if found.interval is None:
        return f"{start}  {found.verdict()}"
    value, low, high = found.interval
    return f"{start}  {value:6.3f} [{low:.3f}, {high:.3f}]  {found.verdict()}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--cases", default="*", help="comma-separated names or patterns")
    parser.add_argument("--subjects", default="*", help="comma-separated names or patterns")
    options = parser.parse_args(argv)
    before, after = read(options.before), read(options.after)
    for key in ("cpu", "python", "cores"):
        if before[key] != after[key]:
            print(f"not the same {key}: {before[key]} and {after[key]}")
    last = ""
    for found in changes(before, after):
        if _matches(found.case, options.cases) and _matches(found.subject, options.subjects):
            if found.case != last:
                last = found.case
                print(f"{last} (of the ratio to {after['cases'][last]['baseline']})")
            print(line(found))


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split(","))


if __name__ == "__main__":
    main()
