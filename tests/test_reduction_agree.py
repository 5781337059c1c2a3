"""Whatever cloudpickle carries, hookpool carries, with the same observable result.

Hypothesis writes small programs and nested data. Each is pickled by both, loaded in a process that
has never seen its source, called there, and what comes out is compared with what comes out here.
"""

from __future__ import annotations

import datetime
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import cloudpickle
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from hookpool import reduction
from tests.agree_child import Child, describe, observe

# One child for all examples is the point, not an oversight.
shared_child = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


# --- data ------------------------------------------------------------------------------------

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False),
    st.sampled_from(
        [
            Decimal("1.50"),
            Fraction(1, 3),
            datetime.date(2020, 2, 29),
            datetime.timedelta(1),
            datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
            PurePosixPath("a/b"),
            UUID(int=7),
            range(3, 9, 2),
            slice(1, None),
            Ellipsis,
            NotImplemented,
            int,
            len,
            OrderedDict,
            datetime.datetime.now,
        ]
    ),
)
keys = st.one_of(st.integers(), st.text(max_size=4), st.tuples(st.integers(), st.booleans()))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=4)
    return st.one_of(
        items,
        items.map(tuple),
        items.map(deque),
        items.map(lambda found: [found, found]),  # shared
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
        st.dictionaries(keys, inner, max_size=3).map(lambda found: defaultdict(list, found)),
        st.lists(keys, max_size=5).map(Counter),
        st.frozensets(keys, max_size=4),
        st.sets(keys, max_size=4),
        items.map(lambda found: ValueError(*found)),
    )


data = st.recursive(atoms, containers, max_leaves=20)


@shared_child
@given(data)
def test_data_travels(child: Child, obj: Any) -> None:
    expected = ("gave", describe(obj))
    assert child.ask(reduction.dumps(lambda: obj)) == expected
    assert describe(pickle.loads(reduction.dumps(obj))) == expected[1]


@given(data)
def test_importable_data_gives_the_bytes_of_plain_pickle(obj: Any) -> None:
    assert reduction.dumps(obj, 4) == pickle.dumps(obj, 4)


# --- programs --------------------------------------------------------------------------------

literals = st.sampled_from(
    ["0", "-7", "2.5", "'s'", "b'x'", "None", "True", "()", "(1, 'a')", "[1]", "{'k': [2]}", "{3}"]
)
flags = st.booleans()


class Program:
    """Source made of pieces; each piece may use the names of the earlier ones."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.lines: list[str] = [PRELUDE]
        self.probes: list[str] = []
        self.callables: list[str] = []

    def add(self, source: str, *probes: str) -> None:
        self.lines.append(source)
        self.probes += probes

    def source(self) -> str:
        probe = "".join(f"    found.append({expression})\n" for expression in self.probes)
        return "\n".join([*self.lines, f"def probe():\n    found = []\n{probe}    return found\n"])

    def literal(self) -> str:
        found: str = self.draw(literals)
        return found

    def maybe(self, text: str) -> str:
        return text if self.draw(flags) else ""

    def earlier_call(self) -> str:
        """A call of an earlier function, through a global."""
        if not self.callables:
            return self.literal()
        return f"{self.draw(st.sampled_from(self.callables))}()"


PRELUDE = """\
from __future__ import annotations
import abc, collections, contextlib, dataclasses, enum, functools, math, typing
import os.path
SETTING = {'level': 3}
def tagged(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return ['tagged', fn(*args, **kwargs)]
    return wrapper
def adding(extra):
    def decorate(fn):
        def inner(*args, **kwargs):
            return [fn(*args, **kwargs), extra]
        return inner
    return decorate
class Noting(type):
    def __new__(mcls, name, bases, body, **options):
        cls = super().__new__(mcls, name, bases, body)
        cls.noted = sorted(options)
        return cls
    def __init__(cls, name, bases, body, **options):
        super().__init__(name, bases, body)
class Named:
    def __set_name__(self, owner, name):
        self.name = name
    def __get__(self, obj, owner=None):
        return self if obj is None else ('named', self.name)
def public(cls):
    return sorted(name for name in vars(cls) if not name.startswith('_'))
def failing(fn):
    try:
        return fn()
    except Exception as error:
        return type(error).__name__, str(error)
"""


DECORATORS = ["tagged", "adding('e')", "functools.lru_cache", "functools.cache", "adding(SETTING)"]


def add_function(p: Program, name: str) -> None:
    decorators = p.draw(st.lists(st.sampled_from(DECORATORS), max_size=3))
    star = p.draw(st.sampled_from(["", "*args, ", "*, "]))
    annotation = p.maybe(": list[int]")
    head = "".join(f"@{decorator}\n" for decorator in decorators)
    p.add(
        f"""\
{head}def {name}(a={p.literal()}, {star}b{annotation}={p.literal()}){p.maybe(" -> 'typing.Any'")}:
    {p.maybe("'doc'")}
    return [a, b, SETTING['level'], math.floor(2.5), {p.earlier_call()}]
""",
        f"failing({name})",  # a cached one takes no list
        f"({name}.__name__, {name}.__doc__, {name}.__module__)",
    )
    if not decorators:
        p.callables.append(name)


def add_lambda(p: Program, name: str) -> None:
    p.add(
        f"{name} = lambda a={p.literal()}, **rest: [a, rest, SETTING, {p.earlier_call()}]",
        f"{name}(k=1)",
    )


def add_recursion(p: Program, name: str) -> None:
    p.add(
        f"""\
def {name}(n=3):
    return {p.earlier_call()} if n == 0 else {name}_back(n - 1)
def {name}_back(n):
    return {name}(n)
""",
        f"{name}()",
    )


def add_generators(p: Program, name: str) -> None:
    p.add(
        f"""\
def {name}(a={p.literal()}):
    got = yield a
    yield got, SETTING['level'], {p.earlier_call()}
async def {name}_later():
    return list({name}())
""",
        f"list({name}())",
        f"failing(lambda: {name}_later().send(None))",
    )


def add_closure(p: Program, name: str) -> None:
    p.add(
        f"""\
def make_{name}(start={p.literal()}):
    count = 0
    def step():
        nonlocal count
        count += 1
        return start, count
    def look():
        return count, step.__name__, look.__qualname__
    return step, look
{name}_step, {name}_look = make_{name}()
{p.maybe(f"{name}_step()")}
""",
        f"({name}_step(), {name}_step(), {name}_look())",
    )


def add_class(p: Program, name: str) -> None:
    slots = p.maybe(f"__slots__ = ('x', {p.maybe(repr('__weakref__'))})")
    bases = p.draw(st.sampled_from(["", "abc.ABC", "typing.Generic[T]", "contextlib.ExitStack"]))
    if slots and "Exit" in bases:
        bases = ""
    p.add(
        f"""\
T = typing.TypeVar('T')
class {name}({bases or p.maybe("metaclass=Noting, option=1")}):
    {slots}
    total = {p.literal()}
    named = Named()
    def __init__(self, x={p.literal()}):
        self.x = x
    @property
    def doubled(self):
        return self.x, self.total
    @classmethod
    def make(cls, *args):
        return cls(*args)
    @staticmethod
    def free(a=1):
        return a, SETTING
    def whoami(self):
        return __class__.__name__, self.__private()
    def __private(self):
        return {p.earlier_call()}
    def __eq__(self, other):
        return type(other) is {name} and self.x == other.x
    def __hash__(self):
        return 1
class {name}Child({name}):
    {p.maybe("total = 5")}
    own: int = {p.literal()}
    def whoami(self):
        return 'child', super().whoami()
{name}_one = {name}Child.make({p.literal()})
""",
        f"({name}().doubled, {name}.free(), {name}.make().x, {name}().named, {name}().whoami())",
        f"({name}_one.doubled, {name}_one.whoami(), type({name}_one) is {name}Child)",
        f"({name}Child.__mro__[1] is {name}, public({name}), public({name}Child))",
        f"(hasattr({name}_one, '__dict__'), {name}_one == {name}Child.make({name}_one.x))",
        f"(getattr({name}, 'noted', None), {name}Child.__annotations__, {name}.__qualname__)",
    )


def add_dataclass(p: Program, name: str) -> None:
    options = ["slots", "frozen", "order", "kw_only"]
    chosen = ", ".join(f"{option}=True" for option in options if p.draw(flags))
    p.add(
        f"""\
@dataclasses.dataclass({chosen})
class {name}:
    a: int = 1
    b: list = dataclasses.field(default_factory=list, repr={p.draw(flags)})
    c: dataclasses.InitVar[int] = 3
    K: typing.ClassVar[int] = {p.draw(st.integers(0, 9))}
    def total(self):
        return self.a + len(self.b) + self.K
{name}_one = {name}(a=4)
""",
        f"({name}_one, {name}_one.total(), {name}_one == {name}(a=4), {name}.__match_args__)",
        f"(dataclasses.asdict({name}()), dataclasses.replace({name}_one, a=9, c=1))",
        f"[(f.name, f.default is dataclasses.MISSING) for f in dataclasses.fields({name})]",
        f"failing(lambda: setattr({name}_one, 'a', 7))",
        f"failing(lambda: setattr({name}_one, 'other', 7))",
    )


def add_enum(p: Program, name: str) -> None:
    base = p.draw(st.sampled_from(["Enum", "IntEnum", "Flag", "IntFlag", "StrEnum"]))
    one, two = ["'a'", "'b'"] if base == "StrEnum" else ["1", "2"]
    p.add(
        f"""\
class {name}(enum.{base}):
    A = {one}
    B = {p.draw(st.sampled_from([two, "enum.auto()"]))}
    ALIAS = {one}
    {p.maybe("def up(self): return self.name.lower()")}
    @classmethod
    def _missing_(cls, value):
        return cls.A if value == 'other' else None
""",
        f"([m.name for m in {name}], {name}.ALIAS is {name}.A, list({name}.__members__))",
        f"({name}({two}) is {name}.B, {name}('other') is {name}.A, {name}['B'].value)",
        f"(isinstance({name}.A, {name}), repr({name}.B), failing(lambda: {name}('none')))",
    )


def add_named_tuple(p: Program, name: str) -> None:
    p.add(
        f"""\
class {name}(typing.NamedTuple):
    x: int
    y: str = {p.literal()}
    def sum(self):
        return self.x, SETTING['level']
{name}_plain = collections.namedtuple('{name}_plain', 'p q', defaults=[{p.literal()}])
""",
        f"({name}(3), {name}(3).sum(), {name}._fields, {name}._field_defaults)",
        f"({name}(1)._replace(x=2), {name}_plain(1), {name}_plain(1)._asdict())",
    )


def add_exception(p: Program, name: str) -> None:
    p.add(
        f"""\
class {name}({p.draw(st.sampled_from(["Exception", "ValueError", "KeyError"]))}):
    def __init__(self, code, *, hint=None):
        super().__init__(f'code {{code}}')
        self.code, self.hint = code, hint
def raise_{name}():
    raise {name}(3, hint={p.literal()})
def catch_{name}():
    try:
        raise_{name}()
    except {name} as error:
        return str(error), error.code, error.hint, error.args
try:
    raise_{name}()
except {name} as error:
    {name}_caught = error
""",
        f"catch_{name}()",
        f"({name}_caught.code, {name}_caught.hint, {name}_caught.args)",
    )


def add_captured(p: Program, name: str) -> None:
    """Bound methods, partials and data that refer to generated classes and functions."""
    p.add(
        f"""\
class {name}:
    def __init__(self, data): self.data = data
    def get(self, *extra): return self.data, extra
    @functools.cached_property
    def slow(self): return len(self.data)
    @functools.singledispatchmethod
    def show(self, arg): return 'any'
    @show.register
    def _(self, arg: int): return 'int'
    part = functools.partialmethod(get, {p.literal()})
{name}_held = {name}([{p.literal()}, {p.earlier_call()}])
{name}_method = {name}_held.get
{name}_partial = functools.partial({name}.get, {name}_held, 1)
{name}_ring = [{name}_held]
{name}_ring.append({name}_ring)
{name}_held.ring = {name}_ring
""",
        f"({name}_method(1), {name}_partial(2), {name}_held.part(), {name}_held.slow)",
        f"({name}_held.show(1), {name}_held.show('s'))",
        f"({name}_method.__self__ is {name}_held, {name}_held.ring[1] is {name}_held.ring)",
    )


PIECES = [
    add_function,
    add_lambda,
    add_recursion,
    add_generators,
    add_closure,
    add_class,
    add_dataclass,
    add_enum,
    add_named_tuple,
    add_exception,
    add_captured,
]


@st.composite
def programs(draw: Any) -> str:
    program = Program(draw)
    pieces = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
    for number, piece in enumerate(pieces):
        piece(program, f"thing{number}")
    return program.source()


def run(source: str) -> Callable[[], object]:
    """The program's `probe`, in a module that nobody can import."""
    module = types.ModuleType("written")
    sys.modules["written"] = module  # dataclasses looks its strings up there
    try:
        exec(compile(source, "written.py", "exec", dont_inherit=True), vars(module))
    finally:
        del sys.modules["written"]
    probe: Callable[[], object] = module.probe
    return probe


@shared_child
@given(programs())
def test_programs_travel(child: Child, source: str) -> None:
    note(source)
    expected = observe(run(source))
    assert expected[0] == "gave", expected
    # Not asked in order to know what is right (that is what the program gives at home), but so
    # that `pytest --hypothesis-show-statistics` tells how much of this is common ground.
    event(f"cloudpickle: {_asked(child, cloudpickle.dumps, source) == expected}")
    assert _asked(child, reduction.dumps, source) == expected


@pytest.mark.stress
@pytest.mark.timeout(300)
@settings(shared_child, max_examples=1000)
@given(programs())
def test_a_thousand_programs_travel(child: Child, source: str) -> None:
    note(source)
    assert _asked(child, reduction.dumps, source) == observe(run(source))


def _asked(child: Child, dumps: Callable[[object], bytes], source: str) -> tuple[str, Any]:
    try:
        return child.ask(dumps(run(source)))
    except Exception as error:
        return "refused", repr(error)


@shared_child
@given(programs())
def test_a_second_hop_changes_nothing(child: Child, stopover: Child, source: str) -> None:
    note(source)
    again = stopover.relay(reduction.dumps(run(source)))
    assert child.ask(again) == observe(run(source))


@given(programs())
def test_the_same_bytes_twice(source: str) -> None:
    note(source)
    probe = run(source)
    assert reduction.dumps(probe) == reduction.dumps(probe)
