"""The receiving side for odd objects: what the plans of `_objects` name in a pickle.

Everything is called by the unpickler, in the thread that loads, and depends on nothing but its
arguments; sentinels, type and context variables, new types and type aliases alone are remembered,
to be one object per process.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from hookpool._raised import set_chain
from hookpool._raw_classes import set_attribute
from hookpool._rebuild import Identity, identify, in_worker, object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def lru_cache(fn: Any, maxsize: int | None, typed: bool) -> Any:
    """An empty `functools.lru_cache` around a function."""
    import functools

    return functools.lru_cache(maxsize, typed)(fn)


def update_dict(obj: Any, attributes: dict[str, Any]) -> None:
    """State setter of an object whose ``__setstate__``, if any, is not to be asked."""
    obj.__dict__.update(attributes)


def set_state(obj: Any, state: Any) -> None:
    """State setter of an instance whose class has no `__setstate__`."""
    own, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    if own:
        object.__getattribute__(obj, "__dict__").update(own)
    if slots:
        for name, value in slots.items():
            object.__setattr__(obj, name, value)


def give_state(obj: Any, state: Any) -> None:
    """State setter of an instance, whatever its class has."""
    if hasattr(type(obj), "__setstate__"):
        obj.__setstate__(state)
    else:
        set_state(obj, state)


def new_object(cls: Any, *args: Any) -> Any:
    """As ``copyreg.__newobj__``, for instances that lie about their class."""
    return cls.__new__(cls, *args)


def new_object_by_keywords(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As ``copyreg.__newobj_ex__``, for instances that lie about their class."""
    return cls.__new__(cls, *args, **kwargs)


def container(cls: Any, base: Any, *items: Any) -> Any:
    """A container as the class written in C makes it, whatever its own class would want."""
    return base.__new__(cls, *items)


def fill_container(made: Any, state: tuple[Any, ...]) -> None:
    """State setter of a container: its items, by the class written in C, and its attributes."""
    base, items, option, own = state
    name = base.__name__
    if name == "deque":
        base.__init__(made, items, option)
    elif name in ("list", "set"):
        base.__init__(made, items)
    else:
        if name == "defaultdict":
            made.default_factory = option
        for key, value in items.items():
            base.__setitem__(made, key, value)
    if own is not None:
        give_state(made, own)


def comparison(compare: Any, obj: Any = None) -> Any:
    """What `functools.cmp_to_key` makes of a function, and that of an object."""
    import functools

    key = functools.cmp_to_key(compare)
    return key if obj is None else key(obj)


def bound(obj: Any, name: str) -> Any:
    """A method of an object, found on its class: the object may have another under that name."""
    kind = type(obj)
    for one in kind.__mro__:
        own = type.__dict__["__dict__"].__get__(one)
        if name in own:
            return own[name].__get__(obj, kind)
    return object.__getattribute__(obj, name)


def class_bound(cls: Any, name: str) -> Any:
    """A class method."""
    return type.__getattribute__(cls, name)


def class_attribute(cls: Any, name: str) -> Any:
    """What a class's own ``__dict__`` holds: a descriptor that attribute access would call."""
    return type.__dict__["__dict__"].__get__(cls)[name]


def type_variable(
    token: str, kind: Any, name: str, where: str | None, arguments: dict[str, Any]
) -> Any:
    """A type variable, one object per process."""
    known = object_of(token)
    if known is None:
        constraints = arguments.pop("constraints", ())
        made = kind(name, *constraints, **arguments)
        made.__module__ = where
        known = identify(Identity(token, made, is_ours=False), made)
    return known


def new_type(token: str, kind: Any) -> Any:
    """A `typing.NewType`, one object per process; `fill_new_type` brings what it says."""
    known = object_of(token)
    if known is None:
        made = kind.__new__(kind)
        known = identify(Identity(token, made, is_ours=False), made)
    return known


def fill_new_type(made: Any, attributes: dict[str, Any]) -> None:
    """Bring a new type its attributes; those that it has here stay."""
    for name, value in attributes.items():
        made.__dict__.setdefault(name, value)


# Type aliases cannot be referred to weakly. Each is a statement of a program, so they are few; but
# who makes one per task shall not have all of them for ever.
_ALIASES_KEPT = 4096
_aliases: dict[str, Any] = {}  # by token
_tokens_of_aliases: dict[int, str] = {}  # by id: of those


def token_of_alias(alias: Any) -> str | None:
    """What an alias was called when it last crossed."""
    return _tokens_of_aliases.get(id(alias))


def keep_alias(token: str, alias: Any) -> str:
    """Have an alias known by this token, unless it has got one meanwhile; returns that."""
    while len(_aliases) >= _ALIASES_KEPT:
        oldest = _aliases.pop(next(iter(_aliases)), None)
        _tokens_of_aliases.pop(id(oldest), None)
    token = _tokens_of_aliases.setdefault(id(alias), token)
    _aliases[token] = alias
    return token


class _AliasValue:
    """What a type alias stands for, until that is known, if it ever is."""

    value: Any
    reason = ""

    def __getattr__(self, name: str) -> Any:
        raise NameError(self.reason)


_unfilled: dict[int, _AliasValue] = {}  # by id of the alias, which the unpickler holds


def generic_alias(
    token: str, name: str, value: Any, parameters: tuple[Any, ...], where: str | None
) -> Any:
    """A `type` alias with parameters, one object per process."""
    known = _aliases.get(token)
    if known is not None:
        return known
    import typing

    kind = typing.TypeAliasType  # type: ignore[attr-defined]
    space = {"kind": kind, "name": name, "value": value, "parameters": parameters}
    # Its module is that of the globals of whoever makes it.
    made = eval("kind(name, value, type_params=parameters)", {"__name__": where, **space})
    keep_alias(token, made)
    return made


def type_alias(token: str, name: str, parameters: tuple[Any, ...], where: str | None) -> Any:
    """A `type` alias, one object per process.

    Its value, which may contain it, is brought by `fill_type_alias`.
    """
    known = _aliases.get(token)
    if known is not None:
        return known
    later = _AliasValue()
    stars = {"TypeVarTuple": "*", "ParamSpec": "**"}
    names = [stars.get(type(one).__name__, "") + one.__name__ for one in parameters]
    head = f"{name}[{', '.join(names)}]" if names else name
    space: dict[str, Any] = {"__name__": where, "later": later}
    exec(f"type {head} = later.value", space)  # the statement alone is evaluated late
    made = space[name]
    _unfilled[id(made)] = later
    keep_alias(token, made)
    return made


def fill_type_alias(made: Any, value: Any) -> None:
    """Bring a type alias what it stands for, if it is a new one."""
    later = _unfilled.pop(id(made), None)
    if later is not None:
        later.value = value


def leave_type_alias(made: Any, reason: str) -> None:
    """Let a type alias raise when it is asked for its value, as it did where it came from."""
    later = _unfilled.pop(id(made), None)
    if later is not None:
        later.reason = reason


def weak_reference(kind: Any, obj: Any = None) -> Any:
    """A weak reference; a dead one where the object was gone already."""
    return kind(_Mortal() if obj is None else obj)


class _Mortal:
    """Something to be referred to that is gone at once."""


def dict_view(kind: str, items: dict[Any, Any]) -> Any:
    """Keys, values or items of a dict."""
    return getattr(items, kind)()


def memory_view(
    owner: Any, form: str, shape: tuple[int, ...], is_read_only: bool = False
) -> memoryview:
    """A memoryview over all of an object's memory, of the same form and shape as it had."""
    view = memoryview(owner)
    if form != view.format or shape != view.shape:
        view = view.cast("B").cast(form, shape)  # type: ignore[call-overload]
    return view.toreadonly() if is_read_only else view


def text(contents: str, position: int, name: str) -> Any:
    """What remains of a text file opened for reading."""
    import io

    made = io.StringIO(contents)
    made.seek(position)
    made.name = name
    return made


def standard_stream(name: str) -> Any:
    """The standard stream of this process."""
    return getattr(sys, name)


def lock(name: str) -> Any:
    """A fresh, unheld primitive of `threading`."""
    import threading

    return getattr(threading, name)()


variables: dict[str, Any] = {}


def context_variable(token: str, name: str, default: tuple[Any, ...]) -> Any:
    """A context variable, one object per process."""
    import contextvars

    known = variables.get(token)
    if known is None:
        made: Any = contextvars.ContextVar(name, **({"default": default[0]} if default else {}))
        # Context variables live for ever (their documentation says so), and so does this entry.
        known = variables.setdefault(token, made)
    return known


# ---------------------------------------------------------------------------------------------
# Exceptions
# ---------------------------------------------------------------------------------------------


_ARGS: Any = vars(BaseException)["args"]


def exception(cls: Any, base: Any, args: tuple[Any, ...]) -> Any:
    """An exception made without its own `__init__`, whose arguments nobody recorded."""
    if issubclass(base, BaseExceptionGroup):
        message, exceptions, args = args
        made = base.__new__(cls, message, exceptions)
    else:
        made = base.__new__(cls, *args)
    try:
        base.__init__(made, *args)
    except Exception:  # noqa: BLE001 - the `__init__` nobody runs would have given it others
        _ARGS.__set__(made, args)  # whatever its class makes of setting attributes
    return made


def exception_via(make: Callable[..., Any], args: tuple[Any, ...], raw: tuple[Any, ...]) -> Any:
    """An exception made as its own `__reduce__` asks, or without its `__init__` if that fails."""
    try:
        return make(*args)
    except Exception:  # noqa: BLE001 - whatever it is, losing the exception itself would be worse
        return exception(*raw)


def fill_exception(made: Any, state: tuple[Any, Any, dict[str, Any]]) -> None:
    """Bring an exception its attributes and what it is chained to."""
    own, chain, slots = state
    for name, value in slots.items():
        object.__setattr__(made, name, value)
    if own is not None:
        _give_attributes(made, own)
    if chain is not None:
        set_chain(made, *chain)


def _give_attributes(made: Any, own: Any) -> None:
    try:
        made.__setstate__(own)
    except Exception:
        if type(made).__setstate__ is not BaseException.__setstate__:
            raise
        # That sets one attribute after the other, and some classes (frozen dataclasses, for one)
        # let none be set. Where it came from it had them all the same.
        object.__getattribute__(made, "__dict__").update(own)


class LostException(Exception):
    """Stands for an exception in a chain that could not be pickled."""


def module_attribute(name: str, attribute: str) -> Any:
    """What an importable module holds under a name: a sentinel, known by its identity."""
    return getattr(importlib.import_module(name), attribute)


def lone(token: str, cls: Any) -> Any:
    """An instance without state: the one that this process has, as long as it has none either; or
    a new one."""
    found = object_of(token)
    if found is None:
        made = object.__new__(cls)
        return identify(Identity(token, made, is_ours=False), made)
    is_it = type(found) is cls and not object.__getattribute__(found, "__dict__")
    return found if is_it else object.__new__(cls)


#: What goes by a name in a module that is not here, and says so.
named_objects: dict[tuple[str, str], object] = {}


def named(module: str, name: str, cls: Any, *made: Any) -> Any:
    """The instance that goes by this name: one object per process."""
    # The owner has it, and so has another run of its program.
    own = None if in_worker() else found_at(module, name)
    if type(own) is cls or _is_like(cls, type(own)):
        return own
    found = named_objects.get((module, name))
    if type(found) is not cls:
        found = named_objects[module, name] = container(cls, *made)
    return found


def kept(owner: Any, name: str, cls: Any, *made: Any) -> Any:
    """The instance that a class has under this name; a new one while the class has none."""
    found = held_by(owner, name)
    return found if type(found) is cls else container(cls, *made)


def held_by(cls: Any, name: str) -> Any:
    """What a class or one of its bases has under a name; None if nothing."""
    spaces = map(type.__dict__["__dict__"].__get__, cls.__mro__)
    return next((space[name] for space in spaces if name in space), None)


def found_at(module: str, name: str) -> Any:
    """What a module that is here has under a name with dots; None if nothing."""
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _is_like(cls: Any, kind: Any) -> bool:
    return (kind.__module__, kind.__qualname__) == (cls.__module__, cls.__qualname__)


def fill_found(obj: Any, state: tuple[Any, str, Any]) -> None:
    """State setter of a new one: as with a class, what this process did to it stays."""
    where, name, own = state
    if type(where) is not str:
        is_new = held_by(where, name) is not obj
    else:
        is_new = named_objects.get((where, name)) is obj and object.__getstate__(obj) is None
    if is_new:
        give_state(obj, own)


sentinels: dict[tuple[str, str], object] = {}


def sentinel(module: str, name: str) -> object:
    """The bare object that the owner's module has under this name, one object per process."""
    if not in_worker():
        own = getattr(sys.modules.get(module), name, None)
        if type(own) is object:
            return own
    return sentinels.setdefault((module, name), object())


def ufunc(fn: Any, inputs: int, outputs: int, options: dict[str, Any]) -> Any:
    """What `numpy.frompyfunc` makes of a function."""
    return importlib.import_module("numpy").frompyfunc(fn, inputs, outputs, **options)


def array_over(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    """An array of numpy's on memory that is there; read-only if that is."""
    flat = importlib.import_module("numpy").frombuffer(buffer, dtype=dtype)
    return flat.reshape(shape, order=order)


# ---------------------------------------------------------------------------------------------
# Structures of ctypes
# ---------------------------------------------------------------------------------------------


def lay_out(cls: Any, before: dict[str, Any], fields: list[Any]) -> None:
    """Give a structure or union its layout, if it has none."""
    if "_fields_" not in cls.__dict__:
        for name, value in before.items():
            set_attribute(cls, name, value)
        set_attribute(cls, "_fields_", fields)
