"""Classes of `ctypes`: how they are made again, and their layouts before all else of them.

A structure gets its layout once, when its ``_fields_`` are set; and it must have it before another
structure contains it, or a class derives from it, or it can have it no more.  What its methods
refer to may lead to such classes.  So what is written first of a structure are the layouts of all
that it contains or derives from, in an order in which each finds what it needs; in these, classes
by value are written as their bare selves, to be filled when they are met again.

Types that `ctypes` makes of others (arrays, pointers, prototypes of functions) are asked for again
where they arrive: there is one of each.

Knows of a pickler what it is given with each call.  Any thread may call the functions.
"""

from __future__ import annotations

import operator
import sys
from functools import partial

from hookpool import _classes
from hookpool import _rebuild_objects as there
from hookpool._importable import is_importable
from hookpool._met import BARE
from hookpool._rebuild import Now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: What makes a type, and of what.
    Call: TypeAlias = "tuple[Any, tuple[Any, ...]]"

# Of each metaclass the class that one can find it by: they have no names of their own.
_ROOTS = ("Structure", "Union", "Array", "_Pointer", "_SimpleCData", "CFuncPtr")
_by_metaclass: dict[int, Any] = {}  # by id: other metaclasses may not be hashable

# What is to be known when the class is made, and what only before its layout.
_AT_ONCE = ("_type_", "_length_", "_flags_", "_restype_", "_argtypes_")
_BEFORE_LAYOUT = ("_swappedbytes_", "_anonymous_", "_pack_", "_align_", "_layout_")
# What is made anew with each class, as are the descriptors of fields.
_ANEW = frozenset({"_fields_", "__ctype_be__", "__ctype_le__", "__pointer_type__"})
# A class with slots has in its body all names that were in it, for their order.
_NOT_AT_ONCE = _ANEW.union(_BEFORE_LAYOUT)
_ORDERS = ["__ctype_le__", "__ctype_be__"]
_NATIVE, _SWAPPED = _ORDERS if sys.byteorder == "little" else _ORDERS[::-1]
_USES_ERRNO, _USES_LAST_ERROR = 8, 16


def root_of(cls: Any) -> Any:
    """The class of `ctypes` that decides of what kind a class is; None of any other class."""
    if not _by_metaclass:
        module = sys.modules.get("_ctypes")
        if module is None:
            return None
        roots = [getattr(module, name) for name in _ROOTS]
        _by_metaclass.update({id(type(root)): root for root in roots})
    for kind in type(cls).__mro__:
        if id(kind) in _by_metaclass:
            return _by_metaclass[id(kind)]
    return None


def call_of(cls: Any) -> Call | None:
    """What makes a type that is `ctypes`' own: a metaclass, or one that it makes of others."""
    root = root_of(cls)
    if root is None:
        found = _by_metaclass.get(id(cls))
        return None if found is None else (type, (found,))
    find = _FINDERS.get(root.__name__)
    call: Call | None = None if find is None else find(cls, _classes.dict_of(cls))
    # A class of the user's is another one: it may have methods.
    return call if call is not None and call[0](*call[1]) is cls else None


def _array(cls: Any, own: Any) -> Call | None:
    return (operator.mul, (own["_type_"], own["_length_"])) if "_length_" in own else None


def _pointer(cls: Any, own: Any) -> Call | None:
    import ctypes  # late, as below: who has no such type has no use for it

    return (ctypes.POINTER, (own["_type_"],)) if "_type_" in own else None


def _prototype(cls: Any, own: Any) -> Call | None:
    if "_argtypes_" not in own or "_restype_" not in own:
        return None
    import ctypes

    make: Any = ctypes.CFUNCTYPE
    how = {"use_errno": _USES_ERRNO, "use_last_error": _USES_LAST_ERROR}
    keywords = {name: True for name, flag in how.items() if cls._flags_ & flag}
    return partial(make, **keywords) if keywords else make, (own["_restype_"], *own["_argtypes_"])


def _swapped(cls: Any, own: Any) -> Call | None:
    """The same number with its bytes the other way round."""
    native = own.get(_NATIVE)
    return None if native is None or native is cls else (getattr, (native, _SWAPPED))


_FINDERS = {
    "Array": _array,
    "_Pointer": _pointer,
    "CFuncPtr": _prototype,
    "_SimpleCData": _swapped,
}


def with_layout(
    pickler: Any, cls: Any, arguments: tuple[Any, ...], state: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Now, ...]]:
    """The same for a class of `ctypes`: what makes it, its state, and what comes before that."""
    version, attributes, versions, extra = state
    own = _classes.dict_of(cls)
    if "_fields_" in own:
        # So that all it leads to comes as a whole in the end.
        extra = extra | {"fields": own["_fields_"]}
    attributes = {
        name: value
        for name, value in attributes.items()
        if name not in _ANEW and not _is_field(value)
    }
    layouts = _Layouts(pickler)
    layouts.lay_out(cls)
    return _made_at_once(arguments, own), (version, attributes, versions, extra), layouts.steps()


def _is_field(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "CField" and kind.__module__ == "_ctypes"


def _made_at_once(arguments: tuple[Any, ...], own: Any) -> tuple[Any, ...]:
    token, metaclass, name, bases, body, *more = arguments
    body = {key: value for key, value in body.items() if key not in _NOT_AT_ONCE}
    body |= {key: own[key] for key in _AT_ONCE if key in own}
    return token, metaclass, name, bases, body, *more


class _Layouts:
    """The layouts that a class needs, each after those that it needs itself."""

    def __init__(self, pickler: Any) -> None:
        #: What stands for classes, by id; the same in all of a pickle, and so written once.
        self._bare: dict[int, tuple[Any, Now]] = pickler.met.setdefault(BARE, {})
        self._met: set[int] = set()
        self._steps: list[Now] = []

    def steps(self) -> tuple[Now, ...]:
        """Those found."""
        return tuple(self._steps)

    def lay_out(self, cls: Any) -> None:
        """Have the size of a type known."""
        call = _own_call(cls)
        if call is not None:
            for part in call[1]:
                (self.lay_out if call[0] is operator.mul else self._prepare)(part)
        elif _is_by_value(cls) and id(cls) not in self._met:
            self._met.add(id(cls))
            self._prepare(cls)
            own = _classes.dict_of(cls)
            if "_fields_" in own:
                for _, kind, *_ in own["_fields_"]:
                    self.lay_out(kind)
                self._steps.append(self._step(cls, own))

    def _prepare(self, cls: Any) -> None:
        """Have what a type takes to be there at all."""
        if _own_call(cls) is not None:
            self.lay_out(cls)
        elif _is_by_value(cls):
            for base in cls.__bases__:
                self.lay_out(base)

    def _step(self, cls: Any, own: Any) -> Now:
        before = {name: own[name] for name in _BEFORE_LAYOUT if name in own}
        fields = [(name, self._stand_in(kind), *bits) for name, kind, *bits in own["_fields_"]]
        return Now(there.lay_out, self._stand_in(cls), before, fields)

    def _stand_in(self, cls: Any) -> Any:
        """What is written in the place of a type."""
        call = _own_call(cls)
        if call is not None:
            return Now(call[0], *map(self._stand_in, call[1]))
        if not _is_by_value(cls):
            return cls
        known = self._bare.get(id(cls))
        if known is None:
            make, arguments, *_ = _classes.reduce_class(cls)
            whole = _made_at_once(arguments, _classes.dict_of(cls))
            token, metaclass, name, bases, *more = whole
            bases = tuple(map(self._stand_in, bases))
            known = self._bare[id(cls)] = cls, Now(make, token, metaclass, name, bases, *more)
        return known[1]


def _is_by_value(cls: Any) -> bool:
    return _classes.is_class(cls) and root_of(cls) is not None and not is_importable(cls)


def _own_call(cls: Any) -> Call | None:
    return call_of(cls) if _is_by_value(cls) else None
