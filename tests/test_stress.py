"""A soak: everything at once, workers killed at random, and every task accounted for at the end.

``HOOKPOOL_STRESS_SECONDS`` says how long (a minute by default), ``HOOKPOOL_STRESS_SEED`` repeats
the choices of a run that failed (not its timing).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

import pytest

from hookpool import errors
from hookpool.executor import HookPoolExecutor

SECONDS = float(os.environ.get("HOOKPOOL_STRESS_SECONDS", "60"))
SEED = int(os.environ.get("HOOKPOOL_STRESS_SEED", str(random.SystemRandom().randrange(1 << 32))))


def run(number, log, kind, load):
    """A task that leaves a line, then does what its kind says."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    if kind == "long":
        time.sleep(0.01)
    elif kind == "error":
        raise LookupError(number)
    elif kind == "suicide":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exit":
        sys.exit(number)
    return number, load


class Soak:
    """Several threads that submit, one that kills; all bookkeeping in `outcomes`."""

    def __init__(self, pool, log):
        self.pool = pool
        self.log = str(log)
        self.numbers = iter(range(1 << 40))
        self.lock = threading.Lock()
        self.outcomes = Counter()
        self.kills = 0
        self.until = time.monotonic() + SECONDS
        self.failures = []

    def number(self):
        with self.lock:
            return next(self.numbers)

    def submit_some(self, rng):
        closure = rng.random()
        futures = []
        for _ in range(rng.choice([1, 3, 30, 200])):
            kind = rng.choices(["tiny", "long", "error", "exit", "suicide"], [90, 5, 3, 1, 0.4])[0]
            load = bytes(rng.choice([0, 10, 5000, 300_000 if rng.random() < 0.05 else 1]))
            number = self.number()
            task = (lambda *a: (run(*a), closure)) if rng.random() < 0.3 else run
            futures.append(
                (
                    number,
                    kind,
                    load,
                    task is run,
                    self.pool.submit(task, number, self.log, kind, load),
                )
            )
        if rng.random() < 0.3:
            for *_, future in rng.sample(futures, len(futures) // 2):
                future.cancel()
        for number, kind, load, plain, future in futures:
            self.check(number, kind, load, plain, future)

    def check(self, number, kind, load, plain, future):
        try:
            value = future.result(timeout=60)
            value = value if plain else value[0]
            assert value == (number, load)
            assert kind in ("tiny", "long")
            outcome = "value"
        except CancelledError:
            outcome = "cancelled"
        except LookupError:
            assert kind == "error"
            outcome = "error"
        except SystemExit:
            assert kind == "exit"
            outcome = "exit"
        except errors.ResultLost:
            outcome = "lost"
        except errors.WorkerDied:
            outcome = "died"
        with self.lock:
            self.outcomes[outcome] += 1

    def map_some(self, rng):
        size = rng.choice([10, 1000])
        try:
            assert list(self.pool.map(lambda x: x * 3, range(size))) == [
                3 * n for n in range(size)
            ]
            outcome = "map"
        except errors.WorkerDied:
            outcome = "map died"
        with self.lock:
            self.outcomes[outcome] += 1

    def work(self, seed):
        rng = random.Random(seed)
        try:
            while time.monotonic() < self.until:
                (self.map_some if rng.random() < 0.2 else self.submit_some)(rng)
        except BaseException as error:
            self.failures.append(error)

    def kill(self, seed):
        rng = random.Random(seed)
        # Deaths outside any task break the pool when they come five in ten seconds.
        pause = 2.5
        while time.monotonic() < self.until:
            threading.Event().wait(rng.uniform(0, 2 * pause))
            pids = list(self.pool._processes)
            if pids:
                try:
                    os.kill(rng.choice(pids), rng.choice([signal.SIGKILL, signal.SIGSEGV]))
                    self.kills += 1
                except ProcessLookupError:
                    pass


@pytest.mark.stress
@pytest.mark.timeout(SECONDS + 240)
def test_everything_at_once_loses_and_repeats_nothing(tmp_path):
    log = tmp_path / "log"
    log.touch()
    with HookPoolExecutor(3) as pool:
        soak = Soak(pool, log)
        threads = [threading.Thread(target=soak.work, args=(SEED + n,)) for n in range(3)]
        threads.append(threading.Thread(target=soak.kill, args=(SEED,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            assert pool.submit(abs, -1).result(timeout=60) == 1
        except BrokenProcessPool as error:
            soak.failures.append(error)
    runs = Counter(log.read_text().split())
    story = f"seed {SEED}: {soak.kills} kills from outside, {dict(soak.outcomes)}"
    sys.stdout.write(story + "\n")
    assert not soak.failures, (story, soak.failures)
    assert max(runs.values()) == 1, story
