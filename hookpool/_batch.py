"""A batch of joblib's calls: how it travels, and how it runs in a worker.

Owns the form of a batch on its way, and what joblib is to find in a worker while one runs.  Knows
neither the backend nor how large arrays are shared: both are handed in.

A function crosses to each worker once, as it does with `submit`; but one that captures an array
that is mapped goes with each batch, so that the map is let go of.

What a worker has mapped it keeps for the batches to come, until it hears that the call is over: to
map 32 MB anew takes milliseconds, for each page has to be found again when it is first used.

Imports neither joblib nor numpy.  A worker whose tasks need neither has its first result 0.2 s
earlier and is 25 MB smaller; so what joblib is to know in a worker is told to it when it is
imported, which a task may do at any moment.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import mmap
import os
import pickle
import sys
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from operator import is_, itemgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from hookpool import errors
from hookpool._definition import Definition, Reference
from hookpool._definitions import Ledger, Packet
from hookpool._plans import table_with
from hookpool._raised import summary_of
from hookpool._shelf import Tabled
from hookpool.reduction import Table

if TYPE_CHECKING:
    from hookpool._handle import Handle

__all__ = [
    "FOLDER",
    "CapturesMapped",
    "Packer",
    "backing_map",
    "contents_of",
    "mapped",
    "reduce_mapped",
    "run",
    "table_of",
]

#: The start of the name of every folder of arrays: whose leftovers they are, and which memory maps
#: in a worker are ours.
FOLDER = "joblib_memmapping_folder_hookpool_"

#: Of so many functions in one batch it is worth a look whether workers have them already. With
#: more of them each is most likely a lambda of its own, never seen before nor again.
FEW = 4
#: The most maps that a worker keeps. More would save more where a call has many large arrays, and
#: hold the memory of so many whose files are removed during the call.
KEPT = 8

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
_FUNCTION, _ARGUMENTS, _KEYWORDS = map(itemgetter, range(3))


class CapturesMapped(Exception):
    """A function captures an array that is not to be part of its definition."""


class Reducers(Protocol):
    """Who says how arrays travel."""

    def table(self) -> Table | None:
        """For those that go with a batch."""

    def table_of_captured(self) -> Table | None:
        """For those that functions capture; may raise `CapturesMapped`."""

    def has_mapped(self) -> bool:
        """Whether there is anything that workers map."""


class Packer:
    """Pickles the batches of one `Parallel` for the workers of one executor.

    Args:
        ledger: the executor's.
        reducers: of arrays.
        nested: see `run`.
    """

    def __init__(self, ledger: Ledger, reducers: Reducers, nested: tuple[str, Any]) -> None:
        self._ledger = ledger
        self._reducers = reducers
        self._nested = nested
        #: The ids of functions that capture such arrays; of some that are gone, at worst.
        self._heavy: set[int] = set()
        #: What has each worker keep what it has mapped. None before there is something to map.
        self._maps: Handle | None = None

    def end_call(self) -> None:
        """Have the workers let go of what they have mapped."""
        self._heavy.clear()
        if self._maps is not None:
            self._maps = None
            self._ledger.forgotten.wake()

    def pack(self, calls: Sequence[Call] | Callable[[], Any]) -> Packet:
        """The arguments of `run` for these calls.

        Args:
            calls: function, arguments and keywords of each; or just one function, to be called
                with nothing, whose result is then that of the batch.

        Raises:
            pickle.PicklingError: something in it cannot travel.
        """
        are_many = not callable(calls)
        if callable(calls):
            calls = ((calls, (), {}),)
        needs: list[Definition] = []
        try:
            functions = self._referred(list(map(_FUNCTION, calls)), needs)
            keywords = list(map(_KEYWORDS, calls))
            batch = (
                self._maps,  # before all that it is to keep
                self._nested,
                functions,
                list(map(_ARGUMENTS, calls)),
                keywords if any(keywords) else None,
                are_many,
            )
            packet = self._ledger.dump(batch, None, self._reducers.table())
        except Exception as error:  # a __reduce__ of the user's may raise anything
            self._explain(calls)
            if issubclass(type(error), pickle.PicklingError):
                raise
            raise errors.CannotPickle(
                f"could not pickle the task to send to the workers: {summary_of(error)}"
            ) from error
        if self._maps is None and self._reducers.has_mapped():
            self._maps = self._ledger.put(Maps(uuid.uuid4().hex), read_only=True)
        return Packet(packet.data, (*needs, *packet.needs))

    def _referred(self, functions: list[Any], needs: list[Definition]) -> list[Any]:
        """References to the functions instead, as far as they have definitions.

        Just one where all are the same, which is the rule: few objects are soon pickled.
        """
        first = functions[0]
        if all(map(is_, functions, itertools.repeat(first))):
            return [self._reference(first, needs)]
        distinct = dict(zip(map(id, functions), functions, strict=True))
        if len(distinct) > FEW:
            return functions
        references = {at: self._reference(one, needs) for at, one in distinct.items()}
        return [references[id(function)] for function in functions]

    def _reference(self, function: Any, needs: list[Definition]) -> Any:
        if id(function) in self._heavy:
            return function
        try:
            definition = self._ledger.call(function, self._reducers.table_of_captured())
        except CapturesMapped:
            self._heavy.add(id(function))
            return function
        if definition is None:
            return function
        needs += definition.needs
        needs.append(definition)
        return Reference(definition)

    def _explain(self, calls: Sequence[Call]) -> None:
        """Raise what is wrong with the first call that cannot travel, in that call's words."""
        for function, args, kwargs in calls:
            parts = {"the function": function, "args": args, "kwargs": kwargs}
            try:
                self._ledger.dump((function, args, kwargs), parts, self._reducers.table())
            except pickle.PicklingError:
                raise
            except Exception:  # noqa: BLE001 - told by the caller, who has met it before
                return


def table_of(reduce_array: Callable[[Any], Any]) -> Table | None:
    """A table with a reducer for arrays, if there can be any."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    return table_with({numpy.ndarray: reduce_array, numpy.memmap: reduce_array})


# ---- the worker's side ---------------------------------------------------------------------


class Maps:
    """The last arrays that a worker has mapped for one call of `Parallel`."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._arrays: dict[str, Any] = {}  # by path, the oldest first

    def __reduce__(self) -> tuple[Any, ...]:
        return _begin_maps, (self._call,)

    def get(self, path: str) -> Any:
        """The array of that file, if it is here."""
        return self._arrays.get(path)

    def keep(self, path: str, array: Any) -> None:
        """Have it here for the next ones, and none whose file is gone."""
        self.let_go()
        while len(self._arrays) >= KEPT:
            del self._arrays[next(iter(self._arrays))]
        self._arrays[path] = array

    def let_go(self) -> None:
        """Have none whose file is gone: the call that it was for is over."""
        for path in list(self._arrays):
            if not os.path.exists(path):
                del self._arrays[path]


#: What the worker has of the calls that are not over, the newest last; and of others where a
#: function goes on to have one of their arrays in a global.
_current: weakref.WeakValueDictionary[int, Maps] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def _begin_maps(call: str) -> Maps:
    maps = Maps(call)
    _current[next(_numbers)] = maps
    return maps


def mapped(path: str, *how: Any) -> Any:
    """An array that is in a file; the arguments are those of `numpy.memmap`.

    A view of it: what a task does to the shape of an array is no business of the next task's.
    """
    keepers = list(_current.values())
    for maps in keepers:
        array = maps.get(path)
        if array is not None:
            return array.view()
    array = importlib.import_module("numpy").memmap(path, *how)
    if keepers:
        keepers[-1].keep(path, array)
    return array.view()


def run(
    maps: object,
    nested: tuple[str, Any],
    functions: Sequence[Callable[..., Any]],
    arguments: Sequence[tuple[Any, ...]],
    keywords: Sequence[dict[str, Any]] | None,
    are_many: bool,
) -> Any:
    """Run a batch: a list of what its calls return.

    Args:
        maps: what keeps what is mapped.
        nested: what joblib is to do with a `Parallel` in one of the calls: the name of a module
            and an argument for its `nested`, which returns a context manager.
        functions: one for each call, or one for all.
        arguments: of each call.
        keywords: of each call; None if there are none.
        are_many: if not, what the only call returns is returned.
    """
    for kept in list(_current.values()):
        kept.let_go()
    with _Nested(*nested):
        results = _results(functions, arguments, keywords)
    outcome = results if are_many else results[0]
    table = table_of(_reduce_result)
    return outcome if table is None else Tabled(outcome, table)


def _results(
    functions: Sequence[Any], arguments: Sequence[Any], keywords: Iterable[Any] | None
) -> list[Any]:
    one_for_all = len(functions) == 1
    if one_for_all and keywords is None:
        function = functions[0]
        # Not by `starmap`, which a StopIteration of the function's would end.
        return [function(*args) for args in arguments]
    calls = zip(
        itertools.repeat(functions[0]) if one_for_all else functions,
        arguments,
        itertools.repeat({}) if keywords is None else keywords,
        strict=False,
    )
    return [function(*args, **kwargs) for function, args, kwargs in calls]


class _Nested(contextlib.AbstractContextManager[None]):
    """Tells joblib in this process that a batch is running: now, or once a task imports it.

    A finder of modules, for the import of one: joblib's. Then it is gone.
    """

    def __init__(self, module: str, argument: Any) -> None:
        self._module = module
        self._argument = argument
        self._told: contextlib.AbstractContextManager[Any] | None = None
        self._loader: Any = None

    def __enter__(self) -> None:
        if "joblib" in sys.modules:
            self._tell()
        else:
            sys.meta_path.insert(0, self)

    def __exit__(self, *error: Any) -> None:
        self._stop_waiting()
        if self._told is not None:
            self._told.__exit__(*error)

    def _tell(self) -> None:
        self._told = importlib.import_module(self._module).nested(self._argument)
        self._told.__enter__()

    def _stop_waiting(self) -> None:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """Joblib as the others find it, to be loaded by us."""
        if name != "joblib":
            return None
        self._stop_waiting()
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As usual."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does it that was found, which is what the module remembers."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell()


def _reduce_result(array: Any) -> Any:
    """Arrays go back as they are, maps of the user's own files by the name of the file."""
    backing = backing_map(array)
    if backing is None:
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if os.path.basename(os.path.dirname(backing.filename)).startswith(FOLDER):
        return contents_of(array)  # the file ends with the call; results must not refer to it
    return contents_of(array) if backing.mode == "c" else reduce_mapped(array, backing)


# ---- both sides ----------------------------------------------------------------------------


def reduce_mapped(array: Any, backing: Any) -> Any:
    """What has the other side map the file that an array is a part of, and find the array there.

    Joblib's own reducer takes a view for what it is a view of: the transpose of a map arrived
    with its numbers in another order, and one that runs backwards outside of its memory.

    Args:
        array: any view whose memory is in a map.
        backing: that map, as made by `numpy.memmap`.
    """
    before, size = _extent(array)
    start = _address(array) - before - _address(backing)
    if not array.size or start < 0 or start + size > backing.nbytes:
        return contents_of(array)  # nothing to be mapped, or made by hand
    # What cannot be written to here cannot be there; and a "w+" would empty the file.
    mode = "r" if backing.mode == "r" or not array.flags.writeable else "r+"
    file, start = backing.filename, start + backing.offset
    if array.flags.c_contiguous or array.flags.f_contiguous:
        order = "C" if array.flags.c_contiguous else "F"
        memmap = sys.modules["numpy"].memmap
        return memmap, (file, array.dtype, mode, start, array.shape, order)
    how = array.shape, array.dtype, before, array.strides
    return _view_of_mapped, (file, mode, start, size, *how)


def _extent(array: Any) -> tuple[int, int]:
    """How many bytes of an array are before its first item, and how many it takes in all."""
    steps = [(n - 1) * by for n, by in zip(array.shape, array.strides, strict=True)]
    before = -sum(step for step in steps if step < 0)
    return before, before + sum(step for step in steps if step > 0) + array.itemsize


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _view_of_mapped(
    path: str,
    mode: str,
    start: int,
    size: int,
    shape: tuple[int, ...],
    dtype: Any,
    before: int,
    strides: tuple[int, ...],
) -> Any:
    """An array with gaps, or backwards, in so many bytes of a file."""
    numpy = importlib.import_module("numpy")
    flat = numpy.memmap(path, numpy.uint8, mode, start, (size,))
    return numpy.ndarray(shape, dtype, flat, before, strides)


def contents_of(array: Any) -> Any:
    """What has the other side make an array in memory, if this one is a map."""
    plain = array.view(sys.modules["numpy"].ndarray)
    return plain.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def backing_map(array: Any) -> Any:
    """The `numpy.memmap` of a file that an array is a part of; None if there is none."""
    while (base := getattr(array, "base", None)) is not None:
        if isinstance(base, mmap.mmap):
            return array if getattr(array, "filename", None) is not None else None
        array = base
    return None
