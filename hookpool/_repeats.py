"""What neighbouring calls of one map have in common: sent once, and not with each of them.

Owns the handles that stand for such objects while a map takes its items.  Done only where taking
an item runs nobody's code, so that an object that is met again is still what it was: of a list it
is certain, of a generator, which may fill one array again and again, it is not.  (The reducers of
the items run; one that changes its neighbours is not reckoned with.)  And only where one object is
all that refers to anything in a call: what two of its parts have in common would be two objects
over there.

Belongs to the thread that calls `map`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pickle import PickleBuffer

from hookpool._buffers import Parcel
from hookpool._plain import ATOMS, NEVER_LARGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hookpool._definitions import Ledger, Packet
    from hookpool._handle import Handle

# To take an item of these runs no code of anybody's.
_INERT = frozenset({list, tuple, range, itertools.repeat, dict, set, frozenset, str, bytes})
# Never large, or of no use without what looks at it.
_SMALL = frozenset({type(None), bool, int, float, complex, PickleBuffer})
_SIZED = frozenset({bytes, str, bytearray})


class Repeats:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: What stands for what, by its id.
        self.handles: dict[int, Handle] = {}
        #: All that was looked at, so that their ids stay theirs.
        self._seen: dict[int, Any] = {}

    def note(self, rows: list[tuple[Any, ...]]) -> None:
        """Look at the arguments of neighbouring calls, before they are dumped."""
        if len(rows) > 1:
            for one, next_one in zip(rows[0], rows[1], strict=True):
                if one is next_one:
                    self.consider(one)

    def consider(self, obj: Any) -> None:
        """Something comes again: perhaps it is large."""
        kind = type(obj)
        if kind in _SMALL or (kind in _SIZED and len(obj) <= NEVER_LARGE) or id(obj) in self._seen:
            return
        self._seen[id(obj)] = obj
        try:
            handle = self._ledger.put(obj)
        except Exception:  # noqa: BLE001 - the calls will fail, each for itself and with its path
            return
        if type(handle.definition.data) is Parcel:
            self.handles[id(obj)] = handle

    def dump(self, function: Any, args: tuple[Any, ...]) -> Packet:
        """As `Ledger.dump`, of the arguments, and of the function unless it is None."""
        parts = {"args": args} if function is None else {"the function": function, "args": args}
        if self._is_alone(args if function is None else (function, *args)):
            args = tuple([self.handles.get(id(arg), arg) for arg in args])
            function = self.handles.get(id(function), function)
        return self._ledger.dump(args if function is None else (function, args, {}), parts)

    def _is_alone(self, parts: tuple[Any, ...]) -> bool:
        """Whether one object with a handle is all that refers to anything."""
        handled: Any = None
        for part in parts:
            if id(part) in self.handles:
                if handled is not None and part is not handled:
                    return False
                handled = part
            elif id(type(part)) not in ATOMS:
                return False
        return handled is not None


def repeats_in(ledger: Ledger, iterables: Iterable[Any]) -> Repeats | None:
    """Where to note what comes again among the items of these; None where it cannot be told."""
    return Repeats(ledger) if _INERT.issuperset(map(type, iterables)) else None
