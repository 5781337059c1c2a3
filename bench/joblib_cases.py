"""joblib on loky against joblib on hookpool: what their users run, pair by pair.

    python -m bench.joblib_cases [--pairs N] [--sittings N] [--cases NAME,...] [--no-save]

Each backend has a process of its own, which lives for a sitting, as a notebook does, and is idle
while the other one works.  The two take turns call by call, in the order A B, B A, and so on, so
that what drifts hits both alike; a ratio is the median of the pairs' ratios.  There is more than
one sitting, since a process may be unlucky with its core for as long as it lives: the loop of
`generate`, which uses no backend, has been seen 1.6 times slower in one of two.  The cold start is
that of a new program each time.

With trivial tasks most of the time is joblib's own, and a third player shows how much: a backend
that runs nothing and returns nothing (`nothing`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import record, table
from bench.run import rounds, selected
from bench.subjects import JoblibHook, JoblibLoky, JoblibNothing, JoblibSubject, known

SUBJECTS: tuple[type[JoblibSubject], ...] = (JoblibLoky, JoblibHook)
WORKERS = 2
ROOT = Path(__file__).parents[1]
#: Apart from the records of `bench.run`, some of whose cases have the same names.
FOLDER = record.HISTORY / "joblib"

#: Called with the name of the backend; what it returns is timed.
Prepare = Callable[[str], Callable[[], Any]]


class Case(NamedTuple):
    name: str
    title: str
    prepare: Prepare
    #: Whether joblib's own time is worth knowing.
    has_floor: bool = False


# ---- what is run ---------------------------------------------------------------------------


def fresh_call(backend: str) -> Callable[[], Any]:
    from joblib import Parallel, delayed

    return lambda: Parallel(WORKERS, backend=backend)(delayed(lambda x: x)(i) for i in range(4))


def lambdas(backend: str) -> Callable[[], Any]:
    from joblib import Parallel, delayed

    # As in joblib's documentation: the lambda is within the generator, so each task has its own.
    return lambda: Parallel(WORKERS, backend=backend)(
        delayed(lambda x: x)(i) for i in range(20_000)
    )


def trivial(backend: str) -> Callable[[], Any]:
    from joblib import Parallel, delayed

    echo = lambda x: x
    return lambda: Parallel(WORKERS, backend=backend)(delayed(echo)(i) for i in range(20_000))


def generate(backend: str) -> Callable[[], Any]:
    from joblib import delayed

    echo = lambda x: x
    return lambda: [None for _ in (delayed(echo)(i) for i in range(20_000))]


def shared_array(backend: str) -> Callable[[], Any]:
    import numpy
    from joblib import Parallel, delayed

    array = numpy.random.default_rng(0).random(4_000_000)
    return lambda: Parallel(WORKERS, backend=backend)(
        delayed(lambda a, i: float(a[i::200].sum()))(array, i) for i in range(200)
    )


def grid_search(backend: str) -> Callable[[], Any]:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    grid = {"C": [0.1, 1, 10], "gamma": [1e-3, 1e-4]}
    return _fit(backend, lambda: GridSearchCV(SVC(), grid, cv=3))


def forest(backend: str) -> Callable[[], Any]:
    from sklearn.ensemble import RandomForestClassifier

    return _fit(backend, lambda: RandomForestClassifier(100, random_state=0, n_jobs=WORKERS))


def _fit(backend: str, make: Callable[[], Any]) -> Callable[[], Any]:
    from joblib import parallel_config
    from sklearn.datasets import load_digits

    data = load_digits(return_X_y=True)

    def fit() -> None:
        with parallel_config(backend, n_jobs=WORKERS):
            make().fit(*data)

    return fit


WARM = {
    case.name: case
    for case in (
        Case("fresh_call", "a new Parallel of four tasks, workers warm", fresh_call),
        Case("lambdas", "20 000 trivial tasks, each with a lambda of its own", lambdas, True),
        Case("trivial", "20 000 trivial tasks of one function", trivial, True),
        Case("generate", "20 000 times delayed(f)(i), without running them", generate),
        Case("shared_array", "200 tasks over one array of 32 MB", shared_array),
        Case("grid_search", "GridSearchCV of SVC over digits, 18 fits", grid_search),
        Case("forest", "RandomForestClassifier of 100 trees over digits", forest),
    )
}

COLD = "cold_start"
COLD_TITLE = "start of the interpreter to the first result, imports included"
PROGRAM = """
import time
{imports}
{register}
assert Parallel({workers}, backend={backend!r})([delayed(lambda x: x)(7)] * 2) == [7, 7]
print(time.monotonic(), flush=True)
"""
REGISTER = {"hookpool": "hookpool.joblib.register()"}


# ---- the players ---------------------------------------------------------------------------


def play(name: str) -> None:
    """Run the cases whose names come in, and say how long each took."""
    warnings.simplefilter("ignore")
    subject: Any = JoblibNothing() if name == JoblibNothing.name else known(name)
    subject.start(WORKERS)
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in calls:
            calls[case] = WARM[case].prepare(subject.backend)
            for _ in range(3):  # starts the workers, and loads what they need
                calls[case]()
        before = time.perf_counter()
        calls[case]()
        print(time.perf_counter() - before, flush=True)
    subject.stop()


class Player:
    """One backend in its process."""

    def __init__(self, subject: type[JoblibSubject]) -> None:
        self.subject = subject
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.joblib_cases", "--play", subject.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def time(self, case: str) -> float:
        if case == COLD:
            return cold_start(self.subject)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate()


def cold_start(subject: type[JoblibSubject]) -> float:
    backend = subject.backend
    program = PROGRAM.format(
        imports=subject.import_line,
        register=REGISTER.get(backend, ""),
        workers=WORKERS,
        backend=backend,
    )
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment(),
    )
    return float(done.stdout) - before


def environment() -> dict[str, str]:
    """As a user's: what is imported was compiled before."""
    return {name: value for name, value in os.environ.items() if name[:14] != "PYTHONDONTWRIT"}


# ---- the run -------------------------------------------------------------------------------


def run(cases: Sequence[str], pairs: int, sittings: int) -> record.Record:
    packages = {package for subject in SUBJECTS for package in subject.packages}
    into = record.begin("joblib", [*packages, "numpy", "scikit-learn"])
    for case in cases:
        into["cases"][case] = {
            "title": COLD_TITLE if case == COLD else WARM[case].title,
            "unit": "s",
            "statistics": ["p50"],
            "baseline": JoblibLoky.name,
            "size": pairs,
        }
    for sitting in range(sittings):
        _sit(cases, range(sitting * pairs // sittings, (sitting + 1) * pairs // sittings), into)
    for case in cases:
        print(table.of_case(into, case), flush=True)
    return into


def _sit(cases: Sequence[str], numbers: range, into: record.Record) -> None:
    """Some pairs of each case, in new processes."""
    players = {subject.name: Player(subject) for subject in (*SUBJECTS, JoblibNothing)}
    try:
        for case in cases:
            names = [name for name in players if _plays(name, case)]
            for name in names:
                players[name].time(case)
            for number, name in rounds(names, len(numbers)):
                sample = float(f"{players[name].time(case):.4g}")
                label = {"case": case, "subject": name, "round": numbers[number]}
                label |= {"load": record.load(), "status": "ok", "samples": [sample], "notes": []}
                into["blocks"].append(label)
    finally:
        for player in players.values():
            player.stop()


def _plays(name: str, case: str) -> bool:
    return name != JoblibNothing.name or (case != COLD and WARM[case].has_floor)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.joblib_cases")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--sittings", type=int, default=3)
    parser.add_argument("--cases", help="comma-separated names or patterns")
    parser.add_argument("--no-save", action="store_true", help="print the table, keep nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where records go")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.play:
        play(options.play)
        return
    into = run(selected([*WARM, COLD], options.cases), options.pairs, options.sittings)
    if not options.no_save:
        print("kept:", record.save(into, options.folder))


if __name__ == "__main__":
    main()
