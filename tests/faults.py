"""The crash matrix: where something strikes, how, in which context, and what must come of it.

Everything here is importable, since workers of the standard contexts import it. The tests that go
through the cells are in `test_faults.py`.
"""

from __future__ import annotations

import copy
import fcntl
import functools
import multiprocessing
import os
import pickle
import resource
import signal
import stat
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from functools import partial
from multiprocessing import context as mp_context
from pathlib import Path
from typing import Any, NamedTuple

from hookpool import errors
from hookpool._claims import Claims
from hookpool.context import HookProcess
from tests.helpers import killed, segfault

METHODS = ("hookpool", "spawn", "forkserver", "fork")


class Where(Enum):
    """The step of a task's or a worker's life at which it strikes."""

    ARGUMENT_PICKLE = "the argument of a task is pickled"
    ARGUMENT_HALF_SENT = "a task runs while 50 MB for the next one are half written to its worker"
    ARGUMENT_UNPICKLE = "the argument of a task is unpickled"
    CLAIMED = "a worker has claimed a task and has not begun it"
    RUNNING = "a task runs"
    RESULT_PICKLE = "the result of a task is pickled"
    RESULT_HALF_SENT = "50 MB of a task's result are half written to the owner"
    RESULT_UNPICKLE = "the result of a task is unpickled"
    EXCEPTION_PICKLE = "the exception that a task raised is pickled"
    EXCEPTION_UNPICKLE = "the exception that a task raised is unpickled"
    IDLE = "a worker has nothing to do, but for a thread that a task left behind"
    ONE_START = "one worker starts"
    EVERY_START = "every worker starts"
    ONE_INITIALIZER = "the initializer of one worker runs"
    EVERY_INITIALIZER = "the initializer of every worker runs"
    FORK_SERVER = "the process from which workers are forked waits for requests"


class How(Enum):
    """What happens there."""

    ERROR = "an exception"
    SYSTEM_EXIT = "SystemExit"
    INTERRUPT = "KeyboardInterrupt"
    RECURSION = "recursion without end"
    MEMORY = "no memory"
    HARD_EXIT = "os._exit"
    SIGKILL = "SIGKILL"
    SIGSEGV = "SIGSEGV"


# ---- what strikes -------------------------------------------------------------------------------


def _raise(kind: type[BaseException]) -> None:
    raise kind("on purpose")


def _recurse() -> None:
    _recurse()


def exhaust() -> None:
    """Ask for more than the limit of the process's address space, set for the moment."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = os.sysconf("SC_PAGE_SIZE") * pages
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        bytearray(512 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


DO: dict[How, Callable[[], object]] = {
    How.ERROR: partial(_raise, ArithmeticError),
    How.SYSTEM_EXIT: partial(_raise, SystemExit),
    How.INTERRUPT: partial(_raise, KeyboardInterrupt),
    How.RECURSION: _recurse,
    How.MEMORY: exhaust,
    How.HARD_EXIT: partial(os._exit, 13),
    How.SIGKILL: killed,
    How.SIGSEGV: segfault,
}
#: What ends a process, and the exit code it then has.
DEATHS = {How.HARD_EXIT: 13, How.SIGKILL: -signal.SIGKILL, How.SIGSEGV: -signal.SIGSEGV}
RAISED: dict[How, type[BaseException]] = {
    How.ERROR: ArithmeticError,
    How.SYSTEM_EXIT: SystemExit,
    How.INTERRUPT: KeyboardInterrupt,
    How.RECURSION: RecursionError,
    How.MEMORY: MemoryError,
}
NO_EXCEPTIONS = (How.SYSTEM_EXIT, How.INTERRUPT)


# ---- what must come of it -----------------------------------------------------------------------


class Fails(NamedTuple):
    """The one task fails so, everything else goes on."""

    error: type[BaseException]


class RaisesAtOnce(NamedTuple):
    """`submit` itself raises it, everything else goes on."""

    error: type[BaseException]


class Unharmed(NamedTuple):
    """Every task gives its result."""


class Breaks(NamedTuple):
    """The pool is broken, with this error."""

    error: type[BaseException]


Outcome = Fails | RaisesAtOnce | Unharmed | Breaks | str

OWNERS_DEATH = "the caller's own object ends the caller's process: nobody is left to tell"
NOBODYS_CODE = "between claim and call hookpool's own code runs: what strikes comes from outside"
NO_SERVER = "workers of this context are not forked from a server"
ONLY_SIGNALS = "a server runs nobody's code: what strikes it comes from outside, by a signal"


def expected(where: Where, how: How, method: str) -> Outcome:
    """What must come of the cell, or the reason why there is no such cell."""
    match where:
        case Where.CLAIMED:
            return Unharmed() if how in DEATHS else NOBODYS_CODE
        case Where.IDLE | Where.ONE_START:
            return Unharmed()
        case Where.EVERY_START:
            return Breaks(errors.WorkerCannotStart)
        case Where.ONE_INITIALIZER if how in DEATHS:
            return Unharmed()
        case Where.ONE_INITIALIZER | Where.EVERY_INITIALIZER:
            return Breaks(errors.WorkerCannotStart if how in DEATHS else errors.InitializerFailed)
        case Where.FORK_SERVER if method not in ("hookpool", "forkserver"):
            return NO_SERVER
        case Where.FORK_SERVER:
            return Unharmed() if how in (How.SIGKILL, How.SIGSEGV) else ONLY_SIGNALS
        case Where.RESULT_HALF_SENT if how not in DEATHS:
            return Unharmed()  # a thread beside the one that writes raises: its own affair
    return _expected_of_a_task(where, how)


def _expected_of_a_task(where: Where, how: How) -> Outcome:
    if how in DEATHS:
        if where in (Where.ARGUMENT_PICKLE, Where.RESULT_UNPICKLE, Where.EXCEPTION_UNPICKLE):
            return OWNERS_DEATH
        return Fails(errors.WorkerDied)
    match where:
        case Where.ARGUMENT_PICKLE if how in NO_EXCEPTIONS:
            return RaisesAtOnce(RAISED[how])  # what is no Exception goes to the caller
        case Where.RESULT_PICKLE if how in NO_EXCEPTIONS:
            return Fails(RAISED[how])
        case Where.ARGUMENT_PICKLE | Where.RESULT_PICKLE:
            return Fails(Exception)
        case Where.RUNNING | Where.ARGUMENT_HALF_SENT:
            return Fails(RAISED[how])
        case Where.EXCEPTION_UNPICKLE if how not in NO_EXCEPTIONS:
            return Fails(Raised)  # what it cannot rebuild itself from, it does without
        case Where.EXCEPTION_PICKLE:
            return Fails(pickle.PicklingError)
    return Fails(errors.CannotUnpickle)


# ---- objects and tasks that strike --------------------------------------------------------------


class AtPickle:
    """Strikes when it is pickled, in the process that has it then."""

    def __init__(self, how: How) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        DO[self.how]()
        return int, ()


class AtUnpickle:
    """Strikes when it is unpickled."""

    def __init__(self, how: How) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return DO[self.how], ()


class Raised(Exception):
    """Strikes when it travels."""

    def __init__(self, carried: object) -> None:
        super().__init__("carried")
        self.carried = carried

    def __reduce__(self) -> Any:
        return self.carried.__reduce__()


class Log:
    """A file to which every process appends: what has happened, outside of all of them."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def note(self, word: object) -> None:
        # Opened each time, so that nothing stays open; one small write to a file is whole.
        log = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(log, f"{word}\n".encode())
        finally:
            os.close(log)

    def words(self) -> Counter[str]:
        return Counter(Path(self.path).read_text().split())

    def runs(self) -> Counter[int]:
        """How often each task ran, by number."""
        return Counter({int(word): n for word, n in self.words().items() if word.isdigit()})

    def pid(self) -> int | None:
        """Of the process that was about to be struck, once it has said so."""
        found = [word for word in self.words() if word.startswith("pid:")]
        return int(found[0].partition(":")[2]) if found else None


def task(
    number: int, log: Log, where: Where | None = None, how: How | None = None, *_: Any
) -> Any:
    """Leave a line, then do what the guilty one does. An innocent one returns its number."""
    log.note(number)
    if where is None or how is None:
        return number
    match where:
        case Where.RUNNING:
            DO[how]()
        case Where.ARGUMENT_HALF_SENT:
            wait_for_a_full_pipe()
            DO[how]()
        case Where.RESULT_PICKLE:
            return AtPickle(how)
        case Where.RESULT_UNPICKLE:
            return AtUnpickle(how)
        case Where.RESULT_HALF_SENT:
            threading.Thread(target=_strike_when_full, args=(log, how), daemon=True).start()
            return bytes(LARGE)
        case Where.EXCEPTION_PICKLE:
            raise Raised(AtPickle(how))
        case Where.EXCEPTION_UNPICKLE:
            raise Raised(AtUnpickle(how))
    return number


LARGE = 50 << 20


def wait_for_a_full_pipe(timeout: float = 30.0) -> None:
    """Until a pipe of this process holds so much that its writer waits for its reader."""
    until = time.monotonic() + timeout
    while not any(_bytes_in(int(name)) >= 32768 for name in os.listdir("/proc/self/fd")):
        if time.monotonic() > until:
            raise AssertionError("no pipe is full: nothing was being written")
        time.sleep(0.001)


def _bytes_in(fd: int) -> int:
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return 0
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])
    except OSError:  # closed meanwhile
        return 0


def _strike_when_full(log: Log, how: How) -> None:
    wait_for_a_full_pipe()
    _strike_from_a_thread(log, how)


def _strike_from_a_thread(log: Log, how: How) -> None:
    log.note(f"pid:{os.getpid()}")
    try:
        if how is How.INTERRUPT:
            os.kill(os.getpid(), signal.SIGINT)  # as the terminal does it: to the process
        else:
            DO[how]()
    except BaseException:  # the thread's own affair
        pass
    finally:
        log.note("struck")


def leave_a_thread(log: Log, gate: str, how: How) -> int:
    """A task whose thread strikes when the gate is opened, after the task has ended."""

    def lurk() -> None:
        with open(gate) as opened:
            opened.read()
        _strike_from_a_thread(log, how)

    threading.Thread(target=lurk, daemon=True).start()
    return os.getpid()


def wait_at(gate: str) -> str:
    """A task that lasts until somebody opens and closes the gate for writing."""
    with open(gate) as opened:
        return opened.read()


def strike_once(how: How, armed: str | None) -> None:
    """Strike if nobody has yet: the file `armed` goes with the first. Without a file, always."""
    if armed is not None:
        try:
            os.unlink(armed)
        except FileNotFoundError:
            return
    DO[how]()


# ---- strikes inside a worker, where no task has a say -------------------------------------------


def strike_after_claim(how: How, at: int, armed: str) -> None:
    """As an initializer: the worker strikes right after it has claimed its `at`-th task."""
    claims = 0
    original = Claims.claim

    def claim(self: Claims, here: int = 1) -> bool:
        nonlocal claims
        won = original(self, here)
        claims += won
        if claims == at:
            strike_once(how, armed)
        return won

    Claims.claim = claim  # type: ignore[method-assign]


def _struck(base: type[Any]) -> type[Any]:
    class Struck(base):  # type: ignore[misc]
        """A process that strikes before it does what it is for."""

        def __init__(self, *args: Any, strike: tuple[How, str | None], **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.strike = strike

        def run(self) -> None:
            strike_once(*self.strike)
            super().run()

    return Struck


# By name, for those contexts that pickle a process by reference to its class.
StruckHook = _struck(HookProcess)
StruckSpawn = _struck(mp_context.SpawnProcess)
StruckForkServer = _struck(mp_context.ForkServerProcess)
StruckFork = _struck(mp_context.ForkProcess)
for _name in ("StruckHook", "StruckSpawn", "StruckForkServer", "StruckFork"):
    globals()[_name].__qualname__ = globals()[_name].__name__ = _name
STRUCK = dict(zip(METHODS, (StruckHook, StruckSpawn, StruckForkServer, StruckFork), strict=True))


def context_of(method: str, strike: tuple[How, str | None] | None = None) -> Any:
    """The context; with `strike`, one whose processes strike as they start."""
    context = multiprocessing.get_context(method)
    if strike is None:
        return context
    context = copy.copy(context)
    context.Process = functools.partial(STRUCK[method], strike=strike)  # type: ignore[attr-defined]
    return context
