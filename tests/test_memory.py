"""How much memory may still be used, read from files as various systems have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hookpool._memory import available

MB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(available: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal:  9999999 kB\nMemAvailable:  {available // 1024} kB\n"}


def group(path: str, limit: str, usage: int, droppable: int = 0) -> dict[str, str]:
    return {
        f"{path}/memory.max": limit + "\n",
        f"{path}/memory.current": f"{usage}\n",
        f"{path}/memory.stat": f"anon 5\ninactive_file {droppable}\n",
    }


def test_a_machine_without_cgroups(tmp_path: Path):
    assert available(write(tmp_path, meminfo(500 * MB))) == 500 * MB


def test_the_smallest_of_all_groups_above_counts(tmp_path: Path):
    """A service in a slice in a container: each may have a limit, none is told of the others."""
    root = write(
        tmp_path,
        meminfo(500 * MB)
        | {"proc/self/cgroup": "0::/slice/service\n"}
        | group("sys/fs/cgroup/slice/service", "max", 3)
        | group("sys/fs/cgroup/slice", str(100 * MB), 40 * MB, 10 * MB),
    )
    assert available(root) == 70 * MB


def test_a_container_that_sees_itself_as_the_root(tmp_path: Path):
    files = meminfo(500 * MB) | {"proc/self/cgroup": "0::/\n"}
    root = write(tmp_path, files | group("sys/fs/cgroup", str(64 * MB), 60 * MB))
    assert available(root) == 4 * MB


def test_over_the_limit_there_is_nothing(tmp_path: Path):
    files = meminfo(500 * MB) | {"proc/self/cgroup": "0::/\n"}
    assert available(write(tmp_path, files | group("sys/fs/cgroup", "100", 200))) == 0


def test_the_first_version_of_cgroups(tmp_path: Path):
    path = "sys/fs/cgroup/memory/pod"
    root = write(
        tmp_path,
        meminfo(500 * MB)
        | {
            "proc/self/cgroup": "9:cpu:/elsewhere\n4:hugetlb,memory:/pod\n0::/\n",
            f"{path}/memory.limit_in_bytes": f"{50 * MB}\n",
            f"{path}/memory.usage_in_bytes": f"{20 * MB}\n",
            f"{path}/memory.stat": f"total_inactive_file {5 * MB}\n",
        },
    )
    assert available(root) == 35 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so in files")
def test_this_machine():
    assert available() > 0


def test_a_system_that_does_not_say(tmp_path: Path):
    assert available(tmp_path) == 0
