"""Other people's tests of picklers, run with ours in the place of theirs.

The interpreter's own `test.test_pickle`, cloudpickle's test files (`make agree` downloads them),
and loky, which lets its users name a pickler. What we fail on purpose is listed with the promise
that the test contradicts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import agree_cloudpickle, archives
from tests.helpers import ROOT, run_python

# --- the interpreter's tests -----------------------------------------------------------------

BY_VALUE = "a local class or function travels by value, where the test wants an error"
DESCRIPTOR = "static and class methods travel by themselves, where the test wants an error"


class Interpreter(NamedTuple):
    passed: int
    refused: dict[str, str]


def _everywhere(**refused: str) -> dict[str, str]:
    classes = ("CPicklerTests", "CDumpPickle_LoadPickle", "InMemoryPickleTests")
    return {f"{cls}.{test}": why for cls in classes for test, why in refused.items()}


METHODS = _everywhere(test_c_methods=DESCRIPTOR, test_py_methods=DESCRIPTOR)
LOOKUP = _everywhere(test_local_lookup_error=BY_VALUE)
INTERPRETERS = {
    (3, 11): Interpreter(passed=392, refused=LOOKUP | METHODS),
    (3, 12): Interpreter(passed=386, refused=LOOKUP | METHODS),
    (3, 13): Interpreter(
        passed=437,
        refused=METHODS
        | {
            "CPicklingErrorTests.test_local_lookup_error": BY_VALUE,
            "CPicklingErrorTests.test_unpickleable_newobj_class": BY_VALUE,
            "CPicklingErrorTests.test_unpickleable_newobj_ex_class": BY_VALUE,
        },
    ),
}


@pytest.mark.smoke
def test_the_interpreters_own_tests_pass_but_for_what_we_promise_otherwise() -> None:
    expected = INTERPRETERS.get(sys.version_info[:2])
    if expected is None:
        pytest.skip("not counted on this version yet")
    pytest.importorskip("test.test_pickle")  # some distributions leave Python's tests out
    runner = str(Path(__file__).with_name("agree_pickletester.py"))
    report = json.loads(run_python(runner, "hookpool.reduction"))
    failed = report["failed"]
    assert {name: failed[name] for name in failed if name not in expected.refused} == {}
    assert set(failed) == set(expected.refused), "passes now: remove it from the list"
    assert report["ran"] - len(report["skipped"]) - len(failed) == expected.passed


# --- cloudpickle's tests ---------------------------------------------------------------------

INTERNAL = "calls a private function of cloudpickle's"
WORDS = "wants the words of one of cloudpickle's error messages"
LEFT_OUT = {
    "test_extract_class_dict": INTERNAL,
    "test_cell_manipulation": INTERNAL,
    "test_cloudpickle_extract_nested_globals": INTERNAL,
    "test_module_importability": INTERNAL,
    "test_non_module_object_passing_whichmodule_test": INTERNAL,
    "test_lookup_module_and_qualname_dynamic_typevar": INTERNAL,
    "test_lookup_module_and_qualname_importable_typevar": INTERNAL,
    "test_lookup_module_and_qualname_stdlib_typevar": INTERNAL,
    "test_register_pickle_by_value": WORDS,
    "test_closed_file": WORDS,
    "test_interactive_remote_function_calls_no_side_effect": (
        "calls a method twice and wants the second call to know nothing of the first; a class met "
        "again is not reset here, and neither is what its methods have written"
    ),
}


@pytest.mark.agree
def test_cloudpickles_own_tests_pass(tmp_path: Path) -> None:
    try:
        outcomes = agree_cloudpickle.run(tmp_path, "hookpool.reduction")
    except archives.NotToBeHadError as error:
        pytest.skip(f"cloudpickle's source archive cannot be had: {error}")
    failed = {name: said for name, said in outcomes.items() if said is not None}
    surprises = {name: said for name, said in failed.items() if _plain(name) not in LEFT_OUT}
    assert surprises == {}
    assert set(map(_plain, failed)) == set(LEFT_OUT), "passes now: remove it from the list"
    assert len(outcomes) - len(failed) > 220, "most were skipped: the run proves little"


def _plain(name: str) -> str:
    """The test's own name: the classes only repeat it for other protocols."""
    return name.rpartition(".")[2].partition("[")[0]


# --- loky ------------------------------------------------------------------------------------

LOKY = """
from loky import get_reusable_executor
from loky.backend.reduction import get_loky_pickler_name

class Model:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, x):
        return Model(self.factor * x)

def main():
    assert get_loky_pickler_name() == "hookpool.reduction", get_loky_pickler_name()
    executor = get_reusable_executor(max_workers=2)
    try:
        n = 3
        assert list(executor.map(lambda x: x * n, range(5))) == [0, 3, 6, 9, 12]
        # A result by value: loky's worker must use our pickler, too.
        assert executor.submit(lambda: get_loky_pickler_name()).result() == "hookpool.reduction"
        add = executor.submit(lambda: lambda x: x + n).result()
        assert add(1) == 4
        made = executor.submit(Model(2), 5).result()
        assert type(made) is Model, type(made)
        assert made.factor == 10
    finally:
        executor.shutdown(wait=True)
    print("carried")

main()
"""


@pytest.mark.parametrize("chosen", ["environment", "call"])
def test_loky_runs_on_our_pickler(tmp_path: Path, chosen: str) -> None:
    pytest.importorskip("loky")
    program = tmp_path / "program.py"
    choice = "from loky import set_loky_pickler\nset_loky_pickler('hookpool.reduction')\n"
    program.write_text(LOKY if chosen == "environment" else choice + LOKY)
    env = {"LOKY_PICKLER": "hookpool.reduction" if chosen == "environment" else "cloudpickle"}
    out = run_python(str(program), env=env | {"PYTHONPATH": str(ROOT)})
    assert out == "carried\n"
