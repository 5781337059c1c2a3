"""A soak of large data: random sizes, directions and holders, workers killed, nothing left.

``HOOKPOOL_STRESS_SECONDS`` and ``HOOKPOOL_STRESS_SEED`` as for `test_stress`; a short one is in
every run of the tests.  Three threads use one pool.  What arrives is compared with what was sent;
what is kept, here or in a worker, is compared again when it is dropped, after hundreds of others
have come and gone.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookpool import _buffers, errors
from hookpool.executor import HookPoolExecutor
from tests.processes import wait_until

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20
SEED = int(os.environ.get("HOOKPOOL_STRESS_SEED", str(random.SystemRandom().randrange(1 << 32))))
PATIENCE = 120.0
#: What this process may have more in memory in the end: caches, and what the allocator keeps.
GROWTH = 64 * MB


def ramp(size: int, first: int) -> Any:
    """So many bytes of which each word says where it belongs."""
    return np.arange(first, first + size // 8)


def is_ramp(x: Any, first: int) -> bool:
    return bool((x == np.arange(first, first + len(x))).all())


#: In a worker: what tasks have kept.
kept_here: list[tuple[Any, int]] = []


def keep(x: Any, first: int, most: int) -> bool:
    """Keep a part of it, and see that what was kept before is as it was."""
    kept_here.append((x[5:-5], first + 5))
    while len(kept_here) > most:
        kept_here.pop(random.randrange(len(kept_here)))
    return all(is_ramp(*one) for one in kept_here)


def spoil(x: Any, first: int) -> bool:
    """Whether nobody has written to it before; then write to all of it."""
    clean = is_ramp(x, first)
    x[:] = -1
    return clean


class Bad(Exception):
    """Carries an array."""

    def __init__(self, x: Any) -> None:
        super().__init__("bad")
        self.x = x

    def __reduce__(self) -> Any:
        return Bad, (self.x,)


class Soaker:
    """One thread's share. `WAYS` are what may be done with large data."""

    WAYS: tuple[Callable[[Any], None], ...]

    def __init__(self, pool: HookPoolExecutor, seed: int, is_deadly: bool) -> None:
        self.pool = pool
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._is_deadly = is_deadly
        #: Results and what they must be.
        self._results: list[tuple[Any, int]] = []
        #: Handles, and what is behind them.
        self._handles: list[tuple[Any, int, bool]] = []

    def work(self, until: float) -> None:
        try:
            while time.monotonic() < until:
                way = self.rng.choice(self.WAYS)
                try:
                    way(self)
                except errors.WorkerDied:  # or its result was lost
                    self.done["met a death"] += 1
                else:
                    self.done[way.__name__] += 1
                self._drop_some(12)
            self._drop_some(0)
        except BaseException as error:
            self.failures.append(error)
        self._results.clear()
        self._handles.clear()

    def _drop_some(self, most: int) -> None:
        while len(self._results) > most:
            assert is_ramp(*self._results.pop(self.rng.randrange(len(self._results))))

    def _size(self) -> int:
        return 8 * int(2 ** self.rng.uniform(5, 19))

    def _first(self) -> int:
        return self.rng.randrange(1 << 40)

    def _call(self, fn: Any, *args: Any) -> Any:
        return self.pool.submit(fn, *args).result(timeout=PATIENCE)

    def argument(self) -> None:
        x, first = ramp(self._size(), first := self._first()), first
        assert self._call(is_ramp, x, first)
        if self._is_deadly and self.rng.random() < 0.1:
            self._call(lambda x: os.kill(os.getpid(), signal.SIGKILL), x)

    def result(self) -> None:
        size, first = self._size(), self._first()
        self._results.append((self._call(ramp, size, first), first))

    def echo(self) -> None:
        size, first = self._size(), self._first()
        part = self._call(lambda x: x[3:-3], ramp(size, first))
        self._results.append((part, first + 3))

    def kept(self) -> None:
        first = self._first()
        assert self._call(keep, ramp(self._size(), first), first, 8)

    def raised(self) -> None:
        first = self._first()

        def fail(x: Any) -> None:
            raise Bad(x)

        with pytest.raises(Bad) as caught:
            self._call(fail, ramp(self._size(), first))
        self._results.append((caught.value.x, first))

    def captured(self) -> None:
        x, first = ramp(self._size(), first := self._first()), first
        size = len(x)

        def look(n: int) -> bool:
            return int(x[n]) == first + n

        assert all(self.pool.map(look, self.rng.sample(range(size), 5), timeout=PATIENCE))

    def repeated(self) -> None:
        x, first = ramp(self._size(), first := self._first()), first
        assert all(self.pool.map(spoil, [x] * 6, [first] * 6, timeout=PATIENCE))
        assert is_ramp(x, first)

    def put(self) -> None:
        if len(self._handles) > 5:
            self._handles.pop(self.rng.randrange(len(self._handles)))
        first, read_only = self._first(), self.rng.random() < 0.5
        handle = self.pool.put(ramp(self._size(), first), read_only=read_only)
        self._handles.append((handle, first, read_only))

    def use(self) -> None:
        if self._handles:
            handle, first, read_only = self.rng.choice(self._handles)
            assert self._call(is_ramp if read_only else spoil, handle, first)
            self._results.append((self._call(lambda x: x[9:], handle), first + 9))

    def spread(self) -> None:
        sizes = [self._size() for _ in range(8)]
        first = self._first()
        arrays = (ramp(size, first) for size in sizes)
        found = self.pool.map(lambda x: x[::2].copy(), arrays, buffersize=3, timeout=PATIENCE)
        for size, x in zip(sizes, found, strict=True):
            assert (x == ramp(size, first)[::2]).all()


Soaker.WAYS = (
    Soaker.argument, Soaker.result, Soaker.echo, Soaker.kept, Soaker.raised, Soaker.captured,
    Soaker.repeated, Soaker.put, Soaker.use, Soaker.spread,
)  # fmt: skip


def mapped() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:hookpool" in line for line in maps)


def held() -> tuple[int, int, int]:
    """Descriptors, mappings of ours and memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), mapped(), pages * os.sysconf("SC_PAGE_SIZE")


def soak(seconds: float) -> Counter[str]:
    with HookPoolExecutor(1) as pool:  # what stays for ever: the fork server and its pipes
        pool.submit(is_ramp, ramp(MB, 1), 1).result()
    before = held()  # what has a name, in /dev/shm, every test is checked for (see conftest)
    until = time.monotonic() + seconds
    with HookPoolExecutor(2, shared_memory=256 * MB) as pool:
        soakers = [Soaker(pool, SEED + number, number == 0) for number in range(3)]
        threads = [threading.Thread(target=one.work, args=(until,)) for one in soakers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = sum((one.done for one in soakers), Counter())
        failures = [failure for one in soakers for failure in one.failures]
        assert not failures, (SEED, done, failures)
        lender = pool._driver._lender
        # Also what the workers keep goes: with them.
        pool._driver.end(lambda process: process.terminate())
        assert not lender.held, (SEED, done)
    after = held()
    assert after[:2] == before[:2], (SEED, before, after)
    assert after[2] <= before[2] + GROWTH, (SEED, before, after)
    return done


@pytest.mark.timeout(60)
def test_a_short_soak_leaves_nothing():
    soak(6.0)


@pytest.mark.stress
@pytest.mark.timeout(4000)
def test_a_long_soak_leaves_nothing():
    done = soak(float(os.environ.get("HOOKPOOL_STRESS_SECONDS", "60")))
    assert set(done) == {way.__name__ for way in Soaker.WAYS} | {"met a death"}, (SEED, done)


def test_memory_goes_back_while_the_pool_goes_on():
    """After a soak without deaths and without holders, the lender is as before."""
    with HookPoolExecutor(2) as pool:
        one = Soaker(pool, SEED, False)
        for _ in range(20):
            one.captured()
            one.repeated()
            one.put()
            one.use()
        one._results.clear()
        one._handles.clear()
        wait_until(lambda: not pool._driver._lender.held, timeout=20)
