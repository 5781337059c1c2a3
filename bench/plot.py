"""Pictures of the history, drawn from the files in `bench/history/` and nothing else.

    python -m bench.plot [--history FOLDER] [--plots FOLDER]

latest.png     every case of pools, newest record that has it: time per subject
pools.png      some of them, those of `SHOWN`
picklers.png   every case of picklers, likewise
history.png    hookpool's ratio to the baseline, of those of `SHOWN`, record by record
gain.png       how many times faster our reducers are on the C pickler (bpo-35900) than in Python
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import HISTORY, Record, newest, read, samples_of, subjects_of
from bench.stats import STATISTICS, Interval, pooled, ratio, scaled

PLOTS = Path(__file__).parent / "plots"
OURS = "hookpool"
#: What most programs feel, small calls first.
SHOWN = (
    "round_trip",
    "submit_many",
    "map_many",
    "completed_many",
    "uneven_sleeping",
    "cold_start",
    "second_pool",
    "large_echo",
    "large_captured",
)
OUR_COLOUR, THEIR_COLOUR = "#c2452d", "#8fa3b5"


def latest(records: Sequence[Record]) -> dict[str, Record]:
    """Case -> the newest record that has it; records come oldest first."""
    return {case: record for record in records for case in record["cases"]}


def is_pickler_case(case: str) -> bool:
    return case.startswith(("dumps_", "loads_", "size_"))


def bars(cases: dict[str, Record], title: str, path: Path) -> None:
    """One panel per case, one bar per subject, shorter is better."""
    from matplotlib.figure import Figure

    columns = 3
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(5.2 * columns, 2.7 * lines), layout="constrained")
    figure.suptitle(f"{title} (shorter is better; logarithmic)")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, (case, record) in zip(axes, cases.items(), strict=False):
        _panel(axis, case, record)
    for axis in list(axes)[len(cases) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=90)


def _panel(axis: Any, case: str, record: Record) -> None:
    about = record["cases"][case]
    statistic = about["statistics"][0]
    values = {}
    for subject in subjects_of(record, case):
        samples = pooled(samples_of(record, case, subject))
        if samples:
            values[subject] = STATISTICS[statistic](samples)
    names = list(values)[::-1]
    colours = [OUR_COLOUR if OURS in name else THEIR_COLOUR for name in names]
    drawn = axis.barh(names, [values[name] for name in names], color=colours)
    axis.bar_label(
        drawn, [scaled(values[name], about["unit"]) for name in names], padding=3, fontsize=7
    )
    axis.set_xscale("log")
    axis.margins(x=0.25)
    axis.set_title(f"{case}: {about['title']}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_visible(False)


def gain(cases: dict[str, Record], path: Path) -> bool:
    """Our reducers on the pure-Python pickler, in times of the same on the C pickler.

    Returns:
        Whether a record says anything about it.
    """
    from matplotlib.figure import Figure

    found = {
        record["cases"][case]["title"].removeprefix("dumps: "): interval
        for case, record in cases.items()
        if case.startswith("dumps_") and (interval := gain_of(case, record))
    }
    if not found:
        return False
    order = sorted(found, key=lambda title: found[title].value)
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(order)), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(10, 30, color=THEIR_COLOUR, alpha=0.3, label="promised by bpo-35900: 10 to 30")
    drawn = axis.barh(order, [found[title].value for title in order], color=OUR_COLOUR)
    axis.bar_label(drawn, [f"{found[title].value:.1f}" for title in order], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlabel("time of the same reducers on the pure-Python pickler / on the C pickler")
    axis.tick_params(labelsize=8)
    axis.margins(x=0.1)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=90)
    return True


def gain_of(case: str, record: Record) -> Interval | None:
    """How many times longer a case takes with the pure-Python pickler."""
    in_python, in_c = (samples_of(record, case, name) for name in (f"{OURS}-python", OURS))
    return ratio(in_python, in_c, record["cases"][case]["statistics"][0])


def lines_of_history(records: Sequence[Record], path: Path) -> None:
    """Our ratio to each case's baseline over the records, a panel for each case."""
    from matplotlib.figure import Figure

    columns = 3
    figure = Figure(figsize=(12, 2.3 * -(-len(SHOWN) // columns)), layout="constrained")
    figure.suptitle(f"time of {OURS} / of the case's baseline (below 1: faster), by record")
    for axis, case in zip(figure.subplots(3, columns).flat, SHOWN, strict=False):
        points = _history_of(case, records)
        axis.plot(
            [label for label, _ in points], [ratio for _, ratio in points], "o-", color=OUR_COLOUR
        )
        baseline = next((r["cases"][case]["baseline"] for r in records if case in r["cases"]), "")
        axis.set_title(f"{case} / {baseline}", fontsize=8)
        axis.set_yscale("log")
        axis.axhline(1.0, color=THEIR_COLOUR, linewidth=0.8)
        axis.tick_params(labelsize=6, which="both")
    figure.savefig(path, dpi=90)


def _history_of(case: str, records: Sequence[Record]) -> list[tuple[str, float]]:
    """Day and commit of each record that has a case, and our ratio there."""
    points = []
    for record in records:
        about = record["cases"].get(case)
        if about:
            ours, theirs = (samples_of(record, case, who) for who in (OURS, about["baseline"]))
            interval = ratio(ours, theirs, about["statistics"][0])
            if interval:
                points.append((f"{record['when'][5:10]}\n{record['commit'][:6]}", interval.value))
    return points


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plot")
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--plots", type=Path, default=PLOTS)
    options = parser.parse_args(argv)
    records = [read(path) for path in newest(options.history)]
    if not records:
        raise SystemExit(f"nothing in {options.history}: run `make bench` first")
    options.plots.mkdir(parents=True, exist_ok=True)
    cases = latest(records)
    pools = {case: record for case, record in cases.items() if not is_pickler_case(case)}
    picklers = {case: record for case, record in cases.items() if is_pickler_case(case)}
    if pools:
        bars(pools, "pools", options.plots / "latest.png")
        shown = {case: pools[case] for case in SHOWN if case in pools}
        if shown:
            bars(shown, "pools", options.plots / "pools.png")
    if picklers:
        bars(picklers, "picklers", options.plots / "picklers.png")
        gain(picklers, options.plots / "gain.png")
    lines_of_history(records, options.plots / "history.png")
    print("drawn in", options.plots)


if __name__ == "__main__":
    main()
