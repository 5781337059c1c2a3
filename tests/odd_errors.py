"""Exceptions as users write them that are more than a class and a text; each in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from hookpool._raised import chain_of


@dataclass(frozen=True)
class Frozen(Exception):
    """Lets no attribute be set, ``__cause__`` included."""

    what: str = ""


class Sealed(Exception):
    """Lets none be set either, and is no dataclass."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class NoText(Exception):
    """Shows an attribute that is set later, and is not there any more after a trip."""

    def __str__(self) -> str:
        return self.detail  # type: ignore[attr-defined, no-any-return]


class ExitingText(Exception):
    """Ends what asks for its text."""

    def __str__(self) -> str:
        raise SystemExit("no text")


def _refuse(self: object) -> NoReturn:
    raise RuntimeError("not to be asked")


class NoCause(Exception):
    """As the four below: a property in the place of what the interpreter has there raises."""

    __cause__ = property(_refuse)  # type: ignore[assignment]


class NoContext(Exception):
    __context__ = property(_refuse)  # type: ignore[assignment]


class NoTraceback(Exception):
    __traceback__ = property(_refuse)  # type: ignore[assignment]


class NoNotes(Exception):
    __notes__ = property(_refuse)  # type: ignore[assignment]


class NoClass(Exception):
    __class__ = property(_refuse)  # type: ignore[assignment]


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class OfNamelessKind(Exception, metaclass=_Nameless):
    """Its class does not tell what it is called."""


class NotSent(Exception):
    """Does not travel, and the reason why has no text."""

    def __reduce__(self) -> Any:
        raise NoText


def make(name: str) -> BaseException:
    """A new one of this kind."""
    if name == "odd syntax":
        return SyntaxError("what", ("file.py", 1, 1, 42))
    return KINDS[name]("what")


KINDS: dict[str, type[Exception]] = {
    "frozen": Frozen,
    "sealed": Sealed,
    "no text": NoText,
    "exiting text": ExitingText,
    "no cause": NoCause,
    "no context": NoContext,
    "no traceback": NoTraceback,
    "no notes": NoNotes,
    "no class": NoClass,
}
NAMES = [*KINDS, "odd syntax"]


def is_odd(error: BaseException) -> bool:
    """Whether it may be one of them, or there may be one in its chain."""
    found, seen = [error], set()
    while found:
        one = found.pop()
        seen.add(id(one))
        if issubclass(type(one), (SyntaxError, *KINDS.values())):
            return True
        found += [
            other for other in chain_of(one)[:2] if other is not None and id(other) not in seen
        ]
    return False


def throw(name: str) -> NoReturn:
    """Raise one of them."""
    raise make(name)


class AtLoad:
    """Raises one of them when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return throw, (self.name,)


class AtDump:
    """Raises one of them when it is pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        throw(self.name)


class Proxy:
    """Has whatever attribute it is asked for, as stubs of remote objects have."""

    def __init__(self, call: Any = None) -> None:
        self.call = call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__code__", "__qualname__"):
            raise AttributeError(name)
        return Proxy()

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)
