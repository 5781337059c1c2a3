"""Instances that have nothing but their identity: ``class Missing: ...``, ``MISSING = Missing()``.

To a worker the default of one function, an attribute of a class and the global that both are
compared with come in several pickles; of what has no state they can all be one object, as they are
for the owner.  What has some is copied with each: a later pickle may hold more of it, and tasks
may have changed what an earlier one brought.

Owns what counts as such an instance, and its identity.  Any thread may call the functions.
"""

from __future__ import annotations

from collections.abc import Iterable

from hookpool import _classes, _rebuild
from hookpool import _rebuild_objects as there
from hookpool._met import SENTINELS
from hookpool._plain import ATOMS

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


def note_sentinels(met: dict[int, Any], values: Iterable[Any]) -> None:
    """From now on these are to be the same objects everywhere in a pickle, those among them that
    are sentinels."""
    for value in values:
        if id(type(value)) not in ATOMS and is_sentinel(value):
            met.setdefault(SENTINELS, {})[id(value)] = value


def is_noted(met: dict[int, Any], obj: Any) -> bool:
    """Whether it is one of these."""
    return id(obj) in met.get(SENTINELS, ())
