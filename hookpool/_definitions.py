"""Functions and classes that cross to each worker once.

Owns the owner's `Ledger`, which gives functions and classes numbers and writes tasks that refer to
them; what the numbers mean in a worker, `_shelf` keeps.  Knows nothing of workers, channels or
messages: whoever sends a `Packet` sees to it that the definitions it needs have been, or are
being, sent to that worker.

The ledger may be called by any thread, also from within a dump that it is making (a ``__reduce__``
that submits): nothing is pickled under its lock.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType

from hookpool import _rebuild
from hookpool._buffers import READ_ONLY, SHARED, Lender, Parcel
from hookpool._classes import versions_of
from hookpool._definition import Definition, Forgotten
from hookpool._given import is_for_start
from hookpool._handle import Handle, Owner, refuse_stranger
from hookpool._met import LEAVES_GIVEN
from hookpool._noting import (
    ABSENT,
    Capture,
    Captures,
    ClassPickler,
    DefinitionPickler,
    LedgerPickler,
    Notes,
    ProbeForMany,
)
from hookpool._plain import ATOMS, NEVER_LARGE
from hookpool._plans import is_registered, plans, table_with
from hookpool._ticket import HandedOnce, ticketed
from hookpool._worker_pickler import WorkerPickler, stands_for_itself
from hookpool.reduction import Probe, Table, raise_explained, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hookpool._sharing import Sharing
    from hookpool._watch import Watch

# Functions and classes remembered by a ledger.  A program that makes more in a loop (lambdas, one
# per call) forgets the oldest; what is forgotten is sent again if it is used again.
KEPT = 4096
# And so many bytes of classes, in the owner and in each worker: a definition keeps its classes, as
# a result may name one by its identity alone.
KEPT_BYTES = 64 << 20

# Of arguments up to so many it is worth a look whether they need a hook at all.
_SHORT = 8

# How often a function is pickled whose globals other threads go on changing meanwhile.
_TRIES = 10


class Packet:
    """Pickled data, and the definitions it refers to, in an order in which they can be loaded."""

    __slots__ = ("data", "needs", "notes")

    def __init__(
        self, data: Any, needs: tuple[Definition, ...] = (), notes: Notes | None = None
    ) -> None:
        #: Bytes, or a parcel if it is large.
        self.data = data
        self.needs = needs
        self.notes = notes  # for the ledger that made it


class _Entry:
    """What a ledger knows of a function or class."""

    __slots__ = ("captures", "definition", "ref", "size", "versions", "watch", "writes")

    def __init__(
        self,
        ref: Callable[[], Any],
        versions: tuple[int, ...],
        definition: Definition,
        captures: Captures,
        watch: Watch | None = None,
        writes: int = 0,
    ) -> None:
        self.ref = ref
        self.versions = versions  # of a class: see `versions_of`
        self.size = 0  # of a class: its part of the definition, in bytes
        self.definition = definition
        self.captures = captures
        self.watch = watch  # None: of a class
        #: `Ledger._writes` when the captures were last known to be the latest.
        self.writes = writes


class Ledger:
    """The owner's record of what it has numbered.

    Args:
        lender: where large data go; definitions are not.
        reducers: of types in whatever is written for a worker.
    """

    def __init__(self, lender: Lender | None = None, reducers: Table | None = None) -> None:
        self._lender = lender or Lender(0)
        self._reducers = reducers
        from hookpool._sharing import Copies  # late, as `_watch`

        self._copies = Copies(self._lender)
        self._owner = Owner()
        self.forgotten = Forgotten()
        self._numbers = itertools.count(1)
        #: Guards the five below.
        # Re-entrant, for a signal handler that submits while its own thread is in here: it finds
        # whole entries, and at worst makes a definition twice.
        self._lock = threading.RLock()
        #: By id of the live object; an entry whose object is gone is as good as none.
        self._functions: OrderedDict[int, _Entry] = OrderedDict()
        self._classes: OrderedDict[int, _Entry] = OrderedDict()
        self._classes_size = 0
        #: What each name of each shared namespace was when it was last written for a worker.
        self._latest: Captures = {}
        #: How often that has changed.
        self._writes = 0
        #: Ids of functions that have died; appended to by weak references.
        self._dead: deque[int] = deque()

    def call(self, fn: Any, table: Table | None = None) -> Definition | None:
        """The definition of what is to be called, as it is now.

        Args:
            table: reducers of types that it may have captured.

        Returns:
            None for what goes with the data: callable instances, partials, bound methods, and
            functions that capture what is handed over anew for each pickle, such as a socket.

        Raises:
            pickle.PicklingError: the function captures something that cannot travel.
        """
        # Without the lock: entries are found whole, and do not change but for `writes`.
        entry = self._functions.get(id(fn))
        if (
            entry is not None
            and entry.ref() is fn
            and entry.watch is not None
            and entry.watch.is_unchanged(fn)
            and (not entry.captures or self._is_still_latest(entry))
        ):
            # Until many are known none is forgotten, and it does not matter which one is first.
            if len(self._functions) > KEPT // 2:
                self._keep(fn)
            return entry.definition
        return self._call_changed(fn, table) if _is_definable(fn) else None

    def _call_changed(self, fn: Any, table: Table | None) -> Definition | None:
        """The definition of what may have changed: only its pickle tells."""
        definition, tries = None, 0
        while definition is None:
            tries += 1
            try:
                definition = self._define_function(fn, table, is_last=tries == _TRIES)
            except HandedOnce:
                return None  # it goes with each task, and so does a new ticket
        return definition

    def _define_function(self, fn: Any, table: Table | None, is_last: bool) -> Definition | None:
        """A definition, or None if what was pickled is not what there is any more."""
        # Imported late: a worker, which has only the shelf, would pay for it.
        from hookpool._watch import watch

        now = watch(fn)  # before it is pickled: what changes in between shows next time
        parts = {"the function": fn}
        packet = self._written(DefinitionPickler, fn, parts, self.sharing(), table, True)
        data, captures = packet.data, packet.notes.captures if packet.notes else {}
        known = self._functions.get(id(fn))
        # Without the lock: it may be gigabytes that are compared.
        if known is not None and (
            known.ref() is not fn or not _is_same(known.definition.data, data)
        ):
            known = None
        with self._lock:
            if (
                known is not None
                and self._functions.get(id(fn)) is known
                and self._is_latest(captures)
            ):
                definition, ref = known.definition, known.ref
            elif not is_last and _have_moved(captures):
                return None  # with a later number it would count as newer than what is newer
            else:
                definition = self._define(data, packet.needs, ())
                self._note(captures)
                self._bury()
                ref = weakref.ref(fn, self._mourn(id(fn), type(data) is Parcel))
            entry = _Entry(ref, (), definition, captures, now, self._writes)
            self._remember(self._functions, fn, entry)
        return definition

    def sharing(self) -> Sharing:
        """In the place of the lender, for what several workers will have."""
        return self._copies.sharing(SHARED, self._lender.least())

    def _is_still_latest(self, entry: _Entry) -> bool:
        if entry.writes == self._writes:
            return True
        with self._lock:
            if not self._is_latest(entry.captures):
                return False
            entry.writes = self._writes
        return True

    def _keep(self, fn: Any) -> None:
        """Have others forgotten first."""
        with self._lock:
            if id(fn) in self._functions:
                self._functions.move_to_end(id(fn))

    def put(self, obj: Any, read_only: bool = False) -> Handle:
        """What stands for an object, as it is now, in all that is dumped from now on.

        Args:
            obj: any object.
            read_only: whether all tasks of a worker get the same one, with read-only buffers; if
                not, each gets one of its own.

        Raises:
            pickle.PicklingError: something in it cannot travel.
        """
        # In a small pickle nothing could be read-only: so all buffers leave it.
        sharing = self._copies.sharing(READ_ONLY, 1) if read_only else self.sharing()
        table = self._protecting() if read_only else None
        try:
            packet = self._written(LedgerPickler, obj, {"object": obj}, sharing, table, True)
        except HandedOnce as error:
            raise_explained(error, {"object": obj}, ProbeForMany)
        data, notes = packet.data, packet.notes
        with self._lock:
            definition = self._define(data, packet.needs, (), not read_only)
            if notes is not None:
                self._note(notes.captures)
        is_shared = type(data) is Parcel and data.is_in_memory()
        return Handle(definition, self._owner, type(obj).__name__, is_shared)

    def _protecting(self) -> Table | None:
        """Reducers for what shall be read-only over there; those of others come first."""
        from hookpool._sharing import protection

        own = self._reducers or {}
        ours = {kind: by for kind, by in protection().items() if not is_registered(kind)}
        return table_with({**ours, **own}) if ours else None

    def close(self) -> None:
        """Have handles know that what they stand for is gone."""
        self._owner.is_closed = True

    def refer_to(self, handle: Handle) -> Definition:
        """The definition behind a handle.

        Raises:
            pickle.PicklingError: it is another ledger's.
        """
        refuse_stranger(handle, self._owner)
        definition: Definition = handle.definition
        return definition

    def dump(
        self, obj: Any, parts: Mapping[str, Any] | None = None, table: Table | None = None
    ) -> Packet:
        """Pickle arguments, classes in it by reference to their definitions.

        Args:
            obj: any object.
            parts: what `obj` consists of, by the names that an error message is to use.
            table: reducers for types in it.

        Raises:
            pickle.PicklingError: something in it cannot travel.
        """
        if type(obj) is tuple and len(obj) <= _SHORT:
            for one in obj:
                kind = type(one)
                if id(kind) not in ATOMS or (
                    (kind is bytes or kind is str) and len(one) > NEVER_LARGE
                ):
                    break
            else:  # of no concern to any hook or table: the C pickler does not ask for these
                return Packet(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL))
        packet = self._written(LedgerPickler, obj, parts or {"object": obj}, self._lender, table)
        if packet.notes is not None and packet.notes.captures:
            with self._lock:
                self._note(packet.notes.captures)
        return packet

    def _written(
        self,
        kind: type[LedgerPickler],
        obj: Any,
        parts: Mapping[str, Any] | None,
        lender: Lender | Sharing,
        table: Table | None = None,
        is_for_many: bool = False,
        leaves_given: bool = False,
    ) -> Packet:
        plans.check()
        if table is None and self._reducers:
            table = table_with(self._reducers)
        pickler = take(kind)
        pickler.ledger = self
        pickler.use(table)
        pickler.is_for_many = is_for_many
        if lender is not self._lender:
            pickler.sharing = lender
        if leaves_given:
            pickler.met[LEAVES_GIVEN] = True
        try:
            data = pickler.gathered(obj, lender)
        except Exception as error:
            pickler.notes = None  # its tickets go, whoever keeps the error and so this frame
            if not leaves_given and is_for_start(error):
                return self._written(kind, obj, parts, lender, table, is_for_many, True)
            if parts is None or (is_for_many and isinstance(error, HandedOnce)):
                raise
            raise_explained(error, parts, Probe)
        notes = pickler.notes
        pickler.notes = pickler.ledger = pickler.sharing = None
        pickler.release(len(data))
        if notes is None:
            return Packet(data)
        if notes.tickets is not None:
            data = ticketed(data, notes.tickets)
        return Packet(data, tuple(notes.needs.values()), notes)

    def class_definition(self, cls: Any, asking: LedgerPickler) -> Definition:
        """The definition of a class in its current version."""
        definition = self.current_definition(cls, asking)
        if definition is not None:
            return definition
        # An error is explained where it is known how the class was come by.
        packet = self._written(
            ClassPickler, cls, None, self.sharing(), asking.table, asking.is_for_many
        )
        notes = packet.notes
        assert notes is not None
        with self._lock:
            classes = tuple([one for one, _ in notes.inside.values()])
            definition = self._define(packet.data, packet.needs, classes)
            self._note(notes.captures)
            if notes.tickets is None:  # else for the worker that gets this task alone
                self._remember_classes(notes, definition)
        return definition

    def _remember_classes(self, notes: Notes, definition: Definition) -> None:
        """These classes come with this definition."""
        inside = notes.inside.values()
        for cls, versions in inside:
            entry = _Entry(weakref.ref(cls), versions, definition, notes.captures)
            entry.size = len(definition.data) // len(inside)
            self._classes_size += entry.size
            self._remember(self._classes, cls, entry)
        while self._classes_size > KEPT_BYTES and len(self._classes) > len(inside):
            self._forget_oldest(self._classes)

    def current_definition(self, cls: Any, asking: WorkerPickler) -> Definition | None:
        """The definition of a class, if there is one and nothing it says has changed."""
        entry = self._classes.get(id(cls))
        if entry is None or entry.ref() is not cls or entry.versions != versions_of(cls):
            return None
        for capture, (_, name) in zip(entry.captures.values(), entry.captures, strict=True):
            if not _is_unchanged(name, capture, asking):
                return None
        with self._lock:
            if not self._is_latest(entry.captures):
                return None
            if id(cls) in self._classes:
                self._classes.move_to_end(id(cls))
        return entry.definition

    def _define(
        self,
        data: bytes | Parcel,
        needs: tuple[Definition, ...],
        classes: tuple[Any, ...],
        is_for_each: bool = False,
    ) -> Definition:
        number = next(self._numbers)
        return Definition(number, data, needs, classes, self.forgotten, is_for_each)

    def _note(self, captures: Captures) -> None:
        """These values are now written for a worker."""
        if not self._is_latest(captures):
            self._latest.update(captures)
            self._writes += 1

    def _is_latest(self, captures: Captures) -> bool:
        """Whether no later definition has written other values to these names.

        A worker may have that one, and would not take an old number for a reason to go back.
        """
        latest = self._latest
        return all(_is_equal(latest.get(key), capture) for key, capture in captures.items())

    def _mourn(self, ident: int, is_large: bool) -> Callable[[object], None]:
        # Not self: a callback must not keep the ledger alive.
        dead, forgotten = self._dead, self.forgotten
        if not is_large:
            return lambda _: dead.append(ident)

        def mourn(_: object) -> None:
            dead.append(ident)
            forgotten.wake()

        return mourn

    def renew_lock(self) -> None:
        """In a forked child: a thread that does not exist here may have had it."""
        self._lock = threading.RLock()

    def bury(self) -> None:
        """Let go of what was kept for functions that have died."""
        if self._dead:
            with self._lock:
                self._bury()

    def _bury(self) -> None:
        while self._dead:
            ident = self._dead.popleft()
            entry = self._functions.get(ident)
            if entry is not None and entry.ref() is None:
                del self._functions[ident]

    def _remember(self, entries: OrderedDict[int, _Entry], obj: Any, entry: _Entry) -> None:
        replaced = entries.get(id(obj))
        if replaced is not None:
            self._classes_size -= replaced.size
        entries[id(obj)] = entry
        entries.move_to_end(id(obj))
        while len(entries) > KEPT:
            self._forget_oldest(entries)

    def _forget_oldest(self, entries: OrderedDict[int, _Entry]) -> None:
        _, entry = entries.popitem(last=False)
        self._classes_size -= entry.size


def _is_definable(fn: Any) -> bool:
    kind = type(fn)
    if kind is FunctionType or issubclass(kind, type):
        return True
    return kind is BuiltinFunctionType and type(fn.__self__) is ModuleType


def _is_same(before: bytes | Parcel, now: bytes | Parcel) -> bool:
    if isinstance(before, Parcel):
        return isinstance(now, Parcel) and now.is_like(before)
    return before == now


def _is_equal(before: Capture | None, now: Capture) -> bool:
    if before is None or before.stamp != now.stamp:
        return False
    return now.stamp is not None or _rebuild.is_same(before.value, now.value)


def _have_moved(captures: Captures) -> bool:
    """Whether a name now has another value than what was pickled, as far as values tell."""
    for (_, name), capture in captures.items():
        value = capture.space.get(name, ABSENT)
        if capture.stamp is None and not _rebuild.is_same(capture.value, value):
            return True
    return False


def _is_unchanged(name: str, capture: Capture, asking: WorkerPickler) -> bool:
    value = capture.space.get(name, ABSENT)
    if capture.stamp is None:
        return _rebuild.is_same(capture.value, value)
    return (
        value is not ABSENT
        and not stands_for_itself(value)
        and asking.stamp(value) == capture.stamp
    )
