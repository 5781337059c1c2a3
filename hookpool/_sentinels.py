"""Instances that have nothing but their identity: ``class Missing: ...``, ``MISSING = Missing()``.

To a worker the default of one function, an attribute of a class and the global that both are
compared with come in several pickles; of what has no state they can all be one object, as they are
for the owner.  What has some is copied with each: a later pickle may hold more of it, and tasks
may have changed what an earlier one brought.

Owns what counts as such an instance, and its identity.  Any thread may call the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from hookpool import _classes, _rebuild
from hookpool import _rebuild_objects as there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_sentinel(obj: Any) -> bool:
    """Whether an instance has no state, and its class, written in Python, no say in how it is
    made."""
    kind: Any = type(obj)
    return (
        kind.__dictoffset__ == _ORDINARY.__dictoffset__
        and kind.__new__ is object.__new__
        and not object.__getattribute__(obj, "__dict__")
        and _classes.is_simple(kind)
    )


class _Ordinary:
    pass


_ORDINARY: Any = _Ordinary


def reduce_sentinel(sentinel: Any) -> tuple[Any, ...]:
    """The reduce value of one: it is the same object wherever else it is met."""
    kind = type(sentinel)
    known = _rebuild.identity_of(sentinel)
    while known is None:
        token = _classes.new_token(kind.__module__, f"{kind.__qualname__}()")
        mine = _rebuild.Identity(token, sentinel, is_ours=True)
        known = _rebuild.identified(mine, sentinel)
    return there.lone, (known.token, kind)


def with_sentinels(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook for what stays in a worker, and for what tells whether it is there."""

    def reducer_override(obj: Any, /) -> Any:
        if type(obj) is not FunctionType and is_sentinel(obj):
            return reduce_sentinel(obj)
        return hook(obj)

    return reducer_override


class Lone:
    """Stands for a sentinel where no hook looks for it."""

    __slots__ = ("_sentinel",)

    def __init__(self, sentinel: Any) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_sentinel(self._sentinel)
