"""Functions that travel by value: their code, what they capture, the namespace they live in.

Owns the reduce tuples of functions, cells and code objects.  A function whose captured values
cannot refer to anything goes in one piece; any other as a shell first, which the pickler can
remember, and what it captures afterwards.  The receiving side is `_rebuild`.

Knows of a pickler what it is given with each call.  Any thread may call it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType

from hookpool import _rebuild
from hookpool._callables import contents_of
from hookpool._classes import marshalled_of
from hookpool._code import ANNOTATIONS, LOOKS, Facts, facts, marshalled
from hookpool._given import was_given
from hookpool._importable import function_home, is_importable, is_module_importable
from hookpool._met import LEAVES_GIVEN, PLACES
from hookpool._objects import explicit_home
from hookpool._plain import ATOMS
from hookpool._type_forms import travels, with_annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_are_atoms = ATOMS.issuperset


def reduce_function(pickler: Any, fn: FunctionType) -> Any:
    """The reduce value of any function."""
    met, ident = pickler.met, id(fn)
    if ident in met:
        packed = met[ident]
        return (_rebuild.method, packed) if packed is not True else _shell(pickler, fn)
    # A quick answer first, for what is written in a program's own file.
    if fn.__module__ != "__main__" and "<" not in fn.__qualname__ and is_importable(fn):
        return NotImplemented
    ready = met.get(~ident)
    if ready is not None:
        return pickler.make_function, ready[0]
    known = facts(fn.__code__)
    whole = _whole(pickler, fn, known)
    if whole is not None:
        if len(whole) == _PLAIN:
            met[~ident] = whole, fn  # a class that has it among its methods is to see it
        return pickler.make_function, whole
    met[ident] = True
    state = _State(pickler, fn, known)
    if not state.reached:
        return (*_shell(pickler, fn), state.values(), None, None, _rebuild.fill_one)
    family = _family(pickler, fn, state)
    return (*_shell(pickler, fn), family, None, None, _rebuild.fill_all)


# What makes a function that is its code and no more, as those that `pack` takes.
_PLAIN = 2
# What a function has that may, or may not, follow from its code; in one call into C.
_looks = operator.attrgetter(*LOOKS)


# What `functools.wraps` takes from the function that it is given; two more may be anything.
_borrows = operator.attrgetter("__module__", *LOOKS[:2], *LOOKS[7:])


_contents = operator.attrgetter("cell_contents")


def _attributes(fn: FunctionType, known: Facts) -> dict[str, Any] | FunctionType | None:
    """Attributes of a function that do not follow from its code; None if there is none.

    Of one that `functools.wraps` has dressed, the function that has the same ones.
    """
    looks, is_home = _looks(fn), fn.__module__ == fn.__globals__.get("__name__")
    # Another docstring may compare as it likes, as an array does.
    if is_home and looks[_DOC] is known.doc and looks == known.looks:
        return None
    attributes = looks[_DICT]
    if attributes and len(attributes) == 1 and looks[3:_DICT] == _NO_DEFAULTS:
        wrapped = attributes.get("__wrapped__")
        if (
            type(wrapped) is FunctionType
            and wrapped.__doc__ is looks[_DOC]
            and getattr(wrapped, ANNOTATIONS) is looks[_ANNOTATIONS]
            and _borrows(wrapped) == _borrows(fn)
        ):
            return wrapped
    return _spelled_out(fn, looks, known, is_home)


_DOC, _DICT, _ANNOTATIONS, _TYPE_PARAMS = 2, 5, 6, 7
_NO_DEFAULTS = (None, None)


def _spelled_out(
    fn: FunctionType, looks: tuple[Any, ...], known: Facts, is_home: bool
) -> dict[str, Any]:
    """What a function has that does not follow from its code, one by one."""
    name, qualname, doc, defaults, kwdefaults, attributes, annotations = looks[:7]
    own: dict[str, Any] = {}
    if name != known.looks[0]:
        own["__name__"] = name
    if qualname != known.looks[1]:
        own["__qualname__"] = qualname
    if doc is not known.doc and (type(doc) is not str or doc != known.doc):
        own["__doc__"] = doc
    if defaults is not None:
        own["__defaults__"] = defaults
    if kwdefaults is not None:
        own["__kwdefaults__"] = kwdefaults
    if attributes:
        own["__dict__"] = attributes
    if annotations:
        own[ANNOTATIONS] = annotations
    if len(looks) > _TYPE_PARAMS and looks[_TYPE_PARAMS]:
        own["__type_params__"] = looks[_TYPE_PARAMS]
    if not is_home:
        own["__module__"] = fn.__module__
    return own


def _whole(
    pickler: Any, fn: FunctionType, known: Facts, inside: int = 1
) -> tuple[Any, ...] | None:
    """What makes a function in one piece, if nothing that it captures can lead back to it.

    `inside` is how many functions are looked into, each inside the one before.
    """
    own, names, closure = _attributes(fn, known), known.names, fn.__closure__
    if own is None and not names and closure is None:  # as most methods
        return known.data or known.body(fn.__code__), _home(pickler, fn)
    captured: dict[str, Any] = {}
    cells: tuple[Any, ...] | list[CellType] = ()
    submodules = stamps = None
    modules: list[Any] = []
    values: list[Any] = []
    if type(own) is dict:
        annotations = own.get(ANNOTATIONS)
        if type(annotations) is dict:
            names = with_annotated(names, annotations, fn.__globals__)
        if len(own) > 1 or not _are_text(annotations):
            values += own.values()
    elif own is not None:
        values.append(own)
    if pickler.is_stamping:
        names = ()
    elif names:
        space = fn.__globals__
        for name in names:
            if name in space:
                captured[name] = space[name]
        values += captured.values()
    if closure is not None:
        try:
            cells = tuple(map(_contents, closure))
        except ValueError:  # one is empty
            cells = tuple(map(contents_of, closure))
        values += cells
    if values and not _is_safe(pickler, values, modules, inside):
        return None
    if closure is not None and type(found := _closure(pickler, closure, fn)) is list:
        if None in found:
            return None
        cells = found  # all of them are another function's: methods share ``__class__``
    if names:
        stamps = pickler.stamps_of(fn, names, captured)
    if values and pickler.shares_namespaces:
        pickler.note((*captured.values(), *_defaults(fn)))
    for module in modules:
        submodules = _with_submodules(submodules, known, module)
    body, home = known.data or known.body(fn.__code__), _home(pickler, fn)
    if submodules or stamps:
        return body, home, captured or None, cells, own, submodules, stamps
    if own:
        return body, home, captured or None, cells, own
    if cells:
        return body, home, captured or None, cells
    return (body, home, captured) if captured else (body, home)


def _are_text(annotations: Any) -> bool:
    """Whether annotations are written as text, names and all, as a rule: that leads nowhere."""
    if type(annotations) is not dict:
        return False
    kinds = list(map(id, map(type, (*annotations, *annotations.values()))))
    return kinds.count(_TEXT) == len(kinds)


_TEXT = id(str)


def _defaults(fn: FunctionType) -> Iterable[Any]:
    defaults, by_name = fn.__defaults__ or (), fn.__kwdefaults__
    return (*defaults, *by_name.copy().values()) if by_name else defaults


def _is_safe(
    pickler: Any, values: Iterable[Any], modules: list[Any], inside: int, depth: int = 0
) -> bool:
    """Whether it is certain, after a short look, that no function can be reached through values.

    But functions that can be made in one piece themselves, and lead to no others: what makes them
    is left for the pickler, who will come to them.  Modules among the values are noted.
    """
    for value in values:
        kind = type(value)
        if kind is FunctionType:
            if not _is_safe_function(pickler, value, inside):
                return False
        elif id(kind) in ATOMS:
            continue
        elif id(kind) in CONTAINERS:
            if len(value) > _LONG:
                return False
            if kind is dict:
                if not _are_atoms(map(id, map(type, value))):
                    return False
                value = value.values()
            if not _are_atoms(map(id, map(type, value))) and (
                depth == _DEEP or not _is_safe(pickler, value, modules, inside, depth + 1)
            ):
                return False
        elif kind is ModuleType:
            name = value.__name__
            if sys.modules.get(name) is not value or not is_module_importable(name):
                return False
            modules.append(value)
        elif pickler.met.get(id(value)) is value:  # a class that has been, or is being, written
            continue
        elif (kind is not type and kind is not BuiltinFunctionType) or not is_importable(value):
            return False
    return True


def is_safe(pickler: Any, values: Iterable[Any]) -> bool:
    """Whether, after a short look, nothing by value can be reached but functions in one piece."""
    return _is_safe(pickler, values, [], _INSIDE_METHODS)


CONTAINERS = frozenset(map(id, (tuple, list, dict, set, frozenset)))
# Methods are wrapped more often than others; each `__repr__` of a dataclass is.
_INSIDE_METHODS = 2
# A look at more would cost more than it saves.
_DEEP = 2
_LONG = 16


def _is_safe_function(pickler: Any, fn: FunctionType, inside: int) -> bool:
    met, ident = pickler.met, id(fn)
    if ident in met:
        return False
    if ~ident in met:
        return True
    if fn.__module__ != "__main__" and "<" not in fn.__qualname__ and is_importable(fn):
        return True
    if not inside:  # a chain of some hundred decorators is to be walked, not descended into
        return False
    whole = _whole(pickler, fn, facts(fn.__code__), inside - 1)
    if whole is None:
        return False
    met[~ident] = whole, fn  # the function, too: its id must not be used again meanwhile
    return True


def _with_submodules(
    before: list[str] | None, known: Facts, module: ModuleType
) -> list[str] | None:
    """With the submodules of a module that a code uses."""
    found = known.submodules(module.__name__)
    if found:  # one made by hand, of a package made by hand, is an attribute that travels
        found = [name for name in found if is_module_importable(name)]
    return (before or []) + found if found else before


def _shell(pickler: Any, fn: FunctionType) -> tuple[Any, ...]:
    """The reduce tuple of a function without what it captures."""
    code = fn.__code__
    made: tuple[Any, ...] = (facts(code).body(code), _home(pickler, fn))
    closure, defaults = fn.__closure__, _early_defaults(fn)
    if closure is not None:
        spec = _closure(pickler, closure, fn)
        made += (None, _with_contents(pickler, spec, closure))
    elif defaults:
        made += (None, ())
    return pickler.make_function, (*made, defaults) if defaults else made


def _early_defaults(fn: FunctionType) -> dict[str, Any] | None:
    """Its defaults, as far as it can have them at once: what is loaded meanwhile may call it."""
    defaults, kwdefaults = fn.__defaults__, fn.__kwdefaults__
    if defaults is None and kwdefaults is None:
        return None
    early: dict[str, Any] = {}
    if defaults is not None:
        early["__defaults__"] = tuple(map(_if_atom, defaults))
    if kwdefaults is not None:
        early["__kwdefaults__"] = {
            name: _if_atom(value) for name, value in kwdefaults.copy().items()
        }
    return early


def _if_atom(value: Any) -> Any:
    return value if id(type(value)) in ATOMS else None


def _with_contents(pickler: Any, spec: Any, closure: tuple[CellType, ...]) -> Any:
    """A closure with what it can have at once: what is loaded meanwhile may call the function."""
    parts = [None] * spec if type(spec) is int else list(spec)
    for at, cell in enumerate(closure):
        if parts[at] is None:
            value = contents_of(cell)
            if id(type(value)) in ATOMS or pickler.met.get(id(value)) is value:
                parts[at] = (value,)
    return spec if parts.count(None) == len(parts) else parts


def _closure(pickler: Any, cells: tuple[CellType, ...], fn: FunctionType) -> Any:
    """How many cells to make; or the cells, with None for each one that is to be made."""
    met, index, count = pickler.met, 0, len(cells)
    for cell in cells:
        if met.setdefault(id(cell), (fn, index))[0] is not fn:
            break
        index += 1  # where others find it
    if index == count:
        return count
    spec = [None if met.setdefault(id(c), (fn, i))[0] is fn else c for i, c in enumerate(cells)]
    return count if spec.count(None) == count else spec


def _home(pickler: Any, fn: FunctionType) -> Any:
    """What stands for a function's globals: functions that share them go on sharing them."""
    space = fn.__globals__
    home = pickler.met.get(id(space))
    if home is not None:
        return home
    name = function_home(fn)
    if name != "__main__":
        if name is None or not is_module_importable(name):
            return explicit_home(pickler, space, is_shared=name is not None)
        pickler.met.pop(PLACES, None)  # its module may have sentinels, too
    # In fewer bytes, where the module itself is not among what travels: the first function makes
    # the namespace, and stands for it in what follows.
    pickler.met[id(space)] = fn
    package = space.get("__package__")
    return (name, package) if package and package != name.rpartition(".")[0] else name


def _family(
    pickler: Any, fn: FunctionType, state: _State
) -> tuple[tuple[FunctionType, ...], tuple[tuple[Any, ...], ...]]:
    """A function and the functions it reaches through functions alone, innermost first.

    They are written side by side: each inside another one's closure, a chain of some hundred
    decorators would exceed the recursion limit.  Innermost first, so that a function is complete
    when something that calls it while it is loaded comes along.
    """
    met = pickler.met
    functions: list[FunctionType] = []
    states: list[tuple[Any, ...]] = []
    path = [(fn, state)]
    while path:
        one, state = path[-1]
        while state.reached:
            other = state.reached.pop()
            if id(other) not in met and not is_importable(other):
                met[id(other)] = True
                its = facts(other.__code__)
                path.append((other, _State(pickler, other, its)))
                break
        else:
            functions.append(one)
            states.append(state.values())
            path.pop()
    return tuple(functions), tuple(states)


def methods_of(attributes: dict[str, Any]) -> dict[str, FunctionType]:
    """The functions among a class's attributes that are code by value and nothing else, by name;
    as far as they share their globals."""
    found: dict[str, FunctionType] = {}
    space: dict[str, Any] | None = None
    for key, fn in attributes.items():
        if type(fn) is not FunctionType or fn.__closure__ is not None:
            continue
        known, looks = facts(fn.__code__), _looks(fn)
        if known.names or looks[_DOC] is not known.doc or looks != known.looks:
            continue
        if space is None:
            space = fn.__globals__
            home = space.get("__name__")
        if fn.__globals__ is space and fn.__module__ == home:
            found[key] = fn
    if space is None or home == "__main__":
        return found
    return {key: fn for key, fn in found.items() if not is_importable(fn)}


def pack(pickler: Any, cls: Any, methods: dict[str, FunctionType]) -> tuple[Any, ...] | None:
    """What makes some functions of a class, see `_rebuild.unpacked`; None where one of them is
    met elsewhere, too.

    To write the code of all of them takes less than to write the first function.
    """
    met, make = pickler.met, pickler.make_function
    idents = list(map(id, methods.values()))
    data = marshalled_of(cls, tuple([fn.__code__ for fn in methods.values()]))
    if (
        data is None
        or len(set(idents)) < len(idents)
        or not met.keys().isdisjoint((*idents, *map(operator.invert, idents)))
    ):
        return None
    one = next(iter(methods.values()))
    home = met.get(id(one.__globals__))
    if home is None:
        is_shared = function_home(one) is not None
        home = explicit_home(pickler, one.__globals__, is_shared=is_shared)
    for index, name in enumerate(methods):  # where others find them from now on
        met[idents[index]] = make, home, data, index, cls, name
    return make, home, data, tuple(methods)


def shells_of(pickler: Any, functions: Iterable[FunctionType]) -> list[FunctionType]:
    """Those that do not go in one piece; from now on they are written without what they capture.

    `fills_of` gives what brings that.
    """
    met = pickler.met
    shells: list[FunctionType] = []
    if pickler.table is not None and FunctionType in pickler.table:
        return shells  # they are the user's to reduce
    for fn in functions:
        if id(fn) not in met and not _is_safe_function(pickler, fn, _INSIDE_METHODS):
            met[id(fn)] = True
            shells.append(fn)
    return shells


def fills_of(pickler: Any, shells: Iterable[FunctionType]) -> list[tuple[Any, ...]]:
    """For each function, and those it reaches, what `_rebuild.fill_all` takes as its state."""
    fills = []
    for fn in shells:
        known = facts(fn.__code__)
        fills.append(_family(pickler, fn, _State(pickler, fn, known)))
    return fills


class _State:
    """What a function captures, at the moment it is looked at."""

    __slots__ = ("_met", "attributes", "captured", "cells", "reached", "stamps", "submodules")

    captured: dict[str, Any] | None
    cells: tuple[Any, ...] | None
    attributes: dict[str, Any] | None
    submodules: list[str] | None
    stamps: dict[str, bytes] | None
    #: Functions among it that reach further, the first one last.
    reached: list[FunctionType]

    def __init__(self, pickler: Any, fn: FunctionType, known: Facts) -> None:
        # Not "as the one it wraps": that one may not be complete when it is filled.
        is_home = fn.__module__ == fn.__globals__.get("__name__")
        own = _spelled_out(fn, _looks(fn), known, is_home) or None
        self.captured = self.cells = self.submodules = self.stamps = None
        self.attributes = own
        self.reached = []
        self._met = pickler.met
        names, annotations = known.names, own and own.get(ANNOTATIONS)
        if type(annotations) is dict:
            names = with_annotated(names, annotations, fn.__globals__)
        if names:
            space = fn.__globals__
            if names is not known.names and not pickler.is_stamping:
                # What only annotations name is no reason to fail.  Not in `_whole`: all of that
                # is seen to travel.
                added = names[len(known.names) :]
                added = tuple([name for name in added if travels(pickler, space.get(name))])
                names = known.names + added
            if LEAVES_GIVEN in self._met:
                names = _not_given(pickler, names, space)
            captured = {name: space[name] for name in names if name in space}
            stamps = pickler.stamps_of(fn, names, captured)
            if captured and stamps is not pickler.no_globals:
                self.captured, self.stamps = captured, stamps or None
                self._look(known, captured.values())
        if fn.__closure__ is not None:
            self.cells = tuple(map(contents_of, fn.__closure__))
            self._look(known, self.cells)
        if own is not None:
            self._look(known, fn.__defaults__ or ())
            self._look(known, fn.__dict__.values())
        if pickler.shares_namespaces:
            pickler.note((*(self.captured or {}).values(), *(self.cells or ()), *_defaults(fn)))
        self.reached.reverse()

    def values(self) -> tuple[Any, ...]:
        """The arguments of `_rebuild.fill`."""
        values: tuple[Any, ...] = (
            self.captured,
            self.cells,
            self.attributes,
            self.submodules,
            self.stamps,
        )
        while values and values[-1] is None:
            values = values[:-1]
        return values

    def _look(self, known: Facts, values: Iterable[Any]) -> None:
        """Note functions among some values that are not ready to be written, and submodules."""
        met = self._met
        for value in values:
            kind = type(value)
            if kind is FunctionType:
                if ~id(value) not in met and not _is_leaf(value):
                    self.reached.append(value)
            elif kind is ModuleType:
                self.submodules = _with_submodules(self.submodules, known, value)


def _not_given(pickler: Any, names: tuple[str, ...], space: dict[str, Any]) -> tuple[str, ...]:
    """Without those of what the receiver was given at its start, and cannot be sent now.

    It looks these up over there, where an initializer has bound them.
    """
    values = [(name, space.get(name)) for name in names]
    return tuple(
        [name for name, value in values if not was_given(value) or pickler.can_carry(value, {})]
    )


def _is_leaf(fn: FunctionType) -> bool:
    """Whether a function reaches no other one: such a one needs no care to be written."""
    if fn.__closure__ is not None or fn.__defaults__ is not None or fn.__dict__:
        return False
    get = fn.__globals__.get
    return all(type(get(name)) is not FunctionType for name in facts(fn.__code__).names)


def reduce_cell(pickler: Any, cell: CellType) -> Any:
    """The reduce value of a cell: that of a function which has it, or one by itself."""
    owner = pickler.met.setdefault(id(cell), _BY_ITSELF)
    if owner is not _BY_ITSELF:
        return _rebuild.cell_of, owner
    return _rebuild.cell, (), contents_of(cell), None, None, _rebuild.fill_cell


_BY_ITSELF = (None, 0)


def reduce_code(_: Any, code: CodeType) -> Any:
    """The reduce value of a code object."""
    data = facts(code).body(code)
    if data is not code:
        return _rebuild.code, (data,)
    # A constant cannot be marshalled: without its constants, and those apart.
    return _rebuild.code_with, (marshalled(code.replace(co_consts=())), code.co_consts)
