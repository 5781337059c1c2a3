"""Puts our backend in loky's place in every interpreter that finds this on its path.

Joblib's tests name "loky" in their sources, in scripts they start and in what runs in workers. So
the name is given to our backend as soon as `joblib.parallel` is imported anywhere, and not before:
some tests are about importing joblib.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any


class _Exchange(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads two modules as everybody does; when both are there, exchanges a class for another."""

    def __init__(self) -> None:
        self._loaders: dict[str, Any] = {"joblib.parallel": None, "hookpool.joblib": None}
        self._awaited = set(self._loaders)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname not in self._loaders:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            self._loaders[fullname] = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._loaders[module.__name__].exec_module(module)
        self._awaited.discard(module.__name__)
        if not self._awaited:
            _exchange(sys.modules["hookpool.joblib"].HookPoolBackend)
        elif module.__name__ == "joblib.parallel" and module.mp is not None:
            # With JOBLIB_MULTIPROCESSING=0 there is no loky either.
            importlib.import_module("hookpool.joblib")


def _exchange(backend: type) -> None:
    # A class of that name, since one test compares names.
    ours = type("LokyBackend", (backend,), {})
    sys.modules["joblib.parallel"].BACKENDS["loky"] = ours
    # What tests compare types with; `joblib.parallel` keeps its own, which decides how loky's
    # private parts are handled.
    sys.modules["joblib._parallel_backends"].LokyBackend = ours  # type: ignore[attr-defined]


sys.meta_path.insert(0, _Exchange())
