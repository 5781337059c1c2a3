"""Whether loading some values takes a class: whether an instance of it, or a method bound to it,
is among all that they refer to.

Owns the walk, and when to give it up.  A mere reference to the class is harmless, and what a
``__reduce__`` may fetch from elsewhere is not seen.  Any thread may call it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType

from hookpool import _classes
from hookpool._code import ANNOTATIONS, facts
from hookpool._importable import is_importable
from hookpool._plain import ATOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# So many objects are looked at. What refers to more is taken to need the class, which is always
# right and only makes the class's pickle longer; a longer walk would cost more than that.
_MOST = 200

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
# Not `issubclass`, which asks the metaclass: that of `TypedDict` raises.
_is_subclass = type.__subclasscheck__


def reaches(cls: Any, values: Iterable[Any]) -> bool:
    """Whether an instance of the class, or a method bound to it, can be reached from these."""
    seen = {id(cls)}
    level = list(values)
    while level:
        followed: list[Any] = []
        opaque: list[Any] = []  # what only the garbage collector knows the inside of
        for value in level:
            kind = type(value)
            if id(kind) in ATOMS or id(value) in seen or kind is ModuleType:
                continue
            seen.add(id(value))
            if len(seen) > _MOST:
                return True
            if kind is FunctionType:
                followed += _parts_of_function(value)
            elif _is_subclass(type, kind):
                followed += _parts_of_class(value)
            elif _is_subclass(cls, kind) or (kind is MethodType and value.__self__ is cls):
                return True
            else:
                opaque.append(value)
                followed.append(kind)
        level = followed + gc.get_referents(*opaque)
    return False


def _parts_of_function(fn: FunctionType) -> list[Any]:
    if is_importable(fn):
        return []
    space = fn.__globals__
    parts = [space[name] for name in facts(fn.__code__).names if name in space]
    annotations = getattr(fn, ANNOTATIONS)
    parts += (fn.__closure__, fn.__defaults__, fn.__kwdefaults__, fn.__dict__)
    return parts + (list(annotations.values()) if type(annotations) is dict else [annotations])


def _parts_of_class(cls: Any) -> list[Any]:
    if not cls.__flags__ & _HEAP_TYPE or is_importable(cls):
        return []
    return [type(cls), *cls.__bases__, *_classes.dict_of(cls).values()]
