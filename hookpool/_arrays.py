"""The large arrays of one `Parallel`, in files that workers map.

Owns the files and the folder they are in. An array is written once, whatever the number of tasks
it is sent with, and its file is removed when neither the array nor a task that was sent with it is
left, and at the latest with the folder at the end of the `Parallel`. Joblib's resource tracker, a
process that outlives this one by a moment, is told of the folder when it is made, and removes it
should this process be killed.

Called by the thread that dispatches, which may be any, but is one at a time: joblib holds a lock.
`release` is called by others, too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import uuid
import weakref
from collections import deque
from typing import Any

from joblib._memmapping_reducer import _get_temp_dir
from joblib.externals.loky.backend import resource_tracker

from hookpool._batch import (
    FOLDER,
    CapturesMapped,
    backing_map,
    contents_of,
    mapped,
    reduce_mapped,
    table_of,
)
from hookpool.reduction import Table

__all__ = ["Arrays", "File"]


class File:
    """An array on disk (or in shared memory), as long as it or a batch that uses it exists."""

    __slots__ = ("array", "path", "reduced", "users")

    def __init__(self, path: str, array: weakref.ref[Any], reduced: tuple[Any, ...]) -> None:
        self.path = path
        self.array = array
        #: What stands in a pickle for the array.
        self.reduced = reduced
        #: Batches that have been sent with it and are not done.
        self.users = 0


class Arrays:
    """The files of one `Parallel`; the arguments are those of joblib."""

    def __init__(
        self, max_nbytes: float | None, mmap_mode: str | None, temp_folder: str | None
    ) -> None:
        self._max_nbytes = None if mmap_mode is None else max_nbytes
        # "w+" would empty the file that is to be read.
        self._mmap_mode = "r+" if mmap_mode == "w+" else mmap_mode
        self._temp_folder = temp_folder
        self._folder: str | None = None
        self._files: dict[int, File] = {}  # by the id of the array
        #: Guards the files and their users; not held while a file is written or removed.
        self._lock = threading.Lock()
        #: How often all files were forgotten.
        self._times_forgotten = 0
        # Ids of arrays that are gone: their weak references append here, and do nothing else,
        # since they may come at any moment in a thread that holds the lock.
        self._gone: deque[int] = deque()
        #: The files met since `take_held` was last called.
        self._held: list[File] = []

    def take_held(self) -> list[File]:
        """The files that were named since the last call; each awaits its `release`."""
        held, self._held = self._held, []
        return held

    def release(self, held: list[File]) -> None:
        """A batch is done; files that nobody can ask for again are removed."""
        with self._lock:
            paths = []
            for file in held:
                file.users -= 1
                if file.users == 0 and file.array() is None:
                    paths.append(file.path)
            paths += self._sweep()
        _remove_all(paths)

    def forget(self) -> None:
        """Remove all files: the arrays may change, and must then be written again."""
        with self._lock:
            files, self._files = self._files, {}
            self._times_forgotten += 1
        _remove_all([file.path for file in files.values()])

    def close(self) -> None:
        """Remove the folder."""
        self.forget()
        folder, self._folder = self._folder, None
        if folder is not None:
            try:
                _remove_folder(folder)
            except OSError:
                return  # a worker on Windows maps it still; the tracker removes it at exit
            resource_tracker.unregister(folder, "folder")

    def table(self) -> Table | None:
        """The reducers of arrays that travel with a batch."""
        return table_of(self._reduce)

    def table_of_captured(self) -> Table | None:
        """The reducers of arrays in functions that workers keep, which must not keep a map.

        It would hold the memory of its file, which is removed at the end of the call.
        """
        return table_of(self._reduce_captured)

    def _reduce_captured(self, array: Any) -> Any:
        if _map_of_users(array) is None and self._is_mapped(array):
            raise CapturesMapped
        return self._reduce(array)

    def has_mapped(self) -> bool:
        """Whether there are files now."""
        return bool(self._files)

    def _is_mapped(self, array: Any) -> bool:
        least = self._max_nbytes
        return least is not None and array.nbytes > least and not array.dtype.hasobject

    def _reduce(self, array: Any) -> Any:
        backing = _map_of_users(array)
        if backing is not None:
            return reduce_mapped(array, backing)
        if not self._is_mapped(array):
            return _sent(array)
        with self._lock:
            paths = self._sweep()
            file = self._files.get(id(array))
            if file is not None:
                file.users += 1
            times = self._times_forgotten
        _remove_all(paths)
        if file is None:
            # Without the lock, which the pool's own thread takes to release: it is not to wait
            # for a disk.  Nobody else writes, and the array, which is alive, keeps its id.
            try:
                file = self._written(array)
            except FileNotFoundError:
                if times == self._times_forgotten:
                    raise
            if file is None or not self._is_kept(file, times):
                return _sent(array)
        self._held.append(file)
        return file.reduced

    def _is_kept(self, file: File, times: int) -> bool:
        """Have a file that was written be known, unless all were to be forgotten meanwhile."""
        array = file.array()
        with self._lock:
            if times == self._times_forgotten:
                file.users += 1
                self._files[id(array)] = file
                return True
        _remove(file.path)
        folder = os.path.dirname(file.path)
        if folder != self._folder:  # closed: it could not be removed with the file being written
            with contextlib.suppress(OSError):
                os.rmdir(folder)
                resource_tracker.unregister(folder, "folder")
        return False

    def _written(self, array: Any) -> File:
        if self._folder is None:
            self._folder = _make_folder(self._temp_folder)
        path = os.path.join(self._folder, f"{uuid.uuid4().hex}.raw")
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        _write(array, path, order)
        # A map that could be written to, for its owner alone, is one that each task can write to.
        mode = self._mmap_mode if backing_map(array) is None else "c"
        arguments = (path, array.dtype, mode, 0, array.shape, order)
        number, gone = id(array), self._gone
        ref = weakref.ref(array, lambda _: gone.append(number))
        # Copy on write is for one batch, so nobody may keep that map.
        make = sys.modules["numpy"].memmap if mode == "c" else mapped
        return File(path, ref, (make, arguments))

    def _sweep(self) -> list[str]:
        """Forget the files of arrays that are gone; returns those to be removed."""
        assert self._lock.locked()
        paths = []
        while self._gone:
            number = self._gone.popleft()
            file = self._files.get(number)
            # Another array may have got the id since.
            if file is not None and file.array() is None:
                del self._files[number]
                if file.users == 0:
                    paths.append(file.path)
        return paths


def _map_of_users(array: Any) -> Any:
    """The map of a file that an array is a part of, if what is in it is in the file."""
    backing = backing_map(array)
    return None if backing is None or backing.mode == "c" else backing


def _sent(array: Any) -> Any:
    if backing_map(array) is not None:  # copied on write, so the file is not what it is
        return contents_of(array)
    return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _write(array: Any, path: str, order: str) -> None:
    """The items of an array, without any header: a map then begins at the start of a page."""
    numpy = sys.modules["numpy"]
    # A copy if the array has gaps. Dates have no buffers, but their bytes do.
    flat = numpy.asarray(array, order=order).reshape(-1, order=order)
    with open(path, "xb", buffering=0) as file:
        rest = memoryview(flat.view(numpy.uint8))
        while rest:
            rest = rest[file.write(rest) :]  # Linux takes at most 2 GB at once


def _make_folder(temp_folder: str | None) -> str:
    """A private folder where joblib's documentation says, known to joblib's tracker."""
    name = f"{FOLDER}{os.getpid()}_{uuid.uuid4().hex}"
    folder: str = _get_temp_dir(name, temp_folder)[0]
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o700)
    resource_tracker.register(folder, "folder")
    return folder


def _remove_folder(folder: str) -> None:
    for name in os.listdir(folder):
        _remove(os.path.join(folder, name))
    os.rmdir(folder)


def _remove_all(paths: list[str]) -> None:
    for path in paths:
        _remove(path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):  # the latter: mapped, on Windows
        os.unlink(path)
