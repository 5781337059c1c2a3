"""The start method "hookpool": every primitive in every launch mode, as the default, and alone."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import pool as mp_pool
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import pytest

import hookpool
from hookpool import context as context_module
from hookpool.context import CONTEXT as ctx
from tests.helpers import MODES, run_as, run_python

# --- every primitive in every launch mode ------------------------------------------------------

# What a user writes, with no guard: each line of output is one primitive that works.
PROGRAM = """
import multiprocessing, os, threading, traceback
import hookpool
from hookpool.managers import BaseManager
print("main runs once")
ctx = multiprocessing.get_context("hookpool")
offset = 100

class Point:
    def __init__(self, x):
        self.x = x
    def moved(self):
        return Point(self.x + offset)

def attempt(check):
    try:
        check()
    except BaseException:
        print("failed", check.__name__, traceback.format_exc())
    else:
        print("ok", check.__name__)

def in_child(function, *args):
    reader, writer = ctx.Pipe(duplex=False)
    process = ctx.Process(target=lambda: writer.send(function(*args)))
    process.start()
    result = reader.recv()
    process.join()
    assert process.exitcode == 0
    return result

def process():
    step = 5
    assert in_child(lambda x: x + step + offset, 1) == 106
    assert type(in_child(Point(1).moved)) is Point
    assert in_child(lambda: multiprocessing.get_start_method()) == "hookpool"

def subclass():
    class Mine(ctx.Process):
        def run(self):
            self.writer.send(Point(len(self.name)).moved().x)
    reader, writer = ctx.Pipe(duplex=False)
    class Array(list):
        def __bool__(self):
            raise ValueError("the truth value of an array is ambiguous")
    mine = Mine(name="four")
    mine.writer = writer
    mine.array = Array([1, 2])
    mine.start()
    assert reader.recv() == 104
    mine.join()

def queue():
    q = ctx.Queue()
    in_child(lambda: q.put(lambda: Point(1)))
    assert type(q.get()()) is not None
    q.put(Point(3).moved)
    assert in_child(lambda: q.get()().x) == 103

def joinable_queue():
    q = ctx.JoinableQueue()
    q.put(lambda: 7)
    def consume():
        value = q.get()()
        q.task_done()
        return value
    assert in_child(consume) == 7
    q.join()

def simple_queue():
    q = ctx.SimpleQueue()
    q.put(lambda: Point(2).moved().x)
    assert in_child(lambda: q.get()()) == 102

def pipe():
    ours, theirs = ctx.Pipe()
    def answer():
        theirs.send(theirs.recv()(Point(5)))
    p = ctx.Process(target=answer)
    p.start()
    ours.send(lambda point: point.moved())
    assert type(ours.recv()) is Point
    p.join()

def connection_through_a_queue():
    q, done = ctx.Queue(), ctx.Event()
    inner, outer = ctx.Pipe()
    def use():
        conn = q.get()
        conn.send(lambda: "through")
        done.set()
    p = ctx.Process(target=use)
    p.start()
    q.put(outer)
    assert inner.recv()() == "through"
    p.join()

def pool():
    with ctx.Pool(2) as p:
        assert p.map(lambda x: x + offset, range(3)) == [100, 101, 102]
        points = p.map(Point, range(3))
        assert all(type(point) is Point for point in points)
        assert sorted(p.imap_unordered(lambda x: -x, range(3))) == [-2, -1, 0]

model = None
def load():
    global model
    model = "loaded"
def use(x):
    return model, x

def initializer_global():
    with ctx.Pool(1, initializer=load) as p:
        assert p.map(use, [1]) == [("loaded", 1)]
    assert model is None

def manager():
    with ctx.Manager() as m:
        l, d, ns, q = m.list([1]), m.dict(), m.Namespace(), m.Queue()
        l.append(lambda: 1)
        d["f"] = lambda: 2
        ns.point = Point(3)
        q.put(lambda: 4)
        assert l[1]() + d["f"]() + q.get()() == 7
        assert type(ns.point) is Point
        l[:] = [3, 1, 2]
        l.sort(key=lambda x: -x)
        assert l[:] == [3, 2, 1]
        assert in_child(lambda: l[0] + offset) == 103

def base_manager():
    class Counter:
        def __init__(self):
            self.n = 0
        def change(self, how):
            self.n = how(self.n)
            return self.n
    class Manager(BaseManager):
        pass
    Manager.register("Counter", lambda: Counter())
    with Manager() as m:
        counter = m.Counter()
        assert counter.change(lambda n: n + 4) == 4
        assert in_child(lambda: counter.change(lambda n: n * offset)) == 400

def listener_and_client():
    with ctx.Listener() as listener:
        address = listener.address
        def call():
            with ctx.Client(address) as conn:
                conn.send(lambda: Point(6).moved().x)
        p = ctx.Process(target=call)
        p.start()
        with listener.accept() as conn:
            assert conn.recv()() == 106
        p.join()

def shared_values():
    value, array = ctx.Value("i", 1), ctx.Array("d", 3)
    raw, raws = ctx.RawValue("i", 1), ctx.RawArray("d", 2)
    def write():
        with value.get_lock():
            value.value += offset
        array[1], raw.value, raws[0] = 2.5, 7, 1.5
    in_child(write)
    assert (value.value, array[:], raw.value, raws[:]) == (101, [0, 2.5, 0], 7, [1.5, 0])

def locks():
    lock, rlock, condition = ctx.Lock(), ctx.RLock(), ctx.Condition()
    event, semaphore, bounded = ctx.Event(), ctx.Semaphore(1), ctx.BoundedSemaphore(1)
    lock.acquire()
    def touch():
        with rlock, rlock, semaphore, bounded:
            event.set()
        with condition:
            condition.notify()
        return lock.acquire(False)
    with condition:
        p = ctx.Process(target=touch)
        p.start()
        assert condition.wait(30)
    p.join()
    assert event.is_set()
    assert in_child(touch) is False
    lock.release()

def barrier():
    b = ctx.Barrier(2, action=lambda: None)
    p = ctx.Process(target=lambda: b.wait(30))
    p.start()
    b.wait(30)
    p.join()
    assert p.exitcode == 0

def shared_memory():
    from multiprocessing.shared_memory import SharedMemory, ShareableList
    block, items = SharedMemory(create=True, size=8), ShareableList([1, "two"])
    def write():
        block.buf[0] = 42
        items[0] = 43
    in_child(write)
    assert (block.buf[0], items[0]) == (42, 43)
    block.close()
    block.unlink()
    items.shm.close()
    items.shm.unlink()

def logging():
    logger = ctx.get_logger()
    logger.setLevel(17)
    assert in_child(lambda: ctx.get_logger().getEffectiveLevel()) == 17
    logger.setLevel(0)

def nested_pool():
    def inner():
        with ctx.Pool(1) as p:
            return p.map(lambda x: Point(x).moved(), [1])
    assert type(in_child(inner)[0]) is Point

for check in [CHECKS]:
    attempt(check)
"""

CHECKS = [
    "process",
    "subclass",
    "queue",
    "joinable_queue",
    "simple_queue",
    "pipe",
    "connection_through_a_queue",
    "pool",
    "initializer_global",
    "manager",
    "base_manager",
    "listener_and_client",
    "shared_values",
    "locks",
    "barrier",
    "shared_memory",
    "logging",
    "nested_pool",
]


NO_FORK_SERVER = "from hookpool import _launch\n_launch.HAVE_FORK_SERVER = False\n"


@functools.cache
def said_by_the_program(mode: str, first: str = "") -> str:
    """One run per mode: starting a kernel or a prompt for each primitive would take minutes."""
    return run_as(mode, first + PROGRAM.replace("CHECKS", ", ".join(CHECKS)), timeout=50)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", MODES)
def test_each_primitive_works_by_value_in_each_launch_mode(mode: str, check: str) -> None:
    said = said_by_the_program(mode)
    assert f"ok {check}\n" in said, said


@pytest.mark.parametrize("check", CHECKS)
def test_each_primitive_works_where_there_is_no_fork_server(check: str) -> None:
    said = said_by_the_program("file", NO_FORK_SERVER)
    assert f"ok {check}\n" in said, said


@pytest.mark.parametrize("mode", MODES)
def test_no_child_runs_the_main_file(mode: str) -> None:
    assert said_by_the_program(mode).count("main runs once") == 1


# --- processes ---------------------------------------------------------------------------------


def ended(process: Any) -> int | None:
    process.join(20)
    exitcode: int | None = process.exitcode
    process.close()
    return exitcode


def in_child(function: Callable[..., Any], *args: object) -> Any:
    reader, writer = ctx.Pipe(duplex=False)
    with reader, writer:
        process = ctx.Process(target=lambda: writer.send(function(*args)))
        process.start()
        result = reader.recv() if reader.poll(20) else "no answer"
        assert ended(process) == 0
    return result


def test_a_process_takes_a_lambda() -> None:
    offset = 5
    assert in_child(lambda x: x + offset, 1) == 6


def test_children_of_children_use_the_same_context() -> None:
    def look() -> tuple[str, str]:
        method = multiprocessing.get_start_method()
        return method, in_child(lambda: type(multiprocessing.current_process()).__name__)

    assert in_child(look) == ("hookpool", "HookProcess")


def test_a_process_is_seen_by_multiprocessing_as_any_other() -> None:
    event = ctx.Event()
    process = ctx.Process(target=event.wait, name="waiting")
    process.start()
    assert process in multiprocessing.active_children()
    assert multiprocessing.current_process() is not process
    event.set()
    assert ended(process) == 0
    assert process not in multiprocessing.active_children()
    parent = in_child(lambda: (multiprocessing.parent_process().pid, os.getppid()))
    assert parent[0] == os.getpid() != parent[1]


def test_the_fork_server_does_not_count_among_the_processes() -> None:
    names = run_python("-c", NAMES)
    assert names == "HookProcess-1 []\n"


NAMES = """
import hookpool, multiprocessing
ctx = multiprocessing.get_context("hookpool")
process = ctx.Process(target=lambda: None)
process.start()
process.join()
print(process.name, multiprocessing.active_children())
"""


def test_a_daemon_dies_with_its_owner() -> None:
    run_python("-c", DAEMONS)


# An owner in the middle is killed; the program fails when anything is left of it.
DAEMONS = """
import os, signal, time
import hookpool, multiprocessing
ctx = multiprocessing.get_context("hookpool")
reader, writer = multiprocessing.Pipe(duplex=False)
def stay():
    writer.send("in")
    time.sleep(3600)
if (owner := os.fork()) == 0:
    ctx.Process(target=stay, daemon=True).start()
    pool = ctx.Pool(1)
    pool.apply_async(stay)
    multiprocessing.set_start_method("hookpool", force=True)
    multiprocessing.Process(target=stay, daemon=True).start()
    signal.pause()
for _ in range(3):
    reader.recv()
os.kill(owner, signal.SIGKILL)
os.waitpid(owner, 0)
"""


def test_modules_to_preload_are_in_the_children_besides_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hookpool.context, "_preload", hookpool.context.PRELOAD)
    ctx.set_forkserver_preload(["colorsys"])
    found = in_child(lambda: {"colorsys", "hookpool._worker"} & sys.modules.keys())
    assert found == {"colorsys", "hookpool._worker"}
    with pytest.raises(TypeError, match="must be strings"):
        ctx.set_forkserver_preload([os])


def test_stop_ends_the_fork_server_and_the_next_start_makes_another() -> None:
    first = in_child(os.getppid)
    hookpool.context.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert in_child(os.getppid) != first


def test_a_default_lock_in_a_message_is_an_error_as_in_the_standard_library() -> None:
    lock = ctx.Lock()
    reader, writer = ctx.Pipe()
    with reader, writer, pytest.raises(RuntimeError, match="through inheritance") as refused:
        writer.send(lock)
    assert isinstance(refused.value, hookpool.CannotPickle)


@pytest.mark.parametrize("make", [ctx.RawArray, ctx.Array])
def test_shared_ctypes_in_a_task_are_an_error_that_says_where_they_can_travel(make: Any) -> None:
    with hookpool.HookPoolExecutor(1, ctx) as pool:
        error = pool.submit(len, make("d", 3)).exception()
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("args[0]: pickling this ")
    assert "pass it in initargs or a Process's arguments" in str(error)


@pytest.mark.parametrize("what", ["ctx.Pool(2)", "ctx.Process(target=abs, args=(1,))"])
def test_a_program_that_still_has_its_processes_at_its_end_says_nothing(what: str) -> None:
    source = f"""if True:
        import multiprocessing, os, hookpool
        os.dup2(1, 2)
        ctx = multiprocessing.get_context("hookpool")
        kept = {what}
        if hasattr(kept, "map"):
            with kept:
                print(kept.map(abs, [1, -2]), flush=True)
        else:
            kept.start()
            kept.join()
            print(kept.exitcode, flush=True)
        """
    expected = "[1, 2]" if "Pool" in what else "0"
    assert run_python("-X", "dev", "-W", "error", "-c", source) == f"{expected}\n"


# --- Pool --------------------------------------------------------------------------------------


@contextmanager
def pool(*args: Any, **kwargs: Any) -> Iterator[mp_pool.Pool]:
    """As `with ctx.Pool()`, and gone completely afterwards, semaphores included."""
    made = ctx.Pool(*args, **kwargs)
    try:
        yield made
    finally:
        made.terminate()
        made.join()


class OwnError(Exception):
    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)


def test_pool_methods_take_lambdas() -> None:
    with pool(2) as p:
        assert p.apply(lambda x, y=0: x - y, (5,), {"y": 2}) == 3
        assert p.map(lambda x: x * 2, range(4)) == [0, 2, 4, 6]
        assert p.starmap(lambda x, y: x + y, [(1, 2), (3, 4)]) == [3, 7]
        assert list(p.imap(lambda x: x * 2, range(4), chunksize=2)) == [0, 2, 4, 6]
        assert sorted(p.imap_unordered(lambda x: x * 2, range(4))) == [0, 2, 4, 6]
        assert p.map_async(lambda x: x, [1]).get(20) == [1]
        assert p.starmap_async(lambda x, y: x * y, [(2, 3)]).get(20) == [6]


def test_pool_calls_back_with_results_and_with_errors() -> None:
    def fail() -> None:
        raise OwnError(1, "two")

    results: list[Any] = []
    with pool(1) as p:
        p.apply_async(lambda: lambda: 5, callback=results.append).wait(20)
        p.apply_async(fail, error_callback=results.append).wait(20)
    assert results[0]() == 5
    assert type(results[1]) is OwnError
    assert results[1].args == (1, "two")


def test_pool_replaces_workers_and_initializes_each(tmp_path: Path) -> None:
    with pool(
        1, initializer=lambda: tmp_path.joinpath(str(os.getpid())).touch(), maxtasksperchild=2
    ) as p:
        pids = p.map(lambda _: os.getpid(), range(6), chunksize=1)
    assert len(set(pids)) == 3
    assert {str(pid) for pid in pids} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("make", [threading.Lock, threading.Event, threading.Condition])
def test_a_bare_lock_of_a_thread_is_refused_by_a_process_and_a_pool(make: Any) -> None:
    """The child would have one of its own, which excludes nobody and hears of nothing."""
    for start in (
        lambda: ctx.Process(target=len, args=([make()],)).start(),
        lambda: ctx.Process(target=len, kwargs={"lock": make()}).start(),
        lambda: ctx.Pool(1, len, ((make(),),)),
    ):
        with pytest.raises(pickle.PicklingError, match="bare"):
            start()


def test_a_process_takes_along_a_lock_that_is_part_of_it() -> None:
    process = Locking()
    process.start()
    process.join()
    assert process.exitcode == 7


class Locking(ctx.Process):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def run(self) -> None:
        with self.lock:
            sys.exit(7)


def test_a_child_ignores_the_signals_that_its_owner_ignores_now() -> None:
    def ignored() -> Any:
        receiver, sender = ctx.Pipe(duplex=False)
        process = ctx.Process(target=lambda: sender.send(_ignored()))
        process.start()
        process.join()
        return receiver.recv()

    assert ignored() == _ignored()  # whoever has started the fork server
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert "SIGTERM" in ignored()
        context_module.stop()
        assert "SIGTERM" in ignored()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "SIGTERM" not in ignored()


def _ignored() -> set[str]:
    import signal

    return {
        signal.Signals(number).name
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        if signal.getsignal(number) is signal.SIG_IGN
    }


def test_a_large_result_does_not_keep_the_thread_awake_that_replaces_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []
    wait = mp_pool.wait  # type: ignore[attr-defined]
    monkeypatch.setattr(
        mp_pool, "wait", lambda *given, **kw: waits.append(1) or wait(*given, **kw)
    )
    with pool(1) as p:
        p.apply(abs, (-1,))
        assert len(p.apply(bytes, (30_000_000,))) == 30_000_000
        assert p.map(len, [bytes(1000)] * 50) == [1000] * 50

    assert len(waits) < 10


def test_a_pool_that_is_closed_ends_when_its_last_result_has_come() -> None:
    for _ in range(20):
        with pool(2) as p:
            results = [p.apply_async(abs, (-number,)) for number in range(5)]
            p.close()
            p.join()
            assert [result.get(20) for result in results] == [0, 1, 2, 3, 4]


# --- the default method ------------------------------------------------------------------------


def test_as_the_default_method_an_unmodified_program_works() -> None:
    run_python("-c", UNMODIFIED)


UNMODIFIED = """
import multiprocessing as mp
import hookpool
mp.set_start_method("hookpool")

class Mine(mp.Process):
    def run(self):
        self.q.put(lambda: "mine")

q, sq, jq, (a, b) = mp.Queue(), mp.SimpleQueue(), mp.JoinableQueue(), mp.Pipe()
mine = Mine()
mine.q = q
mine.start()
assert q.get()() == "mine"
mine.join()

def work():
    a.send(lambda: 1)
    sq.put(lambda: 2)
    jq.put(lambda: 3)

p = mp.Process(target=lambda: work())
p.start()
assert [b.recv()(), sq.get()(), jq.get()()] == [1, 2, 3]
p.join()
with mp.Pool(1) as pool:
    assert pool.map(lambda x: x + 1, [1]) == [2]
with mp.Manager() as m:
    d = m.dict(f=lambda: 4)
    assert d["f"]() == 4
with mp.Pool(1) as pool:
    assert pool.apply(lambda: (mp.get_start_method(), type(mp.Pipe()[0]).__module__)) == (
        "hookpool", "hookpool._primitives")
assert mp.current_process().name == "MainProcess"
"""


def test_the_default_names_are_the_standard_ones_under_another_method() -> None:
    run_python("-c", OTHER_DEFAULT)


OTHER_DEFAULT = """
import inspect, multiprocessing as mp
from multiprocessing import connection, managers, queues
before = {name: str(inspect.signature(getattr(mp, name))) for name in (
    "JoinableQueue", "Manager", "Pipe", "Queue", "SimpleQueue", "set_forkserver_preload")}
import hookpool
functions = {name: getattr(mp.context.BaseContext, name).__code__ for name in before}
mp.get_context("hookpool")
mp.Pipe()
assert functions == {name: getattr(mp.context.BaseContext, name).__code__ for name in before}
assert mp.get_start_method(allow_none=True) is None, "looking must not decide the default"
mp.set_start_method("hookpool")  # from here on the names delegate
assert type(mp.Queue()) is not queues.Queue
for method in ("fork", "spawn", "forkserver"):
    mp.set_start_method(method, force=True)
    assert type(mp.Queue()) is queues.Queue
    assert type(mp.JoinableQueue()) is queues.JoinableQueue
    assert type(mp.SimpleQueue()) is queues.SimpleQueue
    assert type(mp.Pipe()[0]) is connection.Connection
mp.set_start_method("fork", force=True)
with mp.Manager() as m:
    assert type(m) is managers.SyncManager
assert before == {name: str(inspect.signature(getattr(mp, name))) for name in before}
mp.set_forkserver_preload(["colorsys"])
from multiprocessing import forkserver
assert forkserver._forkserver._preload_modules == ["colorsys"]
"""


@pytest.mark.parametrize("is_default", [False, True])
def test_the_tracker_runs_before_a_lock_has_a_name(is_default: bool) -> None:
    """A program that is killed in between would leave the name behind."""
    assert run_python("-c", NO_TRACKER, str(is_default)).strip() == "no name yet"


NO_TRACKER = """
import multiprocessing, sys, hookpool
from multiprocessing import resource_tracker, synchronize

class Killed(Exception): pass

def killed():
    raise Killed

resource_tracker._resource_tracker.ensure_running = resource_tracker.ensure_running = killed
names = []
make = synchronize.SemLock._make_name
synchronize.SemLock._make_name = staticmethod(lambda: names.append(make()) or names[-1])
context = multiprocessing.get_context("hookpool")
if sys.argv[1] == "True":
    multiprocessing.set_start_method("hookpool")
    context = multiprocessing
for kind in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event", "Condition", "Queue"):
    try:
        getattr(context, kind)()
    except Killed:
        continue
    raise AssertionError(kind)
print(*names or ["no name yet"])
"""


def test_names_imported_before_the_method_is_chosen_are_ours_as_well() -> None:
    """As the examples of the standard library have it: the method is chosen under the guard."""
    run_python("-c", IMPORTED_BEFORE)


IMPORTED_BEFORE = """
from multiprocessing import JoinableQueue, Manager, Pipe, Pool, Process, Queue, SimpleQueue
from multiprocessing import get_context, queues, set_forkserver_preload
import inspect
signature = inspect.signature(Queue)

def work(tasks, results):
    for function, argument in iter(tasks.get, None):
        results.put(function(argument))

def double(x):
    return x * 2

if __name__ == "__main__":
    import hookpool, multiprocessing
    multiprocessing.set_start_method("hookpool")
    for kind in (Queue, JoinableQueue, SimpleQueue):
        tasks, results = kind(), kind()
        process = Process(target=work, args=(tasks, results))
        process.start()
        tasks.put((double, 21))  # a function that `work` does not use
        tasks.put((lambda x: x + 1, 6))
        tasks.put(None)
        assert [results.get(), results.get()] == [42, 7]
        process.join()
    a, b = Pipe()
    a.send(lambda: 1)
    assert b.recv()() == 1
    with Manager() as manager:
        assert manager.list([lambda: 2])[0]() == 2
    with Pool(1) as pool:
        assert pool.map(lambda x: x, [1]) == [1]
    set_forkserver_preload(["colorsys"])
    assert hookpool.context._preload[-1] == "colorsys"
    assert inspect.signature(Queue) == signature
    assert Queue.__name__ == "Queue" and "queue" in Queue.__doc__
    assert type(get_context("spawn").Queue()) is queues.Queue
    assert Queue(maxsize=1).full() is False
"""


def test_a_standard_child_of_a_program_whose_default_is_ours_starts(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(STANDARD_CHILD)
    assert run_python(str(program)).split() == ["hookpool", "hookpool"]


STANDARD_CHILD = """
import multiprocessing

def child(writer):
    writer.send(multiprocessing.get_start_method())

if __name__ == "__main__":
    import hookpool
    multiprocessing.set_start_method("hookpool")
    for method in ("spawn", "forkserver"):
        ctx = multiprocessing.get_context(method)
        reader, writer = ctx.Pipe(duplex=False)
        # A plain Process class of that method, in a program of ours: its child is told our name.
        process = ctx.Process(target=child, args=(writer,))
        process._start_method = None
        process.start()
        print(reader.recv())
        process.join()
"""


# --- isolation ---------------------------------------------------------------------------------


def test_standard_contexts_do_the_same_before_and_after_the_import(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(BEHAVIOUR)
    before = run_python(str(program), "plain")
    after = run_python(str(program), "hookpool")
    assert before == after


BEHAVIOUR = """
import sys, pickle
import multiprocessing as mp
from multiprocessing import connection, managers, pool, queues, reduction, synchronize

if sys.argv[1] == "hookpool" and __name__ == "__main__":
    import hookpool, hookpool.reduction, hookpool.managers, hookpool._primitives
    mp.get_context("hookpool").Pool(1).terminate()

def outcome(call, *args):
    try:
        result = call(*args)
    except BaseException as exc:
        return type(exc).__name__, str(exc).split(" at 0x")[0]
    return type(result).__module__, type(result).__qualname__

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        ctx = mp.get_context(method)
        print(method, ctx.get_start_method(), type(ctx).__qualname__)
        q, sq, (a, b) = ctx.Queue(), ctx.SimpleQueue(), ctx.Pipe()
        print([type(x).__module__ for x in (q, sq, a, ctx.Lock(), ctx.Process())])
        print(outcome(a.send, lambda: 1), outcome(sq.put, lambda: 1))
        if method != "fork":
            print(outcome(ctx.Process(target=lambda: 1).start))
        with ctx.Pool(1) as p:
            print(outcome(p.map, lambda x: x, [1]))
            print(p.map(abs, [-1]))
    print(outcome(reduction.ForkingPickler.dumps, lambda: 1))
    print(sorted(map(str, reduction.ForkingPickler._extra_reducers)))
    print(mp.get_all_start_methods(), sorted(managers.SyncManager._registry))
    print(sorted(name for name in vars(connection) if not name.startswith("__")))
"""


class Registered:
    value = "as it was"


def test_a_reducer_registered_at_any_time_is_honoured_by_both() -> None:
    reader, writer = ctx.Pipe()
    with reader, writer:
        writer.send(Registered())
        assert type(reader.recv()) is Registered
        reduction.ForkingPickler.register(Registered, lambda _: (str, ("reduced",)))
        try:
            writer.send(Registered())
            assert reader.recv() == "reduced"
            assert (
                reduction.pickle.loads(reduction.ForkingPickler.dumps(Registered())) == "reduced"
            )
        finally:
            del reduction.ForkingPickler._extra_reducers[Registered]


# --- others that take a context ----------------------------------------------------------------


def test_process_pool_executor_takes_tasks_by_reference_and_all_else_by_value() -> None:
    run_python("-c", EXECUTOR)


EXECUTOR = """
import hookpool, multiprocessing, operator, pickle
from concurrent.futures import ProcessPoolExecutor

ctx = multiprocessing.get_context("hookpool")
started = ctx.Event()
with ProcessPoolExecutor(1, mp_context=ctx, initializer=lambda: started.set()) as executor:
    # Its tasks go through a queue class of its own, over which no context has a say.
    try:
        executor.submit(lambda: 1).result(20)
    except (AttributeError, pickle.PicklingError):
        pass
    else:
        raise AssertionError("documented as not possible")
    assert executor.submit(operator.attrgetter("real"), 5).result(20) == 5
    make = executor.submit(eval, "lambda: 6").result(20)
    assert make() == 6
assert started.is_set()
"""


@pytest.mark.slow
def test_pytorch_loads_data_with_lambdas() -> None:
    pytest.importorskip("torch")
    assert run_python("-c", DATA_LOADER, timeout=100) == "[[0, 1], [4, 9]]\n"


DATA_LOADER = """
import hookpool, multiprocessing, torch
from torch.utils.data import DataLoader

class Squares(torch.utils.data.Dataset):
    def __init__(self, square):
        self.square = square
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.tensor([self.square(i)])

loader = DataLoader(
    Squares(lambda i: i * i),
    batch_size=2,
    num_workers=2,
    collate_fn=lambda items: torch.cat(items),
    worker_init_fn=lambda _: None,
    multiprocessing_context=multiprocessing.get_context("hookpool"),
)
print([batch.tolist() for batch in loader])
"""


BY_REFERENCE = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import hookpool

def double(x):
    return 2 * x

multiprocessing.set_start_method("hookpool")
os.dup2(1, 2)  # where the child says it
with ProcessPoolExecutor(1) as pool:
    try:
        pool.submit(double, 4).result()
    except BrokenProcessPool:
        pass
"""


def test_what_somebody_else_pickled_by_reference_is_missed_with_a_reason():
    said = run_python("-c", BY_REFERENCE)
    assert "Can't get attribute 'double' on <module '__main__' (empty in a process" in said
    assert "use HookPoolExecutor" in said
