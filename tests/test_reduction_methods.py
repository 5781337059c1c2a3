"""Methods that are code and nothing else: a class brings them together, and they stay what they
were to all else that refers to them."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import pytest

from hookpool import reduction
from hookpool.reduction import HookPickler, dumps
from tests.elsewhere import Elsewhere

pytestmark = pytest.mark.usefixtures("by_value")


def made() -> Any:
    """A class that no process has seen."""

    class Point:
        scale = 2

        def first(self) -> Any:
            return self.x

        def second(self):  # type: ignore[no-untyped-def]
            return 2

        def third(self):  # type: ignore[no-untyped-def]
            """What it is."""
            return self.scale * 3

    return Point


def is_packed(data: bytes) -> bool:
    """Whether code of methods is in a pickle in one piece."""
    long = [arg for op, arg, _ in pickletools.genops(data) if op.name.endswith("BYTES")]
    return any(b"made.<locals>.Point.second" in arg and b"Point.third" in arg for arg in long)


def test_methods_go_together_and_work(elsewhere: Elsewhere) -> None:
    cls = made()

    def probe(cls: Any) -> Any:
        one = cls()
        names = [name for name in vars(cls) if not name.startswith("__")]
        third = cls.third
        return (
            names, one.second(), one.third(), third.__doc__, third.__name__, third.__qualname__,
            third.__module__, third.__defaults__, third.__annotations__, third.__closure__,
        )  # fmt: skip

    assert is_packed(dumps(cls))
    assert elsewhere.call(probe, cls) == probe(cls)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_method_beside_its_class_is_the_classs_own(elsewhere: Elsewhere, is_first: bool) -> None:
    cls = made()
    parts = (cls.second, cls) if is_first else (cls, cls.second)

    def probe(*parts: Any) -> Any:
        cls, fn = sorted(parts, key=lambda one: not isinstance(one, type))
        return vars(cls)["second"] is fn, cls.second is fn

    assert is_packed(dumps(parts)) is not is_first
    assert elsewhere.call(probe, *parts) == (True, True)


def test_a_method_that_the_class_holds_twice_is_one_function(elsewhere: Elsewhere) -> None:
    cls = made()
    cls.again = cls.second
    assert elsewhere.call(lambda cls: cls.again is cls.second, cls)
    cls = made()
    cls.table = {"second": cls.second}
    assert elsewhere.call(lambda cls: cls.table["second"] is cls.second, cls)
    cls = made()
    cls.both = property(cls.second)
    assert elsewhere.call(lambda cls: vars(cls)["both"].fget is cls.second, cls)


def test_a_method_that_two_classes_share_is_one_function(elsewhere: Elsewhere) -> None:
    one, other = made(), made()
    other.second = one.second
    assert elsewhere.call(lambda one, other: one.second is other.second, one, other)


def test_a_method_of_a_class_that_is_known_there_arrives_as_it_is_here(
    elsewhere: Elsewhere,
) -> None:
    cls = made()

    def spoil(cls: Any) -> None:
        cls.second = lambda self: "worse"
        del cls.third

    def probe(cls: Any, second: Any, third: Any) -> Any:
        return cls().second(), second(None), third(cls()), hasattr(cls, "third")

    elsewhere.call(spoil, cls)

    assert elsewhere.call(probe, cls, cls.second, cls.third) == ("worse", 2, 6, False)


def test_an_edited_method_arrives_and_others_are_left_alone(elsewhere: Elsewhere) -> None:
    cls = made()

    def spoil(cls: Any) -> None:
        cls.second = "spoilt"

    elsewhere.call(spoil, cls)
    cls.third = lambda self: "new"

    assert elsewhere.call(lambda cls: (cls.second, cls().third()), cls) == ("spoilt", "new")


def test_a_class_that_refers_to_more_has_its_methods_together_too(elsewhere: Elsewhere) -> None:
    cls = made()
    cls.table = {"a": {"b": {"c": [len] * 100}}}
    assert is_packed(dumps(cls))
    assert elsewhere.call(lambda cls: cls().third(), cls) == 6
    cls = made()
    cls.table = {"a": {"b": {"c": [len] * 100, "d": cls.third}}}
    assert elsewhere.call(lambda cls: cls.table["a"]["b"]["d"] is cls.third, cls)


def test_a_method_that_only_a_reducer_gives_out_arrives(elsewhere: Elsewhere) -> None:
    cls = made()

    class Hidden:
        def __reduce__(self) -> Any:
            return (lambda fn: fn), (cls.third,)

    cls.hidden = Hidden()
    assert elsewhere.call(lambda cls: cls.hidden(cls), cls) == 6


def test_methods_share_the_globals_of_what_comes_with_them(elsewhere: Elsewhere) -> None:
    def helper():  # type: ignore[no-untyped-def]
        return reduction

    def probe(cls: Any, fn: Any) -> Any:
        return cls.second.__globals__ is cls.third.__globals__ is fn.__globals__

    assert elsewhere.call(probe, made(), helper)
    assert elsewhere.call(lambda fn, cls: probe(cls, fn), helper, made())


def test_in_a_worker_methods_live_in_the_one_namespace() -> None:
    def probe(cls: Any, **_: Any) -> Any:
        space = cls.second.__globals__
        return space is probe.__globals__, space["__name__"]

    with Elsewhere(worker=True) as worker:
        from hookpool import _worker_pickler

        worker.ask("define", 1, _worker_pickler.worker_dumps(probe))
        answer = worker.ask("run", 1, _worker_pickler.worker_dumps((made(),)))

    assert pickle.loads(answer) == (True, __name__)


class Asked(HookPickler):
    """Wants to be asked about every function."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.seen: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        self.seen.append(obj)
        return super().reducer_override(obj)


class Persistent(HookPickler):
    """Has ids of its own for functions."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.__name__ if getattr(obj, "__name__", None) == "second" else None


def test_who_wants_to_be_asked_about_each_function_is_asked() -> None:
    cls, file = made(), io.BytesIO()
    pickler = Asked(file)
    pickler.dump(cls)
    assert all(fn in pickler.seen for fn in (cls.first, cls.second, cls.third))


def test_persistent_ids_of_methods_are_used() -> None:
    cls, file = made(), io.BytesIO()
    Persistent(file).dump(cls)
    assert b"\x8c\x06second" in file.getvalue()
    assert not is_packed(file.getvalue())


def test_a_table_for_functions_is_used_for_methods() -> None:
    cls, file = made(), io.BytesIO()
    pickler = HookPickler(file)
    pickler.dispatch_table = {type(cls.second): lambda fn: (str, (fn.__name__,))}
    pickler.dump(cls)
    assert not is_packed(file.getvalue())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_methods_travel_by_every_protocol(elsewhere: Elsewhere, protocol: int) -> None:
    data = dumps((lambda cls: cls().second(), (made(),)), protocol)
    assert pickle.loads(elsewhere.ask("call", data)) == 2


def test_dump_and_dumps_write_the_same() -> None:
    cls, file = made(), io.BytesIO()
    reduction.dump(cls, file)
    assert file.getvalue() == dumps(cls) == dumps(cls)


@pytest.mark.parametrize(
    "change",
    [
        lambda fn: setattr(fn, "__doc__", "Another."),
        lambda fn: setattr(fn, "__name__", "renamed"),
        lambda fn: setattr(fn, "__qualname__", "renamed"),
        lambda fn: setattr(fn, "__module__", "elsewhere"),
        lambda fn: setattr(fn, "__defaults__", (1,)),
        lambda fn: setattr(fn, "__kwdefaults__", {"a": 1}),
        lambda fn: setattr(fn, "__annotations__", {"return": int}),
        lambda fn: setattr(fn, "label", "mine"),
    ],
    ids=["doc", "name", "qualname", "module", "defaults", "kwdefaults", "annotations", "own"],
)
def test_a_method_that_is_more_than_its_code_arrives_whole(
    elsewhere: Elsewhere, change: Any
) -> None:
    cls = made()
    dumps(cls)
    change(cls.second)

    def probe(cls: Any) -> Any:
        fn = cls.second
        return (
            fn.__doc__, fn.__name__, fn.__qualname__, fn.__module__, fn.__defaults__,
            fn.__kwdefaults__, fn.__annotations__, fn.__dict__,
        )  # fmt: skip

    assert elsewhere.call(probe, cls) == probe(cls)
