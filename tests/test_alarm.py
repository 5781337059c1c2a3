"""The bell is heard, never blocks and never writes into a stranger's file."""

from __future__ import annotations

import errno
import os
import select

import pytest

from hookpool import _alarm
from hookpool._alarm import Alarm


def is_ringing(alarm):
    return bool(select.select([alarm.fd], [], [], 0)[0])


def test_a_ring_is_heard_until_noted():
    alarm = Alarm()
    assert not is_ringing(alarm)

    alarm.ring()
    alarm.ring()
    assert is_ringing(alarm)

    alarm.quiet()
    assert not is_ringing(alarm)
    alarm.quiet()


def test_a_hundred_thousand_rings_do_not_block():
    alarm = Alarm()
    for _ in range(100_000):
        alarm.ring()

    assert is_ringing(alarm)


def test_it_is_closed_with_its_last_reference_and_not_before():
    alarm = Alarm()
    fd, ring = alarm.fd, alarm.ring
    del alarm
    ring()
    os.fstat(fd)

    del ring
    try:
        os.fstat(fd)
    except OSError:
        return
    raise AssertionError("the descriptor is still open")


def test_one_that_cannot_be_made_is_no_error_of_its_finalizer(monkeypatch):
    def refuse():
        raise OSError(errno.EMFILE, "no descriptor left")

    monkeypatch.setattr(_alarm, "pipe", refuse)
    with pytest.raises(OSError, match="no descriptor"):
        Alarm()
