"""Counts: what a pickle, a task, an import and a worker cost in numbers that repeat.

    python -m bench.counts [--update]

A time says as much about the machine as about the code, so no time ever fails a build; these do.
Each count is compared with `bench/counts.json`, by Python version: more than `TOLERANCE` above it
is a failure, as much below it is a reason to run `--update` and commit what that writes.

- *calls*: calls of Python and of C functions during one `dumps`, as `sys.setprofile` sees them.
- *instructions*: of one `dumps`, by callgrind, where valgrind is installed; elsewhere left out.
- *bytes*: of the pickle.
- *messages*: what the scheduler sends for a map of tasks that take a microsecond each. It is asked
  with a clock of our own, so this repeats as well.
- *modules*: what an import loads that a bare interpreter has not, and what a spawned worker has
  loaded when it runs its first task.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import pickle_shapes
from hookpool import reduction
from hookpool._events import Finished, Launch, Send, Submitted, WorkerReady
from hookpool._scheduler import Config, Scheduler

ROOT = Path(__file__).parents[1]
BASELINE = Path(__file__).with_name("counts.json")
#: A patch release of Python, or a line or two, may change a count by a little.
TOLERANCE = 0.03

# The pickle of a function has the name of its file in it, which is not the same in every clone.
exec(
    compile(Path(pickle_shapes.__file__).read_text(), "pickle_shapes.py", "exec"),
    vars(pickle_shapes),
)

SHAPES = {
    "tuple": pickle_shapes.tiny_tuple,
    "lambda": pickle_shapes.a_lambda,
    "closure": pickle_shapes.a_closure,
    "decorated": pickle_shapes.a_decorated_function,
    "class": pickle_shapes.a_class,
    "1000 instances": pickle_shapes.points,
    "nested": pickle_shapes.nested,
}
#: How many are pickled under callgrind, which takes a hundred times as long: enough to drown what
#: else differs between two runs.
PICKLES = {"tuple": 400, "lambda": 200, "closure": 200, "decorated": 100, "class": 40}


# ---- pickles ------------------------------------------------------------------------------------


def calls(shape: str) -> int:
    """Calls of functions while a known object is pickled once more."""
    obj = SHAPES[shape]()
    for _ in range(3):
        reduction.dumps(obj)
    seen = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # what a collection finalizes is no part of a pickle
    try:
        sys.setprofile(count)
        reduction.dumps(obj)
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen - 1  # the call of `setprofile` that ends it


def pickle_many(shape: str, count: int) -> None:
    """What runs under callgrind: the difference of two counts is what the pickles need."""
    obj = SHAPES[shape]()
    for _ in range(3):
        reduction.dumps(obj)
    gc.disable()
    for _ in range(count):
        reduction.dumps(obj)


def instructions(shape: str) -> int | None:
    """Machine instructions of one pickle; None where there is no valgrind."""
    if shape not in PICKLES or not shutil.which("valgrind"):
        return None
    many = PICKLES[shape]
    return (_collected(shape, many) - _collected(shape, 0)) // many


def _collected(shape: str, count: int) -> int:
    source = f"from bench.counts import pickle_many; pickle_many({shape!r}, {count})"
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
            + [sys.executable, "-c", source],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"},
            capture_output=True,
            text=True,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"callgrind failed:\n{done.stderr[-2000:]}")
    return int(found[1])


# ---- tasks --------------------------------------------------------------------------------------


def messages(tasks: int, workers: int = 2) -> int:
    """What the scheduler sends until so many tasks of a microsecond are done."""
    scheduler = Scheduler(Config(max_workers=workers))
    pending: list[tuple[float, int, Send]] = []
    sent = 0
    now = 0.0

    def carry_out(actions: Any) -> None:
        nonlocal sent
        for action in actions:
            if isinstance(action, Launch):
                heapq.heappush(pending, (now, -1 - action.worker, action))  # type: ignore[misc]
            elif isinstance(action, Send):
                sent += 1
                busy_until = now + sum(span.stop - span.start for span in action.spans) * 1e-6
                heapq.heappush(pending, (busy_until, sent, action))

    carry_out(scheduler.handle(Submitted(0, tasks, 0, now)))
    while pending:
        now, _, action = heapq.heappop(pending)
        if isinstance(action, Launch):
            carry_out(scheduler.handle(WorkerReady(action.worker, now)))
        else:
            runs = tuple((s.stop - s.start, s.stop - s.start) for s in action.spans)
            carry_out(scheduler.handle(Finished(action.worker, runs, now)))
    return sent


# ---- modules ------------------------------------------------------------------------------------

LOADED = "import sys; print(*sys.modules)"
IN_A_WORKER = """
import multiprocessing, sys
from hookpool import HookPoolExecutor
with HookPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
    print(*pool.submit(lambda: tuple(sys.modules)).result())
"""


def modules(source: str) -> int:
    """How many modules the program names that a bare interpreter has not loaded."""
    return len(_loaded(source) - _loaded(LOADED))


def _loaded(source: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


# ---- the gate -----------------------------------------------------------------------------------


def measured() -> Iterator[tuple[str, int]]:
    """Each count, by its name."""
    for shape in SHAPES:
        yield f"calls, {shape}", calls(shape)
        yield f"bytes, {shape}", len(reduction.dumps(SHAPES[shape]()))
        if (needed := instructions(shape)) is not None:
            yield f"instructions, {shape}", needed
    for tasks in (1, 1_000, 100_000):
        yield f"messages, map of {tasks}", messages(tasks)
    yield "modules, import hookpool", modules(f"import hookpool; {LOADED}")
    yield (
        "modules, HookPoolExecutor",
        modules(f"from hookpool import HookPoolExecutor; {LOADED}"),
    )
    yield "modules, worker", modules(IN_A_WORKER)


def verdict(now: int, before: int | None) -> str:
    """In a word, and "" when nothing is to be said."""
    if before is None:
        return "new"
    if now > before * (1 + TOLERANCE):
        return "MORE"
    return "fewer" if now < before * (1 - TOLERANCE) else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.counts")
    parser.add_argument("--update", action="store_true", help="these are the counts from now on")
    options = parser.parse_args(argv)
    version = "{}.{}".format(*sys.version_info)
    baseline: dict[str, dict[str, int]] = json.loads(BASELINE.read_text())
    before = baseline.get(version, {})
    counts, failed = {}, []
    for name, now in measured():
        counts[name] = now
        said = verdict(now, before.get(name))
        was = "" if said in ("", "new") else f"before {before[name]:,}"
        print(f"  {name:32}{now:>12,}  {said:6}{was}".rstrip(), flush=True)
        failed += [name] * (said == "MORE")
    if options.update:
        baseline[version] = {**before, **counts}
        BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")
        print(f"kept for Python {version} in {os.path.relpath(BASELINE)}")
    elif failed:
        print(f"more than before: {', '.join(failed)}")
    return bool(failed) and not options.update


if __name__ == "__main__":
    sys.exit(main())
