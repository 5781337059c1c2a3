"""How much memory this process may still use: what the machine and the cgroups leave.

Owns the look at the files in which Linux says so. Knows nothing of what the memory is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Where each version of cgroups says what is used, what is allowed, and what it could drop.
_VERSIONS = {
    2: ("memory.current", "memory.max", "inactive_file"),
    1: ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
}


def available(root: Path = Path("/")) -> int:
    """Bytes that may be used before the system has to take memory from somebody; 0 if unknown.

    Args:
        root: where to find ``proc`` and ``sys``.
    """
    try:
        machine = _available_in_machine(root / "proc/meminfo")
    except (OSError, ValueError, KeyError):
        return 0
    return max(0, min([machine, *_available_in_cgroups(root)]))


def _available_in_machine(meminfo: Path) -> int:
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1}["MemAvailable:"] * 1024


def _available_in_cgroups(root: Path) -> Iterator[int]:
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:
            yield from _available_from(root / "sys/fs/cgroup", path, 2)
        elif "memory" in controllers.split(","):
            yield from _available_from(root / "sys/fs/cgroup/memory", path, 1)


def _available_from(mount: Path, path: str, version: int) -> Iterator[int]:
    """What a cgroup and each of those that it is in allows; a container sees the last ones."""
    used, most, droppable = _VERSIONS[version]
    group = mount / path.lstrip("/")
    while True:
        try:
            limit = (group / most).read_text().strip()
            if limit != "max":
                stat = dict(
                    line.split() for line in (group / "memory.stat").read_text().splitlines()
                )
                usage = int((group / used).read_text())
                yield int(limit) - usage + int(stat.get(droppable, 0))
        except (OSError, ValueError):
            pass  # not mounted here, or the root, which has no limit
        if group == mount or mount not in group.parents:
            return
        group = group.parent
