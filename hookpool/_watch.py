"""Whether a function is still what it was when it was last pickled, told without pickling it.

Owns the answer for functions of which little can change: importable ones, and those by value that
capture numbers, text, short containers of these, modules, importable things, and functions of the
same kind.  Of any other only its pickle tells.  Everything that can change is looked at each time:
attributes, globals, cells, what containers hold, whether names still resolve.

A watch keeps no function, class or module alive; of what was captured it keeps only atoms.  Knows
nothing of ledgers and workers.  Any thread may call it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter, is_
from types import BuiltinFunctionType, FunctionType, ModuleType

from hookpool import _importable
from hookpool._code import ANNOTATIONS, Facts, facts
from hookpool._functions import CONTAINERS
from hookpool._importable import MAINS, is_importable, is_module_importable
from hookpool._plain import ATOMS
from hookpool._type_forms import with_all_annotated, with_annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A function that reaches more functions by value than these is pickled instead: the looks, some
# 2 us each, would soon cost what they save.
_MOST = 16
# A container of more items is pickled, too: to compare them would take as long.
_LONG = 64

_ABSENT = object()
_modules = sys.modules
_HAS_TYPE_PARAMS = sys.version_info >= (3, 12)
_names_of = attrgetter("__module__", "__qualname__")
_contents_of = attrgetter("cell_contents")
# What a function says about itself, besides its code.  All of it in one call: this is what each
# `submit` pays.
_look = attrgetter(
    "__dict__",
    "__kwdefaults__",
    "__defaults__",
    ANNOTATIONS,
    "__doc__",
    "__name__",
    "__qualname__",
    "__module__",
    *(("__type_params__",) if _HAS_TYPE_PARAMS else ()),
)
_DOC, _QUALNAME, _MODULE = 4, 6, 7
_BUILTINS = (bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple)
_BUILTIN_IDS = frozenset(map(id, _BUILTINS))


class Watch:
    """Tells nothing: what can be had of any function."""

    __slots__ = ()

    def is_unchanged(self, fn: Any) -> bool:
        """Whether the pickle of the function that is watched would be the same again."""
        return False


#: Sees a change each time.
NOTHING = Watch()


def watch(fn: Any) -> Watch:
    """A watch for what is to be called."""
    if is_importable(fn):
        return _Importable(fn)
    if type(fn) is FunctionType:
        return _watch_by_value(fn)
    return NOTHING


class _Importable(Watch):
    """Of something that goes by reference: that its name still leads to it."""

    __slots__ = ("_by_value", "_module", "_name", "_names", "_qualname")

    def __init__(self, fn: Any) -> None:
        self._names = self._name, self._qualname = _names_of(fn)
        # Whether a finder finds a module is remembered for a module object.
        self._module = weakref.ref(_modules[self._name])
        self._by_value = _importable.list_registry_pickle_by_value()

    def is_unchanged(self, fn: Any) -> bool:
        module = _modules.get(self._name)
        if (
            module is not None
            and module is self._module()
            and _names_of(fn) == self._names
            and _importable.is_registry(self._by_value)
        ):
            return getattr(module, self._qualname, None) is fn or is_importable(fn)
        return False


class _ByValue(Watch):
    """Of a function by value: all that its pickle depends on, but for the functions it reaches."""

    __slots__ = (
        "_atoms",
        "_cells",
        "_code",
        "_defaults",
        "_flat",
        "_globals",
        "_has_home",
        "_look",
        "_module",
        "_names",
        "_package",
        "others",
    )

    def __init__(self, fn: FunctionType, look: tuple[Any, ...]) -> None:
        space = fn.__globals__
        known = facts(fn.__code__)
        self._code = fn.__code__
        self._look = look
        self._defaults = fn.__defaults__  # by identity: 1 and 1.0 are equal
        self._module = space.get("__name__")
        self._has_home = _has_home(self._module, space)
        self._package = space.get("__package__")
        annotations = getattr(fn, ANNOTATIONS)
        names = known.names
        self._names = with_all_annotated(names, annotations) if annotations else names
        found = [space.get(name, _ABSENT) for name in self._names]
        cells = list(map(_contents_of, fn.__closure__ or ()))
        # What is captured is compared by its ids, which stay taken as long as it is there.
        self._globals = list(map(id, found))
        self._cells = list(map(id, cells))
        values = *found, *cells
        self._atoms = [value for value in values if id(type(value)) in ATOMS]
        #: Containers of atoms: where they are, and what they hold, which they may hold no more.
        self._flat = [
            (index, type(value), elements)
            for index, value in enumerate(values)
            if (elements := _atoms_in(value)) is not None
        ]
        #: What else was captured, by this function and by those that have no watch of their own,
        #: and how to tell that it is the same.
        self.others: list[tuple[weakref.ref[Any], Callable[[Any], bool]]] = []
        if "<" not in look[_QUALNAME] and look[_MODULE] not in MAINS:
            self.others.append((weakref.ref(fn), _is_not_importable))

    def captured(self, fn: FunctionType) -> list[Any]:
        """What is captured and may refer to something."""
        values = list(map(fn.__globals__.get, self._names, repeat(None)))
        names, annotations = facts(fn.__code__).names, getattr(fn, ANNOTATIONS)
        if annotations:  # of the names in them, not all are captured
            names = with_annotated(names, annotations, fn.__globals__)
            values = [v if n in names else None for n, v in zip(self._names, values, strict=True)]
        values += map(_contents_of, fn.__closure__ or ())
        flat = {index for index, _, _ in self._flat}
        return [
            value
            for index, value in enumerate(values)
            if index not in flat and id(type(value)) not in ATOMS
        ]

    def is_unchanged(self, fn: Any) -> bool:
        space = fn.__globals__
        return (
            fn.__code__ is self._code
            and fn.__defaults__ is self._defaults
            and fn.__doc__ is self._look[_DOC]  # another one may compare as it likes
            and _look(fn) == self._look
            and space.get("__name__") is self._module
            and space.get("__package__") is self._package
            and _has_home(self._module, space) is self._has_home
            and (not self._names or self._has_globals(space))
            and (not self._cells or self._has_cells(fn))
            and (not self._flat or self._has_items(fn))
            and (not self.others or self._has_others())
        )

    def _has_globals(self, space: dict[str, Any]) -> bool:
        return list(map(id, map(space.get, self._names, repeat(_ABSENT)))) == self._globals

    def _has_cells(self, fn: FunctionType) -> bool:
        try:
            return list(map(id, map(_contents_of, fn.__closure__ or ()))) == self._cells
        except ValueError:  # one has been emptied
            return False

    def _has_items(self, fn: FunctionType) -> bool:
        """To be asked when the containers are known to be the same objects."""
        names, space = self._names, fn.__globals__
        for index, kind, before in self._flat:
            if index < len(names):
                value = space[names[index]]
            else:
                value = fn.__closure__[index - len(names)].cell_contents  # type: ignore[index]
            if type(value) is not kind:
                return False  # another one, at the place of the first
            now = _elements(value)
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
        return True

    def _has_others(self) -> bool:
        for ref, is_same in self.others:
            value = ref()
            if value is None or not is_same(value):
                return False
        return True


def _elements(container: Any) -> list[Any]:
    if type(container) is dict:
        return [*container, *container.values()]
    return list(container)


def _atoms_in(value: Any) -> list[Any] | None:
    """What a short container holds, if that cannot change from within."""
    if id(type(value)) not in CONTAINERS or len(value) > _LONG:
        return None
    found = _elements(value)
    return found if ATOMS.issuperset(map(id, map(type, found))) else None


def _is_not_importable(fn: Any) -> bool:
    return not is_importable(fn)


def _has_home(module: Any, space: dict[str, Any]) -> bool:
    return getattr(_modules.get(module), "__dict__", None) is space


def _watch_by_value(fn: FunctionType) -> Watch:
    """A watch that holds those of all functions reached, side by side: there are cycles."""
    first: _ByValue | None = None
    met = {id(fn)}
    path = [fn]
    while path:
        one = path.pop()
        look = _look_to_keep(one)
        if look is None or len(met) > _MOST:
            return NOTHING
        try:
            own = _ByValue(one, look)
        except ValueError:  # an empty cell
            return NOTHING
        if first is None:
            first = own
        else:
            first.others.append((weakref.ref(one), own.is_unchanged))
        for value in own.captured(one):
            if type(value) is FunctionType and not is_importable(value):
                if id(value) not in met:
                    met.add(id(value))
                    path.append(value)
                continue
            is_same = _sameness(value, facts(one.__code__))
            if is_same is None:
                return NOTHING
            own.others.append((weakref.ref(value), is_same))
    assert first is not None
    return first


def _look_to_keep(fn: FunctionType) -> tuple[Any, ...] | None:
    """What `_look` says of a function, None if it may change without notice."""
    attributes, keywords, defaults, annotations, *rest = look = _look(fn)
    if attributes or keywords or (rest[-1] if _HAS_TYPE_PARAMS else False):
        return None
    if not {type(look[at]) for at in (_DOC, _MODULE)} <= {str, type(None)}:
        return None
    if defaults is not None and not ATOMS.issuperset(map(id, map(type, defaults))):
        return None
    if annotations:
        if type(annotations) is not dict or not all(map(_is_fixed, annotations.values())):
            return None
        annotations = annotations.copy()
    return ({}, keywords, defaults, annotations, *rest)


def _is_fixed(annotation: Any) -> bool:
    # Of these, two that are equal are the same in a pickle; 1 and 1.0 are not.
    return type(annotation) is str or annotation is None or id(annotation) in _BUILTIN_IDS


def _sameness(value: Any, known: Facts) -> Callable[[Any], bool] | None:
    """What tells whether the pickle of a captured value is the same again, if anything does."""
    kind = type(value)
    if kind is ModuleType:
        return _sameness_of_module(value, known)
    if kind is FunctionType or kind is BuiltinFunctionType or issubclass(kind, type):
        if not is_importable(value):
            return None
        names = _names_of(value)
        return lambda value: _names_of(value) == names and is_importable(value)
    return None


def _sameness_of_module(module: ModuleType, known: Facts) -> Callable[[Any], bool] | None:
    name = module.__name__
    submodules = known.submodules(name)

    def is_same(module: ModuleType) -> bool:
        return (
            module.__name__ == name
            and _modules.get(name) is module
            and is_module_importable(name)
            and known.submodules(name) == submodules
        )

    return is_same if is_same(module) else None
