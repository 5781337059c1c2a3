"""Plans for exceptions: with all attributes and the chain, and never lost for an odd `__init__`.

The table that finds them is in `_objects`, the receiving side in `_rebuild_objects`.  Knows of a
pickler what it is given with each call.  Any thread may call it.
"""

from __future__ import annotations

from hookpool import _classes
from hookpool import _rebuild_objects as there
from hookpool._met import ERRORS
from hookpool._raised import chain_of, summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def reduce_exception(pickler: Any, error: BaseException) -> Any:
    """With all attributes and the chain, and made without the `__init__` that may want more."""
    cls = type(error)
    base = _classes.exception_base(cls)
    chain, named = _chain(pickler, error), None
    if issubclass(cls, (NameError, AttributeError)):
        named = getattr(error, "name", None)
    is_named = named is not None
    is_plain = (
        cls.__init__ is base.__init__
        and cls.__new__ is base.__new__
        and cls.__setattr__ is base.__setattr__
    )
    if is_plain and chain is None and not is_named:
        return NotImplemented
    reduced = error.__reduce_ex__(4)
    if type(reduced) is not tuple or len(reduced) > 3:
        return NotImplemented
    make, args, *rest = reduced
    slots = _classes.slot_values(cls, error)
    if is_named:
        slots["name"] = named  # the standard library's own pickle has it since 3.12 only
    raw = error.args
    if issubclass(cls, BaseExceptionGroup):
        group: Any = error
        args = raw = group.message, list(group.exceptions), group.args
    if cls.__reduce__ is base.__reduce__ and make is cls:
        made: tuple[Any, ...] = (there.exception, (cls, base, args))
    else:
        made = (there.exception_via, (make, args, (cls, base, raw)))
    own = rest[0] if rest else None
    if chain is None and own is None and not slots:
        return made
    return (*made, (own, chain, slots), None, None, there.fill_exception)


def _chain(pickler: Any, error: BaseException) -> tuple[Any, ...] | None:
    cause, context, is_suppressed = chain_of(error)
    if cause is None and context is None:
        return None
    return _carried(pickler, cause), _carried(pickler, context), is_suppressed


def _carried(pickler: Any, error: BaseException | None) -> BaseException | None:
    """An exception of a chain, or what can be told of it: an error must not be lost for that."""
    if error is None or id(error) in pickler.met:
        return error
    # Of the outermost dump and all trials inside it: each exception is tried once, also where
    # causes are nested in causes through attributes or groups.  One under trial passes.
    verdicts = pickler.met.setdefault(ERRORS, {})
    known = verdicts.get(id(error))
    if known is None:
        verdicts[id(error)] = error, True
        known = verdicts[id(error)] = error, _is_carried(pickler, error, verdicts)
    return error if known[1] else there.LostException(summary_of(error))


def _is_carried(pickler: Any, error: BaseException, verdicts: dict[int, Any]) -> bool:
    """Whether a chain can be pickled, found out by trying; its links are then noted as met."""
    met: dict[int, Any] = {id(error): error}
    found = [error]
    while found:
        one = found.pop()
        for other in chain_of(one)[:2]:
            if other is not None and id(other) not in met:
                met[id(other)] = other
                found.append(other)
    if not pickler.can_carry(error, met | {ERRORS: verdicts}):
        return False
    pickler.met.update(met)
    return True
