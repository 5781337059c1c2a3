"""However the caller was started, the same program does the same.

Each source runs as a file without a guard, by `-c`, from standard input, typed at a prompt, by
`-m` and in a real notebook kernel.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests import processes
from tests.helpers import MODES, ROOT, run_as

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))

in_every_mode = pytest.mark.parametrize("mode", MODES)


def expected(source: str) -> str:
    """What the `# -> ` comments of a program say that it prints."""
    return "".join(f"{line}\n" for line in re.findall(r"# -> (.*)", source))


def check(mode: str, source: str) -> None:
    source = textwrap.dedent(source)
    assert "# -> " in source
    assert run_as(mode, source) == expected(source)


@in_every_mode
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, mode: str):
    check(mode, example.read_text())


@in_every_mode
def test_the_program_itself_runs_only_once(mode: str, tmp_path: Path):
    log = tmp_path / "log"
    source = f"""
        from hookpool import HookPoolExecutor
        with open({str(log)!r}, "a") as file:
            print("run", file=file)

        with HookPoolExecutor(max_workers=2) as pool:
            print(sum(pool.map(lambda x: x, range(10))))  # -> 45
    """
    check(mode, source)
    assert log.read_text() == "run\n"


@in_every_mode
def test_a_task_may_pickle_instances_of_what_main_defines(mode: str):
    """By plain pickle, as joblib's `Memory` does, and whatever the worker has met before."""
    check(
        mode,
        """
        import pickle
        from hookpool import HookPoolExecutor

        class Point:
            def __init__(self, x):
                self.x = x

        def again(point):
            return pickle.loads(pickle.dumps(point))

        with HookPoolExecutor(max_workers=1) as pool:
            point = pool.submit(again, Point(1)).result()
            print(point.x, type(point) is Point)  # -> 1 True

        """,
    )


@in_every_mode
def test_what_is_defined_again_is_sent_again(mode: str):
    """The everyday life of a prompt or notebook: try, correct, try again, with one pool open."""
    check(
        mode,
        """
        from hookpool import HookPoolExecutor
        pool = HookPoolExecutor(max_workers=1)

        class Shape:
            sides = 3

        def describe():
            return f"{name} {Shape().sides}"

        name = "triangle"
        print(pool.submit(describe).result())  # -> triangle 3
        name = "square"
        Shape.sides = 4
        print(pool.submit(describe).result())  # -> square 4

        class Shape:
            sides = 5

        def describe():
            return f"now with {Shape().sides} sides"

        print(pool.submit(describe).result())  # -> now with 5 sides
        shape = pool.submit(lambda: Shape()).result()
        print(isinstance(shape, Shape))  # -> True
        pool.shutdown()
        """,
    )


@in_every_mode
def test_the_initializer_of_joblib_and_its_classes_work(mode: str):
    check(
        mode,
        """
        import joblib, hookpool.joblib
        hookpool.joblib.register()
        scale = None

        def setup(value):
            global scale
            scale = value

        class Box:
            def __init__(self, content):
                self.content = content

        def work(x):
            return Box(scale * x)

        with joblib.parallel_config("hookpool", n_jobs=2, initializer=setup, initargs=(3,)):
            boxes = joblib.Parallel()(joblib.delayed(work)(i) for i in range(4))

        print([box.content for box in boxes])  # -> [0, 3, 6, 9]
        print(all(isinstance(box, Box) for box in boxes), scale)  # -> True None
        """,
    )


@in_every_mode
def test_an_error_from_a_worker_names_the_line_of_the_program(mode: str):
    check(
        mode,
        """
        import traceback
        from hookpool import HookPoolExecutor

        class Trouble(Exception):
            pass

        def work(x):
            raise Trouble(f"no {x}")

        with HookPoolExecutor(max_workers=1) as pool:
            try:
                pool.submit(work, 7).result()
            except Trouble as exc:
                text = "".join(traceback.format_exception(exc))
                print(exc.args, "in work" in text)  # -> ('no 7',) True
        """,
    )


def test_expected_output_is_taken_from_the_comments():
    assert expected("print(1)  # -> 1\nx\nprint('a b')  # -> a b\n") == "1\na b\n"


def test_a_failing_program_is_noticed_in_every_mode():
    for mode in MODES:
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            run_as(mode, "1 / 0")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_process_left_behind_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GONE_WITHIN", 0.1)
    source = "import subprocess; p = subprocess.Popen(['sleep', '60'])"
    with pytest.raises(AssertionError, match=r"(?s)left behind.*sleep 60"):
        run_as("c", source)
