"""What hookpool has to reach, row by row, and whether a record shows that it does.

    python -m bench.targets [RECORD.json ...]

Without a record: for each case the newest one in `bench/history/` that has it. Ratios are taken
round by round within one record (see `bench.stats`), as everywhere; the interval is printed, the
verdict goes by the middle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.record import HISTORY, Record, newest, read, samples_of, subjects_of
from bench.stats import STATISTICS, Interval, pooled, ratio, scaled

OURS = "hookpool"
POOL = "pool-hookpool"
#: our own siblings are no peers
SIBLINGS = {"hookpool", "pool-hookpool", "joblib-hookpool"}


class Finding(NamedTuple):
    """What a record says about one target."""

    measured: str
    #: None: it says nothing
    met: bool | None


NOTHING = Finding("-", None)


class Faster(NamedTuple):
    """At least so many times as fast as each of the peers (below 1: at most so much slower)."""

    what: str
    case: str
    times: float
    peers: tuple[str, ...]
    statistic: str = "p50"
    ours: str = OURS

    def must(self) -> str:
        return f"{self.times:g}x of {', '.join(self.peers)}"

    def found(self, record: Record) -> Finding:
        ratios = {
            peer: ratio(
                samples_of(record, self.case, self.ours),
                samples_of(record, self.case, peer),
                self.statistic,
            )
            for peer in self.peers
        }
        known = {peer: times for peer, times in ratios.items() if times}
        if not known:
            return NOTHING
        text = ", ".join(_times(times, peer, len(self.peers) > 1) for peer, times in known.items())
        return Finding(text, max(times.value for times in known.values()) <= 1 / self.times)


def _times(found: Interval, peer: str, named: bool) -> str:
    inverse = sorted((1 / found.low, 1 / found.high))
    text = f"{1 / found.value:.3g}x [{inverse[0]:.3g}, {inverse[1]:.3g}]"
    return f"{peer} {text}" if named else text


class AtMost(NamedTuple):
    """The number itself, whatever the peers need."""

    what: str
    case: str
    most: float

    def must(self) -> str:
        return f"at most {self.most:g}x of the ideal"

    def found(self, record: Record) -> Finding:
        value = _middle(record, self.case, OURS)
        if value is None:
            return NOTHING
        return Finding(scaled(value, record["cases"][self.case]["unit"]), value <= self.most)


class AtMostOr(NamedTuple):
    """A time, or so many times a peer's, whichever is larger."""

    what: str
    case: str
    seconds: float
    times: float
    peer: str

    def must(self) -> str:
        return f"at most {scaled(self.seconds, 's')}, or {self.times:g}x the time of {self.peer}"

    def found(self, record: Record) -> Finding:
        ours, theirs = (_middle(record, self.case, name) for name in (OURS, self.peer))
        if ours is None or theirs is None:
            return NOTHING
        text = f"{scaled(ours, 's')} ({self.peer} {scaled(theirs, 's')})"
        return Finding(text, ours <= max(self.seconds, self.times * theirs))


class First(NamedTuple):
    """No peer is faster."""

    what: str
    case: str

    def must(self) -> str:
        return "first"

    def found(self, record: Record) -> Finding:
        ours = _middle(record, self.case, OURS)
        others = {
            name: value
            for name in subjects_of(record, self.case)
            if name not in SIBLINGS and (value := _middle(record, self.case, name)) is not None
        }
        if ours is None or not others:
            return NOTHING
        best = min(others, key=others.__getitem__)
        text = f"{scaled(ours, 's')}; the best peer, {best}, {scaled(others[best], 's')}"
        return Finding(text, ours <= others[best])


class Flat(NamedTuple):
    """What a task costs does not depend on how many there are."""

    what: str
    case: str
    reference: str
    most: float

    def must(self) -> str:
        return f"at most {self.most:g}x of {self.reference}"

    def found(self, record: Record) -> Finding:
        ours, before = (_middle(record, case, OURS) for case in (self.case, self.reference))
        if ours is None or before is None:
            return NOTHING
        return Finding(f"{ours / before:.3g}x", ours / before <= self.most)


class Bounded(NamedTuple):
    """At most so many bytes."""

    what: str
    case: str
    most: float

    def must(self) -> str:
        return f"at most {scaled(self.most, 'B')}"

    def found(self, record: Record) -> Finding:
        value = _middle(record, self.case, OURS)
        if value is None:
            return NOTHING
        return Finding(scaled(value, "B"), value <= self.most)


Target = Faster | AtMost | AtMostOr | First | Flat | Bounded


def _middle(record: Record, case: str, subject: str) -> float | None:
    if case not in record["cases"]:
        return None
    samples = pooled(samples_of(record, case, subject))
    return STATISTICS["p50"](samples) if samples else None


def _faster(what: str, case: str, times: float, *peers: str) -> Faster:
    """Of picklers, whose best turn counts."""
    return Faster(what, case, times, peers, "min")


_DATA = ("nested", "decimals", "datetimes", "fractions", "objects", "slotted", "arrays")
PICKLERS: tuple[Target, ...] = (
    *(_faster(f"dumps: {shape}", f"dumps_{shape}", 1 / 1.35, "pickle") for shape in _DATA),
    _faster("dumps: a tiny tuple", "dumps_tuple", 1 / 4, "pickle"),
    _faster("dumps: a dynamic dataclass", "dumps_dataclass", 1 / 1.3, "pickle"),
    _faster("dumps: a lambda", "dumps_lambda", 4, "cloudpickle"),
    _faster("dumps: a lambda, first time", "dumps_lambda_first", 2, "cloudpickle"),
    _faster("dumps: a closure", "dumps_closure", 4, "cloudpickle"),
    _faster("dumps: a closure, first time", "dumps_closure_first", 2, "cloudpickle"),
    _faster("dumps: a decorated function", "dumps_decorated", 3, "cloudpickle"),
    _faster("dumps: a class", "dumps_class", 2, "cloudpickle"),
    _faster("dumps: a class, first time", "dumps_class_first", 2, "cloudpickle"),
    Flat("dumps: numpy, pandas, sklearn used", "dumps_packages", "dumps_function", 3),
    _faster("loads: a lambda", "loads_lambda", 2, "cloudpickle"),
    _faster("loads: a closure", "loads_closure", 2, "cloudpickle"),
    _faster("loads: a class", "loads_class", 2, "cloudpickle"),
    _faster("size: a lambda", "size_lambda", 1 / 1.1, "cloudpickle"),
    # What bpo-35900 promised of reducers on the C pickler.
    *(
        _faster(f"in C: {shape}", f"dumps_{shape}", 10, "hookpool-python")
        for shape in ("nested", "objects", "slotted", "decimals")
    ),
)

TARGETS: tuple[Target, ...] = (
    *PICKLERS,
    Faster("round trip", "round_trip", 8, ("ppe-fork",)),
    Faster("round trip", "round_trip", 2, ("pool-fork",)),
    Faster("round trip on one core", "round_trip_one_core", 8, ("ppe-fork",)),
    Faster("round trip on one core", "round_trip_one_core", 2, ("pool-fork",)),
    Faster("submit, then results", "submit_many", 12, ("ppe-fork",)),
    Faster("map of a lambda", "map_many", 80, ("ppe-fork", "loky")),
    Faster("map of a lambda", "map_many", 2.5, ("joblib",)),
    AtMostOr("map of a lambda", "map_many", 1.2e-6, 3, "pool-fork"),
    Faster("as_completed", "completed_many", 4, ("ppe-fork",)),
    AtMost("1 ms, sleeping", "short_sleeping", 1.05),
    AtMost("1 ms, spinning", "short_spinning", 1.10),
    AtMost("0.1 ms and some 200 ms, sleeping", "uneven_sleeping", 1.10),
    AtMost("0.1 ms and some 200 ms, spinning", "uneven_spinning", 1.20),
    Faster("10 MB closure, map", "big_closure", 50, ("ppe-fork", "loky")),
    First("10 MB closure, map", "big_closure"),
    First("10 MB closure, submit", "big_closure_submit"),
    Faster("1 000 dataclass instances", "many_objects", 1, ("ppe-fork",)),
    Faster("100 MB argument", "large_argument", 20, ("ppe-fork", "loky")),
    Faster("100 MB result", "large_result", 20, ("ppe-fork", "loky")),
    Faster("100 MB echo", "large_echo", 20, ("ppe-fork", "loky")),
    # These are what ray is measured for, where it is installed.
    First("100 MB argument", "large_argument"),
    First("100 MB result", "large_result"),
    First("100 MB echo", "large_echo"),
    First("100 MB argument, the first", "large_argument_first"),
    First("100 MB result, the first", "large_result_first"),
    First("100 MB echo, the first", "large_echo_first"),
    AtMost("100 MB argument", "large_argument_ideal", 2),
    AtMost("100 MB result", "large_result_ideal", 2),
    AtMost("100 MB echo", "large_echo_ideal", 2),
    Faster("100 MB for 100 tasks, put", "large_put", 2, ("joblib",)),
    Faster("100 MB for 100 tasks, captured", "large_captured", 2, ("joblib",)),
    Faster("100 MB for 100 tasks, repeated", "large_repeated", 2, ("joblib",)),
    Faster("1 MB each way", "large_many", 5, ("ppe-fork", "loky", "joblib", "mpire", "pebble")),
    Faster("pandas frame of 50 MB", "large_frame", 10, ("ppe-fork",)),
    First("pandas frame of 50 MB", "large_frame"),
    Faster("bytes of 100 MB", "large_bytes", 4, ("ppe-fork",)),
    # The array, one copy, and what a slot is longer than what is in it.
    Bounded("memory for a 100 MB argument", "large_memory", 2.1e8),
    AtMost("small messages beside large ones", "large_beside", 1.03),
    First("numerical", "scenario_numerical"),
    First("stateful", "scenario_stateful"),
    First("costly initialization", "scenario_initialization"),
    Flat("cost of a task among 1e6", "map_1e6", "map_1e4", 1.25),
    Bounded("memory while results are taken", "memory_of_a_stream", 4e6),
    Faster("cold start", "cold_start", 1 / 0.4, ("loky",)),
    Faster("cold start", "cold_start", 1 / 0.8, ("ppe-spawn",)),
    Faster("second pool", "second_pool", 1 / 0.2, ("loky", "ppe-spawn")),
    Faster("recycling", "recycling", 5, ("ppe-spawn",)),
    # Without the executor, as the row of the issue has it: our Pool's line imports just that.
    Faster("import hookpool", "import_time", 1 / 1.5, ("ppe-fork",), ours=POOL),
    Faster("Process, start and join", "process_start_join", 5, ("pool-spawn",), ours=POOL),
    Faster("Process, start and join", "process_start_join", 1, ("pool-forkserver",), ours=POOL),
    Faster("memory of an idle worker", "idle_memory", 1, ("ppe-spawn",)),
)


def rows(records: Sequence[Record]) -> list[tuple[Target, Finding]]:
    """Each target with what the newest record that has its case says; records: oldest first."""
    having = {case: record for record in records for case in record["cases"]}
    return [
        (target, target.found(having[target.case]) if target.case in having else NOTHING)
        for target in TARGETS
    ]


def table(records: Sequence[Record]) -> str:
    """The rows that are known, and how many are met."""
    found = [(target, finding) for target, finding in rows(records) if finding.met is not None]
    lines = [
        f"  {target.what:34}{target.must():44}{'met' if finding.met else 'MISSED':8}"
        f"{finding.measured}"
        for target, finding in found
    ]
    met = sum(bool(finding.met) for _, finding in found)
    head = f"targets: {met} of {len(found)} met"
    if len(found) < len(TARGETS):
        head += f"; {len(TARGETS) - len(found)} not measured"
    return "\n".join([head, *lines]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.targets")
    parser.add_argument("records", nargs="*", type=Path)
    parser.add_argument("--history", type=Path, default=HISTORY)
    options = parser.parse_args(argv)
    paths = options.records or newest(options.history)
    print(table([read(path) for path in paths]))


if __name__ == "__main__":
    main()
