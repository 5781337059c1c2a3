"""What stands in a pickle for a descriptor: it is exchanged for that once, by the first who comes.

The standard library's `resource_sharer` makes such tickets of sockets and connections that travel
while no child is being started, and libraries that use its `DupFd` of what they share.  A pickle
with one in it is for one receiver: not for what each worker is to have.

Owns the plan by which picklers learn of tickets, and how one is taken back.  Any thread may call
the functions.
"""

from __future__ import annotations

import pickle
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HandedOnce(pickle.PicklingError):
    """A ticket in what is for more than one receiver."""


def reduce_ticket(pickler: Any, ticket: Any) -> Any:
    """As ever; but the pickler is told, and may refuse it."""
    pickler.meet_ticket(ticket)
    return NotImplemented


def withdraw(ticket: Any) -> None:
    """Close the descriptor behind a ticket that nobody will come for."""
    sharer = sys.modules["multiprocessing.resource_sharer"]._resource_sharer
    _, close = sharer._cache.pop(ticket._id[1], (None, None))
    if close is not None:
        close()


def refuse_ticket(ticket: Any) -> None:
    """Withdraw it, and raise."""
    withdraw(ticket)
    raise HandedOnce(_FOR_ONE)


_FOR_ONE = (
    "a socket, connection or other descriptor is handed over once, and cannot be part of what all "
    "workers are to have: make it an argument of each task"
)
