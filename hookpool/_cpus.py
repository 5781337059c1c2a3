"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os

#: Limits what is found, as LOKY_MAX_CPU_COUNT does for loky.
VARIABLE = "HOOKPOOL_MAX_WORKERS"

# A string: pathlib takes longer to import than all of this takes to run.
_CGROUP = "/sys/fs/cgroup"


def cpu_count() -> int:
    """The CPUs this process may use: the least of affinity, cgroup quota and the environment.

    In the environment it is the variable ``HOOKPOOL_MAX_WORKERS``, where that is set.

    Returns:
        At least 1.  A quota of one and a half CPUs counts as two, since both can then be busy.

    Raises:
        ValueError: the variable ``HOOKPOOL_MAX_WORKERS`` is not a positive whole number.
    """
    limits = [_affinity(), *_quotas()]
    text = os.environ.get(VARIABLE)
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{VARIABLE} must be a positive whole number: {text!r}")
        limits.append(int(text))
    return max(1, min(limits))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13; knows PYTHON_CPU_COUNT too
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> list[int]:
    """The quotas of cgroup version 2 and version 1, where there are any, in CPUs."""
    return [
        math.ceil(quota / period)
        for quota, period in (
            _numbers(f"{_CGROUP}/cpu.max"),
            _numbers(f"{_CGROUP}/cpu/cpu.cfs_quota_us", f"{_CGROUP}/cpu/cpu.cfs_period_us"),
        )
        if quota > 0 and period > 0
    ]


def _numbers(*files: str) -> tuple[int, int]:
    """Quota and period, or zeros where there is no quota ("max" or -1) or no such file."""
    try:
        quota, period = " ".join(map(_text, files)).split()
        return int(quota), int(period)
    except (OSError, ValueError):
        return 0, 0


def _text(file: str) -> str:
    with open(file) as opened:
        return opened.read()
