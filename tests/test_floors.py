"""The house rules that a machine can check: who may import whom, and how long things may get."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: From the top down; a module may import from any line below its own, and from no other. The
#: numbers are those of the design, whose floors some modules have been split out of since.
FLOORS = [
    ["__main__"],  # 6
    ["__init__"],  # the front door, which loads what is below when it is asked for
    ["joblib", "dask", "progress"],  # 5
    ["_arrays"],
    ["_batch"],
    ["executor"],  # 4
    ["_map", "_arguments"],
    ["_driver", "context"],  # 3
    ["_reader"],
    ["_desk"],
    ["_crew"],
    ["_task", "managers"],
    ["_worker", "_launch", "_primitives", "_pool"],  # 2
    ["_start"],
    ["_returned"],
    ["_repeats"],
    ["_definitions", "_shelf"],
    ["_noting"],
    ["_worker_pickler"],
    ["reduction", "_channel", "_forkserver", "_watch"],  # 1
    ["_plans", "_sharing"],
    ["_definition"],
    ["_addresses", "_phases", "_buffers"],
    ["_layouts"],
    ["_reach"],
    ["_functions", "_arena"],
    ["_objects", "_borrowed"],
    ["_containers", "_exceptions", "_sentinels", "_type_forms"],
    ["_classes", "_handle", "_link", "_rebuild_objects", "_ticket", "_wire"],
    ["_callables", "_nesting"],
    ["_scheduler", "errors", "_rebuild", "_code", "_importable", "_culprit", "_slots"],  # 0
    [
        "_annotations",
        "_claims",
        "_cures",
        "_ending",
        "_events",
        "_future",
        "_given",
        "_lifeline",
        "_limits",
        "_plain",
        "_poller",
        "_raw_classes",
        "_rebound",
        "_standing",
        "_submitted",
        "_cpus",
    ],
    ["_alarm", "_memory", "_met", "_raised", "_records", "_spin"],
    ["_streams"],
]
FLOOR = {name: len(FLOORS) - 1 - n for n, names in enumerate(FLOORS) for name in names}

#: Modules that decide and never act: all that they may import.
BUILDING_BLOCKS = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "heapq",
    "itertools",
    "typing",
}
PURE = {
    "_scheduler": BUILDING_BLOCKS,
    "_events": BUILDING_BLOCKS,
    "_slots": BUILDING_BLOCKS | {"contextlib"},
}

#: What these modules integrate with; nothing else from outside the standard library, anywhere.
FOREIGN = {
    "joblib": {"joblib"},
    "_arrays": {"joblib"},
    "dask": {"dask", "distributed"},
    "progress": {"tqdm"},
}

LONGEST_FUNCTION = 60
LONGEST_MODULE = 700
#: "module" or "module.function": why it may be longer. Remove an entry that is no longer needed.
LONG_FOR_A_REASON: dict[str, str] = {
    "_scheduler": "all policy in one place, next to the invariants it must keep",
}

#: Modules that are parts of another one and are tested through it: part -> tests/test_<whole>.py.
PARTS = {
    "_addresses": "reduction",
    "_annotations": "reduction",
    "_arena": "buffers",
    "_arguments": "executor",
    "_batch": "joblib",
    "_borrowed": "buffers",
    "_callables": "reduction",
    "_classes": "reduction",
    "_code": "reduction",
    "_containers": "reduction",
    "_cures": "culprit",
    "_definition": "definitions",
    "_desk": "driver",
    "_ending": "context",
    "_exceptions": "reduction",
    "_functions": "reduction",
    "_importable": "reduction",
    "_layouts": "reduction",
    "_link": "worker",
    "_met": "reduction",
    "_noting": "definitions",
    "_objects": "reduction",
    "_phases": "reduction",
    "_reach": "reduction",
    "_plans": "reduction",
    "_pool": "context",
    "_raw_classes": "reduction",
    "_reader": "driver",
    "_returned": "worker",
    "_rebuild_objects": "reduction",
    "_shelf": "definitions",
    "_standing": "launch",
    "_type_forms": "reduction",
    "_worker_pickler": "definitions",
}

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "hookpool"
MODULES = sorted(PACKAGE.glob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str | None, str | None]]:
    """(module of ours, None) or (None, foreign package) for each import anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                top, _, rest = name.name.partition(".")
                yield (rest or "__init__", None) if top == "hookpool" else (None, top)
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            if node.level or whole.partition(".")[0] == "hookpool":
                inner = whole.removeprefix("hookpool").lstrip(".")
                yield from ((inner.partition(".")[0] or name.name, None) for name in node.names)
            else:
                yield None, whole.partition(".")[0]


def wrong_imports(name: str, source: str) -> list[str]:
    """What this module, were its source this, would import against the floors."""
    wrong = []
    for ours, foreign in imports(ast.parse(source)):
        if ours is not None and FLOOR.get(ours, len(FLOORS)) >= FLOOR.get(name, 0):
            wrong.append(f"{name} (floor {FLOOR.get(name)}) imports {ours} ({FLOOR.get(ours)})")
        allowed = sys.stdlib_module_names | FOREIGN.get(name, set())
        if foreign is not None and foreign not in PURE.get(name, allowed):
            wrong.append(f"{name} imports {foreign}")
    return wrong


def long_things(name: str, source: str) -> dict[str, int]:
    """Each function and module over its limit, with its length in lines."""
    long = {}
    if (length := len(source.splitlines())) > LONGEST_MODULE:
        long[name] = length
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                long[f"{name}.{node.name}"] = length
    return long


def test_every_module_has_a_floor():
    assert {path.stem for path in MODULES} - {"__init__"} <= set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_only_go_down_and_only_to_the_standard_library(path: Path):
    if path.stem == "__init__":
        pytest.skip("the front door: test_packaging holds it to what it may load")
    assert not wrong_imports(path.stem, path.read_text())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_wire", "import hookpool.executor"),
        ("_wire", "from .reduction import dumps"),
        ("_wire", "from . import _driver"),
        ("_wire", "def f():\n    from hookpool.executor import HookPoolExecutor"),
        ("context", "from hookpool import _driver"),
        ("reduction", "import hookpool"),
        ("reduction", "import numpy"),
        ("executor", "from joblib import Parallel"),
        ("_scheduler", "import time"),
        ("_scheduler", "from threading import Lock"),
        ("_scheduler", "from hookpool import errors"),
    ],
)
def test_a_planted_violation_is_seen(module: str, source: str):
    assert wrong_imports(module, source)


def test_functions_and_modules_are_short_or_say_why_not():
    long: dict[str, int] = {}
    for path in MODULES:
        long |= long_things(path.stem, path.read_text())
    assert {name: n for name, n in long.items() if name not in LONG_FOR_A_REASON} == {}
    assert set(LONG_FOR_A_REASON) <= set(long), "no longer long: remove it from the list"


def test_a_planted_long_function_is_seen():
    body = "    pass\n" * LONGEST_FUNCTION
    assert long_things("m", f"def f():\n{body}") == {"m.f": LONGEST_FUNCTION + 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_has_its_test_file(path: Path):
    name = "exports" if path.stem == "__init__" else path.stem.strip("_")
    assert (TESTS / f"test_{PARTS.get(path.stem, name)}.py").is_file()
    assert path.stem not in PARTS or not (TESTS / f"test_{name}.py").exists(), "it has its own now"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_says_what_it_owns(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text()))
