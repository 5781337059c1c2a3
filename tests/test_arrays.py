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
from hookpool._batch import backing_map, reduce_mapped  # noqa: E402
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


# -- maps of the user's own ----------------------------------------------------------------------

ITEMS = 3 * 4 * 5
KINDS = ["f8", ">i4", "c16", "?", "M8[s]", "S3", [("a", "i1"), ("b", "f8")]]
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda m: m,
    "transposed": lambda m: m.T,
    "axes in another order": lambda m: m.transpose(1, 2, 0),
    "a part": lambda m: m[1:],
    "a part of a part": lambda m: m[1:][1:],
    "a row": lambda m: m[1, 2],
    "one item": lambda m: m[1, 2, 3:4],
    "without dimensions": lambda m: m[1, 2, 3, ...],
    "with gaps": lambda m: m[::2, 1:, ::3],
    "a column": lambda m: m[:, 1, 2],
    "backwards": lambda m: m[::-1],
    "backwards inside": lambda m: m[:, ::-1],
    "backwards with gaps, transposed": lambda m: m[::-2, 1:, ::-3].T,
    "flat": lambda m: m.reshape(-1, order="A"),
    "flat and backwards": lambda m: m.reshape(-1, order="A")[::-1],
    "repeated": lambda m: np.broadcast_to(m[1, 2], (6, 5)),
    "read-only": lambda m: read_only(m[:, 1:]),
    "bytes": lambda m: m.reshape(-1, order="A").view("u1")[3:-1],
    "as an array": lambda m: np.asarray(m)[1:, ::-1],
    "as an array of items": lambda m: m.view(np.ndarray),
}


def read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def map_of(path: Path, kind: Any, order: Any = "C", mode: Any = "r+", offset: int = 24) -> Any:
    """A map of a new file, 24 bytes from its start; no two of its items are alike."""
    space = np.arange(ITEMS).astype("i8" if kind == "M8[s]" else "f8").astype(kind)
    path.write_bytes(bytes(offset) + space.tobytes())
    return np.memmap(path, kind, mode, offset, (3, 4, 5), order)


class Sent:
    """Pickled as it is told to."""

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def loaded(reduced: Any) -> Any:
    return pickle.loads(pickle.dumps(Sent(reduced), pickle.HIGHEST_PROTOCOL))


def over_there(array: Any) -> Any:
    return loaded(reduce_mapped(array, backing_map(array)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_view_of_a_map_is_that_view_of_the_file(tmp_path: Path, order: str, layout: str):
    for kind in KINDS:
        view = LAYOUTS[layout](map_of(tmp_path / "file", kind, order))

        there = over_there(view)

        assert backing_map(there) is not None
        assert (there.shape, there.dtype) == (view.shape, view.dtype), kind
        assert there.tobytes() == view.tobytes(), kind
        assert there.flags.writeable == view.flags.writeable, kind
        assert there.flags.f_contiguous == view.flags.f_contiguous, kind
        assert over_there(there).tobytes() == view.tobytes(), kind  # and on from there
        if there.flags.writeable:
            there[...] = view.flat[-1]
            assert view.tobytes() == there.tobytes(), kind  # the same file, not a copy


@pytest.mark.parametrize(("mode", "can_write"), [("r", False), ("r+", True), ("w+", True)])
@pytest.mark.parametrize("layout", ["whole", "backwards"])
def test_a_map_has_the_rights_of_its_owner(
    tmp_path: Path, mode: str, can_write: bool, layout: str
):
    mine = map_of(tmp_path / "file", "f8", mode=mode)
    if can_write:
        mine[:] = 3

    there = over_there(LAYOUTS[layout](mine))

    assert there.flags.writeable == can_write
    assert there.tobytes() == LAYOUTS[layout](mine).tobytes()
    assert (tmp_path / "file").stat().st_size == 24 + 8 * ITEMS


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)])
def test_what_has_no_items_is_sent(tmp_path: Path, shape: tuple[int, ...]):
    mine = map_of(tmp_path / "file", "f8")

    there = over_there(mine[:0].reshape(-1).reshape(shape))

    assert (there.shape, there.dtype) == (shape, mine.dtype)


def test_a_view_made_by_hand_that_leaves_its_map_is_sent(tmp_path: Path):
    mine = map_of(tmp_path / "file", "f8")
    outside = np.lib.stride_tricks.as_strided(mine[2, 3, 4:], (2,), (8,))
    assert backing_map(outside) is mine

    there = over_there(outside)

    assert backing_map(there) is None
    assert there.tolist() == outside.tolist()


@pytest.mark.parametrize("max_nbytes", [100, None])
@pytest.mark.parametrize("mode", ["r", None])
def test_what_was_written_to_a_private_map_is_in_what_is_sent(
    tmp_path: Path, max_nbytes: int | None, mode: str | None
):
    arrays = Arrays(max_nbytes, mode, str(tmp_path))
    mine = map_of(tmp_path / "file", "f8", mode="c")
    mine[:] = 7
    there = loaded(arrays._reduce(mine[::-1]))

    there[0] += 1  # it may be written to, as it could here

    assert there[0].tolist() == (mine[0] + 1).tolist()
    assert there[1:].tolist() == mine[1:].tolist()
    assert (mine == 7).all()
    del there
    arrays.close()
    stop_tracker()
