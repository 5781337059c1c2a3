"""Looking before sleeping, and giving it up when it is of no use."""

from __future__ import annotations

import os

import pytest

from hookpool import _spin
from hookpool._spin import PATIENCE, PAUSE, Spin


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        os.close(fd)


@pytest.fixture
def looks(monkeypatch):
    """How often the processor was offered to others: once per look in vain."""
    count = []
    monkeypatch.setattr(os, "sched_yield", lambda: count.append(1))
    return count


def test_what_is_there_is_seen(pipe):
    read, write = pipe
    spin = Spin(read)
    os.write(write, b"x")

    assert spin.look()
    assert spin.sleep(10)


def test_what_comes_while_looking_is_seen(pipe, monkeypatch):
    read, write = pipe
    monkeypatch.setattr(_spin, "perf_counter", lambda: 0.0)  # time stands still
    monkeypatch.setattr(os, "sched_yield", lambda: os.write(write, b"x"))

    assert Spin(read).look()


def test_a_look_in_vain_ends(pipe, monkeypatch, looks):
    now = iter(range(100))
    monkeypatch.setattr(_spin, "perf_counter", lambda: next(now) * _spin.SPIN_SECONDS / 4)

    assert not Spin(pipe[0]).look()
    assert 1 <= len(looks) <= 5


def test_after_some_looks_in_vain_there_is_a_pause(pipe, looks):
    spin = Spin(pipe[0])
    for _ in range(PATIENCE):
        assert not spin.look()
    looks.clear()

    for _ in range(PAUSE - 1):
        assert not spin.look()
    assert not looks
    # Then one more try, and if it is of use, as many as at first.
    os.write(pipe[1], b"x")
    assert spin.look()
    os.read(pipe[0], 1)
    assert not spin.look()
    assert looks


def test_what_is_there_is_seen_in_a_pause_too(pipe):
    spin = Spin(pipe[0])
    for _ in range(PATIENCE):
        spin.look()
    os.write(pipe[1], b"x")

    assert spin.look()


def test_sleeping_ends_in_time(pipe):
    assert not Spin(pipe[0]).sleep(0.001)
