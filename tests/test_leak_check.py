"""The leak check of conftest.py sees what it must see, tells it well, and forgives what it may."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

PLANTED = """
import mmap, os, subprocess, threading
import multiprocessing as mp
import pytest
import tests.conftest

tests.conftest.GRACE = 0.1
kept = []

def test_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="stray").start()

def test_process():
    kept.append(subprocess.Popen(["sleep", "30"]))

def test_descriptor():
    kept.append(os.open("/etc/passwd", os.O_RDONLY))

def test_segment():
    with open(f"/dev/shm/{os.environ['SEGMENT']}", "w+b") as file:
        file.truncate(100)
        kept.append(mmap.mmap(file.fileno(), 100))

def test_forgiven_what_ends_by_itself():
    threading.Thread(target=threading.Event().wait, args=(0.02,)).start()

def test_forgiven_garbage():
    pair = list(os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), "rw"))
    pair.append(pair)
    for end in pair[:2]:
        end.close()

def test_forgiven_resource_tracker():
    from multiprocessing import resource_tracker
    resource_tracker.ensure_running()

def test_forgiven_hookpool_fork_server():
    import hookpool
    process = mp.get_context("hookpool").Process(target=lambda: None)
    process.start()
    process.join()
    process.close()

@pytest.fixture(scope="module")
def shared():
    ends = []
    yield ends
    for end in ends:
        os.close(end)

def test_forgiven_what_a_shared_fixture_owns(shared):
    shared += os.pipe()

def test_forgiven_nothing_at_all():
    kept[0].set()
    kept[1].kill()
    kept[1].wait()
"""


def test_each_kind_of_leak_is_reported_and_nothing_else(tmp_path: Path):
    planted = tmp_path / "test_planted.py"
    planted.write_text(PLANTED)
    segment = f"hookpool-test-{tmp_path.name}"
    options = [
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(planted)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "SEGMENT": segment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    Path("/dev/shm", segment).unlink()

    blamed = set(re.findall(r"^ERROR .*::(test_\w+)", done.stdout, re.M))
    assert blamed == {
        "test_thread",
        "test_process",
        "test_descriptor",
        "test_segment",
        "test_forgiven_nothing_at_all",  # the last of the file: the check around the whole file
    }, done.stdout
    assert "10 passed, 5 errors" in done.stdout, done.stdout
    assert re.search(r"thread stray\n(.*\n)*.*in wait", done.stdout)
    assert re.search(r"process pid \d+ state S: sleep 30", done.stdout)
    assert re.search(r"descriptor \d+ -> /etc/passwd", done.stdout)
    assert f"/dev/shm/{segment}" in done.stdout
