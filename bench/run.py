"""Run the cases on the subjects, interleaved, and keep every sample.

    python -m bench.run [--quick] [--cases NAME,...] [--subjects NAME,...] [--rounds N] [--no-save]

Rounds go A B C, then C B A, and so on; each block is a process (and session) of its own, ended at
the case's limit. A subject that hangs or dies is a line in the table, never the end of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import pickle_bench, record, table, targets
from bench.cases import CASES, Case
from bench.subjects import QUICK, SUBJECTS, Subject, is_supported

BLOCK = ["-m", "bench.block"]
#: seconds a block gets to stop its pool after its outcome is written, and its trackers to clean up
GRACE = 3.0
#: stops failing subjects from eating the run: after so many failed blocks of a case it is not
#: asked again
STRIKES = 1


def selected(names: Sequence[str], patterns: str | None) -> list[str]:
    """The names that match any of the comma-separated patterns, in their own order."""
    if not patterns:
        return list(names)
    wanted = patterns.split(",")
    for pattern in wanted:
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"nothing is called {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatch(name, one) for one in wanted)]


def able(case: Case, subjects: Sequence[str]) -> list[str]:
    """The subjects that can do the case, and differ in it."""
    found = [SUBJECTS[name]() for name in subjects]
    found = [subject for subject in found if is_supported(subject) and subject.can(case.needs)]
    if not case.large:
        found = [subject for subject in found if not subject.only_large]
    if not case.starts:
        found = [subject for subject in found if not subject.only_starts] or found
    if not case.needs:  # all that is asked of a subject is its import: once per import is enough
        found = list({subject.import_line: subject for subject in reversed(found)}.values())[::-1]
    return [subject.name for subject in found]


def rounds(subjects: Sequence[str], count: int) -> Iterator[tuple[int, str]]:
    """(round, subject), every other round backwards: what drifts hits all subjects alike."""
    for number in range(count):
        for name in subjects if number % 2 == 0 else reversed(subjects):
            yield number, name


def run_block(subject: str, case: Case, size: int, folder: Path) -> dict[str, Any]:
    """The outcome of one block, whatever happens to it."""
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *BLOCK, subject, case.name, str(size), str(outcome)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        try:
            timed_out = not _wait_until_settled(process, outcome, case.limit)
        finally:
            _end_session(process)
        if outcome.exists():
            result: dict[str, Any] = json.loads(outcome.read_text())
            return result
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:200]
    if timed_out:
        return {"status": "hung", "why": f"hung: killed after {case.limit:g} s"}
    return {"status": "died", "why": f"died with exit code {process.returncode}: {last}"}


def _wait_until_settled(process: subprocess.Popen[bytes], outcome: Path, limit: float) -> bool:
    """Wait for the process to end: until its limit, or, once it has reported, a little longer."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            return True
        if outcome.exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            return True
    return False


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a block outlives it. Resource trackers get a moment to remove what they track."""
    group = process.pid
    process.kill()
    process.wait()
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def run_case(
    case: Case, subjects: Sequence[str], quick: bool, into: record.Record, most: int | None = None
) -> None:
    """All rounds of the case, `most` at most, into the record."""
    size, count = case.sizes[not quick], max(case.rounds[not quick], 1)
    count = count if most is None else min(count, most)
    began = time.monotonic()
    into["cases"][case.name] = {
        "title": case.title,
        "unit": case.unit,
        "statistics": list(case.statistics),
        "baseline": case.baseline,
        "size": size,
    }
    failures = dict.fromkeys(subjects, 0)
    with tempfile.TemporaryDirectory() as folder:
        for number, name in rounds(subjects, count):
            if failures[name] >= STRIKES or (number and SUBJECTS[name].once):
                continue
            block = run_block(name, case, size, Path(folder))
            failures[name] += block["status"] != "ok"
            label = {"case": case.name, "subject": name, "round": number, "load": record.load()}
            into["blocks"].append(label | block)
    into["cases"][case.name]["seconds"] = round(time.monotonic() - began, 1)


def lambda_note(name: str) -> str:
    subject: type[Subject] | None = SUBJECTS.get(name)
    return "" if subject is None or subject.takes_lambdas else "importable function"


def quick_cases() -> list[str]:
    return [case.name for case in CASES.values() if case.rounds[0]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run")
    parser.add_argument("--quick", action="store_true", help="under a minute, for a first look")
    parser.add_argument("--cases", help="comma-separated names or patterns")
    parser.add_argument("--subjects", help="comma-separated names or patterns")
    parser.add_argument("--rounds", type=int, help="at most so many rounds of each case of pools")
    parser.add_argument("--name", help="the last part of the file name (default: full or quick)")
    parser.add_argument("--no-save", action="store_true", help="print the table, keep nothing")
    parser.add_argument("--folder", type=Path, default=record.HISTORY, help="where records go")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    cases = selected([*CASES, *pickle_bench.SHAPES], options.cases)
    subjects = selected(list(SUBJECTS), options.subjects)
    if options.quick:
        cases = cases if options.cases else [*quick_cases(), *pickle_bench.QUICK]
        subjects = subjects if options.subjects else list(QUICK)
    packages = [package for name in subjects for package in SUBJECTS[name].packages]
    into = record.begin(
        options.name or ("quick" if options.quick else "full"),
        [*packages, *pickle_bench.PACKAGES, "numpy"],
    )
    began = time.monotonic()
    for name in cases:
        if name in CASES:
            run_case(CASES[name], able(CASES[name], subjects), options.quick, into, options.rounds)
        else:
            pickle_bench.run_shape(name, options.quick, into)
        print(table.of_case(into, name, lambda_note), flush=True)
        print(f"  {time.monotonic() - began:.0f} s so far\n", flush=True)
    print(targets.table([into]))
    into["seconds"] = round(time.monotonic() - began, 1)
    print(f"{into['seconds']} s; load {into['load_before']} before, {record.load()} after")
    if not options.no_save:
        print("kept in", os.path.relpath(record.save(into, options.folder)))


if __name__ == "__main__":
    # So that the session of the block that runs is ended in this case, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
