"""Objects that users of cloudpickle and dill have reported, or might: each a program of its own.

Each defines `probe`; it gives in a process that cannot import the program what it gives at home.
"""

from __future__ import annotations

import types
from contextlib import closing
from typing import Any

import pytest

from hookpool import reduction
from hookpool.errors import CannotPickle
from tests.agree_child import Child, observe


def program(source: str) -> Any:
    module = types.ModuleType("nasty")  # nobody can import it
    exec(compile(source, "nasty.py", "exec", dont_inherit=True), vars(module))
    return module.probe


#: What it is -> the program.
HOLDING_THEMSELVES = {
    "a class that makes one instance only": """
class A:
    _one = None
    def __new__(cls):
        if cls._one is None: cls._one = super().__new__(cls)
        return cls._one
one = A()
one.v = 4
def probe(): return A() is one, A._one is one, one.v
""",
    "a class that makes one instance only, and asks another method for it": """
class A:
    _A__one = None
    @classmethod
    def the_one(cls): return cls._A__one
    def __new__(cls):
        if cls.the_one() is None: cls._A__one = super().__new__(cls)
        return cls.the_one()
one = A()
def probe(): return A() is one, A.the_one() is one
""",
    "a class that holds an instance, and whose `__new__` makes what does not travel": """
import threading
class A:
    def __new__(cls):
        self = super().__new__(cls)
        self.lock = threading.Lock()
        return self
    def __getstate__(self): return {"v": 1}
    def locked(self):
        with self.lock: return self.v
A.first = A()
A.first.v = 1
def probe(): return A.first.locked()
""",
    "a method whose name the object gives to another": """
class A:
    def run(self): return "original"
a = A()
late = a.run
a.run = lambda: "shadow"
def probe(): return a.run(), late(), A.run(a)
""",
    "a dataclass whose fields' metadata hold an instance": """
import dataclasses
notes = {}
@dataclasses.dataclass(frozen=True)
class A:
    x: int = dataclasses.field(default=1, metadata=notes)
    def __hash__(self): return self.x * len(DIGITS)
DIGITS = "0123456789"
notes["some"] = frozenset({A(2)})
def probe(): return A(2) in dataclasses.fields(A)[0].metadata["some"]
""",
    "a dataclass whose field has a default of its own": """
import dataclasses
@dataclasses.dataclass(frozen=True)
class A:
    x: object = None
    def __hash__(self): return len(DIGITS)
DIGITS = "0123456789"
A.__dataclass_fields__["x"].default = frozenset({A()})
def probe():
    [one] = dataclasses.fields(A)[0].default
    return type(one) is A, hash(one), one in dataclasses.fields(A)[0].default
""",
    "a dataclass whose field is made by a bound method, and of the class's kind": """
import dataclasses, typing
T = typing.TypeVar("T")
@dataclasses.dataclass
class A(typing.Generic[T]):
    x: int = 0
    def another(self): return A(self.x + len(DIGITS))
DIGITS = "0123456789"
A.__dataclass_fields__["x"].default_factory = A(5).another
A.__dataclass_fields__["x"].type = A[int]
def probe():
    field = dataclasses.fields(A)[0]
    return field.default_factory().x, field.type.__origin__ is A
""",
    "a constructor whose default is an instance": """
class A:
    def __new__(cls, *args, other=None): return object.__new__(cls)
    def __setstate__(self, state, add=1, helper=None): self.x = state["x"] + add - 1
a = A(); a.x = 5
A.__new__.__kwdefaults__ = {"other": a}
A.__setstate__.__defaults__ = (1, a)
A.a = a
def one(x, y=[a], *, z=2): return x if x < 1 else one(x - 1), y, z
A.one = one
def probe():
    others = A.__new__.__kwdefaults__["other"], A.__setstate__.__defaults__[1]
    return A.a.x, A.one(0)[2], [one is A.a for one in others]
""",
    "methods that are decorated twice, and lead back": """
import functools
def twice(fn):
    @functools.wraps(fn)
    def inner(*args): return fn(*args) * 2
    return inner
class A:
    @twice
    @twice
    def f(self): return self.g() + len(DIGITS) + (one is None)
    @twice
    def g(self): return 3
    def __hash__(self): return self.f()
DIGITS = "0123456789"
one = A()
A.ones = frozenset({one})
def probe(): return one.f(), [hash(one) for one in A.ones]
""",
    "a table of bound methods that one of the methods captures": """
class A:
    def table(self): return handlers
    def one(self): return 1
a = A()
handlers = [a.table, a.one]
def probe(): return A().table()[1](), handlers[0].__self__ is a
""",
    "class methods kept in the class itself": """
class A:
    made = {}
    @classmethod
    def make(cls): return cls.__name__
class B(A):
    @classmethod
    def make(cls): return 'own'
    def one(self): return 2
A.made['a'] = A.make
B.made_too = {'b': B.make, 'one': B().one, 'a': A.make}
def probe(): return A.made['a'](), [f() for f in B.made_too.values()]
""",
    "a frozen slotted dataclass with instances as attributes and in its methods' globals": """
import dataclasses
@dataclasses.dataclass(frozen=True, slots=True)
class V:
    x: int
    y: int = 0
    def plus(self, other=None): return V(self.x + (other or ONE).x)
V.ZERO = V(0)
V.names = {V(1): 'one'}
ONE = V(1)
def probe(): return V.ZERO, V.names[ONE], V.ZERO.plus()
""",
    "instances whose making needs what their class is to get": """
class Pair(tuple):
    def __new__(cls, a, b): return tuple.__new__(cls, (a, b))
    def __getnewargs__(self): return tuple(self)
Pair.zero = Pair(0, 0)
class Made:
    def __init__(self, v): self.v = v
    @classmethod
    def make(cls, v): return cls(v)
    def __reduce__(self): return Made.make, (self.v,)
Made.default = Made(1)
class Kept:
    def __init__(self): self.v = 2
    def __getstate__(self): return self.v
    def __setstate__(self, v): self.v = double(v) // 2
def double(v): return 2 * v
Kept.default = Kept()
def probe(): return Pair.zero, Made.default.v, Kept.default.v
""",
    "instances in a set whose hash needs what a method captures": """
class Config: x = 3
config = Config()
class Keyed:
    def __init__(self, v): self.v = v
    def _key(self): return config.x, self.v
    @property
    def key(self): return self._key()
    def __hash__(self): return hash(self.key)
    def __eq__(self, other): return self._key() == other._key()
Keyed.all = {Keyed(1)}
class Restored:
    def __init__(self, v): self.v = v
    def __getstate__(self): return self.v
    def __setstate__(self, v): self.v = v; self.check()
    def check(self): self.checked = config.x
Restored.default = Restored(1)
Restored.default.check()
class Hashed:
    def __hash__(self): return hash(config.x)
    def __eq__(self, other): return True
Hashed.__all__ = {Hashed()}
def probe():
    return Keyed(1) in Keyed.all, Restored.default.checked, Hashed() in Hashed.__all__
""",
    "an alias of a generic class, for which the class must have its parameters": """
import typing
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def made(self): return IntBox()
class IntBox(Box[int]): pass
Box.alias = Box[str]
def probe():
    alias = IntBox.__orig_bases__[0]
    return type(Box().made()).__name__, Box.alias.__origin__ is Box, alias.__args__
""",
    "a class as a key of a table of its metaclass, which says how it is hashed": """
class Meta(type):
    table = {}
    def __hash__(cls): return hash(cls.__name__)
    def __eq__(cls, other): return cls is other
class A(metaclass=Meta): pass
Meta.table[A] = 1
def probe(): return Meta.table.get(A)
""",
    "a class method bound to a subclass": """
class Base:
    @classmethod
    def name(cls): return cls.__name__
class Sub(Base): pass
Base.handlers = [Sub.name]
def probe(): return Base.handlers[0]()
""",
    "weak references to instances": """
import weakref
class Weak:
    all = weakref.WeakSet()
    def __init__(self, n): self.n = n
    def __hash__(self): return hash(self.n)
    def __eq__(self, other): return self.n == other.n
kept = [Weak(1), Weak(2)]
for one in kept: Weak.all.add(one)
def probe(): return Weak(1) in Weak.all, len(kept)
""",
    "what the class holds, for its instances to be loaded": """
import typing
class Plain:
    unit, table = 1, {"a": (1, 2)}
    def __init__(self): self.x = 1
    def __hash__(self): return self.unit + self.table["a"][0]
    def __eq__(self, other): return self.table == other.table
    def __setstate__(self, state): vars(self).update(self.table, **state)
Plain.all = {Plain()}
def probe():
    names = [name for name in vars(Plain) if name[0] != "_"]
    return Plain() in Plain.all, [one.x for one in Plain.all], names
""",
    "a method that another one calls and that captures an instance": """
class Keyed:
    def __init__(self, n): self.n = n
    def key(self): return self.n, type(zero).__name__
    def __hash__(self): return hash(self.key())
    def __eq__(self, other): return self.key() == other.key()
zero = Keyed(0)
Keyed.all = {Keyed(1), Keyed(2)}
def probe(): return Keyed(2) in Keyed.all
""",
    "a variable of a closure that a hash needs": """
def make(n):
    class Node:
        def __hash__(self): return hash(n)
        def __eq__(self, other): return True
    table = {Node()}
    def probe(): return n, len(table), Node() in table
    return probe
probe = make("a")
""",
    "slots of a base, and copyreg's notes about them": """
import copy
class A:
    __slots__ = ("a",)
    def __init__(self, a): self.a = a
A.again = A.a
class B(A): __slots__ = ()
copy.copy(B(1))
def probe(): return copy.copy(B(3)).a, B(4).again, A.__slots__
""",
    "members of an enumeration that hold each other in a set": """
import enum
class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2
Side.LEFT.others, Side.RIGHT.others = {Side.RIGHT}, {Side.LEFT}
def probe():
    return [[other.name for other in one.others] for one in Side], Side.LEFT in Side.RIGHT.others
""",
    "bound methods of enumeration members in the enumeration": """
import enum
class E(enum.Enum):
    A = 1
    def shout(self): return self.name + '!'
E.hooks = [E.A.shout]
def probe(): return E.hooks[0](), list(E)
""",
    "a class that a method's default and a metaclass's table lead back to": """
class Meta(type):
    known = {}
    def __init__(cls, *args): Meta.known[cls.__name__] = cls
    def again(cls): return Meta.known[cls.__name__]
class A(metaclass=Meta):
    def me(self, other=[]): other.append(A); return other[0] is A is __class__
    def up(self): return super().__repr__()[:6]
    def up_again(self): return super().__init__()
def probe(): return A().me(), A.again() is A, A().up() == '<nasty', A().up_again()
""",
    "functions, the class they belong to, and its methods side by side": """
class A:
    def method(self): return A
def f(): return A, A.method, A().method
both = [f, A, A.method, f]
def probe(): return both[0]()[0] is A, both[2] is A.method, both[3] is f is both[0]
""",
}

CONTAINERS = {
    "a dict that needs its attributes to take an item, and has a required argument": """
class Folded(dict):
    def __init__(self, fold): super().__init__(); self.fold = fold
    def __setitem__(self, key, value): super().__setitem__(self.fold(key), value)
    def __missing__(self, key): return 'none'
d = Folded(str.lower)
d['A'] = 1
def probe(): return d, d['zz'], d.fold('Q')
""",
    "ordered, default, list, set and deque subclasses with their own ideas": """
import collections
class Recent(collections.OrderedDict):
    def __init__(self, most): super().__init__(); self.most = most
    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        while len(self) > self.most: self.popitem(last=False)
r = Recent(2); r['a'] = 1; r['b'] = 2; r['c'] = 3
class Doubling(list):
    def append(self, x): super().append(x * self.by)
    def extend(self, xs): raise RuntimeError('not asked')
l = Doubling(); l.by = 2; l.append(1)
class Named(set):
    def __init__(self, name, items): super().__init__(items); self.name = name
class Fixed(frozenset):
    def __new__(cls, name, items):
        self = super().__new__(cls, items); self.name = name
        return self
s, f = Named('n', [1]), Fixed('m', [2])
class Tail(collections.deque):
    def __init__(self, size): super().__init__(maxlen=size)
t = Tail(2); t.extend('abc')
class Counts(collections.defaultdict):
    def __init__(self, name): super().__init__(lambda: 7); self.name = name
c = Counts('n'); c['k'] += 1
class Itself(list):
    def append(self, x): super().append(x)
i = Itself(); i.append(i); i.one = i
def probe():
    return (r, r.most, l, l.by, s, s.name, f, f.name, t, t.maxlen, c, c['new'], c.name,
            i[0] is i.one is i)
""",
    "memoryviews of a whole, of parts, writable and not": """
import array
whole = bytearray(b'abc'); view = memoryview(whole)
numbers = memoryview(array.array('d', [1, 2])); table = memoryview(bytearray(6)).cast('B', [2, 3])
part, backwards = memoryview(bytearray(b'abcdef'))[::2], memoryview(b'abc')[::-1]
guarded, guarded_part = view.toreadonly(), view[1:].toreadonly()
def probe():
    view[0] = 65
    part[0] = 66
    return (bytes(whole), numbers.tolist(), numbers.format, table.tolist(), table.readonly,
            part.tolist(), backwards.tolist(), backwards.readonly, guarded.tolist(),
            guarded.readonly, guarded_part.tolist(), guarded_part.readonly)
""",
}

ODD = {
    "a proxy that lies about its class and its name": """
class Proxy:
    def __init__(self, get): object.__setattr__(self, '_get', get)
    @property
    def __class__(self): return type(self._get())
    @property
    def __name__(self): return 'name'
    def __getattr__(self, name): return getattr(self._get(), name)
    def __eq__(self, other): return self._get() == other
    __hash__ = None
p = Proxy(lambda: [1, 2])
def probe(): return p.count(1), p == [1, 2], isinstance(p, list), p.__name__, type(p) is Proxy
""",
    "class attributes that are called like what every class has": """
class A:
    __name__ = 'other'
    __mro__ = 3
    __bases__ = property(lambda self: 'b')
a = A()
def probe(): return a.__name__, A.__name__, a.__mro__, a.__bases__, A.__bases__
""",
    "an instance of a class that no table can hold": """
class Meta(type):
    def __eq__(cls, other): return cls is other
    __hash__ = None
class A(metaclass=Meta): pass
a = A()
def probe(): return type(a) is A
""",
    "classes that are equal, and hashed, by their names": """
class ByName(type):
    def __eq__(cls, other): return getattr(other, '__name__', None) == cls.__name__
    def __hash__(cls): return hash(cls.__name__)
def make(n): return ByName('X', (), {'n': n, 'get': lambda self: n})
A, B = make(1), make(2)
class C(B):
    def __getstate__(self): return {'kept': self.kept}
C.__name__ = 'X'
objects = [A(), B(), C(), A()]
objects[0].own, objects[2].kept, objects[2].left_out = 5, 6, (x for x in ())
def probe():
    return (objects[0].own, objects[0].get(), objects[1].get(), objects[2].kept,
            objects[2].get(), A is B, A == B == C)
""",
    "a module made by hand that is of a class made by hand": """
import types
class Lazy(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return 'lazy ' + name
lazy = Lazy('lazy'); lazy.there = 1
def probe(): return lazy.some, lazy.there, type(lazy).__name__, lazy.__name__
""",
    "a package made by hand, with a submodule": """
import sys, types
pack, sub = types.ModuleType('pack_'), types.ModuleType('pack_.sub')
pack.__path__ = []; pack.sub = sub
exec('def f(): return 5', vars(sub))
sys.modules |= {'pack_': pack, 'pack_.sub': sub}
exec('import pack_.sub\\ndef g(): return pack_.sub.f()', vars(pack))
del sys.modules['pack_'], sys.modules['pack_.sub']
def probe(): return pack.g(), pack.sub.f(), pack.sub.__name__
""",
    "struct formats and comparisons": """
import functools, struct
form, order = struct.Struct('<iq'), functools.cmp_to_key(lambda a, b: b - a)
class Packet:
    header = struct.Struct('>H')
three = order(3)
def probe():
    return form.size, Packet.header.pack(1), sorted([1, 3, 2], key=order), three < order(2)
""",
    "the environment, and what sys tells of the interpreter": """
import os, sys
environ, version, flags = os.environ, sys.version_info, sys.flags
def probe(): return environ is os.environ, version is sys.version_info, flags is sys.flags
""",
    "mocks": """
import unittest.mock
mock = unittest.mock.Mock(return_value=3); deep = unittest.mock.MagicMock(); deep.a.b = 4
def probe(): return mock(), deep.a.b
""",
    "a method bound to an instance of whose class it is no attribute": """
class A:
    def __init__(self):
        def extra(self, x): return x, self.v
        self.v, self.extra = 4, extra.__get__(self)
a = A()
def probe(): return a.extra(1), a.extra.__self__ is a
""",
    "functions with static attributes on themselves": """
def make():
    def f():
        if not hasattr(f, 'count'): f.count = 0
        f.count += 1
        return f.count
    return f
f = make(); f()
def probe(): return f(), f()
""",
    "what functools.wraps has dressed, and what was changed afterwards": """
import functools, inspect
def deco(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs): return ['w', fn(*args, **kwargs)]
    return wrapper
@deco
@deco
def twice(x: int, y: 'str' = 'y') -> list:
    'What it does.'
    return x, y
@deco
def fact(n: int) -> int: return 1 if n < 2 else [n, fact(n - 1)]
bare = fact.__wrapped__
@deco
def changed(x: 'int'): 'Before.'
changed.__doc__ = 'After.'
@deco
def noted(x: 'int'): return x
noted.note = 1
@deco
def renamed(): return 1
renamed.__wrapped__.__name__ = 'inner'
@deco
def annotated(x: int): return x
annotated.__annotations__ = {'x': str}
@deco
def defaulted(): return 1
defaulted.__kwdefaults__ = {'z': 1}
def probe():
    all = twice, fact, changed, noted, renamed, annotated, defaulted
    looks = [(f.__name__, f.__qualname__, f.__doc__, f.__module__, str(f.__annotations__),
              f.__kwdefaults__, f.__wrapped__.__name__, str(f.__wrapped__.__annotations__),
              sorted(vars(f)), f.__annotations__ == f.__wrapped__.__annotations__) for f in all]
    return (looks, str(inspect.signature(twice)), twice(1), bare(3), fact(2), noted.note,
            bare.__annotations__, fact.__wrapped__ is bare,
            twice.__annotations__ is twice.__wrapped__.__wrapped__.__annotations__)
""",
    "exceptions of subprocess, json and urllib": """
import json, subprocess, urllib.error
called = subprocess.CalledProcessError(returncode=1, cmd='x', output=b'o')
timeout = subprocess.TimeoutExpired('x', 3)
url = urllib.error.URLError('why')
try: json.loads('{')
except ValueError as error: bad = error
def probe(): return str(called), called.output, str(timeout), url.reason, str(bad), bad.pos
""",
    "copies of what dataclasses know by identity": """
import copy, dataclasses
@dataclasses.dataclass
class A:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
def fields(): return A.__dataclass_fields__.values()
for field in fields():  # as it comes through cloudpickle
    field.kw_only, field._field_type = copy.copy(dataclasses.KW_ONLY), copy.copy(field._field_type)
    if field.default is dataclasses.MISSING: field.default = copy.copy(dataclasses.MISSING)
class B: missing = copy.copy(dataclasses.MISSING)
def probe(): return A(2), [field.default is dataclasses.MISSING for field in fields()]
""",
}

NASTY = HOLDING_THEMSELVES | CONTAINERS | ODD


@pytest.mark.parametrize("source", NASTY.values(), ids=NASTY)
def test_it_travels(child: Child, source: str) -> None:
    expected = observe(program(source))
    assert expected[0] == "gave", expected
    assert child.ask(reduction.dumps(program(source))) == expected


@pytest.mark.parametrize("source", NASTY.values(), ids=NASTY)
def test_it_travels_on_in_the_same_bytes(child: Child, source: str) -> None:
    """What arrived is pickled there in turn, and the same program gives the same bytes."""
    probe = program(source)
    with closing(Child()) as stopover:
        again = stopover.relay(reduction.dumps(probe))
    assert child.ask(again) == observe(program(source))
    assert reduction.dumps(probe) == reduction.dumps(probe)


def test_a_class_has_the_same_pickle_again_when_its_instances_have_been_looked_at() -> None:
    probe = program(
        """
import functools
class A: pass
class Box:
    def go(self): return A.things, made
A.things = [A() for _ in range(150)]
@functools.cache
def made(n): return Box()
def probe(): return Box
"""
    )
    first = reduction.dumps(probe)
    for thing in probe.__globals__["A"].things:
        vars(thing)
    probe.__globals__["made"](1)
    assert reduction.dumps(probe) == first


def test_an_array_of_instances_in_their_class(child: Child) -> None:
    pytest.importorskip("numpy")
    source = """
import numpy
class Kept:
    def __init__(self, n): self.n = n
    def __getstate__(self): return (self.n,)
    def __setstate__(self, state): self.n, = state
Kept.all = numpy.array([Kept(1), Kept(2)], dtype=object)
def probe(): return [one.n for one in Kept.all]
"""
    assert child.ask(reduction.dumps(program(source))) == observe(program(source))


@pytest.mark.parametrize("is_read_only", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        "np.arange(3) + 2j",
        "np.arange(3, dtype='>i4')",
        "np.arange(3, dtype='f2')",
        "np.array(['a', 'bcd'])",
        "np.array([b'a', b'bcd'])",
        "np.array([(1, 2.5), (3, 4.5)], dtype=[('a', 'i1'), ('b', 'f8')])",
        "np.array([(1, 2.5)], dtype=np.dtype([('a', 'i1'), ('b', 'f8')], align=True))",
        "np.array([{}, 'b', None], dtype=object)",
        "np.zeros((0, 5))",
        "np.zeros((5, 0, 2), dtype='>f8')",
        "np.array(3j)",
        "(np.arange(6) * 1j).reshape(2, 3).T[::-1]",
        "np.asfortranarray(np.ones((2, 3)))",
    ],
)
def test_memoryviews_that_cannot_be_cast_travel(make: str, is_read_only: bool) -> None:
    np = pytest.importorskip("numpy")
    array = eval(make, {"np": np})
    view = memoryview(array).toreadonly() if is_read_only else memoryview(array)

    there = reduction.loads(reduction.dumps(view))

    assert type(there) is memoryview
    assert (there.format, there.shape) == (view.format, view.shape)
    assert there.readonly is is_read_only
    assert np.asarray(there).tolist() == array.tolist()


def test_a_memoryview_that_nobody_could_make_there_is_refused() -> None:
    ctypes = pytest.importorskip("ctypes")
    view = memoryview((ctypes.c_int * 3)(1, 2, 3))
    assert not view.format.isalpha()  # a byte order, which is no format for a cast
    with pytest.raises(CannotPickle, match=r"object\[0\]: .* pass the array that it is a view of"):
        reduction.dumps([view])
