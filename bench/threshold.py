"""From which size on shared memory is faster than the pipe: what `large=` should be.

    python -m bench.threshold

Two pools, one that never uses shared memory and one that always does, by turns in one process; an
array there and back, and one there only. Prints the middle of the times and their ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

SIZES = tuple(1 << power for power in range(12, 22))
ROUNDS, CALLS = 15, 20


def median_seconds(pools: dict[str, Any], fn: Callable[[Any], Any], arg: Any) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(ROUNDS):
        for name, pool in pools.items():
            pool.submit(fn, arg).result()
            before = time.perf_counter()
            for _ in range(CALLS):
                pool.submit(fn, arg).result()
            samples[name].append((time.perf_counter() - before) / CALLS)
    return {name: statistics.median(found) for name, found in samples.items()}


def main() -> None:
    import numpy

    from hookpool import HookPoolExecutor

    print(f"{'bytes':>9}  {'there and back, us':^28}  {'there only, us':^28}")
    print(f"{'':>9}" + 2 * f"  {'pipe':>9}{'shared':>9}{'ratio':>10}")
    with (
        HookPoolExecutor(2, shared_memory=0) as pipe,
        HookPoolExecutor(2, large=1 << 12) as shared,
    ):
        pools = {"pipe": pipe, "shared": shared}
        for size in SIZES:
            array = numpy.ones(size, numpy.uint8)
            line = f"{size:>9}"
            for fn in (lambda x: x, lambda x: None):
                found = median_seconds(pools, fn, array)
                times = [1e6 * found[name] for name in pools]
                line += f"  {times[0]:>9.0f}{times[1]:>9.0f}{times[1] / times[0]:>10.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
