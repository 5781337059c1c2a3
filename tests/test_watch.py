"""What a watch sees: each change that shows in a pickle, and none where there is none."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

import hookpool
from hookpool import _watch
from hookpool._worker_pickler import worker_dumps

# Source, so that each test has functions and globals of its own.
SOURCE = """
import json, os.path
from math import sqrt
factor = 2
small = 0.0

def even(n, of=1): return n == 0 or odd(n - of)
def odd(n): return n != 0 and even(n - 1)
def scaled(x: int, y: "float" = 1.5) -> "Result": return x * factor * small
def named(x): return json.dumps(x), sqrt(x)
def submodule(x): return os.path.join(x)
def counter():
    count, start = 0, "a"
    return lambda: (count, start)
counted = counter()
def undefined(): return nowhere
def caught(items=[]): return items
def attributed(): pass
attributed.mark = 1
def held(): return box
box = [1]
def configured(): return options["level"], pair
options, pair = {"level": 1, "name": "n"}, (1, "a")
def collecting():
    seen = {1, 2}
    return lambda: seen
collected = collecting()
def nested(): return [inner]
inner = [[1]]
def long(): return items
items = list(range(1000))
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that no other process can import."""
    module = types.ModuleType("watched_module")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(SOURCE, vars(module))
    return module


WATCHED = [
    *("even", "odd", "scaled", "named", "submodule", "counted", "undefined"),
    *("held", "configured", "collected"),
]


@pytest.mark.parametrize("name", WATCHED)
def test_what_has_not_changed_is_not_pickled_again(made, name):
    fn = getattr(made, name)
    seen = _watch.watch(fn)
    assert seen is not _watch.NOTHING
    assert seen.is_unchanged(fn)
    assert seen.is_unchanged(fn)


@pytest.mark.parametrize("name", ["caught", "attributed", "nested", "long"])
def test_what_may_change_from_within_is_never_said_to_be_the_same(made, name):
    fn = getattr(made, name)
    assert not _watch.watch(fn).is_unchanged(fn)


def _set_cell(made: Any, index: int, value: Any) -> None:
    made.counted.__closure__[index].cell_contents = value


def _empty_cell(made: Any) -> None:
    del made.counted.__closure__[0].cell_contents


class Undecided:
    """Compares as an array does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


#: The function, and what is done to it or to what it captures.
CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a global": ("scaled", lambda made: setattr(made, "factor", 3)),
    "a global, to an equal value": ("scaled", lambda made: setattr(made, "factor", 2.0)),
    "the sign of zero": ("scaled", lambda made: setattr(made, "small", -0.0)),
    "a global is gone": ("scaled", lambda made: delattr(made, "factor")),
    "a global is there": ("undefined", lambda made: setattr(made, "nowhere", 1)),
    "a name in an annotation": ("scaled", lambda made: setattr(made, "Result", int)),
    "an annotation": ("scaled", lambda made: made.scaled.__annotations__.update(x=str)),
    "a default": ("scaled", lambda made: setattr(made.scaled, "__defaults__", (2.5,))),
    "a default of another type": ("even", lambda made: setattr(made.even, "__defaults__", (1.0,))),
    "a keyword default": ("scaled", lambda made: setattr(made.scaled, "__kwdefaults__", {"y": 1})),
    "an attribute": ("scaled", lambda made: setattr(made.scaled, "mark", 1)),
    "the code": ("scaled", lambda made: setattr(made.scaled, "__code__", made.named.__code__)),
    "the text, to something that equals all": (
        "scaled",
        lambda made: setattr(made.scaled, "__doc__", mock.ANY),
    ),
    "the text, to something that cannot be compared": (
        "scaled",
        lambda made: setattr(made.scaled, "__doc__", Undecided()),
    ),
    "the text": ("scaled", lambda made: setattr(made.scaled, "__doc__", "text")),
    "the name": ("scaled", lambda made: setattr(made.scaled, "__name__", "other")),
    "the qualified name": ("scaled", lambda made: setattr(made.scaled, "__qualname__", "other")),
    "the module's name": ("scaled", lambda made: setattr(made, "__name__", "other")),
    "the function's module": ("scaled", lambda made: setattr(made.scaled, "__module__", "json")),
    "a cell": ("counted", lambda made: _set_cell(made, 0, 1)),
    "a cell, to an equal value": ("counted", lambda made: _set_cell(made, 0, False)),
    "an emptied cell": ("counted", _empty_cell),
    "what another function captures": ("even", lambda made: setattr(made, "even", len)),
    "another function": ("even", lambda made: setattr(made.odd, "__defaults__", (1,))),
    "another function is rebound": ("even", lambda made: setattr(made, "odd", made.scaled)),
    "an item more": ("held", lambda made: made.box.append(1)),
    "an item set to an equal one": ("held", lambda made: made.box.__setitem__(0, True)),
    "an item that can change": ("held", lambda made: made.box.__setitem__(0, [1])),
    "an item of a dict": ("configured", lambda made: made.options.update(level=2)),
    "a key of a dict": ("configured", lambda made: made.options.update(more=2)),
    "the order of a dict": (
        "configured",
        lambda made: made.options.update(level=made.options.pop("level")),
    ),
    "another tuple": ("configured", lambda made: setattr(made, "pair", (1, "b"))),
    "an element of a set": ("collected", lambda made: made.collected().add(3)),
    "a module is rebound": ("named", lambda made: setattr(made, "json", os)),
    "a builtin is rebound": ("named", lambda made: setattr(made, "sqrt", math.sin)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(made, change):
    name, make = CHANGES[change]
    fn = getattr(made, name)
    seen = _watch.watch(fn)
    assert seen.is_unchanged(fn)

    make(made)

    assert not seen.is_unchanged(fn)


def test_a_submodule_imported_meanwhile_is_seen(made, monkeypatch):
    monkeypatch.delitem(sys.modules, "json.decoder")
    exec("def submodule(): return json.decoder", vars(made))
    seen = _watch.watch(made.submodule)
    assert seen.is_unchanged(made.submodule)

    monkeypatch.setitem(sys.modules, "json.decoder", json.decoder)

    assert not seen.is_unchanged(made.submodule)


def test_a_module_replaced_under_its_name_is_seen(made, monkeypatch):
    seen = _watch.watch(made.named)
    monkeypatch.setitem(sys.modules, "json", types.ModuleType("json"))
    assert not seen.is_unchanged(made.named)


def test_a_home_that_is_no_module_any_more_is_seen(made, monkeypatch):
    seen = _watch.watch(made.scaled)
    monkeypatch.delitem(sys.modules, made.__name__)
    assert not seen.is_unchanged(made.scaled)


def test_a_function_that_can_be_imported_meanwhile_is_seen(made, monkeypatch):
    fn = made.scaled
    fn.__module__, fn.__qualname__ = "json", "scaled"
    made.__name__ = "json"
    seen = _watch.watch(fn)
    assert seen.is_unchanged(fn)
    monkeypatch.setattr(json, "scaled", fn, raising=False)
    assert not seen.is_unchanged(fn)


@pytest.mark.parametrize(
    "fn", [json.dumps, math.sqrt, len, dict, json.JSONEncoder, json.JSONEncoder.encode]
)
def test_what_is_importable_is_watched_by_its_name(fn):
    assert _watch.watch(fn).is_unchanged(fn)


def test_an_importable_function_is_seen_to_be_rebound(monkeypatch):
    fn = json.dumps
    seen = _watch.watch(fn)
    monkeypatch.setattr(json, "dumps", lambda obj: None)
    assert not seen.is_unchanged(fn)


def test_a_module_registered_by_value_is_seen():
    seen = _watch.watch(json.dumps)
    hookpool.register_pickle_by_value(json)
    try:
        assert not seen.is_unchanged(json.dumps)
    finally:
        hookpool.unregister_pickle_by_value(json)
    assert seen.is_unchanged(json.dumps)


def test_nothing_is_kept_alive(made):
    fn = made.even
    seen = _watch.watch(fn)
    refs = [weakref.ref(fn), weakref.ref(made.odd)]
    del fn, made.even, made.odd
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert isinstance(seen, _watch.Watch)


@pytest.mark.parametrize("name", WATCHED)
def test_unchanged_means_the_same_bytes(made, name):
    fn = getattr(made, name)
    seen, before = _watch.watch(fn), worker_dumps(fn)
    assert seen.is_unchanged(fn)
    assert worker_dumps(fn) == before


def test_another_kind_of_set_in_the_same_place_is_seen(made):
    """Its id and its elements are those of the first, which is gone."""
    same_place = 0
    for _ in range(1000):
        made.options = {1, 2}
        seen, place = _watch.watch(made.configured), id(made.options)
        made.options = None
        made.options = frozenset((1, 2))
        if id(made.options) == place:
            same_place += 1
            assert not seen.is_unchanged(made.configured)
    assert same_place


@pytest.mark.parametrize("name", ["__doc__", "__module__"])
def test_a_text_that_is_none_may_change_without_notice(made, name):
    setattr(made.scaled, name, ["a"])
    assert _watch.watch(made.scaled) is _watch.NOTHING


def test_an_annotation_that_equals_the_one_before_is_seen(made):
    made.scaled.__annotations__["x"] = 1
    seen = _watch.watch(made.scaled)
    made.scaled.__annotations__["x"] = 1.0
    assert not seen.is_unchanged(made.scaled)
