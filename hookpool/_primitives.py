"""Connections and queues that pickle by value; otherwise the standard library's own.

Owns the by-value subclasses of multiprocessing's Connection, Listener, Queue, JoinableQueue and
SimpleQueue, and `pipe` and `connect`, which make such connections. Knows no context and no
process: which threads and processes may call, and what they then wait for, is as in the standard
library.

Only what is sent differs. A receiver needs plain `pickle.loads` and an importable hookpool, so the
two ends of a connection need not both be of this make.
"""

from __future__ import annotations

import pickle
import sys
from multiprocessing import connection, queues
from typing import Any

from hookpool._rebound import Overlay, rebound
from hookpool._worker_pickler import worker_dumps

__all__ = ["Connection", "JoinableQueue", "Listener", "Queue", "SimpleQueue", "connect", "pipe"]


# Typed by hand: typeshed leaves out what is private.
_connection: Any = connection
_queue: Any = queues.Queue


class _Pickler:
    """What the standard library's modules know as `_ForkingPickler`."""

    dumps = staticmethod(worker_dumps)
    loads = staticmethod(pickle.loads)


class Connection(connection.Connection):
    """One end of a pipe or of a socket connection."""

    send = rebound(connection.Connection.send, _ForkingPickler=_Pickler)

    # `ForkingPickler` knows how to send a connection by its exact type; a subclass that did not
    # say this would arrive as a bare descriptor number, meaning another file over there.
    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments = _connection.reduce_connection(self)
        return _rebuild_connection, (rebuild, arguments)


_BY_VALUE: dict[type, type] = {connection.Connection: Connection}

if sys.platform == "win32":

    class PipeConnection(connection.PipeConnection):
        """One end of a named pipe."""

        send = rebound(connection.PipeConnection.send, _ForkingPickler=_Pickler)

        def __reduce__(self) -> tuple[Any, ...]:
            rebuild, arguments = _connection.reduce_pipe_connection(self)
            return _rebuild_connection, (rebuild, arguments)

    _BY_VALUE[connection.PipeConnection] = PipeConnection


def _rebuild_connection(rebuild: Any, arguments: tuple[Any, ...]) -> Any:
    return by_value(rebuild(*arguments))


def by_value(plain: Any) -> Any:
    """The same connection, sending by value; `plain` is closed without closing its handle."""
    handle, plain._handle = plain._handle, None
    return _BY_VALUE[type(plain)](handle, plain.readable, plain.writable)


def pipe(duplex: bool = True) -> tuple[Any, Any]:
    """A pair of connected connections; without `duplex` the first receives, the second sends."""
    ours, theirs = connection.Pipe(duplex)
    return by_value(ours), by_value(theirs)


def connect(address: Any, family: str | None = None, authkey: bytes | None = None) -> Any:
    """A connection to a `Listener` at `address`, ours or the standard library's."""
    return by_value(connection.Client(address, family, authkey))


class Listener(connection.Listener):
    """Accepts connections at an address; those accepted send by value."""

    def accept(self) -> Any:
        return by_value(super().accept())


class Queue(queues.Queue):  # type: ignore[type-arg]
    """A queue with a feeder thread."""

    _feed = staticmethod(rebound(_queue._feed, _ForkingPickler=_Pickler))


# It names its feeder `Queue._feed`, with the module's `Queue`: the method above is not enough.
_start_thread = rebound(_queue._start_thread, Queue=Queue)
Queue._start_thread = _start_thread  # type: ignore[attr-defined]


class JoinableQueue(queues.JoinableQueue):  # type: ignore[type-arg]
    """A queue whose consumers say when an item is done."""

    _start_thread = _start_thread


class SimpleQueue(queues.SimpleQueue):  # type: ignore[type-arg]
    """A locked pipe."""

    # Its connections too: `multiprocessing.pool` sends its tasks through them, past `put`.
    __init__ = rebound(queues.SimpleQueue.__init__, connection=Overlay(connection, Pipe=pipe))
    put = rebound(queues.SimpleQueue.put, _ForkingPickler=_Pickler)
