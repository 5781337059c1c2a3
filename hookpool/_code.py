"""What can be known from a code object alone: its bytes, and the names it refers to.

Everything here depends on an immutable object only, so it is computed once and remembered for as
long as the code object lives.  Knows nothing of pickling or of the values behind the names.  Any
thread may call it: two threads at worst compute the same facts twice.
"""

from __future__ import annotations

import importlib.util
import marshal
import opcode
import re
import sys
import weakref
from collections.abc import Iterator
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Version 2 is the last one without references between parts: with them the bytes would depend on
# reference counts, and the same function would not give the same bytes twice.
_MARSHAL_VERSION = 2
_MAGIC = importlib.util.MAGIC_NUMBER

_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_STORE_NAME = opcode.opmap["STORE_NAME"]
_NAMING = re.compile(
    b"[%s]"
    % re.escape(
        bytes(
            opcode.opmap[name]
            for name in (
                "LOAD_GLOBAL",
                "STORE_GLOBAL",
                "DELETE_GLOBAL",
                # A class body inside a function looks its globals up with these.
                "STORE_NAME",
                "LOAD_NAME",
                "LOAD_FROM_DICT_OR_GLOBALS",
            )
            if name in opcode.opmap
        )
    ),
    re.DOTALL,
).finditer
_HAS_DOCSTRING = 0x4000000  # CO_HAS_DOCSTRING, from 3.14 on


# 3.14 evaluates annotations when they are asked for, and fails if a name is missing: there the
# function that evaluates them travels (unverified: no such interpreter at hand).
ANNOTATIONS = "__annotations__" if sys.version_info < (3, 14) else "__annotate__"
#: Attributes of a function that its code tells, if nobody has set them, see `Facts.looks`.
LOOKS = (
    "__name__",
    "__qualname__",
    "__doc__",
    "__defaults__",
    "__kwdefaults__",
    "__dict__",
    ANNOTATIONS,
    *(("__type_params__",) if sys.version_info >= (3, 12) else ()),
)
# What those from the fourth on are, then.
_NO_LOOKS: tuple[Any, ...] = (None, None, {}, None if sys.version_info >= (3, 14) else {}, ())
_NO_LOOKS = _NO_LOOKS[: len(LOOKS) - 3]


class Facts(weakref.ref[CodeType]):
    """What one code object, with the code nested in it, says about itself.

    No code object is kept: the facts would keep alive what they are to be forgotten with.
    """

    __slots__ = (
        "_submodules",
        "_words",
        "data",
        "doc",
        "ident",
        "looks",
        "names",
    )

    #: The code as bytes; None before it is asked for, since the methods of a class go together;
    #: none where some constant cannot be marshalled.
    data: bytes | None

    def __init__(self, code: CodeType, _: object) -> None:
        self.ident, self.data = id(code), None
        self.doc = _docstring(code)  # what a function made of this code has
        if code.co_names or CodeType in map(type, code.co_consts):
            parts = list(_nested(code))
            # Order of first use: the order in which the values are pickled.
            self.names = tuple(dict.fromkeys(name for one in parts for name in _globals(one)))
            self._words = _words(parts)
        else:  # as the shortest methods
            self.names = self._words = ()
        # What `LOOKS` are if they follow from the code.
        self.looks = (code.co_name, code.co_qualname, self.doc, *_NO_LOOKS)
        self._submodules: dict[str, tuple[str, ...]] = {}

    def body(self, code: CodeType) -> bytes | CodeType:
        """That code, as bytes where this can be."""
        if self.data is None:
            self.data = marshalled(code) or b""
        return self.data or code

    def submodules(self, module: str) -> list[str]:
        """Imported submodules of a module that this code may reach through attributes."""
        candidates = self._submodules.get(module)
        if candidates is None:
            candidates = tuple(f"{module}.{word}" for word in self._words)
            self._submodules[module] = candidates
        modules = sys.modules
        if modules.keys().isdisjoint(candidates):  # as a rule, and faster
            return []
        found = [name for name in candidates if name in modules]
        for name in found[:]:
            found += self.submodules(name)
        return found


# By id: code objects that differ in file and line are equal, and hashing one is slow.
_facts: dict[int, Facts] = {}
_get = _facts.get


# Bound now: at exit, modules lose their names before code objects die.
def _forget(known: Facts, pop: Any = _facts.pop) -> None:
    """Remove an entry before its id can be used again."""
    pop(known.ident, None)


def facts(code: CodeType) -> Facts:
    """The facts of a code object, computed when it is seen for the first time."""
    known = _get(id(code))
    if known is None:
        # The first thread's: a pickle in which the facts changed half-way would not be
        # reproducible.
        known = _facts.setdefault(id(code), Facts(code, _forget))
    return known


def marshalled(code: CodeType | tuple[CodeType, ...]) -> bytes | None:
    """The bytes of code objects, None where a constant does not allow it."""
    try:
        return _MAGIC + marshal.dumps(code, _MARSHAL_VERSION)
    except ValueError:
        return None


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _nested(constant)


def _docstring(code: CodeType) -> str | None:
    if sys.version_info >= (3, 14) and not code.co_flags & _HAS_DOCSTRING:
        return None
    first = code.co_consts[0] if code.co_consts else None
    return first if type(first) is str else None


def _globals(code: CodeType) -> Iterator[str]:
    """Names that this code looks up, sets or deletes in its globals."""
    names = code.co_names
    if not names:
        return
    ops, args = code.co_code[::2], code.co_code[1::2]
    stored: set[int] = set()
    for match in _NAMING(ops):
        at = match.start()
        op, arg = ops[at], args[at]
        shift = 8
        while at and ops[at - 1] == _EXTENDED:
            at -= 1
            arg |= args[at] << shift
            shift += 8
        if op == _STORE_NAME:
            stored.add(arg)
            continue
        if op == _LOAD_GLOBAL:
            arg >>= 1  # the low bit says whether a NULL is pushed, too
        if arg not in stored:
            yield names[arg]


def _words(parts: list[CodeType]) -> tuple[str, ...]:
    """All names that may be attributes, and what ``getattr(package, "name")`` may be given."""
    if len(parts) == 1 and "getattr" not in parts[0].co_names:
        return parts[0].co_names  # the commonest case; a few microseconds less
    words = dict.fromkeys(name for part in parts for name in part.co_names)
    if "getattr" in words:
        words |= dict.fromkeys(
            constant
            for part in parts
            for constant in part.co_consts
            if type(constant) is str and constant.isidentifier()
        )
    return tuple(words)
