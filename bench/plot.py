"""Pictures of the history, drawn from the files in `bench/history/` and nothing else.

    python -m bench.plot [--history FOLDER] [--plots FOLDER]

latest.png     every case of pools, newest record that has it: time per subject
picklers.png   every case of picklers, likewise
history.png    hookpool's ratio to the baseline, case by case, record by record
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
    """Our ratio to each case's baseline over the records."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axis = figure.subplots()
    for case in latest(records):
        points = []
        for number, record in enumerate(records):
            about = record["cases"].get(case)
            if about:
                ours = samples_of(record, case, OURS)
                theirs = samples_of(record, case, about["baseline"])
                interval = ratio(ours, theirs, about["statistics"][0])
                if interval:
                    points.append((number, interval.value))
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=case)
    axis.set_yscale("log")
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_ylabel(f"{OURS} / baseline of the case (below 1: faster)")
    labels = [f"{record['when'][:10]}\n{record['commit']}" for record in records]
    axis.set_xticks(range(len(records)), labels, fontsize=7)
    if axis.lines[1:]:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    figure.savefig(path, dpi=90)


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
    if picklers:
        bars(picklers, "picklers", options.plots / "picklers.png")
        gain(picklers, options.plots / "gain.png")
    lines_of_history(records, options.plots / "history.png")
    print("drawn in", options.plots)


if __name__ == "__main__":
    main()
