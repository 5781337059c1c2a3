"""Picklers against each other: CPU time of `dumps` and `loads`, and bytes.

Unlike pools, picklers do not disturb each other, and the differences of interest are a few per
cent: so all of them take turns in one process, every few milliseconds, and the best of many turns
counts. What the machine does meanwhile can only add. One process per shape and round.

    python -m bench.pickle_bench SHAPE TURNS OUTCOME     one block, as `bench.run` starts it
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench import pickle_shapes as shapes
from bench import record

Dumps = Callable[[Any], bytes]

PACKAGES = ("cloudpickle", "dill", "hookpool", "pandas", "scikit-learn")
LIMIT = 60.0
#: seconds of CPU a turn should take: long against the clock's grain, short against a neighbour's
TURN = 0.004


class Shape(NamedTuple):
    """One object, and what is measured on it: dumps, loads, or size."""

    what: str
    title: str
    supplier: shapes.Supplier
    baseline: str = "cloudpickle"
    first_time: bool = False


def _data(title: str, make: Callable[[], Any]) -> Shape:
    return Shape("dumps", title, shapes.same(make), baseline="pickle")


SHAPES: dict[str, Shape] = {
    "dumps_nested": _data("nested containers, 1e5 items", shapes.nested),
    "dumps_decimals": _data("1 000 Decimals", shapes.decimals),
    "dumps_datetimes": _data("1 000 datetimes", shapes.datetimes),
    "dumps_fractions": _data("1 000 Fractions", shapes.many_fractions),
    "dumps_objects": _data("1 000 objects of an importable class", shapes.points),
    "dumps_slotted": _data("1 000 slotted objects", shapes.slotted_points),
    "dumps_arrays": _data("1 000 small arrays", shapes.small_arrays),
    "dumps_tuple": _data("a tiny tuple", shapes.tiny_tuple),
    "dumps_dataclass": Shape(
        "dumps",
        "1 000 instances of a dynamic dataclass (pickle: of an importable one)",
        shapes.rows,
        baseline="pickle",
    ),
    "dumps_lambda": Shape("dumps", "a lambda seen before", shapes.same(shapes.a_lambda)),
    "dumps_lambda_first": Shape(
        "dumps", "a lambda, first time", shapes.anew(shapes.a_lambda), first_time=True
    ),
    "dumps_closure": Shape("dumps", "a closure seen before", shapes.same(shapes.a_closure)),
    "dumps_closure_first": Shape(
        "dumps", "a closure, first time", shapes.anew(shapes.a_closure), first_time=True
    ),
    "dumps_decorated": Shape(
        "dumps", "a decorated function seen before", shapes.same(shapes.a_decorated_function)
    ),
    "dumps_decorated_first": Shape(
        "dumps",
        "a decorated function, first time",
        shapes.anew(shapes.a_decorated_function),
        first_time=True,
    ),
    "dumps_class": Shape("dumps", "a dynamic class with 10 methods", shapes.same(shapes.a_class)),
    "dumps_class_first": Shape(
        "dumps", "a dynamic class, first time", shapes.classes_anew, first_time=True
    ),
    "dumps_function": Shape(
        "dumps",
        "a function using no package, a session's modules loaded",
        shapes.same(shapes.function_of_nothing),
    ),
    "dumps_packages": Shape(
        "dumps",
        "a function using numpy, pandas and sklearn, a session's modules loaded",
        shapes.same(shapes.function_of_packages),
    ),
    "loads_lambda": Shape("loads", "a lambda", shapes.same(shapes.a_lambda)),
    "loads_closure": Shape("loads", "a closure", shapes.same(shapes.a_closure)),
    "loads_decorated": Shape(
        "loads", "a decorated function", shapes.same(shapes.a_decorated_function)
    ),
    "loads_class": Shape(
        "loads", "a dynamic class this process knows", shapes.same(shapes.a_class)
    ),
    "loads_class_first": Shape(
        "loads", "a dynamic class, first time", shapes.classes_anew, first_time=True
    ),
    "size_lambda": Shape("size", "pickle of a lambda", shapes.same(shapes.a_lambda)),
    "size_class": Shape("size", "pickle of a dynamic class", shapes.same(shapes.a_class)),
}


#: enough for a first look
QUICK = ("dumps_objects", "dumps_lambda", "dumps_packages", "loads_lambda")


def picklers() -> dict[str, Dumps]:
    """Every pickler that is installed, by name; protocol 5 for all."""
    found: dict[str, Dumps] = {"pickle": functools.partial(pickle.dumps, protocol=5)}
    found["bare-hook"] = _bare_hook
    for name, get in (
        ("cloudpickle", _cloudpickle),
        ("dill", _dill),
        ("hookpool", _hookpool),
        ("hookpool-python", _hookpool_in_python),
    ):
        try:
            found[name] = get()
        except ImportError:
            pass
    return found


class _BareHook(pickle.Pickler):
    """What any hook costs: it is asked, and leaves everything to pickle."""

    def reducer_override(self, obj: Any) -> Any:
        return NotImplemented


def _bare_hook(obj: Any) -> bytes:
    file = io.BytesIO()
    _BareHook(file, 5).dump(obj)
    return file.getvalue()


def _cloudpickle() -> Dumps:
    import cloudpickle

    return functools.partial(cloudpickle.dumps, protocol=5)


def _dill() -> Dumps:
    import dill

    return functools.partial(dill.dumps, protocol=5, recurse=True)


def _hookpool() -> Dumps:
    from hookpool import reduction

    return functools.partial(reduction.dumps, protocol=5)


def _hookpool_in_python() -> Dumps:
    """Our reducers on the pure-Python pickler: what everybody had before bpo-35900."""
    from hookpool.reduction import HookPickler

    class InPython(pickle._Pickler):
        def __init__(self, file: io.BytesIO) -> None:
            super().__init__(file, 5)
            # Writes nothing: it holds what our reducers note down during one dump.
            self._hook = HookPickler(io.BytesIO(), 5)

        def reducer_override(self, obj: Any) -> Any:
            return self._hook.reducer_override(obj)

    def dumps(obj: Any) -> bytes:
        file = io.BytesIO()
        InPython(file).dump(obj)
        return file.getvalue()

    return dumps


# ---- one block ----------------------------------------------------------------------------------


def measure(name: str, turns: int) -> dict[str, dict[str, Any]]:
    """Pickler -> outcome, all taking turns in this process."""
    shape = SHAPES[name]
    outcomes: dict[str, dict[str, Any]] = {}
    takers: dict[str, Callable[[], float]] = {}
    for pickler, dumps in picklers().items():
        by_value = pickler not in ("pickle", "bare-hook")
        if not by_value and shape.baseline != "pickle":
            continue  # they take importable things only
        try:
            pickle.loads(dumps(shape.supplier(by_value, 1)[0]))
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}"[:120]
            outcomes[pickler] = {"status": "unfit", "why": text}
        else:
            takers[pickler] = _taker(shape, dumps, by_value)
            outcomes[pickler] = {"status": "ok", "samples": []}
    order = list(takers)
    for turn in range(1 if shape.what == "size" else turns):
        for pickler in order if turn % 2 == 0 else reversed(order):
            outcomes[pickler]["samples"].append(float(f"{takers[pickler]():.4g}"))
    return outcomes


def _taker(shape: Shape, dumps: Dumps, by_value: bool) -> Callable[[], float]:
    """A function that takes one turn and returns the cost of one object."""
    if shape.what == "size":
        return lambda: len(dumps(shape.supplier(by_value, 1)[0]))
    if shape.what == "dumps":
        return _turns_of(dumps, lambda count: shape.supplier(by_value, count), shape.first_time)

    def pickles(count: int) -> list[Any]:
        data = [dumps(obj) for obj in shape.supplier(by_value, count)]
        return _forgotten(data) if shape.first_time else data

    return _turns_of(pickle.loads, pickles, shape.first_time)


def _forgotten(data: list[bytes]) -> list[bytes]:
    """Pickles of classes that are gone: the receiving side has to build them."""
    gc.collect()
    return data


def _turns_of(
    call: Callable[[Any], Any], supply: Callable[[int], list[Any]], first_time: bool
) -> Callable[[], float]:
    def cost(objects: list[Any]) -> float:
        before = time.process_time()
        for obj in objects:
            call(obj)
        return (time.process_time() - before) / len(objects)

    count = max(1, min(5000, int(TURN / max(cost(supply(3)), 1e-7))))
    if first_time:
        count = min(count, 200)
        return lambda: cost(supply(count))
    objects = supply(count)  # the same one, many times
    return lambda: cost(objects)


def run_shape(name: str, quick: bool, into: record.Record) -> None:
    """All rounds of a shape, each in a process of its own, into the record."""
    shape = SHAPES[name]
    turns, count = (15, 1) if quick else (25, 3)
    into["cases"][name] = {
        "title": f"{shape.what}: {shape.title}",
        "unit": "B" if shape.what == "size" else "s",
        "statistics": ["min"],
        "baseline": shape.baseline,
        "size": turns,
    }
    for number in range(count):
        for pickler, outcome in _block(name, turns).items():
            label = {"case": name, "subject": pickler, "round": number, "load": record.load()}
            into["blocks"].append(label | outcome)


def _block(name: str, turns: int) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.pickle_bench", name, str(turns), str(outcome)],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return {"all": {"status": "hung", "why": f"hung: killed after {LIMIT:g} s"}}
        if not outcome.exists():
            last = done.stderr.strip().rpartition("\n")[2][:200]
            why = f"died with exit code {done.returncode}: {last}"
            return {"all": {"status": "died", "why": why}}
        result: dict[str, dict[str, Any]] = json.loads(outcome.read_text())
        return result


def main(argv: list[str]) -> None:
    name, turns, outcome = argv
    gc.disable()  # a collection in somebody's turn is nobody's cost
    Path(outcome + ".part").write_text(json.dumps(measure(name, int(turns))))
    os.replace(outcome + ".part", outcome)


if __name__ == "__main__":
    main(sys.argv[1:])
