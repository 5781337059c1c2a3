"""`_forkserver`: the server's life and death, and what its children are born with."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

import pytest

from hookpool import _launch
from tests.helpers import run_python, wait_until
from tests.launching import (
    Process,
    ended,
    fresh_server,
    in_child,
    is_gone,
    nothing,
    sleep_for_ever,
    sleeper,
)

__all__ = ["fresh_server", "sleeper"]  # fixtures

pytestmark = pytest.mark.skipif(not _launch.HAVE_FORK_SERVER, reason="no fork server here")


# --- what children are born with -----------------------------------------------------------------


def test_children_have_different_random_states(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    monkeypatch.setattr(Process, "preload", ("random", "numpy.random"))

    def draw() -> tuple[float, float]:
        import random

        import numpy.random

        return random.random(), numpy.random.random()

    draws = [in_child(draw) for _ in range(3)]
    assert len({x for x, _ in draws}) == len({y for _, y in draws}) == 3


def test_signals_and_garbage_collector_are_those_of_a_fresh_interpreter() -> None:
    def look() -> tuple[object, ...]:
        interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return interrupt, signal.getsignal(signal.SIGCHLD), gc.isenabled()

    assert in_child(look) == (True, signal.SIG_DFL, True)


def test_a_collection_in_a_child_leaves_alone_what_the_server_had() -> None:
    """To look through it would copy it, in each child."""
    assert in_child(gc.get_freeze_count) > 1000


def test_preloaded_modules_are_there_and_a_broken_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Process, "preload", ("colorsys", "there_is_no_such_module"))
    assert in_child(lambda: "colorsys" in sys.modules)
    assert "could not preload there_is_no_such_module" in capfd.readouterr().err


def test_a_server_waits_for_no_resource_tracker() -> None:
    run_python("-c", NO_TRACKER_YET)


NO_TRACKER_YET = """
import hookpool, multiprocessing
from multiprocessing import resource_tracker
from hookpool import _launch
ctx = multiprocessing.get_context("hookpool")
ctx.expect_processes()
assert _launch.server_pid() is not None
assert resource_tracker._resource_tracker._fd is None
process = ctx.Process(target=ctx.Lock)
process.start()
process.join()
assert process.exitcode == 0
assert resource_tracker._resource_tracker._fd is not None
"""


def test_a_server_that_does_not_end_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow_end.py").write_text("import atexit, time; atexit.register(time.sleep, 3600)")
    run_python("-c", SLOW_END, str(tmp_path))


SLOW_END = """
import os, sys
sys.path.insert(0, sys.argv[1])
import hookpool, multiprocessing
from hookpool import _launch
ctx = multiprocessing.get_context("hookpool")
ctx.set_forkserver_preload(["slow_end"])
process = ctx.Process(target=print)
process.start()
process.join()
server = _launch.server_pid()
_launch.PATIENCE = 0.2
hookpool.context.stop()
assert not os.path.exists(f"/proc/{server}")
"""


def test_what_a_preloaded_module_makes_for_itself_is_tracked_while_the_server_lives(
    tmp_path: Path,
) -> None:
    """By a tracker of the server's: the owner's, told of what it does not know, complained."""
    tmp_path.joinpath("with_a_lock.py").write_text(
        "import multiprocessing\nlock = multiprocessing.get_context('spawn').Lock()\n"
    )
    assert run_python("-c", PRELOADED_LOCK, cwd=tmp_path) == "entered\n"


PRELOADED_LOCK = """
import os
os.dup2(1, 2)
import hookpool, multiprocessing
def use():
    import with_a_lock
    with with_a_lock.lock:
        print("entered")
ctx = multiprocessing.get_context("hookpool")
ctx.set_forkserver_preload(["with_a_lock"])
process = ctx.Process(target=use)
process.start()
process.join()
"""


# --- descriptors -------------------------------------------------------------------------------


def test_a_child_logs_each_line_once_and_the_server_nothing() -> None:
    """A server that logs as its owner does has children that do so twice."""
    lines = run_python("-c", LOGGING).splitlines()
    assert lines.count("[INFO/HookProcess-1] said once") == 1
    assert not [line for line in lines if "forkserver" in line]


LOGGING = """
import hookpool, logging, multiprocessing, os
os.dup2(1, 2)
multiprocessing.log_to_stderr(logging.INFO)
ctx = multiprocessing.get_context("hookpool")
process = ctx.Process(target=lambda: multiprocessing.get_logger().info("said once"))
process.start()
process.join()
hookpool.context.stop()
"""


def test_more_descriptors_than_one_message_takes_arrive() -> None:
    pipes = [os.pipe() for _ in range(300)]
    ends = [connection.Connection(r, writable=False) for r, _ in pipes]
    try:
        for number, (_, w) in enumerate(pipes):
            os.write(w, b"%d" % number)
        got = in_child(lambda: [int(os.read(end.fileno(), 9)) for end in ends])
        assert got == list(range(300))
    finally:
        for _, w in pipes:
            os.close(w)
        for end in ends:
            end.close()


def test_a_server_out_of_descriptors_says_so() -> None:
    run_python("-c", OUT_OF_DESCRIPTORS)


OUT_OF_DESCRIPTORS = """
import errno, os, resource
from multiprocessing import connection
from hookpool import _launch
from tests.launching import Process, ended, nothing

process = Process(target=nothing)
process.start()
assert ended(process) == 0
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.prlimit(_launch.server_pid(), resource.RLIMIT_NOFILE, (40, hard))
ends = [end for _ in range(50) for end in connection.Pipe(duplex=False)]
try:
    Process(target=print, args=(ends,)).start()
except OSError as exc:
    assert exc.errno == errno.EMFILE, exc
else:
    raise AssertionError("no error")
process = Process(target=nothing)
process.start()
assert ended(process) == 0
"""


def test_a_default_socket_timeout_is_not_ours() -> None:
    run_python("-c", DEFAULT_TIMEOUT)


DEFAULT_TIMEOUT = """
import socket
socket.setdefaulttimeout(0.001)
from tests.launching import in_child
assert in_child(lambda: 5) == 5
"""


# --- the server's own life ---------------------------------------------------------------------


def test_one_server_serves_all_starts_from_all_threads() -> None:
    servers, answers = [], []

    def start() -> None:
        answers.append(in_child(os.getppid))
        servers.append(_launch.server_pid())

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(servers)) == 1
    assert set(answers) == set(servers)


def test_death_of_the_server_ends_no_child_and_the_next_start_makes_a_new_one() -> None:
    reader, writer = connection.Pipe()
    process = Process(target=lambda: sys.exit(reader.recv()))
    process.start()
    server = _launch.server_pid()
    os.kill(server, signal.SIGKILL)
    assert in_child(lambda: "served") == "served"
    assert _launch.server_pid() != server
    assert process.is_alive()
    writer.send(5)
    assert ended(process) == 5
    reader.close()
    writer.close()


def test_exit_code_of_a_child_that_outlived_its_server(sleeper: Process) -> None:
    stranger = Process(target=sleep_for_ever)
    stranger.start()
    _kill_server()
    sleeper.kill()
    assert ended(sleeper) == -signal.SIGKILL
    os.kill(stranger.pid, signal.SIGKILL)
    assert ended(stranger) == _launch.EXITCODE_UNKNOWN


@pytest.mark.parametrize(
    ("end", "exitcode"),
    [(sys.exit, 7), (int, 0), (os._exit, _launch.EXITCODE_UNKNOWN)],
    ids=["exits", "returns", "leaves without a word"],
)
def test_exit_code_of_a_child_that_ends_while_its_server_dies(
    fresh_server: None, end: Callable[[int], object], exitcode: int
) -> None:
    process = Process(target=end, args=(7,))
    process.start()
    server = _launch.server_pid()
    os.kill(server, signal.SIGSTOP)  # whatever becomes of the child, it will not be reported
    wait_until(lambda: is_gone(process.pid))
    _kill_server()
    assert ended(process) == exitcode


def test_what_a_child_forked_says_nothing_in_its_name() -> None:
    reader, writer = connection.Pipe(duplex=False)

    def fork() -> None:
        reader.recv()
        pid = os.fork()
        if pid == 0:
            sys.exit(9)
        os.waitpid(pid, 0)
        sys.exit(3)

    process = Process(target=fork)
    process.start()
    _kill_server()
    writer.send("fork")
    assert ended(process) == 3
    reader.close()
    writer.close()


def _kill_server() -> None:
    """Kill it and wait until it has gone: its end of the status channels closes before that."""
    pid = _launch.server_pid()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_server_that_dies_over_its_preloads_is_an_error_that_names_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.joinpath("deadly.py").write_text("import os; os._exit(9)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Process, "preload", ("deadly",))
    with pytest.raises(OSError, match=r"exit code 9.*preload deadly"):
        Process(target=nothing).start()
    monkeypatch.setattr(Process, "preload", ())
    assert in_child(lambda: 1) == 1


def test_stop_ends_the_server(fresh_server: None) -> None:
    in_child(nothing)
    pid = _launch.server_pid()
    _launch.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert _launch.server_pid() is None
    assert _launch.server_fds() == set()


def test_a_stopped_server_stays_for_the_exit_code_of_its_last_child(
    fresh_server: None, sleeper: Process
) -> None:
    _launch.stop()
    server = _launch._lingering[-1]
    os.kill(sleeper.pid, signal.SIGTERM)
    assert ended(sleeper) == -signal.SIGTERM
    wait_until(lambda: server.popen.poll() == 0)


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_server_ends_with_its_owner_however_that_ends(end: str) -> None:
    # `run_python` fails when any process of the program is left.
    source = f"""
import os, sys
from tests.launching import in_child, nothing
in_child(nothing)
if os.fork() == 0:
    {end}
os.wait()
"""
    run_python("-c", source)


def test_server_ignores_an_interrupt_at_the_keyboard(sleeper: Process) -> None:
    server = _launch.server_pid()
    os.kill(server, signal.SIGINT)
    assert in_child(lambda: 1) == 1
    assert _launch.server_pid() == server


def test_an_interrupt_at_the_keyboard_reaches_no_server_that_has_just_been_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("pressed.py").write_text("import os; os.kill(os.getpid(), 2)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Process, "preload", ("pressed",))
    assert in_child(lambda: "pressed" in sys.modules)
    monkeypatch.setattr(Process, "preload", ())
    assert in_child(signal.pthread_sigmask, signal.SIG_BLOCK, ()) == set()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert capfd.readouterr().err == ""


def test_signals_blocked_in_the_thread_that_starts_are_blocked_in_the_child_only(
    fresh_server: None,
) -> None:
    """A server with SIGCHLD blocked would never hear of the end of a child."""
    blocked: list[set[int]] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        blocked.append(in_child(signal.pthread_sigmask, signal.SIG_BLOCK, ()))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert signal.SIGTERM in blocked[0]
    assert in_child(signal.pthread_sigmask, signal.SIG_BLOCK, ()) == set()


def test_server_listens_on_no_address(sleeper: Process) -> None:
    inodes = set()
    for entry in Path(f"/proc/{_launch.server_pid()}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry))
        except OSError:
            continue
    listening = [
        line.split()
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if int(line.split()[3], 16) & 0x10000
    ]
    assert not [words for words in listening if f"socket:[{words[6]}]" in inodes]
