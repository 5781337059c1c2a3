"""The page on the design says what the code does."""

from __future__ import annotations

import re

import pytest

from tests.design_tables import GAMES_IN_TEST, PAGE, place, tables


def rows(table):
    """What the last column names, by all that stands before it."""
    split = (line.rpartition(" | ") for line in table.splitlines())
    return {said: set(re.findall(r"`(\w+)`", names)) for said, _, names in split}


@pytest.fixture(scope="module")
def seen():
    return tables(GAMES_IN_TEST)


@pytest.mark.parametrize("name", ["events", "states"])
def test_the_design_page_has_all_that_the_code_was_seen_to_do(seen, name):
    found = place(name).search(PAGE.read_text())
    assert found, f"docs/design.md has no place for the table {name!r}"
    page = rows(found[1])

    missing = {said: names - page.get(said, set()) for said, names in rows(seen[name]).items()}

    assert page.keys() >= missing.keys(), "stale: run `python -m tests.design_tables`"
    assert not any(missing.values()), "stale: run `python -m tests.design_tables`"


def test_the_design_page_names_each_event_once_and_as_the_code_does(seen):
    found = place("events").search(PAGE.read_text())
    assert found

    assert list(rows(found[1])) == list(rows(seen["events"]))
