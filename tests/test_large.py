"""Large data through the executor: both ways, kept, changed, forwarded, and whoever dies."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hookpool import _buffers, _memory, errors
from hookpool.executor import HookPoolExecutor
from tests.processes import run_python, wait_until

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20


def numbers(size: int = MB, seed: int = 0) -> Any:
    return np.arange(seed, seed + size // 8, dtype=np.int64)


def held_by_workers(pool: HookPoolExecutor) -> int:
    """Bytes of our shared memory that are mapped in the workers."""
    return sum(mapped(pid) for pid in pool._processes)


def mapped(pid: int) -> int:
    with open(f"/proc/{pid}/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if "memfd:hookpool" in line]
    return sum(int(stop, 16) - int(start, 16) for start, stop in spans)


ARRAYS = {
    "plain": np.arange(200_000.0),
    "fortran": np.asfortranarray(np.arange(200_000.0).reshape(400, 500)),
    "strided": np.arange(400_000.0)[::2],
    "transposed": np.arange(240_000.0).reshape(40, 60, 100).transpose(2, 0, 1),
    "structured": np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]),
    "records": np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]).view(np.recarray),
    "dates": np.arange("2000-01-01", "2300-01-01", dtype="datetime64[D]").repeat(5),
    "strings": np.array(["abc", "defg"] * 20_000),
    "zero dimensions": np.array(3.5),
    "readonly": np.frombuffer(bytes(200_000), dtype=np.uint8),
    "masked": np.ma.masked_array(np.arange(50_000.0), np.arange(50_000) % 3 == 0),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_layout_make_the_round_trip(pool: HookPoolExecutor, name: str):
    original = ARRAYS[name]
    back = pool.submit(lambda x: x, original).result()
    assert type(back) is type(original)
    assert back.dtype == original.dtype
    assert back.shape == original.shape
    assert back.strides == original.strides or not original.flags.forc
    assert (back == original).all()
    assert back.flags.writeable == original.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        bytes(range(256)) * 4000,
        bytearray(range(256)) * 4000,
        array.array("d", range(100_000)),
        "é" * 300_000,
        {"a": [b"x" * 100_000, bytearray(100_000)], "b": list(range(50_000))},
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_large_things_make_the_round_trip(pool: HookPoolExecutor, value: Any):
    back = pool.submit(lambda x: x, value).result()
    assert type(back) is type(value)
    assert back == value


def test_large_things_do_not_go_through_the_pipe(pool: HookPoolExecutor):
    pool.submit(int).result()

    def read_so_far() -> int:
        with open("/proc/self/io") as io:
            return int(io.readline().split()[1])

    for value in (numbers(8 * MB), bytes(8 * MB), bytearray(8 * MB)):
        before = read_so_far()
        pool.submit(lambda x: x, value).result()
        assert read_so_far() - before < MB


def test_arguments_and_results_are_writable_and_nobody_elses(pool: HookPoolExecutor):
    original = numbers()

    def negate(x: Any) -> Any:
        x *= -1
        return x

    first, second = list(pool.map(negate, [original, original]))
    assert (original == numbers()).all()
    assert (first == -original).all()
    first[:] = 0
    assert (second == -original).all()


def test_the_array_is_as_it_was_when_it_was_submitted(pool: HookPoolExecutor):
    x = numbers()
    futures = []
    for n in range(20):
        x[:] = n
        futures.append(pool.submit(lambda x: (x.min(), x.max()), x))
    x[:] = -1
    assert [future.result() for future in futures] == [(n, n) for n in range(20)]


def test_what_a_task_keeps_lives_on_and_never_changes(pool: HookPoolExecutor):
    kept: list[Any] = []

    def keep(x: Any, n: int) -> bool:
        kept.append((x[n : n + 1000], x[n : n + 1000].copy()))
        return all((a == b).all() for a, b in kept)

    assert all(pool.map(keep, [numbers(MB, n * 7) for n in range(60)], range(60)))


def test_results_that_are_kept_never_change(pool: HookPoolExecutor):
    kept = []
    for n in range(100):
        result = pool.submit(lambda n: np.full(MB // 8, n), n).result()
        if n % 3 == 0:
            kept.append((n, result[100:-100]))
    assert all((part == n).all() for n, part in kept)


def test_a_result_from_the_argument_and_one_passed_on(pool: HookPoolExecutor):
    part = pool.submit(lambda x: x[1000:-1000], numbers(2 * MB)).result()
    again = pool.submit(lambda x: x[::-1], part).result()
    assert (again[::-1] == numbers(2 * MB)[1000:-1000]).all()


def test_memory_is_used_again(pool: HookPoolExecutor):
    x = numbers(4 * MB)
    for _ in range(3):
        pool.submit(lambda x: x, x).result()
    held = pool._driver._lender.held
    in_workers = held_by_workers(pool)
    for _ in range(50):
        pool.submit(lambda x: x, x).result()
    assert pool._driver._lender.held == held
    assert held_by_workers(pool) <= 2 * in_workers


def test_memory_goes_back_when_nobody_uses_it(pool: HookPoolExecutor):
    result = pool.submit(lambda x: x, numbers(8 * MB)).result()
    assert mapped(os.getpid()) > 8 * MB
    assert held_by_workers(pool) > 8 * MB
    del result
    wait_until(lambda: not mapped(os.getpid()) and not held_by_workers(pool), timeout=20)


def test_a_result_outlives_its_pool():
    with HookPoolExecutor(1) as pool:
        result = pool.submit(lambda: np.arange(MB)).result()
    result += 1
    assert (result == np.arange(1, MB + 1)).all()
    del result
    assert not mapped(os.getpid())


def test_a_raised_exception_may_carry_an_array(pool: HookPoolExecutor):
    def fail(x: Any) -> None:
        error = ValueError("see payload")
        error.payload = x  # type: ignore[attr-defined]
        raise error

    # Not raised: that would put error and frame into a cycle, and memory is looked at below.
    error: Any = pool.submit(fail, numbers()).exception()
    assert type(error) is ValueError
    assert (error.payload == numbers()).all()


def test_what_cannot_be_rebuilt_gives_its_memory_back(pool: HookPoolExecutor):
    class Bad:
        def __init__(self, x: Any) -> None:
            self.x = x

        def __setstate__(self, state: Any) -> None:
            raise LookupError("no")

    for _ in range(20):
        with pytest.raises(errors.CannotUnpickle):
            pool.submit(lambda b: b, Bad(numbers(4 * MB))).result()
    assert pool._driver._lender.held < 50 * MB


def test_cancelled_and_taken_back_tasks_give_their_memory_back(pool: HookPoolExecutor):
    """A worker that holds some in its queue says so when it drops them."""
    gate_in, gate_out = os.pipe()
    try:
        blockers = [pool.submit(lambda fd=gate_in: time.sleep(0.3)) for _ in range(2)]
        for _ in range(5):
            futures = [pool.submit(lambda x: x.sum(), numbers(MB)) for _ in range(10)]
            for future in futures:
                future.cancel()
        for blocker in blockers:
            blocker.result()
        assert (pool.submit(lambda x: x, numbers()).result() == numbers()).all()
    finally:
        os.close(gate_in)
        os.close(gate_out)
    del futures, future
    wait_until(lambda: not pool._driver._lender.held, timeout=20)


def test_a_killed_worker_takes_nothing_with_it_and_leaves_nothing(pool: HookPoolExecutor):
    kept = pool.submit(lambda: np.full(MB, 5)).result()
    for _ in range(5):
        with pytest.raises(errors.WorkerDied):
            pool.submit(lambda x: os.kill(os.getpid(), signal.SIGKILL), numbers(4 * MB)).result()
        for n in range(5):
            assert (pool.submit(lambda x: x + 1, np.full(MB, n)).result() == n + 1).all()
    assert (kept == 5).all()
    del kept
    wait_until(lambda: not pool._driver._lender.held and not mapped(os.getpid()), timeout=20)


def test_a_child_of_a_task_keeps_what_it_looks_at(pool: HookPoolExecutor):
    """The task forks and ends; its child looks at the argument much later."""
    r, w = os.pipe()
    os.set_inheritable(w, True)
    path = f"/proc/{os.getpid()}/fd/{w}"

    def fork(x: Any) -> int:
        pid = os.fork()
        if pid:
            return pid
        out = os.open(path, os.O_WRONLY)
        while os.getppid() == parent_of(x):
            time.sleep(0.001)
        os.write(out, b"same" if (x == 3).all() else b"changed")
        os._exit(0)

    def parent_of(x: Any) -> int:
        return int(x[0] * 0) + pid_of_worker

    pid_of_worker = pool.submit(os.getpid).result()
    with HookPoolExecutor(1) as one:
        pid_of_worker = one.submit(os.getpid).result()
        one.submit(fork, np.full(MB // 8, 3)).result()
        for n in range(20):
            one.submit(lambda x: x.sum(), np.full(MB // 8, 100 + n)).result()
    assert os.read(r, 10) == b"same"
    os.close(r)
    os.close(w)


def test_a_fork_of_the_owner_has_copies_of_results(pool: HookPoolExecutor):
    result = pool.submit(lambda: np.full(MB, 1)).result()
    pid = os.fork()
    if pid == 0:
        result[:] = 2
        os._exit(0)
    os.waitpid(pid, 0)
    assert (result == 1).all()


def test_a_fork_of_the_owner_that_drops_a_result_keeps_its_own_files(pool: HookPoolExecutor):
    results = [pool.submit(lambda: np.full(MB, 1)).result() for _ in range(4)]
    pid = os.fork()
    if pid == 0:
        own = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
        results.clear()
        gc.collect()
        with contextlib.suppress(OSError):
            for fd in own:
                os.fstat(fd)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The bytes of all shared memory that this process has been lent in this test."""
    fds = []
    mapped_here = _buffers.Mapped

    def noted(fd: int, *rest: Any) -> Any:
        fds.append(os.dup(fd))
        return mapped_here(fd, *rest)

    monkeypatch.setattr(_buffers, "Mapped", noted)
    yield lambda: sum(os.fstat(fd).st_blocks * 512 for fd in fds)
    for fd in fds:
        os.close(fd)


def test_results_of_workers_that_have_ended_take_no_more_memory_than_they_are(
    taken: Callable[[], int],
):
    with HookPoolExecutor(2, max_tasks_per_child=1) as pool:
        results = list(pool.map(numbers, [MB] * 12, range(12)))
    assert 12 * MB <= taken() <= 13 * MB
    assert all((one == numbers(MB, n)).all() for n, one in enumerate(results))
    for one in results:
        one += 1
    assert all((one == numbers(MB, n + 1)).all() for n, one in enumerate(results))


def test_workers_that_start_after_a_resize_have_smaller_shares_of_the_memory(
    taken: Callable[[], int], tmp_path: Path
):
    go = tmp_path / "go"
    with HookPoolExecutor(1, shared_memory=16 * MB) as pool:
        pool.submit(abs, 1).result()
        pool.resize(4)

        def fill(n: int) -> Any:
            (tmp_path / str(n)).touch()
            wait_until(go.exists)  # so that each is in a worker of its own
            return [numbers() for _ in range(16)]

        futures = [pool.submit(fill, n) for n in range(4)]
        wait_until(lambda: all((tmp_path / str(n)).exists() for n in range(4)))
        go.touch()
        results = [future.result() for future in futures]
        # The first may have all, as before.
        assert taken() <= 16 * MB + 3 * 4 * MB
    assert all((part == numbers()).all() for result in results for part in result)


def test_an_initializer_may_raise_something_large():
    text = "x" * MB

    def init() -> None:
        raise ValueError(text)

    with HookPoolExecutor(1, initializer=init) as pool:
        error = pool.submit(abs, 1).exception(timeout=50)

    assert isinstance(error, errors.InitializerFailed)
    assert str(error.__cause__) == text


@pytest.mark.timeout(200)
@pytest.mark.parametrize("items", [25_000, pytest.param(125_000, marks=pytest.mark.slow)])
def test_many_live_results_with_few_descriptors(items: int):
    if _memory.available() < 3 * 5000 * 8 * items:
        pytest.skip("new memory may be half of what is available, and not all is ours")
    out = run_python(
        "-c",
        f"""if True:
        import resource, os
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        import numpy as np
        from hookpool import HookPoolExecutor
        with HookPoolExecutor(2) as pool:
            kept = list(pool.map(lambda n: np.full({items}, n), range(5000)))
            print(len(os.listdir("/proc/self/fd")) < 250)
            print(all((x == n).all() for n, x in enumerate(kept)))
        """,
        timeout=180,
    )
    assert out.split() == ["True", "True"]


NO_DESCRIPTORS = """if True:
    import resource, os
    import numpy as np
    from hookpool import HookPoolExecutor
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    def exhaust():
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    def restore():
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    def outcome(*call):
        try:
            return pool.submit(*call).result()
        except Exception as error:
            return "limit of open files" in str(error)
    with HookPoolExecutor(1) as pool:
        x = np.ones(1 << 20)
        pool.submit(np.sum, np.ones(1 << 15)).result()
        pool.submit(np.ones, 1 << 15).result()
"""


def fails_once_without_descriptors(steps: str) -> list[str]:
    return run_python("-c", NO_DESCRIPTORS + textwrap.indent(steps, "        ")).split()


@pytest.mark.parametrize(
    "call",
    ["np.sum, x", "np.sum, pool.put(x)", "lambda: x.sum()", "lambda h: h.sum(), pool.put(x)"],
)
def test_a_worker_without_descriptors_fails_only_what_it_does_meanwhile(call: str):
    steps = f"""
call = {call}
pool.submit(exhaust).result()
print(outcome(*call) if type(call) is tuple else outcome(call))
pool.submit(restore).result()
for _ in range(3):
    print(outcome(*call) if type(call) is tuple else outcome(call))
"""
    assert fails_once_without_descriptors(steps) == ["True"] + [str(float(1 << 20))] * 3


def test_an_owner_without_descriptors_loses_only_what_comes_meanwhile():
    steps = """
exhaust()
print(outcome(np.ones, 1 << 20))
restore()
for _ in range(3):
    print(outcome(np.ones, 1 << 20).sum())
"""
    assert fails_once_without_descriptors(steps) == ["True"] + [str(float(1 << 20))] * 3


@pytest.mark.parametrize("victim", ["owner", "worker"])
def test_nothing_is_left_of_a_killed_program(victim: str):
    """Killed at any moment, with data on their way in both directions."""
    program = """if True:
    import os, sys, threading, numpy as np
    from hookpool import HookPoolExecutor
    pool = HookPoolExecutor(2)
    x = np.ones(1 << 18)
    pool.submit(int).result()
    print(*pool._processes, flush=True)
    while True:
        try:
            for _ in pool.map(lambda x: x + 1, [x] * 20):
                pass
        except Exception as error:
            if type(error).__name__ not in ("WorkerDied", "ResultLost"):
                raise
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        rng = random.Random(victim)
        threading.Event().wait(rng.uniform(0.1, 0.4))
        if victim == "worker":
            os.kill(pids[0], signal.SIGKILL)
            threading.Event().wait(0.2)
            assert owner.poll() is None
        owner.kill()
    # The memory has no name: it went with the last of them. (What has one, the leak check sees.)
    wait_until(lambda: not any(map(is_alive, pids)))


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_worker_does_not_import_numpy_for_it(pool: HookPoolExecutor):
    assert pool.submit(len, bytes(MB)).result() == MB
    assert not pool.submit(lambda: "numpy" in __import__("sys").modules).result()


@pytest.mark.parametrize(
    "options", [{"shared_memory": 0}, {"shared_memory": 3 * MB}, {"large": 1}]
)
def test_the_limits_may_be_set(options: dict[str, int]):
    with HookPoolExecutor(2, **options) as pool:
        kept = list(pool.map(lambda x: x + 1, [numbers(MB, n) for n in range(10)]))
        assert all((x == numbers(MB, n) + 1).all() for n, x in enumerate(kept))
        assert [pool.submit(lambda x: x * 2, np.array([n])).result()[0] for n in range(9)] == [
            2 * n for n in range(9)
        ]
        if "shared_memory" in options:
            assert pool._driver._lender.held <= options["shared_memory"]
            assert held_by_workers(pool) <= 2 * 2 * options["shared_memory"]


@pytest.mark.parametrize("options", [{"shared_memory": -1}, {"large": 0}])
def test_senseless_limits_are_refused(options: dict[str, int]):
    with pytest.raises(ValueError, match=next(iter(options))):
        HookPoolExecutor(1, **options)
