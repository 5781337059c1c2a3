"""Classes that travel by value: their identity, their attributes, their versions.

Owns the owner's side of "one identity per process and definition": a token per class, a shallow
look at its ``__dict__`` each time it is pickled, and from that a version per attribute.  The
receiver's side is `_rebuild.make_class` and `_rebuild.fill_class`.

Knows nothing of picklers: it gives reduce tuples.  Any thread may call it.
"""

from __future__ import annotations

import binascii
import collections
import contextlib
import gc
import itertools
import sys
import threading
import weakref
from _abc import _get_dump
from abc import ABCMeta
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

from hookpool import _rebuild

HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made at run time, in Python as a rule

dict_of = type.__dict__["__dict__"].__get__
_DESCRIPTORS = frozenset({MemberDescriptorType, GetSetDescriptorType})
_new_tokens = threading.RLock()  # reentrant: a finalizer may run under it and pickle something
_counts: collections.Counter[str] = collections.Counter()
# What `make_class` is given, what each class has anew, and what copyreg remembers there.
_NOT_COPIED = frozenset({"__module__", "__dict__", "__weakref__", "_abc_impl", "__slotnames__"})


class _Own(_rebuild.Identity):
    """The identity of a class that was made in this process.

    Invariants: `seen` are the ids of the values that the class's attributes had when `version` was
    current; `kept` holds or watches them, so that an id cannot be used again without `stale`
    having the name of its attribute.
    """

    __slots__ = ("kept", "seen", "stale")

    def __init__(self, token: str, cls: Any) -> None:
        super().__init__(token, cls, is_ours=True)
        self.seen: list[int] = []
        self.kept: list[object] = []
        self.stale: set[str] = set()

    def look(self, cls: Any) -> None:
        """Compare the class with what it was, attribute by attribute, and count versions up."""
        own = dict_of(cls)
        now = list(map(id, own.values()))
        if now == self.seen and not self.stale and tuple(own) == self.names:
            return
        before = dict(zip(self.names, self.seen, strict=True))
        changed = [
            name
            for name, at in zip(own, now, strict=True)
            if (before.get(name) != at or name in self.stale) and name not in _NOT_COPIED
        ]
        removed = before.keys() - own.keys() - _NOT_COPIED
        self.stale = set()
        self.names = tuple(own)
        self.kept = [_hold(value, name, self.stale) for name, value in own.items()]
        self.seen = now
        if self.version == 0:
            self.version = 1
        elif changed or removed:
            self.version += 1
            # A new dict: the old one may be part of a pickle being written.
            kept = {name: at for name, at in self.versions.items() if name not in removed}
            self.versions = kept | dict.fromkeys(changed, self.version)


def _hold(value: Any, name: str, stale: set[str]) -> object:
    """Make sure that the id of an attribute's value is not used again unnoticed.

    Nothing is held that could hold the class: an identity is found from outside, so that the class
    would never be collected.  What can be watched is watched, for it may be large.  A container
    with other containers in it is neither; if its owner replaces it twice between two looks, the
    last one may get the id of the first, and the edit be missed.
    """
    kind = type(value)
    if kind in _WRAPPERS:
        value = getattr(value, _WRAPPERS[kind])
    with contextlib.suppress(TypeError):
        return weakref.ref(value, lambda _: stale.add(name))
    parts = value if kind in (list, tuple, set, frozenset) else ()
    if kind is dict:
        parts = (*value, *value.values())
    is_free = bool(parts) and not any(map(gc.is_tracked, parts))
    return value if is_free or not gc.is_tracked(value) else None


_WRAPPERS = {staticmethod: "__func__", classmethod: "__func__", property: "fget"}


def identity(cls: Any) -> _rebuild.Identity:
    """The identity of a class, with its version up to date."""
    known = _rebuild.identity_of(cls)
    if known is None:
        with _new_tokens:
            known = _rebuild.identity_of(cls)
            if known is None:
                known = _Own(new_token(cls.__module__, cls.__qualname__, _outline(cls)), cls)
                _rebuild.identify(known, cls)
    if type(known) is _Own:
        known.look(cls)
    return known


def new_token(module: str | None, qualname: str, outline: str = "") -> str:
    """A name for an object that no other object has, and that the next run gives it again."""
    stem = f"{module}.{qualname}#{binascii.crc32(outline.encode()):08x}"
    with _new_tokens:
        _counts[stem] += 1
        return f"{stem}.{_counts[stem]}{_rebuild.origin()}"


def _outline(cls: Any) -> str:
    """What tells most classes of one name from each other."""
    parts = [base.__qualname__ for base in cls.__bases__]
    for name, value in dict_of(cls).items():
        parts.append(name)
        if type(value) is FunctionType:
            parts.append(value.__code__.co_code.hex())
    return " ".join(parts)


def reduce_class(cls: Any) -> tuple[Any, ...]:
    """The reduce tuple of a class by value."""
    known = identity(cls)
    own = dict_of(cls)
    body: dict[str, Any] = {"__module__": own.get("__module__"), "__qualname__": cls.__qualname__}
    attributes = {
        name: value
        for name, value in own.items()
        if name not in _NOT_COPIED
        and (type(value) not in _DESCRIPTORS or value.__objclass__ is not cls)
    }
    slots = _slots(own)
    if slots is not None:
        # The order of a class's attributes: those of its body, its slots, what was set later.
        body |= dict.fromkeys(itertools.takewhile(lambda name: name not in slots, own)) | body
        body["__slots__"] = slots
        if type(own["__slots__"]) not in (str, tuple, list, dict):
            del attributes["__slots__"]  # an iterator that is used up
    if attributes.get("__annotations__"):
        attributes["__annotations__"] = _evaluated(cls, attributes["__annotations__"])
    arguments = (known.token, type(cls), cls.__name__, cls.__bases__, body)
    extra: dict[str, Any] = {}
    if _is_enum(cls):
        arguments += (_members(cls, attributes, extra),)
    if isinstance(cls, ABCMeta) and (registered := _registered(cls)):
        extra["registered"] = registered
    state: tuple[Any, ...] = (known.version, attributes, known.versions, extra)
    if type(own.get("__hash__")) is FunctionType:
        if slots is None:
            body |= dict.fromkeys(attributes) | body
        state = _functions_first(cls, *state)
    return _rebuild.make_class, arguments, state, None, None, _rebuild.fill_class


def _functions_first(
    cls: Any, version: int, attributes: dict[str, Any], versions: dict[str, int], extra: Any
) -> tuple[Any, ...]:
    functions = {n: value for n, value in attributes.items() if type(value) is FunctionType}
    first = _rebuild.Early(cls, version, functions, versions)
    return first, version, attributes, versions, extra


def _evaluated(cls: Any, annotations: dict[str, Any]) -> dict[str, Any]:
    """Annotations without text, as far as that can be: where the class is going, `get_type_hints`
    would look the names up in a module of this name, which is another one there."""
    module = sys.modules.get(cls.__module__)
    if module is None or not any(type(value) is str for value in annotations.values()):
        return annotations
    space, found = vars(module), {}
    for name, value in annotations.items():
        found[name] = value
        if type(value) is str:
            with contextlib.suppress(Exception):  # then it is not to be resolved here either
                found[name] = eval(value, space, dict(dict_of(cls)))
    return found


def _slots(own: Any) -> tuple[str, ...] | None:
    """The slots a class has, from their descriptors: ``__slots__`` may have been an iterator."""
    if "__slots__" not in own:
        return None
    names = [name for name, value in own.items() if type(value) is MemberDescriptorType]
    names += [name for name in ("__dict__", "__weakref__") if name in own]
    return tuple(names)


def _registered(cls: Any) -> list[Any]:
    """Classes registered with an abstract base class, in a stable order."""
    alive = (ref() for ref in _get_dump(cls)[0])
    found = [one for one in alive if one is not None]
    return sorted(found, key=lambda one: (str(one.__module__), one.__qualname__))


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
        for name, value in dict_of(kind).items()
        if type(value) is MemberDescriptorType and hasattr(obj, name)
    }
