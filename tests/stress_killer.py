"""A program that kills workers of another process at random, from outside.

``python tests/stress_killer.py OWNER SEED LEAST MOST`` waits between LEAST and MOST seconds, kills
one grandchild of OWNER (workers are children of a fork server) or, now and then, the fork server
itself, says so in one line, and begins again; until its standard input ends.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from pathlib import Path

#: The share of kills that hit a fork server: it costs the pool more than a worker does.
SERVERS = 0.02


def children(pid: int) -> list[int]:
    """Its living children."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:  # the thread or the process has just ended
            continue
    return found


def main(owner: int, seed: int, least: float, most: float) -> None:
    """See the module."""
    rng = random.Random(seed)
    while not select.select([sys.stdin], [], [], rng.uniform(least, most))[0]:
        servers = {pid: children(pid) for pid in children(owner) if pid != os.getpid()}
        servers = {pid: workers for pid, workers in servers.items() if workers}
        workers = [worker for found in servers.values() for worker in found]
        if not workers:
            continue
        what = "server" if rng.random() < SERVERS else "worker"
        victim = rng.choice(sorted(servers) if what == "server" else sorted(workers))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        sys.stdout.write(f"{what} {victim}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
