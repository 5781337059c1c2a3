"""Managers whose calls are pickled by value, as `multiprocessing.managers` has them by reference.

``get_context("hookpool").Manager()`` makes a `SyncManager`; derive a manager of your own, with
``register``, from `BaseManager`. What a program derived from ``multiprocessing.managers`` takes
lambdas in ``register`` when it is started in the hookpool context, but not in calls.

Owns the serializer name under which multiprocessing finds our connections. A manager's process and
its proxies listen on an address and authenticate, as in the standard library.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import managers
from typing import Any

from hookpool._primitives import Listener, connect

__all__ = ["BaseManager", "SyncManager"]


class _Serializer(str):
    """A string whose pickle imports this module, so that the name is known where a proxy lands."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _serializer, ()


def _serializer() -> _Serializer:
    return _SERIALIZER


_SERIALIZER = _Serializer("hookpool")
managers.listener_client[_SERIALIZER] = (Listener, connect)  # type: ignore[attr-defined]


class BaseManager(managers.BaseManager):
    """The base of managers whose `register` and whose calls take lambdas and local classes."""

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = _SERIALIZER,
        ctx: Any = None,
        **kwargs: Any,
    ) -> None:
        ctx = ctx or multiprocessing.get_context("hookpool")
        super().__init__(address, authkey, serializer, ctx, **kwargs)


class SyncManager(BaseManager, managers.SyncManager):
    """The manager with list, dict, Namespace, Queue, Lock and the other shared types."""
