"""What a ledger writes with: classes by reference to their definitions, and notes on the way.

Owns these picklers, and what they note of what they have met: what global names meant, which
definitions are needed, which classes were written in full.  Knows of a ledger what it is asked for
here: the definition of a class, and the one behind a handle.  A pickler belongs to one thread at a
time.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from types import FunctionType

from hookpool import _rebuild
from hookpool._classes import versions_of
from hookpool._handle import Handle, reduce_by_number
from hookpool._importable import function_home
from hookpool._phases import reduce_class
from hookpool._records import Record
from hookpool._sentinels import is_sentinel, reduce_sentinel
from hookpool._ticket import Tickets, refuse_ticket
from hookpool._worker_pickler import TaskPickler
from hookpool.reduction import Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from hookpool._definition import Definition
    from hookpool._sharing import Sharing

    class Ledger(Protocol):
        """Who gives the numbers."""

        def class_definition(self, cls: Any, asking: LedgerPickler, /) -> Definition: ...

        def current_definition(self, cls: Any, asking: LedgerPickler, /) -> Definition | None: ...

        def refer_to(self, handle: Handle, /) -> Definition: ...


ABSENT = object()


class Capture(Record):
    """What a global name meant when it was pickled."""

    space: dict[str, Any]
    value: Any  # the value, if it stands for itself; ABSENT if there was none
    stamp: bytes | None


#: What names meant, by module and name.
Captures = dict[tuple[str, str], Capture]


class Notes:
    """What a ledger's pickler has met on the way.

    Attributes:
        captures: what global names meant.
        needs: the definitions referred to, by number.
        inside: the classes that were written in full and their versions, by id: a metaclass may
            forbid hashing.
        tickets: those in the pickle, which then is for one receiver only.
    """

    __slots__ = ("captures", "inside", "needs", "tickets")

    def __init__(self) -> None:
        self.tickets: Tickets | None = None
        self.captures: Captures = {}
        self.needs: dict[int, Definition] = {}
        self.inside: dict[int, tuple[Any, tuple[int, ...]]] = {}


class LedgerPickler(TaskPickler):
    """Writes classes as references to their definitions, and notes what it has met."""

    __slots__ = ("is_for_many", "ledger", "notes", "sharing")

    gathers = True

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger | None = None
        self.notes: Notes | None = None
        self.sharing: Sharing | None = None
        #: Whether more than one task, or worker, is to have it.
        self.is_for_many = False

    def noted(self) -> Notes:
        """The notes on this dump."""
        if self.notes is None:
            self.notes = Notes()
        return self.notes

    def stamps_of(
        self, fn: FunctionType, names: tuple[str, ...], captured: dict[str, Any]
    ) -> dict[str, bytes]:
        """As for any worker, and noted."""
        stamps = super().stamps_of(fn, names, captured)
        home = function_home(fn)
        if home is not None:
            space, captures = fn.__globals__, self.noted().captures
            for name in names:
                stamp = stamps.get(name)
                value = captured.get(name, ABSENT) if stamp is None else None
                captures[home, name] = Capture(space, value, stamp)
        return stamps

    def digest(self, buffer: pickle.PickleBuffer) -> bytes:
        """As for any worker, but of what was copied before it is known."""
        return super().digest(buffer) if self.sharing is None else self.sharing.digest(buffer)

    def reduce_class(self, cls: Any) -> Any:
        """A reference to the definition of the class."""
        assert self.ledger is not None
        return self._reference(cls, self.ledger.class_definition(cls, self))

    def reduce_handle(self, handle: Handle) -> Any:
        """A reference to what was put."""
        assert self.ledger is not None
        definition = self.ledger.refer_to(handle)
        self._need(definition)
        return reduce_by_number(handle)

    def meet_ticket(self, ticket: Any) -> None:
        """Refused in what is for many; else noted: a class in which it is, is not for many."""
        if self.is_for_many:
            refuse_ticket(ticket)
        notes = self.noted()
        if notes.tickets is None:
            notes.tickets = Tickets()
        notes.tickets.add(ticket)

    def _reference(self, cls: Any, definition: Definition) -> tuple[Any, ...]:
        self._need(definition)
        known = _rebuild.identity_of(cls)
        assert known is not None
        return _rebuild.known_class, (known.token, definition.number)

    def _need(self, definition: Definition) -> None:
        needs = self.noted().needs
        for needed in definition.needs:
            needs[needed.number] = needed
        needs[definition.number] = definition


class ProbeForMany(Probe):
    """Tries parts of what is written for all workers."""

    __slots__ = ()

    meet_ticket = staticmethod(refuse_ticket)


class DefinitionPickler(LedgerPickler):
    """Writes what stays in a worker."""

    __slots__ = ()

    def note(self, values: Iterable[Any]) -> None:
        """All sentinels are kept, whoever has them."""

    def reduce_empty(self, obj: Any) -> Any:
        """A sentinel, as a rule."""
        return reduce_sentinel(obj) if is_sentinel(self.met, obj) else super().reduce_empty(obj)


class ClassPickler(DefinitionPickler):
    """Writes one class in full, and with it the new ones it refers to.

    These may refer back to it: had each a definition of its own, neither could be loaded first.
    """

    __slots__ = ()

    def reduce_class(self, cls: Any) -> Any:
        """A reference, if there is a definition; otherwise the class itself."""
        assert self.ledger is not None
        inside = self.noted().inside
        if inside:  # it is not the class that is being defined
            definition = self.ledger.current_definition(cls, self)
            if definition is not None:
                return self._reference(cls, definition)
        inside[id(cls)] = cls, versions_of(cls)
        return reduce_class(self, cls)
