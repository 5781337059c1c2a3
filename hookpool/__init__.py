"""Process pools that run lambdas, closures and classes typed at a prompt, at C pickle speed.

Importing this registers the multiprocessing start method "hookpool" and does nothing else. Every
worker imports it too; the public names therefore come from their modules when first asked for.
"""

from __future__ import annotations

from importlib import import_module

from hookpool import context as context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hookpool.errors import (
        CannotPickle,
        CannotPickleAttribute,
        CannotPickleKey,
        CannotPickleNow,
        CannotPickleRecursion,
        CannotPickleType,
        CannotPickleUnsupported,
        CannotPickleValue,
        CannotUnpickle,
        ForkedPool,
        HookPoolError,
        InitializerFailed,
        InternalError,
        NestedTooDeep,
        PoolTerminated,
        RemoteTraceback,
        ResultLost,
        TaskTimedOut,
        TooManyDeaths,
        WorkerCannotStart,
        WorkerDied,
    )
    from hookpool.executor import HookPoolExecutor, get_reusable_executor
    from hookpool.reduction import (
        HookPickler,
        dump,
        dumps,
        list_registry_pickle_by_value,
        load,
        loads,
        register_pickle_by_value,
        unregister_pickle_by_value,
    )

__version__ = "0.1.0"

__all__ = [
    "CannotPickle",
    "CannotPickleAttribute",
    "CannotPickleKey",
    "CannotPickleNow",
    "CannotPickleRecursion",
    "CannotPickleType",
    "CannotPickleUnsupported",
    "CannotPickleValue",
    "CannotUnpickle",
    "ForkedPool",
    "HookPickler",
    "HookPoolError",
    "HookPoolExecutor",
    "InitializerFailed",
    "InternalError",
    "NestedTooDeep",
    "PoolTerminated",
    "RemoteTraceback",
    "ResultLost",
    "TaskTimedOut",
    "TooManyDeaths",
    "WorkerCannotStart",
    "WorkerDied",
    "dump",
    "dumps",
    "get_reusable_executor",
    "list_registry_pickle_by_value",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]

_HOMES = dict.fromkeys(("HookPoolExecutor", "get_reusable_executor"), "hookpool.executor") | (
    dict.fromkeys(
        (
            "HookPickler",
            "dump",
            "dumps",
            "list_registry_pickle_by_value",
            "load",
            "loads",
            "register_pickle_by_value",
            "unregister_pickle_by_value",
        ),
        "hookpool.reduction",
    )
)


if not TYPE_CHECKING:  # to a type checker every name would be there, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES.get(name, "hookpool.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
