"""Run the interpreter's own pickle tests on another pickler: `agree_pickletester.py MODULE`.

MODULE offers `Pickler`, `dumps`, `dump`, `loads`, `load`. Only the classes of `test.test_pickle`
that exercise a pickler are taken; those about unpicklers, sizes and name tables are not ours.
Prints JSON: the number of tests run, and for each that did not pass, what it said.

Run in a process of its own, because `test.support` rearranges the process it is imported into.
"""

from __future__ import annotations

import _pickle
import contextlib
import importlib
import json
import pickle
import sys
import unittest
from typing import Any

from test import test_pickle  # type: ignore[attr-defined]

# The names under which test_pickle of 3.11 to 3.13 runs the C pickler, and how each is given one.
SWAPPED = {
    "CPickleTests": {},
    "InMemoryPickleTests": {},
    "CPicklerTests": {"unpickler": _pickle.Unpickler},
    "CPicklingErrorTests": {},
    "CDumpPickle_LoadPickle": {"unpickler": pickle._Unpickler},  # type: ignore[attr-defined]
    "CPersPicklerTests": {"unpickler": _pickle.Unpickler},
    "CIdPersPicklerTests": {"unpickler": _pickle.Unpickler},
    "CPicklerUnpicklerObjectTests": {"unpickler_class": _pickle.Unpickler},
    "CDispatchTableTests": {},
    "CChainDispatchTableTests": {},
    "CPicklerHookTests": {},
}


def swapped(name: str, module: Any) -> type[unittest.TestCase]:
    """The class `name` of test_pickle with the pickler of `module` in every place for one."""
    pickler = module.Pickler
    body = {"pickler": pickler, "pickler_class": pickler, **SWAPPED[name]}
    if name in {"CPickleTests", "InMemoryPickleTests"}:
        body["Pickler"] = pickler
        names = ("dump", "dumps", "load", "loads")
        body |= {part: staticmethod(getattr(module, part)) for part in names}
    if name == "CPicklerHookTests":
        hooks = test_pickle.AbstractCustomPicklerClass
        body["pickler_class"] = type("Hooked", (hooks, pickler), {})
    return type(name, (getattr(test_pickle, name),), body)


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    names = [name for name in SWAPPED if hasattr(test_pickle, name)]
    suite = unittest.TestSuite(load(swapped(name, module)) for name in names)
    result = unittest.TestResult()
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a failing test shows its pickle
        suite.run(result)
    failed: dict[str, str] = {}
    for test, text in result.failures + result.errors:
        # A subtest is told by its test: which parameters failed is for the person who looks.
        owner = getattr(test, "test_case", test)
        failed.setdefault(_short(owner.id()), text.strip().splitlines()[-1])
    skipped = sorted(_short(test.id()) for test, _ in result.skipped)
    json.dump({"ran": result.testsRun, "failed": failed, "skipped": skipped}, stdout)


def _short(name: str) -> str:
    return ".".join(name.split(".")[-2:])


if __name__ == "__main__":
    main()
