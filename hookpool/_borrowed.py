"""What has arrived in shared memory: where it is mapped, and when it is given back.

Owns the mappings of other processes' arenas, the exporters that arrays and views over them keep
alive, and private copies of what several processes hold.  Whose an arena is, and who hears that a
lease has ended, is `_buffers`' business.

Any thread may load, and drop whatever it likes at any time.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import pickle
import sys
import threading
from functools import partial

from hookpool._slots import gaps
from hookpool._streams import filled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"


def mapped(fd: int, size: int) -> mmap.mmap:
    """All of an arena, as it is seen by whoever else has it mapped."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    with filled():  # it holds a descriptor of its own
        return mmap.mmap(fd, size)


class Mapped:
    """An arena of somebody else's, as it is mapped here."""

    __slots__ = ("_exporter", "_is_private", "_mapping", "fd", "forks", "is_forked", "size")

    def __init__(self, fd: int, size: int, forks: object = None) -> None:
        self.fd = fd
        self.size = size
        #: What stood for all forks of this process when this was mapped.
        self.forks = forks
        #: Whether a forked child may have it mapped, too, and what is written here stays here.
        self.is_forked = False
        self._is_private = False
        self._mapping = mapped(fd, size)
        self._exporter = _exporter(size)

    def whole(self, lease: int, ended: Callable[[int], None]) -> memoryview:
        """All of it, in the name of a lease: `ended` is called when the last view is gone."""
        exporter = self._exporter.from_buffer(self._mapping)
        exporter.lease = lease
        exporter.ended = ended
        return memoryview(exporter).cast("B")

    def look(self, offset: int, length: int) -> memoryview:
        """A part, to be read while its lease lasts."""
        return memoryview(self._mapping)[offset : offset + length].toreadonly()

    def private(self, offset: int, length: int, tenure: Tenure) -> memoryview:
        """A part, mapped so that nobody else sees what is written to it here.

        Not by Python's `mmap`, which before 3.13 would hold a descriptor for each.
        """
        if not length:
            return memoryview(bytearray())
        base = _map(None, length, mmap.MAP_PRIVATE, self.fd, offset)
        exporter = _exporter(length).from_address(base)
        exporter.lease = base
        exporter.ended = partial(_unmap, length, tenure)
        return memoryview(exporter).cast("B")

    def punch(self, kept: list[tuple[int, int]]) -> None:
        """Give back the memory of all but these parts, each from where on and how much.

        For whoever has it mapped the rest is zero from then on; or nothing changes.
        """
        with contextlib.suppress(OSError, AttributeError):
            for start, length in gaps(kept, self.size, mmap.PAGESIZE):
                self._mapping.madvise(mmap.MADV_REMOVE, start, length)

    def isolate(self) -> None:
        """Make the mapping private in place: same addresses, same content.

        All of it: each part would be one of the mappings of which a process may have some ten
        thousand only.  What is lent later shows here, too, but in pages that have been written to.
        """
        import ctypes

        self.is_forked = True  # before: whoever ends a lease and does not see it is early enough
        with _isolating:
            if not self._is_private:  # or it would show what others wrote, and not what we did
                base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
                flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
                _map(base, self.size, flags, self.fd, 0)
                self._is_private = True

    def __del__(self) -> None:
        os.close(self.fd)


# Two threads may fork at once: each shall find done what it finds begun.
_isolating = threading.RLock()


def after_fork_in_child() -> None:
    """Forget that a thread that does not exist here was about to isolate something."""
    global _isolating
    _isolating = threading.RLock()


_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_FAILED = 2 ** (8 * (8 if sys.maxsize > 1 << 32 else 4)) - 1  # what mmap says instead of NULL


def _map(at: int | None, length: int, flags: int, fd: int, offset: int) -> int:
    import ctypes

    access = mmap.PROT_READ | mmap.PROT_WRITE
    base: int | None = _libc().mmap(at, length, access, flags, fd, offset)
    if base is None or base == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"shared memory could not be mapped: {os.strerror(error)}")
    return base


def _unmap(length: int, tenure: Tenure, base: int) -> None:
    """A private copy is gone; `tenure` is, too, when this has been called."""
    _libc().munmap(base, length)


class Tenure:
    """A lease of what others hold, too; it ends with the last reference to this."""

    __slots__ = ("_ended", "_lease")

    def __init__(self, lease: int, ended: Callable[[int], None]) -> None:
        self._ended = ended
        self._lease = lease

    def __del__(self) -> None:
        self._ended(self._lease)


class Common:
    """A part that others hold, too: each time that it is loaded is a copy of its own."""

    __slots__ = ("_arena", "_length", "_offset", "_read_only", "_tenure")

    def __init__(
        self, arena: Mapped, offset: int, length: int, tenure: Tenure, read_only: bool
    ) -> None:
        self._arena = arena
        self._length = length
        self._offset = offset
        self._read_only = read_only
        self._tenure = tenure

    def look(self) -> memoryview:
        """It, to be read and not kept."""
        return self._arena.look(self._offset, self._length)

    def copy(self) -> memoryview:
        """What one loading gets."""
        copy = self._arena.private(self._offset, self._length, self._tenure)
        return copy.toreadonly() if self._read_only else copy


class Inline:
    """The same, of a part that came by the pipe."""

    __slots__ = ("_data", "_read_only")

    def __init__(self, data: Buffer, read_only: bool) -> None:
        self._data = data
        self._read_only = read_only

    def look(self) -> Buffer:
        """As above."""
        return self._data

    def copy(self) -> Buffer:
        """As above."""
        return memoryview(self._data).toreadonly() if self._read_only else bytearray(self._data)


@functools.lru_cache(64)
def _exporter(size: int) -> Any:
    """The type of exporters of arenas, or private copies, of this size.

    From ctypes, because before Python 3.12 nothing else that is written in Python can export the
    memory of another object; imported late, because few processes need it.
    """
    import ctypes

    class Exporter(ctypes.c_ubyte * size):  # type: ignore[misc]
        __slots__ = ("ended", "lease")

        def __del__(self) -> None:
            self.ended(self.lease)

    return Exporter


@functools.cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    integers = ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, *integers)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


class Borrowed:
    """What has arrived; its leases end when neither it nor anything loaded from it is left."""

    __slots__ = ("_error", "_parts")

    def __init__(
        self, parts: Sequence[Buffer | Common | Inline], error: OSError | None = None
    ) -> None:
        self._parts = parts
        #: Why the parts are not there.
        self._error = error

    def is_lost(self) -> bool:
        """Whether it did not arrive, so that loading it raises each time."""
        return self._error is not None

    def loads(self) -> Any:
        """Unpickle it: once only, unless it was sent to be shared."""
        if self._error is not None:
            raise self._error
        parts = self._parts
        data = [part.copy() if isinstance(part, _PARTS) else part for part in parts[1:]]
        head = parts[0]
        return pickle.loads(head.look() if isinstance(head, _PARTS) else head, buffers=data)

    def load_once(self) -> Any:
        """Unpickle it; from then on only what was loaded keeps its memory."""
        value = self.loads()
        self._parts = []  # not before: an interrupted loading may be tried again
        return value


_PARTS = Common, Inline


def loads(data: Buffer | Borrowed) -> Any:
    """Unpickle what has arrived."""
    return data.load_once() if type(data) is Borrowed else pickle.loads(data)  # type: ignore[arg-type]


def loads_again(data: Buffer | Borrowed) -> Any:
    """As `loads`, and it can be loaded again: only what came of one loading is to be kept."""
    return data.loads() if type(data) is Borrowed else pickle.loads(data)  # type: ignore[arg-type]
