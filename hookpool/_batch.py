"""A batch of joblib's calls: how it travels, and how it runs in a worker.

Owns the form of a batch on its way, and what joblib is to find in a worker while one runs.  Knows
neither the backend nor how large arrays are shared: both are handed in.

Imports neither joblib nor numpy.  A worker whose tasks need neither has its first result 0.2 s
earlier and is 25 MB smaller; so what joblib is to know in a worker is told to it when it is
imported, which a task may do at any moment.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import importlib.util
import io
import itertools
import mmap
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hookpool import errors
from hookpool.reduction import WorkerPickler

__all__ = ["FOLDER", "backing_map", "dump", "dump_calls", "load", "run"]

#: The start of the name of every folder of arrays: whose leftovers they are, and which memory maps
#: in a worker are ours.
FOLDER = "joblib_memmapping_folder_hookpool_"

#: Buffers of this size go beside the pickle, in bytes: each costs some microseconds to handle, and
#: saves two copies.
LARGE = 1 << 14

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Reducer = Callable[[Any], Any]

#: A pickle, and what was large in it: a value of the executor's, which may send buffers as it
#: likes.
Parcel = tuple[Any, ...]


def dump(obj: Any, reduce_array: Reducer, what: str) -> Parcel:
    """Pickle an object; `reduce_array` is asked how each numpy array is to travel.

    Raises:
        pickle.PicklingError: something in it cannot travel.
    """
    large: list[pickle.PickleBuffer] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < LARGE:
            return True
        large.append(buffer)
        return False

    file = io.BytesIO()
    pickler = WorkerPickler(file, buffer_callback=keep_inside)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        pickler.dispatch_table = {
            **copyreg.dispatch_table,
            numpy.ndarray: reduce_array,
            numpy.memmap: reduce_array,
        }
    try:
        pickler.dump(obj)
    except pickle.PicklingError:
        raise
    except Exception as error:  # a __reduce__ of the user's may raise anything
        raise errors.CannotPickle(
            f"could not pickle {what}: {type(error).__name__}: {error}"
        ) from error
    return file.getvalue(), *large


def load(parcel: Parcel) -> Any:
    """What was dumped."""
    return pickle.loads(parcel[0], buffers=parcel[1:])


def dump_calls(
    calls: Sequence[Call] | Callable[[], Any], nested: tuple[str, Any], reduce_array: Reducer
) -> Parcel:
    """Pickle the calls of a batch for `run`.

    Args:
        calls: function, arguments and keywords of each; or just one function, to be called with
            nothing, whose result is then that of the batch.
        nested: see `run`.
        reduce_array: see `dump`.
    """
    what = "the task to send to the workers"
    if callable(calls):
        return dump((nested, calls, None, None), reduce_array, what)
    functions: Sequence[Any]
    functions, arguments, keywords = zip(*calls, strict=True)
    # Many calls of one function are the rule, and few objects are soon pickled.
    if len(set(map(id, functions))) == 1:
        functions = functions[:1]
    obj = (nested, functions, arguments, keywords if any(keywords) else None)
    return dump(obj, reduce_array, what)


# ---- the worker's side ---------------------------------------------------------------------


def run(*parcel: Any) -> Parcel:
    """Run a batch, and pickle its results.

    Besides the calls the parcel says what joblib is to do with a `Parallel` in one of them: the
    name of a module and an argument for its `nested`, which returns a context manager.
    """
    (module, argument), functions, arguments, keywords = load(parcel)
    with _Nested(module, argument):
        if arguments is None:
            outcome = functions()
        else:
            outcome = _results(functions, arguments, keywords)
    return dump(outcome, _reduce_result, "the result of the task")


def _results(
    functions: Sequence[Any], arguments: Sequence[Any], keywords: Iterable[Any] | None
) -> list[Any]:
    one_for_all = len(functions) < len(arguments)
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
        # The file ends with the call; results must not refer to it.
        plain = array.view(sys.modules["numpy"].ndarray)
        return plain.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    reduce_map = importlib.import_module("joblib._memmapping_reducer")._reduce_memmap_backed
    return reduce_map(array, backing)


def backing_map(array: Any) -> Any:
    """The `numpy.memmap` of a file that an array is a part of; None if there is none."""
    while (base := getattr(array, "base", None)) is not None:
        if isinstance(base, mmap.mmap):
            return array if getattr(array, "filename", None) is not None else None
        array = base
    return None
