"""What children of this process have been given when they were started.

Owns the memory of it, as weak references.  A program may give a child its lock, or a queue, and
have an initializer bind it there to the very name that it has here.  A function that uses the name
then needs no copy of what cannot travel any more.

Any thread may call it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

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
