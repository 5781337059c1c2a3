"""Globals that have nothing but their identity: ``class Missing: ...``, ``MISSING = Missing()``.

To a worker the default of one function, an attribute of a class and the global that both are
compared with come in several pickles; of what has no state they can all be one object, as they are
for the owner.  What has some is copied with each: a later pickle may hold more of it, and tasks
may have changed what an earlier one brought.  So is what is no global: an empty instance that only
functions hold may be where they are to put something.  One of an importable module goes by its
name, as functions and classes do.

Owns what counts as such a global, and its identity.  Any thread may call the functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from hookpool import _classes, _rebuild
from hookpool import _rebuild_objects as there
from hookpool._importable import list_registry_pickle_by_value, place_of_instance
from hookpool._met import GLOBALS, SENTINELS
from hookpool._plain import ATOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_sentinel(met: dict[int, Any], obj: Any) -> bool:
    """Whether a global is an instance without state, of a class written in Python that has no say
    in how it is made.

    Args:
        met: what the pickler has met.
    """
    kind: Any = type(obj)
    return (
        kind.__dictoffset__ != 0
        and kind.__new__ is object.__new__
        and not object.__getattribute__(obj, "__dict__")
        and (_rebuild.identity_of(obj) is not None or _is_global(met, obj))
        and _classes.is_plainly_hashed(kind)
        and _classes.is_simple(kind)
    )


def _is_global(met: dict[int, Any], obj: Any) -> bool:
    """Whether the main module, that of its class, or one registered to go by value holds it."""
    known = met.setdefault(GLOBALS, {})
    for name in {"__main__", type(obj).__module__, *list_registry_pickle_by_value()}:
        if name not in known:
            space = getattr(sys.modules.get(name), "__dict__", {})
            known[name] = set(map(id, list(space.values())))
        if id(obj) in known[name]:
            return True
    return False


def reduce_sentinel(sentinel: Any) -> tuple[Any, ...]:
    """The reduce value of one: it is the same object wherever else it is met."""
    place = place_of_instance(sentinel)
    if place is not None:
        return there.module_attribute, place  # everybody has it
    kind = type(sentinel)
    token = _classes.token_of(sentinel, kind.__module__, f"{kind.__qualname__}()")
    return there.lone, (token, kind)


def note_sentinels(met: dict[int, Any], values: Iterable[Any]) -> None:
    """From now on these are to be the same objects everywhere in a pickle, those among them that
    are sentinels."""
    for value in values:
        if id(type(value)) not in ATOMS and is_sentinel(met, value):
            met.setdefault(SENTINELS, {})[id(value)] = value


def is_noted(met: dict[int, Any], obj: Any) -> bool:
    """Whether it is one of these."""
    return id(obj) in met.get(SENTINELS, ())
