"""The namespaces of functions that travel by value, and the objects that these hold by a name.

Owns what stands for a namespace in a pickle, and the answer to "which global is this object?": a
sentinel, a registry, a configuration is to be one object there, too, wherever it is met
(``default=MISSING``, ``class App: config = CONFIG``).

Knows of a pickler what it is given with each call.  Any thread may call it.
"""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

from hookpool import _rebuild
from hookpool import _rebuild_objects as there
from hookpool._importable import list_registry_pickle_by_value
from hookpool._met import PLACES
from hookpool._plain import ATOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: The name of a module, and that of an object in it.
    Place: TypeAlias = tuple[str, str]


class Placed:
    """Stands for a value that is a global: a worker is to take what it has of it."""

    __slots__ = ("_arguments",)

    def __init__(self, place: Place, stamp: bytes, value: Any) -> None:
        self._arguments = *place, stamp, value

    def __reduce__(self) -> tuple[Any, ...]:
        return there.placed_value, self._arguments


class Home:
    """Stands for the globals of functions: what the receiver makes of it is a module."""

    __slots__ = ("is_shared", "space")

    def __init__(self, space: dict[str, Any], *, is_shared: bool) -> None:
        self.space = space
        self.is_shared = is_shared

    def __reduce__(self) -> tuple[Any, ...]:
        name, package = self.space.get("__name__"), self.space.get("__package__")
        make = _rebuild.shared_namespace if self.is_shared else _rebuild.namespace
        return make, (name if type(name) is str else None, package or None)


def explicit_home(pickler: Any, space: dict[str, Any], *, is_shared: bool) -> Home:
    """What stands for globals other than those of ``__main__``."""
    home = Home(space, is_shared=is_shared and pickler.shares_namespaces)
    pickler.met[id(space)] = home
    pickler.met.pop(PLACES, None)  # it may hold some, too
    return home


def place_of(pickler: Any, value: Any) -> Place | None:
    """Which global of a module a value is, unless it is found again in a way of its own."""
    for space in pickler.met.get(PLACES) or _spaces(pickler):
        name = space.names.get(id(value))
        if name is not None and space.is_module and space.globals.get(name) is value:
            kind = type(value)
            return None if kind is object or issubclass(kind, type) else (space.name, name)
    return None


def place_of_sentinel(pickler: Any, sentinel: object) -> Place | None:
    """The same of ``object()``, of which a process has one in any namespace of that name."""
    for place, known in list(there.sentinels.items()):
        if known is sentinel:
            return place
    if _rebuild.in_worker():  # a worker's own globals have no owner
        return None
    for space in pickler.met.get(PLACES) or _spaces(pickler):
        name = space.names.get(id(sentinel))
        if name is not None and space.globals.get(name) is sentinel:
            return space.name, name
    return None


class _Space:
    """A namespace, and by the ids of what it holds the names of that.

    Ids alone: nothing is to live longer for having been looked at.
    """

    __slots__ = ("globals", "is_module", "name", "names")

    def __init__(self, name: str, space: dict[str, Any], is_module: bool) -> None:
        self.name = name
        self.globals = space
        self.is_module = is_module
        self.names = _names_in(name, space) if is_module else _names(space.copy())


def _spaces(pickler: Any) -> list[_Space]:
    """The namespaces that this pickle has met, and those in which it may meet something."""
    found: dict[str, _Space] = {}
    for name in ("__main__", *sorted(list_registry_pickle_by_value())):
        if (module := sys.modules.get(name)) is not None:
            found[name] = _Space(name, vars(module), is_module=True)
    for home in list(pickler.met.values()):
        space = _space_of(home)
        where = None if space is None else space.get("__name__")
        if space is not None and type(where) is str and where not in found:
            is_module = getattr(sys.modules.get(where), "__dict__", None) is space
            found[where] = _Space(where, space, is_module)
    pickler.met[PLACES] = spaces = list(found.values())
    return spaces


def _space_of(home: Any) -> dict[str, Any] | None:
    if type(home) is Home:
        return home.space
    return home.__globals__ if type(home) is FunctionType else None


# What a module held when it was last looked at: most look the same the next time.
_known: dict[str, tuple[list[str], list[int], dict[int, str]]] = {}


def _names_in(module: str, space: dict[str, Any]) -> dict[int, str]:
    own = space.copy()  # in one step: another thread may be changing it
    keys, ids = list(own), list(map(id, own.values()))
    known = _known.get(module)
    if known is None or known[1] != ids or known[0] != keys:
        known = _known[module] = keys, ids, _names(own)
    return known[2]


def _names(own: dict[str, Any]) -> dict[int, str]:
    """Where there are several for one object the first one is taken, public ones before others: a
    prompt keeps what it has shown under names that change."""
    kept = [
        (name, value)
        for name, value in own.items()
        if id(type(value)) not in WITHOUT_PLACE and type(name) is str
    ]
    names: dict[int, str] = {}
    for is_private in (False, True):
        for name, value in kept:
            if name.startswith("_") is is_private and not name.startswith("__"):
                names.setdefault(id(value), name)
    return names


#: Types of which nobody asks whether two are one, and those that have identities of their own.
WITHOUT_PLACE = ATOMS | set(
    map(id, (tuple, frozenset, range, slice, type, FunctionType, BuiltinFunctionType, ModuleType))
)
