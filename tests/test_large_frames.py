"""Large data of other libraries: frames, Arrow tables, tensors, whatever exports its memory.

pandas comes with the tests; pyarrow and torch are used where they are installed
(`pip install pyarrow torch`): they are too large to be asked for.
"""

from __future__ import annotations

import array
import importlib.util
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from hookpool import _buffers
from hookpool.executor import HookPoolExecutor
from tests.helpers import run_python

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20


@pytest.fixture(scope="module")
def pool() -> Iterator[HookPoolExecutor]:
    with HookPoolExecutor(2) as pool:
        pool.submit(int).result()
        yield pool


def written() -> int:
    """Bytes that this process has written so far, to pipes or whatever."""
    with open("/proc/self/io") as io:
        return int(io.read().split()[3])


def read() -> int:
    with open("/proc/self/io") as io:
        return int(io.read().split()[1])


def ways(pool: HookPoolExecutor, obj: Any) -> Iterator[Any]:
    """What comes back of it: as an argument, put, captured, in common, and twice in a row."""
    yield pool.submit(lambda x: x, obj).result()
    yield pool.submit(lambda x: x, pool.put(obj)).result()
    yield pool.submit(lambda x: x, pool.put(obj, read_only=True)).result()
    yield pool.submit(lambda: obj).result()
    yield from pool.map(lambda x, n: x, [obj] * 3, range(3))
    yield pool.submit(lambda x: x, pool.submit(lambda x: x, obj).result()).result()


def check_out_of_band(pool: HookPoolExecutor, obj: Any, same: Any) -> None:
    before = written(), read()
    for back in ways(pool, obj):
        assert type(back) is type(obj)
        assert same(back)
    assert written() - before[0] < MB / 2
    assert read() - before[1] < MB / 2


# -- pandas -------------------------------------------------------------------------------------


def frames() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas")
    count = 200_000
    floats = np.random.default_rng(1).normal(size=(count, 4))
    numbers = pandas.DataFrame(floats, columns=list("abcd"))
    mixed = numbers.assign(
        n=np.arange(count),
        when=pandas.date_range("2020-01-01", periods=count, freq="min"),
        kind=pandas.Categorical.from_codes(np.arange(count) % 3, ["x", "y", "z"]),
    )
    return {
        "numbers": numbers,
        "mixed": mixed,
        "fortran": pandas.DataFrame(np.asfortranarray(floats)),
        "series": numbers["b"],
        "index": mixed.set_index("when"),
        "sliced": mixed[1000:-1000],
        "columns by name": pandas.DataFrame({f"c{n}": np.arange(count) * n for n in range(5)}),
        "multi-index": mixed.set_index(["kind", "n"]),
        "nullable": pandas.DataFrame({"n": pandas.array(np.arange(count), dtype="Int64")}),
    }


@pytest.mark.parametrize("name", frames())
def test_frames_make_the_round_trip_out_of_band(pool: HookPoolExecutor, name: str):
    frame = frames()[name]
    check_out_of_band(pool, frame, frame.equals)


def test_a_frame_that_arrives_can_be_written_to(pool: HookPoolExecutor):
    frame = frames()["mixed"]

    def change(frame: Any) -> Any:
        frame["a"] = 0.0
        frame.loc[5, "n"] = -1
        frame["new"] = frame["b"] * 2
        return frame

    for back in (
        pool.submit(change, frame).result(),
        pool.submit(change, pool.put(frame)).result(),
        *pool.map(change, [frame] * 3),
    ):
        back.loc[6, "n"] = -2
        assert (back["a"] == 0).all()
        assert (back["new"] == frame["b"] * 2).all()
        assert list(back["n"][4:8]) == [4, -1, -2, 7]
    assert frame.equals(frames()["mixed"])


def test_a_frame_of_strings_travels(pool: HookPoolExecutor):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"s": [f"row {n}" for n in range(50_000)]})
    assert all(map(frame.equals, ways(pool, frame)))


# -- Arrow and torch, where they are ------------------------------------------------------------


def test_arrow_tables_make_the_round_trip_out_of_band(pool: HookPoolExecutor):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    table = pyarrow.table(
        {"n": np.arange(200_000), "s": [f"row {n}" for n in range(200_000)], "x": np.ones(200_000)}
    )
    check_out_of_band(pool, table, table.equals)


def test_frames_on_arrow_make_the_round_trip_out_of_band(pool: HookPoolExecutor):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"n": np.arange(200_000), "s": [f"row {n}" for n in range(200_000)]}
    ).convert_dtypes(dtype_backend="pyarrow")
    check_out_of_band(pool, frame, frame.equals)


def test_tensors_make_the_round_trip():
    """By PyTorch's own reducers: into its shared memory, which both processes then write to.

    In a program of its own: PyTorch keeps descriptors, and a thread that serves them.
    """
    if importlib.util.find_spec("torch") is None:
        pytest.skip("pip install torch")
    assert run_python("-c", TENSORS, timeout=100) == "[True, True, True, True]\n"


TENSORS = """
import torch, hookpool
found = []
with hookpool.HookPoolExecutor(2) as pool:
    for tensor in torch.arange(500_000.0), torch.arange(600_000).reshape(600, 1000).T:
        for back in (
            pool.submit(lambda x: x, tensor).result(),
            pool.submit(lambda: tensor).result(),
            *pool.map(lambda x: x, [tensor] * 3),
        ):
            assert torch.equal(back, tensor)
        views = tensor[:10], tensor[5:15]
        found.append(pool.submit(lambda a, b: a[5].equal(b[0]), *views).result())
        pool.submit(lambda x: x.add_(1), back).result()
        found.append(torch.equal(back, tensor))  # one memory, as PyTorch has it
print(found)
"""


# -- the standard library's own -----------------------------------------------------------------


class Wrapped:
    """Of a user's: hands its memory over by itself."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __reduce_ex__(self, protocol: int) -> Any:
        return Wrapped, (pickle.PickleBuffer(self.raw),)

    def same(self, other: Wrapped) -> bool:
        return bytes(self.raw) == bytes(other.raw)


PLAIN = {
    "bytes": bytes(range(256)) * 8192,
    "bytearray": bytearray(range(256)) * 8192,
    "array": array.array("d", range(200_000)),
    "string": "ä" * 1_000_000,
    "list of numbers": list(range(300_000)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_python_has_itself_makes_the_round_trip_out_of_band(
    pool: HookPoolExecutor, name: str
):
    obj = PLAIN[name]
    # A list or bytearray is not looked for among what calls have in common, but nor does it take
    # the pipe.
    check_out_of_band(pool, obj, obj.__eq__)


def test_views_of_memory_make_the_round_trip(pool: HookPoolExecutor):
    view = memoryview(bytearray(range(256)) * 8192)[1000:-1000]
    back = pool.submit(lambda view: view, view).result()
    assert bytes(back) == bytes(view)


def test_a_class_that_hands_over_its_memory(pool: HookPoolExecutor):
    wrapped = Wrapped(bytearray(range(256)) * 8192)
    check_out_of_band(pool, wrapped, wrapped.same)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(100_000, dtype=[("a", "i4"), ("b", "f8")]),
        lambda: np.asfortranarray(np.arange(500_000.0).reshape(500, 1000)),
        lambda: np.arange(1_000_000.0)[::2],
        lambda: np.arange(500_000.0).reshape(500, 1000)[:, ::3],
        lambda: np.ma.masked_array(np.arange(200_000.0), np.arange(200_000) % 3 == 0),
        lambda: np.broadcast_to(np.arange(1000.0), (500, 1000)),
    ],
    ids=["structured", "fortran", "strided", "columns", "masked", "broadcast"],
)
def test_arrays_of_any_layout_in_any_way(pool: HookPoolExecutor, make: Any):
    x = make()
    for back in ways(pool, x):
        assert type(back) is type(x)
        assert back.shape == x.shape
        assert back.dtype == x.dtype
        assert (back == x).all()
