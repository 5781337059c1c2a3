"""Which object is reduced by which plan, and which are left to the C pickler.

Owns the table from types to plans, the rank of plans among the reducers that users register, and
the two plans that choose: by reference or by value.  The plans themselves are in `_functions`,
`_classes` and `_objects`.  Knows of a pickler what it is given with each call.  Any thread may
call it.
"""

from __future__ import annotations

import copyreg
import sys
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from types import CellType, CodeType, FunctionType

from hookpool import _classes, _objects, _rebuild, _rebuild_objects
from hookpool._functions import reduce_cell, reduce_code, reduce_function
from hookpool._importable import is_importable
from hookpool._phases import Later, reduce_later
from hookpool._raw_classes import is_written_in_c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: How objects of one exact type are reduced by a pickler.
    Plan = Callable[[Any, Any], Any]

#: Reducers by exact type, as in the `dispatch_table` of a pickler.
Table: TypeAlias = "Mapping[type, Callable[[Any], Any]]"

#: Types whose objects are left to the C pickler.  Types that may die before the program does are
#: in it only while a dump lasts: it must not keep them alive.
native: set[type] = set()

_multiprocessing_table: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]

#: The functions that pickles name; each pickle has two or three, all by reference.
ours = frozenset(
    one
    for module in (_rebuild, _rebuild_objects)
    for one in vars(module).values()
    if type(one) is FunctionType
)


def reduce_any_function(pickler: Any, fn: FunctionType) -> Any:
    """The reduce value of a function, where the pickler may have a table of its own."""
    if fn in ours:
        return NotImplemented
    # The C pickler does not ask the table for functions; where it would fail, the entry is meant.
    if pickler.table is not None and FunctionType in pickler.table and not is_importable(fn):
        return pickler.table[FunctionType](fn)
    return reduce_function(pickler, fn)


def reduce_any_class(pickler: Any, cls: Any) -> Any:
    """The reduce value of a class: its name, another name, or its contents."""
    is_static = not cls.__flags__ & _classes.HEAP
    if is_static and cls in _named_statics:
        return NotImplemented
    if is_importable(cls):
        if is_static:
            _named_statics.add(cls)
        return NotImplemented
    if (type(cls) is not type or type in cls.__mro__) and "_ctypes" in sys.modules:
        from hookpool import _layouts  # late: few programs have such a class

        call = _layouts.call_of(cls)
        if call is not None:
            return call
    if is_static or (_rebuild.identity_of(cls) is None and is_written_in_c(cls)):
        return _objects.reduce_builtin_class(cls)
    return pickler.reduce_class(cls)


# Classes that live as long as the program, and go by names that nobody changes.
_named_statics: set[Any] = set()


def table_with(reducers: Table) -> Table:
    """A table for a pickler that has these reducers, and else what everybody has registered."""
    return {**copyreg.dispatch_table, **reducers}


def is_registered(kind: type) -> bool:
    """Whether somebody has registered a reducer of objects of this type, for everybody."""
    return kind in copyreg.dispatch_table or kind in _multiprocessing_table


def is_in(table: Any, kind: type) -> bool:
    """Whether a table of reducers has a type, where only what can be hashed can be."""
    return type(kind).__hash__ is not None and kind in table


def _plan_for(kind: type) -> Plan | None:
    """How objects of a type that is in no table are reduced; None leaves it to the C pickler."""
    if "_ctypes" in sys.modules:
        from hookpool import _addresses  # late: few programs have such an object

        plan = _addresses.plan_for(kind)
        if plan is not None:
            return plan
    return _objects.plan_for(kind)


def _reduce_registered(pickler: Any, obj: Any) -> Any:
    reduce = _multiprocessing_table[type(obj)]
    if reduce.__module__ == "multiprocessing.sharedctypes" and not _is_shared(obj):
        plan = _plan_for(type(obj))  # of a type of which there are shared ones, too
        return NotImplemented if plan is None else plan(pickler, obj)
    return reduce(obj)


def _is_shared(obj: Any) -> bool:
    """Whether what is of a type of `ctypes` is what `RawArray` or `RawValue` made."""
    return "_wrapper" in getattr(obj, "__dict__", ())


UNRANKED = _objects.UNRANKED
#: Plans that go before what `copyreg` has for the type.
before_copyreg = UNRANKED | {_reduce_registered}

_OWN: dict[type, Plan] = {
    CellType: reduce_cell,
    CodeType: reduce_code,
    Later: reduce_later,
    **_objects.PLANS,
}

_MULTIPROCESSING = frozenset({"multiprocessing.reduction", "multiprocessing.managers"})


class _Plans:
    """How objects of each type are reduced, remembered by the id of the type.

    By id, since a class must not live longer for having been pickled; a type that dies takes its
    entry along before its id can be used again.
    """

    def __init__(self) -> None:
        self._renew()

    def check(self) -> None:
        """Take into account what has been registered with multiprocessing since the last time."""
        if _multiprocessing_table != self._registered:
            self._renew()

    def _renew(self) -> None:
        table = dict(_multiprocessing_table)
        known: dict[int, Plan | None] = {id(kind): plan for kind, plan in _OWN.items()}
        for kind, reduce in table.items():
            # multiprocessing's own reducers of methods, partials and views lose more than ours.
            if kind not in _objects.BETTER or reduce.__module__ not in _MULTIPROCESSING:
                known[id(kind)] = _reduce_registered
        #: By the id of the type; None leaves its objects to the C pickler.
        self.known = known
        self._watched: dict[int, Any] = {}
        self._registered = table
        native.clear()

    def learn(self, kind: type) -> Plan | None:
        """The plan for a type met for the first time."""
        plan = reduce_any_class if issubclass(kind, type) else _plan_for(kind)
        is_static = not kind.__flags__ & _classes.HEAP
        if plan is None and is_static and _classes.way_of(kind) is None:
            native.add(kind)  # it lives as long as we do
            return None
        ident, known, watched = id(kind), self.known, self._watched

        def forget(_: object) -> None:
            known.pop(ident, None)
            watched.pop(ident, None)

        watched[ident] = weakref.ref(kind, forget)
        known[ident] = plan
        return plan


plans = _Plans()
