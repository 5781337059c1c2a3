"""One failure, one task: where it strikes, and how, in every context that starts workers.

Each cell of the matrix (`tests/faults.py`) puts what is guilty among innocent tasks and asserts:
exactly the guilty one fails, and with the error that tells what happened; its neighbours in the
same message and those in the queue give their results, but for those that had finished in the last
millisecond before a death, which say that they may have run; nothing runs twice (each run leaves a
line in a file, outside all processes); the pool goes on as before.

A cell without an expected outcome must give the reason; a test sees to that. `make test` goes
through all cells of hookpool's own context, `make agree` through those of the others.
"""

from __future__ import annotations

import contextlib
import multiprocessing.forkserver
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import pytest

from hookpool import _future, _launch, errors
from hookpool.executor import HookPoolExecutor
from tests import faults
from tests.faults import (
    DEATHS,
    LARGE,
    METHODS,
    RAISED,
    Breaks,
    Fails,
    How,
    Log,
    RaisesAtOnce,
    Unharmed,
    Where,
    context_of,
    expected,
)
from tests.helpers import killed, marked_processes, run_python, wait_until
from tests.processes import GONE_WITHIN, Program

INNOCENT = 30
GUILTY = 17
#: seconds: a machine on which much else runs is slow, a hang is longer
PATIENCE = 50.0

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


#: What a worker is at when it is struck, where it is not running the task.
PHASES = {
    Where.ARGUMENT_UNPICKLE: errors.LOADING,
    Where.RESULT_PICKLE: errors.DUMPING,
    Where.EXCEPTION_PICKLE: errors.DUMPING,
    Where.RESULT_HALF_SENT: errors.SENDING,
}


def check_failure(error, where, how):
    """The error is the expected one, and says all there is to say."""
    assert isinstance(error, expected(where, how, "hookpool").error), error
    if how in DEATHS:
        code = DEATHS[how]
        assert error.exitcode == code
        assert (signal.Signals(-code).name if code < 0 else f"code {code}") in str(error)
        assert f"worker {error.pid} " in str(error)
        assert "task at faults.py" in str(error)
        assert error.phase == PHASES.get(where, errors.RUNNING)
        assert f"while {error.phase} " in str(error)
        assert error.may_have_run is (where is not Where.ARGUMENT_UNPICKLE)


def check_innocent(futures, log, died=False):
    """All have their results; those that are lost to a death say so. Each ran once."""
    for number, future in futures.items():
        error = future.exception(timeout=PATIENCE)
        assert error is None or (died and isinstance(error, errors.ResultLost)), error
        assert error is None or error.may_have_run
        assert error is not None or future.result() == number
    runs = log.runs()
    assert {number: runs[number] for number in futures} == dict.fromkeys(futures, 1)


def check_pool(pool):
    assert pool.submit(abs, -42).result(timeout=PATIENCE) == 42


# -- a task strikes -----------------------------------------------------------------------------

BY_A_TASK = (
    Where.ARGUMENT_PICKLE,
    Where.ARGUMENT_UNPICKLE,
    Where.RUNNING,
    Where.RESULT_PICKLE,
    Where.RESULT_UNPICKLE,
    Where.EXCEPTION_PICKLE,
    Where.EXCEPTION_UNPICKLE,
)


def go_through_task(pool, log, where, how):
    outcome = expected(where, how, "hookpool")
    argument = {
        Where.ARGUMENT_PICKLE: faults.AtPickle(how),
        Where.ARGUMENT_UNPICKLE: faults.AtUnpickle(how),
    }.get(where)
    guilty, innocent = None, {}
    for number in range(INNOCENT):
        if number != GUILTY:
            innocent[number] = pool.submit(faults.task, number, log)
        elif isinstance(outcome, RaisesAtOnce):
            with pytest.raises(outcome.error):
                pool.submit(faults.task, number, log, where, how, argument)
        else:
            guilty = pool.submit(faults.task, number, log, where, how, argument)

    if guilty is not None:
        check_failure(guilty.exception(timeout=PATIENCE), where, how)
    check_innocent(innocent, log, died=how in DEATHS)
    assert log.runs()[GUILTY] == (where not in (Where.ARGUMENT_PICKLE, Where.ARGUMENT_UNPICKLE))
    check_pool(pool)


# -- something strikes beside a task, or half-way through a message -----------------------------


def go_through_claimed(method, log, where, how):
    armed = str(Path(log.path).with_name("armed"))
    Path(armed).touch()
    start = (how, GUILTY + 1, armed)
    with HookPoolExecutor(
        1, context_of(method), initializer=faults.strike_after_claim, initargs=start
    ) as pool:
        futures = {n: pool.submit(faults.task, n, log) for n in range(INNOCENT)}
        # Also the one that it had claimed: it had not started it, so that runs elsewhere.
        check_innocent(futures, log, died=True)
        assert futures[GUILTY].exception() is None
        assert not os.path.exists(armed)
        check_pool(pool)


def go_through_half_sent_argument(method, log, where, how):
    with HookPoolExecutor(1, context_of(method), shared_memory=0) as pool:
        guilty = pool.submit(faults.task, GUILTY, log, where, how)
        large = pool.submit(len, bytes(LARGE))
        innocent = {n: pool.submit(faults.task, n, log) for n in range(3)}

        check_failure(guilty.exception(timeout=PATIENCE), where, how)
        # It had not been claimed: it was never whole. So it runs in the next worker.
        assert large.result(timeout=PATIENCE) == LARGE
        check_innocent(innocent, log)
        assert log.runs()[GUILTY] == 1
        check_pool(pool)


def go_through_half_sent_result(method, log, where, how):
    """The owner does not read, being in a callback, until the worker has been struck."""
    gate = str(Path(log.path).with_name("gate"))
    os.mkfifo(gate)
    struck = threading.Event()
    with HookPoolExecutor(1, context_of(method), shared_memory=0) as pool:
        first = pool.submit(faults.wait_at, gate)
        guilty = pool.submit(faults.task, GUILTY, log, where, how)
        innocent = {n: pool.submit(faults.task, n, log) for n in range(3)}
        first.add_done_callback(lambda _: struck.wait(PATIENCE))
        try:
            _open_gate(gate)
            wait_until(lambda: _was_struck(log, how), PATIENCE)
        finally:
            struck.set()

        if how in DEATHS:
            check_failure(guilty.exception(timeout=PATIENCE), where, how)
        else:
            assert guilty.result(timeout=PATIENCE) == bytes(LARGE)
        check_innocent(innocent, log)
        assert log.runs()[GUILTY] == 1
        check_pool(pool)


def _open_gate(gate):
    with open(gate, "w"):
        pass


def _was_struck(log, how):
    """Whether what was to strike has struck, and the process is dead if it shall be."""
    if how not in DEATHS:
        return log.words()["struck"]
    pid = log.pid()
    return pid is not None and _is_dead(pid)


def _is_dead(pid):
    """Gone, or waiting for somebody to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def go_through_idle(method, log, where, how):
    gate = str(Path(log.path).with_name("gate"))
    os.mkfifo(gate)
    with HookPoolExecutor(1, context_of(method)) as pool:
        pid = pool.submit(faults.leave_a_thread, log, gate, how).result(timeout=PATIENCE)
        _open_gate(gate)
        wait_until(lambda: _was_struck(log, how), PATIENCE)
        innocent = {n: pool.submit(faults.task, n, log) for n in range(3)}

        # Sent to a worker whose death nobody has taken note of, they had not been claimed.
        check_innocent(innocent, log)
        assert (pool.submit(os.getpid).result(timeout=PATIENCE) == pid) is (how not in DEATHS)


# -- starting -----------------------------------------------------------------------------------


def go_through_start(method, log, where, how):
    armed, gate = (Path(log.path).with_name(name) for name in ("armed", "gate"))
    os.mkfifo(gate)
    strike = how, str(armed) if where in (Where.ONE_START, Where.ONE_INITIALIZER) else None
    armed.touch()
    if where in (Where.ONE_START, Where.EVERY_START):
        context, options = context_of(method, strike), {}
    else:
        context = context_of(method)
        options = {"initializer": faults.strike_once, "initargs": strike}
    outcome = expected(where, how, method)
    with HookPoolExecutor(2, context, **options) as pool:
        futures = {}
        # In a pool that breaks at once, some may not even be taken.
        with contextlib.suppress(errors.HookPoolError):
            if isinstance(outcome, Breaks):  # a healthy worker shall not be through before
                futures[-1] = pool.submit(faults.wait_at, gate)
            for number in range(INNOCENT):
                futures[number] = pool.submit(faults.task, number, log)
        if isinstance(outcome, Unharmed):
            assert len(futures) == INNOCENT
            check_innocent(futures, log)
            assert not armed.exists()
            check_pool(pool)
        else:
            _check_broken(pool, futures, log, where, how, outcome)


def _check_broken(pool, futures, log, where, how, outcome):
    failed = [future.exception(timeout=PATIENCE) for future in futures.values()]
    if where is Where.ONE_INITIALIZER:  # the other worker may have been at work by then
        failed = [error for error in failed if error is not None]
    assert all(isinstance(error, outcome.error) for error in failed), failed
    if outcome.error is errors.InitializerFailed:
        assert all(isinstance(error.__cause__, RAISED[how]) for error in failed)
    with pytest.raises(outcome.error):
        pool.submit(abs, -42)
    assert max(log.runs().values(), default=0) <= 1


# -- the fork server ----------------------------------------------------------------------------


def go_through_fork_server(method, log, where, how):
    gate = str(Path(log.path).with_name("gate"))
    os.mkfifo(gate)
    with HookPoolExecutor(2, context_of(method)) as pool:
        held = pool.submit(faults.wait_at, gate)
        other = pool.submit(os.getpid).result(timeout=PATIENCE)
        wait_until(held.running, PATIENCE)
        server = _server_pid(method)
        os.kill(server, DEATHS[how] * -1)
        wait_until(lambda: _is_dead(server), PATIENCE)
        innocent = {n: pool.submit(faults.task, n, log) for n in range(INNOCENT)}
        check_innocent(innocent, log)
        # Those that live do so on; those that are needed come from a new server.
        assert pool.submit(os.getpid).result(timeout=PATIENCE) == other
        assert isinstance(pool.submit(killed).exception(timeout=PATIENCE), errors.WorkerDied)
        check_pool(pool)
        _open_gate(gate)
        assert held.result(timeout=PATIENCE) == ""
        check_pool(pool)
        assert _server_pid(method) != server


def _server_pid(method):
    if method == "hookpool":
        return _launch.server_pid()
    return multiprocessing.forkserver._forkserver._forkserver_pid


# -- the matrix ---------------------------------------------------------------------------------

WAYS = {
    Where.CLAIMED: go_through_claimed,
    Where.ARGUMENT_HALF_SENT: go_through_half_sent_argument,
    Where.RESULT_HALF_SENT: go_through_half_sent_result,
    Where.IDLE: go_through_idle,
    Where.ONE_START: go_through_start,
    Where.EVERY_START: go_through_start,
    Where.ONE_INITIALIZER: go_through_start,
    Where.EVERY_INITIALIZER: go_through_start,
    Where.FORK_SERVER: go_through_fork_server,
}


def cells(*methods):
    return [
        pytest.param(where, how, method, id=f"{method}-{where.name}-{how.name}".lower())
        for method in methods
        for where in Where
        for how in How
        if not isinstance(expected(where, how, method), str)
    ]


@pytest.fixture(scope="module")
def pool():
    """One pool for all cells of tasks: what one cell breaks, the next one notices."""
    with HookPoolExecutor(2) as pool:
        yield pool


def go_through(method, log, where, how, pool=None):
    if where not in BY_A_TASK:
        WAYS[where](method, log, where, how)
    elif pool is not None:
        pool.submit(abs, 1).result()
        go_through_task(pool, log, where, how)
    else:
        with HookPoolExecutor(2, context_of(method)) as own:
            own.submit(abs, 1).result()
            go_through_task(own, log, where, how)


@pytest.mark.parametrize(("where", "how", "method"), cells("hookpool"))
def test_one_failure_is_one_failure(pool, tmp_path, where, how, method):
    go_through(method, Log(tmp_path / "log"), where, how, pool)


@pytest.mark.agree
@pytest.mark.parametrize(("where", "how", "method"), cells("spawn", "forkserver", "fork"))
def test_one_failure_is_one_failure_in_the_other_contexts(tmp_path, where, how, method):
    go_through(method, Log(tmp_path / "log"), where, how)


def test_every_cell_has_an_outcome_or_a_reason():
    for method in METHODS:
        for where in Where:
            assert (where in BY_A_TASK) != (where in WAYS)
            for how in How:
                outcome = expected(where, how, method)
                assert isinstance(outcome, Fails | RaisesAtOnce | Unharmed | Breaks | str)
                assert not isinstance(outcome, str) or len(outcome) > 20


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


def test_an_initializer_that_cannot_travel_breaks_the_pool():
    lock = threading.Lock()
    with lock, HookPoolExecutor(1, initializer=print, initargs=(lock,)) as pool:
        error = pool.submit(abs, 1).exception(timeout=50)

    assert isinstance(error, errors.WorkerCannotStart)
    assert "lock" in str(error)


def limit_memory() -> None:
    """Leave this process 96 MB more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = os.sysconf("SC_PAGE_SIZE") * pages + (96 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@pytest.mark.parametrize("size", [1 << 20, 60 << 20], ids=["bit-by-bit", "a-result-with-its-copy"])
def test_a_task_that_needs_more_memory_than_its_worker_has_fails_alone(size):
    def hoard():
        return [bytes(size) for _ in range(1000)]

    with HookPoolExecutor(1, initializer=limit_memory, shared_memory=0) as pool:
        pid = pool.submit(os.getpid).result(timeout=PATIENCE)
        futures = [pool.submit(abs, -1), pool.submit(hoard), pool.submit(abs, -2)]

        assert isinstance(futures[1].exception(timeout=PATIENCE), MemoryError)
        assert [futures[0].result(), futures[2].result(timeout=PATIENCE)] == [1, 2]
        assert pool.submit(os.getpid).result(timeout=PATIENCE) == pid


def test_an_argument_that_no_worker_has_room_for_fails_alone():
    with HookPoolExecutor(1, initializer=limit_memory, shared_memory=0) as pool:
        before, large, after = pool.submit(abs, -1), pool.submit(len, bytes(4 * LARGE)), None
        after = pool.submit(abs, -2)

        assert before.result(timeout=PATIENCE) == 1
        assert after.result(timeout=PATIENCE) == 2
        error = large.exception(timeout=PATIENCE)
        assert isinstance(error, errors.CannotUnpickle)
        assert isinstance(error.__cause__, MemoryError)
        check_pool(pool)


RESULT_TOO_LARGE = """
from hookpool import HookPoolExecutor
from tests.test_faults import limit_memory
with HookPoolExecutor(1, shared_memory=0) as pool:
    assert pool.submit(abs, -1).result() == 1
    limit_memory()
    large, other = pool.submit(lambda: bytes(6 * (50 << 20))), pool.submit(abs, -2)
    print(type(large.exception(timeout=40)).__name__, other.exception(timeout=40))
    print(pool.submit(abs, -42).result(timeout=40))
"""


def test_a_result_that_the_owner_has_no_room_for_fails_alone():
    assert run_python("-c", RESULT_TOO_LARGE).split() == ["MemoryError", "None", "42"]


def caught(future):
    """What its result raises. Not by `pytest.raises`: a KeyboardInterrupt would end the run."""
    try:
        return future.result(timeout=PATIENCE)
    except BaseException as error:
        return type(error)  # the error itself would keep alive what its traceback refers to


@pytest.mark.parametrize("how", [How.SYSTEM_EXIT, How.INTERRUPT])
def test_a_result_that_exits_when_unpickled_fails_its_future_whoever_reads_it(how):
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, -1).result()
        for _ in range(50):  # the caller reads it unless the driver's thread is faster
            assert caught(pool.submit(faults.AtUnpickle, how)) is errors.CannotUnpickle


def test_a_callback_that_raises_what_is_no_exception_hurts_no_task(tmp_path, monkeypatch):
    logged = []  # not by the log that pytest keeps: its records keep what the traceback holds
    monkeypatch.setattr(_future.LOGGER, "exception", lambda *args: logged.append(args[0]))
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    with HookPoolExecutor(1) as pool:
        futures = [pool.submit(faults.wait_at, gate), pool.submit(abs, -1)]
        futures[0].add_done_callback(lambda _: sys.exit())  # it runs in the driver's thread
        _open_gate(gate)

        assert futures[1].result(timeout=10) == 1
        check_pool(pool)
    assert len(logged) == 1


DEADLY_RESULT = """
import os
from hookpool import HookPoolExecutor
from tests.faults import AtUnpickle, How
with HookPoolExecutor(2) as pool:
    list(pool.map(lambda number: os.getpid(), range(20)))
    pool.submit(AtUnpickle, How.HARD_EXIT).result()
"""


def test_a_result_that_kills_its_owner_leaves_no_worker_behind():
    with Program(("-c", DEADLY_RESULT), timeout=PATIENCE, env=None) as program:
        assert program.process.wait(PATIENCE) == 13

        wait_until(lambda: not marked_processes(program.mark), GONE_WITHIN)


def test_large_messages_both_ways_at_once_block_nobody():
    big = bytes(50 << 20)
    with HookPoolExecutor(2) as pool:
        futures = [pool.submit(lambda data: data, big) for _ in range(4)]

        assert all(future.result(timeout=50) == big for future in futures)


def test_a_pool_told_so_breaks_at_any_death():
    with HookPoolExecutor(2, on_worker_death="break") as pool:
        guilty = pool.submit(killed)

        error = guilty.exception(timeout=50)
        assert isinstance(error, errors.WorkerDied)
        assert "the pool is broken" in str(error)
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


class Deadly:
    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.parametrize("argument", [1, [1]])
def test_a_function_that_no_worker_survives_to_load_is_a_single_failure(argument):
    """Its plain calls broke the pool, since nobody had claimed them when the workers died."""
    captured = Deadly()
    with HookPoolExecutor(2) as pool:
        killers = [pool.submit(lambda x: captured, argument) for _ in range(6)]

        for killer in killers:
            error = killer.exception(timeout=50)
            assert type(error) is errors.WorkerDied
            assert (error.phase, error.may_have_run) == (errors.LOADING, False)
        assert pool.submit(abs, -1).result(timeout=50) == 1


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
