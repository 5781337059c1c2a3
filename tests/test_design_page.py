"""The page on the design says what the code does."""

from __future__ import annotations

from tests.design_tables import PAGE, filled


def test_the_tables_of_the_design_page_are_those_of_the_code():
    page = PAGE.read_text()

    assert page == filled(page), "stale: run `python -m tests.design_tables`"
