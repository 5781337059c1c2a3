"""Classes by value whose parts need the class while they are loaded: in which order they go.

A class may hold instances of itself, or bound methods, or have methods that capture such (``ORIGIN
= Point(0, 0)``, a table of handlers).  To load these takes the class's methods, ``__setstate__``
and ``__hash__`` above all, and what dataclasses keep in it.  So such a class gets its functions
first, as shells; then what has a special name; then what special methods capture; then everything
else.  A class that cannot be reached through what it holds goes in one piece, in fewer bytes.

Knows of a pickler what it is given with each call.  Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from hookpool import _classes, _rebuild
from hookpool._functions import fills_of, is_safe, shells_of
from hookpool._rebuild import Now


def reduce_class(pickler: Any, cls: Any) -> tuple[Any, ...]:
    """The reduce tuple of a class by value."""
    pickler.met[id(cls)] = cls  # what refers to it now cannot bring it about again
    make, arguments, state, *rest = _classes.reduce_class(cls)
    version, attributes, versions, extra = state
    code = {name: value for name, value in attributes.items() if id(type(value)) in _CODE}
    functions = list(_functions_in(code))
    values = [value for name, value in attributes.items() if name not in code]
    values += [fn for _, fn in functions]
    if is_safe(pickler, values):
        return make, arguments, state, *rest
    _keep_order(arguments[4], attributes)
    special = {n: v for n, v in attributes.items() if n not in code and _is_special(n)}
    shells = shells_of(pickler, [fn for _, fn in functions])
    names = {id(fn): name for name, fn in functions}
    needed = [fn for fn in shells if _is_special(names[id(fn)])]
    others = [fn for fn in shells if not _is_special(names[id(fn)])]
    early = [Now(_rebuild.early, cls, version, some, versions) for some in (code, special) if some]
    if needed:
        early.append(_filling(pickler, needed))
    if others:
        extra["filled"] = _filling(pickler, others)
    return make, arguments, (*early, *state), *rest


def _filling(pickler: Any, shells: list[FunctionType]) -> Now:
    functions, states = zip(*fills_of(pickler, shells), strict=True)
    return Now(_rebuild.fill_all, None, (sum(functions, ()), sum(states, ())))


# What a class's own code is made of.
_CODE = frozenset(map(id, (FunctionType, classmethod, property, staticmethod)))


def _functions_in(code: dict[str, Any]) -> Iterator[tuple[str, FunctionType]]:
    for name, value in code.items():
        kind = type(value)
        parts: tuple[Any, ...] = (value,)
        if kind is property:
            parts = value.fget, value.fset, value.fdel
        elif kind is not FunctionType:
            parts = (value.__func__,)
        for part in parts:
            if type(part) is FunctionType:
                yield name, part


def _is_special(name: Any) -> bool:
    return type(name) is str and name.startswith("__")


def _keep_order(body: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Let attributes have their places from the start, since they are not set in this order."""
    if "__slots__" not in body:  # with slots that has been done
        body |= dict.fromkeys(attributes) | body
