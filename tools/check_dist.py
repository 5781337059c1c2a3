"""Look into what `make dist` built, install the wheel in an empty environment and use it there."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

USE = """
import hookpool
from hookpool import HookPoolExecutor
assert {root!r} not in hookpool.__file__, hookpool.__file__
with HookPoolExecutor(max_workers=1) as pool:
    assert list(pool.map(lambda x: x * 2, range(3))) == [0, 2, 4]
"""


def check_wheel(wheel: Path) -> None:
    """A universal wheel with all of the package, the licence, and nothing else."""
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "hookpool").rglob("*") if p.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert names == ours, f"not the same: {sorted(names ^ ours)}"
    assert "hookpool/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def check_sdist(sdist: Path) -> None:
    """Everything needed to run the tests from it."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("pyproject.toml", "README.md", "LICENSE", "Makefile", "tests/conftest.py"):
        assert wanted in names, f"{wanted} is missing in {sdist.name}"


def check_use(wheel: Path) -> None:
    """With nothing but the wheel: no dependency, no checkout."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = f"{folder}/bin/python"
        install = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
        subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True)
        Path(folder, "use.py").write_text(USE.format(root=str(ROOT)))
        subprocess.run([python, "-I", "use.py"], check=True, cwd=folder, timeout=60)


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    check_use(wheel)
    print(f"{wheel.name} and {sdist.name}: complete, and the wheel works on its own")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
