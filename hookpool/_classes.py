"""Classes that travel by value: their identity, their attributes, their versions.

Owns the owner's side of "one identity per process and definition": a token per class, a shallow
look at its ``__dict__`` each time it is pickled, and from that a version per attribute.  The
receiver's side is `_rebuild.make_class` and `_rebuild.fill_class`.

Knows nothing of picklers: it gives reduce tuples.  Any thread may call it.
"""

from __future__ import annotations

import binascii
import copyreg
import gc
import itertools
import operator
import pickle
import sys
import weakref
from _abc import _get_dump  # type: ignore[import-not-found]
from abc import ABCMeta
from collections.abc import Callable, Collection, Mapping, Sequence
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)

from hookpool import _rebuild
from hookpool._annotations import evaluated
from hookpool._callables import CALLERS, WRAPPERS, called_by, contents_of, with_more, wrapped
from hookpool._code import facts, marshalled
from hookpool._importable import is_importable
from hookpool._plain import ATOMS
from hookpool._raw_classes import is_written_in_c
from hookpool._records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias, TypeVar

    _T = TypeVar("_T")
    _Bodies: TypeAlias = tuple[tuple[CodeType, ...], bytes | None]

HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made at run time, in Python as a rule

dict_of = type.__dict__["__dict__"].__get__
_DESCRIPTORS = frozenset(map(id, (MemberDescriptorType, GetSetDescriptorType)))
_counts: dict[str, itertools.count[int]] = {}
# What `make_class` is given, what each class has anew, and what copyreg remembers there.
NOT_COPIED = frozenset({"__module__", "__dict__", "__weakref__", "_abc_impl", "__slotnames__"})


class _Record(Record):
    """What a class was when it was looked at.

    Invariants: `seen` are the ids of what `_looked_at` found, one after the other, and `sizes` how
    many of them are each attribute's; `kept` holds or watches each of them, as far as it can, so
    that no id is used again without the weak reference in `kept` being in `dead`, too.
    """

    seen: tuple[int, ...] = ()
    sizes: Mapping[str, int] = {}
    kept: Sequence[object] = ()
    dead: Sequence[object] = ()
    #: Classes that are written with it unless they are importable.
    named: tuple[weakref.ref[Any], ...] = ()

    def by_name(self, values: Sequence[_T]) -> dict[str, list[_T]]:
        """What `seen` or `kept` has for each attribute."""
        rest = iter(values)
        return {name: list(itertools.islice(rest, size)) for name, size in self.sizes.items()}

    def stale(self) -> set[str]:
        """Attributes whose ids may be in use again."""
        dead = set(map(id, self.dead))
        return {
            name
            for name, kept in (self.by_name(self.kept) if dead else {}).items()
            if not dead.isdisjoint(map(id, kept))
        }


class _Own(_rebuild.Identity):
    """The identity of a class that was made in this process."""

    __slots__ = ("_bodies", "record")

    def __init__(self, token: str, cls: Any, bodies: _Bodies) -> None:
        super().__init__(token, cls, is_ours=True)
        self.record = _Record()
        #: Code of its methods, and that as bytes.
        self._bodies = bodies

    def marshalled(self, codes: tuple[CodeType, ...]) -> bytes | None:
        """The bytes of code of its methods; as a rule it has been asked for these before."""
        known, data = self._bodies
        if len(codes) != len(known) or not all(map(operator.is_, codes, known)):
            data = marshalled(codes)
            self._bodies = codes, data
        return data

    def look(self, cls: Any) -> None:
        """Compare the class with what it was, attribute by attribute, and count versions up.

        Without a lock, which a signal handler or a fork would find taken.
        """
        while True:
            record, version, versions = self.record, self.version, self.versions
            own = dict(dict_of(cls))  # in one step: another thread may be changing it
            parts = _looked_at(cls, own)
            found = list(itertools.chain.from_iterable(parts.values()))
            seen = tuple(map(id, found))
            if seen == record.seen and parts.keys() == record.sizes.keys() and not record.dead:
                return
            sizes, dead = dict(zip(parts, map(len, parts.values()), strict=True)), list[object]()
            kept = _kept(cls, found, dead.append)
            now = _Record(seen, sizes, kept, dead, _named_by(cls, own))
            changed, removed = _changes(record, now) if version else ((), ())
            if version == 0 or changed or removed:
                version += 1
            if changed or removed:
                # A new dict: the old one may be part of a pickle being written.
                versions = {name: at for name, at in versions.items() if name not in removed}
                versions |= dict.fromkeys(changed, version)
            # From this comparison on there is no call, and so no switch to other code.
            if self.record is record:
                self.record, self.version, self.versions = now, version, versions
                return


def _looked_at(cls: Any, own: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What tells that a class is what it was, by attribute: its value, and of a function more."""
    parts = {
        name: (value,) if id(type(value)) in ATOMS else with_more(value)
        for name, value in own.items()
    }
    parts[_BASES] = cls.__bases__
    if isinstance(cls, ABCMeta):
        parts[_REGISTERED] = tuple(_registered(cls))
    return parts


# In the place of an attribute's name: two of `NOT_COPIED`, which no attribute comes under.
_BASES, _REGISTERED = "__dict__", "_abc_impl"


def _changes(before: _Record, after: _Record) -> tuple[Collection[str], Collection[str]]:
    """Names of attributes that are new or not what they were, and of those that are gone."""
    was, now, stale = before.by_name(before.seen), after.by_name(after.seen), before.stale()
    changed = {name for name, ids in now.items() if ids != was.get(name) or name in stale}
    return changed - _NOT_EDITED, was.keys() - now.keys() - NOT_COPIED


_NOT_EDITED = NOT_COPIED - {_BASES, _REGISTERED}


def _named_by(cls: Any, own: dict[str, Any]) -> tuple[weakref.ref[Any], ...]:
    """Classes made at run time among its bases, its attributes, and what its methods have in cells
    and defaults, also of functions in these."""
    found, met = [type(cls), *cls.__bases__], set[int]()
    values = list(own.values())
    fields: Any = own.get("_fields_")
    if type(fields) in (list, tuple):  # a structure of ctypes consists of these
        values += [part for field in fields if type(field) is tuple for part in field[1:2]]
    for value in values:  # and what is added meanwhile
        kind = type(value)
        if kind is FunctionType:
            cells, defaults, more = value.__closure__, value.__defaults__, value.__kwdefaults__
            if (cells or defaults or more) and id(value) not in met:
                met.add(id(value))
                if len(met) <= _MOST_FUNCTIONS:
                    values += map(contents_of, cells or ())
                    values += defaults or ()
                    values += (more or {}).values()
        elif is_class(value):
            found.append(value)
        elif (ident := id(kind)) in WRAPPERS:
            values += wrapped(value)
        elif ident in CALLERS and id(value) not in met:
            met.add(id(value))
            values += called_by(value)
    return tuple(
        [weakref.ref(one) for one in found if one.__flags__ & HEAP and not is_written_in_c(one)]
    )


# More than the methods of a class, as a rule, and the functions that decorate them.
_MOST_FUNCTIONS = 500


def _kept(cls: Any, found: list[Any], note: Callable[[object], None]) -> list[object]:
    """Make sure that the ids of what was found are not used again unnoticed.

    What can be watched is watched, for it may be large; `note` gets the weak references to what
    has died.  Nothing is held that holds the class: an identity is found from outside, so that the
    class would never be collected.  If the owner of such a class replaces such a value twice
    between two looks, the last one may get the id of the first, and the edit be missed.
    """
    watch = weakref.ref
    return [
        watch(one, note)
        if type(one) is FunctionType
        else (one if type(one) is CodeType else _hold(cls, one, note))
        for one in found
    ]


def _hold(cls: Any, value: Any, note: Callable[[object], None]) -> object:
    """As `_kept`, for what is neither a function nor its code."""
    if id(type(value)) in ATOMS:
        return value
    try:
        return weakref.ref(value, note)
    except TypeError:
        pass  # there are no weak references to it
    kind = type(value)
    if (kind is dict or id(kind) in _COLLECTIONS) and not value:
        return None  # a list of instances, as a rule; another empty one is as good
    return value if _is_apart(value, cls) else None


# What holds more is taken to hold the class; numbers and text do not count.
_MOST_APART = 2000


def _is_apart(value: Any, cls: Any) -> bool:
    """Whether nothing that a value holds holds a class, but for what is held anyway: modules."""
    met, level = {id(value)}, [value]
    while level:
        following: list[Any] = []
        for one in level:
            parts = _own_parts(one) if type(one) is FunctionType else gc.get_referents(one)
            for part in filter(gc.is_tracked, parts):  # in C: there may be very many numbers
                if part is cls or len(met) > _MOST_APART:
                    return False
                if id(part) not in met and not _stays(part):
                    met.add(id(part))
                    following.append(part)
        level = following
    return True


def _own_parts(fn: FunctionType) -> list[Any]:
    """What a function holds, but for the namespace of a module."""
    space = fn.__globals__
    name = space.get("__name__")
    module = sys.modules.get(name) if type(name) is str else None
    is_module = module is not None and vars(module) is space
    return [part for part in gc.get_referents(fn) if part is not space or not is_module]


def _stays(part: Any) -> bool:
    """Whether something is there anyway, whoever holds it."""
    kind = type(part)
    if kind is FunctionType or is_class(part):
        return is_importable(part)
    return kind is ModuleType


def is_class(value: Any) -> bool:
    """As `isinstance(value, type)`, which would ask the value."""
    return type.__instancecheck__(type, value)


# By the id of the type: a type need not be hashable, nor its comparison harmless.
_COLLECTIONS = frozenset(map(id, (list, tuple, set, frozenset)))


def identity(cls: Any) -> _rebuild.Identity:
    """The identity of a class, with its version up to date."""
    known = _rebuild.identity_of(cls)
    while known is None:
        # Again, where a class with this token has come from another run of the program.
        outline, bodies = _outline(cls)
        token = new_token(cls.__module__, cls.__qualname__, outline)
        known = _rebuild.identified(_Own(token, cls, bodies), cls)
    if type(known) is _Own:
        known.look(cls)
    return known


def marshalled_of(cls: Any, codes: tuple[CodeType, ...]) -> bytes | None:
    """The bytes of code of a class's methods."""
    known = _rebuild.identity_of(cls)
    return known.marshalled(codes) if type(known) is _Own else marshalled(codes)


def versions_of(cls: Any) -> tuple[int, ...]:
    """The versions of a class and of all that are written with it.

    These are its bases, its metaclass, classes among its attributes and in the cells of its
    methods, and theirs.
    """
    level, met, found = [cls], {id(cls)}, list[int]()
    for one in level:
        known = identity(one)
        found.append(known.version)
        if isinstance(known, _Own):
            named = known.record.named
        else:
            named = _named_by(one, dict(dict_of(one)))
        for ref in named:
            other = ref()
            if other is not None and id(other) not in met and not is_importable(other):
                met.add(id(other))
                level.append(other)
    return tuple(found)


def token_of(obj: Any, module: str | None, qualname: str, *contents: Any) -> str:
    """What an object that is one per process is known by; of a class `identity` knows more.

    Args:
        obj: a type variable, say; there are weak references to it.
        contents: what tells it from others of its name, the same in each run of a program.
    """
    known = _rebuild.identity_of(obj)
    while known is None:
        token = new_token(module, qualname, outline_of(*contents))
        known = _rebuild.identified(_rebuild.Identity(token, obj, is_ours=True), obj)
    return known.token


def new_token(module: str | None, qualname: str, outline: str = "") -> str:
    """A name for an object that no other object has, and that the next run gives it again."""
    data = _utf8(outline)
    stem = f"{module}.{qualname}#{binascii.crc32(data):08x}"
    count = next(_counts.setdefault(stem, itertools.count(1)))
    return f"{stem}.{count}{_rebuild.origin()}"


# ---------------------------------------------------------------------------------------------
# What a class is like
# ---------------------------------------------------------------------------------------------


def outline_of(*values: Any) -> str:
    """As far as it can be said in short, what some values are: see `_outline`."""
    met: set[int] = set()
    return "\n".join([_described(value, met) for value in values])


def _outline(cls: Any) -> tuple[str, _Bodies]:
    """What tells classes of one name from each other, the same in each run of a program; and the
    code that is a part of it.

    Two programs, or two versions of one, may send classes of one name to the same process.
    """
    met: set[int] = {id(cls)}
    parts = [_described_base(base) for base in cls.__bases__]
    codes: list[CodeType] = []
    for name, value in dict(dict_of(cls)).items():
        if type(value) is FunctionType and _is_closed(value):
            parts.append(name)
            codes.append(value.__code__)
        elif name not in NOT_COPIED:
            parts += (name, _described(value, met))
    bodies = tuple(codes)
    data = marshalled(bodies)  # of all in one go
    parts += [str(binascii.crc32(data))] if data else [_described(code, met) for code in bodies]
    return "\n".join(parts), (bodies, data)


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _described_base(base: Any) -> str:
    if base.__flags__ & HEAP and not is_importable(base) and not is_written_in_c(base):
        return identity(base).token
    return f"{base.__module__}.{base.__qualname__}"


def _described(value: Any, met: set[int], depth: int = 0) -> str:
    """What a value is, if that can be said in short and without asking a class of the user's; or
    else of which type.

    `met` are the ids of what is being described, or has been.
    """
    kind = type(value)
    if kind is FunctionType and _is_closed(value) and (data := marshalled(value.__code__)):
        return f"{len(data)}:{binascii.crc32(data)}"
    if id(kind) in _SIMPLE:
        return repr(value)
    if kind is int:
        return f"{value:x}"  # decimal digits are limited
    if kind is bytes:
        return f"{len(value)}:{binascii.crc32(value)}"
    if kind is str:
        return repr(value) if len(value) <= _LONG else _described(_utf8(value), met)
    if is_class(value):
        return str(value.__qualname__)
    if depth < _DEEP and len(met) < _LONG and id(value) not in met:
        met.add(id(value))
        parts = _parts(value, kind)
        if parts is not None:
            found = [_described(one, met, depth + 1) for one in parts]
            return repr(sorted(found) if kind is set or kind is frozenset else found)
        if f"{kind.__module__}.{kind.__qualname__}" in _SHOWN_WHOLE:
            return repr(value)
        return str(kind.__qualname__) + _described_buffer(value)
    return str(kind.__qualname__)


_SIMPLE = frozenset(map(id, (type(None), bool, float, complex)))
# Small ones whose `repr` says all.
_SHOWN_WHOLE = frozenset(
    {"datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "uuid.UUID"}
    | {"decimal.Decimal", "fractions.Fraction", "pathlib.PosixPath", "pathlib.WindowsPath"}
)
# Enough to tell programs apart; more would cost time.
_LONG = 1000
_DEEP = 20


def _described_buffer(value: Any) -> str:
    """What is in an array and its like, or enough of that; nothing of what is no buffer."""
    try:
        with memoryview(value) as view:
            if "O" in view.format or not view.contiguous:  # ids of objects; parts of others
                return f"{view.shape}"
            return f"{view.format}{view.shape}:{binascii.crc32(view.cast('B')[:_MUCH])}"
    except Exception:  # noqa: BLE001 - a buffer may be of code in Python, from 3.12 on
        return ""


_MUCH = 1 << 20


def _parts(value: Any, kind: Any) -> tuple[Any, ...] | None:
    """What a value consists of, if it is of a type that can be described so."""
    if kind is dict or id(kind) in _COLLECTIONS:
        return _parts_of_collection(value, kind)
    if kind is FunctionType:
        return _parts_of_function(value)
    if id(kind) in WRAPPERS:
        return wrapped(value)
    if _is_enum(kind):
        return value._name_, value._value_
    if kind.__flags__ & HEAP and kind.__dictoffset__ and has_plain_state(kind):
        return kind.__qualname__, object.__getattribute__(value, "__dict__")
    return None


def _parts_of_collection(value: Any, kind: Any) -> tuple[Any, ...]:
    if len(value) <= _LONG:
        return (len(value), *(value.items() if kind is dict else value))
    first = list(itertools.islice(value.items() if kind is dict else value, _LONG))
    atoms = itertools.chain.from_iterable(first) if kind is dict else first
    is_in_order = kind is not set and kind is not frozenset
    if is_in_order and ATOMS.issuperset(map(id, map(type, atoms))):
        return len(value), binascii.crc32(pickle.dumps(first, pickle.HIGHEST_PROTOCOL))
    return (len(value),)


def has_plain_state(kind: Any) -> bool:
    """Whether the ``__dict__`` of instances is what is pickled of them."""
    return (
        kind.__reduce_ex__ is _Ordinary.__reduce_ex__
        and kind.__reduce__ is _Ordinary.__reduce__
        and kind.__getstate__ is _Ordinary.__getstate__
    )


def _is_closed(fn: FunctionType) -> bool:
    """Whether a function refers to nothing, as most methods."""
    if fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__:
        return False
    return not facts(fn.__code__).names


def _parts_of_function(fn: FunctionType) -> tuple[Any, ...]:
    if is_importable(fn):
        return fn.__module__, fn.__qualname__
    known, space = facts(fn.__code__), fn.__globals__
    parts = [known.body(fn.__code__), fn.__defaults__, fn.__kwdefaults__]
    parts += [space[name] for name in known.names if name in space]
    return (*parts, *map(contents_of, fn.__closure__ or ()))


def reduce_class(cls: Any) -> tuple[Any, ...]:
    """The reduce tuple of a class by value; the order of its parts is `_phases`' to change."""
    known = identity(cls)
    version, versions = known.version, known.versions
    own = dict(dict_of(cls))
    body: dict[str, Any] = {"__module__": own.get("__module__"), "__qualname__": cls.__qualname__}
    attributes = {
        name: value
        for name, value in own.items()
        if name not in NOT_COPIED
        and (
            id(type(value)) not in _DESCRIPTORS
            or value.__objclass__ is not cls
            or value.__name__ != name  # a second one
        )
    }
    slots = _slots(own)
    if slots is not None:
        # The order of a class's attributes: those of its body, its slots, what was set later.
        before = itertools.takewhile(lambda name: name not in slots, own)
        body |= dict.fromkeys(name for name in before if name not in NOT_COPIED) | body
        body["__slots__"] = slots
        if type(own["__slots__"]) not in (str, tuple, list, dict):
            del attributes["__slots__"]  # an iterator that is used up
    if attributes.get("__annotations__"):
        attributes["__annotations__"] = _evaluated(cls, attributes["__annotations__"])
    arguments: tuple[Any, ...] = (known.token, type(cls), cls.__name__, cls.__bases__, body)
    extra: dict[str, Any] = {}
    if _is_enum(cls):
        arguments += (_members(cls, attributes, extra),)
    if _BASES in versions:
        arguments = (*arguments, ())[:6] + (versions[_BASES],)
    if isinstance(cls, ABCMeta) and (registered := _registered(cls)):
        extra["registered"] = registered
    state = (version, attributes, versions, extra)
    return _rebuild.make_class, arguments, state, None, None, _rebuild.fill_class


def _evaluated(cls: Any, annotations: dict[str, Any]) -> dict[str, Any]:
    """Annotations without text, as far as that can be: where the class is going, `get_type_hints`
    would look the names up in a module of this name, which is another one there."""
    module = sys.modules.get(cls.__module__)
    if module is None or not any(type(value) is str for value in annotations.values()):
        return annotations
    space, own = vars(module), dict(dict_of(cls))
    return {
        name: evaluated(value, space, own) if type(value) is str else value
        for name, value in annotations.items()
    }


def _slots(own: Any) -> tuple[str, ...] | None:
    """The slots a class has, from their descriptors: ``__slots__`` may have been an iterator."""
    if "__slots__" not in own:
        return None
    names = [
        name
        for name, value in own.items()
        if type(value) is MemberDescriptorType and value.__name__ == name
    ]
    names += [name for name in ("__dict__", "__weakref__") if name in own]
    return tuple(names)


def _registered(cls: Any) -> list[Any]:
    """Classes registered with an abstract base class, in a stable order."""
    alive = (ref() for ref in _get_dump(cls)[0])
    found = [one for one in alive if one is not None]
    return sorted(found, key=lambda one: (str(one.__module__), one.__qualname__))


# What `pickle` asks an instance for; what its class says of it is looked at in `is_simple`.
OWN_WAYS = frozenset(
    {"__getnewargs__", "__getnewargs_ex__", "__getstate__", "__reduce__", "__reduce_ex__"}
)


class _Ordinary:
    """As large as instances that have a ``__dict__``, and nothing else to be pickled."""


def is_plainly_hashed(kind: type) -> bool:
    """Whether a type can be an element of a set: its metaclass may say otherwise, or lie."""
    meta = type(kind)
    return meta.__hash__ is type.__hash__ and meta.__eq__ is type.__eq__


def is_simple(kind: Any) -> bool:
    """Whether all that `object.__reduce_ex__` would find in an instance is its ``__dict__``.

    Then it need not be asked for each one, which takes longer than to say it in Python.
    """
    return (
        kind.__basicsize__ == _Ordinary.__basicsize__
        and kind.__dictoffset__ == _Ordinary.__dictoffset__
        and kind.__getattribute__ is _Ordinary.__getattribute__
        and has_plain_state(kind)
        and not hasattr(kind, "__getnewargs_ex__")
        and not hasattr(kind, "__getnewargs__")
        and not any("__slots__" in dict_of(one) for one in kind.__mro__)
        and kind not in copyreg.dispatch_table
    )


def way_of(kind: Any) -> tuple[Any, bool] | None:
    """What the C pickler would call with each object of a type, and whether with a protocol, too.

    None where it would ask the object itself, which may have an answer of its own.
    """
    if kind.__dictoffset__ != 0 or type(kind.__getattribute__) is not WrapperDescriptorType:
        return None
    for name, with_protocol in (("__reduce_ex__", True), ("__reduce__", False)):
        way = getattr(kind, name)
        if way is not getattr(object, name):
            if type(way) is FunctionType and _is_static(kind, name):
                return None
            return (way, with_protocol) if type(way) in _PLAIN_FUNCTIONS else None
    # A type written in C may look elsewhere for what it lacks, as weak proxies do.
    is_common = kind.__getattribute__ is object.__getattribute__
    return (object.__reduce_ex__, True) if is_common else None


def _is_static(kind: Any, name: str) -> bool:
    """Whether what a class has under a name was written with a wrapper that is taken off."""
    for one in kind.__mro__:
        own = dict_of(one)
        if name in own:
            return type(own[name]) is staticmethod
    return False


_PLAIN_FUNCTIONS = (FunctionType, MethodDescriptorType)


# ---------------------------------------------------------------------------------------------
# Enumerations
# ---------------------------------------------------------------------------------------------


def _is_enum(cls: Any) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(cls, enum.EnumMeta) and "_member_map_" in dict_of(cls)


def is_member(obj: Any) -> bool:
    """Whether an instance of an enumeration is one of its named members."""
    found = dict_of(type(obj)).get("_member_map_", {}).get(obj._name_)
    return found is obj


def _members(cls: Any, attributes: dict[str, Any], extra: dict[str, Any]) -> tuple[Any, ...]:
    """What the members are made from; their attributes go into `extra`, to be set later."""
    base = c_base(cls)
    # Values of a Flag that are combinations are made again when they are asked for.
    by_value = attributes.get("_value2member_map_")
    if by_value is not None:
        attributes["_value2member_map_"] = {v: m for v, m in by_value.items() if is_member(m)}
    members = {m._name_: m for m in attributes["_member_map_"].values()}
    for name, value in attributes.items():
        if type(value) is cls and is_member(value):
            attributes[name] = _rebuild.MemberHere(value._name_)
    extra["members"] = {name: _own_state(cls, m) for name, m in members.items()}
    return tuple((name, base, _new_arguments(base, m)) for name, m in members.items())


def c_base(cls: Any) -> Any:
    """The nearest class written in C that makes instances of a class."""
    for kind in cls.__mro__:
        new = dict_of(kind).get("__new__")
        if type(new) is BuiltinFunctionType and new.__self__ is kind:
            return kind
    return object


def exception_base(cls: Any) -> Any:
    """The nearest class of an exception that is written in C: its `__init__` fills the fields."""
    for kind in cls.__mro__:
        own = dict_of(kind)
        if not kind.__flags__ & HEAP or type(own.get("__init__")) is WrapperDescriptorType:
            return kind
    return BaseException


def _new_arguments(base: Any, obj: Any) -> tuple[Any, ...]:
    """What ``base.__new__`` makes an equal object from."""
    if base is object:
        return ()
    if hasattr(base, "__getnewargs__"):
        return tuple(base.__getnewargs__(obj))
    return tuple(base.__reduce__(obj)[1])


def _own_state(cls: Any, obj: Any) -> Any:
    slots = slot_values(cls, obj)
    own = dict(obj.__dict__) if hasattr(obj, "__dict__") else {}
    return (own, slots) if slots else own


def slot_values(cls: Any, obj: Any) -> dict[str, Any]:
    """What an object has in the slots that classes written in Python gave it."""
    return {
        name: value.__get__(obj, cls)
        for kind in cls.__mro__
        if kind.__flags__ & HEAP and "__slots__" in dict_of(kind)
        for name, value in dict(dict_of(kind)).items()
        if type(value) is MemberDescriptorType and hasattr(obj, name)
    }
