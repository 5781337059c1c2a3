"""What a worker is told first: how the initializer and what it is given get there, and stay."""

from __future__ import annotations

import multiprocessing
import os
import weakref
from typing import Any

import pytest

from hookpool import _buffers, _nesting, _start, errors, reduction
from hookpool._buffers import Exchange, Lender
from hookpool._worker_pickler import worker_dumps
from hookpool.executor import HookPoolExecutor
from tests.processes import run_python

MB = 1 << 20


shares = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

#: What an initializer has left in this process.
here: dict[str, Any] = {}


def keep(*args: Any) -> None:
    here["args"] = args


def kept() -> Any:
    return here["args"]


def written_so_far() -> int:
    with open("/proc/self/io") as io:
        return int(io.read().split()[3])


def test_a_start_runs_the_initializer_in_the_given_environment(monkeypatch):
    monkeypatch.setattr(_nesting, "depth", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    for name in _start.THREAD_VARIABLES[1:]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOOKPOOL_TEST", "before")
    seen = []
    start = _start.Start(
        lambda x: seen.append((x, os.environ["HOOKPOOL_TEST"])), (1,), {"HOOKPOOL_TEST": "a"}, 3, 2
    )

    start.prepare(Exchange(None, Lender()))

    assert seen == [(1, "a")]
    assert _nesting.depth == 2
    assert os.environ["OMP_NUM_THREADS"] == "9"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_a_start_travels_in_one_pickle_and_opens_late():
    start = _start.Start(len, ("abc",), {"A": "b"}, None, 1)

    twin = reduction.loads(worker_dumps(start))

    assert twin.initializer is None
    assert twin.environ == {"A": "b"}
    assert reduction.loads(twin._arrived) == (len, ("abc",), None)


# -- the initializer's globals ------------------------------------------------------------------

IDIOM = """
import sys
from collections import defaultdict
from hookpool import HookPoolExecutor

model = None
settings = {"depth": 1}
seen = defaultdict(list)

def init(depth):
    global model
    model = {"weight": 3}
    settings["depth"] = depth
    seen["init"].append(depth)

def predict(x):
    return model["weight"] * x, settings["depth"], dict(seen)

if __name__ == "__main__":
    with HookPoolExecutor(1, sys.argv[1], init, (5,)) as pool:
        print(pool.submit(predict, 2).result())
        print(*pool.map(predict, [3]))
        settings["depth"] = 7  # what the owner makes of it counts from now on
        print(pool.submit(predict, 4).result())
"""


@pytest.mark.parametrize("method", ["hookpool", "spawn", "forkserver", "fork"])
def test_what_an_initializer_makes_of_globals_is_what_tasks_read(tmp_path: Any, method: str):
    (tmp_path / "program.py").write_text(IDIOM)
    assert run_python(str(tmp_path / "program.py"), method).splitlines() == [
        "(6, 5, {'init': [5]})",
        "(9, 5, {'init': [5]})",
        "(12, 7, {'init': [5]})",
    ]


# -- large arguments ----------------------------------------------------------------------------


def numbers() -> bytearray:
    return bytearray(range(256)) * (8 * MB // 256)


def mine_alone() -> int:
    """How much of the pool's shared memory this process has copies of, in KiB."""
    found, is_ours = 0, False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            if "-" in line.split()[0]:
                is_ours = "memfd:hookpool" in line
            elif is_ours and line.startswith("Private_Dirty:"):
                found += int(line.split()[1])
    return found


@shares
@pytest.mark.parametrize("method", ["hookpool", "spawn", "forkserver"])
def test_large_initargs_do_not_go_through_the_pipe(method: str):
    table, text = numbers(), bytes(8 * MB)
    context = multiprocessing.get_context(method)
    with HookPoolExecutor(1, context, keep, (table, text, "small")) as pool:
        before = written_so_far()
        assert pool.submit(kept).result() == (table, text, "small")
        assert written_so_far() - before < MB


@shares
def test_nor_does_what_an_initializer_captures():
    table = numbers()
    with HookPoolExecutor(1, initializer=lambda: keep(table)) as pool:
        before = written_so_far()
        assert pool.submit(kept).result() == (table,)
        assert written_so_far() - before < MB


def write(value: int) -> tuple[int, int, int]:
    """What an array sums up to, and how much of it is copied before and after a write."""
    (array,) = kept()
    total, before = int(array.sum()), mine_alone()
    array[0] = value
    return total, before, mine_alone()


@shares
def test_workers_share_them_but_for_what_they_write():
    np = pytest.importorskip("numpy")

    ones = np.ones(MB, dtype=np.int64)
    with HookPoolExecutor(1, initializer=keep, initargs=(ones,)) as pool:
        page = os.sysconf("SC_PAGE_SIZE") // 1024
        assert pool.submit(write, 5).result() == (MB, 0, page)
        assert pool.submit(write, 6).result() == (MB + 4, page, page)
        # The worker that takes its place has what was given.
        with pytest.raises(errors.WorkerDied):
            pool.submit(os._exit, 1).result()
        assert pool.submit(write, 7).result() == (MB, 0, page)
    assert ones[0] == 1


@shares
@pytest.mark.parametrize("is_array", [True, False])
def test_all_workers_have_one_copy(is_array: bool):
    table = pytest.importorskip("numpy").ones(MB) if is_array else numbers()
    with HookPoolExecutor(1, initializer=keep, initargs=(table,), max_tasks_per_child=1) as pool:
        pids, parcels = set(), []
        for _ in range(5):
            pids.add(pool.submit(os.getpid).result())
            parcels += pool._start._latest
        assert len(pids) == len(parcels) == 5
        assert all(parcel is parcels[0] for parcel in parcels)


def first_number() -> int:
    number: int = kept()[0][0]
    return number


@pytest.mark.parametrize("shared_memory", [None, 0])
def test_a_worker_has_them_as_they_are_when_it_starts(shared_memory: int | None):
    table = numbers()
    with HookPoolExecutor(
        1, initializer=keep, initargs=(table,), max_tasks_per_child=1, shared_memory=shared_memory
    ) as pool:
        assert pool.submit(first_number).result() == 0
        table[0] = 1
        # The second may have been started before that.
        assert [pool.submit(first_number).result() for _ in range(3)][-1] == 1


def can_lock() -> bool:
    taken: bool = kept()[0].acquire(block=False)
    return taken


def test_what_travels_only_to_a_child_that_is_started_may_be_among_them():
    context = multiprocessing.get_context("hookpool")
    lock, table = context.Lock(), numbers()
    with HookPoolExecutor(1, context, keep, (lock, table)) as pool:
        lock.acquire()
        assert not pool.submit(can_lock).result()
        lock.release()
        assert pool.submit(can_lock).result()


class Model:
    """There are weak references to it."""


def watch(model: Model) -> None:
    here["model"] = weakref.ref(model)


def is_gone() -> bool:
    return here["model"]() is None


def test_what_the_initializer_does_not_keep_is_not_kept():
    with HookPoolExecutor(1, initializer=watch, initargs=(Model(),)) as pool:
        assert pool.submit(is_gone).result()
