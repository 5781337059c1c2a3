"""Large data that functions capture, and originals whose copies are found again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookpool import _buffers, errors
from hookpool._buffers import SHARED, Lender
from hookpool._definitions import Ledger
from hookpool._sharing import Copies, digest
from hookpool.executor import HookPoolExecutor
from tests.helpers import numbers
from tests.processes import run_python, wait_until, written

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20


@pytest.fixture
def lender() -> Iterator[Lender]:
    lender = Lender()
    yield lender
    lender.close()


def shared(copies: Copies, *arrays: Any) -> Any:
    import pickle

    sharing = copies.sharing(SHARED, 1)
    return sharing.parcel([b"pickle"], [pickle.PickleBuffer(one) for one in arrays])


# -- originals and copies -----------------------------------------------------------------------


def test_what_has_not_changed_is_not_copied_again(lender: Lender):
    copies, x = Copies(lender), numbers()
    first = shared(copies, x)
    again = shared(copies, x)
    assert again.slot(1) is first.slot(1)
    assert again.is_like(first)


def test_what_has_changed_is_copied_again_whatever_place_it_is_at(lender: Lender):
    copies, x = Copies(lender), numbers()
    first = shared(copies, x)
    x[-1] += 1
    again = shared(copies, x)
    assert again.slot(1) is not first.slot(1)
    assert not again.is_like(first)
    assert first.view(1)[-8:] != again.view(1)[-8:]


def test_a_copy_that_is_gone_is_not_found(lender: Lender):
    copies, x = Copies(lender), numbers()
    first = shared(copies, x)
    del first
    other = shared(copies, numbers() + 1)  # in the memory of the first
    again = shared(copies, x)
    assert bytes(again.view(1)) == x.tobytes()
    assert other.slot(1) is not again.slot(1)


def test_the_same_array_twice_in_one_object_is_copied_once(lender: Lender):
    x = numbers()
    parcel = shared(Copies(lender), x, x)
    assert parcel.slot(1) is not None
    assert parcel.slot(1) is parcel.slot(2)


@pytest.mark.parametrize("turn", [np.asarray, np.asfortranarray], ids=["C", "Fortran"])
def test_a_digest_changes_with_the_content(lender: Lender, turn: Any):
    import pickle

    copies, x = Copies(lender), turn(np.ones((100, 200)))

    def seen() -> bytes:
        buffers: list[pickle.PickleBuffer] = []
        pickle.dumps(x, 5, buffer_callback=buffers.append)
        [buffer] = buffers
        sharing = copies.sharing(SHARED, 1)
        made = sharing.digest(buffer)
        kept.append(sharing.parcel([b""], buffers))
        return made

    kept: list[Any] = []
    first = seen()
    assert seen() == first == digest(memoryview(x.T if turn is np.asfortranarray else x).cast("B"))
    assert kept[0].slot(1) is kept[1].slot(1)
    x[5, 7] = 2
    assert seen() != first


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=30))
def test_a_copy_is_always_what_the_original_was(steps: list[tuple[int, int]]):
    lender = Lender(threshold=1)
    copies = Copies(lender)
    arrays = [np.zeros(3 + n, dtype=np.uint8) for n in range(4)]
    made = []
    for which, value in steps:
        arrays[which][value % len(arrays[which])] = value
        parcel = shared(copies, arrays[which])
        made.append((parcel, arrays[which].tobytes()))
        if value % 5 == 0:
            made.pop(0)
    assert all(bytes(parcel.view(1)) == content for parcel, content in made)
    lender.close()


def test_definitions_of_equal_content_are_one():
    ledger, x = Ledger(Lender()), numbers()

    def fn() -> Any:
        return x

    first = ledger.call(fn)
    assert ledger.call(fn) is first
    x[0] = 7
    assert ledger.call(fn) is not first


# -- through a pool -----------------------------------------------------------------------------


def test_what_a_closure_captures_is_copied_once_and_sent_to_nobody(pool: HookPoolExecutor):
    pool.submit(int).result()
    x = numbers(8 * MB)
    before = written()

    def at(n: int) -> int:
        return int(x[n])

    assert list(pool.map(at, range(50))) == list(range(50))
    assert [pool.submit(at, n).result() for n in range(5)] == list(range(5))
    assert list(pool.map(lambda n: int(x[n]), range(50))) == list(range(50))
    assert written() - before < MB
    assert pool._driver._lender.held < 2 * x.nbytes


def test_a_change_of_what_is_captured_is_seen(pool: HookPoolExecutor):
    x = numbers()

    def ends() -> tuple[int, int]:
        return int(x[0]), int(x[-1])

    for n in range(5):
        x[:] = n
        assert list(pool.map(lambda _: ends(), range(4))) == [(n, n)] * 4
        assert pool.submit(ends).result() == (n, n)


def test_a_global_that_is_large_is_sent_when_it_changes_and_not_else():
    out = run_python(
        "-c",
        """if True:
        import numpy as np
        from hookpool import HookPoolExecutor
        def written():
            return int(open("/proc/self/io").read().split()[3])
        x = np.arange(1 << 20)
        table = {"frame": x[::-1].copy()}
        with HookPoolExecutor(2) as pool:
            pool.submit(int).result()
            before = written()
            print(sum(pool.map(lambda n: int(x[n] + table["frame"][n]), range(20))))
            x[:] = 1
            print(sum(pool.map(lambda n: int(x[n]), range(20))))
            def spoil(n):
                x[:] = 5
            list(pool.map(spoil, range(20)))
            print(sum(pool.map(lambda n: int(x[n]), range(20))))
            print(written() - before < 1 << 20)
        """,
    )
    # What a worker did to its own copy stays there: as with any other global that was not sent
    # again since.
    assert out.split() == [str(20 * ((1 << 20) - 1)), "20", "100", "True"]


def test_workers_do_not_see_what_another_one_wrote(pool: HookPoolExecutor):
    x = numbers()
    meet = pool.put(None)  # only to have both workers know something before

    def spoil(n: int, _: Any) -> tuple[int, int]:
        before = int(x[0])
        x[0] = os.getpid()
        return os.getpid(), before

    seen = list(pool.map(spoil, range(40), [meet] * 40))
    assert all(before in (0, pid) for pid, before in seen)
    assert x[0] == 0


def test_replaced_workers_have_it_too(pool: HookPoolExecutor):
    x = numbers()

    def work(n: int) -> int:
        if n < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(x[n])

    for n in range(4):
        assert list(pool.map(work, range(10))) == list(range(10))
        with pytest.raises(errors.WorkerDied):
            pool.submit(work, -1 - n).result()


def test_the_memory_goes_back_when_the_function_dies(pool: HookPoolExecutor):
    x = numbers(8 * MB)
    fn = lambda n: int(x[n])
    assert list(pool.map(fn, range(5))) == list(range(5))
    assert pool._driver._lender.held
    del fn
    wait_until(lambda: not pool._driver._lender.held, timeout=20)


def test_a_class_may_have_a_large_attribute(pool: HookPoolExecutor):
    class Table:
        data = numbers()

    assert pool.submit(lambda: int(Table.data[-1])).result() == 4 * MB // 8 - 1
    assert pool.submit(lambda t: int(t.data[-1]), Table()).result() == 4 * MB // 8 - 1


@pytest.mark.parametrize("limit", [0, MB])
def test_past_the_limit_it_goes_through_the_pipe(limit: int):
    x = numbers()
    with HookPoolExecutor(2, shared_memory=limit) as pool:

        def at(n: int) -> int:
            return int(x[n])

        assert list(pool.map(at, range(10))) == list(range(10))
        x[:] = 3
        assert list(pool.map(at, range(10))) == [3] * 10
