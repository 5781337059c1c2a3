"""How a child Python starts, without the caller's main module: by a fork server, else by spawn.

Owns, in the owner process, the one fork server that it keeps, and the `Popen` objects behind
multiprocessing's Process. Knows no tasks. Any thread may call; one lock orders the requests.

Both ways run multiprocessing's own steps in the child (`spawn._main`: preparation data, then the
pickled Process, then its ``_bootstrap``), from multiprocessing's own command line, so that frozen
programs, coverage and debuggers find what they know. What a hookpool child needs beyond that is
carried by the preparation data themselves, as calls made while they are unpickled (`_Call`).

A forked child is as if started now: import path, working directory, arguments, environment,
ignored signals and standard streams travel with each start, whatever they were when the server was
started. What a child can only inherit (`_standing`: its user, its limits) it has from the server;
when that is not the owner's any more, or when the server has died, the next start makes a new
server. The end of a server ends no child. A process forked from the owner uses none of this: it
closes what it inherited and makes its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import threading
import weakref
from multiprocessing import reduction as mp_reduction
from multiprocessing import resource_tracker, spawn, util
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess
from types import ModuleType

from hookpool import _forkserver
from hookpool._forkserver import (
    InheritedFd,
    Modules,
    Report,
    enter_child,
    enter_forked_child,
)
from hookpool._given import note_given
from hookpool._rebound import Overlay, rebound
from hookpool._standing import standing
from hookpool._streams import filled, pipe, socket_pair

if sys.platform == "win32":
    from multiprocessing import popen_spawn_win32 as stdlib_popen
else:
    from multiprocessing import popen_spawn_posix as stdlib_popen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["Modules", "expect", "popen", "server_fds", "server_pid", "stop"]

#: macOS has fork, but its system libraries do not promise to work in a child that does not exec.
HAVE_FORK_SERVER: Final = (
    hasattr(os, "fork") and mp_reduction.HAVE_SEND_HANDLE and sys.platform != "darwin"
)

#: As in the standard library, for a child whose server was killed before it, where the child said
#: nothing either: when `os._exit`, or a signal that we did not send, ended it.
EXITCODE_UNKNOWN: Final = 255

#: A server may die once, whatever the reason, while a child is started; if new ones die as well,
#: the reason is theirs, most likely in what they preload.
ATTEMPTS: Final = 3

#: A server that takes longer to end hangs in something it preloaded, and is killed.
PATIENCE: Final = 5.0


def popen(process_obj: BaseProcess, modules: Modules = Modules()) -> stdlib_popen.Popen:  # noqa: B008 - a tuple
    """Start the child of a Process; what `Process._Popen` returns.

    It finds these modules imported, where there is a fork server.
    """
    note_given((*process_obj._args, *process_obj._kwargs.values()))  # type: ignore[attr-defined]
    if HAVE_FORK_SERVER:
        return ForkedPopen(process_obj, modules)
    return SpawnedPopen(process_obj)


def expect(modules: Modules) -> None:
    """Children will be started: have a fork server start meanwhile, if there is none.

    Whatever fails here fails again, and is told, when a child is started.
    """
    if HAVE_FORK_SERVER and _server is None:
        with contextlib.suppress(OSError), _lock:
            _running_server(modules)


#: Start methods that every child of ours knows.
_KNOWN_METHODS: Final = frozenset({"fork", "spawn", "forkserver", "hookpool"})


# --- what the child is told before it gets its Process -----------------------------------------


class _Call:
    """Pickles as a call: the child makes it when it unpickles this."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._reduced


def _preparation(name: str) -> dict[str, object]:
    return {**_basics(name), "hookpool": _Call(enter_child, _main_file())}


def _forked_preparation(name: str, popen: ForkedPopen) -> dict[str, object]:
    data = _basics(name)
    folder = None if "dir" in data else popen.working_directory()
    return {**data, "hookpool": _Call(enter_forked_child, *_surroundings(), _main_file(), folder)}


def _basics(name: str) -> dict[str, object]:
    """The standard library's preparation data, without the main module."""
    data = _stdlib_preparation(name)
    data.pop("init_main_from_name", None)
    data.pop("init_main_from_path", None)
    if data.get("start_method") not in _KNOWN_METHODS:
        # The default here is some library's own, as in the workers of loky: the child would not
        # start, since nothing there has registered it yet.
        data.pop("start_method", None)
    # First of all, before anything of ours is imported: a child started with -I, -E or -S, or by
    # a program that changed its path, would not find it.
    path = [entry for entry in data["sys_path"] if isinstance(entry, str)]
    find_us = _Call(exec, f"import sys; sys.path[:] = {path!r}", {})
    return {"": find_us, **data}


def _stdlib_preparation(name: str) -> dict[str, Any]:
    try:
        return spawn.get_preparation_data(name)
    except (OSError, AttributeError, KeyError):
        # The working directory has been removed: what is spawned is in it all the same, and a
        # forked child is given a descriptor of it. Or the main module is not as a script's is:
        # debuggers and notebooks empty it, and what is said about it is of no use to us.
        ours = {"os": Overlay(os, getcwd=_getcwd), "sys": Overlay(sys, modules=_PLAIN_MAIN)}
        data: dict[str, Any] = rebound(spawn.get_preparation_data, **ours)(name)
        if data["dir"] is None:
            del data["dir"]
        return data


def _getcwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


_PLAIN_MAIN: Final = {"__main__": ModuleType("__main__")}


def _server_preparation(name: str) -> dict[str, object]:
    data = _basics(name)
    # No log of its own: what it set up its children would inherit, and then say all twice.
    for setting in ("log_level", "log_to_stderr"):
        data.pop(setting, None)
    return data


def _main_file() -> str | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file if type(file) is str else None


def _surroundings() -> tuple[dict[str, str], set[int], set[int], dict[int, Any]]:
    """What a child of this thread would inherit: environment, signals, standard streams."""
    streams = {}
    for fd in (1, 2):
        # One that is closed has no flags; or another file has got its number.
        with contextlib.suppress(OSError):
            if os.get_inheritable(fd):
                streams[fd] = mp_reduction.DupFd(fd)
    mask = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return dict(os.environ), mask, _forkserver.ignored_signals(), streams


def _dump(obj: object, file: io.BytesIO, protocol: int | None = None) -> None:
    # Not before a server has been started, which does without.
    from hookpool import reduction
    from hookpool._worker_pickler import ProcessPickler, WorkerPickler

    if isinstance(obj, BaseProcess):
        reduction.write(ProcessPickler(file, protocol), obj, _parts(obj))
    else:
        reduction.write(WorkerPickler(file, protocol), obj)


def _parts(process: BaseProcess) -> dict[str, object]:
    """What the user gave a process, for an error to say where in it something cannot travel."""
    given = {"_target": "target", "_args": "args", "_kwargs": "kwargs"}
    return {given.get(name, name): value for name, value in vars(process).items()}


# --- spawn ---------------------------------------------------------------------------------------


_OURS: Final = {
    "reduction": Overlay(mp_reduction, dump=_dump),
    "spawn": Overlay(spawn, get_preparation_data=_preparation),
}


class SpawnedPopen(stdlib_popen.Popen):
    """The standard library's spawn, with our pickler and our preparation data."""

    method = "hookpool"

    if sys.platform == "win32":
        __init__ = rebound(stdlib_popen.Popen.__init__, **_OURS)
    else:
        _spawn = rebound(stdlib_popen.Popen._launch, **_OURS)  # type: ignore[attr-defined]

        def _launch(self, process_obj: BaseProcess) -> None:
            with filled():
                self._spawn(process_obj)


# --- the fork server, owner's side ---------------------------------------------------------------


class _ServerPopen(stdlib_popen.Popen):
    """A server, started as the standard library spawns a child, with its pickler.

    It is the first thing that a program waits for. So it does not wait for a resource tracker,
    which is another Python to start: each child is given the tracker when it is forked.
    """

    method = "hookpool"
    _fds: list[int]

    def _launch(self, server: _forkserver.ServerProcess) -> None:
        story = self._pickled(server)
        # A server ignores Ctrl-C, but not from its first moment on; and what it forks shall hear
        # of none before it is what it shall be, with a mask of its own. Here it waits until the
        # server has its story, or that would print that it has none.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._tell(story)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _tell(self, story: memoryview) -> None:
        data, theirs = pipe()
        # Whether it was read, and by whom, the first request will tell.
        with contextlib.suppress(BrokenPipeError), open(theirs, "wb") as file:
            try:
                self.pid = self._spawn(data)
            finally:
                os.close(data)
            file.write(story)

    def _spawn(self, data: int) -> int:
        executable: Any = spawn.get_executable()
        command: Any = spawn.get_command_line(pipe_handle=data)
        with filled():
            return util.spawnv_passfds(executable, command, [data, *self._fds])

    def _pickled(self, server: _forkserver.ServerProcess) -> memoryview:
        file = io.BytesIO()
        set_spawning_popen(self)
        try:
            mp_reduction.dump(_server_preparation(server._name), file)
            mp_reduction.dump(server, file)
        finally:
            set_spawning_popen(None)
        return file.getbuffer()


class _Server:
    """The owner's end of one fork server."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        # Before it is started: should another thread give up rights meanwhile, the server is
        # replaced in vain, not kept in error.
        self.standing = standing()
        self.control, theirs = socket_pair(socket.SOCK_STREAM)
        with theirs:
            try:
                self.popen = _ServerPopen(_forkserver.ServerProcess(theirs, modules))  # type: ignore[arg-type]
            except BaseException:
                self.control.close()
                raise

    def retire(self) -> bool:
        """Ask it to end; False while it stays for children whose end somebody waits for."""
        self.control.settimeout(PATIENCE)
        try:
            self.control.shutdown(socket.SHUT_WR)
            lingers = self.control.recv(1) == _forkserver.LINGERING
        except TimeoutError:
            lingers = not self._kill()
        except OSError:  # it is dead already
            lingers = False
        self.control.close()
        return not lingers

    def _kill(self) -> bool:
        try:
            self.popen.kill()
        except PermissionError:  # it is of a user that this process is not any more
            return False
        return True

    def serves(self, modules: Modules) -> bool:
        """Whether what it forks is as if started by this thread now, with these modules."""
        return self.modules.are(modules) and self.standing == standing()


_lock = threading.Lock()
_server: _Server | None = None
_lingering: list[_Server] = []


def stop() -> None:
    """End the fork server of this process; the next start of a child makes a new one.

    Where children still run whose Process object exists, it ends after the last of them.
    """
    global _server
    with _lock:
        server, _server = _server, None
        if server is not None:
            _retire(server)


def server_pid() -> int | None:
    """The process id of the fork server, where there is one."""
    server = _server
    return None if server is None else server.popen.pid


def server_fds() -> set[int]:
    """The descriptors that this process holds for its fork server."""
    server = _server
    return set() if server is None else {server.control.fileno()}


def _retire(server: _Server) -> int | None:
    """End a server; its exit code, or None while it stays for its children."""
    if server.retire():
        return server.popen.poll(0)
    _lingering.append(server)
    return None


def _running_server(modules: Modules) -> _Server:
    """The server with these modules and our standing; started where there is none."""
    global _server
    assert _lock.locked()
    _lingering[:] = [server for server in _lingering if server.popen.poll() is None]
    if _server is not None and not _server.serves(modules):
        old, _server = _server, None
        _retire(old)
    if _server is None:
        _server = _Server(modules)
        # As soon as the children have been joined, which wait for the server's word: to whatever
        # else is called at the exit the server would be a child that does not end, and a tool
        # that waits for all that the program has started would wait for ever.
        util.Finalize(None, stop, exitpriority=-1)
    return _server


def _request(fds: list[int], modules: Modules) -> _Server:
    """Send a request to the server, if it lives: no answer will come from a dead one."""
    global _server
    with _lock:
        server = _running_server(modules)
        try:
            _forkserver.request(server.control, fds)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException:  # interrupted: half a request would spoil the next
            server.control.close()
            _lingering.append(server)
            _server = None
            raise
        return server


def _dismiss(server: _Server) -> int | None:
    """Have the next start make a new one."""
    global _server
    with _lock:
        if _server is not server:  # another thread was faster
            return server.popen.returncode
        _server = None
        return _retire(server)


# --- a forked child, owner's side ----------------------------------------------------------------


class ForkedPopen(stdlib_popen.Popen):
    """A child forked by the server."""

    method = "hookpool"
    DupFd = InheritedFd  # type: ignore[assignment]

    def __init__(self, process_obj: BaseProcess, modules: Modules) -> None:
        self._modules = modules
        self._fds: list[int] = []
        self._signal_sent: int | None = None
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def working_directory(self) -> InheritedFd:
        """The directory that this process is in, which has no name any more."""
        fd = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        self._own.callback(os.close, fd)
        return InheritedFd(self.duplicate_for_child(fd))

    def _launch(self, process_obj: BaseProcess) -> None:
        with contextlib.ExitStack() as self._own:
            self._start(self._pickled(process_obj))

    def _start(self, story: memoryview) -> None:
        life, theirs = socket_pair(socket.SOCK_STREAM)
        try:
            with theirs:
                with filled():  # a new tracker closes its input, whatever that is
                    tracker: Any = resource_tracker.getfd()
                fds = [theirs.fileno(), tracker, *self._fds]
                self._status, report = _fork(fds, self._modules)
        except BaseException:
            life.close()
            raise
        # The child takes the end-of-file on its life line for our end: this end stays open.
        self._life = life
        self.pid = report.pid
        self.returncode = report.exitcode
        self.sentinel = self._status.fileno()
        # After the children have been joined and the server has gone. Without a priority it would
        # not be called at the exit: sockets that are still open then warn of it.
        self.finalizer = util.Finalize(self, _let_go, (self._status, life), exitpriority=-25)
        _popens.add(self)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A child that died meanwhile says so by its exit code.
            life.sendall(story, getattr(socket, "MSG_NOSIGNAL", 0))

    def _pickled(self, process_obj: BaseProcess) -> memoryview:
        file = io.BytesIO()
        set_spawning_popen(self)
        try:
            _dump(_forked_preparation(process_obj.name, self), file)
            _dump(process_obj, file)
        finally:
            set_spawning_popen(None)
        return file.getbuffer()

    def poll(self, flag: int = getattr(os, "WNOHANG", 1)) -> int | None:
        if self.returncode is None and self._status.fileno() >= 0:
            self.returncode = self._exitcode(0 if flag == 0 else socket.MSG_DONTWAIT)
        return self.returncode

    def _exitcode(self, flags: int) -> int | None:
        try:
            # Peeked only: the sentinel stays readable for whoever waits for it next.
            message = self._status.recv(_forkserver.REPORT_SIZE, socket.MSG_PEEK | flags)
            if message:
                return Report.unpack(message).exitcode
            # The server died before it could report.
            exitcode = _forkserver.last_words(self._life)
        except BlockingIOError:
            return None
        except OSError:
            if self._status.fileno() < 0:  # another thread closed it, hence knows the exit code
                return self.returncode
            raise
        if exitcode is not None:
            return exitcode
        # The child died without a word: by a signal, probably by ours.
        return EXITCODE_UNKNOWN if self._signal_sent is None else -self._signal_sent

    def _send_signal(self, sig: int) -> None:
        if self.poll() is None:  # else the pid may be another process's by now
            self._signal_sent = sig
            super()._send_signal(sig)  # type: ignore[misc]

    def leave(self) -> None:
        """Close what a process forked from the owner inherited: our open end keeps children."""
        _let_go(self._status, self._life)


_popens: weakref.WeakSet[ForkedPopen] = weakref.WeakSet()


def _let_go(status: socket.socket, life: socket.socket) -> None:
    status.close()
    life.close()


def _fork(fds: list[int], modules: Modules) -> tuple[socket.socket, Report]:
    """Have a child forked that gets these descriptors; its status channel and first report."""
    for _ in range(ATTEMPTS):
        status, theirs = socket_pair(socket.SOCK_SEQPACKET)
        try:
            with theirs:
                server = _request([fds[0], theirs.fileno(), *fds[1:]], modules)
            message = status.recv(_forkserver.REPORT_SIZE)
        except BaseException:
            status.close()
            raise
        if message:
            report = Report.unpack(message)
            if not report.error:
                return status, report
            status.close()
            raise OSError(report.error, f"fork server: {os.strerror(report.error)}")
        # The server is dead, and the child, if there was one, died before it was told anything.
        status.close()
        exitcode = _dismiss(server)
    names = ", ".join(modules.first) or "nothing"
    raise OSError(
        f"no process was started: {ATTEMPTS} fork servers in a row ended before they could, the "
        f"last with exit code {exitcode}. They had to preload {names}."
    )


def _after_fork_in_child() -> None:
    global _server
    _lock._at_fork_reinit()  # type: ignore[attr-defined]
    # Whoever starts a process takes this one, too, and the standard library leaves it as it is.
    tracker_lock = getattr(resource_tracker._resource_tracker, "_lock", None)
    if tracker_lock is not None:
        tracker_lock._at_fork_reinit()
    if _server is not None:
        _server.control.close()
        _server = None
    _lingering.clear()
    for forked in list(_popens):
        forked.leave()
    _popens.clear()


if HAVE_FORK_SERVER:
    os.register_at_fork(after_in_child=_after_fork_in_child)
