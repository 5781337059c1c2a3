"""Fill the table of `docs/pickling.md`: `python -m tests.pickling_table` rewrites it.

Each row's program runs as the `__main__` of a process forked for it, is pickled there by each
pickler in turn, and called in another process.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import struct
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.agree_child import Child, observe
from tests.pickling_rows import ROWS, Row

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "pickling.md"
BEGIN = "<!-- table: make it with `python -m tests.pickling_table` -->"
END = "<!-- end of table -->"
OURS = "hookpool"
PICKLERS = {OURS: {}, "cloudpickle": {}, "dill": {"recurse": True}}

CARRIED, CHANGED, REFUSED, LOST = "yes", "changed", "refused", "not loaded"


def rows() -> list[Row]:
    return [row for row in ROWS if row.since <= sys.version_info]


def outcomes(pickler: str) -> dict[str, str]:
    """What `pickler` makes of each row."""
    with closing(_Owner(pickler)) as owner:
        found = {row.label: owner.pickled(row.source) for row in rows()}
    if pickler == OURS:
        # One child for all rows: a row must not depend on having a process to itself.
        with closing(Child()) as child:
            return {label: _outcome(child, *pair) for label, pair in found.items()}
    return {label: _outcome_alone(pickler, *pair) for label, pair in found.items()}


def _outcome_alone(pickler: str, expected: Any, data: bytes | None) -> str:
    with closing(Child("dill" if pickler == "dill" else "pickle")) as child:
        return _outcome(child, expected, data)


def _outcome(child: Child, expected: Any, data: bytes | None) -> str:
    if data is None:
        return REFUSED
    answer = child.ask(data)
    if answer[0] == "lost":
        return LOST
    return CARRIED if answer == expected else CHANGED


class _Owner:
    """A process whose `__main__` becomes each row's program, in a fork of its own."""

    def __init__(self, pickler: str) -> None:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.pickling_table as t"
        # In which order cloudpickle writes what a function refers to, and so what becomes of some
        # rows, is that of a set of names.
        seed = {} if pickler == OURS else {"PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", f"{code}; t.own({pickler!r})"],
            env={**os.environ, **seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def pickled(self, source: str) -> tuple[Any, bytes | None]:
        """What the program gives at home, and its `probe` pickled, if it can be."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(source, self._process.stdin)
        self._process.stdin.flush()
        size = struct.unpack("!I", self._process.stdout.read(4))[0]
        answer: tuple[Any, bytes | None] = pickle.loads(self._process.stdout.read(size))
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=10)


def own(pickler: str) -> None:
    """Serve `_Owner`: fork once per program."""
    module = importlib.import_module(pickler)
    stdin = sys.stdin.buffer
    while stdin.peek(1):
        source = pickle.load(stdin)
        if (pid := os.fork()) == 0:
            answer = pickle.dumps(_answer(module, PICKLERS[pickler], source))
            with io.FileIO(1, "w", closefd=False) as stdout:
                os.write(stdout.fileno(), struct.pack("!I", len(answer)))
                stdout.write(answer)
            os._exit(0)
        os.waitpid(pid, 0)


def _answer(module: Any, options: dict[str, Any], source: str) -> tuple[Any, bytes | None]:
    probe = _program(source)
    try:
        data = module.dumps(probe, **options)
    except Exception:
        data = None
    return observe(_program(source)), data


def _program(source: str) -> Any:
    main = sys.modules["__main__"]
    vars(main).clear()
    vars(main)["__name__"] = "__main__"
    exec(compile(source, "program.py", "exec", dont_inherit=True), vars(main))
    return vars(main)["probe"]


# --- the page ----------------------------------------------------------------------------------


def subjects() -> str:
    """Who was compared, in the words of the page."""
    python = ".".join(map(str, sys.version_info[:2]))
    rivals = [f"{name} {version(name)}" for name in PICKLERS if name != OURS]
    return f"CPython {python}, {', '.join(rivals)} (`recurse=True`)."


def table() -> str:
    columns = {pickler: outcomes(pickler) for pickler in PICKLERS}
    lines = [subjects(), ""]
    section = ""
    for row in rows():
        if row.section != section:
            section = row.section
            lines += ["", f"| {section} | {' | '.join(PICKLERS)} |", "|---|---|---|---|"]
        cells = " | ".join(columns[pickler][row.label] for pickler in PICKLERS)
        lines.append(f"| {row.label} | {cells} |")
    return "\n".join(lines)


def page_with(new: str) -> str:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{head}{BEGIN}\n\n{new}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()))
