"""Values that refer to nothing: which of them may be pickled together, later, and by anybody.

The pickler is a batch's greatest cost and its greatest risk: two tasks in one pickle would share
the objects they both refer to, and what is pickled later than it was given may have changed since.
Neither can happen to numbers, short strings and tuples of them: they cannot change, nobody's code
runs when they are pickled, and nobody can tell one from an equal one.  They make up most of what
tiny tasks take and return, so the engine treats them apart.

Owns the rule and nothing else.  Any thread may call it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The longest string or bytes that count as plain, and what a plain call may take on average, in
#: bytes.  Longer ones gain little from company and would make work under the driver's lock long.
LONGEST = 256
#: How deep tuples may be nested, so that no look at a value is long.
DEEPEST = 3
#: The other end: from how many bytes on data are so large, unless the user says otherwise, that
#: they take shared memory; smaller ones take the pipe.
THRESHOLD = 1 << 16
#: Strings and bytes up to this long are not large, whatever the user says.
NEVER_LARGE = 1000

#: The ids of types whose values are plain whatever they are.  Ids, since a type need not be
#: hashable: that is up to its metaclass.
FIXED = frozenset(map(id, (type(None), bool, float, complex)))
#: The ids of types whose values refer to nothing, but may be large.
ATOMS = FIXED | set(map(id, (int, str, bytes)))
_WITH_TUPLES = ATOMS | {id(tuple)}
_LARGEST = 1 << (4 * LONGEST)


def is_plain(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value refers to nothing and is small.

    >>> is_plain(7), is_plain((1, "a", None)), is_plain([7]), is_plain("a" * 1000)
    (True, True, False, False)
    """
    kind = type(value)
    if kind is int:
        return bool(-_LARGEST < value < _LARGEST)
    if id(kind) in FIXED:
        return True
    if kind is str or kind is bytes:
        return len(value) <= LONGEST
    if kind is tuple and depth and len(value) <= LONGEST:
        return all(is_plain(item, depth - 1) for item in value)
    return False


def are_plain(args: tuple[Any, ...]) -> bool:
    """Whether the arguments of a call refer to nothing and are small."""
    for value in args:
        kind = type(value)
        if kind is int:
            if not -_LARGEST < value < _LARGEST:
                return False
        elif id(kind) not in FIXED and not is_plain(value):
            return False
    return True


def is_immutable(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value refers to nothing, of any size; for one that comes alone."""
    if id(type(value)) in ATOMS:
        return True
    if type(value) is not tuple or not depth:
        return False
    for item in value:  # not by `all`, and a call for few: there are two of them, mostly
        if id(type(item)) not in ATOMS and not is_immutable(item, depth - 1):
            return False
    return True


def are_immutable(values: list[Any], depth: int = DEEPEST) -> bool:
    """Whether all values refer to nothing, of any size; a few C calls for all."""
    kinds = set(map(id, map(type, values)))
    if kinds <= ATOMS:
        return True
    if id(tuple) not in kinds or not kinds <= _WITH_TUPLES or not depth:
        return False
    inner = [item for value in values if type(value) is tuple for item in value]
    return are_immutable(inner, depth - 1)
