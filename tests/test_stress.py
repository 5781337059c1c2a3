"""A soak: everything at once, workers killed at random, and every task accounted for at the end.

``HOOKPOOL_STRESS_SECONDS`` says how long (a minute by default; `make stress` takes half an hour),
``HOOKPOOL_STRESS_SEED`` repeats the choices of a run that failed (not its timing). Two pools are
kept busy by three threads each, one of them replaces its workers after every fifty tasks. Workers
are killed from outside by a process of its own (`stress_killer.py`), about one in three seconds,
the fork server now and then; others end themselves by what their tasks do.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import pytest

from hookpool import errors
from hookpool.executor import HookPoolExecutor

SECONDS = float(os.environ.get("HOOKPOOL_STRESS_SECONDS", "60"))
SEED = int(os.environ.get("HOOKPOOL_STRESS_SEED", str(random.SystemRandom().randrange(1 << 32))))
#: Seconds between two kills. Five deaths outside any task within ten seconds break a pool, by
#: contract: five kills must take longer.
BETWEEN_KILLS = 2.6, 3.4
#: Seconds a result may take: a hang is longer than the slowest machine.
PATIENCE = 120.0
#: What the owner's memory may grow by after a quarter of the time: caches fill up, a leak of a
#: kilobyte per death or of some bytes per task would be more.
GROWTH = 48 << 20


def run(number, log, kind, load):
    """A task that leaves a line, then does what its kind says."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    if kind == "long":
        time.sleep(0.01)
    elif kind == "busy":
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
    elif kind == "error":
        raise LookupError(number)
    elif kind == "stuck":
        time.sleep(2 * PATIENCE)
    elif kind == "suicide":
        os.kill(os.getpid(), random.choice([signal.SIGKILL, signal.SIGSEGV]))
    elif kind == "hard exit":
        os._exit(7)
    elif kind == "exit":
        sys.exit(number)
    return number, load


KINDS = {
    "tiny": 86, "long": 4, "busy": 5, "error": 3, "exit": 1, "suicide": 0.3, "hard exit": 0.1,
    "stuck": 0.2,
}  # fmt: skip
#: Seconds that a task may run which is stuck, and that some of the others may.
STUCK, ENOUGH = 0.2, PATIENCE


class Ended(IntEnum):
    """How a task ended, as its future says."""

    NOT_YET = 0
    VALUE = 1
    ERROR = 2
    EXIT = 3
    CANCELLED = 4
    #: It ran when its worker died.
    DIED = 5
    #: It had been started; whether it was through when its worker died, nobody knows.
    LOST = 6
    #: It had had its time.
    TIMED_OUT = 7


#: How often a task that ended so has run.
RUNS = {
    Ended.VALUE: {1},
    Ended.ERROR: {1},
    Ended.EXIT: {1},
    Ended.CANCELLED: {0},
    Ended.DIED: {0, 1},  # claimed, and killed before its first line
    Ended.LOST: {0, 1},
    Ended.TIMED_OUT: {0, 1},
}


class Book:
    """What became of each task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By number. An array: millions of tasks must not look like a leak.
        self._ends = array("B")
        self.maps: Counter[str] = Counter()

    def number(self) -> int:
        with self._lock:
            self._ends.append(Ended.NOT_YET)
            return len(self._ends) - 1

    def note(self, number: int, end: Ended) -> None:
        with self._lock:
            assert self._ends[number] == Ended.NOT_YET
            self._ends[number] = end

    def note_map(self, word: str) -> None:
        with self._lock:
            self.maps[word] += 1

    def counts(self) -> dict[str, int]:
        with self._lock:
            found = Counter(self._ends)
            return {Ended(end).name.lower(): found[end] for end in sorted(found)} | self.maps

    def wrong(self, log: Path) -> list[str]:
        """Tasks that ran more or less often than their end says, and those without an end."""
        runs = array("B", bytes(len(self._ends)))
        with log.open() as lines:
            for line in lines:
                runs[int(line)] += 1
        return [
            f"task {number}: {Ended(end).name}, ran {times} times"
            for number, (end, times) in enumerate(zip(self._ends, runs, strict=True))
            if times not in RUNS.get(Ended(end), set())
        ]


class Soak:
    """Threads that submit to one pool and check what comes back."""

    def __init__(self, pool: HookPoolExecutor, log: Path, book: Book, until: float) -> None:
        self.pool = pool
        self.limited = pool.options(timeout=ENOUGH)
        self.impatient = pool.options(timeout=STUCK)
        self.log = str(log)
        self.book = book
        self.until = until
        self.failures: list[BaseException] = []

    def work(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < self.until and not self.failures:
                (self._map_some if rng.random() < 0.2 else self._submit_some)(rng)
        except BaseException as error:
            self.failures.append(error)

    def _submit_some(self, rng: random.Random) -> None:
        closure = rng.random()
        futures = []
        for _ in range(rng.choice([1, 3, 30, 200])):
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            load = bytes(rng.choice([0, 10, 5000, 300_000 if rng.random() < 0.05 else 1]))
            number = self.book.number()
            task = (lambda *a: (run(*a), closure)) if rng.random() < 0.3 else run
            pool = self.impatient if kind == "stuck" else rng.choice([self.pool, self.limited])
            future = pool.submit(task, number, self.log, kind, load)
            futures.append((number, kind, (number, load), task is run, future))
        if rng.random() < 0.3:
            for *_, future in rng.sample(futures, len(futures) // 2):
                future.cancel()
        for number, kind, value, plain, future in futures:
            self.book.note(number, _checked(kind, value, plain, future))

    def _map_some(self, rng: random.Random) -> None:
        size = rng.choice([10, 1000])
        buffersize = rng.choice([None, 7])
        pool = rng.choice([self.pool, self.limited])
        found = pool.map(lambda x: x * 3, range(size), buffersize=buffersize)
        try:
            assert list(found) == [3 * n for n in range(size)]
            self.book.note_map("maps")
        except errors.WorkerDied:
            self.book.note_map("maps that met a death")


def _checked(kind: str, value: object, plain: bool, future) -> Ended:
    try:
        found = future.result(timeout=PATIENCE)
        assert (found if plain else found[0]) == value
        assert kind in ("tiny", "long", "busy")
        return Ended.VALUE
    except CancelledError:
        return Ended.CANCELLED
    except LookupError:
        assert kind == "error"
        return Ended.ERROR
    except SystemExit:
        assert kind == "exit"
        return Ended.EXIT
    except errors.TaskTimedOut:
        assert kind == "stuck"
        return Ended.TIMED_OUT
    except errors.ResultLost:
        return Ended.LOST
    except errors.WorkerDied:
        return Ended.DIED


class Held(NamedTuple):
    """What this process holds."""

    descriptors: int
    threads: int
    memory: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )


@contextmanager
def killer(log: Path) -> Iterator[None]:
    """A process that kills workers of this one; what it did is in the file."""
    least, most = map(str, BETWEEN_KILLS)
    program = Path(__file__).with_name("stress_killer.py")
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, str(program), str(os.getpid()), str(SEED), least, most],
            stdin=subprocess.PIPE,
            stdout=out,
        ) as process,
    ):
        yield
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.stress
@pytest.mark.timeout(SECONDS + 2 * PATIENCE)
def test_everything_at_once_loses_and_repeats_nothing(tmp_path, capfd):
    log, kills, book = tmp_path / "log", tmp_path / "kills", Book()
    log.touch()
    began = time.monotonic()
    until = began + SECONDS

    def story() -> str:
        hits = Counter(kills.read_text().split()[::2])
        return (
            f"seed {SEED}, {time.monotonic() - began:.0f} s: killed from outside "
            f"{hits['worker']} workers and {hits['server']} servers; {book.counts()}; {Held.now()}"
        )

    def say() -> None:
        with capfd.disabled():
            sys.stdout.write(story() + "\n")
            sys.stdout.flush()

    with (
        HookPoolExecutor(2) as lasting,
        HookPoolExecutor(2, max_tasks_per_child=50) as passing,
        killer(kills),
    ):
        soaks = [Soak(pool, log, book, until) for pool in (lasting, passing)]
        threads = [
            threading.Thread(target=soak.work, args=(SEED + number,))
            for number, soak in enumerate(soaks * 3)
        ]
        say()
        for thread in threads:
            thread.start()
        warm = _watch(until, SECONDS / 4, say)
        for thread in threads:
            thread.join()
        end = Held.now()
        failures = [failure for soak in soaks for failure in soak.failures]
        for pool in (lasting, passing):
            try:
                assert pool.submit(abs, -1).result(timeout=PATIENCE) == 1
            except BrokenProcessPool as error:
                failures.append(error)
    say()
    assert not failures, (story(), failures)
    assert not book.wrong(log), (story(), book.wrong(log)[:20])
    assert kills.read_text().count("worker") >= (SECONDS - 10) / BETWEEN_KILLS[1] * 0.9, story()
    # While workers come and go some descriptors more or less are open at any moment.
    assert end.descriptors <= warm.descriptors + 20, (warm, end)
    assert end.memory <= warm.memory + GROWTH, (warm, end)


def _watch(until: float, after: float, say) -> Held:
    """Say now and then how it goes; what was held when the caches had been filled."""
    pause = threading.Event()
    pause.wait(after)
    warm = Held.now()
    while (left := until - time.monotonic()) > 0:
        say()
        pause.wait(min(60.0, left))
    return warm
