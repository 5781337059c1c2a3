"""`_launch`: what a child finds and how it ends, through real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import connection, reduction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hookpool import _forkserver, _launch, _standing
from tests.helpers import ROOT, run_python, wait_until
from tests.launching import (
    Process,
    ended,
    fresh_server,
    in_child,
    nothing,
    sleep_for_ever,
    sleeper,
)

__all__ = ["fresh_server", "sleeper"]  # fixtures

pytestmark = pytest.mark.skipif(not _launch.HAVE_FORK_SERVER, reason="about the fork server")


# --- how a child ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "exitcode"),
    [
        (lambda: None, 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit(), 0),
        (lambda: sys.exit(-1), 255),
        (lambda: sys.exit(1 << 70), 0),
        (lambda: os._exit(7), 7),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
    ],
)
def test_exit_code_is_what_the_child_made_it(target: Any, exitcode: int) -> None:
    process = Process(target=target)
    process.start()
    assert ended(process) == exitcode


def test_exception_in_the_child_is_exit_code_1_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = Process(target=lambda: 1 / 0)
    process.start()
    assert ended(process) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_terminate_and_kill_give_the_signal_as_exit_code() -> None:
    for end, exitcode in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        process = Process(target=sleep_for_ever)
        process.start()
        assert process.is_alive()
        getattr(process, end)()
        assert ended(process) == exitcode


def test_sentinel_is_ready_at_the_end_and_stays_so() -> None:
    process = Process(target=sleep_for_ever)
    process.start()
    assert not connection.wait([process.sentinel], 0)
    process.kill()
    for _ in range(3):
        assert connection.wait([process.sentinel], 20)
        assert process.exitcode == -signal.SIGKILL
    process.join()


def test_sentinel_is_not_held_by_what_the_child_forked() -> None:
    reader, writer = connection.Pipe(duplex=False)

    def fork() -> None:
        if (pid := os.fork()) == 0:
            signal.pause()
        writer.send(pid)

    process = Process(target=fork)
    process.start()
    grandchild = reader.recv()
    try:
        assert ended(process) == 0
        assert connection.wait([process.sentinel], 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)
        reader.close()
        writer.close()


def test_a_closed_process_holds_no_descriptor() -> None:
    process = Process(target=nothing)
    process.start()
    ended(process)
    sentinel = process.sentinel
    process.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(sentinel)


def test_what_does_not_pickle_starts_nothing(fresh_server: None) -> None:
    process = Process(target=print, args=(sys._getframe(),))
    with pytest.raises((TypeError, reduction.pickle.PicklingError)):
        process.start()
    assert _launch.server_pid() is None


class _Holder(Process):
    resource: object = None


def test_what_does_not_pickle_is_named_by_where_the_user_put_it() -> None:
    frame = sys._getframe()
    with pytest.raises(reduction.pickle.PicklingError, match=r"args\[1\]\.held"):
        Process(target=print, args=(1, SimpleNamespace(held=frame))).start()
    with pytest.raises(reduction.pickle.PicklingError, match=r"kwargs\['out'\]"):
        Process(target=print, kwargs={"out": frame}).start()
    holder = _Holder()
    holder.resource = [frame]
    with pytest.raises(reduction.pickle.PicklingError, match=r"resource\[0\]"):
        holder.start()


def _fails_to_unpickle() -> None:
    raise LookupError("not over here")


class _Unloadable:
    def __reduce__(self) -> Any:
        return _fails_to_unpickle, ()


def test_what_does_not_unpickle_is_exit_code_1_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = Process(target=print, args=(_Unloadable(),))
    process.start()
    assert ended(process) == 1
    assert "LookupError: not over here" in capfd.readouterr().err


def test_arguments_larger_than_a_pipe_arrive() -> None:
    data = os.urandom(1 << 20)
    assert in_child(lambda: hash(data) and len(data)) == 1 << 20


def test_a_child_killed_while_its_arguments_are_sent_is_an_exit_code() -> None:
    process = Process(target=print, args=(_Suicide(), bytes(1 << 22)))
    process.start()
    assert ended(process) == -signal.SIGKILL


class _Suicide:
    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGKILL,)


# --- what a child finds ------------------------------------------------------------------------


def test_main_is_an_empty_module_of_that_name() -> None:
    def look() -> tuple[str, bool, list[str]]:
        main = sys.modules["__main__"]
        names = [name for name in vars(main) if not name.startswith("__")]
        return main.__name__, sys.modules["__mp_main__"] is main, names

    assert in_child(look) == ("__main__", True, [])


def test_changes_since_the_server_started_are_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sleeper: Process
) -> None:
    server = _launch.server_pid()
    tmp_path.joinpath("late_module.py").write_text("value = 42")
    monkeypatch.setenv("HOOKPOOL_LATE", "yes")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["late", "arguments"])
    monkeypatch.chdir(tmp_path)

    def look() -> tuple[object, ...]:
        import late_module  # type: ignore[import-not-found]

        environ = os.environ.get("HOOKPOOL_LATE"), os.environ.get("HOME")
        shell = subprocess.getoutput("echo $HOOKPOOL_LATE")
        return late_module.value, *environ, shell, sys.argv, os.getcwd()

    expected = (42, "yes", None, "yes", ["late", "arguments"], str(tmp_path))
    assert in_child(look) == expected
    assert _launch.server_pid() == server


REMOVED_DIRECTORY = """
import os, tempfile
from hookpool import _launch
from tests.launching import in_child

def where():
    there = os.stat(".")
    return there.st_dev, there.st_ino, len(os.listdir("/proc/self/fd"))

def remove():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)

*_, fds = in_child(where)
mine = where()[2]
remove()
server = _launch.server_pid()
assert in_child(where) == (*where()[:2], fds), "as if started now"
assert _launch.server_pid() == server
"""

REMOVED_FROM_THE_START = """
_launch.stop()
remove()
assert in_child(where)[:2] == where()[:2], "also where the server starts there"
assert where()[2] == mine
"""


def test_a_working_directory_that_has_been_removed_is_where_children_are() -> None:
    run_python("-c", REMOVED_DIRECTORY)


@pytest.fixture
def starts_anywhere(tmp_path: Path) -> None:
    """CPython 3.13.0 cannot import `socket` where the working directory has been removed."""
    program = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
    program += "os.execl(sys.executable, sys.executable, '-c', 'import socket')"
    folder = tmp_path / "removed"
    folder.mkdir()
    if subprocess.run([sys.executable, "-c", program, folder], capture_output=True).returncode:
        pytest.skip("this interpreter does not start in a directory that has been removed")


def test_it_is_also_where_a_server_is_started(starts_anywhere: None) -> None:
    run_python("-c", REMOVED_DIRECTORY + REMOVED_FROM_THE_START)


def test_a_spawned_child_is_in_the_removed_directory_as_well(starts_anywhere: None) -> None:
    source = REMOVED_DIRECTORY.replace("*_, fds", "_launch.HAVE_FORK_SERVER = False\n*_, fds")
    run_python("-c", source + REMOVED_FROM_THE_START)


MAIN_FILE = """
import inspect, multiprocessing, sys, hookpool
from tests.launching import in_child

class Thing:
    def method(self):
        return 1

def look():
    return inspect.getsource(Thing), inspect.getfile(Thing), sys.modules["__main__"].__file__

def look_in_child():
    return in_child(look)

def spawn():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(abs, (-1,))

print("run")
assert "return 1" in look()[0]
with hookpool.HookPoolExecutor(1) as pool:
    assert pool.submit(look).result() == look()
    assert pool.submit(look_in_child).result() == look()
    assert pool.submit(spawn).result() == 1
    assert "empty in a process" in pool.submit(lambda: repr(sys.modules["__main__"])).result()
"""


def test_the_main_module_has_its_file_and_nobody_runs_it_again(tmp_path: Path) -> None:
    """The spawned children of a worker would, in a program that has no guard against it."""
    program = tmp_path / "program.py"
    program.write_text(MAIN_FILE)
    assert run_python(str(program)) == "run\n"


RELATIVE = """
import hookpool
def far():
    from .other import value
    return value
with hookpool.HookPoolExecutor(1) as pool:
    print(pool.submit(far).result())
"""


def test_a_task_imports_relatively_without_a_warning(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name, text in {"__init__": "", "other": "value = 42", "main": RELATIVE}.items():
        (package / f"{name}.py").write_text(text)
    assert run_python("-W", "error", "-m", "package.main", cwd=tmp_path) == "42\n"


UNUSUAL_MAIN = """
import os, sys, tempfile
from hookpool import _launch
from tests.launching import in_child
in_child(lambda: None)  # a server cannot be started where the directory has been removed
_launch.HAVE_FORK_SERVER = {forked}
{change}
assert in_child(lambda x: x + 1, 41) == 42
"""


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        "del __spec__",  # as debuggers leave it before Python 3.13, and the %reset of notebooks
        "del __spec__, __name__, __loader__, __package__, __doc__",
        "del sys.modules['__main__']",
        "sys.modules['__main__'] = None",
    ],
)
def test_children_start_whatever_is_left_of_the_main_module(change: str, forked: bool) -> None:
    run_python("-c", UNUSUAL_MAIN.format(change=change, forked=forked))


def test_also_where_the_working_directory_has_been_removed() -> None:
    change = "del __spec__; os.chdir(folder := tempfile.mkdtemp()); os.rmdir(folder)"
    run_python("-c", UNUSUAL_MAIN.format(change=change, forked=True))


STANDING = """
import os, resource
from hookpool import _launch
from hookpool._launch import Modules
from tests.launching import in_child

def look():
    import os, resource
    with open("/proc/self/status") as status:
        umask = [line for line in status if line.startswith("Umask:")]
    return (
        os.getresuid(), os.getresgid(), os.getgroups(), umask, os.nice(0),
        os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE),
    )

_launch.expect(Modules())
before = look()
in_child(look)
server = _launch.server_pid()
assert in_child(look) == before
assert _launch.server_pid() == server, "nothing has changed"
{change}
assert look() != before
assert in_child(look) == look()
assert _launch.server_pid() != server
"""

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
ONE_CPU = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")


@pytest.mark.parametrize(
    "change",
    [
        "os.umask(0o077)",
        "os.nice(1)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))",
        pytest.param("os.sched_setaffinity(0, list(before[5])[:1])", marks=ONE_CPU),
        pytest.param("os.setgroups([]); os.setresgid(1234, 1234, 1234)", marks=AS_ROOT),
    ],
)
def test_rights_given_up_since_the_server_started_are_not_had_by_children(change: str) -> None:
    run_python("-c", STANDING.replace("{change}", change))


def test_what_the_kernel_says_in_proc_is_asked_elsewhere_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: str) -> bytes:
        raise FileNotFoundError(path)

    with_proc = _standing.standing()
    monkeypatch.setattr(_standing, "_read", read)
    without = _standing.standing()
    assert without == _standing.standing() != with_proc
    assert os.getresgid() in without


def test_a_server_that_may_not_be_killed_any_more_is_left_alone(
    fresh_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden() -> None:
        raise PermissionError

    _launch.expect(_launch.Modules())
    server = _launch._server
    assert server is not None
    with monkeypatch.context() as patch:
        patch.setattr(server.popen, "kill", forbidden)
        assert not server._kill()
    assert server._kill()


def test_standard_streams_are_those_of_the_moment(
    capfd: pytest.CaptureFixture[str], sleeper: Process
) -> None:
    def speak() -> None:
        sys.stdout.write("to stdout\n")
        sys.stderr.write("to stderr\n")

    process = Process(target=speak)
    process.start()
    ended(process)
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")


def test_closed_standard_streams_are_no_obstacle() -> None:
    run_python("-c", CLOSED_STREAMS)


CLOSED_STREAMS = """
import os
os.close(0), os.close(1)
from tests.launching import Process, ended, nothing
process = Process(target=nothing)
process.start()
assert ended(process) == 0
"""


@pytest.mark.parametrize("flags", [["-I"], ["-E"], ["-S"], ["-I", "-S"]])
def test_interpreter_flags_do_not_hide_us_from_the_child(flags: list[str]) -> None:
    source = f"""
import sys
sys.path[:] = {sys.path!r}
from tests.launching import in_child
assert in_child(lambda: list(sys.flags)) == list(sys.flags)
"""
    run_python(*flags, "-c", source)


def test_a_request_interrupted_in_the_middle_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, fresh_server: None, sleeper: Process
) -> None:
    send = _forkserver._send

    def interrupted(control: Any, data: bytes, fds: Any) -> None:
        if data == b"+":
            raise KeyboardInterrupt
        send(control, data, fds)

    monkeypatch.setattr(_forkserver, "_send", interrupted)
    ends = [connection.Connection(os.dup(1)) for _ in range(_forkserver.MAX_PER_MESSAGE)]
    try:
        with pytest.raises(KeyboardInterrupt):
            Process(target=nothing, args=(ends,)).start()
    finally:
        for end in ends:
            end.close()
    assert in_child(lambda: "well") == "well"
    sleeper.kill()
    assert ended(sleeper) == -signal.SIGKILL
    wait_until(lambda: [old.popen.poll() for old in _launch._lingering] == [0])


# --- a process forked from the owner -----------------------------------------------------------


def test_a_forked_owner_has_its_own_server_and_disturbs_none(sleeper: Process) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            undisturbed = _launch.server_pid() is None and _launch.server_fds() == set()
            own = in_child(os.getppid) == _launch.server_pid()
            sleeper._popen.poll()
            _launch.stop()
            os._exit(0 if undisturbed and own else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert sleeper.is_alive()
    assert in_child(lambda: 1) == 1


def test_a_forked_owner_does_not_keep_the_children_of_a_dead_one() -> None:
    run_python("-c", FORKED_OWNER)


FORKED_OWNER = """
import os, signal
from multiprocessing import connection
from tests.launching import Mortal, is_gone, sleep_for_ever
from tests.helpers import wait_until

reader, writer = connection.Pipe(duplex=False)
if (owner := os.fork()) == 0:
    mortal = Mortal(target=sleep_for_ever)
    mortal.start()
    if (bystander := os.fork()) == 0:
        signal.pause()  # with all descriptors of the owner but those its children watch
    writer.send((mortal.pid, bystander))
    signal.pause()
mortal, bystander = reader.recv()
os.kill(owner, signal.SIGKILL)
os.waitpid(owner, 0)
wait_until(lambda: is_gone(mortal))
assert not is_gone(bystander)
os.kill(bystander, signal.SIGKILL)
"""


# --- without a fork server -----------------------------------------------------------------------


@pytest.fixture
def no_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "HAVE_FORK_SERVER", False)


def test_spawn_gives_the_same_child(no_fork_server: None, fresh_server: None) -> None:
    value = 5

    def look() -> tuple[object, ...]:
        main = sys.modules["__main__"]
        names = [name for name in vars(main) if not name.startswith("__")]
        return value, main.__name__, names, os.getcwd(), os.environ.get("HOME")

    expected = (5, "__main__", [], os.getcwd(), os.environ.get("HOME"))
    assert in_child(look) == expected
    assert _launch.server_pid() is None


def test_spawn_finds_us_under_interpreter_flags() -> None:
    source = f"""
import sys
sys.path[:] = {sys.path!r}
from hookpool import _forkserver, _launch, _standing
_launch.HAVE_FORK_SERVER = False
from tests.launching import in_child
assert in_child(lambda: list(sys.flags)) == list(sys.flags)
"""
    run_python("-I", "-S", "-c", source)


# --- what looks into children ------------------------------------------------------------------


WAITS_AT_THE_EXIT = """
import os
from multiprocessing import util
import hookpool
from hookpool import _launch

def is_gone():
    try:
        os.kill(server, 0)
    except ProcessLookupError:
        print("the server has ended")

# Before any child, as a tool does that has the program run.
util.Finalize(None, is_gone, exitpriority=-1)
child = hookpool.context.HookContext().Process(target=print, args=("the child is done",))
child.start()
server = _launch.server_pid()
"""


def test_what_is_called_at_the_exit_finds_no_server_that_still_runs() -> None:
    """A tracer waited there for all that the program had started, while the server waited for
    its turn.
    """
    assert run_python("-c", WAITS_AT_THE_EXIT) == "the child is done\nthe server has ended\n"


COVERED = """
import multiprocessing, hookpool
ctx = multiprocessing.get_context("hookpool")
def work(x):
    y = x + 1
    return y * 2
def main():
    process = ctx.Process(target=work, args=(1,))
    process.start()
    process.join()
    with ctx.Pool(1) as pool:
        assert pool.map(lambda x:
            work(x), [1]) == [4]
        pool.close()
        pool.join()
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", ["concurrency = multiprocessing", "patch = subprocess, _exit"]
)
def test_coverage_sees_what_children_run(settings: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage", "7.10")
    tmp_path.joinpath("program.py").write_text(COVERED)
    tmp_path.joinpath("rc").write_text(
        f"[run]\ninclude = program.py\nparallel = True\n{settings}\n"
    )
    for command in (["run", "program.py"], ["combine"], ["report", "--fail-under=100"]):
        run_python("-m", "coverage", command[0], "--rcfile=rc", *command[1:], cwd=tmp_path)


FROZEN = """
import multiprocessing, multiprocessing.spawn, os, sys
sys.frozen, sys.executable = True, os.path.abspath("app")
multiprocessing.set_executable(sys.executable)
import hookpool

if __name__ == "__main__":
    multiprocessing.spawn.freeze_support()  # what freezers put behind the public name
    assert sys.argv[1:] == [], "a child runs the program"
    ctx = multiprocessing.get_context("hookpool")
    with ctx.Pool(1) as pool:
        assert pool.map(lambda x: x * 2, [1, 2]) == [2, 4]
    sys.stdout.write("once")
"""


def test_in_a_frozen_program_children_start_by_freeze_support(tmp_path: Path) -> None:
    """As far as can be without freezing: what starts a child is the program, no interpreter."""
    tmp_path.joinpath("program.py").write_text(FROZEN)
    app = tmp_path / "app"
    app.write_text(
        f'#!/bin/sh\ncase "$1" in --multiprocessing-fork) exec {sys.executable} program.py "$@";; '
        f'*) exec {sys.executable} "$@";; esac\n'  # the resource tracker, as freezers treat it
    )
    app.chmod(0o755)
    assert run_python("program.py", cwd=tmp_path) == "once"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["--onedir", "--onefile"])
def test_frozen_by_pyinstaller(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    source = FROZEN.replace(".spawn.freeze", ".freeze").splitlines(keepends=True)
    tmp_path.joinpath("program.py").write_text("".join(source[:2] + source[4:]))
    places = ["--paths", str(ROOT), "--distpath", "dist", "--noconfirm"]
    run_python("-m", "PyInstaller", kind, *places, "program.py", cwd=tmp_path, timeout=250)
    app = tmp_path / "dist" / ("program" if kind == "--onefile" else "program/program")
    done = subprocess.run([app], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once", "")


STRANGER = """
import multiprocessing
from multiprocessing import context
class Stranger(context.SpawnContext):
    _name = "stranger"
context._concrete_contexts["stranger"] = Stranger()
multiprocessing.set_start_method("stranger")
from hookpool import HookPoolExecutor
with HookPoolExecutor(1) as pool:
    print(pool.submit(lambda: 42).result())
"""


def test_a_program_whose_default_method_no_child_knows_can_start_children() -> None:
    assert run_python("-c", STRANGER).strip() == "42"
