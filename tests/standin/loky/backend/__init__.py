"""Its contexts: "loky" is hookpool's."""

from __future__ import annotations

import multiprocessing
from typing import Any

from hookpool.context import HookContext

__all__ = ["get_context"]


class LokyContext(HookContext):
    """hookpool's context under the name that the tests ask for."""

    def get_start_method(self, allow_none: bool = False) -> str:
        return "loky"


_context = LokyContext()


def get_context(method: str | None = None) -> Any:
    """The context that loky's tests call so."""
    return _context if method in (None, "loky") else multiprocessing.get_context(method)
