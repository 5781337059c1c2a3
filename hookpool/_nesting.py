"""Pools in the workers of pools: what is above this process, and when one more is refused.

Owns two rules against processes that multiply. Pools are ten deep at most. And a module that uses
a pool when it is imported does not do so in a worker of that pool: the workers of the second pool
would import it as well, and so on.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final

# As loky: nobody nests pools this deep on purpose, and a fork bomb is caught in time.
DEEPEST: Final = 10

#: How many pools are above this process: 0 in the user's own.
depth = 0
#: The modules that used one of these when they were imported.
users: tuple[str, ...] = ()

#: What runs tasks, and nothing below it on a stack is of a task.
_WORKER: Final = "hookpool._worker"


def enter(pools: int, their_users: tuple[str, ...]) -> None:
    """This process is a worker, with so many pools above it, and these `users` of them."""
    global depth, users
    depth, users = pools, their_users


def check_depth() -> None:
    """Refuse a pool that would be too deep."""
    if depth >= DEEPEST:
        from hookpool import errors  # late: few workers need them

        raise errors.NestedTooDeep(
            f"this process is in a worker of a worker, {depth} pools deep, and wanted to make one "
            "more"
        )


def users_below(user: str | None) -> tuple[str, ...]:
    """The `users` in the workers of a pool that is used from now on.

    Args:
        user: the module `being_imported`.

    Raises:
        NestedTooDeep: it has used one of the pools above in this way.
    """
    if user is None:
        return users
    if user in users:
        from hookpool import errors

        raise errors.NestedTooDeep(
            f"module {user!r} uses a pool when it is imported, and the workers of that pool "
            "import it again: each would start workers of its own, without end. Use the pool in "
            'a function, or under `if __name__ == "__main__":`'
        )
    return (*users, user)


def being_imported() -> str | None:
    """The module whose code runs in this thread because it is imported, the innermost one.

    Not the main one, which is run, and which workers do not import.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name == _WORKER:
            return None
        if frame.f_code.co_name == "<module>" and type(name) is str:
            return name if name != "__main__" else None
        frame = frame.f_back
    return None
