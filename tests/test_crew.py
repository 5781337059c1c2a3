"""What one worker is sent: definitions before the tasks that need them, and once."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace

import pytest

from hookpool import _wire
from hookpool._buffers import Exchange, Lender
from hookpool._channel import Channel
from hookpool._claims import Board
from hookpool._crew import Worker
from hookpool._definitions import Ledger
from hookpool._events import Span
from hookpool._future import HookFuture
from hookpool._task import Task
from hookpool._wire import Form, Kind


class Ends:
    """A worker without a process, and what arrives at the other end of its channel."""

    def __init__(self):
        self.board = Board()
        self.channel = Channel(self.board)
        process = SimpleNamespace(pid=None, sentinel=-1)
        self.worker = Worker(0, process, self.channel, Exchange(None, Lender()))
        self.decoder = _wire.Decoder()

    def frames(self):
        room = self.decoder.room()
        return self.decoder.filled(os.readv(self.channel.worker_in, [room]))


@pytest.fixture
def ends():
    ends = Ends()
    yield ends
    ends.worker.close()
    ends.board.close()


def plain(definition, *args):
    return Task(HookFuture(None), len, definition, Form.PLAIN, args, (), 0)


def call(ledger, *args):
    packet = ledger.dump(args)
    return Task(HookFuture(None), len, ledger.call(len), Form.ARGS, packet.data, packet.needs, 0)


def test_a_definition_is_sent_before_its_first_task_and_only_then(ends):
    definition = Ledger().call(lambda x: x)
    table = {n: plain(definition, n) for n in range(3)}

    ends.worker.send(table, (Span(0, 1, 0),))
    ends.worker.send(table, (Span(1, 3, 0),))
    define, first, others = ends.frames()

    assert (define.kind, define.number) == (Kind.DEFINE, definition.number)
    assert [_wire.run(first).first, _wire.run(others).first] == [0, 1]
    assert pickle.loads(_wire.run(others).payloads[0]) == [(1,), (2,)]
    assert ends.channel.take_claims(9) == 3


def test_what_the_arguments_need_is_sent_as_well(ends):
    class Local:
        pass

    ledger = Ledger()
    table = {0: call(ledger, Local()), 1: call(ledger, Local())}

    ends.worker.send(table, (Span(0, 2, 0),))

    kinds = [frame.kind for frame in ends.frames()]
    assert kinds.count(Kind.DEFINE) == 2  # the class and the function
    assert kinds[-1] == Kind.TASKS


def test_a_forgotten_definition_is_sent_again(ends):
    definition = Ledger().call(lambda x: x)
    table = {0: plain(definition, 0), 1: plain(definition, 1)}
    ends.worker.send(table, (Span(0, 1, 0),))
    ends.frames()

    ends.worker.forget(definition.number)
    ends.worker.forget(definition.number)
    ends.worker.send(table, (Span(1, 2, 0),))

    assert [frame.kind for frame in ends.frames()] == [Kind.FORGET, Kind.DEFINE, Kind.TASKS]


def test_a_worker_told_to_exit_is_remembered_as_such(ends):
    ends.worker.retire()

    assert ends.worker.retired
    assert [frame.kind for frame in ends.frames()] == [Kind.EXIT]


def test_a_short_message_waits_behind_what_the_kernel_has_not_taken(ends):
    definition = Ledger().call(len)
    big = b"x" * (1 << 20)
    table = {0: plain(definition, 0), 1: plain(definition, 1)}
    ends.worker.send(table, (Span(0, 1, 0),))
    ends.channel.send([*_wire.frame(Kind.FORGET, 9, big)])
    assert ends.channel.backed_up

    ends.worker.send(table, (Span(1, 2, 0),))
    frames = []
    while len(frames) < 4:
        frames += ends.frames()
        ends.channel.flush()

    assert [frame.kind for frame in frames] == [Kind.DEFINE, Kind.TASKS, Kind.FORGET, Kind.TASKS]
