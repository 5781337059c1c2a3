"""A case of a record as lines of text."""

from __future__ import annotations

from collections.abc import Callable

from bench.record import Record, remarks_on, samples_of, subjects_of
from bench.stats import STATISTICS, Interval, Rounds, pooled, ratio, scaled, spread


def of_case(record: Record, case: str, note: Callable[[str], str] = lambda name: "") -> str:
    """The statistic the case asks for, spread, times the baseline with its interval."""
    about = record["cases"][case]
    lines = [f"{case}: {about['title']}"]
    for statistic in about["statistics"]:
        lines.append(f"  {'':18}{statistic:>10}  {'spread':>6}  times {about['baseline']}")
        lines += [
            _row(record, case, subject, statistic, note(subject))
            for subject in subjects_of(record, case)
        ]
    return "\n".join(lines) + "\n"


def _row(record: Record, case: str, subject: str, statistic: str, note: str) -> str:
    about = record["cases"][case]
    rounds = samples_of(record, case, subject)
    remarks = remarks_on(record, case, subject) + ([note] if note else [])
    remark = f"  ({'; '.join(remarks)})" if remarks else ""
    if not rounds:
        return f"  {subject:18}{'-':>10}{remark}"
    samples = pooled(rounds)
    value = scaled(STATISTICS[statistic](samples), about["unit"])
    times = ratio(rounds, samples_of(record, case, about["baseline"]), statistic)
    return (
        f"  {subject:18}{value:>10}  {spread(samples):>6.1%}  {_compared(times, rounds)}{remark}"
    )


def _compared(times: Interval | None, rounds: Rounds) -> str:
    if times is None:
        return "no baseline"
    if len(rounds) == 1:
        return f"{times.value:.3g} (one round)"
    return f"{times.value:.3g} [{times.low:.3g}, {times.high:.3g}]"
