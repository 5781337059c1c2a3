"""What children of this process have been given when they were started.

Owns the memory of it, as weak references, and what multiprocessing says of what travels only then.
A program may give a child its lock, or a queue, and have an initializer bind it there to the very
name that it has here.  A function that uses the name then needs no copy of what cannot travel any
more.

Any thread may call it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from hookpool._raised import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_given: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def note_given(values: Iterable[Any]) -> None:
    """Remember arguments, and what tuples among them have: a pool's are the initializer's."""
    for value in values:
        if type(value) is tuple:
            note_given(value)
        else:
            try:
                _given[id(value)] = value
            except TypeError:  # there are no weak references to it: nothing that cannot travel
                continue


def was_given(value: Any) -> bool:
    """Whether a child that was started has it."""
    return _given.get(id(value)) is value


def is_for_start(error: Exception) -> bool:
    """Whether it says of an object that it travels only while a child starts."""
    if not issubclass(type(error), RuntimeError):  # isinstance would ask error.__class__
        return False
    text = text_of(error)
    return any(said in text for said in _SAID)


# Of locks and queues, and of those that only a fork takes along; it has no class of its own.
_SAID = "objects should only be shared between processes", "SemLock created in a fork context"
