"""What stands for an object that a pool has been given once and for all its tasks.

Owns `Handle` and how it is pickled: for a task of its own pool as a reference to a definition, for
anything else not at all.  What a definition is, where its memory
is and who has it already are the business of `_definitions` and `_buffers`.  Any thread may do
anything with a handle.
"""

from __future__ import annotations

import pickle

from hookpool import _rebuild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Owner:
    """Stands for a ledger, without keeping it alive, in the handles that it has made."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        #: Whether its pool has ended, and what was put is gone.
        self.is_closed = False


class Handle:
    """Arrives in a task as the object that was `put`; lets go of it when the last one dies."""

    __slots__ = ("__weakref__", "_is_shared", "_of", "_size", "definition", "owner")

    def __init__(self, definition: Any, owner: Owner, of: str, is_shared: bool) -> None:
        #: What keeps the object: what tasks refer to.
        self.definition = definition
        #: Of the ledger that made it.
        self.owner = owner
        self._of = of
        #: In bytes, which the definition does not tell any more when the pool has ended.
        self._size = len(definition.data)
        self._is_shared = is_shared

    def __reduce__(self) -> Any:
        refuse(self)

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, memo: object) -> Handle:
        return self

    def __repr__(self) -> str:
        where = "in shared memory" if self._is_shared else "goes to each worker by its pipe"
        if self.owner.is_closed:
            where = "gone: its pool is closed"
        return f"<handle of {self._of}: {self._size} bytes, {where}>"


_ELSEWHERE = (
    "a handle made by put() means something only in what is sent to tasks of the pool that made "
    "it: in their functions and arguments, not in results, other pools, queues or files"
)


def reduce_handle(pickler: Any, handle: Handle) -> Any:
    """The reduce value of a handle: it depends on whom one of our picklers writes for."""
    return pickler.reduce_handle(handle)


def refuse(handle: Handle) -> NoReturn:
    """Raise for a handle in what is not for a task."""
    # Here, and not where it is loaded: there a process of multiprocessing's pool would die of it,
    # and nobody would hear of the task.
    raise pickle.PicklingError(_ELSEWHERE)


def reduce_unasked(handle: Handle) -> Any:
    """What stands for a handle where only the rest is looked at; it cannot be loaded."""
    return _rebuild.handed, (0,)


def reduce_by_number(handle: Handle) -> Any:
    """What stands for a handle in a task, or in what tells one value from another."""
    return _rebuild.handed, (handle.definition.number,)


def refuse_stranger(handle: Handle, owner: Owner) -> None:
    """Raise for a handle of another pool."""
    if handle.owner is not owner:
        raise pickle.PicklingError(_ELSEWHERE)
