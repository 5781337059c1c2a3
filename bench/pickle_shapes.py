"""What the picklers are given: importable classes, and suppliers of objects by value.

A supplier takes `(by_value, count)` and returns `count` objects: the same object over and over
where a case is about something seen before, new ones where it is about the first time. `by_value`
is false for picklers that know importable things only; they get the nearest importable thing, so
that there is something to compare with.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import fractions
import functools
import types
from collections.abc import Callable
from typing import Any

Supplier = Callable[[bool, int], list[Any]]


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


class SlottedPoint:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


@dataclasses.dataclass
class Row:
    name: str
    value: float
    tags: tuple[str, ...]


def same(make: Callable[[], Any]) -> Supplier:
    def supply(by_value: bool, count: int) -> list[Any]:
        return [make()] * count

    return supply


def nested() -> Any:
    return {
        f"group {g}": [{"id": i, "pair": (i, str(i)), "flags": [True, None]} for i in range(125)]
        for g in range(100)
    }


def decimals() -> Any:
    return [decimal.Decimal(i) / 7 for i in range(1000)]


def datetimes() -> Any:
    start = datetime.datetime(2019, 6, 4, 12, tzinfo=datetime.UTC)
    return [start + datetime.timedelta(minutes=i) for i in range(1000)]


def many_fractions() -> Any:
    return [fractions.Fraction(i, 7) for i in range(1000)]


def points() -> Any:
    return [Point(i, -i) for i in range(1000)]


def slotted_points() -> Any:
    return [SlottedPoint(i, -i) for i in range(1000)]


def small_arrays() -> Any:
    import numpy

    return [numpy.arange(4.0) + i for i in range(1000)]


def tiny_tuple() -> Any:
    return (1, "two", 3.0)


def a_lambda() -> Any:
    return lambda x: x * 2


def a_closure() -> Any:
    table, offset = {"a": 1}, 3
    return lambda x: table.get(x, offset)


def a_decorated_function() -> Any:
    def twice(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            fn(*args, **kwargs)
            return fn(*args, **kwargs)

        return wrapper

    @twice
    def decorated(x: int) -> int:
        """Return one more."""
        return x + 1

    return decorated


def a_class() -> Any:
    body = "\n".join(f"    def m{i}(self, x): return x + {i}" for i in range(10))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(f"class TenMethods:\n{body}\n", namespace)
    return namespace["TenMethods"]


def anew(make: Callable[[], Any]) -> Supplier:
    """Functions of code nobody has seen: equal to no other, since their first lines differ."""

    def supply(by_value: bool, count: int) -> list[Any]:
        return [_with_new_code(make(), number) for number in range(count)]

    return supply


_line = 1000


def _with_new_code(fn: Any, number: int) -> Any:
    global _line
    _line += 1
    fn.__code__ = fn.__code__.replace(co_firstlineno=_line)
    wrapped = getattr(fn, "__wrapped__", None)
    if isinstance(wrapped, types.FunctionType):
        wrapped.__code__ = wrapped.__code__.replace(co_firstlineno=_line)
    return fn


def classes_anew(by_value: bool, count: int) -> list[Any]:
    return [a_class() for _ in range(count)]


def rows(by_value: bool, count: int) -> list[Any]:
    """1 000 instances: of an importable dataclass, or of one made on the spot."""
    cls: Any = Row
    if by_value:
        cls = dataclasses.make_dataclass("Row", [("name", str), ("value", float), ("tags", tuple)])
        cls.__module__ = "__main__"
    return [[cls(str(i), i / 3, ("a", "b")) for i in range(1000)]] * count


def function_of_nothing() -> Any:
    """The twin of the next one, with as many lines and names, but none of a package."""
    _import_the_world()
    source = (
        "def f(a):\n    frame = dict(x=a)\n    model = list(frame)\n    return sum(model), frame"
    )
    return _function_from(source, {})


def function_of_packages() -> Any:
    import numpy
    import pandas
    import sklearn.linear_model

    _import_the_world()
    source = (
        "def f(a):\n    frame = pandas.DataFrame(dict(x=numpy.asarray(a)))\n"
        "    model = sklearn.linear_model.LinearRegression()\n    return model.fit(frame, frame.x)"
    )
    return _function_from(source, {"numpy": numpy, "pandas": pandas, "sklearn": sklearn})


def _function_from(source: str, names: dict[str, Any]) -> Any:
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace["f"]


def _import_the_world() -> None:
    """About what a data scientist's session has loaded."""
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
