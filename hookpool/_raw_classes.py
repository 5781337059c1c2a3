"""Classes made and changed without running anybody's code.

Owns what `type` would do otherwise than it is wanted here, what metaclasses written in C do
otherwise than `type`, and which classes cannot be made so.  Any thread may call the functions.
"""

from __future__ import annotations

import gc
from _abc import _abc_init  # type: ignore[import-not-found]
from abc import ABCMeta
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Stop(Exception):
    """Ends the making of a class."""


class _Captor:
    """Catches a class while it is being made."""

    owner: Any = None

    def __set_name__(self, owner: Any, name: str) -> None:
        self.owner = owner
        raise _Stop


_CAPTOR = "__hookpool__"


def raw_class(metaclass: Any, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
    """A class made without running anybody's class-creation code.

    Its attributes come from the owner ready-made.  To run `__init_subclass__` or a metaclass's
    `__new__` and `__init__` again would need keyword arguments that nobody recorded, and would do
    their work twice.  ``type.__new__`` calls `__set_name__` when the class is complete, and then
    `__init_subclass__`: an exception from the former leaves us the class and skips the latter.
    """
    captor = _Captor()
    try:
        type.__new__(metaclass, name, bases, {_CAPTOR: captor, **body})
    except (_Stop, RuntimeError):  # before 3.12 the exception is wrapped into a RuntimeError
        if captor.owner is None:
            raise
        cls, captor.owner = captor.owner, None
        delete_attribute(cls, _CAPTOR)
    except TypeError:
        # "type.__new__(M) is not safe": metaclasses written in C must make their classes, and
        # complete them only when `__init_subclass__` has run.
        cls = _made_in_c(metaclass, name, bases, body)
    init = _in_c(cls, "__init__")
    if init is not type.__init__:
        init(cls, name, bases, body)
    if isinstance(cls, ABCMeta):
        _abc_init(cls)
    return cls


def set_attribute(cls: Any, name: str, value: Any) -> None:
    """Set an attribute of a class, also one that `type` would take for its own."""
    if name in _BESIDE:
        _set_beside(cls, name, value)
    else:
        _in_c(cls, "__setattr__")(cls, name, value)


def delete_attribute(cls: Any, name: str) -> None:
    """Remove an attribute of a class."""
    _in_c(cls, "__delattr__")(cls, name)


def is_written_in_c(cls: Any) -> bool:
    """Whether a class is code in C, which another one with its attributes would not have.

    That it was made at run time does not tell: modules written in C make theirs then, too.
    """
    own = list(_dict_of(cls).values())  # in one step: another thread may be changing it
    if _OF_C.isdisjoint(map(id, map(type, own))):  # as of nearly all classes by value
        return False
    return any(id(type(one)) in _OF_C and one.__objclass__ is cls for one in own)


_OF_C = frozenset(
    map(id, (ClassMethodDescriptorType, MethodDescriptorType, WrapperDescriptorType))
)


def _made_in_c(metaclass: Any, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
    try:
        return _new_in_c(metaclass)(metaclass, name, bases, body)
    except Exception as error:
        explain(error, name)
        raise


def explain(error: BaseException, names: str) -> None:
    """Say of an error that it came while classes were made anew, and what can be done."""
    error.add_note(
        f"{names}: what was sent of the class does not make one here. Define it in a module that "
        "can be imported, and it goes by its name."
    )


def _new_in_c(metaclass: Any) -> Any:
    """The ``__new__`` of the nearest metaclass written in C."""
    return next(
        new
        for kind in metaclass.__mro__
        if type(new := _dict_of(kind).get("__new__")) is BuiltinFunctionType
    )


def _in_c(cls: Any, name: str) -> Any:
    """What the nearest metaclass written in C has under a name: those of `ctypes` insist on it."""
    for kind in type(cls).__mro__:
        way = _dict_of(kind).get(name)
        if type(way) is WrapperDescriptorType:
            return way
    raise AttributeError(name)


_dict_of: Any = vars(type)["__dict__"].__get__


# What a class may define for its instances (a proxy its ``__class__`` or ``__name__``), and `type`
# would take for what is to become of the class itself.
_BESIDE = frozenset(
    name
    for name, value in (*vars(object).items(), *vars(type).items())
    if hasattr(value, "__set__")
) - {"__abstractmethods__", "__annotations__", "__annotate__", "__doc__", "__type_params__"}


def _set_beside(cls: Any, name: str, value: Any) -> None:
    gc.get_referents(cls.__dict__)[0][name] = value
    _in_c(cls, "__setattr__")(cls, _CAPTOR, None)  # so that the interpreter forgets its cache
    delete_attribute(cls, _CAPTOR)
