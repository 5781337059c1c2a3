"""A function, a class or what was put, under a number by which tasks refer to it.

Owns nothing but what that is: `_definitions` makes them, and `_shelf` keeps what they mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hookpool import _rebuild
from hookpool._buffers import Parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Definition:
    """A function or class under a number, and what a worker must have before it.

    Attributes:
        number: greater than 0; later definitions have greater numbers.
        data: what `Shelf.define` takes, or a parcel for as many workers as there are.
        needs: all definitions it refers to, each after those that it needs itself.
        is_for_each: whether it is not a function or class but what each task gets a copy of.
    """

    __slots__ = (
        "__weakref__", "_classes", "_forgotten", "data", "is_for_each", "needs", "number",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        data: bytes | Parcel,
        needs: tuple[Definition, ...],
        classes: tuple[Any, ...],
        forgotten: Forgotten,
        is_for_each: bool = False,
    ) -> None:
        self.number = number
        self.data = data
        self.needs = needs
        self.is_for_each = is_for_each
        # A result may name a class by its token alone: it must not be gone by then.
        self._classes = classes
        self._forgotten = forgotten

    def __del__(self) -> None:
        self._forgotten.append(self.number)
        if type(self.data) is Parcel:
            self._forgotten.wake()

    def __repr__(self) -> str:
        return f"<Definition {self.number}, {len(self.data)} bytes>"


class Reference:
    """Stands in a pickle for a function that has a definition, which the pickle then needs."""

    __slots__ = ("_number",)

    def __init__(self, definition: Definition) -> None:
        self._number = definition.number

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild.known_function, (self._number,)


class Forgotten(deque[int]):
    """Numbers that mean nothing any more; only ever appended to, by finalizers."""

    #: Called when it should not wait until the next task is sent that workers hear of it.
    wake: Callable[[], None] = staticmethod(lambda: None)
