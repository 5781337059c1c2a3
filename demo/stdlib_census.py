"""Take the census of the standard library: parse every file of it, in parallel, with a lambda.

Written as one writes a script in a hurry: no `if __name__ == "__main__"` guard, the classes and
functions right here, the work a lambda. The same lambda goes through an executor, through a
multiprocessing pool and through joblib, and through a plain loop to compare with.
"""

import ast
import multiprocessing
import os
import platform
import subprocess
import sys
import sysconfig
import time
import tokenize
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import joblib
from tqdm import tqdm

import hookpool.joblib
from hookpool import HookPoolExecutor

LIBRARY = Path(*sys.argv[1:] or [sysconfig.get_path("stdlib")])  # or another folder, if given
BRANCHES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp,
    ast.comprehension, ast.match_case, ast.Assert,
)  # fmt: skip
WIDTH = 80
BAR = "  {desc:<49}{bar} {n_fmt:>5} of {total_fmt}"


@dataclass
class Function:
    name: str
    line: int
    lines: int


@dataclass
class Module:
    """What one source file holds; `trouble` says why it could not be read, if it could not."""

    name: str
    size: int
    lines: int = 0
    classes: int = 0
    branches: int = 0
    functions: list[Function] = field(default_factory=list)
    trouble: str = ""


def census(path):
    module = Module(str(path.relative_to(LIBRARY)), path.stat().st_size)
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old tests
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as exc:
        module.trouble = type(exc).__name__
        return module
    module.lines = source.count("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            module.functions.append(Function(node.name, node.lineno, lines))
        elif isinstance(node, ast.ClassDef):
            module.classes += 1
        elif isinstance(node, BRANCHES):
            module.branches += 1
    return module


def in_a_loop(paths):
    yield from map(lambda path: census(path), paths)  # noqa: C417 - the same lambda as below


def by_the_executor(paths):
    with HookPoolExecutor() as pool:
        yield from pool.map(lambda path: census(path), paths)


def by_the_context(paths):
    with multiprocessing.get_context("hookpool").Pool() as pool:
        yield from pool.imap(lambda path: census(path), paths, chunksize=16)


def by_joblib(paths):
    hookpool.joblib.register()
    work = joblib.delayed(lambda path: census(path))
    yield from joblib.Parallel(n_jobs=-1, backend="hookpool", return_as="generator")(
        work(path) for path in paths
    )


WAYS = {
    "a plain loop, one process": in_a_loop,
    "HookPoolExecutor().map(lambda ...)": by_the_executor,
    'get_context("hookpool").Pool().imap(lambda ...)': by_the_context,
    'joblib.Parallel(backend="hookpool")': by_joblib,
}


# What the standard pool says to it. With "fork" its workers are copies of its process, and the
# lambda fails on its way to them. With "forkserver", the default since Python 3.14, each worker
# would first run the whole script again. Each try is a script of its own, with a time limit, since
# neither is sure to end.

UNGUARDED = """
import concurrent.futures, multiprocessing, sys
context = multiprocessing.get_context(sys.argv[1])
with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    print(list(pool.map(lambda x: x * 2, range(3))))
"""


def standard_pool_with(method):
    script = subprocess.Popen(
        [sys.executable, "-c", UNGUARDED, method],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = script.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(script.pid, 9)
        script.communicate()
        return "no answer within 20 seconds"
    return (err.strip() or out.strip()).splitlines()[-1].rpartition("process.")[2]


def number(n):
    return f"{n:,}".replace(",", " ")


def title(text):
    print(f"\n{text}\n{'-' * len(text)}")


def quote(label, text):
    """`text` after `label`, folded to the width of the page."""
    room = WIDTH - 14
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    for n, part in enumerate([*lines, line]):
        print(f"  {label if n == 0 else '':<12}{part}")


def shorten(text, room):
    return text if len(text) <= room else "..." + text[3 - room :]


def report(modules):
    good = [module for module in modules if not module.trouble]
    bad = [module for module in modules if module.trouble]
    functions = [(f.lines, f.name, m.name, f.line) for m in good for f in m.functions]

    title("Longest functions")
    for lines, name, file, line in sorted(functions, reverse=True)[:8]:
        print(f"{number(lines):>7} lines   {name:<30.30} {shorten(f'{file}:{line}', 33):>33}")

    title("Most branching modules")
    for module in sorted(good, key=lambda m: m.branches, reverse=True)[:8]:
        per_line = 100 * module.branches / max(module.lines, 1)
        print(
            f"{number(module.branches):>7} branches   {shorten(module.name, 27):<27} "
            f"{number(module.lines):>7} lines   {per_line:5.1f} per 100"
        )

    title("Totals")
    rows = {
        "files": len(modules),
        "lines": sum(m.lines for m in good),
        "classes": sum(m.classes for m in good),
        "functions": len(functions),
        "branches": sum(m.branches for m in good),
    }
    for label, count in rows.items():
        print(f"{number(count):>12}  {label}")
    print(f"{number(len(bad)):>12}  files that do not parse:")
    for kind, count in Counter(module.trouble for module in bad).most_common():
        names = ", ".join(module.name for module in bad if module.trouble == kind)
        quote("", f"{count} x {kind}: {names}")


paths = sorted(
    path
    for path in LIBRARY.rglob("*.py")
    if not {"site-packages", "dist-packages", "__pycache__"}.intersection(path.parts)
)
megabytes = sum(path.stat().st_size for path in paths) / 1e6
print(f"{LIBRARY}: {number(len(paths))} files, {megabytes:.1f} MB")
print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs")
if os.getloadavg()[0] > 0.5 * os.cpu_count():
    print(
        f"Others are using this machine (load {os.getloadavg()[0]:.1f}): times will mean little."
    )

title("What ProcessPoolExecutor says to the lambda")
for method in ("fork", "forkserver"):
    quote(method, standard_pool_with(method))

title("What hookpool says to it")
print(f"  {'':<50}{'seconds':>12}{'gain':>12}")
answers, seconds = {}, {}
for way, run in WAYS.items():
    start = time.perf_counter()
    # A progress bar where a terminal is attached.
    bar = tqdm(run(paths), way, len(paths), leave=False, ncols=WIDTH, bar_format=BAR, disable=None)
    answers[way] = list(bar)
    seconds[way] = time.perf_counter() - start
    gain = next(iter(seconds.values())) / seconds[way]
    print(f"  {way:<50}{seconds[way]:>12.1f}{f'{gain:.2f} x':>12}")

first, *others = answers.values()
for way, modules in answers.items():
    if modules != first or not all(isinstance(module, Module) for module in modules):
        sys.exit(f"{way}: not the same answer as the plain loop")
print(f"  The same {number(len(first))} answers each time, instances of this script's own class.")

report(first)
