"""Structures and other types of `ctypes` by value: their layout is the same wherever they come."""

from __future__ import annotations

import ctypes
import multiprocessing.sharedctypes
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hookpool._definitions import Ledger
from hookpool.context import CONTEXT as ctx
from hookpool.executor import HookPoolExecutor
from hookpool.reduction import dumps, loads
from tests.elsewhere import Elsewhere

pytestmark = pytest.mark.usefixtures("by_value")


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))
    origin: Any

    def total(self) -> Any:
        return self.x + self.y


Point.origin = Point(1, 2)


class Packed(ctypes.BigEndianStructure):
    _pack_ = 1
    _fields_ = (
        ("a", ctypes.c_byte),
        ("b", ctypes.c_int32),
        ("c", ctypes.c_int16 * 3),
        ("low", ctypes.c_int, 3),
        ("high", ctypes.c_int, 5),
    )


class Number(ctypes.Union):
    _fields_ = (("i", ctypes.c_uint32), ("f", ctypes.c_float))


class Shape(ctypes.Structure):
    _anonymous_ = ("number",)
    _fields_ = (("number", Number), ("points", (Point * 3) * 2))


class Placed(Point):
    _fields_ = (("z", ctypes.c_longlong),)


class Node(ctypes.Structure):
    pass


Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Node), Point, use_errno=True)
Node._fields_ = [("next", ctypes.POINTER(Node)), ("value", ctypes.c_int), ("by", Compare)]


class Opaque(ctypes.Structure):
    pass


class Celsius(ctypes.c_double):
    def __str__(self) -> str:
        return f"{self.value} C"


class Code(ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "h"


class Tagged(ctypes.Structure):
    __slots__ = ("tag",)
    _pack_ = 1
    _fields_ = (("a", ctypes.c_byte), ("b", ctypes.c_int))


class Triple(ctypes.c_int * 3):  # type: ignore[misc]
    def total(self) -> Any:
        return sum(self)


class Handle(ctypes._Pointer):  # type: ignore[type-arg]
    _type_ = Point


KINDS: list[Any] = [
    Point, Packed, Number, Shape, Placed, Node, Opaque, Celsius, Code, Tagged, Triple, Handle,
]  # fmt: skip


# Each leads to the other, by pointers one way: the one pointed to needs the other's size first.
class Owner(ctypes.Structure):
    pass


class Item(ctypes.Structure):
    pass


Owner._fields_ = [("first", ctypes.POINTER(Item)), ("count", ctypes.c_int)]
Item._fields_ = [("owners", Owner * 2), ("value", ctypes.c_int)]


# A method that names a subclass, which can only be made of what has its layout.
class Base(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int),)

    def grown(self) -> Any:
        return Derived(self.x, 5)


class Derived(Base):
    _fields_ = (("y", ctypes.c_int),)


class Holder(ctypes.Structure):
    _fields_ = (("base", Base), ("at", ctypes.POINTER(Derived * 2)))


@pytest.fixture
def worker() -> Iterator[Elsewhere]:
    with Elsewhere(worker=True) as one:
        yield one


def layout(kind: Any) -> Any:
    """What there is to be known of how a type is laid out."""
    own = vars(kind)
    fields = [(name, own[name].offset, own[name].size) for name, *_ in own.get("_fields_", ())]
    return ctypes.sizeof(kind), ctypes.alignment(kind), fields, sorted(own)


@pytest.mark.parametrize("kind", [*KINDS, Owner, Item, Base, Derived, Holder])
def test_a_type_is_laid_out_as_at_home_and_comes_back_as_itself(
    worker: Elsewhere, kind: Any
) -> None:
    """In a process that has none of these classes yet."""

    def both(kind: Any) -> Any:
        return layout(kind), kind

    assert worker.call(both, kind) == (layout(kind), kind)
    assert worker.call(lambda: both(kind)) == (layout(kind), kind)
    assert dumps(kind) == dumps(kind)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Point * 3,
        lambda: (Point * 3) * 2,
        lambda: ctypes.POINTER(Point),
        lambda: ctypes.POINTER(ctypes.POINTER(Point * 2)),
        lambda: Compare,
        lambda: ctypes.CFUNCTYPE(None, Node),
        lambda: ctypes.c_int * 4,
        lambda: ctypes.POINTER(ctypes.c_int),
        lambda: ctypes.c_int.__ctype_be__,  # type: ignore[attr-defined]
        lambda: ctypes.c_int,
        lambda: type(Point),
        lambda: type(Packed),
        lambda: type(ctypes.c_int),
    ],
)
def test_what_ctypes_makes_of_types_there_is_once(
    elsewhere: Elsewhere, make: Callable[[], Any]
) -> None:
    kind = make()

    def is_it(kind: Any, make: Any) -> Any:
        return kind is make(), kind

    assert loads(dumps(kind)) is kind
    is_it_there, back = elsewhere.call(is_it, kind, make)
    assert is_it_there
    assert back is kind


def test_instances_keep_what_is_in_them(elsewhere: Elsewhere) -> None:
    def doubled(point: Any, packed: Any, number: Any, shape: Any, points: Any) -> Any:
        assert (packed.a, packed.b, list(packed.c), packed.low) == (1, 2, [3, 4, 5], -2)
        assert (number.f, shape.i) == (1.0, 7)
        point.x *= 2
        points[1].x = int(point.total())
        return point, packed, points, Point.origin

    packed = Packed(1, 2, (3, 4, 5), -2, 1)
    point, back, points, origin = elsewhere.call(
        doubled, Point(1, 2), packed, Number(f=1.0), Shape(Number(i=7)), (Point * 2)()
    )

    assert (type(point), point.x, point.total()) == (Point, 2, 4)
    assert (type(back), bytes(back)) == (Packed, bytes(packed))
    assert (type(points), points[1].x) == (Point * 2, 4)
    assert (type(origin), origin.total()) == (Point, 3)


def test_a_subclass_that_a_method_names_can_be_made_there(elsewhere: Elsewhere) -> None:
    grown = elsewhere.call(lambda base: base.grown(), Base(x=3))

    assert (type(grown), grown.x, grown.y) == (Derived, 3, 5)


def test_pointers_work_where_they_are_made(elsewhere: Elsewhere) -> None:
    def chain() -> Any:
        return Node(ctypes.pointer(Node(value=3)), 2).next[0].value

    def through(value: int) -> Any:
        item = Item(value=value)
        return Owner(ctypes.pointer(item)).first[0].value

    assert elsewhere.call(chain) == 3
    assert elsewhere.call(through, 4) == 4


def test_numbers_and_arrays_may_have_methods(elsewhere: Elsewhere) -> None:
    triple = elsewhere.call(lambda one: (one.total(), one), Triple(1, 2, 3))

    assert (triple[0], type(triple[1]), list(triple[1])) == (6, Triple, [1, 2, 3])
    assert elsewhere.call(str, Celsius(1.5)) == "1.5 C"
    assert elsewhere.call(lambda: Code(3).value) == 3
    assert elsewhere.call(lambda: Handle(Point(x=5))[0].x) == 5


class Text(ctypes.c_char_p):
    pass


class Obj(ctypes.py_object):  # type: ignore[type-arg]
    pass


class Addr(ctypes.c_void_p):
    pass


class Named(ctypes.Structure):
    _fields_ = (("n", ctypes.c_int), ("names", Text * 2))


class NamedMore(Named):
    _fields_ = (("m", ctypes.c_int),)


class Either(ctypes.Union):
    _fields_ = (("n", ctypes.c_int), ("named", Named))


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: Text(b"abc"), "pass its contents"),
        (lambda: Obj([1]), "pass its contents"),
        (lambda: Addr(5), "pass its contents"),
        (lambda: ctypes.c_void_p(5), "pass its contents"),
        (lambda: Handle(Point()), "pass its contents"),
        (lambda: Compare(lambda a, b: 1), "inside the function"),
        (lambda: ctypes.CDLL(None).abs, "inside the function"),
        (lambda: (Text * 2)(), "where it is used"),
        (lambda: Named(1), "where it is used"),
        (lambda: NamedMore(m=1), "where it is used"),
        (lambda: (Either * 2)(), "where it is used"),
        (lambda: Node(), "where it is used"),
    ],
)
def test_an_address_is_refused_whatever_it_is_in(make: Callable[[], Any], cure: str) -> None:
    """`ctypes` forgets that of subclasses; to read one that had arrived ended the process."""
    found = rf"object.key: ctypes objects containing pointers cannot be pickled.*{cure}"
    with pytest.raises(pickle.PicklingError, match=found):
        dumps(types.SimpleNamespace(key=make()))


def test_one_that_says_itself_how_it_is_pickled_may_hold_addresses(elsewhere: Elsewhere) -> None:
    class Own(ctypes.c_char_p):
        def __reduce__(self) -> Any:
            return Own, (self.value,)

    assert elsewhere.call(lambda own: own.value, Own(b"abc")) == b"abc"


def test_an_address_is_refused_also_where_others_of_its_type_are_shared() -> None:
    class Word(ctypes.c_char_p):
        pass

    ctx.RawValue(Word)

    with pytest.raises(pickle.PicklingError, match="containing pointers"):
        dumps(Word(b"abc"))


class Library(ctypes.CDLL):
    pass


@pytest.mark.parametrize("kind", [ctypes.CDLL, ctypes.PyDLL, Library])
def test_a_library_is_refused_with_the_way_to_have_one(kind: Any) -> None:
    """Its handle is an address; as a number it ended the process that used it."""
    library = kind(None)
    library.abs.argtypes = [ctypes.c_int]  # which it remembers: no part of it is to blame

    def absolute(n: int) -> Any:
        return library.abs(n)

    found = rf"closure variable 'library'.*: cannot pickle a library .*'{kind.__name__}'\. Open"
    with pytest.raises(pickle.PicklingError, match=found):
        dumps(absolute)


def test_a_library_may_say_itself_how_it_is_opened_again(elsewhere: Elsewhere) -> None:
    class Reopened(ctypes.CDLL):
        def __getstate__(self) -> Any:
            return (self._name,)

        def __setstate__(self, state: Any) -> None:
            self.__init__(*state)  # type: ignore[misc]

    assert elsewhere.call(lambda library: library.abs(-4), Reopened(None)) == 4


def test_a_pool_outlives_a_library_that_it_is_not_given() -> None:
    library, text = ctypes.CDLL(None), Text(b"abc")

    with HookPoolExecutor(1) as pool:
        for fn in (lambda: library.abs(-4), lambda: text.value):
            with pytest.raises(pickle.PicklingError):
                pool.submit(fn).result()
        assert pool.submit(lambda: ctypes.CDLL(None).abs(-4)).result() == 4


def test_an_edit_reaches_who_has_the_class(worker: Elsewhere) -> None:
    class Part(ctypes.Structure):
        _fields_ = (("n", ctypes.c_int),)

        def say(self) -> Any:
            return self.n

    class Whole(ctypes.Structure):
        _fields_ = (("parts", Part * 2),)
        extra = 1

    class Late(ctypes.Structure):
        pass

    ledger = Ledger()
    known = set()

    def look(whole: Any, late: Any) -> Any:
        return whole.parts[1].say(), getattr(whole, "extra", None), ctypes.sizeof(late)

    def run(*args: Any) -> Any:
        definition, packet = ledger.call(look), ledger.dump(args)
        assert definition is not None
        for one in (*definition.needs, definition, *packet.needs):
            if one.number not in known:
                known.add(one.number)
                worker.ask("define", one.number, one.data)
        return loads(worker.ask("run", definition.number, packet.data))

    whole = Whole((Part(1), Part(2)))
    assert run(whole, Late) == (2, 1, 0)
    Whole.extra = 2
    assert run(whole, Late) == (2, 2, 0)
    del Whole.extra
    assert run(whole, Late) == (2, None, 0)
    Part.say = lambda self: -self.n  # type: ignore[method-assign]
    assert run(whole, Late) == (-2, None, 0)


def test_a_layout_that_is_given_later_arrives(worker: Elsewhere) -> None:
    class Late(ctypes.Structure):
        pass

    def size(kind: Any) -> Any:
        return "_fields_" in vars(kind) and ctypes.sizeof(kind)

    assert worker.call(size, Late) is False
    Late._pack_ = 1
    Late._fields_ = [("a", ctypes.c_byte), ("b", ctypes.c_int)]
    assert worker.call(size, Late) == 5


def test_one_that_is_not_shared_travels_although_others_of_its_type_are() -> None:
    """`multiprocessing` registers their type, and would refuse all of them."""
    ctx.RawValue(Point)

    assert multiprocessing.reduction.ForkingPickler._extra_reducers[Point]  # type: ignore[attr-defined]
    assert loads(dumps(Point(1, 2))).total() == 3
    with pytest.raises(RuntimeError, match="shared"):
        dumps(ctx.RawValue(Point))


def test_structures_can_be_shared_with_processes() -> None:
    value, points = ctx.Value(Point), ctx.Array(Point, 3)

    def write() -> None:
        with value.get_lock():
            value.x, value.y = 7, 1.5
        for n in range(3):
            points[n].x = n

    process = ctx.Process(target=write)
    process.start()
    process.join(20)

    assert (value.x, value.y, [point.x for point in points]) == (7, 1.5, [0, 1, 2])


def test_structures_go_to_a_pool_and_back() -> None:
    with HookPoolExecutor(1) as pool:
        back = list(
            pool.map(lambda point: (point, Packed(point.x)), [Point(n, 0) for n in range(3)])
        )

    assert [(type(a), a.x, type(b), b.a) for a, b in back] == [
        (Point, n, Packed, n) for n in range(3)
    ]
