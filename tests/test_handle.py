"""`put`: one object for all tasks of a pool."""

from __future__ import annotations

import contextlib
import copy
import gc
import multiprocessing
import operator
import os
import pickle
import signal
import sqlite3
from typing import Any

import pytest

import hookpool
from hookpool import _buffers, errors
from hookpool._buffers import Exchange, Lender, Parcel
from hookpool._definitions import Ledger
from hookpool._rebuild import loading
from hookpool._shelf import Shelf
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
    assert loading.require is None
    with pytest.raises(pickle.UnpicklingError, match="of the pool that made it"):
        hookpool.loads(hookpool.dumps([handle]))


def test_a_handle_in_a_pickle_of_the_users_own_is_not_taken_for_another():
    """The numbers of two pools mean different things; a pickle in a pickle is not looked into."""
    inside = hookpool.dumps(Ledger().put("one"))
    bare = Bare()

    class Box:
        def __reduce__(self) -> Any:
            return pickle.loads, (inside,)

    with pytest.raises(pickle.UnpicklingError, match="of the pool that made it"):
        bare.send([bare.ledger.put("another"), Box()])


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

    with pytest.raises(errors.CannotUnpickle, match="not in results"):
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
