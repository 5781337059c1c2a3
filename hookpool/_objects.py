"""Plans for objects that the C pickler refuses, or carries with losses.

Owns one function per kind of object, and the tables by which `reduction` finds them.  Functions
and classes by value are `reduction`'s and `_classes`'.  Knows of a pickler only what a plan is
given: the one that asks.  Any thread may call it.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import functools
import gc
import importlib
import io
import itertools
import operator
import os
import pickle
import struct
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import context as mp_context
from types import MethodType, ModuleType

from hookpool import _classes, _containers, _rebuild
from hookpool import _rebuild_objects as there
from hookpool._exceptions import reduce_exception
from hookpool._handle import Handle, reduce_handle
from hookpool._importable import (
    is_importable,
    is_module_importable,
    list_registry_pickle_by_value,
    place_of,
)
from hookpool._met import PLACES
from hookpool._ticket import reduce_ticket
from hookpool._type_forms import reduce_new_type, reduce_type_alias, reduce_type_variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Reduced = Any  # a reduce tuple, or NotImplemented
    Plan = Callable[[Any, Any], Reduced]

# Types that multiprocessing registers reducers for, which lose more than what is done without.
BETTER = frozenset(
    {
        MethodType,
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        functools.partial,
        type({}.keys()),
        type({}.values()),
        type({}.items()),
    }
)

# ---------------------------------------------------------------------------------------------
# Modules and namespaces
# ---------------------------------------------------------------------------------------------


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
    pickler.met.pop(PLACES, None)  # it may have sentinels, too
    return home


def _reduce_module(pickler: Any, module: ModuleType) -> Reduced:
    name = module.__name__
    is_known = sys.modules.get(name) is module
    if is_known and (is_module_importable(name) or name == "__main__"):
        return _rebuild.module, (name,)
    space = vars(module)
    home = pickler.met.get(id(space)) or explicit_home(pickler, space, is_shared=is_known)
    own = {key: value for key, value in space.items() if key not in _MACHINERY}
    kind = None if type(module) is ModuleType else type(module)
    stamps = pickler.stamps_in(own) if is_known else None
    return _rebuild.same, (home,), (own, kind, stamps), None, None, _rebuild.fill_module


_MACHINERY = frozenset({"__builtins__", "__loader__", "__name__", "__package__", "__spec__"})

# ---------------------------------------------------------------------------------------------
# Callables and descriptors
# ---------------------------------------------------------------------------------------------


def _reduce_lru_cache(_: Any, cached: Any) -> Reduced:
    if is_importable(cached):
        return NotImplemented
    parameters = cached.cache_parameters()
    arguments = (cached.__wrapped__, parameters["maxsize"], parameters["typed"])
    return (
        there.lru_cache,
        arguments,
        vars(cached),
        None,
        None,
        there.update_dict,
    )


def _reduce_method(_: Any, method: MethodType) -> Reduced:
    """By its name where the class has it: then it is the receiver's class that is asked."""
    obj, fn = method.__self__, method.__func__
    if isinstance(obj, type):
        if _lookup(obj, getattr(fn, "__name__", ""), classmethod) is fn:
            return there.class_bound, (obj, fn.__name__)
    elif _lookup(type(obj), getattr(fn, "__name__", ""), None) is fn:
        return there.bound, (obj, fn.__name__)
    return MethodType, (fn, obj)


def _lookup(cls: type, name: str, wrapper: type | None) -> Any:
    for kind in cls.__mro__:
        found = _classes.dict_of(kind).get(name)
        if found is not None:
            return found.__func__ if type(found) is wrapper else found  # type: ignore[attr-defined]
    return None


def _reduce_wrapped(_: Any, wrapped: Any) -> Reduced:
    return type(wrapped), (wrapped.__func__,)


def _reduce_property(_: Any, prop: Any) -> Reduced:
    accessors = (prop.fget, prop.fset, prop.fdel)
    own = getattr(prop, "__dict__", None)  # a subclass has one
    if own:
        made = (type(prop), (*accessors, prop.__doc__))
        return (*made, own, None, None, there.update_dict)
    if prop.__doc__ is getattr(prop.fget, "__doc__", None):
        return type(prop), accessors
    return type(prop), (*accessors, prop.__doc__)


def _reduce_descriptor(_: Any, descriptor: Any) -> Reduced:
    return there.class_attribute, (descriptor.__objclass__, descriptor.__name__)


def _reduce_comparison(_: Any, key: Any) -> Reduced:
    """What `functools.cmp_to_key` makes, or what that makes of an object."""
    compare, *objects = [one for one in gc.get_referents(key) if one is not type(key)]
    return there.comparison, (compare, *objects)


def _reduce_struct(_: Any, form: struct.Struct) -> Reduced:
    return struct.Struct, (form.format,)


def _reduce_environ(_: Any, environ: Any) -> Reduced:
    """The environment is that of the process, whoever asks for it."""
    return (there.module_attribute, ("os", "environ")) if environ is os.environ else NotImplemented


def _reduce_of_sys(_: Any, obj: Any) -> Reduced:
    """``sys.version_info`` and its like: their classes do not go by the names they have."""
    name = next((name for name, value in vars(sys).items() if value is obj), None)
    return NotImplemented if name is None else (there.module_attribute, ("sys", name))


def _reduce_super(_: Any, proxy: Any) -> Reduced:
    if proxy.__self__ is None:
        return super, (proxy.__thisclass__,)
    return super, (proxy.__thisclass__, proxy.__self__)


def _reduce_ufunc(_: Any, ufunc: Any) -> Reduced:
    """What `numpy.frompyfunc` made; numpy itself looks its name up, and finds nothing."""
    fn = next((one for one in gc.get_referents(ufunc) if callable(one)), None)
    if fn is None or not ufunc.__name__.endswith(" (vectorized)"):
        return NotImplemented
    options = {} if ufunc.identity is None else {"identity": ufunc.identity}
    return there.ufunc, (fn, ufunc.nin, ufunc.nout, options)


# ---------------------------------------------------------------------------------------------
# Classes without a name of their own
# ---------------------------------------------------------------------------------------------

_BY_MACHINERY = (type(None), type(...), type(NotImplemented))


@functools.cache
def _named_builtins() -> dict[type, tuple[str, str]]:
    """Classes of the interpreter that no module has under the name they give themselves."""
    return {
        value: (module, name)
        for module in ("_collections_abc", "types")  # not their own idea of their names
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, type)
    }


def reduce_builtin_class(cls: type) -> Reduced:
    """A class written in C: by a name that it can be found under."""
    if cls in _BY_MACHINERY:
        return NotImplemented
    place = _named_builtins().get(cls) or place_of(cls)
    return NotImplemented if place is None else (there.module_attribute, place)


def _reduce_instance(pickler: Any, obj: Any) -> Reduced:
    """As the C pickler would, without asking the instance what only its class should know.

    For instances with a `__getattr__`, which is asked for ``__setstate__`` before there is
    anything in the instance it could go by; for those that lie about their ``__class__``; and for
    classes that cannot be looked up in a table, as their metaclass makes them unhashable.
    """
    if 0 <= pickler.protocol < 2:
        return NotImplemented  # copyreg asks the instance even before that
    reduced = obj.__reduce_ex__(4)
    if type(reduced) is tuple and reduced[0] in _MADE_BY_CLASS:
        reduced = _MADE_BY_CLASS[reduced[0]], *reduced[1:]
    if (
        type(reduced) is not tuple
        or len(reduced) < 3
        or reduced[2] is None
        or hasattr(type(obj), "__setstate__")
    ):
        return reduced
    return (*(*reduced, None, None)[:5], there.set_state)


# In place of what the C pickler knows by its name, and would compare with ``__class__``.
_MADE_BY_CLASS: dict[Any, Any] = {
    copyreg.__newobj__: there.new_object,  # type: ignore[attr-defined]
    copyreg.__newobj_ex__: there.new_object_by_keywords,  # type: ignore[attr-defined]
}


def _needs_instance(kind: type) -> bool:
    if type(kind).__hash__ is None:
        return True
    if any("__class__" in _classes.dict_of(one) for one in kind.__mro__[:-1]):
        return not _says_itself(kind, object)
    return (
        hasattr(kind, "__getattr__")
        and not hasattr(kind, "__setstate__")
        and not _says_itself(kind, object)
    )


def _wants_more_to_be_made(kind: Any) -> bool:
    """Whether ``__new__`` cannot be called with what pickle has for it: nothing, or the value that
    the class written in C asks for, of text or numbers."""
    new: Any = kind.__new__
    if type(new) is not types.FunctionType or _says_itself(kind, object):
        return False
    base = _classes.c_base(kind)
    given = getattr(base, "__getnewargs__", None)
    if given is None and base is not object:
        return False  # who knows what it is
    if hasattr(kind, "__getnewargs_ex__") or getattr(kind, "__getnewargs__", None) is not given:
        return False
    code, needed = new.__code__, set(new.__kwdefaults__ or ())
    count = code.co_argcount
    are_named = needed.issuperset(code.co_varnames[count : count + code.co_kwonlyargcount])
    return not are_named or count - len(new.__defaults__ or ()) > (1 if given is None else 2)


def _reduce_made_in_c(pickler: Any, obj: Any) -> Any:
    """By the class written in C, which wants no more than it is."""
    if 0 <= pickler.protocol < 2:
        return NotImplemented
    state = obj.__getstate__()
    made = there.container, _made_in_c(obj)
    return made if state is None else (*made, state)


def _made_in_c(obj: Any) -> tuple[Any, ...]:
    """The class of an instance, that which makes it, and what from; nothing if that is not all."""
    kind: Any = type(obj)
    base = _classes.c_base(kind)
    if hasattr(base, "__getnewargs__"):
        return kind, base, *base.__getnewargs__(obj)
    return (kind, base) if base is object else ()


def _may_be_elsewhere(kind: Any) -> bool:
    """Whether instances of a type by value say in Python how they are reduced: as a rule what they
    are made from, but it may be where they are to be found."""
    ways = type(kind.__reduce__), type(kind.__reduce_ex__)
    return types.FunctionType in ways and not is_importable(kind)


def _reduce_elsewhere(pickler: Any, obj: Any) -> Any:
    """What an instance says; for a place that is not there where it goes, what is to be there."""
    kind: Any = type(obj)
    if pickler.table is None and _classes.is_plainly_hashed(kind):
        pickler.ways_ex[kind] = _what_is_said  # the next is asked at once
    protocol = pickler.protocol if pickler.protocol >= 0 else pickle.HIGHEST_PROTOCOL
    return _what_is_said(obj, protocol)


def _what_is_said(obj: Any, protocol: int) -> Any:
    reduced = obj.__reduce_ex__(protocol)
    find: Any = there.named
    place = getattr(obj, "__module__", None), reduced
    if type(reduced) is str:
        is_it = _is_global(obj, *place)
    elif type(reduced) is tuple and len(reduced) == 2 and reduced[0] is getattr:
        find, place = there.kept, reduced[1]
        is_it = type(place) is tuple and len(place) == 2 and _is_kept(obj, *place)
    else:
        return reduced
    made = _made_in_c(obj) if is_it else ()
    if not made:
        return reduced
    state = object.__getstate__(obj)
    call = find, (*place, *made)
    return call if state is None else (*call, (*place, state), None, None, there.fill_found)


def _is_global(obj: Any, module: Any, name: str) -> bool:
    """Whether it is what a module that cannot be imported has under a name."""
    if type(module) is not str or is_module_importable(module):
        return False
    return there.named_objects.get((module, name), there.found_at(module, name)) is obj


def _is_kept(obj: Any, cls: Any, name: str) -> bool:
    """Whether it is an attribute of a class by value, which comes with the class."""
    if not _classes.is_class(cls) or type(name) is not str or is_importable(cls):
        return False
    return there.held_by(cls, name) is obj


def _reduce_sentinel(_: Any, sentinel: Any) -> Reduced:
    """``dataclasses.MISSING`` and its like, which are compared by identity."""
    place = _sentinels.get(id(sentinel))
    if place is None:
        module = type(sentinel).__module__
        names = {id(value): name for name, value in vars(sys.modules[module]).items()}
        name = names.get(id(sentinel))
        if name is None:  # a copy, as `copy.deepcopy` and other picklers make of them
            return NotImplemented
        place = _sentinels[id(sentinel)] = module, name
    return there.module_attribute, place


_SENTINELS = frozenset(
    {"_FIELD_BASE", "_HAS_DEFAULT_FACTORY_CLASS", "_KW_ONLY_TYPE", "_MISSING_TYPE"}
)
_sentinels: dict[int, tuple[str, str]] = {}  # by id: a module holds them for good


def _reduce_bare_object(pickler: Any, obj: object) -> Reduced:
    """``MISSING = object()`` is what its module calls by that name, wherever it is met."""
    places = pickler.met.get(PLACES)
    if places is None:
        places = pickler.met[PLACES] = _bare_objects(pickler.met)
    place = places.get(id(obj))
    return NotImplemented if place is None else (there.sentinel, place[1])


def _bare_objects(met: dict[int, Any]) -> dict[int, tuple[object, tuple[str, str]]]:
    """Bare objects with their modules and names, by id, as the owner's modules have them now."""
    places = {id(one): (one, place) for place, one in list(there.sentinels.items())}
    if not _rebuild.in_worker():  # a worker's own globals have no owner
        names = ("__main__", *sorted(list_registry_pickle_by_value()))
        modules = {name: sys.modules.get(name) for name in names}
        spaces = {name: vars(module) for name, module in modules.items() if module is not None}
        for home in list(met.values()):
            space = _space_of(home)
            if space is not None and type(name := space.get("__name__")) is str:
                spaces.setdefault(name, space)
        for where, space in spaces.items():
            for name, value in space.copy().items():
                if type(value) is object:
                    places.setdefault(id(value), (value, (where, name)))
    return places


def _space_of(home: Any) -> dict[str, Any] | None:
    if type(home) is Home:
        return home.space
    return home.__globals__ if type(home) is types.FunctionType else None


def _reduce_member(_: Any, obj: Any) -> Reduced:
    if is_importable(type(obj)) or not _classes.is_member(obj):
        return NotImplemented
    return _rebuild.member, (type(obj), obj._name_)


# ---------------------------------------------------------------------------------------------
# What belongs to a thread or a process
# ---------------------------------------------------------------------------------------------


def _reduce_lock(pickler: Any, lock: Any) -> Reduced:
    """A copy of an object gets a copy of its lock, as a module imported again did."""
    kind = type(lock)
    _refuse_bare(pickler, lock)
    if _is_held(lock):
        raise TypeError(f"cannot pickle a '{kind.__module__}.{kind.__name__}' object that is held")
    return there.lock, ("Lock" if kind is type(threading.Lock()) else "RLock",)


def _reduce_made_of_locks(pickler: Any, primitive: Any) -> Reduced:
    _refuse_bare(pickler, primitive)
    return NotImplemented


def _refuse_bare(pickler: Any, primitive: Any) -> None:
    # What can be done instead is added to the message where the path to the culprit is.
    if _is_bare(primitive, pickler):
        kind = type(primitive)
        raise TypeError(f"cannot pickle a bare '{kind.__module__}.{kind.__name__}' object")


def _is_held(lock: Any) -> bool:
    if hasattr(lock, "_is_owned") and lock._is_owned():
        return True
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False


def _is_bare(obj: object, pickler: Any) -> bool:
    """Whether an object was given as such, in plain containers if at all."""
    if pickler.is_stamping:
        return False
    found = list(pickler.given())
    met = set()
    while found:
        one = found.pop()
        if one is obj:
            return True
        kind = type(one)
        if kind not in (dict, list, tuple) or id(one) in met:
            continue
        met.add(id(one))
        found += one.values() if kind is dict else one
    return False


def _reduce_future(_: Any, future: Any) -> Reduced:
    if not future.done():
        raise TypeError("cannot pickle a Future that is not done: nobody would complete the copy")
    return NotImplemented


def _reduce_thread_local(pickler: Any, local: Any) -> Reduced:
    if _is_bare(local, pickler):
        raise TypeError(
            "cannot pickle a bare '_thread._local' object: what it holds belongs to this thread"
        )
    args, keywords = _arguments_of_local(local)
    make: Any = type(local)
    return (functools.partial(make, **keywords) if keywords else make), args


def _arguments_of_local(local: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What its `__init__` is called with in each thread, which only the garbage collector tells.

    After its class come the arguments, keywords if there are any, and what it holds by thread.
    """
    _, args, *rest = itertools.dropwhile(
        lambda one: one is not type(local), gc.get_referents(local)
    )
    keywords = {} if any(type(name) is not str for name in rest[0]) else rest[0]
    return args, keywords


def _reduce_context_variable(pickler: Any, variable: Any) -> Reduced:
    if _is_bare(variable, pickler):
        raise TypeError(
            "cannot pickle a bare 'ContextVar' object: its value belongs to this context"
        )
    import contextvars

    try:
        default: tuple[Any, ...] = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    known = _tokens.get(id(variable))
    if known is None:
        outline = _classes.outline_of(default)
        token = _classes.new_token("ContextVar", variable.name, outline)
        # Kept with it: its id must not be used again, and context variables live for ever anyway.
        known = _tokens.setdefault(id(variable), (token, variable))
        there.variables[known[0]] = variable
    return there.context_variable, (known[0], variable.name, default)


_tokens: dict[int, tuple[str, Any]] = {}


def _reduce_text_file(_: Any, file: Any) -> Reduced:
    for name in ("stdout", "stderr", "stdin"):
        if file is getattr(sys, name) or file is getattr(sys, f"__{name}__"):
            if name == "stdin":
                raise TypeError("cannot pickle standard input: another process has its own")
            return there.standard_stream, (name,)
    if file.closed:
        raise TypeError("cannot pickle a closed file")
    if not file.readable():
        raise TypeError("cannot pickle a file that is not open for reading")
    if file.isatty():
        raise TypeError("cannot pickle a terminal")
    try:
        position = file.tell()
        file.seek(0)
        try:
            contents = file.read()
        finally:
            file.seek(position)
    except (OSError, ValueError) as error:  # a pipe, being iterated over, in another encoding
        raise TypeError(f"cannot pickle a text file that cannot be read anew: {error}") from error
    return there.text, (contents, position, file.name)


class _NoChild:
    """Stands for a child being started, where nothing is to be handed to one."""

    _numbers = itertools.count()

    def duplicate_for_child(self, fd: int) -> int:
        return fd

    def DupFd(self, fd: int) -> tuple[int, int]:
        # Never the same: another file may have the number by the next time.
        return fd, next(self._numbers)


@contextlib.contextmanager
def without_handing_over() -> Iterator[None]:
    """Let objects that travel only while a child starts be pickled, and nothing reach it.

    Nor anybody else: what is handed over at other times is not even prepared for that.
    """
    popen = mp_context.get_spawning_popen()
    mp_context.set_spawning_popen(_NoChild())  # type: ignore[arg-type]
    try:
        yield
    finally:
        mp_context.set_spawning_popen(popen)


# ---------------------------------------------------------------------------------------------
# The tables
# ---------------------------------------------------------------------------------------------

_ordered: Any = collections.OrderedDict()

PLANS: dict[type, Plan] = {
    Handle: reduce_handle,
    object: _reduce_bare_object,
    ModuleType: _reduce_module,
    MethodType: _reduce_method,
    type(functools.lru_cache(len)): _reduce_lru_cache,
    super: _reduce_super,
    struct.Struct: _reduce_struct,
    type(functools.cmp_to_key(operator.sub)): _reduce_comparison,
    type(os.environ): _reduce_environ,
    types.GetSetDescriptorType: _reduce_descriptor,
    types.MemberDescriptorType: _reduce_descriptor,
    types.MappingProxyType: _containers.reduce_mapping_proxy,
    type({}.keys()): _containers.reduce_keys,
    type({}.values()): _containers.reduce_values,
    type({}.items()): _containers.reduce_items,
    type(_ordered.keys()): _containers.reduce_keys,
    type(_ordered.values()): _containers.reduce_values,
    type(_ordered.items()): _containers.reduce_items,
    memoryview: _containers.reduce_memory_view,
    weakref.ref: _containers.reduce_weak_reference,
    weakref.WeakMethod: _containers.reduce_weak_reference,
    weakref.WeakSet: _containers.reduce_weak_set,
    weakref.WeakKeyDictionary: _containers.reduce_weak_dict,
    weakref.WeakValueDictionary: _containers.reduce_weak_dict,
    type(threading.Lock()): _reduce_lock,
    type(threading.RLock()): _reduce_lock,
    threading.Condition: _reduce_made_of_locks,
    threading.Event: _reduce_made_of_locks,
    threading.Semaphore: _reduce_made_of_locks,
    threading.BoundedSemaphore: _reduce_made_of_locks,
    threading.Barrier: _reduce_made_of_locks,
    io.TextIOWrapper: _reduce_text_file,
}

#: By the names of types whose modules are not imported for this: most programs have no object of
#: theirs, and each program's first result would wait for the imports.
_PLANS_BY_NAME: dict[str, dict[str, Plan]] = {
    "_contextvars": {"ContextVar": _reduce_context_variable},
    "multiprocessing.resource_sharer": {"DupFd": reduce_ticket, "DupSocket": reduce_ticket},
    "typing": {
        "TypeVar": reduce_type_variable,
        "ParamSpec": reduce_type_variable,
        "TypeVarTuple": reduce_type_variable,
        "NewType": reduce_new_type,
        "TypeAliasType": reduce_type_alias,
    },
}

# Plans that no registration of a user's comes before: numpy's own does not find what
# `numpy.frompyfunc` made, and an unhashable class cannot be registered.
UNRANKED = frozenset({_reduce_ufunc, _reduce_instance})

# For subclasses as well, unless they say themselves how they are reduced.
_FAMILIES: dict[type, Plan] = {
    BaseException: reduce_exception,
    property: _reduce_property,
    staticmethod: _reduce_wrapped,
    classmethod: _reduce_wrapped,
    ModuleType: _reduce_module,
    threading.local: _reduce_thread_local,
}


def plan_for(kind: type) -> Plan | None:
    """How objects of a type that is in no table are reduced; None leaves it to the C pickler."""
    named = _named(kind)
    if named is not None:
        return named
    for family, plan in _FAMILIES.items():
        if issubclass(kind, family):
            return plan if family is BaseException or not _says_itself(kind, family) else None
    enum = sys.modules.get("enum")
    if enum is not None and issubclass(type(kind), enum.EnumMeta):
        return _reduce_member
    futures = sys.modules.get("concurrent.futures._base")
    if futures is not None and issubclass(kind, futures.Future):
        return _reduce_future
    if kind.__module__ == "sys" and issubclass(kind, tuple):
        return _reduce_of_sys
    if kind.__module__ == "dataclasses" and kind.__name__ in _SENTINELS:
        return _reduce_sentinel
    if kind.__module__ == "numpy" and kind.__name__ == "ufunc":
        return _reduce_ufunc
    if _containers.has_own_items(kind):
        return _containers.reduce_own_items
    if _needs_instance(kind):
        return _reduce_instance
    if _wants_more_to_be_made(kind):
        return _reduce_made_in_c
    if _may_be_elsewhere(kind):
        return _reduce_elsewhere
    return None


def _named(kind: type) -> Plan | None:
    module = kind.__module__
    plans = _PLANS_BY_NAME.get(module) if type(module) is str else None
    if plans is None or kind.__name__ not in plans:
        return None
    # A user's class may say that it is one of these.
    is_it = getattr(importlib.import_module(module), kind.__name__, None) is kind
    return plans[kind.__name__] if is_it else None


def _says_itself(kind: type, family: type) -> bool:
    return (
        kind.__reduce__ is not family.__reduce__ or kind.__reduce_ex__ is not family.__reduce_ex__
    )
