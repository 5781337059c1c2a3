"""The joblib backend: each point of what joblib and its users ask of one."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool

import pytest

joblib = pytest.importorskip("joblib", reason="the extra `joblib` is not installed")

from joblib import Parallel, delayed, parallel_config  # noqa: E402
from joblib.externals.loky.process_executor import TerminatedWorkerError  # noqa: E402

import hookpool.joblib  # noqa: E402
from hookpool import HookPoolExecutor, _batch, _buffers, errors  # noqa: E402
from tests import odd_errors  # noqa: E402
from tests.helpers import AtPickle  # noqa: E402
from tests.joblib_tracker import stop_tracker  # noqa: E402
from tests.processes import (  # noqa: E402
    Program,
    marked_processes,
    run_python,
    wait_until,
)

try:
    import numpy as np
except ImportError:
    np = None

needs_numpy = pytest.mark.skipif(np is None, reason="arrays need numpy")

hookpool.joblib.register()


@pytest.fixture(autouse=True)
def nothing_is_kept():
    """Idle workers are kept on purpose, and joblib's tracker lives as long as its owner."""
    yield
    hookpool.joblib.stop_workers()
    stop_tracker()


def parallel(n_jobs=2, **options):
    return Parallel(n_jobs=n_jobs, backend="hookpool", **options)


def pids(n_jobs=2):
    """The workers that answered; a little patience, so that each gets its share."""
    return set(
        parallel(n_jobs)(
            delayed(lambda _: (time.sleep(0.02), os.getpid())[1])(i) for i in range(8)
        )
    )


def double_of_hookpool(x):
    """Importable, for tests about what is not by value."""
    return x * 2


# ---- calls ---------------------------------------------------------------------------------


def test_lambdas_run_and_results_come_in_order():
    assert parallel()(delayed(lambda x: x * 2)(i) for i in range(100)) == list(range(0, 200, 2))


def test_closures_and_keywords_travel():
    offset = 10

    def shifted(x, *, by):
        return x + by + offset

    assert parallel()(delayed(shifted)(i, by=1) for i in range(3)) == [11, 12, 13]


def test_an_instance_of_a_local_class_comes_back_as_one():
    class Box:
        def __init__(self, content):
            self.content = content

    (box,) = parallel()([delayed(Box)(3)])

    assert type(box) is Box
    assert box.content == 3


def test_work_is_done_in_other_processes():
    assert os.getpid() not in pids()


@pytest.mark.parametrize("n_jobs", [1, None, 2, 3, -1, -2])
def test_every_n_jobs_convention_gives_the_same_answer(n_jobs):
    assert parallel(n_jobs)(delayed(lambda x: -x)(i) for i in range(5)) == [0, -1, -2, -3, -4]


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["all", "2 * n_jobs", 3])
def test_batches_and_pre_dispatch_do_not_change_the_answer(batch_size, pre_dispatch):
    run = parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)

    assert run(delayed(double_of_hookpool)(i) for i in range(20)) == list(range(0, 40, 2))


def test_an_empty_call_gives_an_empty_list():
    assert parallel()([]) == []


def test_one_parallel_object_can_be_called_again():
    run = parallel()

    assert run(delayed(abs)(i) for i in (-1, -2)) == [1, 2]
    assert run(delayed(abs)(i) for i in (-3, -4)) == [3, 4]


def test_a_with_block_keeps_its_workers():
    with parallel() as run:
        first = set(run(delayed(os.getpid)() for _ in range(10)))
        second = set(run(delayed(os.getpid)() for _ in range(10)))

    assert len(first | second) <= 2


def test_parallel_config_selects_the_backend():
    with parallel_config(backend="hookpool", n_jobs=2):
        assert os.getpid() not in Parallel()(delayed(os.getpid)() for _ in range(4))


def test_it_can_be_made_the_default():
    source = """
        import hookpool.joblib, joblib, os
        hookpool.joblib.register(make_default=True)
        backend, _ = joblib.parallel.get_active_backend()
        print(type(backend).__name__)
    """
    assert run_python("-c", textwrap.dedent(source)).strip() == "HookPoolBackend"


def test_the_standalone_loky_is_never_imported():
    source = "import sys, hookpool.joblib; print('loky' in sys.modules)"

    assert run_python("-c", source).strip() == "False"


class Awake:
    """The module `time` for joblib, where looking for results every 10 ms is an error."""

    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, seconds):
        raise AssertionError(f"joblib sleeps for {seconds} s")


@pytest.mark.parametrize("pre_dispatch", ["all", "2 * n_jobs"])
def test_results_are_waited_for_and_not_looked_for(pre_dispatch, monkeypatch):
    monkeypatch.setattr(joblib.parallel, "time", Awake())
    run = parallel(pre_dispatch=pre_dispatch, batch_size=1)

    for _ in range(3):
        assert run(delayed(abs)(-i) for i in range(30)) == list(range(30))
    with pytest.raises(LookupError):
        run(delayed(fail)() for _ in range(9))


def test_an_error_of_the_generator_of_tasks_ends_the_call():
    def tasks():
        yield from (delayed(abs)(-i) for i in range(40))
        raise LookupError("no more tasks")

    with pytest.raises(LookupError, match="no more tasks"):
        parallel(batch_size=1)(tasks())


# ---- how many jobs -------------------------------------------------------------------------


@pytest.fixture
def backend():
    return hookpool.joblib.HookPoolBackend(nesting_level=0)


def test_zero_jobs_have_no_meaning(backend):
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        backend.effective_n_jobs(0)


def test_negative_jobs_count_from_the_cpus(backend):
    cpus = joblib.cpu_count()

    assert backend.effective_n_jobs(-1) == cpus
    assert backend.effective_n_jobs(-2) == max(cpus - 1, 1)
    assert backend.effective_n_jobs(-1000) == 1
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(7) == 7


def in_a_thread(call):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(call()))
    thread.start()
    thread.join()
    return outcome[0]


def test_below_threads_there_is_one_job_and_a_warning():
    nested = hookpool.joblib.HookPoolBackend(nesting_level=1)

    def ask(n_jobs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            return nested.effective_n_jobs(n_jobs), [str(w.message) for w in caught]

    assert in_a_thread(lambda: ask(2)) == (
        1,
        ["Hookpool-backed parallel loops cannot be nested below threads, setting n_jobs=1"],
    )
    assert in_a_thread(lambda: ask(1)) == (1, [])  # who asks for one is not warned


def test_a_first_level_call_in_a_thread_is_parallel():
    """A background thread of the user's is no nesting."""
    assert os.getpid() not in in_a_thread(lambda: pids())


def test_in_a_daemonic_process_there_is_one_job_and_a_warning(backend, monkeypatch):
    monkeypatch.setattr(
        multiprocessing.process, "current_process", lambda: type("P", (), {"daemon": True})
    )

    with pytest.warns(UserWarning, match="cannot be called in a daemonic process"):
        assert backend.effective_n_jobs(2) == 1


# ---- futures and callbacks -----------------------------------------------------------------


class Configured:
    """A backend as a Parallel would have it, without the Parallel."""

    def __enter__(self):
        self.backend = hookpool.joblib.HookPoolBackend(nesting_level=0)
        self.backend.configure(2, type("Parallel", (), {"n_jobs": 2, "verbose": 0}))
        return self.backend

    def __exit__(self, *_):
        self.backend.terminate()


def fail():
    raise LookupError("on purpose")


@pytest.mark.parametrize("func", [lambda: 42, fail, lambda: threading.Lock()])
def test_the_callback_comes_exactly_once_with_the_future(func):
    calls, called = [], threading.Event()

    def callback(future):
        calls.append(future)
        called.set()

    with Configured() as backend:
        future = backend.submit(func, callback)
        assert called.wait(20)

    assert calls == [future]


def test_what_cannot_be_sent_fails_its_future_and_calls_back():
    """Raised from submit it would be lost in the executor's thread, and joblib would hang."""
    calls = []
    lock = threading.Lock()
    with Configured() as backend, lock:
        future = backend.submit(lambda: lock, calls.append)

        assert calls == [future]
        with pytest.raises(pickle.PicklingError):
            backend.retrieve_result_callback(future)


def test_configure_for_one_job_falls_back_to_sequential(backend):
    with pytest.raises(joblib._parallel_backends.FallbackToBackend) as caught:
        backend.configure(1, None)

    assert type(caught.value.backend).__name__ == "SequentialBackend"


def test_terminate_twice_and_abort_without_workers_do_no_harm(backend):
    backend.terminate()
    backend.terminate()
    backend.abort_everything(ensure_ready=False)


# ---- workers -------------------------------------------------------------------------------


def test_workers_are_reused_by_the_next_call():
    assert pids() == pids()


def test_other_settings_get_other_workers_and_leave_none_behind():
    first, second = pids(2), pids(3)

    assert not first & second


def test_stopped_workers_are_gone_and_the_next_call_works():
    first = pids()
    hookpool.joblib.stop_workers()

    for pid in first:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not first & pids()


def test_inner_threads_are_limited_in_workers():
    with parallel_config(backend="hookpool", n_jobs=2, inner_max_num_threads=3):
        (limit,) = Parallel()([delayed(os.getenv)("OMP_NUM_THREADS")])

    assert limit == "3"


def test_the_users_own_thread_limit_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")

    assert parallel()([delayed(os.getenv)("OMP_NUM_THREADS")]) == ["5"]


needs_backend_options = pytest.mark.skipif(
    tuple(map(int, joblib.__version__.split(".")[:2])) < (1, 5),
    reason="before 1.5 joblib hands no options on to backends",
)


@needs_backend_options
def test_an_initializer_runs_in_each_worker_before_its_first_task():
    def init(text):
        os.environ["HOOKPOOL_TEST_INIT"] = text

    run = parallel(initializer=init, initargs=("ready",))

    assert set(run(delayed(os.getenv)("HOOKPOOL_TEST_INIT") for _ in range(8))) == {"ready"}


@needs_backend_options
def test_an_initializer_may_come_from_parallel_config():
    with parallel_config(backend="hookpool", n_jobs=2, initializer=os.putenv, initargs=("A", "B")):
        assert Parallel()([delayed(abs)(-1)]) == [1]


@needs_backend_options
def test_the_loky_name_of_the_idle_timeout_is_refused_with_ours():
    with pytest.raises(ValueError, match="idle_worker_timeout"):
        Parallel(n_jobs=2, backend=hookpool.joblib.HookPoolBackend(timeout=3))([delayed(abs)(1)])


@needs_backend_options
def test_idle_workers_end_after_their_timeout():
    run = parallel(idle_worker_timeout=0.05)
    (pid, *_) = run(delayed(os.getpid)() for _ in range(2))
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))

    assert run([delayed(abs)(-1)]) == [1]


def test_a_nested_parallel_runs_in_threads_of_the_worker():
    def inner():
        return set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))), os.getpid()

    for inside, pid in parallel()(delayed(inner)() for _ in range(2)):
        assert inside == {pid}


def test_a_worker_that_names_the_backend_has_it():
    def inner(x):
        return sum(Parallel(n_jobs=2, backend="hookpool")(delayed(abs)(i) for i in (x, -x)))

    assert parallel()(delayed(inner)(i) for i in (1, 2)) == [2, 4]


def test_joblib_is_imported_in_a_worker_only_when_a_task_needs_it():
    """It takes 0.2 s, which is most of a cold start."""
    run = parallel(batch_size=1)

    assert set(run(delayed(lambda: "joblib" in sys.modules)() for _ in range(6))) == {False}
    assert set(run(delayed(lambda: "numpy" in sys.modules)() for _ in range(6))) == {False}


def test_a_task_that_imports_joblib_itself_is_nested_all_the_same():
    def inner():
        assert "joblib" not in sys.modules
        finders = len(sys.meta_path)
        import joblib

        level = joblib.parallel.get_active_backend()[0].nesting_level
        inside = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4))
        named = joblib.Parallel(n_jobs=2, backend="hookpool")([joblib.delayed(abs)(-1)])
        loader = joblib.__loader__ is joblib.__spec__.loader
        return level, set(inside) == {os.getpid()}, named, loader, finders - len(sys.meta_path)

    def outside():
        import joblib

        return joblib.parallel.get_active_backend()[0].nesting_level

    assert parallel()([delayed(inner)()]) == [(1, True, [1], True, 1)]
    assert parallel()([delayed(outside)()]) == [1]


def test_the_import_of_joblib_may_fail_in_a_task():
    """What is waiting for it must neither hide that nor stay."""

    def inner():
        sys.path[:], kept = [], sys.path[:]
        try:
            import joblib  # noqa: F401
        except ModuleNotFoundError as error:
            return str(error)
        finally:
            sys.path[:] = kept
            sys.path_importer_cache.clear()

    assert parallel()([delayed(inner)()]) == ["No module named 'joblib'"]
    assert parallel()([delayed(lambda: len(sys.meta_path))()]) == [len(sys.meta_path)]


def test_a_parallel_in_threads_of_a_worker_is_the_last_one_that_is_parallel():
    def innermost(_):
        backend, _ = joblib.parallel.get_active_backend()
        return type(backend).__name__, threading.get_ident(), os.getpid()

    def inner(_):
        here = threading.get_ident(), os.getpid()
        return here, Parallel(n_jobs=2)(delayed(innermost)(i) for i in range(3))

    def outer():
        return Parallel(n_jobs=2)(delayed(inner)(i) for i in range(3))

    for own, below in parallel()([delayed(outer)()])[0]:
        assert {name for name, *_ in below} == {"SequentialBackend"}
        assert {tuple(where) for _, *where in below} == {own}


@needs_backend_options
def test_an_initializer_that_fails_is_an_error_with_its_cause():
    def init():
        raise ArithmeticError("on purpose")

    with pytest.raises(BrokenProcessPool) as caught:
        parallel(initializer=init)(delayed(abs)(i) for i in range(4))

    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert parallel()([delayed(abs)(-1)]) == [1]


# ---- batches and dispatch ------------------------------------------------------------------


class Submits:
    """Notes the size of each batch that a backend gets."""

    def __init__(self, monkeypatch):
        self.sizes = []
        submit = hookpool.joblib.HookPoolBackend.submit

        def noted(backend, func, callback=None):
            self.sizes.append(len(func))
            return submit(backend, func, callback)

        for name in ("submit", "apply_async"):  # the latter before joblib 1.5
            monkeypatch.setattr(hookpool.joblib.HookPoolBackend, name, noted)


def test_batches_of_short_tasks_grow_and_start_small_in_the_next_call(monkeypatch):
    submits = Submits(monkeypatch)
    for _ in range(2):
        submits.sizes.clear()
        parallel()(delayed(abs)(i) for i in range(5000))

        assert sum(submits.sizes) == 5000
        assert submits.sizes[0] == 1
        assert max(submits.sizes) >= 64


def test_no_more_tasks_are_taken_ahead_than_pre_dispatch_says(tmp_path):
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield delayed(wait_for)(tmp_path / "go", len(taken))

    def wait_for(go, number):
        wait_until(go.exists, 30)
        return number

    results = parallel(pre_dispatch=5, batch_size=1, return_as="generator")(tasks())
    assert taken == [0, 1, 2, 3, 4]
    (tmp_path / "go").touch()

    assert list(results) == list(range(1, 51))


# ---- generators ----------------------------------------------------------------------------


def test_results_can_come_as_a_generator():
    results = parallel(return_as="generator")(delayed(abs)(-i) for i in range(20))

    assert next(results) == 0
    assert list(results) == list(range(1, 20))


def test_results_can_come_in_the_order_of_completion():
    def nap(seconds):
        time.sleep(seconds)
        return seconds

    results = parallel(return_as="generator_unordered", batch_size=1)(
        delayed(nap)(seconds) for seconds in (0.5, 0.0)
    )

    assert list(results) == [0.0, 0.5]


def test_a_generator_and_another_call_do_not_disturb_each_other():
    first = parallel(return_as="generator")(delayed(abs)(-i) for i in range(50))

    assert parallel()(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    assert list(first) == list(range(50))


def test_an_abandoned_generator_ends_its_work():
    results = parallel(return_as="generator")(delayed(time.sleep)(30) for _ in range(4))
    before = time.monotonic()
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()

    assert time.monotonic() - before < 10
    assert parallel()([delayed(abs)(-1)]) == [1]


def test_generators_of_one_config_can_be_consumed_in_turns():
    """They share one backend object, which must not lose its workers to the first that ends."""
    with parallel_config(backend="hookpool", n_jobs=2):
        one = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(30))
        two = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(30))

        assert list(zip(one, two, strict=True)) == [(i, i) for i in range(30)]


# ---- failures ------------------------------------------------------------------------------


def test_an_error_carries_the_traceback_of_the_worker():
    with pytest.raises(LookupError, match="on purpose") as caught:
        parallel()([delayed(fail)()])

    text = str(caught.value.__cause__)
    assert "in fail" in text
    assert "hookpool/_" not in text  # none of our own frames before it


@pytest.mark.parametrize("batch_size", ["auto", 1, 5])
def test_a_stop_iteration_is_an_error_and_does_not_end_its_batch(batch_size):
    with pytest.raises(RuntimeError, match="StopIteration"):  # as with joblib's own backends
        parallel(batch_size=batch_size)(delayed(next)(iter([1] * (n != 2))) for n in range(5))


def test_workers_survive_an_error_where_nothing_else_runs():
    first = pids()
    with pytest.raises(LookupError):
        parallel()([delayed(fail)()])

    assert pids() == first


def test_an_error_does_not_wait_for_long_tasks():
    before = time.monotonic()
    with pytest.raises(LookupError):
        parallel(batch_size=1)([delayed(time.sleep)(30), delayed(fail)()])

    assert time.monotonic() - before < 10


def test_a_with_block_goes_on_after_an_error():
    with parallel() as run:
        with pytest.raises(LookupError):
            run([delayed(fail)(), delayed(time.sleep)(30)])
        assert run([delayed(abs)(-1)]) == [1]


def test_a_killed_worker_is_the_error_that_joblibs_users_catch():
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        TerminatedWorkerError, match=r"SIGKILL.*task .*die at test_joblib"
    ) as caught:
        parallel()(delayed(die)() for _ in range(2))

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__  # one error, told once
    assert isinstance(caught.value, BrokenProcessPool)
    assert isinstance(caught.value, errors.WorkerDied)
    assert caught.value.exitcode == -signal.SIGKILL
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)
    assert parallel()([delayed(abs)(-1)]) == [1]


def test_a_death_that_a_task_has_met_elsewhere_is_the_tasks_error():
    def task():
        with HookPoolExecutor(1) as pool:
            pool.submit(os._exit, 5).result()

    with pytest.raises(errors.WorkerDied, match="exited with code 5 while running") as caught:
        parallel()(delayed(task)() for _ in range(2))

    assert type(caught.value) is errors.WorkerDied
    assert "in task" in str(caught.value.__cause__)


def test_a_timeout_ends_the_call_and_not_the_backend():
    before = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        parallel(timeout=0.2)(delayed(time.sleep)(30) for _ in range(2))

    assert time.monotonic() - before < 10
    assert parallel()([delayed(abs)(-1)]) == [1]


def test_an_argument_that_cannot_travel_is_an_error_and_not_a_hang():
    lock = threading.Lock()
    with lock, pytest.raises(pickle.PicklingError):
        # Beyond pre_dispatch, so that it is met in the executor's thread.
        parallel(batch_size=1)(delayed(id)(lock if i == 40 else i) for i in range(50))


def test_a_reduce_that_raises_is_a_pickling_error():
    class Broken:
        def __reduce__(self):
            raise RuntimeError("123")

    with pytest.raises(pickle.PicklingError, match=r"the task to send to the workers.*123"):
        parallel()([delayed(id)(Broken())])


@pytest.mark.parametrize("name", ["no text", "no class"])
def test_so_it_is_whatever_its_error_says(name):
    with pytest.raises(pickle.PicklingError, match="the task to send to the workers") as caught:
        parallel()([delayed(id)(odd_errors.AtDump(name))])

    assert type(caught.value.__cause__) is odd_errors.KINDS[name]


def test_a_reduce_that_exits_in_the_executors_thread_is_an_error_and_not_a_hang():
    with pytest.raises(SystemExit):
        # Beyond pre_dispatch, so that it is met there.
        parallel(batch_size=1)(
            delayed(id)(AtPickle(sys.exit) if i == 40 else i) for i in range(50)
        )

    assert parallel()([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize("bad", [1, 4])
@pytest.mark.parametrize("managed", [False, True])
def test_nothing_of_a_call_that_failed_is_part_of_the_next_one(managed, bad):
    class Broken:
        def __reduce__(self):
            raise RuntimeError("123")

    one = parallel()
    with one if managed else contextlib.nullcontext():
        for _ in range(3):
            with pytest.raises(pickle.PicklingError):
                one(delayed(id)(Broken() if i < bad else "other call") for i in range(4))
            assert one(delayed(len)("abc") for _ in range(2)) == [3, 3]


def test_a_result_that_cannot_travel_is_an_error():
    with pytest.raises(pickle.PicklingError):
        parallel()([delayed(lambda: iter(sys._current_frames().values()))()])


def test_ctrl_c_ends_a_call_at_once_and_leaves_nothing(tmp_path):
    source = f"""
        import hookpool.joblib, joblib, pathlib, time
        hookpool.joblib.register()

        def nap(number):
            pathlib.Path({str(tmp_path)!r}, str(number)).touch()
            time.sleep(60)

        joblib.Parallel(n_jobs=2, backend="hookpool", batch_size=1)(
            joblib.delayed(nap)(number) for number in range(4)
        )
    """
    with Program(
        ("-c", textwrap.dedent(source)),
        timeout=50,
        env=None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 40)
        before = time.monotonic()
        os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does it: to everybody
        _, err = program.process.communicate(timeout=20)

        assert time.monotonic() - before < 5
        assert err.count("Traceback") == 1
        assert err.rstrip().endswith("KeyboardInterrupt")
        wait_until(lambda: not marked_processes(program.mark))


def test_an_error_in_one_thread_does_not_hurt_the_call_of_another():
    outcomes = {}

    def healthy():
        outcomes["healthy"] = parallel(batch_size=1)(
            delayed(lambda x: (time.sleep(0.01), x)[1])(i) for i in range(60)
        )

    thread = threading.Thread(target=healthy)
    thread.start()
    for _ in range(3):
        with pytest.raises(LookupError):
            parallel(batch_size=1)([delayed(fail)(), delayed(time.sleep)(30)])
    thread.join(30)

    assert outcomes["healthy"] == list(range(60))


# ---- what functions capture ----------------------------------------------------------------


class Loaded:
    """Counts in a worker how often it is loaded there."""

    def __reduce__(self):
        return note_a_load, ()


def note_a_load():
    sys.hookpool_test_loads = getattr(sys, "hookpool_test_loads", 0) + 1
    return sys.hookpool_test_loads


def test_a_function_crosses_to_each_worker_once():
    """And not with each batch, of which there are many."""
    captured = Loaded()

    def seen(_):
        return os.getpid(), captured, sys.hookpool_test_loads

    first = parallel(batch_size=1)(delayed(seen)(i) for i in range(20))
    second = parallel(batch_size=3)(delayed(seen)(i) for i in range(20))

    assert {tuple(loads) for _, *loads in (*first, *second)} == {(1, 1)}


def test_functions_in_turns_cross_once_as_well():
    def function(number):
        captured = Loaded()
        return lambda x: (number * x, captured)

    functions = [function(number) for number in range(3)]
    tasks = [delayed(functions[i % 3])(i) for i in range(30)]

    results = parallel(batch_size=6)(tasks)

    assert [value for value, _ in results] == [i % 3 * i for i in range(30)]
    assert max(loads for _, loads in results) <= 3


def test_a_function_that_changes_between_calls_is_sent_again():
    factor = 1

    def scaled(x):
        return x * factor

    run = parallel()
    assert run(delayed(scaled)(i) for i in range(4)) == [0, 1, 2, 3]
    factor = 2
    assert run(delayed(scaled)(i) for i in range(4)) == [0, 2, 4, 6]


def test_what_fails_to_travel_is_named_by_its_task_and_its_path():
    lock = threading.Lock()

    class Model:
        def __init__(self, content):
            self.content = content

    with lock, pytest.raises(pickle.PicklingError, match=r"args\[1\].content"):
        parallel(batch_size=5)(delayed(max)(i, Model(lock if i == 3 else i)) for i in range(5))


# ---- arrays --------------------------------------------------------------------------------

LARGE = 200_000  # items of 8 bytes: above the default threshold of 1 MB


def about(array):
    """What a worker sees: type, file, whether it can be written to, contents."""
    return (
        type(array).__name__,
        getattr(array, "filename", None),
        array.flags.writeable,
        float(array.sum()),
    )


@needs_numpy
def test_large_arrays_arrive_as_one_read_only_map():
    array = np.ones(LARGE)

    seen = set(parallel()(delayed(about)(array) for _ in range(10)))

    ((kind, path, writeable, total),) = seen
    assert (kind, writeable, total) == ("memmap", False, LARGE)
    assert not os.path.exists(os.path.dirname(path))


@needs_numpy
def test_small_arrays_arrive_as_they_are():
    ((kind, path, writeable, total),) = parallel()([delayed(about)(np.ones(3))])

    assert (kind, path, writeable, total) == ("ndarray", None, True, 3)


@needs_numpy
@pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": None}])
def test_mapping_can_be_turned_off(options):
    ((kind, path, *_),) = parallel(**options)([delayed(about)(np.ones(LARGE))])

    assert (kind, path) == ("ndarray", None)


@needs_numpy
@pytest.mark.parametrize(("max_nbytes", "kind"), [(10, "memmap"), ("1K", "ndarray")])
def test_the_threshold_is_the_users(max_nbytes, kind):
    ((seen, *_),) = parallel(max_nbytes=max_nbytes)([delayed(about)(np.ones(100))])

    assert seen == kind


@needs_numpy
def test_arrays_deep_in_objects_are_mapped_too():
    class Model:
        def __init__(self, weights):
            self.layers = [{"weights": weights}]

    model = Model(np.ones(LARGE))

    ((kind, *_),) = parallel()([delayed(lambda m: about(m.layers[0]["weights"]))(model)])

    assert kind == "memmap"


@needs_numpy
@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_writes_through_a_writable_map_are_seen_by_others(mode):
    def write(array):
        array[0] = 7

    array = np.zeros(LARGE)
    with parallel(mmap_mode=mode, batch_size=1) as run:
        first, second, _ = run(
            [delayed(about)(array), delayed(write)(array), delayed(time.sleep)(0)]
        )

    assert first[0] == "memmap"
    assert second is None
    assert array[0] == 0  # the caller's own is not the file


@needs_numpy
def test_writes_to_a_private_map_stay_in_their_task():
    def write(array):
        array[0] += 1
        return float(array[0])

    seen = parallel(mmap_mode="c", batch_size=1)(delayed(write)(np.zeros(LARGE)) for _ in range(6))

    assert set(seen) == {1.0}


@needs_numpy
def test_the_temporary_folder_is_the_users_and_is_left_empty(tmp_path):
    array = np.ones(LARGE)
    ((_, path, *_),) = parallel(temp_folder=str(tmp_path))([delayed(about)(array)])

    assert path.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@needs_numpy
def test_the_temporary_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    ((_, path, *_),) = parallel()([delayed(about)(np.ones(LARGE))])

    assert path.startswith(str(tmp_path))


@needs_numpy
def test_an_array_changed_between_the_calls_of_a_with_block_is_sent_anew():
    array = np.zeros(LARGE)
    with parallel() as run:
        ((_, before, _, none),) = run([delayed(about)(array)])
        array[:] = 1
        ((_, after, _, all_of_them),) = run([delayed(about)(array)])

    assert (none, all_of_them) == (0, LARGE)
    assert os.path.dirname(before) == os.path.dirname(after)


@needs_numpy
def test_a_returned_map_comes_back_as_a_plain_array():
    array = np.arange(float(LARGE))
    whole, part = parallel()([delayed(lambda a: a)(array), delayed(lambda a: a[10:20:3])(array)])

    assert type(whole) is type(part) is np.ndarray
    assert np.array_equal(whole, array)
    assert np.array_equal(part, array[10:20:3])


@needs_numpy
def test_the_users_own_maps_go_both_ways_by_the_name_of_their_file(tmp_path):
    mine = np.memmap(tmp_path / "mine", dtype=float, shape=(50, 4), mode="w+")
    mine[:] = 1
    inside, back = parallel()([delayed(about)(mine[5:45:2, 1:]), delayed(lambda a: a[1:])(mine)])

    assert inside[3] == 60.0
    back[0, 0] = 9
    assert mine[1, 0] == 9  # the same file, not a copy


VIEWS = {
    "transposed": lambda m: m.T,
    "backwards": lambda m: m[::-1],
    "backwards inside": lambda m: m[:, ::-1],
    "with gaps": lambda m: m[1::3, ::-2],
    "flat": lambda m: m.reshape(-1, order="A"),
    "one number": lambda m: m[2, 3, ...],
    "nothing": lambda m: m[:0],
}


@needs_numpy
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_the_users_own_maps_are_what_they_are_here(tmp_path, order, view):
    """As arguments, in objects, and as results."""
    mine = np.memmap(tmp_path / "mine", float, "w+", 16, (200, 300), order)
    mine[:] = np.arange(60_000).reshape(200, 300)
    mine.flush()
    take = VIEWS[view]

    class Model:
        def __init__(self, data):
            self.data = data

        def numbers(self):
            return self.data.tolist()

    def opened():
        return take(np.memmap(tmp_path / "mine", float, "r", 16, (200, 300), order))

    expected = take(mine).tolist()
    direct, held, returned, passed_on = parallel()(
        [
            delayed(lambda a: a.tolist())(take(mine)),
            delayed(Model.numbers)(Model(take(mine))),
            delayed(opened)(),
            delayed(lambda a: a)(take(mine)),
        ]
    )

    assert direct == held == expected
    assert returned.tolist() == passed_on.tolist() == expected
    assert not returned.flags.writeable or view == "nothing"


@needs_numpy
@pytest.mark.parametrize("size", [10, LARGE])
def test_what_was_written_to_the_users_private_maps_travels_both_ways(tmp_path, size):
    path = tmp_path / "mine"
    np.ones(size).tofile(path)
    mine = np.memmap(path, float, "c", shape=(size,))
    mine[:] = 7

    def increased(array):
        array += 1
        return float(array.sum())

    def opened():
        array = np.memmap(path, float, "c", shape=(size,))
        array[:] = 9
        return array

    *sums, back = parallel(batch_size=1)(
        [delayed(increased)(mine), delayed(increased)(mine), delayed(opened)()]
    )

    assert sums == [8 * size, 8 * size]
    assert (mine == 7).all()
    assert back.tolist() == [9] * size
    assert (np.fromfile(path) == 1).all()


@needs_numpy
def test_arrays_of_objects_are_sent_and_not_mapped():
    array = np.array([{"a": 1}, None] * 100_000, dtype=object)

    (first,) = parallel()([delayed(lambda a: a[0])(array)])

    assert first == {"a": 1}


@needs_numpy
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_of_memory_is_kept(order):
    array = np.asarray(np.arange(float(LARGE)).reshape(-1, 4), order=order)

    (same,) = parallel()([delayed(lambda a: (a.flags["F_CONTIGUOUS"], a[3, 2]))(array)])

    assert same == (order == "F", array[3, 2])


@needs_numpy
def test_files_of_arrays_nobody_has_any_more_are_removed_during_the_call(tmp_path):
    """A thousand arrays from a generator must not fill the disk."""

    def count(array):
        return len(os.listdir(os.path.dirname(array.filename)))

    counts = parallel(temp_folder=str(tmp_path), batch_size=1, max_nbytes=10)(
        delayed(count)(np.full(100, i)) for i in range(200)
    )

    assert max(counts) < 40


@needs_numpy
def test_one_array_under_many_names_is_one_file():
    array = np.ones(LARGE)

    ((a, b),) = parallel()([delayed(lambda a, b: (a.filename, b.filename))(array, array)])

    assert a == b


def end_by_an_error(run, array):
    def fail_with(array):
        raise LookupError(array.filename)

    with pytest.raises(LookupError, match="joblib_memmapping_folder"):
        run()([delayed(fail_with)(array)])


def end_by_a_killed_worker(run, array):
    def die(array):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TerminatedWorkerError):
        run()(delayed(die)(array) for _ in range(2))


def end_by_a_timeout(run, array):
    with pytest.raises(multiprocessing.TimeoutError):
        run(timeout=0.1)(delayed(lambda _: time.sleep(30))(array) for _ in range(2))


def end_by_dropping_the_generator(run, array):
    results = run(return_as="generator", batch_size=1)(
        delayed(lambda _, seconds: time.sleep(seconds))(array, seconds) for seconds in (0, 30, 30)
    )
    next(results)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()


def end_by_what_cannot_travel(run, array):
    lock = threading.Lock()
    with lock, pytest.raises(pickle.PicklingError):
        run()(delayed(id)((array, lock)) for _ in range(2))


def end_by_an_interrupt(run, array):
    def interrupt(array, pid):
        os.kill(pid, signal.SIGINT)
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        run()([delayed(interrupt)(array, os.getpid())])


@needs_numpy
@pytest.mark.parametrize(
    "end",
    [
        end_by_an_error,
        end_by_a_killed_worker,
        end_by_a_timeout,
        end_by_dropping_the_generator,
        end_by_what_cannot_travel,
        end_by_an_interrupt,
    ],
)
def test_files_are_gone_however_a_call_ends_and_the_next_one_works(tmp_path, end):
    array = np.ones(LARGE)

    def run(**options):
        return parallel(temp_folder=str(tmp_path), **options)

    end(run, array)

    assert list(tmp_path.iterdir()) == []
    ((kind, *_),) = run()([delayed(about)(array)])
    assert kind == "memmap"
    assert list(tmp_path.iterdir()) == []


@needs_numpy
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_files_are_gone_after_the_caller_was_killed(tmp_path):
    program = textwrap.dedent(f"""
        import hookpool.joblib, joblib, numpy, os
        hookpool.joblib.register()
        def kill_caller(array, pid):
            assert os.path.exists(array.filename)
            os.kill(pid, 9)
        joblib.Parallel(n_jobs=2, backend="hookpool", temp_folder={str(tmp_path)!r})(
            [joblib.delayed(kill_caller)(numpy.ones({LARGE}), os.getpid())]
        )
    """)
    done = subprocess.run([sys.executable, "-c", program], timeout=50, capture_output=True)

    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not list(tmp_path.iterdir()))


@needs_numpy
@pytest.mark.parametrize("dtype", ["<f8", ">i4", "M8[ns]", "?", [("a", "i1"), ("b", "f8")]])
@pytest.mark.parametrize("layout", ["C", "F", "gaps"])
def test_arrays_of_every_kind_are_mapped_as_they_are(dtype, layout):
    array = np.arange(60).reshape(6, 10).astype(dtype)
    array = np.asfortranarray(array) if layout == "F" else array
    array = array[::2, 1:] if layout == "gaps" else array

    (seen,) = parallel(max_nbytes=0)(
        [delayed(lambda a: (type(a).__name__, a.dtype, a.shape, a.tobytes()))(array)]
    )

    assert seen == ("memmap", array.dtype, array.shape, array.tobytes())


@needs_numpy
@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_that_are_sent_or_returned_can_be_written_to(size):
    def increased(array):
        array += 1
        return array, array[::-1], {"again": array}

    run = parallel(max_nbytes=None)
    ((whole, reverse, inside),) = run([delayed(increased)(np.zeros(size))])

    assert inside["again"] is whole
    whole += 1
    assert whole.sum() == 2 * size
    assert reverse.sum() == size


def where_mapped(array):
    """The worker, and where it has the items of an array."""
    return os.getpid(), array.ctypes.data, array.shape


@needs_numpy
def test_a_worker_maps_an_array_once_for_all_batches_of_a_call():
    """But for the first ones, which come before it is known that there is something to map."""
    array = np.ones(LARGE)

    seen = parallel(batch_size=1)(delayed(where_mapped)(array) for _ in range(40))

    assert len(set(seen)) <= 8
    assert len(set(seen[-10:])) <= 2


@needs_numpy
def test_what_a_task_does_to_the_shape_of_an_array_is_not_seen_by_the_next():
    def reshape(array):
        before = array.shape
        array.shape = (-1, 2)
        return before

    run = parallel(batch_size=1)

    assert set(run(delayed(reshape)(np.ones(LARGE)) for _ in range(3))) == {(LARGE,)}
    array = np.ones(LARGE)
    assert set(run(delayed(reshape)(array) for _ in range(12))) == {(LARGE,)}


@needs_numpy
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="/proc says what is mapped")
def test_a_worker_keeps_few_maps_and_none_after_the_call():
    def kept(array):
        return len(files_of_calls(array))

    def arrays():
        for number in range(60):
            yield np.full(100, number)

    run = parallel(batch_size=1, max_nbytes=10)
    kept_all = list(arrays())  # so that no file is removed during the call

    assert max(run(delayed(kept)(array) for array in kept_all)) <= _batch.KEPT + 1
    assert max(run(delayed(kept)(array) for array in arrays())) <= _batch.KEPT + 1
    wait_until(lambda: not any(run(delayed(files_of_calls)(i) for i in range(4))))


GLOBAL_ARRAY = None


def about_the_global(_):
    return about(GLOBAL_ARRAY)


def files_of_calls(_):
    """The files of large arrays that are mapped in a worker."""
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "joblib_memmapping_folder" in line]


@needs_numpy
def test_large_arrays_that_a_function_captures_are_mapped_too(by_value, monkeypatch):
    """A cell, a default, a global; each as the one it is in each call."""
    captured = np.ones(LARGE)

    def inside(_, default=captured):
        return about(captured), about(default)

    monkeypatch.setattr(sys.modules[__name__], "GLOBAL_ARRAY", captured)
    with parallel(batch_size=1) as run:
        for total in (LARGE, 2 * LARGE, 3 * LARGE):
            closed = run(delayed(inside)(i) for i in range(4))
            in_globals = run(delayed(about_the_global)(i) for i in range(4))
            captured += 1

            assert {one[0] for pair in closed for one in pair} == {"memmap"}
            assert {one[3] for pair in closed for one in pair} == {total}
            assert {one[0] for one in in_globals} == {"memmap"}
            assert {one[3] for one in in_globals} == {total}


@needs_numpy
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="/proc says what is mapped")
def test_no_worker_keeps_the_memory_of_an_array_that_was_captured():
    captured = np.ones(LARGE)
    run = parallel(batch_size=1)
    names = set(run(delayed(lambda _: captured.filename)(i) for i in range(4)))
    assert names

    def is_mapped():
        """By any worker; what others captured in their globals may be."""
        lines = itertools.chain(*run(delayed(files_of_calls)(i) for i in range(4)))
        return any(name in line for line in lines for name in names)

    # The end of a call may reach a worker a moment after the first task of the next one.
    wait_until(lambda: not is_mapped())


@needs_numpy
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="/proc says what is mapped")
def test_an_array_in_a_global_stays_with_a_worker_until_it_has_another_value(
    by_value, monkeypatch
):
    """As all globals do; the page says so."""
    monkeypatch.setattr(sys.modules[__name__], "GLOBAL_ARRAY", np.ones(LARGE))
    run = parallel(batch_size=1)
    (seen,) = run([delayed(about_the_global)(0)])
    assert seen[0] == "memmap"
    assert any(run(delayed(files_of_calls)(i) for i in range(8)))

    monkeypatch.setattr(sys.modules[__name__], "GLOBAL_ARRAY", np.ones(3))
    tasks = [delayed(lambda _: (about_the_global(0)[0], files_of_calls(0)))(i) for i in range(8)]

    assert run(tasks) == [("ndarray", [])] * 8


@needs_numpy
def test_small_arrays_that_a_function_captures_cross_with_it():
    captured = np.arange(5.0)

    def inside(_):
        return about(captured)

    assert {one[:2] for one in parallel()(delayed(inside)(i) for i in range(4))} == {
        ("ndarray", None)
    }


@needs_numpy
def test_classes_that_refer_to_a_large_global_array_are_mapped_to_it(by_value, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "GLOBAL_ARRAY", np.ones(LARGE))

    class Model:
        def seen(self):
            return about(GLOBAL_ARRAY)

    run = parallel(batch_size=1)
    for total in (LARGE, 2 * LARGE):
        seen = run(delayed(Model.seen)(Model()) for _ in range(4))
        assert {one[0] for one in seen} == {"memmap"}
        assert {one[3] for one in seen} == {total}
        monkeypatch.setattr(sys.modules[__name__], "GLOBAL_ARRAY", np.full(LARGE, 2.0))


# ---- arrays in shared memory ---------------------------------------------------------------

in_shared_memory = pytest.mark.skipif(
    not _buffers.CAN_LEND, reason="no memory can be shared without a name here"
)


def lent_here():
    """The arenas of shared memory that are mapped in this process."""
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:hookpool" in line]


@needs_numpy
@in_shared_memory
def test_large_results_come_back_in_shared_memory_and_it_goes_with_them():
    results = parallel(batch_size=2)(delayed(np.full)(LARGE, i) for i in range(4))

    assert [float(one[-1]) for one in results] == [0, 1, 2, 3]
    assert lent_here()
    hookpool.joblib.stop_workers()
    assert [float(one.sum()) for one in results] == [0, LARGE, 2 * LARGE, 3 * LARGE]
    results[0] += 1  # the caller's own
    del results
    wait_until(lambda: not lent_here())


@needs_numpy
@in_shared_memory
def test_large_arguments_that_are_not_mapped_go_through_shared_memory():
    def seen(array):
        array += 1
        return lent_here() != [], float(array.sum())

    array = np.ones(LARGE)
    run = parallel(max_nbytes=None, batch_size=2)

    assert run(delayed(seen)(array) for _ in range(1)) == [(True, 2 * LARGE)]
    # One array within a batch is one array there, as with joblib's own backend.
    assert run(delayed(seen)(array) for _ in range(2))[0] == (True, 2 * LARGE)
    assert array.sum() == LARGE


@needs_numpy
@in_shared_memory
def test_a_killed_worker_leaves_no_shared_memory_behind():
    def die(array):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TerminatedWorkerError):
        parallel(max_nbytes=None)(delayed(die)(np.ones(LARGE)) for _ in range(2))

    hookpool.joblib.stop_workers()
    gc.collect()
    wait_until(lambda: not lent_here())


# ---- pickler only --------------------------------------------------------------------------


def test_joblibs_own_backend_can_use_our_pickler():
    """For those who want nothing but the pickler: the variable that loky reads when imported."""
    source = """
        import joblib
        from joblib.externals.loky.backend import reduction
        assert reduction.get_loky_pickler_name() == "hookpool.reduction", "not taken"
        if __name__ == "__main__":
            print(joblib.Parallel(n_jobs=2)(joblib.delayed(lambda x: x * 2)(i) for i in range(3)))
    """
    env = {"LOKY_PICKLER": "hookpool.reduction"}
    out = run_python("-c", textwrap.dedent(source), env=env)

    assert out.strip() == "[0, 2, 4]"


@needs_numpy
def test_our_pickler_leaves_large_arrays_to_joblib():
    """Which has reducers for them in the table of the pickler: they must be asked."""
    source = """
        import joblib, numpy
        from joblib.externals.loky.backend import reduction
        assert reduction.get_loky_pickler_name() == "hookpool.reduction", "not taken"

        class Model:
            def __init__(self, weights):
                self.weights = weights

        if __name__ == "__main__":
            model = Model(numpy.ones(200_000))
            print(joblib.Parallel(n_jobs=2)(
                joblib.delayed(lambda m: (type(m.weights).__name__, m.weights.sum()))(model)
                for _ in range(2)
            ))
    """
    env = {"LOKY_PICKLER": "hookpool.reduction"}
    out = run_python("-c", textwrap.dedent(source), env=env)

    assert out.count("memmap") == 2
    assert out.count("200000.0") == 2
