"""Get cloudpickle's own tests and run them with another pickler in cloudpickle's place.

Its source archives up to 2.2.1 carry the tests. They are downloaded into `build/` (never copied
into this repository) and run in a process of their own, with a package called `cloudpickle` on the
path that hands out the functions of the module under test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

from tests.archives import archive

VERSION = "2.2.1"
ROOT = Path(__file__).parents[1]

FACADE = """\
import io, pickle
from {module} import Pickler, dump, dumps, load, loads
from {module} import register_pickle_by_value, unregister_pickle_by_value
from {module} import list_registry_pickle_by_value
DEFAULT_PROTOCOL = pickle.HIGHEST_PROTOCOL
CloudPickler = Pickler
"""
# The test file imports helpers of cloudpickle's at its top; the few tests that call them are left
# out, so any value will do.
HELPERS = """\
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
"""


def unpack(folder: Path, module: str) -> Path:
    """Lay out the tests in `folder`, beside a `cloudpickle` that is `module`."""
    with tarfile.open(archive("cloudpickle", VERSION)) as tar:
        tar.extractall(folder, filter="data")
    root = folder / f"cloudpickle-{VERSION}"
    shutil.rmtree(root / "cloudpickle")
    facade = root / "cloudpickle"
    facade.mkdir()
    (facade / "__init__.py").write_text(FACADE.format(module=module))
    (facade / "compat.py").write_text("import pickle\nfrom pickle import Pickler\n")
    (facade / "cloudpickle.py").write_text(HELPERS)
    (facade / "cloudpickle_fast.py").write_text(HELPERS)
    (root / "pytest.ini").write_text("[pytest]\n")  # none of the settings of wherever this runs
    # Its children get a path with nothing but this folder on it.
    (root / "hookpool").symlink_to(ROOT / "hookpool", target_is_directory=True)
    return root


def run(folder: Path, module: str) -> dict[str, str | None]:
    """Run the tests on `module`: what each that failed said, None for those that passed."""
    root = unpack(folder, module)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(root), f"--junitxml={report}", "--timeout=120"]
    path = os.pathsep.join([str(root), str(root / "tests" / "cloudpickle_testpkg")])
    done = subprocess.run(
        [*command, "tests/cloudpickle_test.py", "tests/cloudpickle_file_test.py"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert report.exists(), f"no report: {done.stdout}{done.stderr}"
    return dict(_outcomes(report))


def _outcomes(report: Path) -> list[tuple[str, str | None]]:
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        bad = [child for child in case if child.tag in {"failure", "error"}]
        if any(child.tag == "skipped" for child in case):
            continue
        found.append((name, bad[0].get("message", "failed") if bad else None))
    return found
