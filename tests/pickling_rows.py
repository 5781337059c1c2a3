"""What a by-value pickler is asked to carry: a small program for each row of `docs/pickling.md`.

Each program is a `__main__` of its own. It defines `probe`, which is pickled there and called in a
process that cannot import the program; the row is carried if it gives there what it gives at home.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    section: str
    label: str
    source: str
    since: tuple[int, int] = (3, 11)


def _rows(section: str, *rows: tuple[str, str]) -> list[Row]:
    return [Row(section, label, source) for label, source in rows]


FUNCTIONS = _rows(
    "Functions",
    (
        "lambda, closure, default, keyword-only default",
        """
k = 3
def make(n):
    return lambda x=1, *, y=k: (n, x, y, k)
f = make(2)
def probe(): return f(), f(5, y=6)
""",
    ),
    (
        "recursion and mutual recursion, through globals and closures",
        """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def make():
    def fact(n): return 1 if n < 2 else n * fact(n - 1)
    return fact
fact = make()
def probe(): return even(10), fact(5)
""",
    ),
    (
        "two functions that share a cell go on sharing it",
        """
def make():
    n = 0
    def up():
        nonlocal n
        n += 1
    return up, lambda: n
up, look = make()
def probe():
    up(); up()
    return look()
""",
    ),
    (
        "two functions that share globals go on sharing them",
        """
total = 0
def add():
    global total
    total += 1
def look(): return total
def probe():
    add(); add()
    return look(), total
""",
    ),
    (
        "generator, coroutine, asynchronous generator functions",
        """
import asyncio
def gen():
    got = yield 1
    yield got
async def co(): return 2
async def agen():
    yield 3
async def collect(): return [x async for x in agen()] + [await co()]
def probe():
    g = gen()
    return next(g), g.send(5), asyncio.run(collect())
""",
    ),
    (
        "`super()`, `__class__` and private names in methods",
        """
class A:
    def __secret(self): return 'A'
    def who(self): return self.__secret()
class B(A):
    def who(self): return super().who() + __class__.__name__
def probe(): return B().who()
""",
    ),
    (
        "attributes, `__doc__`, `__wrapped__`, annotations, qualified names",
        """
import functools, typing
def deco(f):
    @functools.wraps(f)
    def g(*a): return f(*a)
    return g
@deco
def f(x: 'int' = 1) -> 'list[str]':
    'doc'
    return x
f.note = [1]
def probe():
    return (f(), f.note, f.__doc__, f.__wrapped__(2), f.__qualname__, f.__module__,
            str(typing.get_type_hints(f)))
""",
    ),
    (
        "500 decorators deep, at the default recursion limit",
        """
def deco(f):
    def g(): return f
    return g
def f(): return 'end'
for _ in range(500): f = deco(f)
def probe():
    g = f
    while callable(g): g = g()
    return g
""",
    ),
    (
        "`functools.lru_cache`, `cache`",
        """
import functools
@functools.lru_cache(maxsize=7)
def f(x): return x + 1
@functools.cache
def g(x): return f(x)
class C:
    @functools.cache
    def m(self): return 4
def probe(): return f(1), g(2), f.cache_info().maxsize, g.cache_parameters(), C().m()
""",
    ),
    (
        "`functools.singledispatch`",
        """
import functools
@functools.singledispatch
def show(x): return 'any'
@show.register
def _(x: int): return 'int'
class K: pass
@show.register
def _(x: K): return 'K'
def probe(): return show(1), show('s'), show(K()), len(show.registry)
""",
    ),
    (
        "`singledispatchmethod`, `partialmethod`, `cached_property`",
        """
import functools
class C:
    @functools.singledispatchmethod
    def show(self, x): return 'any'
    @show.register
    def _(self, x: int): return 'int'
    def get(self, a, b): return a, b
    part = functools.partialmethod(get, 1)
    @functools.cached_property
    def slow(self): return 9
c = C()
def probe(): return c.show(1), c.show('s'), c.part(2), c.slow, C().slow
""",
    ),
    (
        "bound methods, class methods, partials",
        """
import functools
class C:
    def __init__(self, v): self.v = v
    def get(self, *a): return self.v, a
    @classmethod
    def make(cls): return cls(8)
    @staticmethod
    def free(): return 5
c = C(1)
get, make, free, part = c.get, C.make, C.free, functools.partial(c.get, 2)
def probe(): return get(), make().get(), free(), part(3), get.__self__ is part.func.__self__
""",
    ),
    (
        "functions of a module made by hand share its namespace",
        """
import types
mod = types.ModuleType('made')
exec('n = 0\\ndef up():\\n    global n\\n    n += 1\\ndef look(): return n', mod.__dict__)
up, look = mod.up, mod.look
def probe():
    up(); up()
    return look(), mod.n, mod.__name__
""",
    ),
    (
        "exec'd code without a `__name__`",
        """
space = {}
exec('def f(): return g() + 1\\ndef g(): return 1', space)
f = space['f']
def probe(): return f(), f.__module__
""",
    ),
    (
        "a submodule used as an attribute, also in a nested function",
        """
import concurrent.futures, xml.etree
import xml.etree.ElementTree
def outer():
    def inner(): return xml.etree.ElementTree.fromstring('<a/>').tag
    return inner()
def probe(): return outer(), concurrent.futures.__name__
""",
    ),
    (
        "calling C code that imports (`datetime.strptime`)",
        """
import datetime
def probe(): return datetime.datetime.strptime('2020', '%Y').year
""",
    ),
    (
        "code and cell objects",
        """
import types
def f(a): return a * 2
code, cell, empty = f.__code__, types.CellType([1]), types.CellType()
def probe():
    return types.FunctionType(code, {})(4), cell.cell_contents, empty == types.CellType()
""",
    ),
)

CLASSES = _rows(
    "Classes",
    (
        "methods, properties, class and static methods, inheritance",
        """
class Base:
    table = {'a': 1}
    @property
    def x(self): return self._x
    @x.setter
    def x(self, v): self._x = v * 2
class Child(Base):
    table = Base.table
    same = 5
    @classmethod
    def make(cls):
        c = cls(); c.x = 4
        return c
def probe():
    return Child.make().x, 'table' in vars(Child), Child.table is Base.table, Child.__qualname__
""",
    ),
    (
        "`__slots__` stay slots",
        """
class S:
    __slots__ = ('a', '__weakref__')
    def __init__(self): self.a = 1
class T(S):
    __slots__ = ('b',)
s = T(); s.b = 2
def probe():
    try: s.other = 1
    except AttributeError: return s.a, s.b, hasattr(s, '__dict__'), S.__slots__
    return 'has a dict'
""",
    ),
    (
        "dataclasses: slots, frozen, kw_only, InitVar, `MISSING`, `KW_ONLY`",
        """
import dataclasses
from dataclasses import dataclass, field, KW_ONLY, InitVar
@dataclass(slots=True, frozen=True)
class P:
    x: int
    y: list = field(default_factory=list)
@dataclass(kw_only=True)
class Q(object):
    a: int = 1
    b: InitVar[int] = 2
    def __post_init__(self, b): self.c = b
@dataclass
class R:
    a: int
    _: KW_ONLY
    b: int = 0
p, kw_only = P(1, [2]), KW_ONLY
def probe():
    try: object.__setattr__(p, 'z', 1)
    except AttributeError: slots = True
    else: slots = False
    try: p.x = 2
    except dataclasses.FrozenInstanceError: frozen = True
    return (p, slots, frozen, dataclasses.replace(p, x=5), Q(a=3, b=4).c, R(1, b=2),
            P.__match_args__,
            [f.default is dataclasses.MISSING for f in dataclasses.fields(P)],
            [f.kw_only for f in dataclasses.fields(R)], kw_only is KW_ONLY)
""",
    ),
    (
        "Enum, Flag, StrEnum: aliases, `__init__`, `_missing_`, auto",
        """
import enum
class Planet(enum.Enum):
    EARTH = (1, 2.0)
    TWIN = (1, 2.0)
    MARS = (3, 4.0)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def ratio(self): return self.mass / self.radius
    @classmethod
    def _missing_(cls, v): return cls.MARS
class F(enum.Flag):
    A = enum.auto(); B = enum.auto(); AB = A | B
class S(enum.StrEnum):
    RED = enum.auto()
earth = Planet.EARTH
def probe():
    return (earth is Planet.TWIN, earth.ratio, Planet(7) is Planet.MARS, list(Planet.__members__),
            F.A | F.B == F.AB, (F.A | F.B).name, S.RED == 'red',
            earth is Planet((1, 2.0)), repr(F.A))
""",
    ),
    (
        "Enum with `__new__` and attributes, and on a dataclass",
        """
import enum, dataclasses
class C(bytes, enum.Enum):
    def __new__(cls, value, label):
        obj = bytes.__new__(cls, [value])
        obj._value_, obj.label = value, label
        return obj
    A = (1, 'one'); B = (2, 'two')
@dataclasses.dataclass
class Point:
    x: int
class D(Point, enum.Enum):
    O = 0
def probe(): return C.A.label, C(2).label, C.B == b'\\x02', D.O.x, D.O.name, D.O.value
""",
    ),
    (
        "NamedTuple with methods, TypedDict, Protocol, NewType",
        """
import typing
class P(typing.NamedTuple):
    x: int
    y: int = 2
    def sum(self): return self.x + self.y
class T(typing.TypedDict, total=False):
    a: int
@typing.runtime_checkable
class Sized(typing.Protocol):
    def size(self): ...
Id = typing.NewType('Id', int)
class Has:
    def size(self): return 1
def probe():
    return (P(1).sum(), P(1), hasattr(P(1), '__dict__'), T(a=1), T.__total__,
            sorted(T.__optional_keys__),
            isinstance(Has(), Sized), isinstance(3, Sized), Id(4), Id.__name__, Id.__supertype__)
""",
    ),
    (
        "Generic, TypeVar with a bound, ParamSpec, TypeVarTuple",
        """
import typing
T = typing.TypeVar('T', bound=int); P = typing.ParamSpec('P'); Ts = typing.TypeVarTuple('Ts')
class G(typing.Generic[T]): pass
class H(G[int]): pass
class V(typing.Generic[typing.Unpack[Ts]]): pass
alias = G[bool]
def probe():
    return (T.__bound__, G.__parameters__ == (T,), H.__orig_bases__ == (G[int],),
            alias.__origin__ is G, alias.__args__, P.__name__, V.__parameters__ == (Ts,))
""",
    ),
    (
        "metaclasses, also unhashable, with `__prepare__` and keywords",
        """
class Meta(type):
    @classmethod
    def __prepare__(m, name, bases, **kw): return {'prepared': kw['key']}
    def __new__(m, name, bases, body, *, key): return super().__new__(m, name, bases, dict(body))
    def __init__(c, name, bases, body, *, key): super().__init__(name, bases, body)
    def __eq__(c, other): return c is other
    __hash__ = None
class A(metaclass=Meta, key=3): pass
a = A()
def probe(): return A.prepared, type(A) is Meta, type(a) is A, Meta.__hash__
""",
    ),
    (
        "`__init_subclass__` with keywords is not run again, `__set_name__` kept",
        """
runs = []
class Base:
    def __init_subclass__(cls, *, tag, **kw):
        super().__init_subclass__(**kw)
        cls.tag = tag; runs.append(cls.__name__)
class Field:
    def __set_name__(self, owner, name): self.name, self.owner = name, owner
class Child(Base, tag='t'):
    f = Field()
def probe(): return Child.tag, runs, vars(Child)['f'].name, vars(Child)['f'].owner is Child
""",
    ),
    (
        "subclasses of the classes of `collections.abc`",
        """
import collections.abc
class M(collections.abc.Mapping):
    def __getitem__(self, key): return key
    def __iter__(self): return iter('ab')
    def __len__(self): return 2
m = M()
def probe(): return dict(m), m.get('z'), isinstance(m, collections.abc.Mapping)
""",
    ),
    (
        "ABCs with registered classes",
        """
import abc
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 1
@Shape.register
class Odd: pass
def probe():
    try: Shape()
    except TypeError: abstract = True
    return abstract, issubclass(Odd, Shape), isinstance(Square(), Shape), Square().area()
""",
    ),
    (
        "an exception class with required and keyword-only arguments, instances too",
        """
class E(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f'code {code}')
        self.code, self.hint = code, hint
try:
    try: raise KeyError('inner')
    except KeyError as inner: raise E(3, hint='h') from inner
except E as error:
    kept = error
kept.add_note('a note')
group = ExceptionGroup('both', [kept, ValueError(1)])
def probe():
    return (kept.code, kept.hint, str(kept), kept.args, repr(kept.__cause__), kept.__notes__,
            type(kept) is E, group.exceptions[0] is kept, group.message)
""",
    ),
    (
        "exceptions with slots, of OSError, with a `__reduce__` of their own (also a wrong one)",
        """
class Slotted(Exception):
    __slots__ = ('q',)
    def __init__(self, q): self.q = q
class Failed(OSError):
    def __init__(self, code, where): super().__init__(code, 'text'); self.where = where
class Own(Exception):
    def __reduce__(self): return Own.make, (self.n,)
    @staticmethod
    def make(n): e = Own(); e.n = n; return e
class Broken(Exception):
    def __init__(self, only): super().__init__(only)
    def __reduce__(self): return Broken, (1, 2, 3), {'x': 1}
s, f, o, b = Slotted(4), Failed(2, 'w'), Own.make(3), Broken(7)
b.x = 1
def probe():
    return (s.q, s.args, f.errno, f.where, str(f), o.n, type(o) is Own,
            type(b) is Broken, b.args, b.x)
""",
    ),
    (
        "a class that keeps its instances in a dict, with its own `__hash__`",
        """
class H:
    known = {}
    def __init__(self, k): self.k = k; H.known[self] = k
    def __hash__(self): return hash(self.k)
    def __eq__(self, other): return self.k == other.k
for letter in "abcdefghijklmnopqrstuvwxyz": H(letter)  # one alone might be found by luck
def probe(): return [(H.known.get(one), one in H.known) for one in list(H.known)]
""",
    ),
    (
        "a frozen slotted dataclass that holds instances of itself",
        """
import dataclasses
@dataclasses.dataclass(frozen=True, slots=True)
class V:
    x: int
    def plus(self, other=None): return V(self.x + (other or ONE).x)
V.ZERO, ONE = V(0), V(1)
def probe(): return V.ZERO, V.ZERO.plus(), V.__qualname__
""",
    ),
    (
        "structures and unions of `ctypes`, arrays of and pointers to them",
        """
import ctypes
class P(ctypes.Structure):
    _fields_ = [("x", ctypes.c_short), ("next", ctypes.POINTER(ctypes.c_int))]
    def double(self): return self.x * 2
class Q(ctypes.BigEndianStructure):
    _pack_ = 1
    _fields_ = [("a", ctypes.c_byte), ("b", ctypes.c_int)]
class U(ctypes.Union):
    _fields_ = [("q", Q), ("n", ctypes.c_int)]
points = (U * 2)(U(Q(1, 2)))
def probe():
    at = ctypes.pointer(P(4))
    return at[0].double(), ctypes.sizeof(Q), type(at) is ctypes.POINTER(P), bytes(points)
""",
    ),
    (
        "bound methods that a class keeps, or its methods capture",
        """
class A:
    made = {}
    @classmethod
    def make(cls): return cls.__name__
    def table(self): return handlers
A.made['a'] = A.make
a = A()
handlers = [a.table]
def probe(): return A.made['a'](), handlers[0]()[0].__self__ is a
""",
    ),
    (
        "annotations that `get_type_hints` can still resolve",
        """
from __future__ import annotations
import typing, decimal
class Node:
    next: typing.Optional[Node]
    value: decimal.Decimal
    def get(self, other: Node) -> list[Node]: ...
def f(x: Node) -> decimal.Decimal: ...
def probe():
    hints = typing.get_type_hints(Node)
    return (hints['next'] == typing.Optional[Node], hints['value'].__name__,
            typing.get_type_hints(Node.get)['other'] is Node, len(typing.get_type_hints(f)))
""",
    ),
    (
        "classes of one program refer to each other and to themselves",
        """
class A:
    def make(self): return B()
    def me(self): return A
class B(A):
    parent = A
A.child = B
b = B(); b.me_too = b
def probe(): return type(b.make()) is B, A.child is B, b.me() is A, B.parent is A, b.me_too is b
""",
    ),
    (
        "nested classes and local classes",
        """
class Outer:
    class Inner:
        class Core: v = 1
        def up(self): return Outer
def make():
    n = 4
    class Local:
        def get(self): return n
    return Local
Local = make()
i = Outer.Inner()
def probe():
    return Outer.Inner.Core.__qualname__, i.up() is Outer, Local().get(), Local.__qualname__
""",
    ),
    (
        "a proxy with a greedy `__getattr__`",
        """
class Proxy:
    def __init__(self, target): self.__dict__['target'] = target
    def __getattr__(self, name): return getattr(self.target, name)
class Yes:
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return name
p, y = Proxy([1, 2]), Yes()
def probe(): return p.count(1), y.anything
""",
    ),
)

PEP_695 = [
    Row(
        "Classes",
        "PEP 695 classes, functions and `type` aliases",
        """
class Box[T: int]:
    def __init__(self, v: T): self.v = v
    def get[U](self, u: U) -> tuple[T, U]: return self.v, u
def first[T](items: list[T]) -> T: return items[0]
type Pair[A] = tuple[A, A]
def probe():
    return (Box(1).get(2), [t.__name__ for t in Box.__type_params__],
            Box.__type_params__[0].__bound__,
            first([7]), first.__type_params__[0].__name__, Pair.__name__, str(Pair[int]),
            str(Pair.__value__))
""",
        (3, 12),
    ),
    Row(
        "Classes",
        "PEP 696: type variables with defaults",
        """
import typing
T = typing.TypeVar('T', default=int); P = typing.ParamSpec('P', default=[int, str])
Ts = typing.TypeVarTuple('Ts', default=typing.Unpack[tuple[int, str]])
class Own: pass
U = typing.TypeVar('U', bound=Own, default=Own)
class Box(typing.Generic[T, U]): pass
class New[V = int]:
    def get(self) -> V: ...
def probe():
    return (T.__default__, P.__default__, str(Ts.__default__), U.__default__ is U.__bound__ is Own,
            Box[str].__args__[1] is Own, T.has_default(), New.__type_params__[0].__default__)
""",
        (3, 13),
    ),
]

OBJECTS = _rows(
    "Objects",
    (
        "mappingproxy, dict views, memoryview",
        """
import types
d = {'a': 1, 'b': 2}
proxy, ks, vs, its = types.MappingProxyType(d), d.keys(), d.values(), d.items()
m = memoryview(b'abc')
writable = bytearray(b'abc'); over = memoryview(writable)
def probe():
    over[0] = 65
    return (dict(proxy), type(proxy).__name__, list(ks), list(vs), list(its), bytes(m),
            bytes(writable))
""",
    ),
    (
        "`super` objects, properties, member and getset descriptors",
        """
class A:
    __slots__ = ('x',)
    def who(self): return 'A'
class B(A):
    def who(self): return 'B'
b = B(); b.x = 3
s, prop, member, getset = super(B, b), property(lambda self: 4), A.x, type.__dict__['__mro__']
def probe(): return s.who(), prop.fget(0), member.__get__(b), getset.__get__(B)[1] is A
""",
    ),
    (
        "weak references to what travels along",
        """
import weakref
class N: pass
n = N(); n.v = 1
ref, weak_d, weak_s = weakref.ref(n), weakref.WeakValueDictionary(a=n), weakref.WeakSet([n])
weak_k = weakref.WeakKeyDictionary({n: 5})
def probe(): return n.v, ref() is n, weak_d['a'] is n, n in weak_s, weak_k[n]
""",
    ),
    (
        "locks nobody holds, as an attribute and as a global",
        """
import threading
class Safe:
    def __init__(self):
        self.lock, self.r, self.n = threading.Lock(), threading.RLock(), 0
        self.done = threading.Event(); self.cond = threading.Condition(); self.done.set()
s, lock = Safe(), threading.Lock()
def probe():
    with s.lock, s.r, lock, s.cond: s.n += 1
    return s.n, s.lock.locked(), s.done.is_set()
""",
    ),
    (
        "`threading.local` and ContextVar as globals",
        """
import threading, contextvars
local = threading.local()
var = contextvars.ContextVar('var', default=4)
def probe():
    local.x = 1
    return local.x, var.get(), var.name
""",
    ),
    (
        "loggers",
        """
import logging
log = logging.getLogger('some.name')
def probe(): return log is logging.getLogger('some.name'), logging.getLogger().name
""",
    ),
    (
        "a text file opened for reading",
        """
import os
text = open(os.__file__)
text.readline()
def probe(): return text.readline(), text.tell()
""",
    ),
    (
        "instances that use `__reduce__`, `__getstate__`, `__getnewargs_ex__`",
        """
class A:
    kept = 1
    def __getstate__(self): return [1]
    def __setstate__(self, state): self.kept, = state
class B(int):
    def __new__(cls, v, *, extra): self = int.__new__(cls, v); self.extra = extra; return self
    def __getnewargs_ex__(self): return (int(self),), {'extra': self.extra}
class C:
    def __init__(self, v): self.v = v
    def __reduce__(self): return C, (self.v,)
a, b, c = A(), B(3, extra='e'), C(1)
def probe(): return a.kept, b + 1, b.extra, c.v
""",
    ),
    (
        "subclasses of containers, with attributes",
        """
import collections
class L(list): pass
class D(dict): pass
class DD(collections.defaultdict): pass
class O(collections.OrderedDict): pass
l = L([1]); l.note = 'n'
d, dd, o = D(a=l), DD(lambda: 7), O(b=2)
def probe(): return l, l.note, d['a'] is l, dd['missing'], o
""",
    ),
    (
        "subclasses of containers that override how items come in",
        """
import collections
class Folded(dict):
    def __init__(self, fold): super().__init__(); self.fold = fold
    def __setitem__(self, key, value): super().__setitem__(self.fold(key), value)
class Recent(collections.OrderedDict):
    def __init__(self, most): super().__init__(); self.most = most
folded, recent = Folded(str.lower), Recent(2)
folded['A'] = recent['b'] = 1
def probe(): return folded, folded.fold('Q'), recent, recent.most
""",
    ),
    (
        "rings of objects, through instances and containers",
        """
class N: pass
a, b = N(), N()
a.other, b.other = b, a
ring = [a]; ring.append(ring)
a.ring = ring
def probe(): return a.other.other is a, ring[1] is ring, a.ring is ring
""",
    ),
    (
        "numpy ufuncs and `frompyfunc`",
        """
import numpy as np
add, own = np.add, np.frompyfunc(lambda a, b: a * 10 + b, 2, 1)
arr = np.arange(3)
def probe(): return int(add(1, 2)), int(own(1, 2)), (arr + 1).tolist()
""",
    ),
)

ROWS = [*FUNCTIONS, *CLASSES, *PEP_695, *OBJECTS]
