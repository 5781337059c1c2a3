"""One failure, one task: where it strikes, and how, in every context that starts workers.

Each cell of the matrix puts one guilty task among innocent ones of the same function, so that they
travel in one message with it, and asserts: exactly the guilty one fails, and with the error that
tells what happened; the others give their results, but for those that had finished in the last
millisecond before a death, which say that they may have run; nothing runs twice (each run leaves a
line in a file, outside all processes); the pool goes on as before.

A cell without an expected outcome must give the reason; a test sees to that.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path

import pytest

from hookpool import errors
from hookpool.executor import HookPoolExecutor
from tests.helpers import killed, segfault, wait_until

INNOCENT = 30
GUILTY = 17


class Where(Enum):
    """The step of the guilty task's life at which it strikes."""

    ARGUMENT_PICKLE = "its argument is pickled"
    ARGUMENT_UNPICKLE = "its argument is unpickled"
    RUNNING = "it runs"
    RESULT_PICKLE = "its result is pickled"
    RESULT_UNPICKLE = "its result is unpickled"
    EXCEPTION_PICKLE = "the exception it raised is pickled"
    EXCEPTION_UNPICKLE = "the exception it raised is unpickled"


class How(Enum):
    """What happens there."""

    ERROR = "an exception"
    SYSTEM_EXIT = "SystemExit"
    INTERRUPT = "KeyboardInterrupt"
    RECURSION = "recursion without end"
    MEMORY = "no memory"
    HARD_EXIT = "os._exit"
    SIGKILL = "SIGKILL"
    SIGSEGV = "SIGSEGV"


def _raise(kind: type[BaseException]) -> None:
    raise kind("on purpose")


def _recurse() -> None:
    _recurse()


def _exhaust() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = os.sysconf("SC_PAGE_SIZE") * pages
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        bytearray(1 << 40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


DO: dict[How, Callable[[], None]] = {
    How.ERROR: partial(_raise, ArithmeticError),
    How.SYSTEM_EXIT: partial(_raise, SystemExit),
    How.INTERRUPT: partial(_raise, KeyboardInterrupt),
    How.RECURSION: _recurse,
    How.MEMORY: _exhaust,
    How.HARD_EXIT: partial(os._exit, 13),
    How.SIGKILL: killed,
    How.SIGSEGV: segfault,
}
DEATHS = {How.HARD_EXIT: 13, How.SIGKILL: -signal.SIGKILL, How.SIGSEGV: -signal.SIGSEGV}
RAISED = {
    How.ERROR: ArithmeticError,
    How.SYSTEM_EXIT: SystemExit,
    How.INTERRUPT: KeyboardInterrupt,
    How.RECURSION: RecursionError,
    How.MEMORY: MemoryError,
}
#: Steps in the owner's process: what ends the process there ends the owner, by its own hand.
IN_THE_OWNER = {Where.ARGUMENT_PICKLE, Where.RESULT_UNPICKLE, Where.EXCEPTION_UNPICKLE}


def expected(where: Where, how: How) -> type[BaseException] | str:
    """The class of the guilty task's error, or why there is no such cell."""
    if how in DEATHS:
        if where in IN_THE_OWNER:
            return "the caller's own object ends the caller's process: nobody is left to tell"
        return errors.WorkerDied
    match where:
        case Where.ARGUMENT_PICKLE if how in (How.SYSTEM_EXIT, How.INTERRUPT):
            return "what is no Exception goes to the caller of submit, as from any call"
        case Where.ARGUMENT_PICKLE | Where.RESULT_PICKLE:
            return RAISED[how] if how in (How.SYSTEM_EXIT, How.INTERRUPT) else Exception
        case Where.RUNNING:
            return RAISED[how]
        case Where.EXCEPTION_UNPICKLE if how not in (How.SYSTEM_EXIT, How.INTERRUPT):
            return Raised  # what it cannot rebuild itself from, it does without
        case Where.ARGUMENT_UNPICKLE | Where.RESULT_UNPICKLE | Where.EXCEPTION_UNPICKLE:
            return errors.CannotUnpickle
    if how in (How.SYSTEM_EXIT, How.INTERRUPT):
        return "a __reduce__ that raises what is no Exception ends the worker: see the test below"
    return pickle.PicklingError


class AtPickle:
    """Strikes when it is pickled, in the process that has it then."""

    def __init__(self, how: How) -> None:
        self.how = how

    def __reduce__(self):
        DO[self.how]()
        return int, ()


class AtUnpickle:
    """Strikes when it is unpickled."""

    def __init__(self, how: How) -> None:
        self.how = how

    def __reduce__(self):
        return DO[self.how], ()


class Raised(Exception):
    """Strikes when it travels."""

    def __init__(self, carried: object) -> None:
        super().__init__("carried")
        self.carried = carried

    def __reduce__(self):
        return self.carried.__reduce__()


def work(number, log, argument, where, how):
    """Leave a line, then do what the guilty one does."""
    os.write(log, f"{number}\n".encode())
    if where is Where.RUNNING:
        DO[how]()
    elif where is Where.RESULT_PICKLE:
        return AtPickle(how)
    elif where is Where.RESULT_UNPICKLE:
        return AtUnpickle(how)
    elif where is Where.EXCEPTION_PICKLE:
        raise Raised(AtPickle(how))
    elif where is Where.EXCEPTION_UNPICKLE:
        raise Raised(AtUnpickle(how))
    return number


class Log:
    """Opened by name in each worker; counts the runs of each task."""

    def __init__(self, path) -> None:
        self.path = path

    def opened(self):
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def runs(self) -> Counter[int]:
        return Counter(map(int, self.path.read_text().split()))


def run(number, path, argument, where, how):
    """A task: the log is opened for each, so that nothing stays open."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        return work(number, log, argument, where, how)
    finally:
        os.close(log)


def submit_all(pool, path, where, how):
    argument = {
        Where.ARGUMENT_PICKLE: AtPickle(how),
        Where.ARGUMENT_UNPICKLE: AtUnpickle(how),
    }.get(where)
    return [
        pool.submit(run, number, path, argument, where, how)
        if number == GUILTY
        else pool.submit(run, number, path, None, None, None)
        for number in range(INNOCENT)
    ]


CELLS = [
    pytest.param(where, how, id=f"{where.name}-{how.name}".lower())
    for where in Where
    for how in How
    if not isinstance(expected(where, how), str)
]


@pytest.fixture(scope="module")
def pool():
    """One pool for the whole matrix: what one cell breaks, the next one notices."""
    with HookPoolExecutor(2) as pool:
        yield pool


def check_cell(pool, log, where, how):
    futures = submit_all(pool, str(log.path), where, how)

    guilty = futures[GUILTY].exception(timeout=50)
    assert isinstance(guilty, expected(where, how)), guilty
    if how in DEATHS:
        assert guilty.exitcode == DEATHS[how]
        assert str(guilty.pid) in str(guilty)
        assert "run at test_faults.py" in str(guilty)
    for number, future in enumerate(futures):
        if number != GUILTY:
            error = future.exception(timeout=50)
            assert error is None or (isinstance(error, errors.ResultLost) and how in DEATHS)
            assert error is None or error.may_have_run
    runs = log.runs()
    assert all(runs[number] == 1 for number in range(INNOCENT) if number != GUILTY)
    assert runs[GUILTY] == (where not in (Where.ARGUMENT_PICKLE, Where.ARGUMENT_UNPICKLE))
    assert pool.submit(abs, -42).result(timeout=50) == 42


@pytest.mark.parametrize(("where", "how"), CELLS)
def test_exactly_the_guilty_task_fails(pool, tmp_path, where, how):
    pool.submit(abs, 1).result()

    check_cell(pool, Log(tmp_path / "log"), where, how)


@pytest.mark.agree
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize(("where", "how"), CELLS)
def test_exactly_the_guilty_task_fails_in_the_other_contexts(tmp_path, where, how, method):
    with HookPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        pool.submit(abs, 1).result()

        check_cell(pool, Log(tmp_path / "log"), where, how)


def test_every_cell_has_an_outcome_or_a_reason():
    for where in Where:
        for how in How:
            outcome = expected(where, how)
            assert outcome
            if isinstance(outcome, str):
                assert len(outcome) > 20


# -- outside any task ---------------------------------------------------------------------------


def test_an_idle_worker_that_is_killed_is_replaced_when_there_is_work():
    with HookPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in pool._processes, 20)

        assert pool.submit(os.getpid).result() != pid


def test_a_task_sent_to_a_worker_that_is_dying_runs_elsewhere_or_names_it():
    with HookPoolExecutor(1) as pool:
        for _ in range(4):
            pid = pool.submit(os.getpid).result()
            os.kill(pid, signal.SIGKILL)
            future = pool.submit(os.getpid)

            # Claimed in that very moment, it fails; else the next worker runs it.
            error = future.exception(timeout=50)
            assert future.result() != pid if error is None else error.pid == pid


def kill_idle_workers(pool):
    for _ in range(10):
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pid not in pool._processes, 20)


def test_workers_that_die_idle_over_and_over_break_the_pool():
    with HookPoolExecutor(1) as pool, pytest.raises(errors.TooManyDeaths, match="SIGKILL"):
        kill_idle_workers(pool)


@pytest.mark.parametrize("how", [How.ERROR, How.SYSTEM_EXIT, How.INTERRUPT, How.RECURSION])
def test_an_initializer_that_raises_breaks_the_pool_with_the_cause(how):
    with HookPoolExecutor(2, initializer=DO[how]) as pool:
        futures = [pool.submit(abs, 1) for _ in range(3)]
        error = futures[0].exception(timeout=50)

        assert isinstance(error, errors.InitializerFailed)
        assert isinstance(error.__cause__, RAISED[how])
        assert all(isinstance(f.exception(timeout=50), errors.InitializerFailed) for f in futures)
        with pytest.raises(errors.InitializerFailed):
            pool.submit(abs, 1)


@pytest.mark.parametrize("how", DEATHS)
def test_workers_that_die_in_the_initializer_break_the_pool(how):
    with HookPoolExecutor(1, initializer=DO[how]) as pool:
        error = pool.submit(abs, 1).exception(timeout=50)

    assert isinstance(error, errors.WorkerCannotStart)


def test_an_initializer_that_cannot_travel_breaks_the_pool():
    import threading

    lock = threading.Lock()
    with lock, HookPoolExecutor(1, initializer=print, initargs=(lock,)) as pool:
        error = pool.submit(abs, 1).exception(timeout=50)

    assert isinstance(error, errors.WorkerCannotStart)
    assert "lock" in str(error)


def test_a_large_message_half_written_to_a_worker_that_dies_harms_nobody():
    big = bytes(50 << 20)
    with HookPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGSTOP)
        future = pool.submit(len, big)
        os.kill(pid, signal.SIGKILL)

        # It had not been claimed: it was never whole. So it runs in the next worker.
        assert future.result(timeout=50) == len(big)


def test_a_large_result_half_written_by_a_worker_that_dies_fails_its_task_only(tmp_path):
    def large(path):
        import threading

        def die_when_the_pipe_is_full():
            # The result is larger than any socket buffer, and nobody reads: see below.
            with open(path) as gate:
                gate.read()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=die_when_the_pipe_is_full, daemon=True).start()
        return bytes(50 << 20)

    path = str(tmp_path / "gate")
    os.mkfifo(path)
    with HookPoolExecutor(1) as pool:
        future = pool.submit(large, path)
        wait_until(future.running, 20)
        with open(path, "w"):
            pass
        error = future.exception(timeout=50)

        assert error is None or isinstance(error, errors.WorkerDied)
        assert pool.submit(abs, -1).result(timeout=50) == 1


def test_large_messages_both_ways_at_once_block_nobody():
    big = bytes(50 << 20)
    with HookPoolExecutor(2) as pool:
        futures = [pool.submit(lambda data: data, big) for _ in range(4)]

        assert all(future.result(timeout=50) == big for future in futures)


def test_a_pool_told_so_breaks_at_any_death():
    with HookPoolExecutor(2, on_worker_death="break") as pool:
        guilty = pool.submit(killed)

        assert isinstance(guilty.exception(timeout=50), errors.WorkerDied)
        with pytest.raises(errors.WorkerDied, match="on_worker_death='break'"):
            pool.submit(abs, 1)


def test_a_hundred_killer_tasks_are_a_hundred_single_failures():
    with HookPoolExecutor(2) as pool:
        killers = [pool.submit(killed) for _ in range(100)]
        innocent = [pool.submit(abs, -n) for n in range(100)]

        assert all(isinstance(f.exception(timeout=50), errors.WorkerDied) for f in killers)
        results = [f.exception(timeout=50) or f.result() for f in innocent]
        assert all(r == n or isinstance(r, errors.ResultLost) for n, r in enumerate(results)), (
            results
        )


def test_a_task_that_forks_and_comes_back_twice_answers_once():
    def fork():
        if os.fork() == 0:
            return "child"
        os.wait()
        return "parent"

    with HookPoolExecutor(1) as pool:
        assert pool.submit(fork).result(timeout=50) == "parent"
        assert pool.submit(abs, -1).result(timeout=50) == 1


def test_a_worker_killed_while_its_child_lives_is_noticed(tmp_path):
    """The child keeps every pipe of the worker open, its sentinel too."""
    path = str(tmp_path / "gate")
    os.mkfifo(path)

    def fork_and_die():
        if os.fork() == 0:
            with open(path) as gate:
                gate.read()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    with HookPoolExecutor(1) as pool:
        error = pool.submit(fork_and_die).exception(timeout=50)
        with open(path, "w"):
            pass

        assert isinstance(error, errors.WorkerDied)
        assert pool.submit(abs, -1).result(timeout=50) == 1


if sys.platform != "linux":
    pytest.skip("the matrix reads /proc and kills by signal", allow_module_level=True)
