"""`_primitives`: what the by-value connections and queues add, and what they leave alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, queues
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import hookpool  # noqa: F401 - registers the context
from hookpool import _primitives
from hookpool._primitives import JoinableQueue, Listener, Queue, SimpleQueue, connect, pipe

ctx: BaseContext = multiprocessing.get_context("hookpool")


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    ours, theirs = pipe()
    with ours, theirs:
        yield ours, theirs


both = pytest.mark.parametrize("kind", [Queue, JoinableQueue])


# No fixture: pytest would hold the queue, and with it its semaphores, until after the leak check.
@contextmanager
def opened(kind: Any) -> Iterator[Any]:
    queue = kind(ctx=ctx)
    try:
        yield queue
    finally:
        queue.close()
        queue.join_thread()
        queue._reader.close()
        queue._writer.close()


def local_class() -> type:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    return Local


# --- connections -------------------------------------------------------------------------------


def test_a_connection_sends_lambdas_and_local_classes(ends: tuple[Any, Any]) -> None:
    ours, theirs = ends
    ours.send(lambda x: x + 1)
    assert theirs.recv()(1) == 2
    cls = local_class()
    theirs.send(cls(5))
    received = ours.recv()
    assert type(received) is cls
    assert received.value == 5


def test_what_it_sends_a_standard_connection_receives(ends: tuple[Any, Any]) -> None:
    ours, theirs = ends
    plain = connection.Connection(os.dup(theirs.fileno()))
    with plain:
        ours.send(lambda: 7)
        assert plain.recv()() == 7
        plain.send("and back")
        assert ours.recv() == "and back"


def test_a_pipe_of_one_direction_says_which() -> None:
    reader, writer = pipe(duplex=False)
    with reader, writer:
        assert (reader.readable, reader.writable) == (True, False)
        assert (writer.readable, writer.writable) == (False, True)
        with pytest.raises(OSError, match="read-only"):
            reader.send(1)


def test_a_closed_connection_is_refused_before_anything_is_pickled(ends: tuple[Any, Any]) -> None:
    class Untouchable:
        def __reduce__(self) -> Any:
            raise AssertionError

    ends[0].close()
    with pytest.raises(OSError, match="handle is closed"):
        ends[0].send(Untouchable())


def test_making_a_connection_by_value_moves_the_handle(ends: tuple[Any, Any]) -> None:
    plain = connection.Connection(os.dup(ends[0].fileno()), writable=False)
    handle = plain.fileno()
    with _primitives.by_value(plain) as made:
        assert plain.closed
        assert made.fileno() == handle
        assert not made.writable


@pytest.mark.parametrize("pickler", ["ours", "the standard library's"])
def test_a_connection_sent_in_a_message_arrives_as_one_of_ours(
    ends: tuple[Any, Any], pickler: str
) -> None:
    ours, theirs = ends
    sender = ours if pickler == "ours" else connection.Connection(os.dup(ours.fileno()))
    inner, outer = pipe()
    with inner, outer, sender:
        sender.send(outer)
        with theirs.recv() as arrived:
            assert type(arrived) is _primitives.Connection
            arrived.send(lambda: "through")
            assert inner.recv()() == "through"


@pytest.fixture(autouse=True)
def no_resource_sharer() -> Iterator[None]:
    """The thread by which the standard library hands out descriptors ends with each test."""
    yield
    from multiprocessing import resource_sharer

    resource_sharer.stop(timeout=10)


@pytest.mark.parametrize("authkey", [None, b"secret"])
def test_listener_and_client_send_by_value(authkey: bytes | None) -> None:
    def serve(address: Any) -> None:
        with connect(address, authkey=authkey) as conn:
            conn.send(lambda: "by value")

    with Listener(authkey=authkey) as listener:
        process = ctx.Process(target=serve, args=(listener.address,))
        process.start()
        with listener.accept() as conn:
            assert conn.recv()() == "by value"
    process.join()
    process.close()


# --- queues ------------------------------------------------------------------------------------


@both
def test_a_queue_takes_lambdas_and_keeps_classes(kind: Any) -> None:
    cls = local_class()
    with opened(kind) as queue:
        queue.put(lambda: 5)
        queue.put(cls(6))
        assert queue.get(timeout=20)() == 5
        received = queue.get(timeout=20)
    assert type(received) is cls
    assert received.value == 6


@both
def test_a_queue_reaches_a_child_and_comes_back(kind: Any) -> None:
    with opened(kind) as queue:
        process = ctx.Process(target=lambda: queue.put(lambda: os.getpid()))
        process.start()
        assert queue.get(timeout=20)() == os.getpid()
        process.join()
        process.close()


@both
def test_what_does_not_pickle_is_told_by_the_feeder_and_hurts_nothing_else(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(kind) as queue:
        queue.put(sys._getframe())
        queue.put("next")
        assert queue.get(timeout=20) == "next"
    assert "frame" in capsys.readouterr().err


@both
def test_a_queue_in_a_message_is_an_error_as_in_the_standard_library(kind: Any) -> None:
    with opened(kind) as queue, pytest.raises(RuntimeError, match="through inheritance"):
        _primitives._Pickler.dumps(queue)


def test_joinable_queue_counts_its_tasks() -> None:
    def consume() -> None:
        for _ in range(2):
            queue.get()()
            queue.task_done()

    with opened(JoinableQueue) as queue:
        process = ctx.Process(target=consume)
        process.start()
        queue.put(lambda: None)
        queue.put(lambda: None)
        queue.join()
        process.join()
        process.close()


def test_simple_queue_puts_by_value_and_so_do_its_own_connections() -> None:
    queue = SimpleQueue(ctx=ctx)
    queue.put(lambda: 1)
    assert queue.get()() == 1
    queue._writer.send(lambda: 2)
    assert queue._reader.recv()() == 2
    assert queue.empty()
    queue.close()


# --- isolation ---------------------------------------------------------------------------------


def test_standard_queues_and_connections_are_as_before() -> None:
    reader, writer = connection.Pipe(duplex=False)
    with reader, writer:
        assert type(reader) is connection.Connection
        with pytest.raises((AttributeError, pickle.PicklingError)):
            writer.send(lambda: None)
    for cls in (queues.Queue, queues.JoinableQueue, queues.SimpleQueue, connection.Listener):
        assert cls.__module__.startswith("multiprocessing.")
    assert queues.Queue._feed.__globals__ is vars(queues)  # type: ignore[attr-defined]
