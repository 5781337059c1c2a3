"""`import hookpool`: what it offers, and how little it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hookpool
from hookpool import errors
from tests.helpers import ROOT, run_python


def test_every_public_name_is_there() -> None:
    for name in hookpool.__all__:
        assert getattr(hookpool, name) is not None
    assert set(hookpool.__all__) <= set(dir(hookpool))


def test_every_error_is_a_public_name() -> None:
    assert set(errors.__all__) <= set(hookpool.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hookpool' has no attribute 'HookPool'"):
        hookpool.HookPool  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert hookpool.__version__ == version("hookpool")


def test_import_registers_the_start_method() -> None:
    run_python("-c", REGISTERED)


REGISTERED = """
import hookpool, multiprocessing
assert multiprocessing.get_start_method(allow_none=True) is None
ctx = multiprocessing.get_context("hookpool")
assert ctx.get_start_method() == "hookpool"
assert multiprocessing.get_start_method(allow_none=True) is None
multiprocessing.set_start_method("hookpool")
assert multiprocessing.get_context() is ctx
"""


def test_import_loads_only_the_context() -> None:
    source = (
        "import sys, hookpool\n"
        "print(*sorted(name for name in sys.modules if name.startswith('hookpool')))"
    )
    assert run_python("-c", source).split() == ["hookpool", "hookpool.context"]


def test_the_engine_is_imported_while_the_fork_server_starts() -> None:
    """What an executor's first result waits for is done at the same time, on two CPUs."""
    source = """
import sys
from hookpool import HookPoolExecutor
light = {"context", "executor", "_arguments", "_cpus", "_nesting", "_plain"}
found = {name.partition(".")[2] for name in sys.modules if name.startswith("hookpool.")}
assert found == light, found
sys.modules["hookpool._driver"] = None  # as soon as that is asked for, the constructor fails
try:
    HookPoolExecutor(1)
except ImportError:
    pass
from hookpool import _launch
assert _launch.server_pid() is not None
"""
    run_python("-c", source)


@pytest.mark.parametrize("module", ["hookpool", "hookpool.executor"])
def test_import_starts_nothing(module: str) -> None:
    source = f"""
import os, threading
before = set(os.listdir("/proc/self/fd"))
import {module}
assert set(os.listdir("/proc/self/fd")) == before
assert threading.active_count() == 1
children = "/proc/self/task/%d/children" % os.getpid()
assert not os.path.exists(children) or not open(children).read()
"""
    run_python("-c", source)


def test_typing_names_and_lazy_names_agree() -> None:
    """What type checkers see is what `__getattr__` gives; the imports are never run."""
    source = Path(hookpool.__file__).read_text()
    seen: dict[str, object] = {"__name__": "hookpool"}
    exec(source.replace("TYPE_CHECKING = False", "TYPE_CHECKING = True", 1), seen)
    assert set(hookpool.__all__) - set(seen) == set()
    assert seen["TYPE_CHECKING"] is True


def test_what_stands_in_for_loky_in_its_own_tests_finds_what_it_takes():
    """Those run in `make agree` only."""
    standin = ROOT / "tests" / "standin"
    modules = sorted(
        ".".join(path.relative_to(standin).with_suffix("").parts)
        for path in standin.rglob("*.py")
        if path.name
        != "loky_tests_plugin.py"  # a plugin of pytest, which it needs to be loaded by
    )
    path = os.pathsep.join(map(str, (standin, ROOT)))
    run_python("-c", f"import {', '.join(modules)}", env={"PYTHONPATH": path})
