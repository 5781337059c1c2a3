"""Make or complete a virtual environment: `python make_venv.py FOLDER GROUP...`.

Run by the Makefile. Installs hookpool in editable form and the named dependency groups of
pyproject.toml, which are read here rather than by pip: so any pip that comes with Python >= 3.11
will do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def requirements(groups: dict[str, list[str | dict[str, str]]], name: str) -> list[str]:
    """The requirements of one dependency group (PEP 735), its included groups' first."""
    found = []
    for item in groups[name]:
        found += [item] if isinstance(item, str) else requirements(groups, item["include-group"])
    return list(dict.fromkeys(found))


def version_of(python: Path) -> str:
    """`3.12.1` and the like; empty when this interpreter does not run."""
    command = [python, "-Ic", "import platform; print(platform.python_version())"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except OSError:
        return ""


def make(folder: Path, python: Path) -> None:
    """An environment at `folder` on the interpreter that runs this script, unless it is there."""
    ours = sys.version.split()[0]
    if version_of(python) == ours:
        return
    print(f"making {folder} with Python {ours} ({sys.executable})", flush=True)
    if subprocess.run(
        [sys.executable, "-m", "venv", "--clear", folder], capture_output=True
    ).returncode:
        # Debian's python3 comes without ensurepip: then another pip installs into the environment.
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True
        )


def pip_for(folder: Path, python: Path) -> list[str]:
    """The command that installs into the environment at `folder`."""
    for command in (
        [str(python), "-m", "pip"],
        [sys.executable, "-m", "pip", "--python", str(python)],
    ):
        if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    shutil.rmtree(folder)  # or the next try, with pip, would take it for complete
    sys.exit(
        f"{sys.executable} has neither ensurepip nor pip, so nothing can be installed.\n"
        "Install them (Debian and Ubuntu: apt-get install python3-venv python3-pip) or choose\n"
        "another interpreter: make PYTHON=/path/to/python3.12 ..."
    )


def main(folder: Path, *names: str) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    python = folder / "bin" / "python"
    make(folder, python)
    pip = pip_for(folder, python)
    wanted = list(dict.fromkeys(item for name in names for item in requirements(groups, name)))
    plain = sorted({re.split(r"[<>=!~;\[ ]", item)[0] for item in wanted})
    print(f"installing into {folder}: hookpool (editable), {', '.join(plain)}", flush=True)
    quiet = ["-qq", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "install", *quiet, "-e", ROOT, *wanted], check=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except subprocess.CalledProcessError as exc:
        sys.exit(f"failed with exit status {exc.returncode}: {' '.join(map(str, exc.cmd))}")
