"""The owner's end of a channel never blocks, keeps the order and counts claims."""

from __future__ import annotations

import os

import pytest

from hookpool import _wire
from hookpool._channel import Channel
from hookpool._claims import Board, Claims, Doing, are_possible, words_of
from hookpool._wire import Kind


@pytest.fixture
def channel():
    channel = Channel()
    yield channel
    channel.close()


def read_all(fd, size):
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_what_the_kernel_does_not_take_waits_in_order(channel):
    big = os.urandom(3_000_000)

    channel.send([b"first", big])
    assert channel.backed_up
    channel.send([b"last"])

    received = b""
    while channel.backed_up:
        received += os.read(channel.worker_in, 1 << 20)
        channel.flush()
    received += read_all(channel.worker_in, len(big) + 9 - len(received))
    assert received == b"first" + big + b"last"


def test_thousands_of_small_buffers_go_out(channel):
    channel.send([bytes([n % 256]) for n in range(5000)])

    assert read_all(channel.worker_in, 5000) == bytes(n % 256 for n in range(5000))


def test_a_channel_whose_other_end_is_gone_is_deaf_and_says_nothing(channel):
    channel.hand_over()

    channel.send([b"x" * 10])

    assert channel.deaf
    assert not channel.backed_up


def test_end_of_file_is_not_an_error(channel):
    channel.hand_over()

    assert channel.read() == (0, False)
    assert channel.ended


def test_frames_are_received_whatever_their_size(channel):
    body = os.urandom(300_000)
    os.set_blocking(channel.worker_out, False)
    stream = _wire.join(_wire.frame(Kind.READY, 1, body) + _wire.frame(Kind.DROPPED, 7))
    frames = []
    while len(frames) < 2:
        if stream:
            sent = os.write(channel.worker_out, stream[: 1 << 16])
            stream = stream[sent:]
        size, _ = channel.read()
        frames += channel.decoder.filled(size) if size else []

    assert [(f.kind, f.number) for f in frames] == [(Kind.READY, 1), (Kind.DROPPED, 7)]
    assert bytes(frames[0].body) == body


def test_an_empty_channel_gives_nothing(channel):
    assert channel.read() == (0, False)


@pytest.fixture
def claimed():
    """A channel with claims, and the worker's side of these."""
    board = Board()
    channel = Channel(board)
    claims = Claims(os.dup(channel.claims), words_of(board.fd, channel.slot))
    yield channel, claims
    claims.close()
    channel.close()
    board.close()


@pytest.mark.skipif(not are_possible(), reason="there is no atomic claim on this system")
def test_claims_are_won_by_one_side_only(claimed):
    channel, worker = claimed
    channel.add_claims(5)

    assert worker.claim()
    assert worker.claim()
    assert channel.take_claims(2) == 2
    assert channel.take_claims(3) == 1
    assert not worker.claim()
    assert channel.take_claims(3) == 0


@pytest.mark.skipif(not are_possible(), reason="there is no atomic claim on this system")
def test_what_a_worker_started_and_does_can_be_read(claimed):
    channel, worker = claimed
    assert channel.started() == -1

    worker.words[0], worker.words[1] = 7 + 1, Doing.DUMPING

    assert (channel.started(), channel.doing()) == (7, Doing.DUMPING)


def test_all_descriptors_are_closed():
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else set()
    board = Board()
    channel = Channel(board)
    assert len(channel.fds()) == 5

    channel.close()
    board.close()

    assert (set(os.listdir("/proc/self/fd")) if before else set()) == before
