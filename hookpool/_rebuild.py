"""The receiving side of the pickler: the functions that hookpool's pickles name.

Owns what must exist once per process for pickles to meet: the registry of classes that travel by
value, and, inside a worker, one namespace per module of the owner, so that ``global model`` set by
an initializer is what the next task reads.  Knows nothing of how pickles are made.

Everything is called by the unpickler, in the thread that loads.  Two threads that load at the same
time at worst build the same thing twice; the registry keeps the first.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import importlib.util
import marshal
import os
import pickle
import sys
import threading
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType, ModuleType

from hookpool._raw_classes import delete_attribute, raw_class, set_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAGIC = importlib.util.MAGIC_NUMBER
_CODES_KEPT = 1024

# ---------------------------------------------------------------------------------------------
# Code and modules
# ---------------------------------------------------------------------------------------------

_codes: dict[bytes, CodeType] = {}


def code(data: bytes) -> CodeType:
    """The code object behind marshalled bytes, one object for equal bytes."""
    known = _codes.get(data)
    if known is not None:
        return known
    # Compared before loading: marshal data of another version may crash the interpreter.
    if not data.startswith(_MAGIC):
        raise pickle.UnpicklingError(
            f"this function was pickled by another version of Python (bytecode magic "
            f"{data[:4]!r}, here {_MAGIC!r}): pickle it with the version that loads it"
        )
    made: CodeType = marshal.loads(memoryview(data)[len(_MAGIC) :])
    while len(_codes) >= _CODES_KEPT:
        _codes.pop(next(iter(_codes)), None)
    return _codes.setdefault(data, made)


def codes(data: bytes) -> tuple[CodeType, ...]:
    """The same of several code objects together."""
    return code(data)  # type: ignore[return-value]


def code_with(data: bytes, constants: tuple[Any, ...]) -> CodeType:
    """A code object with constants that could not be marshalled."""
    return code(data).replace(co_consts=constants)


def module(name: str) -> ModuleType:
    """An importable module."""
    return importlib.import_module(name)


# ---------------------------------------------------------------------------------------------
# Namespaces
# ---------------------------------------------------------------------------------------------


class _Namespace:
    """The one namespace of an owner's module in a worker."""

    __slots__ = ("applied", "found", "module")

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        # Name -> (number of the definition that brought it, stamp of the value it brought).
        self.applied: dict[str, tuple[int, object]] = {}
        # Name -> the class that is to be found there: it came, but nobody has written the name.
        self.found: dict[str, Any] = {}

    def is_free(self, name: str) -> bool:
        """Whether neither the owner nor a task has written the name."""
        space = self.module.__dict__
        if name not in space:
            return True
        return name not in self.applied and space[name] is self.found.get(name, _ABSENT)


class _Loading(threading.local):
    """What a worker's main thread is loading just now; other threads load for nobody.

    Attributes:
        number: of the definition: later ones win over earlier ones that arrive late.
        classes: where classes that are made or met are noted.
        require: makes sure that the definition with a number has been loaded.
    """

    number: int = 0
    classes: list[Any] | None = None
    require: Callable[[int], object] | None = None


loading = _Loading()


_in_worker = False
_namespaces: dict[str, _Namespace] = {}
_by_globals: dict[int, _Namespace] = {}  # keyed by id: the modules above live as long as we do
_ABSENT = object()
_ATOMS = frozenset(map(id, (type(None), bool, int, str, bytes)))
_NUMBERS = frozenset(map(id, (float, complex)))


def enter_worker() -> None:
    """From now on by-value functions of one module share one namespace in this process."""
    global _in_worker
    _in_worker = True
    _renew_origin()


def in_worker() -> bool:
    """Whether `enter_worker` has been called in this process."""
    return _in_worker


def namespace(name: str | None, package: str | None = None) -> ModuleType:
    """A module for functions to live in: a new one, as they do not share their owner's."""
    made = ModuleType(name or "")
    # C code that imports takes ``__import__`` from here.
    made.__dict__["__builtins__"] = builtins
    if name is None:
        del made.__name__
    package = package or (name or "").rpartition(".")[0]
    if package:
        made.__package__ = package
    return made


def shared_namespace(name: str, package: str | None = None) -> ModuleType:
    """In a worker, the one module in which functions of that module of the owner live."""
    if not _in_worker:
        return namespace(name, package)
    space = _namespaces.get(name)
    if space is None:
        home = sys.modules["__main__"] if name == "__main__" else namespace(name, package)
        space = _namespaces.setdefault(name, _Namespace(home))
        _by_globals[id(space.module.__dict__)] = space
    if package and not space.module.__package__:
        space.module.__package__ = package  # the owner was started by ``python -m package.module``
        if space.module.__spec__ is not None:  # imports compare the two
            space.module.__spec__.name = f"{package}.__main__"
    return space.module


def _globals_of(home: Any, *, shared: bool) -> dict[str, Any]:
    """The globals a function is to live in: `home` is a name, or what has them already."""
    kind = type(home)
    if kind is FunctionType:
        return home.__globals__  # type: ignore[no-any-return]
    if kind is ModuleType:
        return home.__dict__  # type: ignore[no-any-return]
    make = shared_namespace if shared else namespace
    return (make(home) if kind is str else make(*home)).__dict__


def same(obj: Any) -> Any:
    """What is there already, by another way."""
    return obj


def fill_module(
    made: ModuleType, state: tuple[dict[str, Any], Any, dict[str, bytes] | None]
) -> None:
    """Bring a module what it holds; in a worker, what it does not hold yet or its owner edited."""
    own, kind, stamps = state
    if kind is not None:
        made.__class__ = kind
    space = ModuleType.__getattribute__(made, "__dict__")
    if stamps is not None:
        _write(space, own, stamps)
        return
    if id(space) in _by_globals:
        own = {name: value for name, value in own.items() if name not in space}
    space.update(own)


def _write(space: dict[str, Any], captured: dict[str, Any], stamps: dict[str, bytes]) -> None:
    """Bring captured globals into a shared namespace, without undoing what tasks did to it."""
    shared = _by_globals.get(id(space))
    if shared is None:
        space.update(captured)
        return
    number = loading.number
    for name, value in captured.items():
        stamp = stamps.get(name, value)
        before = shared.applied.get(name)
        if before is not None and (number < before[0] or is_same(before[1], stamp)):
            continue
        shared.applied[name] = number, stamp
        space[name] = value


def note_inherited(stamps: dict[str, object]) -> None:
    """In a forked worker: its main module is the owner's, and had these values."""
    shared = _by_globals.get(id(shared_namespace("__main__").__dict__))
    if shared is not None:
        shared.applied = {name: (0, stamp) for name, stamp in stamps.items()} | shared.applied


def is_same(before: object, now: object) -> bool:
    """Whether the owner's value is the one it sent before: by stamp, or the value itself."""
    if before is now:
        return True
    kind = type(now)
    if type(before) is not kind:
        return False
    # Of floats the text tells more than equality: there is -0.0, and there is nan.
    if id(kind) in _ATOMS:
        return before == now
    return id(kind) in _NUMBERS and repr(before) == repr(now)


# ---------------------------------------------------------------------------------------------
# Functions
# ---------------------------------------------------------------------------------------------


class _EmptyCell:
    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY = _EmptyCell()


def function(
    body: bytes | CodeType,
    home: Any,
    captured: dict[str, Any] | None = None,
    cells: int | tuple[Any, ...] | list[CellType | tuple[Any] | None] = (),
    attributes: dict[str, Any] | FunctionType | None = None,
    submodules: Iterable[str] | None = None,
    stamps: dict[str, bytes] | None = None,
) -> FunctionType:
    """A function, with what it captures as far as that is given; `fill` brings the rest.

    `cells` are what they contain, or how many there are; or, where other functions have some of
    them already, those, and for each new one None, or a tuple of what it contains.
    """
    space = _globals_of(home, shared=False)
    if submodules:
        _import(submodules)
    if captured:
        space.update(captured)
    made = _function(body, space, cells)
    if attributes:
        _dress(made, attributes)
    return made


def task_function(
    body: bytes | CodeType,
    home: Any,
    captured: dict[str, Any] | None = None,
    cells: int | tuple[Any, ...] | list[CellType | tuple[Any] | None] = (),
    attributes: dict[str, Any] | FunctionType | None = None,
    submodules: Iterable[str] | None = None,
    stamps: dict[str, bytes] | None = None,
) -> FunctionType:
    """As `function`; in a worker it lives in the one namespace of its owner's module."""
    space = _globals_of(home, shared=_in_worker)
    if submodules:
        _import(submodules)
    if captured:
        _write(space, captured, stamps or {})
    made = _function(body, space, cells)
    if attributes:
        _dress(made, attributes)
    return made


_HAS_TYPE_PARAMS = sys.version_info >= (3, 12)


def _dress(made: Any, attributes: Any) -> None:
    """Set a function's attributes, or have it look like another one, as `functools.wraps` does."""
    if type(attributes) is dict:
        for name, value in attributes.items():
            setattr(made, name, value)
        return
    made.__wrapped__ = attributes
    made.__module__ = attributes.__module__
    made.__name__ = attributes.__name__
    made.__qualname__ = attributes.__qualname__
    made.__doc__ = attributes.__doc__
    if sys.version_info >= (3, 14):  # unverified: no such interpreter at hand
        made.__annotate__ = attributes.__annotate__
    else:
        made.__annotations__ = attributes.__annotations__
    if _HAS_TYPE_PARAMS:
        made.__type_params__ = attributes.__type_params__


def _import(submodules: Iterable[str]) -> None:
    for name in submodules:
        if name not in sys.modules:
            importlib.import_module(name)


def _function(
    body: bytes | CodeType,
    space: dict[str, Any],
    cells: int | tuple[Any, ...] | list[CellType | tuple[Any] | None],
) -> FunctionType:
    if type(body) is bytes:
        body = code(body)
    closure = None
    if cells:
        if type(cells) is tuple:
            closure = tuple(map(CellType, cells))
        elif type(cells) is int:
            closure = tuple([CellType() for _ in range(cells)])
        else:
            closure = tuple(map(_cell, cells))  # type: ignore[arg-type]
    return FunctionType(body, space, None, None, closure)  # type: ignore[arg-type]


def _cell(spec: Any) -> CellType:
    if spec is None:
        return CellType()
    made: CellType = CellType(*spec) if type(spec) is tuple else spec
    return made


def cell_of(fn: FunctionType, index: int) -> CellType:
    """A cell that a function has, for another one to share."""
    return fn.__closure__[index]  # type: ignore[index]


def cell() -> CellType:
    """A cell that was pickled by itself; `fill_cell` brings its contents."""
    return CellType()


def fill_cell(made: CellType, contents: object) -> None:
    """State setter of a cell."""
    if contents is not EMPTY:
        made.cell_contents = contents


def fill(
    fn: FunctionType,
    captured: dict[str, Any] | None = None,
    cells: tuple[Any, ...] | None = None,
    attributes: dict[str, Any] | None = None,
    submodules: Iterable[str] | None = None,
    stamps: dict[str, bytes] | None = None,
) -> None:
    """Bring a function what it captures: globals, cells, attributes, imported submodules."""
    if submodules:
        _import(submodules)
    if captured:
        _write(fn.__globals__, captured, stamps or {})
    if cells:
        for made, contents in zip(fn.__closure__ or (), cells, strict=False):
            if contents is not EMPTY:
                made.cell_contents = contents
    if attributes:
        for name, value in attributes.items():
            setattr(fn, name, value)


def fill_one(fn: FunctionType, state: tuple[Any, ...]) -> None:
    """State setter of a function."""
    fill(fn, *state)


def fill_all(
    _: object, state: tuple[tuple[FunctionType, ...], tuple[tuple[Any, ...], ...]]
) -> None:
    """State setter of several functions that refer to each other, innermost first."""
    for fn, own in zip(*state, strict=True):
        fill(fn, *own)


# ---------------------------------------------------------------------------------------------
# Classes
# ---------------------------------------------------------------------------------------------


class Identity:
    """What makes a class that travels by value the same class in every process.

    Invariants: `names` are the attributes that the owner's class has; `versions` says for each of
    them in which version it was last changed, where that is not the first.
    """

    __slots__ = ("__weakref__", "is_ours", "names", "ref", "token", "version", "versions")

    def __init__(self, token: str, cls: Any, is_ours: bool) -> None:
        self.token = token
        self.ref = weakref.ref(cls)
        self.is_ours = is_ours
        self.version = 0
        self.names: tuple[str, ...] = ()
        self.versions: dict[str, int] = {}


_by_token: dict[str, Identity] = {}
_by_object: dict[int, Identity] = {}
_origin = ""


def _renew_origin() -> None:
    # Tokens count from zero in each process.  Those of the program itself must be the same in the
    # next run; those of its workers and forks must not collide with them, nor with each other's.
    global _origin
    _origin = f"@{os.getpid()}.{os.urandom(4).hex()}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_origin)


def origin() -> str:
    """What tokens made in this process end with: nothing in the program that started first."""
    processes = None if _origin else sys.modules.get("multiprocessing.process")
    if processes is not None and processes.current_process()._parent_pid is not None:
        _renew_origin()  # in a process of somebody else's pool: of loky's, say
    return _origin


def identity_of(obj: object) -> Identity | None:
    """The identity of a class (or type variable) that has crossed before."""
    return _by_object.get(id(obj))


def object_of(token: str) -> Any:
    """The class with this token, None where there is none (any more)."""
    known = _by_token.get(token)
    return None if known is None else known.ref()


def identify(known: Identity, obj: Any) -> Any:
    """Remember, for as long as it lives, that an object has this identity.

    Returns:
        The object; or the one that another thread has given this token in the meantime.
    """
    token, ident = known.token, id(obj)
    by_token, by_object = _by_token, _by_object  # modules lose their names before classes die

    def forget(_: object) -> None:
        # In a finalizer: two pops, each atomic, and nothing else.
        by_object.pop(ident, None)
        if by_token.get(token) is known:
            by_token.pop(token, None)

    known.ref = weakref.ref(obj, forget)
    first = _by_token.setdefault(token, known)
    if first is not known:
        winner = first.ref()
        if winner is not None:
            return winner
        _by_token[token] = known
    by_object.setdefault(ident, known)
    return obj


def identified(known: Identity, obj: Any) -> Identity | None:
    """The identity that an object has from now on: this one, unless it has got one meanwhile.

    None where another object has that token.
    """
    identify(known, obj)
    return _by_object.get(id(obj))


def known_class(token: str, number: int = 0) -> Any:
    """A class that this process is sure to have, once that definition has been loaded."""
    if number and loading.require is not None:
        loading.require(number)
    cls = object_of(token)
    if cls is None:
        raise pickle.UnpicklingError(
            f"the class {token.partition('#')[0]} was sent by its identity alone, but this "
            "process does not have it any more: keep a reference to it in the process that owns it"
        )
    return cls


def known_function(number: int) -> Any:
    """A function of the owner's, by its definition."""
    if loading.require is None:
        raise pickle.UnpicklingError("a function was sent by its number, to who is no worker")
    return loading.require(number)


def handed(number: int) -> Any:
    """What was put under a number: a copy for this task, or the one for all of this worker."""
    if not number or loading.require is None:
        raise pickle.UnpicklingError(
            "a handle made by put() arrives only in tasks of the pool that made it, in their "
            "functions and arguments; not in results, other pools, queues or files"
        )
    return loading.require(number)


def make_class(
    token: str,
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    body: dict[str, Any],
    members: tuple[tuple[str, type, tuple[Any, ...]], ...] = (),
    rebased: int = 0,
) -> Any:
    """The class with this token: the one this process has, or a new one for `fill_class`.

    `rebased` is the version in which its owner gave it these bases, if it had others before.
    """
    cls = object_of(token)
    if cls is None:
        made = raw_class(metaclass, name, bases, body)
        if members:
            # Members exist before anything that refers to them is loaded, and can be hashed.
            instances = {key: base.__new__(made, *args) for key, base, args in members}
            for key, one in instances.items():
                object.__setattr__(one, "_name_", key)
            type.__setattr__(made, "_member_map_", instances)
        cls = identify(Identity(token, made, is_ours=False), made)
        if _in_worker and body["__module__"] == "__main__":
            _let_find(cls, body["__qualname__"])
    elif rebased:
        _rebase(cls, bases, rebased)
    if loading.classes is not None:
        loading.classes.append(cls)
    return cls


def is_half_made(cls: Any) -> bool:
    """Whether a class still waits for what it is to hold."""
    known = _by_object.get(id(cls))
    return known is not None and not known.is_ours and not known.version


def _let_find(cls: Any, name: str) -> None:
    """Have a class of the main module where plain pickle looks for it, as far as that is free.

    Its instances come without its name, which a task need not know: `pickle.dumps` of one would
    work or not, depending on what has run there before.
    """
    if "." in name or name in builtins.__dict__:
        # An attribute of another class, or local; or what would be in the way of a builtin, where
        # its owner may have it under another name, or none.
        return
    space = shared_namespace("__main__").__dict__
    shared = _by_globals[id(space)]
    if shared.is_free(name):
        space[name] = shared.found[name] = cls


def _rebase(cls: Any, bases: tuple[type, ...], version: int) -> None:
    """Before all attributes: to load them may take the methods of the new bases."""
    known = _by_object.get(id(cls))
    if known is not None and not known.is_ours and version > known.version:
        _bases.__set__(cls, bases)


# Not as an attribute of the class, which may have its own idea of what that is.
_bases: Any = vars(type)["__bases__"]


def member(cls: Any, name: str) -> Any:
    """A member of an enumeration by its name, also while the class is being filled."""
    return type.__getattribute__(cls, "_member_map_")[name]


class MemberHere:
    """Stands for a member of the enumeration among the attributes of its class."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return MemberHere, (self.name,)


def fill_class(cls: Any, state: tuple[Any, ...]) -> None:
    """Bring a class the attributes that its owner changed since they were last brought.

    A class met again is never reset: what this process did to it stays, unless the owner has
    changed that very attribute.
    """
    version, attributes, versions, extra = state[-4:]  # what comes before has done its work
    known = _by_object.get(id(cls))
    if known is None or known.is_ours or version <= known.version:
        return
    if "methods" in extra:
        attributes |= unpacked(*extra["methods"])
    _set_newer(cls, known.version, attributes, versions)
    for name in known.names:
        if name not in attributes and name in cls.__dict__:
            delete_attribute(cls, name)
    if extra.get("is_shuffled") and not known.version:
        _put_in_order(cls, attributes)
    known.version = version
    known.names = tuple(attributes)
    known.versions = versions
    if extra:
        _fill_extra(cls, extra)


def unpacked(
    make: Callable[[CodeType, Any], FunctionType], home: Any, data: bytes, names: tuple[str, ...]
) -> dict[str, Any]:
    """Functions of a class that came as nothing but their code, by name."""
    return {name: make(body, home) for name, body in zip(names, codes(data), strict=True)}


def method(
    make: Callable[[CodeType, Any], FunctionType],
    home: Any,
    data: bytes,
    index: int,
    cls: Any,
    name: str,
) -> FunctionType:
    """A function that a class was brought by `unpacked`; the like of it where it has another."""
    found, wanted = cls.__dict__.get(name), codes(data)[index]
    if type(found) is FunctionType and found.__code__ == wanted:
        return found
    return make(wanted, home)


def early(cls: Any, version: int, attributes: dict[str, Any], versions: dict[str, int]) -> None:
    """Bring a class some of its attributes before the rest, which needs them to be loaded."""
    known = _by_object.get(id(cls))
    if known is not None and not known.is_ours and version > known.version:
        _set_newer(cls, known.version, attributes, versions)


class Now:
    """Stands for a call, in the state of a class: to be made when the unpickler comes to it."""

    __slots__ = ("arguments", "call")

    def __init__(self, call: Callable[..., None], *arguments: Any) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def _set_newer(cls: Any, than: int, attributes: dict[str, Any], versions: dict[str, int]) -> None:
    for name, value in attributes.items():
        if versions.get(name, 1) > than:
            _set_attribute(cls, name, value)


def _set_attribute(cls: Any, name: str, value: Any) -> None:
    if type(value) is MemberHere:
        value = member(cls, value.name)
    set_attribute(cls, name, value)


def _put_in_order(cls: Any, attributes: Iterable[str]) -> None:
    """Have attributes that came in phases in the order in which their owner has them."""
    own = gc.get_referents(cls.__dict__)[0]
    for name in attributes:
        if name in own:
            own[name] = own.pop(name)


def _fill_extra(cls: Any, extra: dict[str, Any]) -> None:
    for registered in extra.get("registered", ()):
        ABCMeta.register(cls, registered)
    for name, state in extra.get("members", {}).items():
        obj = member(cls, name)
        own, slots = state if type(state) is tuple else (state, None)
        if own:
            if "_name_" in own:  # which it has, to be in its owner's order
                obj.__dict__.pop("_name_", None)
            obj.__dict__.update(own)
        for key, value in (slots or {}).items():
            object.__setattr__(obj, key, value)
