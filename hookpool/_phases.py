"""Classes by value whose parts need the class while they are loaded: in which order they go.

A class may hold instances of itself, or bound methods, or have methods that capture such (``ORIGIN
= Point(0, 0)``, a table of handlers).  To load these takes the class's methods, ``__setstate__``
and ``__hash__`` above all, what they read of the class, and what dataclasses keep in it.  So such
a class gets its functions first, as shells; then what refers to nothing, and what has a special
name; then what methods capture, the special ones' before the others'; then everything else.  A
class that cannot be reached through what it holds goes in one piece, in fewer bytes.

What is decided of a class holds for what is written after that.  So it waits until the class has
been made: its bases come before, and may lead back to it.

Knows of a pickler what it is given with each call.  Any thread may call it.
"""

from __future__ import annotations

import sys
from types import FunctionType

from hookpool import _classes, _rebuild
from hookpool._callables import WRAPPERS, wrapped
from hookpool._functions import CONTAINERS, fills_of, is_safe, methods_of, pack, shells_of
from hookpool._importable import is_importable
from hookpool._plain import ATOMS
from hookpool._reach import Reach
from hookpool._rebuild import Now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def reduce_class(pickler: Any, cls: Any) -> tuple[Any, ...]:
    """The reduce tuple of a class by value."""
    make, arguments, state, *setter = _classes.reduce_class(cls)
    first: tuple[Now, ...] = ()
    if type(cls) is not type and "_ctypes" in sys.modules:
        from hookpool import _layouts  # late: few programs have such a class

        if _layouts.root_of(cls) is not None:
            arguments, state, first = _layouts.with_layout(pickler, cls, arguments, state)
    if _is_made_of_more(pickler, cls, arguments):
        return make, arguments, Later(cls, state, first), *setter
    return make, arguments, first + _in_order(pickler, cls, state), *setter


class Later:
    """The state of a class whose bases or members are to be written first.

    These may lead back to the class, which then is written whole while it is waited for; and what
    they take along is not the class's to bring.  So nothing is decided before they are written.
    """

    __slots__ = ("cls", "first", "state")

    def __init__(self, cls: Any, state: tuple[Any, ...], first: tuple[Now, ...]) -> None:
        self.cls = cls
        self.state = state
        self.first = first  # what goes before all of it


def reduce_later(pickler: Any, later: Later) -> tuple[Any, ...]:
    """The reduce tuple of the state of a class."""
    return _rebuild.same, (later.first + _in_order(pickler, later.cls, later.state),)


def _is_made_of_more(pickler: Any, cls: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether what makes the class is more than names, and classes that are there."""
    met = pickler.met
    for one in (type(cls), *cls.__bases__):
        if one.__flags__ & _classes.HEAP and id(one) not in met and not is_importable(one):
            return True
    members = arguments[5] if len(arguments) > 5 else ()
    return not all(ATOMS.issuperset(map(id, map(type, args))) for _, _, args in members)


def _sorted(attributes: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Those that are code, by name; and all values, those in code instead of it."""
    code: dict[str, Any] = {}
    values: list[Any] = []
    for name, value in attributes.items():
        kind = type(value)
        if kind is FunctionType:
            code[name] = value
            values.append(value)
        elif id(kind) in WRAPPERS:
            code[name] = value
            values += _inside(value)
        elif name in _OF_DATACLASSES:
            values += _in_fields(value)
        else:
            values.append(value)
    return code, values


_OF_DATACLASSES = frozenset({"__dataclass_fields__", "__dataclass_params__"})


def _in_fields(value: Any) -> list[Any]:
    """What may lead anywhere of what a dataclass knows about itself: little, as a rule nothing."""
    dataclasses = sys.modules.get("dataclasses")
    if dataclasses is None or type(value) not in (dict, dataclasses._DataclassParams):
        return [value]
    parts: list[Any] = []
    for field in value.values() if type(value) is dict else ():
        if type(field) is not dataclasses.Field:
            parts.append(field)
            continue
        parts += (field.type, field.default, field.default_factory)
        if field.metadata:
            parts.append(field.metadata)
    return [part for part in parts if part is not dataclasses.MISSING]


def _in_order(pickler: Any, cls: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The state of a class, with what it needs while it is loaded before the rest."""
    pickler.met[id(cls)] = cls  # what refers to it from now on cannot bring it about again
    version, attributes, versions, extra = state
    methods = {} if extra or not pickler.may_pack() else methods_of(attributes)
    others = attributes
    if methods:  # which lead nowhere
        others = {name: value for name, value in attributes.items() if name not in methods}
    values = _sorted(others)[1]
    if not is_safe(pickler, values):
        reach = Reach(cls, pickler.sight)
        if reach.leads(values):
            state = _in_phases(pickler, cls, _sorted(attributes)[0], state, reach)
            methods = {}
        elif any(map(reach.has_met, methods.values())):
            methods = {}
        pickler.sight = reach.left
    packed = pack(pickler, cls, methods) if methods else None
    if packed is None:
        return state
    return version, attributes | dict.fromkeys(methods), versions, {"methods": packed}


def _in_phases(
    pickler: Any, cls: Any, code: dict[str, Any], state: Any, reach: Reach
) -> tuple[Any, ...]:
    version, attributes, versions, extra = state
    flat: dict[str, Any] = {}
    special: dict[str, Any] = {}
    last: set[str] = set()
    for name, value in attributes.items():
        if name not in code:
            if name in _FIRST or _is_flat(value):
                flat[name] = value
            elif _is_special(name):
                special[name] = value
            else:
                last.add(name)
    if not _is_made_otherwise(cls) and not last.isdisjoint(_read_by(code, "__new__")):
        # It looks for the first instance where that is only to be put, as singletons do.  Those
        # that there are need nobody to look.
        code = {name: value for name, value in code.items() if name != "__new__"}
    needed: list[FunctionType] = []
    others: list[FunctionType] = []
    for name, value in code.items():
        functions = [fn for fn in _inside(value) if type(fn) is FunctionType]
        # Others are whole from the start: those that instances need while they are loaded.
        shells = shells_of(pickler, filter(reach.of, functions))
        (needed if _is_special(name) else others).extend(shells)
    early = [
        Now(_rebuild.early, cls, version, some, versions) for some in (code, flat, special) if some
    ]
    early += [_filling(pickler, shells) for shells in (needed, others) if shells]
    if "__slots__" not in attributes:  # or the body has places for all
        extra = extra | {"is_shuffled": True}
    return *early, version, attributes, versions, extra


def _is_made_otherwise(cls: Any) -> bool:
    """Whether making an instance takes more than its class."""
    return any(
        getattr(cls, way, None) is not getattr(object, way, None)
        for way in _classes.OWN_WAYS - {"__getstate__"}
    )


def _read_by(code: dict[str, Any], name: str) -> set[str]:
    """Names that a method of a class refers to, also through others of its methods."""
    found, methods = {name}, [name]
    for method in methods:
        for fn in _inside(code[method]) if method in code else ():
            if type(fn) is FunctionType:
                names = set(fn.__code__.co_names) - found
                found |= names
                methods += names & code.keys()
    return found


# What an alias of the class takes, which may be among its bases.
_FIRST = frozenset({"__parameters__", "__type_params__"})
# So deep, and so long, may containers be of which it is seen that they refer to nothing else.
_DEEP = 3
_LONG = 100


def _is_flat(value: Any, depth: int = 0) -> bool:
    """Whether a value refers to nothing that it would take a class to load."""
    kind = type(value)
    if id(kind) in ATOMS:
        return True
    if id(kind) not in CONTAINERS or depth == _DEEP or len(value) > _LONG:
        return False
    parts = (*value, *value.values()) if kind is dict else value
    return all(_is_flat(part, depth + 1) for part in parts)


def _filling(pickler: Any, shells: list[FunctionType]) -> Now:
    functions, states = zip(*fills_of(pickler, shells), strict=True)
    return Now(_rebuild.fill_all, None, (sum(functions, ()), sum(states, ())))


def _inside(code: Any) -> tuple[Any, ...]:
    """What a function, or what is made of functions in a class's body, consists of."""
    return (code,) if type(code) is FunctionType else wrapped(code)


def _is_special(name: Any) -> bool:
    return type(name) is str and name.startswith("__")
