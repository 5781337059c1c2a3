"""What crosses to a worker once, what again, and what a worker's namespace goes through."""

from __future__ import annotations

import abc
import functools
import gc
import itertools
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from hookpool import _definitions, _rebuild, reduction
from hookpool._definition import Definition, Reference
from hookpool._definitions import Ledger, Packet
from tests.elsewhere import Elsewhere
from tests.helpers import no_collections
from tests.owner import Pool

model: Any = None
cache: dict[str, int] = {}
factor = 1
counts = itertools.count()
MISSING = object()

pytestmark = pytest.mark.usefixtures("by_value")


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Elsewhere(worker=True) as one:
        yield Pool(one)


@pytest.fixture
def two() -> Iterator[Pool]:
    with Elsewhere(worker=True) as one, Elsewhere(worker=True) as other:
        yield Pool(one, other)


def set_model(value: Any) -> None:
    global model
    model = value


def use_model(x: Any) -> Any:
    return model, x


def test_what_an_initializer_sets_is_what_tasks_read(pool: Pool) -> None:
    pool.run(set_model, "loaded")

    assert pool.run(use_model, 1) == ("loaded", 1)
    assert pool.run(lambda: model) == "loaded"
    assert model is None


def fill_cache(key: str) -> None:
    cache[key] = len(cache)


def read_cache() -> dict[str, int]:
    return cache


def test_a_cache_filled_by_one_function_is_read_by_another(pool: Pool) -> None:
    pool.run(fill_cache, "a")
    pool.run(fill_cache, "b")

    assert pool.run(read_cache) == {"a": 0, "b": 1}
    assert cache == {}


def scale(x: int) -> int:
    return factor * x


def test_an_edit_at_the_owner_is_seen_also_one_that_goes_back(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sys.modules[__name__]
    results = [pool.run(scale, 10)]
    monkeypatch.setattr(here, "factor", 2)
    results.append(pool.run(lambda: factor))
    monkeypatch.setattr(here, "factor", 1)
    results.append(pool.run(scale, 10))

    assert results == [10, 2, 10]


def test_a_mutation_of_a_captured_container_is_seen(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "cache", {})
    pool.run(fill_cache, "there")
    cache["here"] = 1

    assert pool.run(read_cache) == {"here": 1}


def test_a_task_runs_with_what_was_captured_when_it_was_submitted(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pool.prepare(scale, 10)
    monkeypatch.setattr(sys.modules[__name__], "factor", 2)
    second = pool.prepare(scale, 10)

    assert [pool.perform(*first), pool.perform(*second)] == [10, 20]


def test_an_old_definition_that_arrives_late_does_not_undo_a_newer_one(
    two: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = two.prepare(scale, 10)
    monkeypatch.setattr(sys.modules[__name__], "factor", 2)
    new = two.prepare(lambda: factor)
    two.perform(*new, worker=1)
    two.perform(*old, worker=1)

    assert two.perform(*new, worker=1) == 2


def test_a_function_crosses_once_per_worker(two: Pool) -> None:
    for worker in (0, 1, 0, 1):
        two.run(use_model, 1, worker=worker)

    assert two.sent == 2


def counter() -> Any:
    total = 0

    def count() -> int:
        nonlocal total
        total += 1
        return total

    return count


def test_two_functions_of_equal_bytes_are_two(pool: Pool) -> None:
    one, other = counter(), counter()
    assert reduction.dumps(one) == reduction.dumps(other)

    assert [pool.run(one), pool.run(one), pool.run(other)] == [1, 2, 1]


class Point:
    scale = 1

    def __init__(self, x: int) -> None:
        self.x = x

    def scaled(self) -> int:
        return self.x * self.scale * factor

    def twin(self) -> Point:
        return Point(self.x)


def test_an_instance_comes_back_as_one_of_the_callers_class(pool: Pool) -> None:
    twin = pool.run(lambda point: point.twin(), Point(3))

    assert type(twin) is Point
    assert twin.x == 3


def test_a_class_crosses_once_and_is_referred_to_by_its_token(pool: Pool) -> None:
    for _ in range(3):
        pool.run(Point.scaled, Point(1))
    before = pool.sent
    packet = pool.ledger.dump((Point(1),))

    assert before == 2
    assert len(packet.data) < 160
    assert [type(one) for one in packet.needs] == [Definition]


def test_an_edited_class_is_updated_and_only_what_was_edited(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(point: Any) -> None:
        type(point).mark = "theirs"
        type(point).scale = 50

    def look(point: Any) -> Any:
        return getattr(type(point), "mark", None), point.scale, hasattr(type(point), "fresh")

    pool.run(mark, Point(1))
    assert pool.run(look, Point(1)) == ("theirs", 50, False)

    monkeypatch.setattr(Point, "fresh", 1, raising=False)
    assert pool.run(look, Point(1)) == ("theirs", 50, True)

    monkeypatch.setattr(Point, "scale", 2)
    monkeypatch.delattr(Point, "fresh")
    assert pool.run(look, Point(1)) == ("theirs", 2, False)


def _edited_class() -> Any:
    """A class of which much leads elsewhere."""
    cell = 1

    def decorated() -> int:
        return 1

    class Meta(type):
        kind = 1

    class Root:
        q = 1

    class Part:
        z = 1

    class Held:
        y = 1

    class Hidden:
        w = 1

    class Given:
        v = 1

    class Whole(Root, metaclass=Meta):
        part = Part
        nested: typing.ClassVar[Any] = {"layers": [1]}
        slotted: typing.ClassVar[Any] = SlottedPoint(1)
        decorate = decorated
        large: typing.ClassVar[Any] = (1,) * 60_000

        def held(self) -> Any:
            return Held.y, cell

        @staticmethod
        def static(value: int = 1) -> int:
            return value

        @classmethod
        def of_class(cls, value: int = 1) -> int:
            return value

        @property
        def read(self) -> int:
            return 1

        @property
        def written(self) -> int:
            return 1

        @written.setter
        def written(self, value: int) -> int:
            return 1

        @staticmethod
        def hidden(kind: Any = Hidden) -> int:
            return int(kind.w)

        def edit(self, value: int) -> None:
            nonlocal cell
            cell = value

        @functools.cached_property
        def lazy(self) -> int:
            return 1

        @functools.cached_property
        def lazier(self) -> int:
            return 1

        @functools.lru_cache  # noqa: B019 - what is edited
        def cached(self) -> int:
            return 1

        def some(self, given: Any, more: int = 1) -> Any:
            return given.v, more

        partly = functools.partialmethod(some, Given, more=1)

        @functools.singledispatchmethod
        def by_type(self, value: Any) -> int:
            return 1

        @functools.singledispatchmethod
        def by_more(self, value: Any) -> int:
            return 1

        @around
        def wrapped(self) -> int:
            return 1

    return Whole, Held


def around(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(self: Any) -> Any:
        return fn(self)

    return wrapper


class SlottedPoint:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


def _look(whole: Any) -> Any:
    kind = type(whole)
    return {
        "metaclass": type(kind).kind,
        "base": kind.q,
        "attribute's": kind.part.z,
        "cell's": whole.held()[0],
        "cell": whole.held()[1],
        "nested": kind.nested["layers"][0],
        "slotted": kind.slotted.x,
        "function's": getattr(kind.decorate, "mark", 1),
        "code": kind.decorate(),
        "function's name": max([int(n[1:]) for n in vars(kind.decorate) if n[0] == "n"] or [1]),
        "large": kind.large[0],
        "static": kind.static(),
        "static default": kind.static(),
        "class method": kind.of_class(),
        "getter": whole.read,
        "setter": kind.written.fset(whole, 0),
        "default's": kind.hidden(),
        "cached property": whole.lazy,
        "cached property's code": whole.lazier,
        "cached": whole.cached(),
        "partial method": whole.partly()[1],
        "partial method's": whole.partly()[0],
        "by type": whole.by_type(0),
        "by one type more": whole.by_more(0),
        "wrapped": whole.wrapped(),
        "bases": kind.__bases__[-1].__name__.count("I") or 1,
    }


def _edits(whole: Any, held: Any) -> dict[str, Any]:
    own = vars(whole)

    def set_code(value: int) -> None:
        whole.decorate.__code__ = eval(f"lambda: {value}").__code__

    def set_name(value: int) -> None:
        vars(whole.decorate).clear()
        vars(whole.decorate)[f"n{value}"] = True

    def set_large(value: int) -> None:
        del whole.large
        whole.large = (value,) * 60_000

    def returning(value: int) -> Any:
        return eval(f"lambda *_: {value}")

    def set_base(value: int) -> None:
        whole.__bases__ = (*whole.__bases__[:1], type("I" * value if value > 0 else "", (), {}))

    return {
        "metaclass": lambda value: setattr(type(whole), "kind", value),
        "base": lambda value: setattr(whole.__base__, "q", value),
        "attribute's": lambda value: setattr(whole.part, "z", value),
        "cell's": lambda value: setattr(held, "y", value),
        "cell": lambda value: whole.edit(None, value),
        "nested": lambda value: setattr(whole, "nested", {"layers": [value]}),
        "slotted": lambda value: setattr(whole, "slotted", SlottedPoint(value)),
        "function's": lambda value: setattr(whole.decorate, "mark", value),
        "code": set_code,
        "function's name": set_name,
        "large": set_large,
        "static": lambda value: setattr(whole, "static", staticmethod(returning(value))),
        "static default": lambda value: setattr(whole.static, "__defaults__", (value,)),
        "class method": lambda value: setattr(whole, "of_class", classmethod(returning(value))),
        "getter": lambda value: setattr(whole, "read", property(returning(value))),
        "setter": lambda value: setattr(whole, "written", whole.written.setter(returning(value))),
        "default's": lambda value: setattr(whole.hidden.__defaults__[0], "w", value),
        "cached property": lambda value: setattr(own["lazy"], "func", returning(value)),
        "cached property's code": lambda value: setattr(
            own["lazier"].func, "__code__", returning(value).__code__
        ),
        "cached": lambda value: setattr(
            whole.cached.__wrapped__, "__code__", returning(value).__code__
        ),
        "partial method": lambda value: own["partly"].keywords.update(more=value),
        "partial method's": lambda value: setattr(own["partly"].args[0], "v", value),
        "by type": lambda value: setattr(
            own["by_type"].func, "__code__", returning(value).__code__
        ),
        "by one type more": lambda value: own["by_more"].register(int, returning(value)),
        "wrapped": lambda value: setattr(
            whole.wrapped.__wrapped__, "__code__", returning(value).__code__
        ),
        "bases": set_base,
    }


@pytest.mark.parametrize("what", list(_edits(*_edited_class())))
def test_an_edit_of_what_is_written_with_a_class_is_seen(pool: Pool, what: str) -> None:
    whole, held = _edited_class()
    edit = _edits(whole, held)[what]
    assert set(pool.run(_look, whole()).values()) == {1}
    for value in range(2, 20):
        # Twice between two looks: the second may be where the last one seen was.
        edit(-value)
        edit(value)
        assert pool.run(_look, whole())[what] == value


def test_a_class_that_was_looked_at_is_gone_with_its_last_user() -> None:
    def make() -> weakref.ref[Any]:
        class Local:
            registry: typing.ClassVar[list[Any]] = []
            nested: typing.ClassVar[Any] = {"of": [SlottedPoint(1)]}
            led: typing.ClassVar[Any] = [[]]

        Local.led[0].append(Local)
        reduction.dumps(Local)
        Local.registry.append(Local())
        return weakref.ref(Local)

    local = make()
    gc.collect()
    assert local() is None


def test_a_class_registered_later_is_one_of_the_kind(pool: Pool) -> None:
    class Kind(abc.ABC):  # noqa: B024 - a name for others
        pass

    class Other:
        pass

    assert not pool.run(issubclass_of, Other, Kind)
    Kind.register(Other)
    assert pool.run(issubclass_of, Other, Kind)


def issubclass_of(one: Any, other: Any) -> bool:
    return issubclass(one, other)


def test_large_classes_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_definitions, "KEPT_BYTES", 100_000)
    ledger = Ledger()
    for number in range(20):
        ledger.dump(
            (type("Large", (), {"__module__": __name__, "data": bytes([number]) * 30_000}),)
        )
    gc.collect()

    assert len(ledger._classes) == 3
    assert ledger._classes_size <= 100_000
    assert len(ledger.forgotten) == 17


def test_a_module_by_value_is_edited_like_a_function(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = types.ModuleType("settings_of_the_day")
    exec("RATE = 1\nTABLE = [1]\ndone = 0\ndef helper(): return 1", vars(settings))
    monkeypatch.setitem(sys.modules, settings.__name__, settings)
    monkeypatch.setattr(sys.modules[__name__], "model", settings)

    def look() -> Any:
        model.done += 1
        return model.RATE, model.TABLE, model.helper(), model.done

    assert pool.run(look) == (1, [1], 1, 1)
    settings.RATE = 2
    settings.TABLE.append(2)
    settings.helper = lambda: 2
    # What the task has set there stays.
    assert pool.run(look) == (2, [1, 2], 2, 2)


def test_what_another_thread_loads_is_no_part_of_a_definition() -> None:
    class Local:
        pass

    noted: list[Any] = []
    data = reduction.dumps(Local)
    _rebuild.loading.classes = noted
    try:
        thread = threading.Thread(target=pickle.loads, args=(data,))
        thread.start()
        thread.join()
        assert noted == []
        pickle.loads(data)
        assert noted == [Local]
    finally:
        _rebuild.loading.classes = None


def test_globals_of_methods_are_looked_at_each_time(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.run(lambda point: point.scaled(), Point(3)) == 3
    monkeypatch.setattr(sys.modules[__name__], "factor", 5)
    assert pool.run(lambda point: point.scaled(), Point(3)) == 15


class Left:
    def other(self) -> Any:
        return Right()


class Right:
    def other(self) -> Any:
        return Left()


def test_classes_that_refer_to_each_other_cross_together(pool: Pool) -> None:
    result = pool.run(lambda: (Left().other(), Right().other()))

    assert [type(one) for one in result] == [Right, Left]
    assert pool.sent == 2


class Base:
    pass


class Derived(Base):
    pass


def test_needs_are_closed_and_in_order() -> None:
    ledger = Ledger()
    ledger.dump(Base())

    packet = ledger.dump((Derived(), Base()))

    met: set[int] = set()
    for definition in packet.needs:
        assert {one.number for one in definition.needs} <= met
        met.add(definition.number)
    assert len(met) == 2


def test_partials_methods_and_instances_go_with_the_data() -> None:
    import functools

    ledger = Ledger()

    for fn in (functools.partial(scale), Point(1).scaled, [].append, functools.lru_cache(scale)):
        assert ledger.call(fn) is None
    assert ledger.call(len) is not None


def test_a_number_is_forgotten_when_its_function_is_gone() -> None:
    ledger = Ledger()
    fn = counter()
    number = ledger.call(fn).number  # type: ignore[union-attr]
    del fn
    gc.collect()

    other = counter()
    ledger.call(other)

    assert list(ledger.forgotten) == [number]


def test_a_ledger_remembers_a_bounded_number_of_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_definitions, "KEPT", 3)
    ledger = Ledger()
    fns = [counter() for _ in range(5)]
    numbers = [ledger.call(fn).number for fn in fns]  # type: ignore[union-attr]

    assert list(ledger.forgotten) == numbers[:2]


class Submits:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __reduce__(self) -> Any:
        self.ledger.call(scale)
        self.ledger.dump(Point(1))
        return int, ()


def test_what_is_pickled_may_use_the_ledger_itself() -> None:
    ledger = Ledger()
    value = Submits(ledger)
    done = threading.Event()

    def work() -> None:
        ledger.call(lambda: value)
        ledger.dump((value, Point(1)))
        done.set()

    threading.Thread(target=work).start()
    assert done.wait(10)


def test_what_was_pickled_before_an_edit_does_not_undo_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[Any] = []

    class Edits:
        """As another thread may, while a function is pickled."""

        def __reduce__(self) -> Any:
            if not later:
                monkeypatch.setattr(sys.modules[__name__], "factor", 2)
                later.append(pool.prepare(lambda: factor))
            return int, ()

    edits = Edits()
    early = pool.prepare(lambda: (factor, edits))
    assert pool.perform(*later[0]) == 2
    assert pool.perform(*early) == (2, 0)


def test_a_result_may_be_a_class_made_by_the_worker(pool: Pool) -> None:
    def make() -> Any:
        class Made:
            x = 1

        return Made

    made = pool.run(make)
    assert made.x == 1
    assert pool.run(lambda cls: cls, made) is made


def test_a_forgotten_definition_can_be_sent_again(pool: Pool) -> None:
    definition, packet = pool.prepare(use_model, 1)
    pool.perform(definition, packet)
    pool.workers[0].ask("forget", definition.number)
    pool.known[0].clear()

    assert pool.perform(definition, packet) == (None, 1)


def default_is_missing(one: Any = MISSING) -> bool:
    return one is MISSING


def other_default_is_missing(one: Any = MISSING) -> bool:
    return one is MISSING


def missing(one: Any = MISSING) -> Any:
    return one


def test_a_sentinel_is_one_object_in_a_worker_and_comes_back_as_itself(pool: Pool) -> None:
    assert pool.run(missing) is MISSING
    assert pool.run(default_is_missing) is True
    assert pool.run(other_default_is_missing) is True
    assert pool.run(default_is_missing) is True
    assert pool.run(lambda: (default_is_missing(), other_default_is_missing())) == (True, True)
    assert pool.run(default_is_missing, MISSING) is True
    assert pool.run(default_is_missing, object()) is False


def test_plain_arguments_are_what_the_c_pickler_makes_of_them() -> None:
    ledger = Ledger()
    for args in [(), (1,), (1.5, "two", b"3", None, True), ([{"a": (1, 2)}],), tuple(range(100))]:
        packet = ledger.dump(args)
        assert packet.data == pickle.dumps(args, pickle.HIGHEST_PROTOCOL)
        assert packet.needs == ()


def test_a_subclass_of_a_plain_type_is_not_taken_for_it(pool: Pool) -> None:
    class Celsius(float):
        unit = "C"

    assert pool.run(lambda one: (type(one).__name__, one.unit, one + 1), Celsius(20)) == (
        "Celsius",
        "C",
        21.0,
    )


def test_a_ledger_is_gone_with_its_last_user() -> None:
    class Row:
        """Makes the pickler note something."""

    ledger = Ledger()
    ledger.dump((Row(),))
    watched = weakref.ref(ledger)
    with no_collections():
        del ledger
        assert watched() is None


def test_a_global_that_also_sits_in_a_cell_is_one_object_with_the_first_function_only(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page on limits says: a global is sent once, a closure with its function."""
    shared = {"n": 0}
    monkeypatch.setattr(sys.modules[__name__], "cache", shared)

    def count() -> tuple[bool, int, int]:
        cache["n"] += 1
        return cache is shared, cache["n"], shared["n"]

    def look() -> tuple[bool, int, int]:
        return cache is shared, cache["n"], shared["n"]

    assert [pool.run(count), pool.run(count)] == [(True, 1, 1), (True, 2, 2)]
    assert pool.run(look) == (False, 2, 0)


def test_what_makes_a_class_untransportable_is_found_from_the_arguments_on() -> None:
    """The class is pickled for itself, inside the dump of the arguments."""

    class Model:
        lines = (one for one in ())

    with pytest.raises(pickle.PicklingError, match=r"args\[0\] -> its class .*Model -> attribute"):
        Ledger().dump((Model(),), {"args": (Model(),)})


def first_reader() -> int:
    return factor


def second_reader() -> int:
    return factor


def test_a_function_whose_global_was_sent_otherwise_meanwhile_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger()
    first = ledger.call(first_reader)
    monkeypatch.setattr(sys.modules[__name__], "factor", 2)
    ledger.call(second_reader)
    monkeypatch.undo()
    again = ledger.call(first_reader)

    assert again is not first
    assert ledger.call(first_reader) is again


def test_a_function_in_use_is_not_the_one_that_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_definitions, "KEPT", 4)
    ledger = Ledger()
    used = counter()
    definition = ledger.call(used)
    for fn in [counter() for _ in range(20)]:
        ledger.call(fn)
        assert ledger.call(used) is definition


# ---- what backends use ---------------------------------------------------------------------


def test_arguments_may_refer_to_a_function_that_crosses_once(pool: Pool) -> None:
    count = counter()
    inner = pool.ledger.call(count)
    assert inner is not None

    def run() -> Any:
        definition, packet = pool.prepare(lambda fn: fn(), Reference(inner))
        packet = Packet(packet.data, (*inner.needs, inner, *packet.needs))
        return pool.perform(definition, packet)

    assert [run(), run(), run()] == [1, 2, 3]  # it keeps what it captured, as what is called does


def test_a_reference_means_nothing_outside_a_worker() -> None:
    inner = Ledger().call(counter)
    assert inner is not None

    with pytest.raises(pickle.UnpicklingError, match="to who is no worker"):
        pickle.loads(pickle.dumps(Reference(inner)))


def test_a_dump_may_have_reducers_of_its_own(pool: Pool) -> None:
    table = {Fraction: lambda one: (int, ("7",))}
    ledger = pool.ledger

    with_table = ledger.dump((Fraction(3),), None, table)
    without = ledger.dump((Fraction(3),))

    assert pickle.loads(with_table.data) == (7,)
    assert pickle.loads(without.data) == (3,)  # the picklers are the same ones


class Holder:
    def held(self) -> Any:
        return model


def test_the_reducers_are_asked_for_what_functions_and_classes_capture(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for its stamps: to find out what a large array is must not take pickling it."""
    monkeypatch.setattr(sys.modules[__name__], "model", Fraction(3))
    table = {Fraction: lambda one: (int, ("7",))}
    definition = pool.ledger.call(use_model, table)
    assert definition is not None
    assert pool.perform(definition, pool.ledger.dump((1,))) == (7, 1)

    packet = pool.ledger.dump((Holder(),), None, table)
    again = pool.ledger.dump((Holder(),), None, table)
    assert pool.perform(pool.prepare(lambda one: one.held())[0], packet) == 7
    assert again.needs == packet.needs  # the class is found unchanged by the same stamps


def test_a_function_whose_captured_objects_are_refused_has_no_definition() -> None:
    class Refused(Exception):
        pass

    def refuse(one: Any) -> Any:
        raise Refused

    captured = Fraction(3)
    ledger = Ledger()

    with pytest.raises(Refused):
        ledger.call(lambda: captured, {Fraction: refuse})
    assert ledger.call(lambda: captured) is not None


def test_a_result_may_have_reducers_of_its_own(pool: Pool) -> None:
    def tabled() -> Any:
        from hookpool._shelf import Tabled

        return Tabled([Fraction(3)], {Fraction: lambda one: (int, ("7",))})

    def plain() -> Any:
        return [Fraction(3)]

    assert pool.run(tabled) == [7]
    assert type(pool.run(plain)[0]) is Fraction
