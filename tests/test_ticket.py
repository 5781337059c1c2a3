"""Sockets and connections: a pickle of one is for one receiver, and nothing is left open."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import types
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_sharer

import pytest

from hookpool import errors, reduction
from hookpool._definitions import Ledger
from hookpool._worker_pickler import TaskPickler, worker_dumps
from hookpool.context import CONTEXT as ctx
from hookpool.executor import HookPoolExecutor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there other tickets are used")

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(autouse=True)
def no_resource_sharer() -> Iterator[None]:
    """The thread by which the standard library hands out descriptors ends with each test."""
    yield
    resource_sharer.stop(timeout=10)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        yield ours, theirs


def waiting_tickets() -> int:
    return len(resource_sharer._resource_sharer._cache)  # type: ignore[attr-defined]


def count(sock: socket.socket, much: int) -> int:
    """How many bytes have come, of so many."""
    got = 0
    while got < much:
        got += len(sock.recv(much))
    return got


# -- in a ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True])
def test_a_socket_is_not_put(ends: Ends, read_only: bool) -> None:
    with pytest.raises(errors.CannotPickle, match=r"object\[1\]\.sock: .* handed over once"):
        Ledger().put([1, types.SimpleNamespace(sock=ends[0])], read_only)
    assert waiting_tickets() == 0


def test_a_function_that_captures_a_socket_has_no_definition(ends: Ends) -> None:
    ledger, sock = Ledger(), ends[0]

    assert ledger.call(lambda: sock) is None
    assert ledger.call(lambda: 1) is not None
    assert waiting_tickets() == 0


def test_a_class_that_holds_a_socket_goes_anew_with_each_task(ends: Ends) -> None:
    class Client:
        sock = ends[0]

    ledger = Ledger()

    assert ledger.dump((Client(),)).needs[-1].number < ledger.dump((Client(),)).needs[-1].number
    assert waiting_tickets() == 2
    assert ledger.call(lambda: Client) is None
    with pytest.raises(errors.CannotPickle, match=r"object\[0\] .* handed over once"):
        ledger.put([Client()])
    assert waiting_tickets() == 2


def test_a_socket_among_arguments_has_a_ticket_in_each_packet(ends: Ends) -> None:
    ledger = Ledger()

    first, second = ledger.dump((ends[0],)), ledger.dump((ends[0],))

    assert first.data != second.data
    assert waiting_tickets() == 2


def test_to_look_for_a_culprit_leaves_no_ticket(ends: Ends) -> None:
    args = ends[0], (n for n in ())
    with pytest.raises(pickle.PicklingError, match=r"args\[1\]"):
        Ledger().dump(args, {"args": args})
    assert waiting_tickets() <= 1  # that of the dump, which fails too rarely to take care


def test_a_pickle_that_fails_leaves_one_ticket_at_most(ends: Ends) -> None:
    for fail in (reduction.dumps, worker_dumps):
        before = waiting_tickets()
        with pytest.raises(pickle.PicklingError):
            fail((ends[0], (n for n in ())))
        assert waiting_tickets() <= before + 1


def test_to_stamp_a_global_takes_no_ticket(ends: Ends) -> None:
    """And it says each time that it is another one: its number may be another file's by then."""
    first, second = TaskPickler().stamp(ends[0]), TaskPickler().stamp(ends[0])

    assert first != second
    assert waiting_tickets() == 0


# -- through a pool ------------------------------------------------------------------------------


def test_a_function_that_captures_a_socket_reaches_every_worker(ends: Ends) -> None:
    ours, theirs = ends

    def send(n: int) -> int:
        theirs.send(b"x")
        return os.getpid()

    with HookPoolExecutor(1, max_tasks_per_child=1) as pool:
        assert len(set(pool.map(send, range(3), chunksize=1))) == 3
        assert pool.submit(send, 1).result() != pool.submit(send, 2).result()
    assert count(ours, 5) == 5
    assert waiting_tickets() == 0


def test_a_map_over_one_socket_and_what_holds_one(ends: Ends, pool: HookPoolExecutor) -> None:
    ours, theirs = ends

    class Client:
        def __init__(self) -> None:
            self.sock = theirs
            self.cache = bytes(200_000)  # large enough to be sent once, were it not for the socket

    def send(sock: socket.socket, n: int = 0) -> int:
        return sock.send(b"x")

    assert list(pool.map(send, [theirs] * 4)) == [1] * 4
    assert list(pool.map(lambda client: client.sock.send(b"x"), [Client()] * 4)) == [1] * 4
    assert list(pool.map(partial(send, theirs), range(4))) == [1] * 4
    assert count(ours, 12) == 12


def test_connections_travel_likewise(pool: HookPoolExecutor) -> None:
    reader, writer = ctx.Pipe(duplex=False)
    with reader, writer:
        list(pool.map(lambda n: writer.send(n), range(6)))
        with pytest.raises(errors.CannotPickle, match="handed over once"):
            pool.put(writer)
        assert sorted(reader.recv() for _ in range(6)) == list(range(6))
