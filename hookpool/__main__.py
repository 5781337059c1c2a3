"""`python -m hookpool`: what there is on this machine, whether it works, and a map over lines.

Owns the command line, and no rule of the pool: it uses what users use.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import platform
import runpy
import signal
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hookpool
from hookpool import _buffers, _claims, _launch, _memory
from hookpool._importable import is_importable, is_module_importable
from hookpool.executor import HookPoolExecutor, cpu_count

#: How many lines are on their way at a time.
AHEAD = 1000


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code: 0, or 1 if something failed."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m hookpool", description=hookpool.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("info", help="what hookpool uses on this machine")
    add.set_defaults(command=info)
    add = commands.add_parser("check", help="try it all on this machine")
    add.set_defaults(command=check)
    add = commands.add_parser("explain", help="how an object travels, or why it does not")
    add.add_argument("object", help="package.module:name, or path/to/file.py:name")
    add.set_defaults(command=explain)
    add = commands.add_parser("map", help="call a function with each line, in worker processes")
    add.add_argument("function", help="an expression, such as 'lambda line: line.upper()'")
    add.add_argument("file", nargs="?", type=argparse.FileType(), default=sys.stdin)
    add.add_argument("-j", "--jobs", type=int, metavar="N", help="the most workers")
    add.add_argument("-t", "--timeout", type=float, metavar="S", help="seconds for each line")
    add.add_argument(
        "-i", "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="what the expression uses; may be given several times",
    )  # fmt: skip
    add.set_defaults(command=map_lines)
    return parser


# -- info ---------------------------------------------------------------------------------------


def info(_: argparse.Namespace) -> int:
    """Say what there is."""
    for name, value in _facts():
        print(f"{name:<24}{value}")
    return 0


def _facts() -> Iterator[tuple[str, object]]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield "hookpool", f"{hookpool.__version__}, {os.path.dirname(hookpool.__file__)}"
    yield "Python", f"{python}, {platform.platform()}"
    yield "CPUs", f"{cpu_count()} that this process may use, of {os.cpu_count()}"
    yield "start methods", ", ".join(multiprocessing.get_all_start_methods())
    yield "workers are forked", _or("by a fork server", _launch.HAVE_FORK_SERVER, "no: spawned")
    yield "tasks are sent ahead", _or("yes", _claims.are_possible(), "no: one at a time")
    memory = f"yes, of {_memory.available() / 1e9:.1f} GB that are free"
    yield "shared memory", _or(memory, _buffers.CAN_LEND, "no: large data take the pipe")


def _or(yes: str, is_so: bool, no: str) -> str:
    return yes if is_so else no


# -- check --------------------------------------------------------------------------------------


def check(_: argparse.Namespace) -> int:
    """Try what this package promises; say what does not work."""
    failures = 0
    with HookPoolExecutor(2) as pool:
        for name, trial in TRIALS.items():
            began = time.perf_counter()
            try:
                trial(pool)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                failures += 1
                print(f"FAILED  {name}: {type(error).__name__}: {error}")
            else:
                print(f"ok      {name} ({time.perf_counter() - began:.2f} s)")
    print(f"{len(TRIALS) - failures} of {len(TRIALS)} work")
    return 1 if failures else 0


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"it is {found!r} where it should be {wanted!r}")


def _try_lambda(pool: HookPoolExecutor) -> None:
    _expect(list(pool.map(lambda x: x * 2, range(1000))), [x * 2 for x in range(1000)])


def _try_class(pool: HookPoolExecutor) -> None:
    class Here:
        pass

    _expect(type(pool.submit(Here).result()), Here)


def _try_large(pool: HookPoolExecutor) -> None:
    data = bytearray(range(256)) * 40_000
    _expect(pool.submit(lambda data: data[::-1], data).result(), data[::-1])


def _try_death(pool: HookPoolExecutor) -> None:
    doomed = pool.submit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    _expect(isinstance(doomed.exception(), BrokenProcessPool), True)
    _expect(pool.submit(abs, -1).result(), 1)


def _try_limit(pool: HookPoolExecutor) -> None:
    stuck = pool.options(timeout=0.1).submit(time.sleep, 60)
    _expect(type(stuck.exception()), hookpool.TaskTimedOut)
    _expect(pool.submit(abs, -1).result(), 1)


def _try_context(_: HookPoolExecutor) -> None:
    context = multiprocessing.get_context("hookpool")
    with context.Pool(1) as pool:
        _expect(pool.map(lambda x: x + 1, range(3)), [1, 2, 3])


TRIALS: dict[str, Callable[[HookPoolExecutor], None]] = {
    "a lambda runs in workers": _try_lambda,
    "an instance of a local class is that after its return": _try_class,
    "large data go there and back": _try_large,
    "a worker that dies fails one call": _try_death,
    "a call that takes too long is ended": _try_limit,
    'multiprocessing.get_context("hookpool")': _try_context,
}


# -- explain ------------------------------------------------------------------------------------


def explain(options: argparse.Namespace) -> int:
    """Say how an object travels."""
    where, _, name = options.object.partition(":")
    try:
        obj = _found(where, name)
    except Exception as error:  # noqa: BLE001 - whatever the module raises
        print(f"{options.object} cannot be had: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    file = io.BytesIO()
    pickler = _Looker(file)
    try:
        pickler.dump(obj)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
        print(f"{options.object} does not travel: {error}")
        return 1
    print(f"{options.object} travels in {len(file.getvalue())} bytes, with")
    for name, way in pickler.met_by_name.items():
        if not name.startswith("hookpool._"):  # what puts it together again
            print(f"  {way:<14}{name}")
    return 0


class _Looker(hookpool.HookPickler):
    """Notes how the functions, classes and modules go that it meets."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.met_by_name: dict[str, str] = {}

    def reducer_override(self, obj: Any, /) -> Any:
        """As the pickler's, and noted."""
        if isinstance(obj, types.ModuleType):
            way = "by reference" if is_module_importable(obj.__name__) else "by value"
            self.met_by_name[f"module {obj.__name__}"] = way
        elif isinstance(obj, types.FunctionType | type) and obj.__module__ != "builtins":
            way = "by reference" if is_importable(obj) else "by value"
            self.met_by_name[f"{obj.__module__}.{obj.__qualname__}"] = way
        return super().reducer_override(obj)


def _found(where: str, name: str) -> Any:
    """What is under a name in a module, or in a file that is run, though not as main."""
    if not name:
        raise ValueError("it has no name: it is to be module:name, or file.py:name")
    if where.endswith(".py"):
        sys.path.insert(0, str(Path(where).resolve().parent))
        names = runpy.run_path(where, run_name=Path(where).stem)
        found, *rest = name.split(".")
        obj = names[found]
    else:
        sys.path.insert(0, os.getcwd())
        obj, rest = importlib.import_module(where), name.split(".")
    for part in rest:
        obj = getattr(obj, part)
    return obj


# -- map ----------------------------------------------------------------------------------------


def map_lines(options: argparse.Namespace) -> int:
    """Print what a function makes of each line, in order; why it fails goes to standard error."""
    try:
        # What an import statement binds: the package, of a module in one.
        names = {name.partition(".")[0]: __import__(name) for name in options.modules}
        function = eval(options.function, names)  # it is the user's own command line
        pool = HookPoolExecutor(options.jobs)
        limited = pool.options(timeout=options.timeout)
    except Exception as error:  # noqa: BLE001 - whatever there is in it
        print(f"{options.function!r}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    failures = 0
    with options.file as lines, pool:
        for number, future in enumerate(_calls(limited, function, lines), 1):
            why = future.exception()
            if why is None:
                print(future.result())
            else:
                failures += 1
                print(f"line {number}: {type(why).__name__}: {why}", file=sys.stderr)
    return 1 if failures else 0


def _calls(
    pool: Executor, function: Callable[[str], object], lines: Iterable[str]
) -> Iterator[Future[object]]:
    """A call for each line, the oldest ones as they end."""
    calls: deque[Future[object]] = deque()
    for line in lines:
        calls.append(pool.submit(function, line.rstrip("\n")))
        while calls and (len(calls) >= AHEAD or calls[0].done()):
            yield calls.popleft()
    while calls:
        yield calls.popleft()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
