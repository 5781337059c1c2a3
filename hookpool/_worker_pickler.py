"""Pickles for workers: captured globals carry a stamp, which tells a worker what it has already.

A stamp is what its value would be as a pickle, or a digest of that; large buffers go into it by
digests of their own.  So a worker that has met a function before keeps the globals of it that have
not changed, and with them what tasks did to them.

Owns these picklers and the stamps.  Knows nothing of channels or tasks.  Any thread may call the
functions; one pickler belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from types import FunctionType, ModuleType

from hookpool import _classes, _objects, _rebuild
from hookpool._handle import reduce_by_number
from hookpool._importable import is_importable, is_module_importable
from hookpool._met import STAMPS
from hookpool._plain import ATOMS
from hookpool._plans import plans
from hookpool._sentinels import is_noted, is_sentinel, note_sentinels, reduce_sentinel
from hookpool.reduction import (
    HookPickler,
    ReusablePickler,
    dumps_by,
    gathered,
    raise_explained,
    take,
    write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hookpool._buffers import Parcel
    from hookpool._sharing import Sharing
    from hookpool.reduction import Table


class WorkerPickler(HookPickler):
    """Writes for a worker: captured globals carry a stamp, which tells it what it has already."""

    __slots__ = ()

    make_function = staticmethod(_rebuild.task_function)
    shares_namespaces = True

    def stamps_of(
        self, fn: FunctionType, names: tuple[str, ...], captured: dict[str, Any]
    ) -> dict[str, bytes]:
        """Stamps of those captured globals that do not stand for themselves."""
        return self.stamps_in(captured)

    def stamps_in(self, space: dict[str, Any]) -> dict[str, bytes]:
        """The same for what a module holds."""
        return {
            name: self.stamp(value)
            for name, value in space.items()
            if not stands_for_itself(value)
        }

    def stamp(self, value: Any) -> bytes:
        """What tells this value from another one that the same name might have."""
        stamps = self.met.get(STAMPS)
        if stamps is None:
            stamps = self.met[STAMPS] = {}
        known = stamps.get(id(value))
        if known is None:
            # The value is kept too, or another one might get its id while this dump lasts.
            known = stamps[id(value)] = _stamp(value, self.digest, self.table), value
        stamp: bytes = known[0]
        return stamp

    def note(self, values: Iterable[Any]) -> None:
        """What a function in this pickle has as defaults, globals and closure variables: sentinels
        among it are to be the same objects everywhere."""
        note_sentinels(self.met, values)

    def reduce_empty(self, obj: Any) -> Any:
        """A sentinel of a function's; arguments are copies."""
        return reduce_sentinel(obj) if is_noted(self.met, obj) else super().reduce_empty(obj)

    def digest(self, buffer: pickle.PickleBuffer) -> bytes:
        """What tells the content of a large buffer from another."""
        from hookpool import _sharing  # late: who pickles for nobody in particular needs none

        return _sharing.digest(buffer.raw())


class ProcessPickler(WorkerPickler):
    """Writes a process that is to be started: its arguments are handed over, and not itself."""

    __slots__ = ()

    def given(self) -> tuple[Any, ...]:
        """The arguments."""
        return self.root._args, self.root._kwargs


class TaskPickler(ReusablePickler, WorkerPickler):
    """Writes for a worker, one object after the other."""

    __slots__ = ()


class StartPickler(TaskPickler):
    """Writes what each worker of a pool is told first."""

    __slots__ = ("sharing",)

    gathers = True
    sharing: Sharing

    def digest(self, buffer: pickle.PickleBuffer) -> bytes:
        """As for any worker; of what was copied before it is known."""
        return self.sharing.digest(buffer)


def start_gathered(obj: Any, parts: Mapping[str, Any], sharing: Sharing) -> bytes | Parcel:
    """As `worker_dumps`, but what is large is shared by all workers."""
    plans.check()
    pickler = take(StartPickler)
    pickler.sharing = sharing
    try:
        data: bytes | Parcel = pickler.gathered(obj, sharing)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
        raise_explained(error, parts)
    del pickler.sharing
    pickler.release(len(data))
    return data


def worker_dumps(
    obj: Any,
    buffer_callback: Callable[[Any], Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> bytes:
    """As `dumps`, for a process that has called `_rebuild.enter_worker`; errors as by `write`."""
    if buffer_callback is None:
        return dumps_by(TaskPickler, obj, parts)
    file = BytesIO()
    write(WorkerPickler(file, buffer_callback=buffer_callback), obj, parts)
    return file.getvalue()


class _StampPickler(ReusablePickler):
    """Writes what a captured global is, for comparison only.

    Functions go without their globals, which carry stamps of their own, and classes by their
    identity and version.
    """

    __slots__ = ()

    gathers = True

    def stamps_of(self, fn: FunctionType, names: tuple[str, ...], captured: dict[str, Any]) -> Any:
        """That no globals are wanted."""
        return self.no_globals

    is_stamping = True

    def reduce_empty(self, obj: Any) -> Any:
        """As in definitions."""
        return reduce_sentinel(obj) if is_sentinel(self.met, obj) else super().reduce_empty(obj)

    def reduce_class(self, cls: Any) -> Any:
        """The identity of a class, and its version and those of all that is written with it."""
        return _rebuild.known_class, (_classes.identity(cls).token, *_classes.versions_of(cls))

    # Two handles are two values, whatever was put.
    reduce_handle = staticmethod(reduce_by_number)


# A stamp up to this long is the pickle itself.
_SHORT = 32
# From here on buffers are not copied for it.
_LONG = 1 << 16


def stands_for_itself(value: Any) -> bool:
    """Whether the receiver can tell from the value alone that it is the one it has got."""
    kind = type(value)
    if id(kind) in ATOMS:
        return True
    if kind is ModuleType:
        return is_module_importable(value.__name__)
    if kind is FunctionType or issubclass(kind, type):
        return is_importable(value)
    return False


def stamps_of(values: Mapping[str, Any]) -> dict[str, object]:
    """By what a worker knows captured globals that it has been sent; not of what cannot travel."""
    pickler, stamps = TaskPickler(), dict[str, object]()
    for name, value in values.items():
        with contextlib.suppress(Exception):  # whatever a user's __reduce__ raises
            stamps[name] = value if stands_for_itself(value) else pickler.stamp(value)
    return stamps


def is_small(value: Any) -> bool:
    """Whether it is a container of a few numbers and strings: to stamp it takes no time."""
    kind = type(value)
    if not issubclass(kind, dict | list | set) or kind.__module__ not in _PLAIN_MODULES:
        return False
    if len(value) > _FEW:
        return False
    parts = (*value, *value.values()) if issubclass(kind, dict) else value
    return ATOMS.issuperset(map(id, map(type, parts)))


_PLAIN_MODULES = frozenset({"builtins", "collections"})
_FEW = 100


class _Digests:
    """In the place of a lender: takes the digests of large buffers for the buffers."""

    __slots__ = ("_digest",)

    def __init__(self, digest: Callable[[pickle.PickleBuffer], bytes]) -> None:
        self._digest = digest

    def least(self) -> int:
        return _LONG

    def parcel(self, pieces: Sequence[Any], buffers: Sequence[pickle.PickleBuffer]) -> bytes:
        return b"".join([*pieces, *map(self._digest, buffers)])


def _stamp(
    value: Any, digest: Callable[[pickle.PickleBuffer], bytes], table: Table | None
) -> bytes:
    with _objects.without_handing_over():
        data = gathered(_StampPickler, value, _Digests(digest), table)
    assert type(data) is bytes
    if len(data) <= _SHORT:
        return data
    # Imported late: a worker has no use for it.
    from hashlib import blake2b

    return blake2b(data, digest_size=16).digest()
