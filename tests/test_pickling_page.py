"""`docs/pickling.md` says what is so: each row of its table is tried again."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests import pickling_table
from tests.pickling_rows import ROWS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each row is forked")


@pytest.fixture(scope="module")
def ours() -> dict[str, str]:
    return pickling_table.outcomes("hookpool")


@pytest.mark.parametrize("row", pickling_table.rows(), ids=lambda row: row.label)
def test_carried(row: pickling_table.Row, ours: dict[str, str]) -> None:
    if "numpy" in row.label:
        pytest.importorskip("numpy")
    assert ours[row.label] == pickling_table.CARRIED


def test_every_row_has_a_label_of_its_own() -> None:
    assert len({row.label for row in ROWS}) == len(ROWS)


@pytest.mark.agree
def test_the_table_is_current() -> None:
    """On the Python and with the rivals that the page names; else nothing can be compared."""
    if missing := [name for name in pickling_table.PICKLERS if not importlib.util.find_spec(name)]:
        pytest.skip(f"not installed: {missing}")
    page = pickling_table.PAGE.read_text()
    if pickling_table.subjects() not in page:
        pytest.skip(f"the page was made with others: {pickling_table.subjects()}")
    assert pickling_table.page_with(pickling_table.table()) == page, (
        "stale: run `python -m tests.pickling_table`"
    )
