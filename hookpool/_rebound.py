"""Standard library functions and modules with some of their globals replaced, for us alone.

multiprocessing names its pickler, its classes and its helpers through module globals, where a
subclass cannot reach them. A copy of the function over other globals can, and its code is that of
the running version; the original, and with it everybody else's calls, stays as it is.
"""

from __future__ import annotations

from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Overlay", "rebound"]


def rebound(function: Any, **names: object) -> Any:
    """A copy of a Python function that finds `names` instead of its module's globals."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__doc__ = function.__doc__
    return copy


class Overlay:
    """A module as such a function may see it: some attributes ours, all others its own."""

    def __init__(self, module: ModuleType, **names: object) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
