"""Large buffers that several workers will have: copied once, and found again by their originals.

Owns what makes buffers of all arrays where nobody may write to them, and the answer to whether an
original is still what its copy is, which is a comparison: then nothing has to be copied or sent.
Where an original is, is only a hint where to look.

Any thread may call it.
"""

from __future__ import annotations

import pickle
import sys
import weakref

from hookpool import _rebuild_objects
from hookpool._arena import is_same, memory_of
from hookpool._buffers import Lender, Parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    from hookpool._borrowed import Buffer
    from hookpool._slots import Slot

    Table: TypeAlias = Mapping[type, Callable[[Any], Any]]

# So many originals are remembered before those are looked for whose copies are gone.
_MANY = 64

#: Where an original is, and how long.
_Place: TypeAlias = tuple[int, int]


class _Copy:
    """Where a copy is.

    Not the slot: what has a finalizer can be had by a weak reference while that runs.
    """

    __slots__ = ("digest", "parcel", "part")

    def __init__(self, parcel: Parcel, part: int, digest: bytes | None) -> None:
        self.parcel = weakref.ref(parcel)
        self.part = part
        #: Of the content, if it is known.
        self.digest = digest


class _Met:
    """A buffer that was met, which holds its memory; its slot and its digest, as far as known."""

    __slots__ = ("buffer", "digest", "slot")

    def __init__(
        self, buffer: pickle.PickleBuffer, slot: Slot | None = None, digest: bytes | None = None
    ) -> None:
        self.buffer = buffer
        self.slot = slot
        self.digest = digest


class Copies:
    """What has been copied into a lender's memory for several workers."""

    def __init__(self, lender: Lender) -> None:
        self.lender = lender
        #: By place, the oldest first: functions that share an original each have a parcel.
        self._known: dict[_Place, tuple[_Copy, ...]] = {}
        #: How many places are known when those whose copies are gone are next looked for.
        self._most = _MANY

    def sharing(self, mode: int, least: int) -> Sharing:
        """For one object that several workers will have.

        Args:
            mode: see `Lender.parcel`.
            least: from which size on a buffer leaves the pickle.
        """
        return Sharing(self, mode, least)

    def find(self, place: _Place, raw: Buffer) -> tuple[Slot, bytes | None] | None:
        """The slot with a copy of what is there now, and its digest."""
        looked_at: list[Slot] = []
        for copy in reversed(self._known.get(place, ())):
            parcel = copy.parcel()
            slot = None if parcel is None else parcel.slot(copy.part)
            if parcel is None or slot is None or slot in looked_at:
                continue
            # The slot's memory, which stays while it is held here; the parcel may be let go now.
            if is_same(memory_of(slot, place[1]), raw):
                return slot, copy.digest
            looked_at.append(slot)
        return None

    def note(self, place: _Place, parcel: Parcel, part: int, digest: bytes | None) -> None:
        """A copy of what is there is in this part."""
        known = self._known
        if len(known) >= self._most:
            for one, copies in list(known.items()):
                if not _living(copies):
                    known.pop(one, None)
            self._most = max(_MANY, 2 * len(known))
        known[place] = (*_living(known.get(place, ())), _Copy(parcel, part, digest))


def _living(copies: tuple[_Copy, ...]) -> tuple[_Copy, ...]:
    return tuple([copy for copy in copies if copy.parcel() is not None])


class Sharing:
    """In the place of a lender, while one object is pickled; see `Copies.sharing`."""

    __slots__ = ("_copies", "_least", "_met", "_mode")

    def __init__(self, copies: Copies, mode: int, least: int) -> None:
        self._copies = copies
        self._mode = mode
        self._least = least
        #: What was compared or copied a moment ago is not looked at again.
        self._met: dict[_Place, _Met] = {}

    def least(self) -> int:
        """As a lender's."""
        return self._least

    def parcel(self, pickled: Sequence[Buffer], buffers: Sequence[pickle.PickleBuffer]) -> Parcel:
        """As a lender's; what has a copy already is not copied again."""
        lender, copies = self._copies.lender, self._copies
        found = [self._find(buffer) for buffer in buffers]
        parcel = lender.parcel(pickled, buffers, self._mode, found)
        for part, met in enumerate(found, 1):
            if parcel.slot(part) is not None:
                copies.note(_place(met.buffer), parcel, part, met.digest)
        return parcel

    def digest(self, buffer: pickle.PickleBuffer) -> bytes:
        """What tells the content of a buffer from another."""
        met = self._find(buffer)
        if met.digest is None:
            met.digest = digest(buffer.raw())
        return met.digest

    def _find(self, buffer: pickle.PickleBuffer) -> _Met:
        place = _place(buffer)
        met = self._met.get(place)
        if met is None:
            found = self._copies.find(place, buffer.raw())
            met = self._met[place] = _Met(buffer, *(found or ()))
        return met


def _place(buffer: pickle.PickleBuffer) -> _Place:
    with memoryview(buffer) as view:
        owner: Any = view.obj
        size = view.nbytes
    kind = type(owner)
    if kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "memmap"):
        # There is a new object each time where an array is not in C's order.  (Not so a scalar:
        # where that says it is, is a copy.)
        return owner.__array_interface__["data"][0], size
    return id(owner), size


def digest(data: Buffer) -> bytes:
    """As above.

    By SHA-1, the fastest of those that many processors have built in: nobody is kept out here.
    """
    from hashlib import sha1  # late: a worker has no use for it

    return sha1(data, usedforsecurity=False).digest()


# -- what nobody may write to -------------------------------------------------------------------


def protection() -> Table:
    """Reducers of types of which something would else arrive writable."""
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)  # without numpy there are no arrays
    return {} if kind is None else {kind: _reduce_protected}


def _reduce_protected(array: Any) -> Any:
    """As numpy, but in a buffer also where numpy would write the numbers into the pickle.

    There they would be anybody's to write to when they have arrived. numpy does so for arrays with
    gaps, and for dates, which no buffer can be of.
    """
    if not array.nbytes or array.dtype.hasobject:
        return array.__reduce_ex__(5)
    flags = array.flags
    if _is_exported(array) and (flags.forc or _is_dense(array)):
        reduced = array.__reduce_ex__(5)
        if isinstance(reduced[1][0], pickle.PickleBuffer):
            return reduced
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    plain = array if flags.forc else array.copy("C")
    octets = plain.reshape(-1, order=order).view("u1")
    arguments = pickle.PickleBuffer(octets), plain.dtype, plain.shape, order
    return _rebuild_objects.array_over, arguments


def _is_exported(array: Any) -> bool:
    try:
        memoryview(array).release()
    except ValueError:  # its dtype is none that buffers know
        return False
    return True


def _is_dense(array: Any) -> bool:
    """Whether it is contiguous but for the order of its axes: newer versions of numpy see that."""
    axes = sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True)
    dense: bool = array.transpose(axes).flags.c_contiguous
    return dense
