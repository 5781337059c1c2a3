"""What users of the pickler set on it or beside it: reducers, tables, protocols, buffers, modules.

Each is loaded in a process that can import hookpool and nothing of the tests.
"""

from __future__ import annotations

import copyreg
import gc
import importlib
import io
import pickle
import sys
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from hookpool import reduction
from hookpool._worker_pickler import worker_dumps
from hookpool.reduction import HookPickler, dumps, loads
from tests.agree_child import Child, describe

HERE = sys.modules[__name__]
pytestmark = pytest.mark.usefixtures("by_value")


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with closing(Child()) as child:
        yield child


def gives(child: Child, data: bytes, expected: Any) -> None:
    """What is pickled, called there, gives what is expected."""
    assert child.ask(data) == ("gave", describe(expected))


class Told:
    """Says in the other process by which reducer it was sent."""

    def __init__(self, way: str = "attributes") -> None:
        self.way = way

    def __call__(self) -> str:
        return self.way

    def __reduce__(self) -> Any:
        return Told, ("its own __reduce__",)


class SubTold(Told):
    pass


# -- reducers -------------------------------------------------------------------------------------


def test_registrations_with_multiprocessing_come_before_copyreg_and_that_before_a_classs_own(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = ForkingPickler._extra_reducers  # type: ignore[attr-defined]

    gives(child, dumps(Told()), "its own __reduce__")
    monkeypatch.setitem(copyreg.dispatch_table, Told, lambda _: (Told, ("copyreg",)))
    gives(child, dumps(Told()), "copyreg")
    monkeypatch.setitem(registered, Told, lambda _: (Told, ("multiprocessing",)))
    gives(child, dumps(Told()), "multiprocessing")
    gives(child, dumps(SubTold()), "its own __reduce__")  # exact types, as in `pickle`


def test_a_reducer_for_a_metaclass_is_asked_for_its_classes(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meta(type):
        pass

    class Made(metaclass=Meta):
        pass

    monkeypatch.setitem(copyreg.dispatch_table, Meta, lambda cls: (Told, (cls.__name__,)))
    gives(child, dumps(Made), "Made")


def test_a_reducer_registered_by_a_function_of_its_own_is_used_without_it(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "by a closure "
    monkeypatch.setitem(copyreg.dispatch_table, Told, lambda one: (Told, (prefix + one.way,)))
    gives(child, dumps(Told()), "by a closure attributes")


TABLE = {Told: lambda _: (Told, ("table",)), property: lambda _: (str, ("property",))}


class Tabled(HookPickler):
    dispatch_table = TABLE


def written(pickler: HookPickler, file: io.BytesIO, obj: Any) -> bytes:
    pickler.dump(obj)
    return file.getvalue()


@pytest.mark.parametrize("where", ["class", "instance", "slot"])
def test_a_dispatch_table_is_honoured(child: Child, where: str) -> None:
    file = io.BytesIO()
    pickler = Tabled(file) if where == "class" else HookPickler(file)
    if where == "instance":
        pickler.dispatch_table = TABLE
    elif where == "slot":
        pickle.Pickler.dispatch_table.__set__(pickler, TABLE)  # type: ignore[attr-defined]

    data = written(pickler, file, [Told(), property()])
    gives(
        child,
        dumps(lambda: [str(getattr(one, "way", one)) for one in pickle.loads(data)]),
        ["table", "property"],
    )


def test_a_dispatch_table_is_asked_for_functions_that_have_no_name_to_go_by(child: Child) -> None:
    class Holding:
        kept: Any = None

        def method(self) -> Any:
            return Holding.kept

    Holding.kept = Holding()
    file = io.BytesIO()
    pickler = HookPickler(file)
    pickler.dispatch_table = {FunctionType: lambda fn: (str.upper, (fn.__name__,))}
    data = written(pickler, file, [Holding, lambda: 0, pickle.loads])

    def probe() -> Any:
        cls, text, loads = pickle.loads(data)
        return cls.method, type(cls.kept) is cls, text, loads is pickle.loads

    gives(child, dumps(probe), ("METHOD", True, "<LAMBDA>", True))


def test_a_dispatch_table_set_on_the_pickler_itself_is_seen_by_those_made_before(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(dumps([1])) < 100 > len(worker_dumps([1]))  # both have spare ones now
    monkeypatch.setattr(HookPickler, "dispatch_table", TABLE, raising=False)
    gives(child, dumps(Told()), "table")
    gives(child, worker_dumps(Told()), "table")
    monkeypatch.undo()
    gives(child, dumps(Told()), "its own __reduce__")
    gives(child, worker_dumps(Told()), "its own __reduce__")


@pytest.mark.parametrize("protocol", [2, 5, None])
def test_a_table_of_the_class_is_asked_for_functions_in_every_form_of_dump(
    monkeypatch: pytest.MonkeyPatch, protocol: int | None
) -> None:
    table = {FunctionType: lambda fn: (str.upper, (fn.__name__,))}
    monkeypatch.setattr(HookPickler, "dispatch_table", table, raising=False)
    file = io.BytesIO()
    reduction.dump(lambda: 0, file, protocol)
    assert reduction.loads(file.getvalue()) == "<LAMBDA>"
    assert reduction.loads(dumps(lambda: 0, protocol)) == "<LAMBDA>"


# -- persistent ids, buffers, protocols -----------------------------------------------------------


def test_persistent_ids_are_asked_first(child: Child) -> None:
    class Persistent(HookPickler):
        def persistent_id(self, obj: Any) -> Any:
            return "told" if isinstance(obj, Told) else None

    file = io.BytesIO()
    data = written(Persistent(file), file, [Told(), lambda: 4])

    def load() -> Any:
        class Back(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> Any:
                return "persistent " + pid

        told, fn = Back(io.BytesIO(data)).load()
        return told, fn()

    gives(child, dumps(load), ("persistent told", 4))


def test_buffers_go_out_of_band_and_come_back(child: Child) -> None:
    numpy = pytest.importorskip("numpy")
    array, raw = numpy.arange(1000.0), bytearray(b"x" * 1000)
    found: list[pickle.PickleBuffer] = []
    data = dumps((array, pickle.PickleBuffer(raw), lambda: 4), buffer_callback=found.append)
    buffers = [bytes(one) for one in found]

    def load() -> Any:
        array, raw, fn = pickle.loads(data, buffers=buffers)
        return float(array.sum()), bytes(raw[:2]), len(data) < 1000, fn()

    gives(child, dumps(load), (float(array.sum()), b"xx", True, 4))
    in_band = dumps((array, lambda: 4), protocol=4, buffer_callback=None)
    gives(child, dumps(lambda: float(pickle.loads(in_band)[0].sum())), float(array.sum()))
    with pytest.raises(ValueError, match="protocol"):
        dumps(array, protocol=4, buffer_callback=found.append)


class Node:
    root: Any = None

    def __init__(self, value: int) -> None:
        self.value = value

    def total(self) -> int:
        return self.value + (Node.root.value if Node.root else 0)


Node.root = Node(10)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_protocol_carries_functions_classes_and_instances(
    child: Child, protocol: int
) -> None:
    node, offset = Node(1), 3

    def probe() -> Any:
        return node.total(), Node(2).total(), [(lambda n=n: n + offset)() for n in range(2)]

    gives(child, dumps(probe, protocol), (11, 12, [3, 4]))


# -- modules --------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package that is importable here and not there."""
    (tmp_path / "onlyhere").mkdir()
    (tmp_path / "onlyhere" / "__init__.py").write_text("NAME = 'package'\nclass Base: kept = 1\n")
    (tmp_path / "onlyhere" / "deep.py").write_text(
        "from onlyhere import NAME, Base\n"
        "class Deep(Base):\n    def name(self): return NAME, self.kept\n"
        "def name(): return Deep().name()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("onlyhere")
    for name in [name for name in sys.modules if name.startswith("onlyhere")]:
        del sys.modules[name]


def test_a_registered_module_travels_by_value_with_its_submodules(
    child: Child, package: ModuleType
) -> None:
    deep = importlib.import_module("onlyhere.deep")
    assert child.ask(dumps(deep.name))[0] == "lost"

    reduction.register_pickle_by_value(package)
    assert "onlyhere" in reduction.list_registry_pickle_by_value()
    gives(child, dumps(deep.name), ("package", 1))
    gives(child, dumps(lambda: deep.Deep().name()), ("package", 1))

    reduction.unregister_pickle_by_value(package)
    assert "onlyhere" not in reduction.list_registry_pickle_by_value()
    assert child.ask(dumps(deep.name))[0] == "lost"


def test_what_a_removed_module_has_left_behind_travels_by_value(
    child: Child, package: ModuleType
) -> None:
    name = importlib.import_module("onlyhere.deep").name
    dumps(name)  # by reference, and that it is importable is remembered
    for module in [module for module in sys.modules if module.startswith("onlyhere")]:
        del sys.modules[module]
    del package.deep
    gc.collect()
    gives(child, dumps(name), ("package", 1))


def test_methods_of_importable_things_go_by_reference(child: Child) -> None:
    import datetime
    import decimal
    import textwrap

    day, wrapper = datetime.date(2020, 2, 29), textwrap.TextWrapper(width=9)
    methods = [
        day.isoformat,
        datetime.date.fromisoformat,
        decimal.Decimal.from_float,
        str.maketrans,
        str.upper,
        "a".upper,
        wrapper.fill,
        textwrap.TextWrapper.fill,
        textwrap.TextWrapper(width=9).wrap,
    ]
    data = dumps(methods)
    assert b"_rebuild\x94\x8c\x08function" not in data
    assert importlib.util.MAGIC_NUMBER not in data, "code travelled"

    def probe() -> Any:
        iso, of_iso, of_float, maketrans, upper, bound_upper, fill, raw_fill, wrap = loads(data)
        assert raw_fill is textwrap.TextWrapper.fill
        return (
            (iso(), of_iso("2020-01-01"), of_float(0.5), maketrans("a", "b"), upper("x")),
            (bound_upper(), fill("some words"), raw_fill(fill.__self__, "x"), wrap("some words")),
        )

    gives(child, dumps(probe), probe())


gone = (unrelated for unrelated in ())  # could not travel


def test_unrelated_globals_stay_at_home(child: Child) -> None:
    def probe() -> Any:
        return "gone" in globals(), "Node" in globals(), "child" in globals()

    gives(child, dumps(probe), (False, False, False))
