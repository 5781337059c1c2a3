"""Puts the tables of one record into the documentation, letter by letter as the run printed them.

    python -m bench.page [RECORD.json] [--page docs/performance.md]

Without a record: for each case the newest record named "full" that has it. What stands between the
two marks of the page is replaced, the rest of the page is written by hand and has no numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import table, targets
from bench.record import HISTORY, Record, newest, read
from bench.run import lambda_note

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
START, END = "<!-- tables: start -->", "<!-- tables: end -->"


def tables(records: Sequence[Record]) -> str:
    """The targets, then a block per record, newest first: the cases that no newer record has."""
    seen: set[str] = set()
    blocks = [f"```text\n{targets.table(records)}```\n"]
    for record in reversed(records):
        cases = [case for case in record["cases"] if case not in seen]
        seen.update(cases)
        if cases:
            text = "\n".join(table.of_case(record, case, lambda_note) for case in cases)
            blocks.append(f"{_origin(record)}\n\n```text\n{text}```\n")
    return "\n".join(blocks)


def _origin(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    dirty = " (with uncommitted changes)" if record["dirty"] else ""
    return (
        f"Commit {record['commit']}{dirty}, {record['when'][:10]}; {record['cpu']}, "
        f"{record['cores']} cores, {record['system'].split()[0]}, Python {record['python']}; load "
        f"{record['load_before']} before and {record['load_after']} after; {versions}."
    )


def filled(page: str, text: str) -> str:
    """The page with new tables between its marks."""
    head, found, rest = page.partition(START)
    _, found_end, tail = rest.partition(END)
    if not (found and found_end):
        raise SystemExit(f"the page lacks its marks {START} and {END}")
    return f"{head}{START}\n\n{text}\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page")
    parser.add_argument("record", nargs="?", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--history", type=Path, default=HISTORY)
    options = parser.parse_args(argv)
    paths = [options.record] if options.record else newest(options.history)
    records = [read(path) for path in paths]
    if not options.record:
        records = [record for record in records if record["name"] == "full"]
    if not records:
        raise SystemExit(f"no full run in {options.history}: run `make bench` first")
    options.page.write_text(filled(options.page.read_text(), tables(records)))
    print("written:", options.page)


if __name__ == "__main__":
    main()
