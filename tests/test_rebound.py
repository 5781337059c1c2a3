"""`_rebound`: other globals for a function, without anybody else noticing."""

from __future__ import annotations

import multiprocessing.queues
import threading
import types

import pytest

from hookpool._rebound import Overlay, rebound


def double(number: int, *, times: int = 2) -> int:
    """Its docstring."""
    return helper(number) * times  # type: ignore[name-defined, no-any-return]  # noqa: F821


def test_a_copy_finds_other_globals_and_keeps_all_else() -> None:
    copy = rebound(double, helper=lambda number: number + 1)
    assert copy(3) == 8
    assert copy(3, times=1) == 4
    assert (copy.__name__, copy.__doc__) == (double.__name__, double.__doc__)


def test_the_original_is_as_before() -> None:
    rebound(double, helper=abs)
    with pytest.raises(NameError):
        double(3)


def test_globals_not_named_are_the_modules_own() -> None:
    copy = rebound(multiprocessing.queues.Queue._reset, collections=None)
    assert copy.__globals__["threading"] is threading
    assert multiprocessing.queues.collections is not None  # type: ignore[attr-defined]


def test_an_overlay_is_the_module_with_some_names_replaced() -> None:
    module = types.ModuleType("shop")
    module.price, module.name = 5, "shop"  # type: ignore[attr-defined]
    overlay = Overlay(module, price=6)
    assert (overlay.price, overlay.name) == (6, "shop")
    with pytest.raises(AttributeError):
        overlay.missing  # noqa: B018
