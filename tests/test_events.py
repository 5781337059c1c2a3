"""The vocabulary of the scheduler holds numbers and nothing else."""

from __future__ import annotations

import typing

import pytest

from hookpool import _events

PLAIN = {
    int,
    float,
    bool,
    _events.Why,
    _events.Span,
    tuple[_events.Span, ...],
    tuple[tuple[int, int], ...],
}


@pytest.mark.parametrize(
    "kind", [*typing.get_args(_events.Event), *typing.get_args(_events.Action)]
)
def test_events_and_actions_hold_only_numbers(kind):
    assert set(typing.get_type_hints(kind).values()) <= PLAIN


def test_every_event_has_a_handler():
    from hookpool import _scheduler

    assert set(_scheduler._HANDLERS) == set(typing.get_args(_events.Event))
