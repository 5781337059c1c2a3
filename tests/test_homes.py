"""What is one object for its owner is one for each worker, whichever pickles bring it there.

A global that a class, a default, a closure or another global holds, too: sentinels, registries,
configurations.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from hookpool import HookPoolExecutor
from tests.elsewhere import Elsewhere, RaisedElsewhere
from tests.owner import Pool

pytestmark = pytest.mark.usefixtures("by_value")


class Thing:
    def __init__(self) -> None:
        self.count = 0

    def get(self) -> Any:
        return self


class Items(list[Any]):
    pass


THING = Thing()
LIST: list[Any] = [1]
TABLE: dict[str, Any] = {"a": 1}
ITEMS = Items([1])
ITEMS.label = "mine"  # type: ignore[attr-defined]
COUNTS = collections.Counter("abc")
LOCK = threading.Lock()
ALIAS = THING
_hidden = THING


def default(o: Any = THING) -> Any:
    return o


def keyword(*, o: Any = THING) -> Any:
    return o


def containers(a: Any = LIST, b: Any = TABLE, c: Any = ITEMS, d: Any = COUNTS) -> Any:
    return a is LIST, b is TABLE, c is ITEMS, d is COUNTS


def short(a=LIST):  # type: ignore[no-untyped-def]
    return a is LIST


class Attribute:
    o = THING


class Inherits(Attribute):
    pass


class Meta(type):
    o = THING


class ByMeta(metaclass=Meta):
    pass


class InTable:
    table: ClassVar[Any] = {"o": THING}
    items = LIST
    lock = LOCK


class Methods:
    def default(self, o: Any = THING) -> Any:
        return o

    @staticmethod
    def static(o: Any = THING) -> Any:
        return o

    @functools.cached_property
    def cached(self, o: Any = THING) -> Any:
        return o


class Colour(enum.Enum):
    RED = THING


@dataclasses.dataclass
class Data:
    o: object = THING


class Slotted:
    __slots__ = ("o",)

    def __init__(self) -> None:
        self.o = THING


class Holder:
    def __init__(self) -> None:
        self.o = THING

    def method(self) -> Any:
        return self.o


class Own:
    one: Any = None


def closure() -> Any:
    o, items = THING, LIST

    def inner() -> Any:
        return o is THING and items is LIST

    return inner


def wrapped(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper() -> Any:
        return fn(), THING

    return wrapper


@wrapped
def decorated(o: Any = THING) -> Any:
    return o


def attributed() -> None:
    pass


HOLDER, SLOTTED, OWN, CLOSURE = Holder(), Slotted(), Own(), closure()
METHOD = HOLDER.method
Own.one = OWN
attributed.o = THING  # type: ignore[attr-defined]
PARTIAL = functools.partial(lambda o: o, THING)
SPACE = types.SimpleNamespace(o=THING)
NESTED = {"a": [{"o": THING}]}
WEAK = weakref.WeakKeyDictionary({THING: 5})

WAYS = {
    "default": lambda: default() is THING,
    "keyword": lambda: keyword() is THING,
    "containers": lambda: all(containers()),
    "a list alone": lambda: short(),
    "attribute": lambda: Attribute.o is THING,
    "inherited": lambda: Inherits.o is THING is Inherits().o,
    "metaclass": lambda: ByMeta.o is THING,
    "in a table of a class": lambda: InTable.table["o"] is THING,
    "a list of a class": lambda: InTable.items is LIST,
    "a lock of a class": lambda: InTable.lock is LOCK,
    "default of a method": lambda: Methods().default() is THING,
    "default of a static method": lambda: Methods.static() is THING,
    "default of a cached property": lambda: Methods().cached is THING,
    "value of a member": lambda: Colour.RED.value is THING,
    "default of a dataclass": lambda: Data().o is THING,
    "slot": lambda: SLOTTED.o is THING,
    "instance": lambda: HOLDER.o is THING,
    "bound method": lambda: METHOD() is THING and METHOD.__self__ is HOLDER,
    "a class's own instance": lambda: Own.one is OWN,
    "closure": lambda: CLOSURE(),
    "decorated": lambda: decorated() == (THING, THING),
    "attribute of a function": lambda: attributed.o is THING,  # type: ignore[attr-defined]
    "partial": lambda: PARTIAL() is THING,
    "namespace": lambda: SPACE.o is THING,
    "nested": lambda: NESTED["a"][0]["o"] is THING,
    "weak key": lambda: WEAK[THING] == 5 and list(WEAK) == [THING],
    "another name": lambda: ALIAS is THING is _hidden,
    "two classes": lambda: Attribute.o is InTable.table["o"] is Methods.static(),
}


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Elsewhere(worker=True) as one:
        yield Pool(one)


def brings() -> Any:
    return len((THING, LIST, TABLE, ITEMS, COUNTS, OWN, HOLDER, LOCK))


@pytest.mark.parametrize("way", WAYS)
def test_a_global_that_something_else_holds_too_is_one_object(way: str) -> None:
    probe = WAYS[way]
    assert probe() is True
    with Elsewhere(worker=True) as one:
        assert Pool(one).run(probe) is True
    with Elsewhere(worker=True) as one:
        pool = Pool(one)
        pool.run(brings)
        assert pool.run(probe) is True
    with Elsewhere(worker=True) as one:
        pool = Pool(one)
        assert pool.run(probe) is True
        assert pool.run(lambda: (brings(), probe())[1]) is True


def test_it_is_one_object_in_any_order(pool: Pool) -> None:
    for way in (*WAYS, *reversed(WAYS)):
        assert (way, pool.run(WAYS[way])) == (way, True)


def count() -> int:
    THING.count += 1
    return THING.count


def counts() -> Any:
    return THING.count, default().count, Attribute.o.count, HOLDER.o.count


def test_what_tasks_did_to_it_is_seen_whoever_holds_it(pool: Pool) -> None:
    assert [pool.run(count), pool.run(count)] == [1, 2]
    assert pool.run(counts) == (2, 2, 2, 2)


def test_arguments_are_copies_all_the_same(pool: Pool) -> None:
    pool.run(count)

    assert pool.run(lambda o: (o.count, o is THING), THING) == (0, False)
    assert pool.run(lambda fn, o: (fn() is THING, o is THING), default, THING) in [
        (True, False),
        (False, False),
    ]
    assert pool.run(lambda items: (items.append(2), items, LIST)[1:], LIST) == ([1, 2], [1])
    assert pool.run(lambda items: (items.append(2), items, LIST)[1:], LIST) == ([1, 2], [1])


def test_functions_among_the_arguments_know_the_globals(pool: Pool) -> None:
    pool.run(count)

    assert pool.run(lambda fn: fn() is THING, default) is True
    assert pool.run(lambda fn: fn(), CLOSURE) is True
    assert pool.run(lambda fn: all(fn()), containers) is True


def test_an_edit_at_the_owner_reaches_whoever_looks_at_the_global(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(count)
    monkeypatch.setattr(THING, "count", 10)

    assert pool.run(counts)[0] == 10
    assert pool.run(count) == 11
    assert pool.run(lambda: (THING.count, default().count, HOLDER.o.count)) == (11, 11, 11)


def test_what_a_task_puts_in_its_place_is_not_taken_for_it(pool: Pool) -> None:
    def replace() -> int:
        global THING
        before = id(THING)
        THING = Thing()
        THING.count = 7
        return before

    pool.run(replace)

    assert pool.run(lambda: (THING.count, Attribute.o.count)) == (7, 0)


def test_another_object_under_the_name_is_another_object(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(brings)
    other = Thing()
    other.count = 5
    monkeypatch.setattr(sys.modules[__name__], "THING", other)

    assert pool.run(lambda: (THING.count, Attribute.o.count)) == (5, 0)
    assert pool.run(lambda: Attribute.o is THING) is False


class Fails:
    def __init__(self) -> None:
        self.whole = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not hasattr(sys, "hookpool_has_failed"):
            sys.hookpool_has_failed = True  # type: ignore[attr-defined]
            raise ValueError("no")
        vars(self).update(state)


FAILS = Fails()


def test_what_failed_to_load_is_not_taken_for_whole(pool: Pool) -> None:
    def holds(one: Any = FAILS) -> Any:
        return one is FAILS, one.whole

    with pytest.raises(RaisedElsewhere, match="no"):
        pool.run(holds)
    assert pool.run(lambda: (FAILS.whole, holds())) == (True, (True, True))


_first = Thing()
FIRST = _first


class HoldsFirst:
    o = FIRST


def test_a_name_that_a_prompt_uses_for_what_was_last_does_not_matter(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(lambda: HoldsFirst)
    monkeypatch.setattr(sys.modules[__name__], "_first", 5)

    assert pool.run(lambda: HoldsFirst.o is FIRST) is True


def test_namespaces_of_one_name_do_not_share(pool: Pool) -> None:
    source = "def look(thing=THING):\n    THING.count += 1\n    return thing.count"
    probes = []
    for _ in range(2):
        space: dict[str, Any] = {"__name__": "made", "THING": Thing()}
        exec(source, space)
        probes.append(space["look"])

    assert [pool.run(probe) for probe in probes] == [1, 1]


class Loop:
    def __init__(self) -> None:
        self.me = self
        self.children = [self]


LOOP = Loop()


def test_an_object_that_refers_to_itself_is_made_once(pool: Pool) -> None:
    def look(loop: Any = LOOP) -> Any:
        return loop is LOOP, loop.me is loop, loop.children[0] is LOOP, len(loop.children)

    assert pool.run(look) == pool.run(lambda loop=LOOP: look(loop)) == (True, True, True, 1)


def test_an_executor_keeps_the_promise_also_for_a_second_worker() -> None:
    with HookPoolExecutor(1, max_tasks_per_child=1) as executor:
        probes = [WAYS["default"], WAYS["attribute"], WAYS["instance"]]
        assert [executor.submit(probe).result() for probe in probes * 2] == [True] * 6
