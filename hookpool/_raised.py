"""What can be told of an exception, whatever its class does.

Classes of exceptions are users' code as any other: a ``__str__`` that needs an attribute which did
not survive the trip, a ``__setattr__`` that refuses (a frozen dataclass), a property in the place
of ``__cause__`` or ``__notes__``.  Here the interpreter's own fields are used, as it does itself
when it raises and prints them; what must run code of the class is given up when that raises.
Nothing here raises; so it serves where an exception would end a worker or the driver's thread.

Knows nothing of pools.  Any thread may call it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from types import TracebackType
    from typing import Any

_fields: Any = vars(BaseException)
_cause, _context = _fields["__cause__"], _fields["__context__"]
_suppress, _traceback = _fields["__suppress_context__"], _fields["__traceback__"]
_name_of_type: Any = vars(type)["__name__"]


def cause_of(error: BaseException) -> BaseException | None:
    """Its ``__cause__``."""
    cause: BaseException | None = _cause.__get__(error)
    return cause


def set_cause(error: BaseException, cause: BaseException | None) -> None:
    """As ``raise error from cause`` does it."""
    _cause.__set__(error, cause)


def chain_of(error: BaseException) -> tuple[BaseException | None, BaseException | None, bool]:
    """Its cause, its context, and whether the context is not to be shown."""
    return _cause.__get__(error), _context.__get__(error), _suppress.__get__(error)


def set_chain(
    error: BaseException,
    cause: BaseException | None,
    context: BaseException | None,
    is_suppressed: bool,
) -> None:
    """Give it what `chain_of` tells of another."""
    _cause.__set__(error, cause)
    _context.__set__(error, context)
    _suppress.__set__(error, is_suppressed)


def text_of(error: BaseException) -> str:
    """What it says; or its type, and that the rest cannot be shown."""
    text = _text(error)
    return f"<a {_type_name(error)}, whose text cannot be shown>" if text is None else text


def summary_of(error: BaseException) -> str:
    """Its type and what it says, if anything, as at the end of a traceback."""
    text = _text(error)
    if text is None:
        text = "<its text cannot be shown>"
    return f"{_type_name(error)}: {text}" if text else _type_name(error)


def _text(error: BaseException) -> str | None:
    try:
        # What comes of it may be of a subclass of `str`, and do as that pleases when it is put
        # together with other text.
        return str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise SystemExit as well
        return None


def _type_name(error: BaseException) -> str:
    name: str = _name_of_type.__get__(type(error))  # its metaclass may have another
    return name


def traceback_text(error: BaseException, ours: Container[str] = ()) -> str:
    """Its traceback, as the interpreter would print it.

    Args:
        ours: modules whose frames are left out where they are the first.

    What only errors need is imported by the first of them, unless the fork server had the time to
    do it before: a third of what a worker needs else, and all that wait for the first result of a
    program wait for that.
    """
    inner: TracebackType | None = _traceback.__get__(error)
    while inner is not None and _module_of(inner) in ours:
        inner = inner.tb_next
    try:
        import traceback

        return "".join(traceback.format_exception(type(error), error, inner))
    except BaseException:  # noqa: BLE001 - see below
        # The import: the task used up all descriptors, or changed the path. The rest: a loader
        # that does not give its source, notes that raise, a SyntaxError whose text is a number.
        return f"{_places(inner)}{summary_of(error)}\n"


def _module_of(inner: TracebackType) -> str:
    # Code that `exec` runs has globals of any kind, with anything in them.
    name = dict.get(inner.tb_frame.f_globals, "__name__")
    return name if type(name) is str else ""


def _places(inner: TracebackType | None) -> str:
    lines = ["Traceback (most recent call last):\n"] if inner is not None else []
    while inner is not None:
        code = inner.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {inner.tb_lineno}, in {code.co_name}\n')
        inner = inner.tb_next
    return "".join(lines)
