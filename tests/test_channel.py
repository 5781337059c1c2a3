"""The owner's end of a channel never blocks, keeps the order and counts claims."""

from __future__ import annotations

import os

import pytest

from hookpool import _wire
from hookpool._channel import CLAIMS, Channel
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

    assert channel.receive() == ([], False)
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
        frames += channel.receive()[0]

    assert [(f.kind, f.number) for f in frames] == [(Kind.READY, 1), (Kind.DROPPED, 7)]
    assert bytes(frames[0].body) == body


def test_an_empty_channel_gives_nothing(channel):
    assert channel.receive() == ([], False)


@pytest.mark.skipif(not CLAIMS, reason="there is no atomic claim on this system")
def test_claims_are_won_by_one_side_only(channel):
    channel.add_claims(5)

    os.eventfd_read(channel.claims)
    os.eventfd_read(channel.claims)

    assert channel.take_claims(2) == 2
    assert channel.take_claims() == 1
    assert channel.take_claims(3) == 0


@pytest.mark.skipif(not CLAIMS, reason="there is no atomic claim on this system")
def test_the_claims_left_can_be_looked_at(channel):
    channel.add_claims(20)
    channel.take_claims(3)

    assert channel.unclaimed() == 17


def test_all_descriptors_are_closed():
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else set()
    channel = Channel()
    assert len(channel.fds()) == (5 if CLAIMS else 4)

    channel.close()

    assert (set(os.listdir("/proc/self/fd")) if before else set()) == before
