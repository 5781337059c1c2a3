"""Sockets and connections: a pickle of one is for one receiver, and nothing is left open."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import pytest

from hookpool import errors, reduction
from hookpool._buffers import Lender, Parcel
from hookpool._definitions import Ledger
from hookpool._shelf import Shelf
from hookpool._ticket import withdraw
from hookpool._worker_pickler import TaskPickler, worker_dumps
from hookpool.context import CONTEXT as ctx
from hookpool.executor import HookPoolExecutor
from tests.helpers import exit_code_of_fork, wait_until

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

    first, second = ledger.dump((Client(),)), ledger.dump((Client(),))

    assert first.needs[-1].number < second.needs[-1].number
    assert waiting_tickets() == 2
    assert ledger.call(lambda: Client) is None
    with pytest.raises(errors.CannotPickle, match=r"object\[0\] .* handed over once"):
        ledger.put([Client()])
    assert waiting_tickets() == 2
    del first, second
    assert waiting_tickets() == 0


def test_a_socket_among_arguments_has_a_ticket_in_each_packet(ends: Ends) -> None:
    ledger = Ledger()

    first, second = ledger.dump((ends[0],)), ledger.dump((ends[0],))

    assert first.data != second.data
    assert waiting_tickets() == 2
    payload = first.data
    del first
    assert waiting_tickets() == 2
    del payload, second
    assert waiting_tickets() == 0


def test_a_large_packet_takes_its_tickets_with_it_too(ends: Ends) -> None:
    lender = Lender(1 << 20, 1000)
    packet = Ledger(lender).dump((ends[0], bytes(100_000)))

    assert isinstance(packet.data, Parcel)
    assert waiting_tickets() == 1
    del packet
    assert waiting_tickets() == 0
    lender.close()


@pytest.mark.parametrize("what", [lambda sock: sock, lambda sock: type("Client", (), {"s": sock})])
def test_a_dump_that_fails_leaves_no_ticket(ends: Ends, what: Callable[[Any], Any]) -> None:
    args = what(ends[0]), (n for n in ())
    with pytest.raises(pickle.PicklingError, match=r"args\[1\]") as kept:
        Ledger().dump(args, {"args": args})
    assert waiting_tickets() == 0
    assert kept.value.__traceback__ is not None


def test_a_result_that_fails_leaves_no_ticket_and_one_that_is_sent_keeps_its(ends: Ends) -> None:
    shelf = Shelf()
    for _ in range(2):
        with pytest.raises(pickle.PicklingError, match=r"result\[1\]"):
            shelf.dump((ends[0], (n for n in ())))
        assert waiting_tickets() == 0

    theirs = pickle.loads(shelf.dump((ends[0],)))[0]
    assert waiting_tickets() == 0
    theirs.close()
    shelf.dump((ends[0],))
    assert waiting_tickets() == 1  # whoever gets the bytes comes for it


def test_a_result_that_is_interrupted_leaves_no_ticket(ends: Ends) -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Shelf().dump((ends[0], Interrupting()))
    assert waiting_tickets() == 0


def test_a_forked_child_takes_back_nothing(ends: Ends) -> None:
    """It may have other files under those numbers."""
    packets = [Ledger().dump((ends[0],))]

    def drop() -> int:
        packets.clear()
        return waiting_tickets()

    assert exit_code_of_fork(drop) == 1


def test_a_ticket_of_another_process_is_not_taken_back(ends: Ends) -> None:
    ours = resource_sharer.DupFd(ends[0].fileno())
    address, number = ours._id  # type: ignore[attr-defined]
    theirs = copy.copy(ours)
    theirs._id = f"{address}x", number  # type: ignore[attr-defined]

    withdraw(theirs)
    assert waiting_tickets() == 1
    withdraw(ours)
    assert waiting_tickets() == 0


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


def test_a_worker_is_left_no_ticket_by_a_result_that_fails(ends: Ends) -> None:
    with HookPoolExecutor(1) as pool:
        failing = pool.submit(lambda sock: (sock, (n for n in ())), ends[1])
        assert isinstance(failing.exception(), pickle.PicklingError)

        assert pool.submit(waiting_tickets).result() == 0


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


def busy(pool: HookPoolExecutor, gate: Path) -> Future[object]:
    """Have the only worker wait until somebody writes to a pipe."""
    os.mkfifo(gate)
    running = pool.submit(gate.read_text)
    wait_until(running.running, 20)
    return running


def test_a_cancelled_task_leaves_no_ticket(ends: Ends, tmp_path: Path) -> None:
    class Client:
        sock = ends[0]

    with HookPoolExecutor(1) as pool:
        running = busy(pool, tmp_path / "gate")
        futures = [pool.submit(id, ends[0]) for _ in range(3)]
        futures += [pool.submit(id, Client()), pool.submit(max, ends[0], bytes(200_000))]
        assert waiting_tickets() == 5
        assert all(future.cancel() for future in futures)
        assert waiting_tickets() == 0
        (tmp_path / "gate").write_text("go")
        running.result()


def test_a_map_that_is_left_leaves_no_ticket(ends: Ends, tmp_path: Path) -> None:
    """Also those of items that came in one go with the one that is running."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def work(sock: socket.socket, n: int) -> None:
        if n == 2:
            sock.send(b"x")
            gate.read_text()

    with HookPoolExecutor(1) as pool:
        results = pool.map(work, [ends[1]] * 50, range(50))
        next(results)
        assert count(ends[0], 1) == 1
        del results
        assert waiting_tickets() == 0
        gate.write_text("go")


def test_a_task_that_a_closed_pool_refuses_leaves_no_ticket(ends: Ends) -> None:
    with HookPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(id, ends[0])
    assert waiting_tickets() == 0


def test_a_pool_that_is_killed_leaves_no_ticket(ends: Ends, tmp_path: Path) -> None:
    pool = HookPoolExecutor(1)
    futures = [busy(pool, tmp_path / "gate"), *[pool.submit(id, ends[0]) for _ in range(3)]]
    pool.kill_workers()
    assert not wait(futures, 20).not_done
    pool.shutdown()
    assert waiting_tickets() == 0


def test_connections_travel_likewise(pool: HookPoolExecutor) -> None:
    reader, writer = ctx.Pipe(duplex=False)
    with reader, writer:
        list(pool.map(lambda n: writer.send(n), range(6)))
        with pytest.raises(errors.CannotPickle, match="handed over once"):
            pool.put(writer)
        assert sorted(reader.recv() for _ in range(6)) == list(range(6))
