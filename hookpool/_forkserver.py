"""The fork server: a small process that has imported what children need, and forks them.

Owns what happens inside the server process, from its first import to the first step of each child
it forks, and the messages it exchanges with its owner. Knows neither who asks (`_launch`) nor what
a child then does: a child reads that from its data pipe, as any spawned multiprocessing child.

One thread, no lock. The server listens on no address: requests arrive on one socket pair inherited
from the owner. When it dies its children live on, and report their own ends.

A request is the number of descriptors, and the descriptors themselves in messages of at most
`MAX_PER_MESSAGE`: the child's end of the life line, its end of the status channel, the resource
tracker's pipe, then whatever the child's pickles refer to. On the status channel the owner gets a
`Report` when the child has started and one when it has ended. The server ends at the
end-of-file of its request socket, once no owner waits any more for the end of a child.

The life line is a socket pair. From the owner comes what a spawned child reads from its pipe, and
then nothing until the end-of-file that says that the owner is gone. Back go the child's last
words: the exit code with which it is about to end. The owner asks for them only where the server
died before it could report, since the one process is gone then that the kernel tells the end.
"""

from __future__ import annotations

# What `signal` wraps, to look for a member of an enumeration in each answer: that is twenty times
# as long, for each child, here and there.
import _signal  # type: ignore[import-not-found]
import array
import atexit
import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import time
import types
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing import resource_tracker, spawn, util

from hookpool._streams import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

__all__ = [
    "MAX_PER_MESSAGE",
    "InheritedFd",
    "Modules",
    "Report",
    "ServerProcess",
    "enter_child",
    "enter_forked_child",
    "ignored_signals",
    "last_words",
    "request",
]

#: Linux takes 253 descriptors in one message (SCM_MAX_FD); other systems take no fewer.
MAX_PER_MESSAGE: Final = 250

#: So many seconds after it began to serve, the server imports what can wait, between requests.
#: A pool that starts asks for its workers within less, and they shall not compete with that; much
#: later, and children that could share these modules would import them each.
LATER: Final = 0.1

#: What the server says, after it was told to end, when children keep it.
LINGERING: Final = b"L"

# Typed by hand: typeshed leaves out what is private.
_util: Any = util
_tracker: Any = resource_tracker._resource_tracker

_MISSING: Final = -1
_COUNT: Final = struct.Struct("!I")
_REPORT: Final = struct.Struct("!iiq")
_STILL_RUNNING: Final = 1 << 32  # no exit code

#: What the owner of this forked child sent along, in order.
_inherited: list[int] = []


# Named tuples would need more time to be made than all else here, in the owner and in the server,
# while a program waits for its first child.


class Modules:
    """What a server imports, by name."""

    __slots__ = ("first", "later")

    def __init__(self, first: tuple[str, ...] = (), later: tuple[str, ...] = ()) -> None:
        #: Before it forks any child.
        self.first = first
        #: Once it is idle.
        self.later = later

    def are(self, others: Modules) -> bool:
        """Are they the same?"""
        return self.first == others.first and self.later == others.later


class Report:
    """What became of a child: pid, errno where it could not start, exit code once it ended."""

    __slots__ = ("error", "exitcode", "pid")

    def __init__(self, pid: int, error: int = 0, exitcode: int | None = None) -> None:
        self.pid = pid
        self.error = error
        self.exitcode = exitcode

    def pack(self) -> bytes:
        code = _STILL_RUNNING if self.exitcode is None else self.exitcode
        return _REPORT.pack(self.pid, self.error, code)

    @classmethod
    def unpack(cls, message: bytes) -> Report:
        pid, error, exitcode = _REPORT.unpack(message)
        return cls(pid, error, None if exitcode == _STILL_RUNNING else exitcode)


REPORT_SIZE: Final = _REPORT.size


def request(control: socket.socket, fds: Sequence[int]) -> None:
    """Ask the server at the other end for a child with these descriptors; owner's side."""
    _send(control, _COUNT.pack(len(fds)), fds[:MAX_PER_MESSAGE])
    for start in range(MAX_PER_MESSAGE, len(fds), MAX_PER_MESSAGE):
        _send(control, b"+", fds[start : start + MAX_PER_MESSAGE])


def _send(control: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    control.sendmsg([data], [rights], getattr(socket, "MSG_NOSIGNAL", 0))


class ServerProcess:
    """What `multiprocessing.spawn` unpickles in the server and bootstraps.

    No `BaseProcess`: it counts neither among the owner's children nor in their names, and coverage
    does not take it for a program's process.
    """

    _name = "hookpool-forkserver"

    def __init__(self, control: socket.socket, modules: Modules) -> None:
        self._control = control
        self._modules = modules

    def _bootstrap(self, parent_sentinel: int) -> int:
        os.close(parent_sentinel)  # the request socket says the same
        _util._close_stdin()
        # What is received for a child would lie where its streams are to be. That the owner has
        # other files there, which are not inherited, it could not know when it started us.
        fill()
        gc.disable()  # imports make objects that stay: looking through them is in vain
        for name in self._modules.first:
            _preload(name)
        gc.freeze()  # or the next new object would have all of it looked through
        gc.enable()
        _Server(self._control, self._modules.later).run()
        # Not closed before the end: who waits for it sees whether something hangs on the way.
        _exit()


def _preload(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as exc:  # noqa: BLE001 - a module may raise anything
        # The children that need it will say so better, or do without it.
        warnings.warn(f"the fork server could not preload {name}: {exc!r}", RuntimeWarning)


def _exit() -> NoReturn:
    """End as an interpreter does, but for taking itself apart: the owner waits for the end."""
    try:
        atexit._run_exitfuncs()
        _util._flush_std_streams()
    finally:
        os._exit(0)


class _Server:
    def __init__(self, control: socket.socket, later: Iterable[str]) -> None:
        self._control = control
        #: Modules yet to be imported.
        self._later = deque(later)
        self._status: dict[int, socket.socket] = {}  # by pid: children whose end is of interest
        self._pid_of: dict[int, int] = {}  # by descriptor of that socket
        self._poll = select.poll()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers = {
            # An interrupt at the keyboard is for the programs, not for their server.
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            # Does nothing, but a signal that is handled is written to the wake-up pipe.
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None),
        }

    def run(self) -> None:
        # The thread that started the server may have had it blocked; each child gets its own mask.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        self._poll.register(self._wake_r, select.POLLIN)
        self._poll.register(self._control, select.POLLIN)
        # What was imported stays; a collection in a child would touch, and so copy, all of it.
        gc.freeze()
        self._begun = time.monotonic()
        serving = True
        while serving or self._status:
            # One event at a time: each may close descriptors whose numbers the next one names.
            ready = self._poll.poll(self._patience() if serving else None)
            if not ready:
                self._prepare_more()
                continue
            fd, _ = ready[0]
            if fd == self._wake_r:
                self._reap()
            elif fd != self._control.fileno():
                self._forget(self._pid_of[fd])  # its owner ended, or does not care any more
            elif not self._serve():
                serving = False
                self._retire()

    def _patience(self) -> float | None:
        """For how many milliseconds to wait for an event before there is something else to do."""
        if not self._later:
            return None
        return max(0.0, self._begun + LATER - time.monotonic()) * 1000

    def _prepare_more(self) -> None:
        _preload(self._later.popleft())
        if not self._later:
            gc.unfreeze()
            gc.collect()
        gc.freeze()

    def _serve(self) -> bool:
        """Carry out one request; False at the end of requests."""
        try:
            fds = _receive(self._control)
        except EOFError:
            return False
        if _MISSING not in fds:
            self._fork(fds)
        elif fds[1] != _MISSING:
            with socket.socket(fileno=fds[1]) as status:
                _tell(status, Report(0, error=errno.EMFILE).pack())
        for fd in (fds[0], *fds[2:]):
            if fd != _MISSING:
                os.close(fd)
        return True

    def _fork(self, fds: list[int]) -> None:
        status = socket.socket(fileno=fds[1])
        try:
            pid = os.fork()
        except OSError as exc:
            _tell(status, Report(0, error=exc.errno or errno.EAGAIN).pack())
            status.close()
            return
        if pid == 0:
            self._become_child(status, fds)
        self._status[pid] = status
        self._pid_of[status.fileno()] = pid
        self._poll.register(status, 0)  # only POLLHUP: the owner never writes to it

    def _become_child(self, status: socket.socket, fds: list[int]) -> NoReturn:
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._control.close()
        for other in self._status.values():
            other.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        _run_child(status, *fds)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._status:
                report = Report(pid, exitcode=os.waitstatus_to_exitcode(status))
                _tell(self._status[pid], report.pack())
                self._forget(pid)

    def _forget(self, pid: int) -> None:
        status = self._status.pop(pid)
        self._poll.unregister(status)
        del self._pid_of[status.fileno()]
        status.close()

    def _retire(self) -> None:
        self._poll.unregister(self._control)
        if self._status:
            with contextlib.suppress(OSError):  # the owner has ended
                self._control.send(LINGERING)


def _receive(control: socket.socket) -> list[int]:
    """The descriptors of one request; `_MISSING` for each that this process had no room for."""
    header, fds = _receive_message(control, _COUNT.size)
    (count,) = _COUNT.unpack(header)
    for start in range(MAX_PER_MESSAGE, count, MAX_PER_MESSAGE):
        fds += [_MISSING] * (start - len(fds))
        fds += _receive_message(control, 1)[1]
    return fds + [_MISSING] * (count - len(fds))


def _receive_message(control: socket.socket, size: int) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(MAX_PER_MESSAGE * array.array("i").itemsize)
    data, ancillary, _, _ = control.recvmsg(size, space, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if not data:
        raise EOFError
    return data, fds.tolist()


def _tell(owner: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody there to be told
        owner.send(message, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))


# --- in the forked child -----------------------------------------------------------------------


def _run_child(
    status: socket.socket, life: int, _status: int, tracker: int, *fds: int
) -> NoReturn:
    """Live the child's life, and end; what follows in the server's code is not the child's."""
    exitcode = 1
    line = socket.socket(fileno=life)
    try:
        # As in `multiprocessing.popen_fork`: only what the child itself registers is called.
        atexit._clear()
        atexit.register(_util._exit_function)
        # A process that the child forks must not hide the child's end from the owner, nor speak
        # in the child's name.
        os.register_at_fork(after_in_child=status.close)
        os.register_at_fork(after_in_child=line.close)
        _adopt_tracker(tracker)
        _inherited[:] = fds
        _reseed()
        _tell(status, Report(os.getpid()).pack())
        if line.recv(1, socket.MSG_PEEK):  # else the owner went away instead
            exitcode = spawn._main(os.dup(life), os.dup(life))
    except BaseException:  # noqa: BLE001 - the outer edge: above are the server's frames
        sys.excepthook(*sys.exc_info())
    finally:
        _end(line, exitcode & 0xFF)


def _end(line: socket.socket, exitcode: int) -> NoReturn:
    try:
        atexit._run_exitfuncs()
        _util._flush_std_streams()
    finally:
        try:
            _tell(line, bytes([exitcode]))
        finally:
            os._exit(exitcode)


def last_words(line: socket.socket) -> int | None:
    """The exit code that a child handed over before it ended; owner's side of its life line."""
    try:
        said = line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionResetError):  # ended by a signal, or by `os._exit`
        return None
    return said[0] if said else None


def _adopt_tracker(fd: int) -> None:
    # What a preloaded module made for itself, a lock for instance, was registered in a tracker
    # that the server started for that; it stays the server's. Ours ends when nobody holds its
    # pipe, which the owner may wait for: so the server never has it.
    if _tracker._fd is not None:
        os.close(_tracker._fd)
    _tracker._fd, _tracker._pid = fd, None


def _reseed() -> None:
    """Give each child a random stream of its own; `random` sees to that itself after a fork."""
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


# --- called by what a child unpickles, forked or spawned --------------------------------------


class InheritedFd:
    """A descriptor within what a forked child unpickles."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        return _inherited[self._index]


class _Nothing:
    """In the place of a loader, which the repr of a module quotes, which an unpickler does.

    "Can't get attribute 'work' on <module '__main__'>" leaves one wondering.
    """

    def __repr__(self) -> str:
        return (
            "empty in a process that hookpool started: it sends by value what is defined there, "
            "and something else has pickled this by reference; use HookPoolExecutor, or the Pool, "
            "Process and Queue of multiprocessing"
        )


def enter_child(file: str | None = None) -> None:
    """Begin with an empty main module; `file` is that of the caller's."""
    # Late: not for the owner, which starts a server first.
    from importlib.machinery import ModuleSpec

    from hookpool import _rebuild

    # The main module is whatever the definitions sent here make of it, never the caller's file,
    # and not the command line that started this interpreter either.
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    # By this name multiprocessing leaves the main module of this one's children alone; by the file
    # it would run that there.
    main.__spec__ = ModuleSpec("__main__", _Nothing())  # type: ignore[arg-type]
    main.__loader__ = main.__spec__.loader
    if file is not None:
        main.__file__ = file  # for who asks where classes are from
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    _rebuild.enter_worker()


def enter_forked_child(
    environ: dict[str, str],
    mask: set[int],
    ignored: set[int],
    streams: dict[int, Any],
    file: str | None = None,
    folder: InheritedFd | None = None,
) -> None:
    enter_child(file)
    if folder is not None:
        os.fchdir(folder.detach())
        os.close(folder.detach())
    _adopt_environment(environ)
    _ignore_only(ignored)
    for fd, copy in streams.items():
        received = copy.detach()
        os.dup2(received, fd)
        os.close(received)
    for fd in {1, 2} - streams.keys():
        with contextlib.suppress(OSError):
            os.close(fd)
    fill()  # with what the child opens next it would be otherwise
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # the last: handlers run from here on


def ignored_signals() -> set[int]:
    """The signals that this process ignores, but for those that each Python does."""
    found = set()
    for number in _signal.valid_signals() - _IGNORED_BY_PYTHON:
        handler = _signal.getsignal(number)
        if isinstance(handler, int) and handler == signal.SIG_IGN:
            found.add(number)
    return found


_IGNORED_BY_PYTHON: Final = {
    int(getattr(signal, name)) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)
}


def _ignore_only(ignored: set[int]) -> None:
    before = ignored_signals()
    for number in ignored - before:
        signal.signal(number, signal.SIG_IGN)
    for number in before - ignored:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def _adopt_environment(environ: dict[str, str]) -> None:
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
