"""A worker's side of the definitions: functions, classes and what was put, by their numbers.

Owns what the numbers of the owner's `Ledger` mean here, and how results are pickled, which may
refer to the owner's classes. Knows nothing of channels and tasks: whoever loads the data of a
packet has taken the definitions that it needs before.

A shelf belongs to one thread.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Mapping

from hookpool import _rebuild
from hookpool._buffers import Borrowed, Lender, Parcel, loads, loads_again
from hookpool._plain import ATOMS, NEVER_LARGE
from hookpool._plans import plans, table_with
from hookpool._raw_classes import explain
from hookpool._rebuild import loading
from hookpool._ticket import withdraw
from hookpool.reduction import ReusablePickler, raise_explained, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hookpool.reduction import Table


class Tabled:
    """A result to be pickled with reducers of its own for some types; arrives as what it holds."""

    __slots__ = ("obj", "table")

    def __init__(self, obj: Any, table: Table) -> None:
        self.obj = obj
        self.table = table


class Shelf:
    """A worker's definitions, by number.  They are loaded when they are first needed.

    Args:
        lender: where large results go.
    """

    def __init__(self, lender: Lender | None = None) -> None:
        self._lender = lender or Lender(0)
        #: Of types in results.
        self.reducers: Table | None = None
        self._data: dict[int, bytes | Borrowed] = {}
        #: What is not loaded once and for all, but anew for each task.
        self._handed: dict[int, bytes | Borrowed] = {}
        self._objects: dict[int, Any] = {}
        #: The owner's classes that each definition brought, and how many brought each, by its id.
        self._classes: dict[int, list[Any]] = {}
        self._brought: collections.Counter[int] = collections.Counter()
        self._newest = 0
        self._require = self.function  # made once

    def define(self, number: int, data: bytes | Borrowed) -> None:
        """Take a definition; what is wrong with it shows when it is used."""
        self._data[number] = data

    def hand(self, number: int, data: bytes | Borrowed) -> None:
        """As `define`, of what each task gets a copy of."""
        self._handed[number] = data

    def forget(self, number: int) -> None:
        """Drop a definition that the owner has dropped."""
        self._data.pop(number, None)
        self._handed.pop(number, None)
        self._objects.pop(number, None)
        self._brought.subtract(map(id, self._classes.pop(number, ())))

    def function(self, number: int) -> Any:
        """What a number means."""
        try:
            return self._objects[number]
        except KeyError:
            return self._load_definition(number)

    def loaded(self, number: int) -> Any:
        """As `function`, of what has been loaded before; None if it has not."""
        return self._objects.get(number)

    def load(self, data: Any) -> Any:
        """Load the data of a packet."""
        return self._loads(data, self._newest)

    def dump(self, obj: Any, parts: Mapping[str, Any] | None = None) -> bytes | Parcel:
        """Pickle a result; the owner's classes go back by their tokens.

        Args:
            obj: the result, or what else goes back.
            parts: of what is no result: what may fail to travel, as errors are to name it.
        """
        kind = type(obj)
        if id(kind) in ATOMS and not ((kind is bytes or kind is str) and len(obj) > NEVER_LARGE):
            return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        table = None
        if kind is Tabled:
            obj, table = obj.obj, obj.table
        elif self.reducers:
            table = table_with(self.reducers)
        plans.check()
        pickler = take(_ShelfPickler)
        pickler.use(table)
        pickler.shelf = self
        try:
            data: bytes | Parcel = pickler.gathered(obj, self._lender)
        except BaseException as error:
            pickler.withdraw()
            if isinstance(error, Exception):
                raise_explained(error, parts or {"result": obj})
            raise
        pickler.shelf = None
        pickler.tickets.clear()
        pickler.release(len(data))
        return data

    def has_class(self, cls: Any) -> bool:
        """Whether the owner certainly has this class."""
        return self._brought[id(cls)] > 0

    def _load_definition(self, number: int) -> Any:
        if number in self._handed:
            return self._loads(self._handed[number], number, loads_again)
        classes: list[Any] = []
        outer, loading.classes = loading.classes, classes
        try:
            obj = self._loads(self._data[number], number)
        except Exception as error:
            if names := [cls.__qualname__ for cls in filter(_rebuild.is_half_made, classes)]:
                explain(error, ", ".join(names))
            raise
        finally:
            loading.classes = outer
        self._objects[number] = obj
        self._classes[number] = classes
        self._brought.update(map(id, classes))
        del self._data[number]
        self._newest = max(self._newest, number)
        return obj

    def _loads(self, data: Any, number: int, load: Callable[[Any], Any] = loads) -> Any:
        outer, require = loading.number, loading.require
        loading.number, loading.require = number, self._require
        try:
            return load(data)
        finally:
            loading.number, loading.require = outer, require


class _ShelfPickler(ReusablePickler):
    """Writes results."""

    __slots__ = ("shelf", "tickets")

    gathers = True

    shelf: Shelf | None

    def __init__(self) -> None:
        super().__init__()
        #: Those in what is being written: the owner comes for them if it is sent.
        self.tickets: list[Any] = []

    def meet_ticket(self, ticket: Any) -> None:
        """Noted: what comes after it in the result may fail."""
        self.tickets.append(ticket)

    def withdraw(self) -> None:
        """Close what nobody will come for."""
        for ticket in self.tickets:
            withdraw(ticket)
        self.tickets.clear()

    def reduce_class(self, cls: Any) -> Any:
        if self.shelf is not None and self.shelf.has_class(cls):
            known = _rebuild.identity_of(cls)
            assert known is not None
            return _rebuild.known_class, (known.token,)
        return super().reduce_class(cls)
