"""What of `ctypes` is bound to its process: addresses, and libraries that have been opened.

`ctypes` itself refuses to pickle pointers, and what contains some, by a flag of their types; but
the flag is not inherited from `c_char_p` and its like, so that instances of subclasses would
travel as addresses, which to read somewhere else ends the process.  A library, and with it the
address of its handle, has been safe only for holding a class that pickle does not find.

To open it again there is not ours to do: what has been declared of its functions, without which
they are called wrongly, the flags it was opened with, and where it was found may be other ones.

Knows nothing of picklers.  Any thread may call the functions.
"""

from __future__ import annotations

import sys

from hookpool import _classes
from hookpool._layouts import root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Plan = Callable[[Any, Any], Any]

# c_void_p, c_char_p, c_wchar_p, py_object and, on Windows, BSTR.
_CODES_OF_POINTERS = frozenset("PzZOX")


def plan_for(kind: Any) -> Plan | None:
    """How objects of a type are reduced that do not make sense elsewhere; None for all others."""
    library: Any = getattr(sys.modules.get("ctypes"), "CDLL", None)
    if library is not None and issubclass(kind, library):
        return _refuse_library if _classes.has_plain_state(kind) else None
    root = root_of(kind)
    if root is None or kind.__reduce__ is not root.__reduce__:
        return None
    if kind.__reduce_ex__ is not root.__reduce_ex__ or not _has_addresses(kind):
        return None
    return _refuse_pointer if root.__name__ not in _COMPOUND else _refuse_compound


def _has_addresses(kind: Any) -> bool:
    """Whether what is in an object of a type of `ctypes` says where something else is."""
    root = root_of(kind)
    name = None if root is None else root.__name__
    if name == "_SimpleCData":
        return kind._type_ in _CODES_OF_POINTERS
    if name == "Array":
        return _has_addresses(kind._type_)
    if name in _COMPOUND:
        fields = [field for one in kind.__mro__ for field in _own_fields(one)]
        return any(_has_addresses(field[1]) for field in fields)
    return name is not None


_COMPOUND = frozenset({"Structure", "Union", "Array"})


def _own_fields(kind: Any) -> Any:
    return _classes.dict_of(kind).get("_fields_", ())


def _refuse_library(_: Any, library: Any) -> Any:
    raise TypeError(f"cannot pickle a library opened with '{type(library).__qualname__}'")


# As `ctypes` says it; what can be done is added where the path to the culprit is.
_CONTAINING = "ctypes objects containing pointers cannot be pickled"


def _refuse_pointer(_: Any, obj: Any) -> Any:
    raise ValueError(_CONTAINING)


def _refuse_compound(_: Any, obj: Any) -> Any:
    raise ValueError(f"{_CONTAINING}: make it where it is used, of what is pointed to")
