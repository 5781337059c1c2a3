"""Pools of workers: how deep they go, and modules that use one when they are imported."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from hookpool import _nesting, errors
from tests.helpers import run_python


def run(folder: Path, program: str, **modules: str) -> tuple[str, int]:
    """What a program printed beside these modules; how many processes imported any of them."""
    for name, source in modules.items():
        head = f'import os; print(os.getpid(), file=open({str(folder / "pids")!r}, "a"))\n'
        (folder / f"{name}.py").write_text(head + textwrap.dedent(source))
    said = run_python("-c", textwrap.dedent(program), cwd=str(folder))
    return said, len(set((folder / "pids").read_text().split()))


TRY = """
try:
    import greedy
except Exception as error:
    while error is not None:
        print(error)
        error = error.__cause__
"""
TOLD = "module 'greedy' uses a pool when it is imported"


@pytest.mark.parametrize(
    "use",
    [
        "with HookPoolExecutor(1) as pool: list(pool.map(double, [1, 2]))",
        "with HookPoolExecutor(1) as pool: pool.submit(lambda: double(1)).result()",
        "with HookPoolExecutor(1, None, partial(double, 1)) as pool: pool.submit(abs, 1).result()",
    ],
    ids=["map", "global", "initializer"],
)
def test_workers_that_import_what_uses_a_pool_do_not_multiply(tmp_path: Path, use: str) -> None:
    source = f"""
        from functools import partial
        from hookpool import HookPoolExecutor
        def double(x): return 2 * x
        {use}
    """

    said, processes = run(tmp_path, TRY, greedy=source)

    assert TOLD in said
    assert processes <= 2


def test_nor_do_those_of_modules_that_use_each_other(tmp_path: Path) -> None:
    greedy = """
        from hookpool import HookPoolExecutor
        def task(x):
            import other
        with HookPoolExecutor(1) as pool: pool.submit(task, 1).result()
    """
    other = """
        from hookpool import HookPoolExecutor
        def task(x):
            import greedy
        with HookPoolExecutor(1) as pool: pool.submit(task, 1).result()
    """

    said, _ = run(tmp_path, TRY, greedy=greedy, other=other)

    assert "uses a pool when it is imported" in said


def test_a_module_may_make_a_pool_when_it_is_imported_and_use_it_later(tmp_path: Path) -> None:
    source = """
        from hookpool import HookPoolExecutor
        pool = HookPoolExecutor(1)
        def double(x): return 2 * x
        def doubled(items): return list(pool.map(double, items)), pool.submit(server).result()
        def server():
            from hookpool import _launch
            return _launch.server_pid()
    """

    said, processes = run(tmp_path, "import app; print(app.doubled([1, 2]))", app=source)

    assert (said.strip(), processes) == ("([2, 4], None)", 2)


def test_a_module_may_use_a_pool_when_it_is_imported_for_what_does_not_import_it(
    tmp_path: Path,
) -> None:
    source = """
        from hookpool import HookPoolExecutor
        def double(x): return 2 * x
        with HookPoolExecutor(1) as pool: SIZES = list(pool.map(len, ["a", "bc"]))
    """
    program = """
    import app
    from hookpool import HookPoolExecutor
    with HookPoolExecutor(1) as pool:
        print(list(pool.map(app.double, app.SIZES)))
    """

    said, processes = run(tmp_path, program, app=source)

    assert (said.strip(), processes) == ("[2, 4]", 2)


def test_pools_are_ten_deep_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nesting, "depth", _nesting.DEEPEST - 1)
    _nesting.check_depth()
    monkeypatch.setattr(_nesting, "depth", _nesting.DEEPEST)
    with pytest.raises(errors.NestedTooDeep, match="10 pools deep"):
        _nesting.check_depth()
