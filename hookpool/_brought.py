"""In a worker, objects of the owner's globals that something else has brought before the global.

A class may hold what is also a global of its module, and come first: then the global is to be that
object.  Owns them until then, by the place and by the stamp that tells one value from the next.
Called by the unpickler, in the thread that loads.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_objects: dict[tuple[str, str], tuple[bytes, Any]] = {}


def bring(where: str, name: str, stamp: bytes, obj: Any) -> None:
    """Keep an object for whoever comes with this place and stamp; in the place of an older one."""
    _objects[where, name] = stamp, obj


def known(where: str, name: str, stamp: object, default: Any) -> Any:
    """What was brought for this place, with this stamp."""
    found = _objects.get((where, name))
    return found[1] if found is not None and found[0] == stamp else default


def taken(where: str, name: str, stamp: object, default: Any) -> Any:
    """As `known`, by the global itself: from now on it is that which has the object."""
    if type(stamp) is not bytes:  # a number, say, stands for itself
        return default
    found = known(where, name, stamp, _NOTHING)
    if found is _NOTHING:
        return default
    del _objects[where, name]
    return found


_NOTHING = object()
