"""What the calls of one map have in common is sent once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from hookpool import _buffers
from hookpool._definitions import Ledger
from hookpool._handle import Handle
from hookpool._repeats import Repeats, repeats_in
from hookpool.executor import HookPoolExecutor
from tests.helpers import no_collections, numbers
from tests.processes import wait_until, written

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20


# -- what is noted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iterables", "is_inert"),
    [
        (([1], (2,), range(3)), True),
        ((itertools.repeat(1), "abc"), True),
        (([1], iter([1])), False),
        (((n for n in range(3)),), False),
        ((np.arange(3),), False),
    ],
)
def test_only_of_what_runs_no_code_it_is_known(iterables: Any, is_inert: bool):
    assert (repeats_in(Ledger(), iterables) is not None) == is_inert


class Counted:
    """Counts how often it is pickled."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.times = 0

    def __reduce__(self) -> Any:
        self.times += 1
        return Counted, (self.data,)


@pytest.mark.parametrize(
    ("obj", "times"), [(Counted(bytes(MB)), 1), (Counted(b"few"), 4)], ids=["large", "small"]
)
def test_what_is_large_is_pickled_once(obj: Counted, times: int):
    repeats = Repeats(Ledger(_buffers.Lender()))
    rows = [(obj, n) for n in range(3)]
    repeats.note(rows)
    repeats.note(rows)
    for row in rows:
        repeats.dump(None, row)
    assert obj.times == times


@pytest.mark.parametrize("obj", [1, None, "short", [1, 2], (1, "a"), {}, np.arange(3)])
def test_what_is_not_large_is_left_alone(obj: Any):
    repeats = Repeats(Ledger(_buffers.Lender()))
    repeats.note([(obj,), (obj,)])
    assert not repeats.handles


@pytest.mark.parametrize(
    "obj", [[0] * 100_000, {1: bytes(MB)}, bytearray(MB), bytes(MB), "a" * MB]
)
def test_whatever_is_large_has_a_handle(obj: Any):
    ledger = Ledger(_buffers.Lender())
    repeats = Repeats(ledger)
    repeats.note([(obj,), (obj,)])
    assert list(repeats.handles) == [id(obj)]


def test_what_cannot_be_put_fails_where_it_is_used():
    repeats = Repeats(Ledger(_buffers.Lender()))
    bad = Counted(lambda: (yield))
    bad.data = (n for n in range(3))
    repeats.note([(bad,), (bad,)])
    with pytest.raises(TypeError, match="generator"):
        repeats.dump(None, (bad,))


def test_it_stands_for_the_object_where_nothing_else_refers_to_anything():
    ledger = Ledger(_buffers.Lender())
    repeats, x, y = Repeats(ledger), numbers(), numbers()
    repeats.note([(x, y), (x, y)])
    sizes = [
        len(repeats.dump(None, args).data) for args in [(x, 1, "a"), (x, x), (x, y), (x, [x])]
    ]
    assert [size < 1000 for size in sizes] == [True, True, False, False]
    assert len(repeats.dump(None, (x, 1)).needs) == 1
    assert {type(handle) for handle in repeats.handles.values()} == {Handle}


# -- through a pool -----------------------------------------------------------------------------


def held(pool: HookPoolExecutor) -> int:
    return pool._driver._lender.held


REPEATED = {
    "repeat": lambda x: itertools.repeat(x, 50),
    "list": lambda x: [x] * 50,
    "tuple": lambda x: (x,) * 50,
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_repeated_argument_is_copied_once(pool: HookPoolExecutor, name: str):
    x = numbers(8 * MB)
    got = list(pool.map(lambda x, n: int(x[n]), REPEATED[name](x), range(50)))
    assert got == list(range(50))
    assert held(pool) <= x.nbytes + MB


def test_tasks_do_not_see_each_others_writes(pool: HookPoolExecutor):
    x = numbers()

    def spoil(x: Any, n: int) -> bool:
        clean = bool((x == np.arange(len(x))).all())
        x[:] = n
        return clean

    assert all(pool.map(spoil, [x] * 40, range(40)))
    assert (x == numbers()).all()


def test_one_task_gets_one_object(pool: HookPoolExecutor):
    class Node:
        def __init__(self) -> None:
            self.data = numbers()
            self.item = [self]

    node = Node()
    checks = pool.map(
        lambda node, other, n: node is other and node.item[0] is node,
        *([[node] * 9] * 2),
        range(9),
    )
    assert all(checks)


def test_what_two_arguments_have_in_common_is_one_object(pool: HookPoolExecutor):
    class Model:
        def __init__(self) -> None:
            self.data = numbers()

        def is_of(self, data: Any) -> bool:
            return self.data is data

    model = Model()
    assert all(pool.map(lambda one, data: one.data is data, [model] * 4, [model.data] * 4))
    assert all(pool.map(model.is_of, [model.data] * 4))
    assert all(pool.map(partial(lambda one, data: one.data is data, model), [model.data] * 4))


def test_a_map_that_nobody_looks_at_keeps_nothing(pool: HookPoolExecutor):
    with no_collections():
        results = pool.map(lambda x, n: n, [numbers(8 * MB)] * 9, range(9))
        del results
        wait_until(lambda: held(pool) < 8 * MB)


@pytest.mark.parametrize("buffersize", [None, 1])
def test_a_generator_that_fills_one_array_again_and_again(
    pool: HookPoolExecutor, buffersize: int | None
):
    x = numbers()

    def fill() -> Iterator[Any]:
        for n in range(40):
            x[:] = n
            yield x

    got = list(pool.map(lambda x: (int(x.min()), int(x.max())), fill(), buffersize=buffersize))
    assert got == [(n, n) for n in range(40)]


def test_a_list_that_is_taken_from_step_by_step_while_items_change(pool: HookPoolExecutor):
    x = numbers()
    results = pool.map(lambda x: int(x[0]), [x] * 40, buffersize=2)
    seen = []
    for n in range(40):
        seen.append(next(results))
        x[0] = n + 1
    assert seen[:2] == [0, 0]
    # Two were taken at first, and then one more for each result, before that is seen.
    assert seen == [0, 0, 0, *range(1, 38)]


@pytest.mark.parametrize("kind", ["partial", "method", "callable"])
def test_a_function_that_carries_data_is_sent_once(pool: HookPoolExecutor, kind: str):
    class Model:
        def __init__(self) -> None:
            self.weights = numbers(8 * MB)

        def at(self, n: int) -> int:
            return int(self.weights[n])

        __call__ = at

    model = Model()
    fn = {"partial": partial(Model.at, model), "method": model.at, "callable": model}[kind]
    assert list(pool.map(fn, range(50))) == list(range(50))
    assert held(pool) <= model.weights.nbytes + MB


def test_large_bytes_too(pool: HookPoolExecutor):
    x = bytes(range(256)) * 8 * 4096
    assert list(pool.map(lambda x, n: x[n], [x] * 20, range(20))) == list(range(20))
    assert held(pool) <= len(x) + MB


def test_the_memory_goes_back_after_the_map(pool: HookPoolExecutor):
    x = numbers(8 * MB)
    assert list(pool.map(lambda x, n: int(x[n]), [x] * 9, range(9))) == list(range(9))
    wait_until(lambda: not held(pool), timeout=20)


def test_past_the_limit_it_goes_through_the_pipe_once():
    x = numbers(8 * MB)
    with HookPoolExecutor(2, shared_memory=MB) as pool:
        pool.submit(int).result()
        before = written()
        assert list(pool.map(lambda x, n: int(x[n]), [x] * 20, range(20))) == list(range(20))
        # To each of the two workers at most.
        assert x.nbytes < written() - before < 2 * x.nbytes + MB
