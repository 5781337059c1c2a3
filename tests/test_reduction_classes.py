"""Classes and odd objects by value, from a process that cannot import where they come from."""

from __future__ import annotations

import abc
import collections
import contextvars
import csv
import dataclasses
import decimal
import enum
import functools
import importlib
import io
import itertools
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import typing
import weakref
import zlib
from pathlib import Path
from typing import Any

import pytest

from hookpool._raised import chain_of
from hookpool.reduction import dumps, loads
from tests import odd_errors
from tests.elsewhere import ROOT, Elsewhere

HERE = sys.modules[__name__]
pytestmark = pytest.mark.usefixtures("by_value")


def stays_the_same(elsewhere: Elsewhere, probe: Any) -> None:
    """What a probe says here is what it says there."""
    assert elsewhere.call(probe) == probe()


class Colour(enum.Enum):
    RED = 1, "warm"
    BLUE = 2, "cold"
    CRIMSON = RED

    def __init__(self, number: int, kind: str) -> None:
        self.number = number
        self.kind = kind

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.BLUE


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = enum.auto()


class Stamped(decimal.Decimal, enum.Enum):
    ONE = "1.0"


def test_enumerations_keep_their_members(elsewhere: Elsewhere) -> None:
    def probe() -> Any:
        return (
            [(one.name, one.value, one.kind) for one in Colour],
            Colour.CRIMSON is Colour.RED,
            Colour("anything") is Colour.BLUE,
            list(Colour.__members__),
            (Access.READ | Access.WRITE).value,
            Access(3) == Access.READ | Access.WRITE,
            [one.name for one in Access],
            Level.HIGH + 1,
            Level(2) is Level.HIGH,
            Word.YES.upper(),
            Stamped.ONE + 1,
            Stamped(decimal.Decimal("1.0")) is Stamped.ONE,
            repr(Colour.RED),
        )

    stays_the_same(elsewhere, probe)


def test_members_travel_both_ways_as_themselves(elsewhere: Elsewhere) -> None:
    members = [Colour.RED, Access.READ, Access.READ | Access.WRITE, Level.LOW, Word.YES]

    back = elsewhere.call(lambda *them: them, *members)

    assert list(map(id, back)) == list(map(id, members))


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    x: int
    y: int = 0
    tags: list[str] = dataclasses.field(default_factory=list, compare=False)


@dataclasses.dataclass(slots=True, kw_only=True)
class Slotted:
    a: int
    b: dataclasses.InitVar[int] = 2
    c: int = dataclasses.field(init=False)

    def __post_init__(self, b: int) -> None:
        self.c = self.a * b


def test_dataclasses_stay_dataclasses(elsewhere: Elsewhere) -> None:
    def probe() -> Any:
        field = dataclasses.fields(Point)[0]
        return (
            Point(1) < Point(2),
            hash(Point(1)) == hash(Point(1)),
            dataclasses.replace(Point(1), y=3).y,
            field.default is dataclasses.MISSING,
            Point.__match_args__,
            Slotted(a=3).c,
            hasattr(Slotted(a=3), "__dict__"),
            Slotted.__slots__,
            dataclasses.asdict(Point(1, tags=["t"])),
            {Point(1): 1}[Point(1)],
        )

    stays_the_same(elsewhere, probe)


class WithSlots:
    __slots__ = ("__weakref__", "_x", "y")

    def __init__(self) -> None:
        self._x = 1


class Named:
    def __set_name__(self, owner: Any, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: Any = None) -> str:
        return self.name


class Described:
    title = Named()

    @property
    def both(self) -> str:
        """Two."""
        return self.title * 2

    @functools.cached_property
    def once(self) -> list[int]:
        return [1]

    @functools.lru_cache  # noqa: B019 - it is what is tested
    def cached(self, n: int) -> int:
        return n if n < 2 else self.cached(n - 1) + self.cached(n - 2)

    @functools.singledispatchmethod
    def kind(self, value: object) -> str:
        return "object"

    @kind.register
    def _(self, value: int) -> str:
        return "int"

    partial = functools.partialmethod(kind, 3)

    @classmethod
    def make(cls) -> Any:
        return cls()

    @staticmethod
    def add(a: int, b: int) -> int:
        return a + b


class Derived(Described):
    title = "own"

    def __private(self) -> str:
        return super().title + __class__.__name__  # type: ignore[name-defined]

    def call_private(self) -> str:
        return self.__private()


def test_members_of_classes_work(elsewhere: Elsewhere) -> None:
    def probe() -> Any:
        one, other = Described(), Derived()
        ref = weakref.ref(slotted := WithSlots())
        return (
            (one.both, Described.both.__doc__, one.once is one.once, one.cached(20)),
            (one.kind(1), one.kind(""), one.partial(), type(one.make()) is Described),
            (other.title, other.call_private(), other.add(1, 2), Derived.make().title),
            (slotted._x, hasattr(slotted, "y"), ref() is slotted, hasattr(slotted, "__dict__")),
            list(vars(WithSlots))[:4],
        )

    stays_the_same(elsewhere, probe)


class Registry(type):
    known: typing.ClassVar[dict[str, Any]] = {}

    def __new__(m, name: str, bases: Any, body: Any, *, key: str, **more: Any) -> Any:
        cls = super().__new__(m, name, bases, body, **more)
        m.known[key] = cls
        return cls

    def __init__(c, name: str, bases: Any, body: Any, *, key: str, **more: Any) -> None:
        super().__init__(name, bases, body)


class Keyed(metaclass=Registry, key="keyed"):
    def __init_subclass__(cls, *, extra: int, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.extra = extra  # type: ignore[attr-defined]


class SubKeyed(Keyed, key="sub", extra=5):
    pass


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


@Shape.register
class Square:
    pass


class Round(Shape):
    def area(self) -> int:
        return 3


T = typing.TypeVar("T", bound=int)


class Box(typing.Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content


class Sized(typing.Protocol):
    def size(self) -> int: ...


class Movie(typing.TypedDict, total=False):
    name: str


class Pair(typing.NamedTuple):
    left: int
    right: int = 2

    def total(self) -> int:
        return self.left + self.right


UserId = typing.NewType("UserId", int)


def test_what_makes_classes_is_neither_needed_nor_run_again(elsewhere: Elsewhere) -> None:
    def probe() -> Any:
        try:
            Shape()
            abstract = "made"
        except TypeError as error:
            abstract = str(error)
        return (
            (SubKeyed.extra, sorted(Registry.known), Registry.known["sub"] is SubKeyed),
            (abstract, isinstance(Square(), Shape), issubclass(Round, Shape), Round().area()),
            (Box[int](3).content, Box[int].__args__, T.__bound__, Box.__parameters__ == (T,)),
            (Movie(name="x"), Movie.__total__, Pair(1).total(), Pair._fields, UserId(3)),
            UserId.__supertype__,
        )

    stays_the_same(elsewhere, probe)


class TypeVar:
    """Only says that it is the other one."""

    __module__ = "typing"

    def __init__(self, content: Any) -> None:
        self.content = content


def test_a_class_that_says_it_is_one_of_typing_is_taken_for_what_it_is(
    elsewhere: Elsewhere,
) -> None:
    pretender = TypeVar(3)
    stays_the_same(elsewhere, lambda: (pretender.content, type(pretender) is TypeVar))


def test_type_variables_keep_their_identity(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda: (T, Box.__parameters__[0]))[1] is T


class Odd(Exception):
    def __init__(self, *, needed: int) -> None:
        super().__init__(f"needed {needed}")
        self.needed = needed


def failing() -> Any:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise Odd(needed=3) from inner
    except Odd as error:
        error.add_note("a note")
        return error


def test_exceptions_keep_everything_but_the_traceback(elsewhere: Elsewhere) -> None:
    error = elsewhere.call(failing)

    assert type(error) is Odd
    assert (error.needed, str(error), error.__notes__) == (3, "needed 3", ["a note"])
    assert repr(error.__cause__) == "KeyError('inner')"
    assert error.__context__ is error.__cause__
    assert error.__suppress_context__


def test_a_chain_that_cannot_travel_does_not_take_the_exception_along() -> None:
    error = ValueError("outer")
    error.__cause__ = OSError("inner")
    error.__cause__.held = io.FileIO(0, closefd=False)  # type: ignore[attr-defined]

    made = loads(dumps(error))

    assert str(made) == "outer"
    assert "OSError: inner" in str(made.__cause__)


def test_a_link_of_a_chain_that_has_no_text_does_not_take_the_exception_along() -> None:
    error = ValueError("outer")
    error.__cause__ = odd_errors.NoText("inner")
    error.__cause__.held = io.FileIO(0, closefd=False)  # type: ignore[attr-defined]

    made = loads(dumps(error))

    assert str(made) == "outer"
    assert "NoText: " in str(made.__cause__)


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_exceptions_of_any_class_travel_with_their_chain(name: str) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise odd_errors.make(name) from inner
    except Exception as outer:
        error = outer

    made = loads(dumps(error))

    assert type(made) is type(error)
    cause, context, is_suppressed = chain_of(made)
    assert repr(cause) == "KeyError('inner')"
    assert cause is context
    assert is_suppressed


@pytest.mark.parametrize("kind", [odd_errors.Frozen, odd_errors.Sealed])
def test_exceptions_that_let_nothing_be_set_keep_their_attributes(kind: type[Exception]) -> None:
    error = kind("what")
    vars(error)["more"] = 7

    made = loads(dumps(error))

    assert vars(made) == vars(error)
    assert made.args == error.args


def test_an_exception_that_refuses_its_state_by_its_own_setstate_is_heard() -> None:
    class Choosy(Exception):
        def __setstate__(self, state: Any) -> None:
            raise ValueError("not like this")

    error = Choosy()
    error.more = 7  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match="not like this"):
        loads(dumps(error))


def test_causes_nested_in_causes_are_tried_once_each() -> None:
    error: BaseException = ValueError("innermost")
    for number in range(60):  # tried again at each level, these would take for ever
        inner = KeyError(number)
        inner.held = error  # type: ignore[attr-defined]
        error = ExceptionGroup(str(number), [RuntimeError(number)])
        error.__cause__ = inner
    depth = 0
    arrived = loads(dumps(error))
    while (cause := arrived.__cause__) is not None:
        arrived, depth = cause.held, depth + 1
    assert depth == 60
    assert str(arrived) == "innermost"


def test_an_exception_that_contains_itself_is_a_clean_error() -> None:
    first, second = LookupError("first"), LookupError("second")
    first.__cause__, second.__context__ = second, first
    first.args = (first,)
    with pytest.raises(pickle.PicklingError, match="recursion"):
        dumps(first)


def test_groups_of_exceptions_travel(elsewhere: Elsewhere) -> None:
    group = elsewhere.call(lambda: ExceptionGroup("both", [Odd(needed=1), ValueError(2)]))

    assert [type(one) for one in group.exceptions] == [Odd, ValueError]


def test_an_exception_whose_own_way_back_fails_arrives_all_the_same() -> None:
    class Broken(Exception):
        def __reduce__(self) -> Any:
            return (type(self), (1, 2, 3), {"x": 1})

        def __init__(self, only: int) -> None:
            super().__init__(only)

    made = loads(dumps(Broken(7)))

    assert (made.args, made.x) == ((7,), 1)


variable = contextvars.ContextVar("variable", default=4)


class Greedy:
    def __init__(self) -> None:
        self.target = "x"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


def test_odd_objects_travel(elsewhere: Elsewhere) -> None:
    counts = {"a": 1}
    ordered = collections.OrderedDict(b=2)
    held = Described()
    weak = weakref.WeakValueDictionary(k=held)
    keys = weakref.WeakKeyDictionary({held: 1})

    def probe() -> Any:
        return (
            list(counts.keys() | ordered.keys()),
            [*counts.values(), *ordered.items()],
            types.MappingProxyType(counts)["a"],
            weak["k"] is held,
            keys[held],
            next(iter(weakref.WeakSet([held]))) is held,
            variable.get(),
            Greedy().upper(),
            bytes(memoryview(b"abc")[1:]),
        )

    assert sorted(map(str, elsewhere.call(probe)[0])) == sorted(map(str, probe()[0]))
    assert elsewhere.call(probe)[1:] == probe()[1:]


@pytest.mark.parametrize(
    "obj",
    [
        types.MappingProxyType({"a": 1}),
        {"a": 1}.keys(),
        {"a": 1}.items(),
        types.FunctionType,
        type({}.keys()),
        WithSlots.__dict__["y"],
        Greedy.__dict__["__dict__"],
        dataclasses.MISSING,
        memoryview(b"abc"),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_single_objects_travel(obj: Any) -> None:
    made = loads(dumps(obj))

    assert type(made) is type(obj)
    assert made == obj or made is obj


def test_views_of_dicts_stay_what_they_are_when_managers_are_used() -> None:
    importlib.import_module("multiprocessing.managers")  # registers reducers that make lists
    for view in ({1: 2}.keys(), {1: 2}.values(), {1: 2}.items()):
        assert type(loads(dumps(view))) is type(view)


def test_methods_are_found_on_the_receivers_class() -> None:
    one = Derived()

    private_one = one._Derived__private  # type: ignore[attr-defined]

    bound, private, made = loads(dumps((one.call_private, private_one, Derived.make)))

    assert bound.__func__ is Derived.call_private
    assert private() == "titleDerived"
    assert made.__self__ is Derived


def test_a_dead_weak_reference_stays_dead() -> None:
    ref = weakref.ref(Described())

    assert loads(dumps(ref))() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695")
def test_new_type_syntax_travels(elsewhere: Elsewhere) -> None:
    module = types.ModuleType("pep695")
    source = """
    import typing
    class Stack[T: int, *Ts, **P]:
        def push[U](self, item: U) -> list[T | U]: return [item]
    type Tree[T] = T | list[Tree[T]]
    type Plain = int | list[Plain]
    type Pairs[T] = list[tuple[T, T]]
    def first[T](items: list[T]) -> T: return items[0]
    def probe():
        return (
            [str(one) for one in Stack.__type_params__],
            Stack[int, str, [int]].__args__[:2], Stack().push(1),
            str(Tree.__value__), Plain.__value__.__args__[1].__args__[0] is Plain,
            Pairs.__type_params__[0] in Pairs.__value__.__parameters__,
            first([3]), [str(one) for one in first.__type_params__],
            Tree.__module__, Plain.__module__, Pairs.__module__,
        )
    """
    exec(textwrap.dedent(source), vars(module))

    stays_the_same(elsewhere, module.probe)


def test_type_variables_with_what_newer_pythons_give_them(elsewhere: Elsewhere) -> None:
    pytest.importorskip("typing_extensions")
    module = types.ModuleType("extended")
    source = """
    import typing, typing_extensions
    T = typing_extensions.TypeVar("T", default=int)
    P = typing_extensions.ParamSpec("P", default=[int])
    N = typing_extensions.TypeVar("N", default=None, infer_variance=True)
    class Box(typing.Generic[T]):
        def get(self) -> T: return 1
    def f(*args: P.args) -> N: ...
    def probe():
        return T.__default__, P.__default__, N.has_default(), N.__infer_variance__, Box().get()
    """
    exec(textwrap.dedent(source), vars(module))

    stays_the_same(elsewhere, module.probe)


class Local(threading.local):
    __slots__ = ("kept",)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.seen = args, keywords
        self.kept = (Local, {"a": 1})


class Bare(threading.local):
    pass


def test_a_local_of_a_thread_is_made_with_its_arguments(elsewhere: Elsewhere) -> None:
    some = [Local(), Local(1, [2]), Local(k=3), Local(4, k=5, m={6: 7})]
    bare = Bare()
    bare.x = 1

    def probe() -> Any:
        return [one.seen for one in some]

    stays_the_same(elsewhere, probe)
    assert not elsewhere.call(lambda: hasattr(bare, "x"))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695")
def test_what_is_evaluated_late_may_name_what_only_type_checkers_see(elsewhere: Elsewhere) -> None:
    module = types.ModuleType("pep695")
    source = """
    type Absent = Nowhere
    type Many[T] = list[Nowhere | T]
    class Bound[T: Nowhere]: x = 1
    def f(a: Absent, b: Many[int]) -> int: return 1
    def probe():
        found = []
        for alias in (Absent, Many):
            try: alias.__value__
            except NameError as error: found.append((alias.__name__, str(error)))
        return found, f(1, 2), str(f.__annotations__), Bound().x
    """
    exec(textwrap.dedent(source), vars(module))

    stays_the_same(elsewhere, module.probe)


def class_of_a_program(source: str) -> bytes:
    """The pickle of the class ``One`` of a program that is another process."""
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(source)
    program += "\nfrom hookpool import dumps\nsys.stdout.buffer.write(dumps(One))\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "source",
    [
        "class One:\n    def what(self): return {!r}",
        "class One:\n    value = {!r}\n    def what(self): return self.value",
        "value = {!r}\nclass One:\n    def what(self): return value",
        "def helper(): return {!r}\nclass One:\n    def what(self): return helper()",
        "class Base:\n    def what(self): return {!r}\nclass One(Base): pass",
        "import enum\nclass One(enum.Enum):\n    A = {!r}\n"
        "    @classmethod\n    def what(cls): return cls.A.value\nOne.__call__ = 1",
    ],
)
def test_classes_of_two_programs_are_not_taken_for_each_other(source: str) -> None:
    first, second = (loads(class_of_a_program(source.format(value))) for value in ("a", "b"))

    def answer(cls: Any) -> Any:
        return cls.what() if isinstance(cls, enum.EnumMeta) else cls().what()

    assert (answer(first), answer(second)) == ("a", "b")


@pytest.mark.parametrize(
    "value",
    [
        "datetime.date(200{}, 1, 1)",
        "array.array('i', [{}])",
        "list(range({0}, 3000 + {0}))",
        "Inner({})",
    ],
)
def test_classes_of_two_runs_with_other_attributes_are_two(value: str) -> None:
    source = """
import array, datetime
class Inner:
    def __init__(self, n): self.n = n
class One:
    value = {}
    def what(self): return repr(getattr(self.value, "n", self.value))
"""
    first, second, again = (
        loads(class_of_a_program(source.format(value.format(number)))) for number in (1, 2, 1)
    )
    assert first().what() != second().what()
    assert again is first


def test_ones_own_class_stays_ones_own_beside_that_of_an_earlier_run() -> None:
    program = f"""
import pickle, sys
sys.path.insert(0, {str(ROOT)!r})
from hookpool import dumps, loads
class One: pass
T = __import__("typing").TypeVar("T", bound=One)
before = sys.stdin.buffer.read()
if before:
    old, variable = loads(before)
    assert old is not One and variable is not T
    assert loads(dumps(One)) is One and loads(dumps([T]))[0] is T
    assert dumps(One) == dumps(One)
sys.stdout.buffer.write(dumps((One, T)))
"""

    def run(given: bytes) -> bytes:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout

    assert run(run(b""))


def test_classes_that_processes_of_another_pool_make_are_as_many(tmp_path: Path) -> None:
    program = f"""
import multiprocessing, re, sys
sys.path.insert(0, {str(ROOT)!r})
from hookpool import dumps, loads
def work(queue, number):
    class One:
        what = lambda self: data.pattern
    data = re.compile(str(number))
    queue.put(dumps(One))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=work, args=(queue, number)) for number in range(3)]
    for worker in workers: worker.start()
    classes = [loads(queue.get()) for _ in workers]
    for worker in workers: worker.join()
    assert sorted(cls().what() for cls in classes) == ["0", "1", "2"]
"""
    path = tmp_path / "makes_classes.py"
    path.write_text(program)
    subprocess.run([sys.executable, str(path)], check=True, timeout=60)


def test_type_and_context_variables_of_two_programs_are_not_taken_for_each_other() -> None:
    source = """
    import contextvars, typing
    T = typing.TypeVar("T", bound={0})
    var = contextvars.ContextVar("var", default={0}())
    def what(): return T.__bound__, var.get()
    One = what
    """
    first, second = (loads(class_of_a_program(source.format(kind))) for kind in ("int", "str"))
    assert (first(), second()) == ((int, 0), (str, ""))


def test_what_a_class_refers_to_may_be_large_deep_or_refer_back() -> None:
    class Odd:
        numbers = tuple(range(10**5))
        text = "long" * 10**5
        huge = 10**5000
        nested: typing.ClassVar[list[Any]] = []

        def again(self) -> Any:
            return self.__class__, again

    again = Odd.again
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    Odd.nested += [Odd.nested, Odd, deep, "\udc80"]
    assert loads(dumps(Odd)) is Odd


def test_threads_that_pickle_a_class_for_the_first_time_agree() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            made = type("Made", (), {f"f{n}": lambda self: 1 for n in range(20)})
            gate = threading.Barrier(4)
            found: list[bytes] = []

            def pickle_it(made: Any = made, gate: Any = gate, found: Any = found) -> None:
                gate.wait()
                found.append(dumps(made))

            threads = [threading.Thread(target=pickle_it) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 4
            assert len(set(found)) == 1
    finally:
        sys.setswitchinterval(before)


def test_a_class_can_be_pickled_while_a_thread_edits_it() -> None:
    class Edited:
        pass

    ended = threading.Event()

    def edit() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            setattr(Edited, f"a{number % 50}", number)
            if number % 7 == 0:
                delattr(Edited, f"a{number % 50}")

    thread = threading.Thread(target=edit)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300):
            dumps(Edited)
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)


def test_a_signal_handler_may_pickle_the_class_that_is_being_pickled() -> None:
    # A handler runs between two calls; a profile function, too, but at a point of our choice.
    nth = itertools.count(1)
    is_reached = True
    while is_reached:
        made: Any = type("Made", (), {f"f{n}": lambda self: 1 for n in range(3)})
        point, events, found = next(nth), itertools.count(), []

        def handler(*_: object, made=made, point=point, events=events, found=found) -> None:
            if next(events) == point:
                sys.setprofile(None)
                found.append(dumps(made))

        sys.setprofile(handler)
        try:
            found.append(dumps(made))
        finally:
            sys.setprofile(None)
        is_reached = len(found) == 2
        assert set(found) == {dumps(made)}
    assert point > 50


class Wide(list[int]):
    pass


@pytest.mark.parametrize("make", [list, set, tuple, dict.fromkeys, collections.deque, Wide])
def test_a_class_is_not_looked_for_in_many_numbers(make: Any) -> None:
    held = make(range(30_000))

    class Holding:
        def get(self) -> Any:
            return held

    count, before = 0, sys.gettrace()

    def traced(*_: object) -> Any:
        nonlocal count
        count += 1
        return traced

    sys.settrace(traced)
    try:
        dumps(Holding)
    finally:
        sys.settrace(before)
    assert count < 10_000  # lines of Python, and calls


READER = type(csv.reader([]))  # a class made at run time, by a module in C, as `_csv.Reader`


def test_a_class_written_in_c_goes_by_the_name_that_a_module_has_for_it(
    elsewhere: Elsewhere,
) -> None:
    """It says ``_csv.reader``, which is a function; one made of its attributes would be empty."""
    stays_the_same(elsewhere, lambda: isinstance(csv.reader([]), READER))
    stays_the_same(elsewhere, lambda: isinstance(threading.Lock(), type(threading.Lock())))
    lock = type(threading.Lock())
    stays_the_same(elsewhere, lambda: isinstance(threading.Lock(), lock))
    assert loads(dumps(READER)) is READER


class Reading:
    kind = READER


def test_it_does_so_also_when_a_class_that_refers_to_it_has_been_pickled(
    elsewhere: Elsewhere,
) -> None:
    stays_the_same(elsewhere, lambda: isinstance(csv.reader([]), Reading.kind))
    assert dumps(Reading) == dumps(Reading)
    assert loads(dumps(READER)) is READER


def test_a_class_written_in_c_that_no_module_has_is_refused() -> None:
    nameless = type(zlib.compressobj())

    with pytest.raises(pickle.PicklingError, match=r"'nameless' of <lambda> at .*: Can't"):
        dumps(lambda: nameless)


class Template:
    """Made by more than there is to be had of an instance."""

    def __new__(cls, source: str, *, name: str) -> Any:
        made = super().__new__(cls)
        made.text = f"{name}: {source}"  # type: ignore[attr-defined]
        return made


class Unit(str):
    __slots__ = ("factor",)

    def __new__(cls, name: str, factor: int) -> Any:
        made = super().__new__(cls, name.lower())
        made.factor = factor
        return made


class Twin(tuple[int, ...]):
    def __new__(cls, first: int, second: int) -> Any:
        return super().__new__(cls, (first, second))


class Kept(int):
    def __new__(cls, value: int, more: int) -> Any:
        made = super().__new__(cls, value)
        made.more = more  # type: ignore[attr-defined]
        return made

    def __getstate__(self) -> Any:
        return self.more + 1  # type: ignore[attr-defined]

    def __setstate__(self, state: int) -> None:
        self.more = state


TEMPLATE = Template("source", name="name")


def test_an_instance_whose_new_wants_more_is_made_by_the_class_in_c(elsewhere: Elsewhere) -> None:
    """`pickle` calls ``__new__`` with less, where it is loaded."""
    unit, pair, kept = Unit("KM", 1000), Twin(1, 2), Kept(3, 4)

    stays_the_same(elsewhere, lambda: (TEMPLATE.text, type(TEMPLATE) is Template))
    stays_the_same(elsewhere, lambda: (str(unit), unit.factor, tuple(pair), type(pair) is Twin))
    assert elsewhere.call(lambda: (kept + 0, kept.more)) == (3, 5)


class Lenient:
    def __new__(cls, source: str = "default") -> Any:
        made = super().__new__(cls)
        made.made_of = source  # type: ignore[attr-defined]
        return made

    def __getstate__(self) -> None:
        return None


def test_one_that_wants_no_more_is_called_as_ever() -> None:
    assert loads(dumps(Lenient("source"))).made_of == "default"
