"""Whether loading some values takes a class: whether an instance of it, a method bound to it or to
one of its kind, or an alias like ``Class[int]`` is among all that they refer to.

Owns the walk, and when to give it up.  A mere reference to the class is harmless, and what a
``__reduce__`` may fetch from elsewhere is not seen.  Any thread may call it.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import (
    CellType,
    FunctionType,
    GenericAlias,
    MappingProxyType,
    MethodType,
    ModuleType,
)

from hookpool import _classes
from hookpool._code import ANNOTATIONS, facts
from hookpool._importable import is_importable
from hookpool._plain import ATOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# So many objects are looked at. What refers to more is taken to need the class: that makes the
# class's pickle longer, while a longer walk would cost more than that.
_MOST = 200
# And so many in one pickle, for all its classes and their functions.
MOST_IN_ALL = 5 * _MOST
# Dicts are not among them, as an instance may or may not have got its own by now, and the same
# class shall have the same pickle twice. But there is an end to them, too.
_MOST_WITH_DICTS = 2000
# And to what containers hold: numbers are looked at, too, if not counted. Of short ones it goes
# free: so much an instance may have without a dict.
_MOST_HELD = 500
_FREE = 30
# Where only a class knows how much its instances hold.
_MOST_AT_ONCE = 20_000

# Flags of a type, from CPython's object.h, https://docs.python.org/3/c-api/typeobj.html
_HAVE_GC = 1 << 14  # the garbage collector knows what its instances refer to
_TYPE_SUBCLASS = 1 << 31  # its instances are classes
# Not `issubclass`, which asks the metaclass: that of `TypedDict` raises.
_is_subclass = type.__subclasscheck__


class Reach:
    """What leads to one class; for one pickle, while nothing of it changes.

    >>> class Point: pass
    >>> reach = Reach(Point)
    >>> reach.leads([1, Point]), reach.leads([[Point()]])
    (False, True)
    """

    __slots__ = ("_cls", "_harmless", "_leading", "_plain", "left")

    def __init__(self, cls: Any, left: int = MOST_IN_ALL) -> None:
        self._cls = cls
        #: The ids of what was found not to lead there.
        self._harmless = {id(cls)}
        #: The ids of functions that do.
        self._leading: set[int] = set()
        #: How many objects may still be looked at.
        self.left = left
        #: The ids of types of which no object is the class's, and each is but what it refers to.
        self._plain = set(_CONTAINERS)

    def of(self, fn: FunctionType) -> bool:
        """Whether a function leads there."""
        leads = id(fn) in self._leading or self.leads((fn,))
        if leads:
            self._leading.add(id(fn))
        return leads

    def has_met(self, fn: FunctionType) -> bool:
        """Whether a function is among what was found not to lead there."""
        return id(fn) in self._harmless

    def leads(self, values: Iterable[Any]) -> bool:
        """Whether any of these values does."""
        harmless, plain, seen = self._harmless, self._plain, set[int]()
        most, count, held, level = min(_MOST, self.left), 0, 0, list(values)
        while level:
            following: list[Any] = []
            opaque: list[Any] = []  # what only the garbage collector knows the inside of
            before = count
            for value in level:
                kind, ident = type(value), id(value)
                if id(kind) in ATOMS or ident in seen or ident in harmless:
                    continue
                seen.add(ident)
                count += kind is not dict
                if count > most or len(seen) > _MOST_WITH_DICTS:
                    self.left -= most
                    return True
                if id(kind) in plain:
                    opaque.append(value)
                    if id(kind) in _SIZED and len(value) > _FREE:
                        held += len(value)
                    continue
                if ident in self._leading or self._is_it(kind, value):
                    self.left -= before  # not `count`: a set may give them in another order
                    return True
                parts = _parts(kind, value)
                if parts is None:
                    opaque.append(value)
                    following.append(kind)
                    if kind.__flags__ & _HAVE_GC and not _is_alias(kind):
                        plain.add(id(kind))
                else:
                    following += parts
            # After the loop: whatever the order of a set, what is found comes first.
            level = following if held > _MOST_HELD else following + gc.get_referents(*opaque)
            if held > _MOST_HELD or len(level) > _MOST_AT_ONCE:
                self.left -= most
                return True
        self.left -= count
        harmless |= seen
        return False

    def _is_it(self, kind: Any, value: Any) -> bool:
        """Whether the class itself must be there, with its methods, to load this value."""
        cls = self._cls
        if _is_subclass(cls, kind):
            return True
        if kind is MethodType:
            return _is_kind_of(cls, value.__self__)
        if _is_alias(kind):
            return _is_kind_of(cls, getattr(value, "__origin__", None))
        if not kind.__flags__ & _HAVE_GC:
            numpy = sys.modules.get("numpy")
            return numpy is not None and kind is numpy.ndarray and value.dtype.hasobject
        return False


#: The ids of types that refer to things, and are nobody's.
_SIZED = frozenset(map(id, (dict, list, tuple, set, frozenset, deque, defaultdict, OrderedDict)))
_CONTAINERS = _SIZED | set(map(id, (CellType, MappingProxyType, property)))


def _is_alias(kind: Any) -> bool:
    return kind is GenericAlias or kind.__module__ == "typing"


def _is_kind_of(cls: Any, value: Any) -> bool:
    return _classes.is_class(value) and _is_subclass(cls, value)


def _parts(kind: Any, value: Any) -> Iterable[Any] | None:
    """What it takes to load a value; None if that is all it refers to."""
    if kind is FunctionType:
        return _parts_of_function(value)
    if kind.__flags__ & _TYPE_SUBCLASS:
        return _parts_of_class(value)
    if kind is ModuleType:
        return ()
    if kind is MethodType:
        return value.__func__, value.__self__
    if kind is functools._lru_cache_wrapper:
        return value.__wrapped__, value.__dict__  # not what it remembers
    if _is_subclass(weakref.ReferenceType, kind):
        return (value(),)
    return None


def _parts_of_function(fn: FunctionType) -> list[Any]:
    if is_importable(fn):
        return []
    space = fn.__globals__
    parts = [space[name] for name in facts(fn.__code__).names if name in space]
    annotations = getattr(fn, ANNOTATIONS)
    parts += (fn.__closure__, fn.__defaults__, fn.__kwdefaults__, fn.__dict__)
    return parts + (list(annotations.values()) if type(annotations) is dict else [annotations])


def _parts_of_class(cls: Any) -> list[Any]:
    if not cls.__flags__ & _classes.HEAP or is_importable(cls):
        return []
    own = dict(_classes.dict_of(cls))
    parts = [value for name, value in own.items() if name not in _classes.NOT_COPIED]
    return [type(cls), *cls.__bases__, *parts]
