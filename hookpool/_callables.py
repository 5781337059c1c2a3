"""What is made of functions: what of it can be changed in place, with nobody told.

Knows the kinds that stand in a class's body, of builtins and of `functools`, and asks none of them
what a subclass could answer.  Any thread may call the functions.
"""

from __future__ import annotations

import functools
import itertools
from types import CellType, FunctionType, MappingProxyType

from hookpool._rebuild import EMPTY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What `wrapped` is for. By the id of the type, as below: a type need not be hashable, nor its
#: comparison harmless.
WRAPPERS = frozenset(map(id, (staticmethod, classmethod, property)))
#: What `called_by` is for.
CALLERS = frozenset(
    map(
        id,
        (
            functools.cached_property,
            functools.partial,
            functools.partialmethod,
            functools.singledispatchmethod,
            type(functools.lru_cache(len)),
        ),
    )
)


def with_more(value: Any) -> tuple[Any, ...]:
    """A value; of a function, and of what is made of functions, what can be changed in place."""
    kind = type(value)
    if kind is FunctionType:  # also its code, as reloaders do
        cells, own = value.__closure__, value.__dict__
        if cells or own or value.__defaults__ or value.__kwdefaults__:
            held = tuple(map(contents_of, cells or ()))
            # What a decorator was given is called by what it made.
            codes = [one.__code__ for one in held if type(one) is FunctionType]
            more = (*own, *own.values(), *held, *codes)
            return (value, value.__code__, value.__defaults__, value.__kwdefaults__, *more)
        return value, value.__code__
    ident = id(kind)
    if ident in WRAPPERS:
        # Not itself: it cannot be watched, and what it wraps may outlive it.
        inside = itertools.chain.from_iterable(map(with_more, wrapped(value)))
        return (kind, *inside, value.__doc__)
    if ident in CALLERS:
        # Not what these are made of in turn: they can be part of themselves.
        return (value, *itertools.chain.from_iterable(map(_with_code, called_by(value))))
    return (value,)


def _with_code(value: Any) -> tuple[Any, ...]:
    return with_more(value) if type(value) is FunctionType else (value,)


def wrapped(value: Any) -> tuple[Any, ...]:
    """What a class method, static method or property is made of."""
    if type(value) is property:
        return value.fget, value.fset, value.fdel
    return (value.__func__,)


def called_by(value: Any) -> tuple[Any, ...]:
    """What an object of `functools` calls, and with what; and its attributes."""
    own = value.__dict__
    parts = (*own, *own.values())
    if type(value) is functools.partial or type(value) is functools.partialmethod:
        by_name = value.keywords
        return (value.func, *value.args, *by_name, *by_name.values(), *parts)
    if type(value) is functools.singledispatchmethod:
        return (*parts, *_registered(own.get("dispatcher")))
    return parts


def _registered(dispatcher: Any) -> tuple[Any, ...]:
    """Types, and what is called for each, as far as it is `functools.singledispatch` that asks."""
    registry = getattr(dispatcher, "registry", None) if type(dispatcher) is FunctionType else None
    return (*registry, *registry.values()) if type(registry) is MappingProxyType else ()


def contents_of(cell: CellType) -> Any:
    """What a cell holds; `EMPTY` if that is nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY
