"""A Python at a terminal, used as a person uses it: typed at, or pasted into.

`at_the_prompt` types line by line at the classic prompt, each line when the last was answered.
`in_the_editor` pastes the program into the editor that is the prompt since Python 3.13.
"""

from __future__ import annotations

import ast
import errno
import io
import os
import pty
import select
import subprocess
import termios
import threading
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Program

#: An error at a prompt ends nothing, so the last thing typed has the exit status tell about it.
LEAVE = "raise SystemExit(hasattr(__import__('sys'), 'last_value'))"


def at_the_prompt(source: str, folder: Path, timeout: float) -> str:
    """What `source` prints when it is typed at the classic prompt."""
    prompts = {"1": f"<1-{os.urandom(8).hex()}>", "2": f"<2-{os.urandom(8).hex()}>"}
    startup = f"import sys\nsys.ps1, sys.ps2 = {prompts['1']!r}, {prompts['2']!r}\ndel sys\n"
    # "dumb" keeps readline from drawing; 3.13's editor would indent by itself what we indent.
    extra = {"TERM": "dumb", "PYTHON_BASIC_REPL": "1"}
    with _python_at_a_terminal(folder, startup, extra, timeout) as (program, terminal):
        typist = _Typist(terminal, prompts, program)
        try:
            typist.hear()
            for statement in statements_as_typed(source):
                typist.type(statement)
            typist.leave(LEAVE)
            program.process.wait(program.remaining())
        except (TimeoutError, subprocess.TimeoutExpired) as exc:
            program.give_up()
            program.fail(f"no end ({exc})", "".join(typist.heard), _errors(folder))
        program.expect_a_good_end("".join(typist.heard), _errors(folder))
    return "".join(typist.heard)


def in_the_editor(source: str, folder: Path, timeout: float) -> str:
    """What `source` prints when it is pasted as a whole into the prompt of Python >= 3.13."""
    output = folder / "stdout"
    # The editor draws on the descriptor; what the program prints is kept apart from that.
    startup = f"import sys\nsys.stdout = open({str(output)!r}, 'w', buffering=1)\ndel sys\n"
    with _python_at_a_terminal(folder, startup, {"TERM": "xterm"}, timeout) as (program, terminal):
        reader = threading.Thread(target=_drain, args=(terminal,))
        reader.start()
        try:
            os.write(terminal, f"\x1b[200~{source.rstrip()}\x1b[201~\n\n{LEAVE}\n".encode())
            program.process.wait(program.remaining())
        except subprocess.TimeoutExpired:
            program.give_up()
            program.fail("no end", output.read_text(), _errors(folder))
        finally:
            program.process.kill()
            reader.join()
        program.expect_a_good_end(output.read_text(), _errors(folder))
    return output.read_text()


@contextmanager
def _python_at_a_terminal(
    folder: Path, startup: str, extra: dict[str, str], timeout: float
) -> Iterator[tuple[Program, int]]:
    (folder / "startup.py").write_text(startup)
    ours = {
        "HOME": str(folder),
        "PYTHONSTARTUP": str(folder / "startup.py"),
        "PYTHON_HISTORY": str(folder / "history"),
    }
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (50, 10_000))  # so wide that no echoed line is ever wrapped
    try:
        with (folder / "stderr").open("w") as errors:
            program = Program(
                ("-q", "-i"),
                env=ours | extra,
                timeout=timeout,
                stdin=inner,
                stdout=inner,
                stderr=errors,
                cwd=folder,
            )
        os.close(inner)
        with program:
            yield program, terminal
    finally:
        os.close(terminal)


def _errors(folder: Path) -> str:
    return (folder / "stderr").read_text()


def _drain(terminal: int) -> None:
    """Read what is drawn, or the one who draws would block; ends with the program."""
    while _read(terminal):
        pass


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError as exc:
        if exc.errno != errno.EIO:  # how Linux says that the last holder of a terminal is gone
            raise
        return b""


def statements_as_typed(source: str) -> Iterator[list[str]]:
    """Cut a program into its top-level statements, less the blank lines that would end a block."""
    lines = source.splitlines()
    inside_strings = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.start[0] != token.end[0]
        for line in range(token.start[0] + 1, token.end[0] + 1)
    }
    done = 0
    for node in ast.parse(source).body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        last = node.end_lineno or node.lineno
        if first <= done:  # `a = 1; b = 2`: typed with the statement before it
            continue
        done = last
        yield [
            lines[n - 1]
            for n in range(first, last + 1)
            if lines[n - 1].strip() or n in inside_strings
        ]


class _Typist:
    """Types at a terminal; `heard` is what the program printed, less prompts and echo."""

    def __init__(self, terminal: int, prompts: dict[str, str], program: Program) -> None:
        self.heard: list[str] = []
        self._program = program
        self._terminal = terminal
        self._prompts = prompts
        self._pending = ""

    def type(self, lines: list[str]) -> None:
        for line in lines:
            prompt = self._say(line)
        if prompt == "2":
            self._say("")

    def leave(self, line: str) -> None:
        os.write(self._terminal, (line + "\n").encode())
        try:
            while True:
                self._listen()
        except EOFError:
            self.heard.append(_without_echo(self._pending))

    def _say(self, line: str) -> str:
        os.write(self._terminal, (line + "\n").encode())
        text, prompt = self.hear()
        self.heard.append(_without_echo(text))
        return prompt

    def hear(self) -> tuple[str, str]:
        """Wait for the next prompt: the text before it, and which prompt it was."""
        while True:
            for which, prompt in self._prompts.items():
                text, found, rest = self._pending.partition(prompt)
                if found:
                    self._pending = rest
                    return text, which
            try:
                self._listen()
            except EOFError:
                self.heard.append(self._pending)
                raise TimeoutError("the interpreter ended by itself") from None

    def _listen(self) -> None:
        ready, _, _ = select.select([self._terminal], [], [], self._program.remaining())
        if not ready:
            self.heard.append(self._pending)
            raise TimeoutError("no prompt came back")
        data = _read(self._terminal)
        if not data:
            raise EOFError
        self._pending += data.decode(errors="replace").replace("\r\n", "\n")


def _without_echo(text: str) -> str:
    """What came after the typed line, which the terminal repeats first."""
    return text.partition("\n")[2]
