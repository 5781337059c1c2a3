"""Plans for containers: views, weak ones, and subclasses with their own idea of items.

Owns one function per kind.  The table that finds them is in `_objects`, the receiving side in
`_rebuild_objects`.  Any thread may call it.
"""

from __future__ import annotations

import array
import collections
import contextlib
import gc
import pickle
import sys
import types

from hookpool import _rebuild_objects as there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def reduce_mapping_proxy(_: Any, proxy: Any) -> Any:
    return types.MappingProxyType, tuple(gc.get_referents(proxy))


def reduce_keys(_: Any, view: Any) -> Any:
    return there.dict_view, ("keys", _dict_of(view).fromkeys(view))


def reduce_values(_: Any, view: Any) -> Any:
    return there.dict_view, ("values", _dict_of(view)(enumerate(view)))


def reduce_items(_: Any, view: Any) -> Any:
    return there.dict_view, ("items", _dict_of(view)(view))


def _dict_of(view: Any) -> Any:
    return collections.OrderedDict if type(view).__name__.startswith("odict") else dict


def reduce_memory_view(_: Any, view: memoryview) -> Any:
    """Over the same memory, if that is all of something that travels; or over a copy of it."""
    owner: Any = view.obj
    is_whole = id(type(owner)) in _MEMORIES and view.c_contiguous
    if not is_whole or view.nbytes != memoryview(owner).nbytes:
        if not _can_be_cast(view):
            owner = _array_like(view)
        else:
            owner = view.tobytes() if view.readonly else bytearray(view.tobytes())
    form = owner, view.format, view.shape
    return there.memory_view, ((*form, True) if view.readonly else form)


_MEMORIES = frozenset(map(id, (array.array, bytearray, bytes)))
_CASTABLE = frozenset("?bBhHiIlLqQnNfdcP")


def _can_be_cast(view: memoryview) -> bool:
    """Whether `memoryview.cast` gives bytes this form: its format is native, and it has items."""
    is_flat_or_full = view.ndim < 2 or 0 not in (view.shape or ())
    return is_flat_or_full and view.format.removeprefix("@") in _CASTABLE


def _array_like(view: memoryview) -> Any:
    """A copy as an array of numpy's, whose memoryview has this form.

    Only from one of those, complex or of records, say, come views that cannot be cast.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # Anything may have made the view, and numpy may see it in another way, or not at all.
        with contextlib.suppress(ValueError, TypeError, RuntimeError, NotImplementedError):
            array = numpy.asarray(view)
            # A pickle of its type says less than the type does: "<" becomes the native order.
            kind = pickle.loads(pickle.dumps(array.dtype))
            copy = array.astype(kind, order="C")
            over = memoryview(copy)
            if (over.format, over.shape) == (view.format, view.shape):
                return copy
    raise TypeError(
        f"cannot pickle a memoryview with format {view.format!r} and shape {view.shape}: "
        "pass the array that it is a view of"
    )


def reduce_weak_reference(_: Any, reference: Any) -> Any:
    obj = reference()
    return there.weak_reference, ((type(reference),) if obj is None else (type(reference), obj))


def reduce_weak_set(_: Any, weak: Any) -> Any:
    return type(weak), (list(weak),)


def reduce_weak_dict(_: Any, weak: Any) -> Any:
    return type(weak), (dict(weak),)


# ---------------------------------------------------------------------------------------------
# Subclasses that have their own idea of how items come in
# ---------------------------------------------------------------------------------------------

# What `pickle` has done by methods of the instance, before it has its attributes, or by a call of
# the class with nothing but the items.
_ASKED: dict[type, tuple[str, ...]] = {
    collections.OrderedDict: ("__init__", "__new__", "__setitem__", "items"),
    collections.defaultdict: ("__init__", "__new__", "__setitem__", "items"),
    collections.deque: ("__init__", "__new__", "append", "extend"),
    dict: ("__setitem__", "items"),
    list: ("append", "extend"),
    set: ("__init__", "__new__"),
    frozenset: ("__init__", "__new__"),
}


def has_own_items(kind: Any) -> bool:
    """Whether a container's class overrides what its pickle would be loaded with, and no more."""
    base = _base(kind)
    return (
        base is not None
        and kind is not base
        and any(getattr(kind, name) is not getattr(base, name) for name in _ASKED[base])
        and kind.__reduce__ is base.__reduce__
        and kind.__reduce_ex__ is base.__reduce_ex__
        and kind.__getstate__ is base.__getstate__
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
    )


def _base(kind: Any) -> Any:
    return next((base for base in _ASKED if issubclass(kind, base)), None)


def reduce_own_items(_: Any, obj: Any) -> Any:
    """Items as they are, put in by the class written in C, and with them the attributes."""
    kind = type(obj)
    base = _base(kind)
    items = dict(base.items(obj)) if issubclass(base, dict) else list(base.__iter__(obj))
    state = obj.__getstate__()
    if base is frozenset:
        return there.container, (kind, base, items), state, None, None, there.give_state
    option = getattr(obj, _OPTIONS[base]) if base in _OPTIONS else None
    made = there.container, (kind, base)
    return *made, (base, items, option, state), None, None, there.fill_container


# What a container needs besides items and attributes.
_OPTIONS: dict[type, str] = {
    collections.deque: "maxlen",
    collections.defaultdict: "default_factory",
}
