"""The files of a `Parallel`'s arrays: no lock is held while they are written or removed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("joblib")

from hookpool import _arrays  # noqa: E402
from hookpool._arrays import Arrays  # noqa: E402
from tests.joblib_tracker import stop_tracker  # noqa: E402


@pytest.fixture
def arrays(tmp_path: Path) -> Iterator[Arrays]:
    arrays = Arrays(1000, "r", str(tmp_path))
    yield arrays
    arrays.close()
    stop_tracker()


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], Any]) -> None:
    """Have something happen after the file is written, or removed, and before that returns."""
    real = getattr(_arrays, name)

    def do(*args: Any) -> None:
        real(*args)
        act()

    monkeypatch.setattr(_arrays, name, do)


def files(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def test_a_release_does_not_wait_for_the_disk(arrays: Arrays, monkeypatch: pytest.MonkeyPatch):
    locked: list[bool] = []
    for name in ("_write", "_remove"):
        meanwhile(monkeypatch, name, lambda: locked.append(arrays._lock.locked()))
    x = np.ones(1000)
    arrays._reduce(x)
    held = arrays.take_held()
    del x
    arrays.release(held)
    arrays._reduce(np.ones(1000))
    arrays.forget()
    assert len(locked) >= 4
    assert not any(locked)


@pytest.mark.parametrize("name", ["forget", "close"])
def test_what_is_forgotten_while_it_is_written_travels_inline(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    x = np.arange(1000.0)
    with monkeypatch.context() as patch:
        meanwhile(patch, "_write", getattr(arrays, name))
        make, *_ = arrays._reduce(x)
    assert make is x.__reduce_ex__(pickle.HIGHEST_PROTOCOL)[0]
    assert not arrays.take_held()
    assert not arrays.has_mapped()
    assert files(tmp_path) == []
    arrays._reduce(x)  # the next time it is as ever
    assert len(files(tmp_path)) == 1
