"""Every test leaves the house as it found it: no process, thread, descriptor or segment stays.

The check runs around each test, and around each test file for those that share a fixture. Two
processes may live on: hookpool's fork server and multiprocessing's own helpers (resource tracker,
the standard fork server), with the descriptors their owners hold for them. A leak fails the test
and says what leaked: the thread's stack, the process's command line, the descriptor's target.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from hookpool import reduction
from hookpool._raised import traceback_text
from hookpool.executor import HookPoolExecutor
from tests import odd_errors
from tests.agree_child import Child
from tests.elsewhere import Elsewhere
from tests.processes import describe_process

# A shell makes what it runs in the background deaf to Ctrl-C, and so all that this starts; nohup
# to the end of the terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("fast", max_examples=50, deadline=None)
settings.register_profile(
    "thorough",
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

#: All tests of these files are smoke tests: every launch mode, every example, the pickler. Others
#: are marked one by one: CPython's own tests of what we stand in for.
SMOKE = {
    f"test_{n}" for n in ("definitions", "docs", "exports", "interactive", "reduction", "wire")
}

#: In the environment of all that the tests start, also of what has lost its parent.
SESSION = f"HOOKPOOL_TEST_SESSION={secrets.token_hex(8)}".encode()
os.environ.__setitem__(*SESSION.decode().split("="))

#: What ends on its own right after the test gets this long to do so.
GRACE = 5.0

#: Opened once by a library or by the C library and kept for the life of the process; not a leak.
KEPT_OPEN = ("/dev/urandom", "/dev/null")
#: The memory of multiprocessing's shared ctypes, which it keeps for the next ones; has no name.
KEPT_HEAP = re.compile(r"/.*/pym-\d+-\w+ \(deleted\)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SMOKE:
            item.add_marker(pytest.mark.smoke)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    except BaseException as error:
        if odd_errors.is_odd(error):  # pytest would end itself over it
            raise pytest.fail.Exception(traceback_text(error), pytrace=False) from None
        raise


@pytest.fixture
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """As if the test's module were the program itself: what it defines travels by value."""
    reduction.register_pickle_by_value(request.module)
    yield
    reduction.unregister_pickle_by_value(request.module)


class _FailingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("cannot log")


@pytest.fixture
def logging_fails() -> Iterator[None]:
    """A user's handler raises for whatever a pool logs, as the standard pool does."""
    logger, handler = logging.getLogger("concurrent.futures"), _FailingHandler()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """A process that cannot import the tests."""
    with Elsewhere() as one:
        yield one


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """A process that cannot import the tests, and takes what was pickled by whatever pickler."""
    with closing(Child()) as child:
        yield child


@pytest.fixture(scope="module")
def stopover() -> Iterator[Child]:
    """Another one, on the way to it."""
    with closing(Child()) as child:
        yield child


@pytest.fixture
def pool() -> Iterator[HookPoolExecutor]:
    """Two workers."""
    with HookPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    if _has_a_shared_fixture(request):
        yield  # a shared pool replaces workers as it likes; the check around the file sees the end
    else:
        yield from _checked()


@pytest.fixture(autouse=True, scope="module")
def no_leaks_from_shared_fixtures() -> Iterator[None]:
    yield from _checked()


def _has_a_shared_fixture(request: pytest.FixtureRequest) -> bool:
    """Does the test use a fixture of its own file that outlives it?"""
    definitions = request.node._fixtureinfo.name2fixturedefs.values()
    return any(
        found[-1].scope != "function" and found[-1].func.__module__ == request.module.__name__
        for found in definitions
    )


def _checked() -> Iterator[None]:
    before = State.now()
    yield
    deadline = time.monotonic() + GRACE
    while (leaks := State.now().since(before)).any():
        if time.monotonic() > deadline:
            pytest.fail(f"the test left behind\n{leaks.story()}", pytrace=False)
        gc.collect()  # only now: with pandas loaded it costs more than most tests
        time.sleep(0.01)


class State(NamedTuple):
    """What a process can leave behind."""

    processes: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    segments: frozenset[str]

    @classmethod
    def now(cls) -> State:
        helpers, held = _helpers()
        return cls(
            frozenset(_descendants(os.getpid(), helpers)),
            frozenset(threading.enumerate()),
            frozenset((fd, target) for fd, target in _descriptors() if fd not in held),
            frozenset(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else frozenset(),
        )

    def since(self, before: State) -> State:
        return State(
            self.processes - before.processes,
            self.threads - before.threads,
            self.descriptors - before.descriptors,
            self.segments - before.segments,
        )

    def any(self) -> bool:
        """Did the test leave something? Whose a segment is takes long to find out: asked last."""
        return bool(self.processes or self.threads or self.descriptors or _of_ours(self.segments))

    def story(self) -> str:
        """One paragraph per leak."""
        parts = [f"process {describe_process(pid)}" for pid in sorted(self.processes)]
        parts += [_describe_thread(thread) for thread in self.threads]
        parts += [f"descriptor {fd} -> {target}" for fd, target in sorted(self.descriptors)]
        parts += [f"/dev/shm/{name}" for name in sorted(_of_ours(self.segments))]
        return "\n".join(parts)


def _descendants(pid: int, leave_out: frozenset[int]) -> Iterator[int]:
    """All processes below `pid`; those in `leave_out` do not count, those below them do."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(word) for word in children.read_text().split()]
        except OSError:  # the thread or the process has just ended
            continue
        for child in pids:
            if child not in leave_out:
                yield child
            yield from _descendants(child, leave_out)


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listdir itself had open
            continue
        if target not in KEPT_OPEN and not KEPT_HEAP.fullmatch(target):
            yield int(name), target


def _helpers() -> tuple[frozenset[int], frozenset[int]]:
    """The processes that may live on, and the descriptors this process holds for them."""
    pids: set[int | None] = set()
    fds: set[int | None] = set()
    if module := sys.modules.get("multiprocessing.resource_tracker"):
        pids.add(module._resource_tracker._pid)
        fds.add(module._resource_tracker._fd)
    if module := sys.modules.get("multiprocessing.forkserver"):
        pids.add(module._forkserver._forkserver_pid)
        fds.add(module._forkserver._forkserver_alive_fd)
    if module := sys.modules.get("hookpool._launch"):
        pids.add(module.server_pid())
        fds.update(module.server_fds())
    return frozenset(filter(None, pids)), frozenset(filter(None, fds))


def _describe_thread(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else "(no Python frame)"
    return f"thread {thread.name}{' (daemon)' if thread.daemon else ''}\n{stack}"


def _of_ours(segments: frozenset[str]) -> set[str]:
    """Those that one of our processes maps; and those nobody maps, where nobody else makes any.

    /dev/shm belongs to all programs of the machine. While another one uses it too, a segment that
    no process maps any more could be its as well as ours.
    """
    if not segments:
        return set()
    ours, strangers = "", ""
    family = {os.getpid(), *_descendants(os.getpid(), frozenset())}
    for name in os.listdir("/proc"):
        try:
            maps = Path("/proc", name, "maps").read_text() if name.isdigit() else ""
            if "/dev/shm/" not in maps:
                continue
            if int(name) in family or SESSION in Path("/proc", name, "environ").read_bytes():
                ours += maps
            else:
                strangers += maps
        except OSError:  # gone meanwhile, or another user's
            continue
    return {name for name in segments if f"/dev/shm/{name}" in ours or not strangers}
