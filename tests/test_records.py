"""`Record` against `typing.NamedTuple`, whose place it takes."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from hookpool._records import Record


class Point(Record):
    """Where something is."""

    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        """Both."""
        return self.x + self.y

    def moved(self, by: int) -> Point:
        """Elsewhere."""
        return self._replace(x=self.x + by)


class TypingPoint(typing.NamedTuple):
    """Where something is."""

    x: int
    y: int = 2


class Nothing(Record):
    """Has no fields."""


@pytest.mark.parametrize("name", ["_fields", "_field_defaults", "__match_args__"])
def test_a_record_says_of_its_fields_what_a_named_tuple_does(name: str) -> None:
    assert getattr(Point, name) == getattr(TypingPoint, name)


def test_it_is_a_tuple_with_names_and_defaults() -> None:
    point = Point(1)
    assert point == (1, 2) == tuple(TypingPoint(1))
    assert (point.x, point.y, repr(point)) == (1, 2, "Point(x=1, y=2)")
    assert Point(y=4, x=3) == (3, 4)
    assert Point.__bases__ == TypingPoint.__bases__
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]


def test_it_has_what_its_class_statement_says_besides() -> None:
    assert Point(1).sum == 3
    assert Point(1).moved(4) == (5, 2)
    assert (Point.__doc__, Point.__module__) == ("Where something is.", __name__)
    assert Point.__qualname__ == TypingPoint.__qualname__.removeprefix("Typing")


def test_it_is_matched_by_place_and_by_name() -> None:
    value: Any = Point(1)
    match value:
        case Nothing():
            found = ()
        case Point(x, y=y):
            found = (x, y)
    assert found == (1, 2)


def test_it_is_pickled_by_name() -> None:
    again = pickle.loads(pickle.dumps(Point(1)))
    assert type(again) is Point
    assert again == Point(1)


def test_one_without_fields_is_an_empty_tuple() -> None:
    assert Nothing() == ()
    assert Nothing._fields == ()
