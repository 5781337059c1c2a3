"""Waiting for descriptors that others may take over for a while."""

from __future__ import annotations

import os
import threading

import pytest

from hookpool._poller import CAN_MUTE, Poller
from tests.helpers import wait_until


@pytest.fixture
def poller():
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def test_what_is_readable_is_told_with_its_data(poller, pipe):
    poller.watch(pipe[0], "data")
    assert poller.wait(0) == []

    os.write(pipe[1], b"x")

    assert poller.wait(5) == [("data", pipe[0], False)]


def test_what_is_writable_is_told_as_such(poller, pipe):
    poller.watch(pipe[1], "data", write=True)

    assert poller.wait(5) == [("data", pipe[1], True)]


def test_an_end_that_is_gone_is_ready(poller, pipe):
    poller.watch(pipe[0], "data")
    os.close(pipe[1])

    assert poller.wait(5) == [("data", pipe[0], False)]


def test_what_is_forgotten_is_not_told_and_may_be_forgotten_again(poller, pipe):
    poller.watch(pipe[0], "data")
    os.write(pipe[1], b"x")
    poller.forget(pipe[0])
    poller.forget(pipe[0])

    assert poller.wait(0) == []


@pytest.mark.skipif(not CAN_MUTE, reason="nothing can be muted on this system")
def test_what_is_muted_is_told_after_it_is_unmuted(poller, pipe):
    poller.watch(pipe[0], "data")
    poller.mute(pipe[0])
    os.write(pipe[1], b"x")
    assert poller.wait(0) == []

    poller.unmute(pipe[0])
    poller.unmute(pipe[0])

    assert poller.wait(5) == [("data", pipe[0], False)]


@pytest.mark.skipif(not CAN_MUTE, reason="nothing can be muted on this system")
def test_unmuting_wakes_a_thread_that_waits_already(poller, pipe):
    poller.watch(pipe[0], "data")
    poller.mute(pipe[0])
    told = []
    thread = threading.Thread(target=lambda: told.append(poller.wait(20)))
    thread.start()
    os.write(pipe[1], b"x")
    poller.unmute(pipe[0])

    wait_until(lambda: told, 20)
    thread.join()
    assert told == [[("data", pipe[0], False)]]


@pytest.mark.skipif(not CAN_MUTE, reason="nothing can be muted on this system")
def test_unmuting_what_was_forgotten_meanwhile_does_nothing(poller, pipe):
    poller.watch(pipe[0], "data")
    poller.mute(pipe[0])
    poller.forget(pipe[0])
    os.write(pipe[1], b"x")

    poller.unmute(pipe[0])

    assert poller.wait(0) == []
