"""Where shared memory is not to be had, large data take the pipe: slower, and never an error."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hookpool import _buffers
from hookpool.executor import HookPoolExecutor
from tests.processes import run_python

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

MB = 1 << 20


def is_mapped() -> bool:
    with open("/proc/self/maps") as maps:
        return "memfd:hookpool" in maps.read()


def use_all_ways(pool: HookPoolExecutor) -> None:
    """Arguments, results, what is captured, put and in common: each is right."""
    x = np.arange(MB // 8)
    assert (pool.submit(lambda x: x[::-1], x).result() == x[::-1]).all()
    assert (pool.submit(lambda n: np.full(MB, n, np.uint8), 7).result() == 7).all()
    assert list(pool.map(lambda n: int(x[n]), range(5))) == list(range(5))
    assert pool.submit(len, bytes(MB)).result() == MB

    def spoil(x: Any, n: int) -> bool:
        clean = bool((x == np.arange(len(x))).all())
        x[:] = -n
        return clean

    assert all(pool.map(spoil, [x] * 10, range(10)))
    handle = pool.put(x)
    assert all(pool.map(spoil, [handle] * 10, range(10)))
    handle = pool.put(x, read_only=True)
    assert set(pool.map(lambda x: x.flags.writeable, [handle] * 10)) == {False}


def denied(code: int) -> Callable[..., Any]:
    def refuse(*args: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("name", "code"),
    [("memfd_create", errno.EPERM), ("memfd_create", errno.ENOSYS), ("memfd_create", errno.EMFILE),
     ("posix_fallocate", errno.ENOSPC), ("posix_fallocate", errno.ENOMEM)],
)  # fmt: skip
def test_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch, name: str, code: int):
    """In a container whose filter of system calls knows no memfd, say."""
    refuse = denied(code)
    monkeypatch.setattr(os, name, refuse)
    with HookPoolExecutor(2, initializer=lambda: setattr(os, name, refuse)) as pool:
        use_all_ways(pool)
        assert not is_mapped()
        assert not any(pool.map(lambda _: is_mapped(), range(4)))


@pytest.mark.parametrize("who", ["owner", "workers"])
def test_one_side_can_lend_and_the_other_cannot(monkeypatch: pytest.MonkeyPatch, who: str):
    refuse = denied(errno.EPERM)
    if who == "owner":
        monkeypatch.setattr(os, "memfd_create", refuse)
    initializer = (lambda: setattr(os, "memfd_create", refuse)) if who == "workers" else None
    with HookPoolExecutor(2, initializer=initializer) as pool:
        use_all_ways(pool)
        assert bool(pool._driver._lender.held) == (who == "workers")


def test_descriptors_cannot_be_passed(monkeypatch: pytest.MonkeyPatch):
    """No socket pair: what a worker would lend cannot reach the owner either."""
    monkeypatch.setattr(_buffers, "CAN_LEND", False)
    with HookPoolExecutor(2) as pool:
        use_all_ways(pool)
        assert not is_mapped()


USE = """if True:
    import sys
    sys.path.insert(0, {root!r})
    from tests.test_large_denied import HookPoolExecutor, is_mapped, use_all_ways
    {before}
    with HookPoolExecutor(2) as pool:
        use_all_ways(pool)
        print(is_mapped())
"""
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_files_must_not_be_as_long_as_that():
    """`ulimit -f`: counts for files in memory, too."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    assert run_python("-c", USE.format(root=ROOT, before=before), timeout=60).strip() == "False"


def test_named_shared_memory_is_tiny():
    """As in a container, where it is 64 MB: memory without a name does not count there."""
    unshare = shutil.which("unshare")
    tiny = "mount -t tmpfs -o size=64k none /dev/shm"
    can = (
        unshare
        and not subprocess.run(
            [unshare, "-rm", "sh", "-c", tiny], capture_output=True, check=False
        ).returncode
    )
    if not can:
        pytest.skip("this machine does not let us mount anything, not even in a namespace")
    before = "import os; assert os.statvfs('/dev/shm').f_blocks * 4096 <= 1 << 16"
    program = USE.format(root=ROOT, before=before)
    assert unshare is not None
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", f'{tiny} && exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr
