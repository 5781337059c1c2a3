"""The receiving side by itself: namespaces in and outside a worker, identities, raw classes."""

from __future__ import annotations

import gc
import pickle
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hookpool import _rebuild, _rebuild_objects, reduction
from hookpool._worker_pickler import worker_dumps
from tests.elsewhere import Elsewhere, RaisedElsewhere
from tests.processes import run_python

HERE = sys.modules[__name__]
pytestmark = pytest.mark.usefixtures("by_value")
value: Any = "the owner's"
numbers = [1, 2]


@pytest.fixture
def worker() -> Iterator[Elsewhere]:
    with Elsewhere(worker=True) as one:
        yield one


def call(worker: Elsewhere, fn: Any, *args: Any) -> Any:
    return pickle.loads(worker.ask("call", worker_dumps((fn, args))))


def put(new: Any) -> None:
    global value
    value = new


def get() -> Any:
    return value


def lengthen() -> int:
    numbers.append(0)
    return len(numbers)


def test_a_worker_has_one_namespace_per_module(worker: Elsewhere) -> None:
    call(worker, put, "the worker's")

    assert call(worker, get) == "the worker's"
    assert [call(worker, lengthen), call(worker, lengthen)] == [3, 4]


def test_a_value_changed_at_the_owner_is_written_again(
    worker: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in (1, 1.5, -0.0, 0.0, "x", None, [1], {"k": 1}, len, pickle, get, str):
        monkeypatch.setattr(HERE, "value", now)
        assert str(call(worker, lambda: value)).split(" at ")[0] == str(now).split(" at ")[0]


def test_a_value_not_changed_at_the_owner_is_left_alone(
    worker: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for same in (1, 1.5, float("nan"), "x", None, [1], {"k": {1}}, len, pickle, get, str):
        monkeypatch.setattr(HERE, "value", same)
        call(worker, put, "the worker's")
        assert call(worker, get) == "the worker's"


def test_stand_alone_pickles_keep_a_namespace_of_their_own_also_in_a_worker(
    worker: Elsewhere,
) -> None:
    call(worker, put, "the worker's")

    assert worker.call(get) == "the owner's"


def test_outside_a_worker_nothing_is_shared_between_loads() -> None:
    assert not _rebuild.in_worker()
    one, other = (pickle.loads(worker_dumps((put, get))) for _ in range(2))

    one[0]("changed")

    assert (one[1](), other[1](), value) == ("changed", "the owner's", "the owner's")


def test_a_class_is_known_for_as_long_as_it_lives() -> None:
    class Short:
        pass

    data = reduction.dumps(Short)
    assert pickle.loads(data) is Short
    token = _rebuild.identity_of(Short).token  # type: ignore[union-attr]

    del Short
    gc.collect()
    assert _rebuild.object_of(token) is None
    one, other = pickle.loads(data), pickle.loads(data)
    assert one is other


def test_a_class_sent_by_its_token_alone_must_be_there() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"some\.Class was sent by its identity"):
        _rebuild.known_class("some.Class#0.1")


def stays_one(worker: Elsewhere, obj: Any) -> bool:
    """Whether an object is one object in the worker, pickle after pickle, and here again."""
    call(worker, put, obj)
    is_one: bool = call(worker, lambda one: get() is one and {get(): 1}[one], obj)
    return is_one and call(worker, get) is obj and call(worker, lambda: get()) is obj


def test_a_new_type_is_one_object_per_process(worker: Elsewhere) -> None:
    users, others = typing.NewType("User", int), typing.NewType("User", int)
    assert stays_one(worker, users)
    call(worker, lambda one: setattr(one, "note", "the worker's"), users)
    assert call(worker, lambda one: (one.note, one.__supertype__), users) == ("the worker's", int)
    assert stays_one(worker, others)


ALIASES = [
    "type Alias = int | str",
    "type Alias[T] = list[T]",
    "type Alias = dict[str, Alias]",
    "type Alias[T] = list[Alias[T]]",
    "type Alias = unknown",
]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of 3.12")
@pytest.mark.parametrize("source", ALIASES)
def test_a_type_alias_is_one_object_per_process(worker: Elsewhere, source: str) -> None:
    spaces: list[dict[str, Any]] = [{"__name__": __name__}, {"__name__": __name__}]
    for space in spaces:
        exec(source, space)
        assert stays_one(worker, space["Alias"])
    if "T" in source:
        alias = spaces[0]["Alias"]
        assert call(worker, lambda one, whole: typing.get_origin(one) is whole, alias[int], alias)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of 3.12")
def test_aliases_without_end_are_not_all_kept(
    worker: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rebuild_objects, "_ALIASES_KEPT", 3)
    space: dict[str, Any] = {"__name__": __name__}
    for _ in range(5):
        exec(ALIASES[0], space)
        assert stays_one(worker, space["Alias"])
    assert len(_rebuild_objects._aliases) <= 3
    assert len(_rebuild_objects._tokens_of_aliases) <= 3


def of_main(name: str, **attributes: Any) -> Any:
    return type(name, (), {"__module__": "__main__", **attributes})


def is_pickled_by_name(obj: object) -> bool:
    return type(pickle.loads(pickle.dumps(obj))) is type(obj)


def found_in_main(name: str) -> Any:
    return vars(sys.modules["__main__"]).get(name)


def test_a_class_of_main_that_has_come_is_found_by_name(worker: Elsewhere) -> None:
    for _ in range(2):  # the second in the place of the first
        assert call(worker, is_pickled_by_name, of_main("Made")())


def test_where_a_task_has_written_that_name_it_stays(worker: Elsewhere) -> None:
    first = of_main("Written")
    assert call(worker, is_pickled_by_name, first())
    call(worker, lambda: setattr(sys.modules["__main__"], "Written", None))
    call(worker, id, first())
    call(worker, id, of_main("Written")())
    assert call(worker, lambda: "Written" in vars(sys.modules["__main__"]))
    assert call(worker, found_in_main, "Written") is None


def test_a_class_is_not_in_the_way_of_a_builtin(worker: Elsewhere) -> None:
    """As a named tuple that a function makes: its qualified name does not say that it is local."""
    call(worker, id, of_main("len")())
    assert call(worker, found_in_main, "len") is None


def test_a_local_class_is_found_nowhere(worker: Elsewhere) -> None:
    call(worker, id, of_main("Local", __qualname__="f.<locals>.Local")())
    assert call(worker, lambda: [n for n in vars(sys.modules["__main__"]) if "Local" in n]) == []


OWNER_WRITES = """
import hookpool, pickle
def again(obj):
    return pickle.loads(pickle.dumps(obj))
class Point:
    pass
with hookpool.HookPoolExecutor(1) as pool:
    assert type(pool.submit(again, Point()).result()) is Point
    point, Point = Point, 42
    assert pool.submit(lambda: Point).result() == 42
    assert pool.submit(lambda point: Point, point()).result() == 42
    del Point
    Fresh = type("Other", (), {})
    pool.submit(again, Fresh()).result()  # there it is Other
    Other = "the owner's"
    assert pool.submit(lambda: Other).result() == "the owner's"
    pool.submit(again, type("Third", (), {})()).result()
    pool.submit(type, type("Other", (), {})()).result()
    assert pool.submit(lambda: Other).result() == "the owner's"
"""


def test_what_the_owner_writes_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(OWNER_WRITES)
    run_python(str(tmp_path / "program.py"))


def test_a_raw_class_is_made_without_anybodys_class_creation_code() -> None:
    class Meta(type):
        def __new__(m, name: str, bases: Any, body: Any, *, needed: int) -> Any:
            return super().__new__(m, name, bases, body)

        def __init__(c, name: str, bases: Any, body: Any, *, needed: int) -> None:
            super().__init__(name, bases, body)

    class Base(metaclass=Meta, needed=1):
        def __init_subclass__(cls, *, also: int) -> None:
            raise AssertionError("called")

    cls = _rebuild.raw_class(Meta, "Made", (Base,), {"__slots__": ("a",), "__module__": "m"})

    assert type(cls) is Meta
    assert cls.__mro__ == (cls, Base, object)
    assert [name for name in vars(cls) if "hookpool" in name] == []
    assert not hasattr(cls(), "a")


class Tracked:
    kept = "first"
    edited = "first"
    dropped = "first"


def look(cls: Any) -> Any:
    return cls.kept, cls.edited, hasattr(cls, "dropped"), getattr(cls, "fresh", None)


def spoil(cls: Any) -> None:
    global held  # in the other process: a class that nobody has may be collected between two calls
    held = cls
    cls.kept = cls.edited = "the worker's"


def test_an_edit_at_the_owner_is_applied_attribute_by_attribute(
    worker: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(worker, spoil, Tracked)
    call(worker, gc.collect)
    assert call(worker, look, Tracked) == ("the worker's", "the worker's", True, None)

    monkeypatch.setattr(Tracked, "edited", "second")
    monkeypatch.setattr(Tracked, "fresh", 1, raising=False)
    monkeypatch.delattr(Tracked, "dropped")

    assert call(worker, look, Tracked) == ("the worker's", "second", False, 1)


def test_what_comes_back_does_not_undo_an_edit_at_the_owner() -> None:
    class Mine:
        x = 1

    old = reduction.dumps(Mine)
    Mine.x = 2

    assert pickle.loads(old) is Mine
    assert Mine.x == 2


def test_a_class_has_one_identity_across_hops(worker: Elsewhere) -> None:
    def hop(cls: Any) -> Any:
        from hookpool import reduction

        return reduction.dumps((cls, cls()))

    cls, instance = pickle.loads(worker.call(hop, Tracked))

    assert cls is Tracked
    assert type(instance) is Tracked


def test_classes_of_two_workers_are_two() -> None:
    def make() -> Any:
        class Made:
            pass

        return Made

    with Elsewhere(worker=True) as one, Elsewhere(worker=True) as other:
        first, again, second = (one.call(make), one.call(make), other.call(make))

    assert len({first, again, second}) == 3


def test_an_error_in_a_worker_does_not_spoil_the_next_call(worker: Elsewhere) -> None:
    with pytest.raises(RaisedElsewhere, match="ZeroDivisionError"):
        call(worker, lambda: 1 / 0)

    assert call(worker, get) == "the owner's"
