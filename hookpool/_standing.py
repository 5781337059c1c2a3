"""What a process inherits from the one that starts it and cannot be told later: its standing.

Owns the answer to whether a fork server may still fork in its owner's name: only while the owner
has the user, groups, capabilities, limits, umask, processors and root directory that it had when
the server was started. A program that gives up rights does not want children that have them.

Any thread may ask; it is answered for the calling thread, as the kernel would at a fork.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["standing"]

#: The lines of `/proc/thread-self/status` that a child inherits. The umask can be read nowhere
#: else without setting it for a moment, in which another thread may make a file.
_LINES: Final = (
    b"Umask:", b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp", b"Cpus_allowed:",
)  # fmt: skip


def standing() -> tuple[object, ...]:
    """Equal to an earlier answer if a child would inherit the same now; takes some 30 µs."""
    root = os.stat("/")
    kernel: tuple[object, ...]
    try:
        status = _read("/proc/thread-self/status").splitlines()
        limits = _read("/proc/self/limits")
    except OSError:
        kernel = _without_proc()
    else:
        kernel = (*[line for line in status if line.startswith(_LINES)], limits)
    return (
        *kernel,
        os.getpriority(os.PRIO_PROCESS, 0),
        os.getsid(0),
        os.getpgrp(),
        (root.st_dev, root.st_ino),
    )


def _read(path: str) -> bytes:
    # Not by `open`, which takes longer than all else here.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _without_proc() -> tuple[object, ...]:
    """As far as it goes: nothing there tells the umask."""
    import resource  # a shared library, and all systems that we know have a /proc

    kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = [resource.getrlimit(kind) for kind in kinds]
    return os.getresuid(), os.getresgid(), tuple(os.getgroups()), tuple(limits)
