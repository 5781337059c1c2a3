"""What stands in a pickle for a descriptor: it is exchanged for that once, by the first who comes.

The standard library's `resource_sharer` makes such tickets of sockets and connections that travel
while no child is being started, and libraries that use its `DupFd` of what they share.  A pickle
with one in it is for one receiver: not for what each worker is to have.

Owns the plan by which picklers learn of tickets, and how one is taken back.  Any thread may call
the functions, also in a finalizer.
"""

from __future__ import annotations

import os
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
    """Close the descriptor behind a ticket of this process that nobody will come for."""
    sharer = sys.modules["multiprocessing.resource_sharer"]._resource_sharer
    address, number = ticket._id
    if address != sharer._address:
        return
    # One call in C: the thread that hands out descriptors takes them from there, too.
    _, close = sharer._cache.pop(number, (None, None))
    if close is not None:
        close()


class Tickets:
    """Those in one pickle; withdrawn when it is gone, as far as nobody has come for them."""

    __slots__ = ("_pid", "_tickets")

    def __init__(self) -> None:
        #: A forked child has copies of these descriptors, or other files under their numbers.
        self._pid = os.getpid()
        self._tickets: list[Any] = []

    def add(self, ticket: Any) -> None:
        """One more."""
        self._tickets.append(ticket)

    def __del__(self) -> None:
        if self._pid == os.getpid():
            for ticket in self._tickets:
                withdraw(ticket)


class Ticketed(bytes):
    """A pickle with tickets in it: whoever forgets it need not know that."""

    tickets: Tickets


def ticketed(data: Any, tickets: Tickets) -> Any:
    """The same pickle, or parcel, that takes its tickets with it when it goes."""
    if type(data) is bytes:
        data = Ticketed(data)
    data.tickets = tickets
    return data


def refuse_ticket(ticket: Any) -> None:
    """Withdraw it, and raise."""
    withdraw(ticket)
    raise HandedOnce(_FOR_ONE)


_FOR_ONE = (
    "a socket, connection or other descriptor is handed over once, and cannot be part of what all "
    "workers are to have: make it an argument of each task"
)
