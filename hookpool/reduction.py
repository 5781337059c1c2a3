"""The pickler: what `pickle` does, plus functions and classes by value, at the speed of C.

`HookPickler` is the C pickler with two of its own hooks in use: `reducer_override`, asked before
the built-in handling of functions and classes, and the sixth item of a reduce tuple, which lets a
recursive function or class be memoized first and filled afterwards.  What it writes loads with
plain `pickle.loads` wherever hookpool can be imported.

Owns the picklers.  Which object is reduced how is told by `_plans`; the receiving side is in
`_rebuild`.  Knows nothing of processes, channels or tasks.  Any thread may call the functions; one
pickler belongs to one thread at a time.
"""

from __future__ import annotations

import _pickle
import copyreg
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from types import BuiltinFunctionType, FunctionType, SimpleNamespace

from hookpool import _classes, _rebuild
from hookpool._functions import reduce_function
from hookpool._given import is_for_start
from hookpool._handle import reduce_unasked, refuse
from hookpool._importable import (
    held_by_module,
    list_registry_pickle_by_value,
    place_in,
    register_pickle_by_value,
    unregister_pickle_by_value,
)
from hookpool._met import LEAVES_GIVEN
from hookpool._phases import reduce_class
from hookpool._plans import (
    UNRANKED,
    Table,
    before_copyreg,
    is_in,
    native,
    ours,
    plans,
    reduce_any_class,
    reduce_any_function,
)
from hookpool._raised import text_of
from hookpool._reach import MOST_IN_ALL
from hookpool._rebuild_objects import module_attribute
from hookpool._ticket import withdraw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, ClassVar, NoReturn, Protocol

    from hookpool._buffers import Parcel
    from hookpool._handle import Handle
    from hookpool._importable import Held

    class Taker(Protocol):
        """Who is left what is large: a `Lender`, or somebody in its place."""

        def least(self) -> int:
            """From which size on something is large."""

        def parcel(
            self, pickled: Sequence[Any], buffers: Sequence[pickle.PickleBuffer], /
        ) -> bytes | Parcel:
            """What is to be had instead of a pickle in pieces and its buffers."""


__all__ = [
    "HookPickler",
    "Pickler",
    "Probe",
    "ReusablePickler",
    "Table",
    "dump",
    "dumps",
    "dumps_by",
    "gathered",
    "list_registry_pickle_by_value",
    "load",
    "loads",
    "raise_explained",
    "register_pickle_by_value",
    "take",
    "unregister_pickle_by_value",
    "write",
]

load = pickle.load
loads = pickle.loads

_HIGHEST = pickle.HIGHEST_PROTOCOL
_CPickler = _pickle.Pickler
_c_init = _CPickler.__init__
_c_dump = _CPickler.dump
_c_clear_memo = _CPickler.clear_memo
_c_table: Any = _CPickler.dispatch_table
_copyreg_table = copyreg.dispatch_table


def _hook_of(pickler: HookPickler) -> Callable[..., Any]:
    """`HookPickler.reducer_override`, as a closure instead of a bound method.

    On Python 3.11 a method that reads an attribute of its instance would take twice as long.
    """
    natives, simple, has_no_way = native, pickler.simple, _classes.OWN_WAYS.isdisjoint
    ways, ways_ex = pickler.ways, pickler.ways_ex
    protocol = pickler.protocol if pickler.protocol >= 0 else _HIGHEST

    def reducer_override(obj: Any, /) -> Any:
        kind = type(obj)
        try:
            is_lent = kind in ways_ex
        except TypeError:  # a metaclass makes the class unhashable
            return _reducer_override(pickler, obj)
        if is_lent:
            return ways_ex[kind](obj, protocol)
        if kind in ways:
            return ways[kind](obj)
        if kind in natives:
            return NotImplemented
        if kind in simple:
            own = obj.__dict__
            if has_no_way(own):
                return (_newobj, (kind,), own) if own else pickler.reduce_empty(obj)
            return NotImplemented
        if kind is FunctionType and pickler.table is None:
            return NotImplemented if obj in ours else reduce_function(pickler, obj)
        return _reducer_override(pickler, obj)

    return reducer_override


class _Hook:
    """Gives the C pickler a new closure for each dump: to keep one would be a cycle."""

    def __get__(self, pickler: HookPickler | None, owner: type) -> Callable[..., Any]:
        return _reducer_override if pickler is None else _hook_of(pickler)


def _reducer_override(pickler: HookPickler, obj: Any, /) -> Any:
    kind = type(obj)
    # No registration comes before these two: so it is in Python's own pickler.
    if kind is FunctionType:
        return reduce_any_function(pickler, obj)
    if kind is type:
        return reduce_any_class(pickler, obj)
    try:
        plan = plans.known[id(kind)]
    except KeyError:
        plan = plans.learn(kind)
    if plan is None:
        if kind not in native and pickler.lend(kind) and not obj.__dict__:
            return pickler.reduce_empty(obj)
        return NotImplemented
    # Here, and not in the plans: registrations of users come first, and may come late.
    if pickler.table is not None and plan not in UNRANKED and is_in(pickler.table, kind):
        return NotImplemented
    if plan not in before_copyreg and is_in(_copyreg_table, kind):
        return NotImplemented
    return plan(pickler, obj)


# What `object.__reduce_ex__` gives; the C pickler knows it by its name.
_newobj: Any = copyreg.__newobj__  # type: ignore[attr-defined]


class HookPickler(_CPickler):
    """A pickler for everything that `pickle` takes, and functions and classes by value.

    A subclass may have a `persistent_id`, a `dispatch_table` and a `reducer_override`, as one of
    `pickle.Pickler` may; the last hands on to `super()` what is not its own.

    Args:
        file: where the bytes go: an object with a ``write`` method.
        protocol: as in `pickle`; the highest by default.
        fix_imports: as in `pickle`.
        buffer_callback: as in `pickle`: takes buffers out of band, from protocol 5.

    >>> import io
    >>> file = io.BytesIO()
    >>> HookPickler(file).dump(lambda x: x * 2)
    >>> loads(file.getvalue())(21)
    42
    """

    __slots__ = ("_lent", "met", "protocol", "root", "sight", "simple", "table", "ways", "ways_ex")

    root: Any  # what is being dumped
    table: Any  # the user's dispatch table
    met: dict[int, Any]  # id of a function, cell, globals... -> what its plan has to remember
    protocol: int
    sight: int  # how many objects may still be looked at for what leads to which class
    #: Types found to be simple in this dump, see `_classes.is_simple`; where their modules hold
    #: instances, once that is known.
    simple: dict[type, Held | None]
    #: Of types met in this dump: what the C pickler would call with the object; and a protocol.
    ways: dict[type, Callable[[Any], Any]]
    ways_ex: dict[type, Callable[[Any, int], Any]]
    _lent: list[type] | None  # types that are in `native` for this dump

    #: Makes a function there.
    make_function: Any = staticmethod(_rebuild.function)
    #: Whether functions of one module are to share one namespace there.
    shares_namespaces = False
    #: Whether what is written is only for comparison, so that nothing is to be refused.
    is_stamping = False
    #: What `stamps_of` says where captured globals are not to be written at all.
    no_globals: Any = object()

    def __init__(
        self,
        file: IO[bytes],
        protocol: int | None = None,
        fix_imports: bool = True,
        buffer_callback: Callable[[Any], Any] | None = None,
    ) -> None:
        self.protocol = protocol = _HIGHEST if protocol is None else protocol
        if fix_imports and buffer_callback is None:
            _c_init(self, file, protocol)  # keywords cost as much as the rest of this method
        else:
            _c_init(self, file, protocol, fix_imports, buffer_callback)
        self.start()

    def start(self) -> None:
        """Begin with an empty memo."""
        self.met = {}
        self.sight = MOST_IN_ALL
        self.simple = {}
        self.ways, self.ways_ex = {}, {}
        self.table = self._lent = None

    def dump(self, obj: Any, /) -> None:
        """Write the pickle of an object.

        Raises:
            pickle.PicklingError: something in it cannot travel; the message says where it is.
        """
        if not hasattr(self, "met"):
            name = type(self).__name__
            text = f"HookPickler.__init__() was not called by {name}.__init__()"
            raise pickle.PicklingError(text)
        try:
            write(self, obj)
        finally:
            del self.root

    def clear_memo(self) -> None:
        """Forget which objects have been written."""
        super().clear_memo()
        self.start()

    reducer_override = _Hook()

    def run(self, obj: Any) -> None:
        """Write an object; errors are as the C pickler raises them."""
        self.root = obj
        self.table = getattr(self, "dispatch_table", None)
        try:
            _c_dump(self, obj)
        finally:
            self._end_loan()

    def lend(self, kind: type) -> bool:
        """Take objects of a type for what the first one was, until this dump ends; whether they
        are but their ``__dict__``."""
        if not _classes.is_plainly_hashed(kind):
            return False
        is_modern = not 0 <= self.protocol < 2  # below, copyreg has ways of its own
        if is_modern and kind not in (_copyreg_table if self.table is None else self.table):
            if _classes.is_simple(kind):
                self.simple[kind] = None
                return True
            way = _classes.way_of(kind) if self.table is None else None
            if way is not None:
                # To call it here costs less than to have it looked up for each object.
                (self.ways_ex if way[1] else self.ways)[kind] = way[0]
                return False
        if self._lent is None:
            self._lent = []
        self._lent.append(kind)
        native.add(kind)
        return False

    def _end_loan(self) -> None:
        """Forget what was true of types in this dump."""
        if self.simple:
            self.simple.clear()
        if self.ways:
            self.ways.clear()
        if self.ways_ex:
            self.ways_ex.clear()
        if self._lent is not None:
            native.difference_update(self._lent)
            self._lent = None

    def stamps_of(
        self, fn: FunctionType, names: tuple[str, ...], captured: dict[str, Any]
    ) -> dict[str, bytes] | None:
        """By what the receiver knows captured globals that it has already."""
        return None

    def stamps_in(self, space: dict[str, Any]) -> dict[str, bytes] | None:
        """The same for what a module holds."""
        return None

    def reduce_class(self, cls: Any) -> Any:
        """The reduce value of a class by value."""
        return reduce_class(self, cls)

    def reduce_empty(self, obj: Any) -> Any:
        """The reduce value of an instance that is but its ``__dict__``, and that is empty."""
        kind = type(obj)
        held = self.simple.get(kind)
        if held is None:
            held = self.simple[kind] = held_by_module(kind)
        if held:
            place = place_in(held, obj)
            if place is not None:
                return module_attribute, place
        return _newobj, (kind,)

    def may_pack(self) -> bool:
        """Whether nobody wants to be asked about each function of a class."""
        asks = getattr(self, "persistent_id", None)
        return (
            self.table is None
            and type(self).reducer_override is _reducer_override
            and (asks is None or (type(asks) is BuiltinFunctionType and asks.__self__ is self))
        )

    def given(self) -> tuple[Any, ...]:
        """What somebody has handed over to be written, where a lock is refused if it is bare."""
        return (self.root,)

    def reduce_handle(self, handle: Handle) -> Any:
        """A handle made by `put` is for tasks alone, which other picklers write."""
        refuse(handle)

    def meet_ticket(self, ticket: Any) -> None:
        """What is written is for one receiver; for others see `_ticket`."""

    def can_carry(self, obj: Any, met: dict[int, Any]) -> bool:
        """Whether an object can be pickled; `met` is what the plans are to know beforehand."""
        pickler = _Looker(BytesIO())
        pickler.met = met.copy()
        try:
            pickler.run(obj)
        except Exception:  # noqa: BLE001 - whatever a user's __reduce__ raises
            return False
        return True


Pickler = HookPickler


class _Looker(HookPickler):
    """Writes for nobody, to see whether it can be done; of handles others are to judge."""

    __slots__ = ()

    reduce_handle = staticmethod(reduce_unasked)
    meet_ticket = staticmethod(withdraw)


class _Sink:
    """The least that a pickler takes for a file."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


class ReusablePickler(HookPickler):
    """Pickles one object after the other, each as if alone, with one protocol: the highest.

    To make a C pickler takes three times as long as to pickle a few numbers with it.  So whoever
    needs one calls `take`, and gives it back with `release`, after each dump that did not raise.
    A dump inside a dump, a thread beside it or a signal handler finds the list without it; a fork
    or an interrupt at worst loses it.
    """

    __slots__ = ("_chunks", "_large", "reducer_override")

    #: Whether `gathered` is to be used: to be asked about each array takes half a microsecond.
    gathers = False
    #: Picklers that nobody uses; each subclass has a list of its own.
    spare: ClassVar[list[Any]] = []
    #: The `dispatch_table` of the class that those have.
    seen_table: ClassVar[Any] = _c_table
    protocol = _HIGHEST

    def __init__(self) -> None:
        self._chunks: list[Any] = []
        #: Buffers that are left out of the pickle, in order.
        self._large = _Large()
        buffers = (True, partial(_stays, self._large)) if self.gathers else ()
        _c_init(self, _Sink(self._chunks.append), self.protocol, *buffers)
        self.start()
        self.table = getattr(self, "dispatch_table", None)
        self.root = None
        self.reducer_override = _hook_of(self)

    def __init_subclass__(cls) -> None:
        cls.spare, cls.seen_table = [], _c_table

    def use(self, table: Table | None) -> None:
        """Ask a table for reducers, in the next dump only."""
        if table is not None:
            self.table = table
            _c_table.__set__(self, table)  # the class may have another one under this name

    def may_pack(self) -> bool:
        """Whether nobody wants to be asked about each function of a class."""
        return self.table is None

    def pickled(self, obj: Any) -> bytes:
        """The pickle of an object; errors are as the C pickler raises them."""
        self.root = obj
        try:
            _c_dump(self, obj)
        except BaseException:
            self.retire()
            raise
        chunks = self._chunks
        data: bytes = chunks.pop()
        if chunks:  # a pickle longer than a frame comes in pieces
            data = b"".join((*chunks, data))
            chunks.clear()
        return data

    def gathered(self, obj: Any, lender: Taker) -> bytes | Parcel:
        """As `pickled`, but what is large is left to the lender.

        The C pickler gives long `bytes` to its file as they are, so they are copied only once.
        """
        assert self.gathers
        large, chunks = self._large, self._chunks
        large.threshold = least = lender.least()
        self.root = obj
        try:
            _c_dump(self, obj)
        except BaseException:
            self.retire()
            raise
        large.threshold = _NONE_IS_LARGE
        if len(chunks) > 1:
            # A long buffer that stays comes as it is, too, and has no length.
            chunks[:] = [c.raw() if type(c) is pickle.PickleBuffer else c for c in chunks]
        data: bytes | Parcel
        if large.buffers or sum(map(len, chunks)) >= least:
            data = lender.parcel(chunks, large.buffers)
            large.buffers.clear()
        else:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def release(self, size: int) -> None:
        """Drop every reference to what was pickled, in so many bytes, and be ready for more."""
        # Emptying a memo takes time, for as much as it ever held.
        if size > _SMALL or (self.table is not None and type(self).dispatch_table is not _c_table):
            self.retire()
            return
        _c_clear_memo(self)
        self.root = None
        if self.met:
            self.met = {}
            self.sight = MOST_IN_ALL
        self._end_loan()
        if self.table is not None:
            self.table = None
            _c_table.__delete__(self)
        self.spare.append(self)

    def retire(self) -> None:
        """Be used no more; without the cycle of pickler and hook, what it holds goes with it."""
        del self.reducer_override
        self._end_loan()


class _Trial(ReusablePickler):
    """Tries parts of what is written for anybody, to find the one that cannot travel."""

    __slots__ = ()

    meet_ticket = staticmethod(withdraw)


class _OldTrial(_Trial):
    """The same with a protocol for which objects are asked in the way of old."""

    __slots__ = ()

    protocol = 0


class Probe(ReusablePickler, _Looker):
    """Tries parts of what is written for tasks, to find the one that cannot travel."""

    __slots__ = ()


class _Large:
    """The buffers that are left out of a pickle, and from which size on."""

    __slots__ = ("buffers", "threshold")

    def __init__(self) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        self.threshold = _NONE_IS_LARGE


_NONE_IS_LARGE = sys.maxsize


def _stays(large: _Large, buffer: pickle.PickleBuffer) -> bool:
    """Whether a buffer stays in the pickle; if not, it is noted."""
    with memoryview(buffer) as view:
        if view.nbytes < large.threshold or not view.contiguous:
            return True
    large.buffers.append(buffer)
    return False


# Bytes of a pickle after which a pickler is kept: the memo of a longer one may be large.  To empty
# one of a thousand entries takes a fifth of what it takes to make a pickler.
_SMALL = 4096


def take(kind: type[ReusablePickler]) -> Any:
    """A pickler of this kind that nobody uses; to be given back with `release`."""
    if kind.dispatch_table is not kind.seen_table:
        # Somebody has set one on the class, which C picklers look at when they are made.
        kind.seen_table = kind.dispatch_table
        kind.spare.clear()
    try:
        return kind.spare.pop()
    except IndexError:
        return kind()


def pickled(
    kind: type[ReusablePickler], obj: Any, table: Table | None = None, leaves_given: bool = False
) -> bytes:
    """The pickle of an object by this kind of pickler; errors are as the C pickler raises them."""
    pickler = take(kind)
    if leaves_given:
        pickler.met[LEAVES_GIVEN] = True
    if table is not None:
        pickler.use(table)
    data: bytes = pickler.pickled(obj)
    pickler.release(len(data))
    return data


def gathered(
    kind: type[ReusablePickler], obj: Any, lender: Taker, table: Table | None = None
) -> bytes | Parcel:
    """As `pickled`, but what is large is left to the lender."""
    pickler = take(kind)
    pickler.use(table)
    data: bytes | Parcel = pickler.gathered(obj, lender)
    pickler.release(len(data))
    return data


def dumps(
    obj: Any,
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> bytes:
    """Pickle an object, functions and classes by value where they cannot be imported.

    Args:
        obj: any object.
        protocol: as in `pickle`; the highest by default.
        buffer_callback: as in `pickle`: takes buffers out of band, from protocol 5.

    Returns:
        Bytes for `pickle.loads`, in any process where hookpool can be imported.

    Raises:
        pickle.PicklingError: something in it cannot travel; the message says where it is.

    >>> loads(dumps(lambda x: x * 2))(21)
    42
    """
    if buffer_callback is None and (protocol is None or protocol == _HIGHEST):
        return dumps_by(ReusablePickler, obj)
    file = BytesIO()
    dump(obj, file, protocol, buffer_callback)
    return file.getvalue()


def dumps_by(
    kind: type[ReusablePickler],
    obj: Any,
    parts: Mapping[str, Any] | None = None,
    leaves_given: bool = False,
) -> bytes:
    """The pickle of an object by this kind of pickler; errors are told as by `write`."""
    plans.check()
    try:
        return pickled(kind, obj, leaves_given=leaves_given)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
        if kind.shares_namespaces and not leaves_given and is_for_start(error):
            return dumps_by(kind, obj, parts, leaves_given=True)
        raise_explained(error, parts or {"object": obj})


def dump(
    obj: Any,
    file: IO[bytes],
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> None:
    """Write the pickle of an object to a file; see `dumps`.

    Args:
        obj: any object.
        file: an object with a ``write`` method.
        protocol: as in `pickle`; the highest by default.
        buffer_callback: as in `pickle`: takes buffers out of band, from protocol 5.

    Raises:
        pickle.PicklingError: something in it cannot travel; the message says where it is.
    """
    write(HookPickler(file, protocol, buffer_callback=buffer_callback), obj)


def write(pickler: HookPickler, obj: Any, parts: Mapping[str, Any] | None = None) -> None:
    """Let a pickler write an object; errors give the path to the culprit from one of `parts`."""
    plans.check()
    try:
        pickler.run(obj)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
        trial = _OldTrial if 0 <= pickler.protocol < 2 else _Trial
        raise_explained(error, parts or {"object": obj}, trial)


def raise_explained(
    error: Exception,
    parts: Mapping[str, Any],
    kind: type[ReusablePickler] = _Trial,
) -> NoReturn:
    """Raise what a pickler raised; with the path to the culprit if it says what cannot travel.

    Args:
        error: what it raised.
        parts: what it was to write, by the names that the message is to use.
        kind: the picklers to try the parts with.
    """
    # Not `isinstance`, here and below, which would ask the error's own `__class__`.
    raised, text = type(error), text_of(error)
    is_refusal = is_for_start(error) or issubclass(raised, _EXPLAINED)
    probe = partial(pickled, kind)
    if not is_refusal and not _comes_again(error, parts, probe):
        raise error
    # Imported late: every worker would pay for what most never need.
    from hookpool import _culprit, errors

    if issubclass(raised, errors.CannotPickle):
        raise error  # from a dump inside this one, which has explained it
    story = _culprit.explain_parts(parts, error, probe)
    if is_refusal or raised in _LIKE_REFUSALS:
        raise errors.cannot_pickle(story, error) from error
    # Of a type that somebody may want to catch.
    has_path = story != text and not story.startswith("pickling this ")
    if has_path and story not in getattr(error, "__notes__", ()):
        error.add_note(story)
    raise error


def _comes_again(
    error: Exception, parts: Mapping[str, Any], probe: Callable[[Any], object]
) -> bool:
    """Whether it is about an object: not about a file that takes no more, nor the memory."""
    kind = type(error)
    if kind.__module__ != "builtins" or issubclass(kind, _NOT_TO_TRY_AGAIN):
        return False
    try:
        probe(SimpleNamespace(parts=list(parts.values())))
    except Exception as again:  # noqa: BLE001 - whatever a user's __reduce__ raises
        return type(again) is kind
    return False


_EXPLAINED = (pickle.PicklingError, TypeError, AttributeError, RecursionError)
# Somebody has had enough, perhaps in the handler of a signal; so may those have who raise errors
# of their own, as libraries that limit time do.
_NOT_TO_TRY_AGAIN = (MemoryError, TimeoutError, InterruptedError)
# What a `__reduce__` raises that means to refuse; there are errors that are these as well.
_LIKE_REFUSALS = frozenset({ValueError, KeyError, NotImplementedError})
