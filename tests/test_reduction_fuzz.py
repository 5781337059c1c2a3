"""Programs made at random, each of whose objects is pickled by itself: see `random_programs`."""

from __future__ import annotations

import contextlib
import sys

import pytest

import hookpool
from hookpool import _reach, reduction
from tests.agree_child import Child, describe, observe
from tests.random_programs import program, run

FEW, MANY = range(30), range(30, 1000)


@pytest.mark.parametrize("seed", FEW)
def test_each_object_travels_by_itself(child: Child, seed: int) -> None:
    check(child, seed)


@pytest.mark.parametrize("seed", FEW)
def test_each_object_travels_by_itself_where_no_look_says_in_which_order(
    child: Child, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reach, "_MOST", 0)
    check(child, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_object_of_many_programs_travels_by_itself(child: Child) -> None:
    checked = sum(check(child, seed) for seed in MANY)
    assert checked > 5000


def check(child: Child, seed: int) -> int:
    """Pickle each object of a program; how many there are that can be used at home."""
    source, checked = program(seed), 0
    module = run(source, "fuzzed")
    for name in module.ROOTS if module is not None else ():
        here, there = run(source, "fuzzed"), run(source, "fuzzed")  # uses leave traces
        assert here is not None
        assert there is not None
        data = reduction.dumps((there.ROOTS[name], there.use))
        expected = observe(lambda: here.use(here.ROOTS[name]))  # noqa: B023 - called at once
        if expected[0] == "gave":  # or a class is not as the program thinks
            assert child.use(data) == expected, f"seed {seed}, {name}"
            checked += 1
    return checked


@pytest.mark.parametrize("seed", range(10))
def test_each_object_is_used_by_a_task(seed: int) -> None:
    """Classes are definitions of their own there, each with its copy of a closure's variables."""
    source = program(seed, counting=False)
    module = run(source, "fuzzed")
    with hookpool.HookPoolExecutor(1) as pool, contextlib.ExitStack() as undo:
        for at, name in enumerate(module.ROOTS if module is not None else ()):
            here, there = run(source, "fuzzed"), run(source, f"fuzzed_{seed}_{at}")
            assert here is not None
            assert there is not None
            sys.modules[there.__name__] = there  # with a namespace in the worker, as a main module
            undo.callback(sys.modules.pop, there.__name__)
            expected = observe(lambda: here.use(here.ROOTS[name]))  # noqa: B023 - called at once
            if expected[0] == "gave":
                got = pool.submit(there.use, there.ROOTS[name]).result()
                assert ("gave", describe(got)) == expected, f"seed {seed}, {name}"
