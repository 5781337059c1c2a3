"""`put`: one object for all tasks of a pool."""

from __future__ import annotations

import contextlib
import copy
import copyreg
import gc
import multiprocessing
import operator
import os
import pickle
import signal
import sqlite3
import sys
import types
from typing import Any

import pytest

import hookpool
from hookpool import _buffers, errors
from hookpool._buffers import Exchange, Lender, Parcel
from hookpool._definitions import Ledger
from hookpool._rebuild import handed, loading
from hookpool._shelf import Shelf
from hookpool.context import CONTEXT as ctx
from hookpool.executor import HookPoolExecutor
from tests.helpers import numbers
from tests.processes import wait_until, written

np = pytest.importorskip("numpy")

MB = 1 << 20


class Bare:
    """A shelf and a ledger without anything in between."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.shelf = Shelf()
        self.end = Exchange(None, Lender(0))  # both ends in one: nothing is lent

    def send(self, obj: Any) -> Any:
        packet = self.ledger.dump((obj,))
        for one in packet.needs:
            take = self.shelf.hand if one.is_for_each else self.shelf.define
            data = one.data
            if isinstance(data, Parcel):
                data = self.end.borrow(self.end.lend(data))
            take(one.number, data)
        return self.shelf.load(packet.data)[0]


# -- what arrives -------------------------------------------------------------------------------


def test_a_handle_arrives_as_the_object():
    bare = Bare()
    handle = bare.ledger.put({"a": [1, 2]})

    assert bare.send([handle, (handle,)]) == [{"a": [1, 2]}, ({"a": [1, 2]},)]


def test_one_task_gets_one_object_and_another_task_another():
    bare = Bare()
    handle = bare.ledger.put([1])

    first, again = bare.send([handle, handle])
    other = bare.send(handle)

    assert first is again
    assert first == other
    assert first is not other


def test_read_only_is_loaded_once():
    bare = Bare()
    handle = bare.ledger.put([1], read_only=True)

    assert bare.send(handle) is bare.send(handle)


def test_what_is_put_may_hold_classes_and_other_handles():
    bare = Bare()

    class Local:
        def __init__(self, part: Any) -> None:
            self.part = part

    arrived = bare.send(bare.ledger.put(Local(bare.ledger.put([1]))))

    assert type(arrived).__name__ == "Local"
    assert arrived.part == [1]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_handle_says_when_its_pool_is_closed(read_only: bool):
    with HookPoolExecutor(1) as pool:
        large = pool.put(bytearray(MB), read_only=read_only)
        small = pool.put([1], read_only=read_only)
        before = repr(large)
    size = before.split()[3]

    assert "gone" not in before
    assert repr(large) == f"<handle of bytearray: {size} bytes, gone: its pool is closed>"
    assert "gone: its pool is closed" in repr(small)


def test_a_handle_of_another_ledger_is_refused():
    handle = Ledger().put(1)

    with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
        Ledger().dump((handle,), {"args": (handle,)})


def test_a_handle_means_nothing_elsewhere():
    handle = Ledger().put(1)

    with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
        pickle.dumps(handle)
    with pytest.raises(errors.CannotPickle, match=r"object\[0\]: .* of the pool that made it"):
        hookpool.dumps([handle])
    with pytest.raises(errors.CannotPickle, match=r"object\.part: .* of the pool that made it"):
        hookpool.dumps(types.SimpleNamespace(part=handle), protocol=2)


def test_a_bare_number_is_no_handle():
    """What stands for handles where pickles are only tried is of no use to anybody."""
    assert loading.require is None
    for number in (0, 1):
        with pytest.raises(pickle.UnpicklingError, match="of the pool that made it"):
            handed(number)


def test_queues_and_pipes_refuse_it():
    handle = Ledger().put(1)
    reader, writer = ctx.Pipe(duplex=False)
    with contextlib.closing(reader), contextlib.closing(writer):
        with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
            writer.send([handle])
        assert not reader.poll()
    queue = ctx.SimpleQueue()
    with contextlib.closing(queue):
        with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
            queue.put([handle])
        assert queue.empty()


def test_a_child_is_not_started_with_it():
    process = ctx.Process(target=print, args=(Ledger().put(1),))
    with pytest.raises(pickle.PicklingError, match=r"args\[0\]: .* of the pool that made it"):
        process.start()


def test_a_pool_of_the_context_fails_the_task_and_not_the_worker():
    """To load it there would end the worker, and its task would never be done."""
    with ctx.Pool(1) as pool:
        with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
            pool.map_async(len, [Ledger().put([1])]).get(timeout=60)
        assert pool.apply_async(len, ([1, 2],)).get(timeout=60) == 2


def test_an_exception_whose_chain_holds_a_handle_arrives_with_its_chain():
    bare = Bare()
    error = ValueError("outer")
    error.__cause__ = KeyError("inner", bare.ledger.put([1]))

    assert bare.send(error).__cause__.args == ("inner", [1])


def test_a_pickle_in_a_pickle_takes_no_handle_along():
    """It would not be known that the task needs what was put."""
    bare = Bare()
    handle = bare.ledger.put("one")

    class Box:
        def __reduce__(self) -> Any:
            return pickle.loads, (hookpool.dumps(handle),)

    with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
        bare.send([handle, Box()])


def test_what_does_not_travel_beside_a_handle_is_still_named():
    ledger = Ledger()
    with contextlib.closing(sqlite3.connect(":memory:")) as base:
        args = (ledger.put(1), base)
        with pytest.raises(errors.CannotPickle, match=r"args\[1\]") as caught:
            ledger.dump(args, {"args": args})
    assert "handle" not in str(caught.value)


def test_copies_of_a_handle_are_the_handle():
    handle = Ledger().put([1])
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle


def test_a_handle_says_what_it_is():
    assert repr(Ledger().put([1])).startswith("<handle of list: ")
    assert "by its pipe" in repr(Ledger().put([1]))


def test_the_definition_goes_when_the_handle_does():
    ledger = Ledger()
    handle = ledger.put([1])
    packet = ledger.dump((handle,))
    number = handle.definition.number

    del handle
    assert number not in ledger.forgotten  # a task refers to it
    del packet
    assert number in ledger.forgotten


# -- through a pool -----------------------------------------------------------------------------


def test_it_is_sent_once_to_each_worker_and_copied_once(pool: HookPoolExecutor):
    x = numbers(8 * MB)
    handle = pool.put(x)

    sums = list(pool.map(lambda x, n: int(x[n]), [handle] * 200, range(200)))

    assert sums == list(range(200))
    if _buffers.CAN_LEND:
        assert "in shared memory" in repr(handle)
        assert pool._driver._lender.held < 2 * x.nbytes


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_no_byte_of_it_goes_through_a_pipe(pool: HookPoolExecutor):
    pool.submit(int).result()
    x = numbers(8 * MB)
    before = written()
    handle = pool.put(x)
    for n in range(20):
        pool.submit(lambda x: x[0], handle).result()
        pool.submit(lambda x, n=n: x[0], handle).result()
    assert written() - before < MB


def test_tasks_may_write_and_do_not_see_each_others_writes(pool: HookPoolExecutor):
    handle = pool.put(numbers())

    def spoil(x: Any, n: int) -> bool:
        clean = bool((x == np.arange(len(x))).all())
        x[:] = n
        return clean and bool((x == n).all())

    assert all(pool.map(spoil, [handle] * 30, range(30)))


def test_tasks_may_keep_it(pool: HookPoolExecutor):
    handle = pool.put(numbers())
    kept: list[Any] = []

    def keep(x: Any, n: int) -> bool:
        x[n] = -1
        kept.append((x[::2], x[::2].copy()))
        return all((a == b).all() for a, b in kept)

    assert all(pool.map(keep, [handle] * 30, range(30)))
    del handle
    assert all(pool.map(keep, [numbers()] * 30, range(30)))


def test_read_only_is_one_object_that_cannot_be_written_to(pool: HookPoolExecutor):
    handle = pool.put(numbers(), read_only=True)
    small = pool.put(np.arange(3), read_only=True)

    def look(x: Any, y: Any) -> tuple[bool, bool, int, int, int]:
        return x.flags.writeable, y.flags.writeable, id(x), os.getpid(), int(x[-1])

    seen = set(pool.map(look, [handle] * 20, [small] * 20))
    assert {(big, little, last) for big, little, *_, last in seen} == {
        (False, False, 4 * MB // 8 - 1)
    }
    assert len(seen) == len({pid for *_, pid, _ in seen})


def test_it_is_as_it_was_when_it_was_put(pool: HookPoolExecutor):
    x = numbers()
    handle = pool.put(x)
    x[:] = 0
    assert pool.submit(lambda x: int(x[-1]), handle).result() == len(x) - 1


def test_a_function_may_capture_it(pool: HookPoolExecutor):
    handle = pool.put(numbers())
    inside = {"here": handle}
    assert list(pool.map(lambda n: int(inside["here"][n]), range(5))) == list(range(5))


def test_what_a_function_captures_is_one_object_for_all_its_tasks_in_a_worker():
    with HookPoolExecutor(1) as pool:
        handle = pool.put(np.zeros(MB))

        def count() -> int:
            handle[0] += 1
            return int(handle[0])

        assert [pool.submit(count).result() for _ in range(3)] == [1, 2, 3]


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_what_a_function_captures_stays_as_long_as_the_function(pool: HookPoolExecutor):
    def with_captured(handle: Any) -> Any:
        return lambda: int(handle[-1])

    last = with_captured(pool.put(numbers(8 * MB)))
    assert pool.submit(last).result() == MB - 1
    assert pool.submit(abs, -1).result() == 1
    assert pool._driver._lender.held >= 8 * MB
    del last
    wait_until(lambda: not pool._driver._lender.held, timeout=20)


def test_a_function_that_was_put_has_the_globals_that_its_module_has_in_the_worker(
    monkeypatch: pytest.MonkeyPatch,
):
    module = types.ModuleType("made_for_this_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    space = module.__dict__
    exec("at = 1\ndef get(): return at\ndef another(): return at", space)
    with HookPoolExecutor(1) as pool:
        handle = pool.put(space["get"])
        call: Any = operator.call
        assert pool.submit(call, handle).result() == 1
        space["at"] = 2
        assert pool.submit(call, handle).result() == 1
        assert pool.submit(space["another"]).result() == 2
        assert pool.submit(call, handle).result() == 2


class Hands:
    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return type, (pickle.PickleBuffer(self.data),)


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_a_buffer_that_a_class_hands_over_is_a_view_where_it_was_large(pool: HookPoolExecutor):
    kinds = [
        pool.submit(lambda kind: kind.__name__, Hands(data)).result()
        for data in (bytes(10), bytearray(10), bytes(MB), bytearray(MB))
    ]
    assert kinds == ["bytes", "bytearray", "memoryview", "memoryview"]
    handle = pool.put(Hands(bytearray(10)), read_only=True)
    assert pool.submit(lambda kind: kind.__name__, handle).result() == "memoryview"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module whose functions go by value; it holds one and a class, which use its `table`."""
    module = types.ModuleType("module_with_a_table")
    exec(
        "def use(): return table[0]\n"
        "def add_one(): table[0] += 1; return table[0]\n"
        "class User:\n"
        "    def use(self): return table[0]\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("read_only", [False, True])
def test_a_global_that_becomes_another_handle_is_the_other_object(
    pool: HookPoolExecutor, module: Any, read_only: bool
):
    seen = []
    for n in range(3):
        module.table = pool.put([n], read_only=read_only)
        results = pool.submit(module.use), pool.submit(module.User().use)
        seen.append([result.result() for result in results])

    assert seen == [[0, 0], [1, 1], [2, 2]]


def test_a_container_that_gets_another_handle_holds_the_other_object(
    pool: HookPoolExecutor, module: Any
):
    module.table = table = [0]
    for n in range(3):
        table[0] = pool.put([n])
        assert pool.submit(module.use).result() == [n]


def test_a_global_that_stays_the_same_handle_stays_what_tasks_made_of_it(module: Any):
    with HookPoolExecutor(1) as pool:
        module.table = pool.put([0])
        assert [pool.submit(module.add_one).result() for _ in range(3)] == [1, 2, 3]


def test_in_keywords_partials_and_deep_inside(pool: HookPoolExecutor):
    from functools import partial

    handle = pool.put(numbers())
    assert pool.submit(lambda *, x: int(x[7]), x=handle).result() == 7
    assert pool.submit(partial(lambda x, n: int(x[n]), handle), 7).result() == 7
    assert pool.submit(lambda d: int(d["a"][0][7]), {"a": [handle]}).result() == 7


def test_replaced_workers_have_it_too(pool: HookPoolExecutor):
    handle = pool.put(numbers())
    for n in range(4):
        assert pool.submit(lambda x: int(x[-1]), handle).result() == 4 * MB // 8 - 1
        with pytest.raises(errors.WorkerDied):
            pool.submit(lambda x: os.kill(os.getpid(), signal.SIGKILL), handle).result()
        assert all(pool.map(lambda x, n: x[n] == n, [handle] * 5, range(5))), n


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_the_memory_goes_back_when_the_handle_dies(pool: HookPoolExecutor):
    handle = pool.put(numbers(8 * MB))
    pool.submit(lambda x: int(x[-1]), handle).result()
    assert pool._driver._lender.held
    del handle
    wait_until(lambda: not pool._driver._lender.held, timeout=20)


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_the_memory_goes_back_when_the_handle_was_never_used(pool: HookPoolExecutor):
    handle = pool.put(numbers(8 * MB))
    del handle
    wait_until(lambda: not pool._driver._lender.held, timeout=20)


@pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")
def test_the_memory_does_not_outlive_the_pool():
    with HookPoolExecutor(1) as pool:
        handle = pool.put(numbers(8 * MB))
        assert pool.submit(lambda x: int(x[7]), handle).result() == 7
    assert not pool._driver._lender.held
    del handle


def test_another_pool_refuses_it(pool: HookPoolExecutor):
    with HookPoolExecutor(1) as other:
        handle = other.put([1])
        with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
            pool.submit(len, handle).result()
    with pytest.raises(pickle.PicklingError, match="of the pool that made it"):
        pool.submit(len, handle).result()


def test_a_result_cannot_be_a_handle(pool: HookPoolExecutor):
    def nested() -> Any:
        from hookpool import HookPoolExecutor

        with HookPoolExecutor(1) as inner:
            return inner.put([1])

    with pytest.raises(errors.CannotPickle, match="not in results"):
        pool.submit(nested).result()


def test_a_pool_that_is_shut_down_takes_nothing():
    pool = HookPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.put([1])


def test_what_does_not_travel_is_refused_at_once(pool: HookPoolExecutor):
    base = sqlite3.connect(":memory:")
    with contextlib.closing(base), pytest.raises(pickle.PicklingError, match="sqlite3"):
        pool.put([base])
    assert pool.submit(len, pool.put([1])).result() == 1


ARRAYS = {
    "strided": np.arange(60_000.0)[::2],
    "columns of a table": np.arange(60_000.0).reshape(300, 200)[:, ::2],
    "transposed": np.arange(60_000).reshape(20, 30, 100).transpose(2, 0, 1),
    "dates": np.arange("2000-01-01", "2200-01-01", dtype="datetime64[D]"),
    "a date": np.array("2000-01-01", dtype="datetime64[s]"),
    "dates by column": np.asfortranarray(np.zeros((3, 400), "M8[s]")),
    "dates with gaps": np.zeros((300, 400), "M8[s]")[:, ::3],
    "durations": np.arange(30_000).astype("m8[ns]"),
    "records with dates": np.zeros(10_000, [("day", "M8[D]"), ("x", "f8")]),
    "from the other side": np.arange(30_000.0)[::-1],
    "one for many": np.broadcast_to(np.arange(100), (300, 100)),
    "large numbers first": np.arange(30_000, dtype=">i8")[::2],
    "words with gaps": np.array(["abc", "defg"] * 10_000)[::2],
    "bits": np.zeros(30_000, bool)[::3],
    "plain": np.arange(30_000.0),
    "fortran": np.asfortranarray(np.arange(60_000.0).reshape(300, 200)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_any_kind_is_read_only_if_that_was_said(name: str):
    array = ARRAYS[name]
    bare = Bare()
    arrived = bare.send(bare.ledger.put([array, array], read_only=True))

    assert arrived[0] is arrived[1]
    assert type(arrived[0]) is np.ndarray
    assert arrived[0].dtype == array.dtype
    assert arrived[0].shape == array.shape
    assert (arrived[0] == array).all()
    assert not arrived[0].flags.writeable
    assert arrived[0].flags.c_contiguous or array.flags.f_contiguous or array.ndim == 3


def test_what_an_array_arrives_as_is_numpys_own_business_if_it_may_be_written_to():
    bare = Bare()
    for array in ARRAYS.values():
        arrived = bare.send(bare.ledger.put(array))
        assert (arrived == array).all()
        assert arrived.flags.writeable


def test_objects_text_of_any_length_and_nothing_travel_read_only_as_they_always_do():
    bare = Bare()
    arrays = [np.array([None, {1: 2}]), np.zeros((0, 3), "M8[s]"), np.zeros((3, 0))]
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        arrays.append(np.array(["a", "b" * 100], dtype=np.dtypes.StringDType()))
    for array, arrived in zip(arrays, bare.send(bare.ledger.put(arrays, True)), strict=True):
        assert arrived.dtype == array.dtype
        assert arrived.tolist() == array.tolist()


def test_a_reducer_of_the_users_for_arrays_comes_first():
    def reduce(array: Any) -> Any:
        return list, (array.tolist(),)

    bare = Bare()
    bare.ledger = Ledger(None, {np.ndarray: reduce})
    assert bare.send(bare.ledger.put(np.arange(3)[::2], read_only=True)) == [0, 2]

    copyreg.pickle(np.ndarray, reduce)
    try:
        bare = Bare()
        assert bare.send(bare.ledger.put(np.arange(4)[::2], read_only=True)) == [0, 2]
    finally:
        del copyreg.dispatch_table[np.ndarray]


def test_a_task_cannot_change_what_the_next_one_reads(pool: HookPoolExecutor):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            "day": pandas.date_range("2000", periods=50_000, freq="s"),
            "lasts": pandas.to_timedelta(range(50_000), unit="s"),
            "x": np.arange(50_000.0),
        }
    )
    handle = pool.put({"table": table, "array": np.zeros((300, 400))[:, ::2]}, read_only=True)

    def write(all_of_it: Any, name: str) -> None:
        if name == "array":
            all_of_it["array"][0, 0] = 1
        else:
            all_of_it["table"][name].array._ndarray[0] = all_of_it["table"][name].array[1]

    for name in ("array", "day", "lasts"):
        with pytest.raises(ValueError, match="read-only"):
            pool.submit(write, handle, name).result()
    assert pool.submit(lambda one: one["table"], handle).result().equals(table)


@pytest.mark.parametrize("options", [{"shared_memory": 0}, {"shared_memory": MB}, {"large": 1}])
@pytest.mark.parametrize("read_only", [False, True])
def test_past_the_limit_it_goes_through_the_pipe(options: dict[str, int], read_only: bool):
    with HookPoolExecutor(2, **options) as pool:
        handle = pool.put(numbers(), read_only=read_only)
        assert ("by its pipe" in repr(handle)) == ("large" not in options)

        def spoil(x: Any, n: int) -> bool:
            clean = bool((x == np.arange(len(x))).all())
            if x.flags.writeable:
                x[:] = n
            return clean

        pool.submit(int).result()
        before = written()
        assert all(pool.map(spoil, [handle] * 10, range(10)))
        sent = written() - before
        # Once to each of the two workers at most.
        assert sent < MB if "large" in options else 4 * MB < sent < 9 * MB


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_with_the_standard_contexts_too(method: str):
    with HookPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        x = numbers()
        handle = pool.put(x)
        assert list(pool.map(operator.itemgetter(7), [handle] * 4)) == [7] * 4
        assert list(pool.map(lambda n: int(x[n]), range(9))) == list(range(9))
        assert list(pool.map(operator.getitem, [x] * 9, range(9))) == list(range(9))


def test_a_dropped_pool_is_not_kept_alive_by_a_handle():
    import weakref

    pool = HookPoolExecutor(1)
    handle = pool.put([1])
    assert pool.submit(len, handle).result() == 1
    ref, thread = weakref.ref(pool), pool._driver.thread
    del pool
    gc.collect()
    assert ref() is None
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    assert repr(handle)
