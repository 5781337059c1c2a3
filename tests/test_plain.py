"""Which values refer to nothing."""

from __future__ import annotations

import pickle
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookpool._plain import DEEPEST, LONGEST, are_immutable, are_plain, is_immutable, is_plain


class Number(int):
    """Not an int to everybody."""


class Choice(IntEnum):
    A = 1


PLAIN = [0, -1, 2**70, True, None, 1.5, 1j, "a", b"a", (), (1, "a", (None,)), "x" * LONGEST]
OTHERS = [
    [1], {1}, {}, bytearray(b"a"), object(), Number(1), Choice.A, int, lambda: 1,
    "x" * (LONGEST + 1), b"x" * (LONGEST + 1), 1 << (8 * LONGEST), (1, [2]), (0,) * (LONGEST + 1),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_plain_values(value):
    assert is_plain(value)
    assert are_plain((value, 1))
    assert are_immutable([value, 1])
    assert is_immutable(value)


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:20])
def test_other_values(value):
    assert not is_plain(value)
    assert not are_plain((1, value))


def test_tuples_are_looked_into_only_so_deep():
    value = 1
    for _ in range(DEEPEST):
        value = (value,)

    assert is_plain(value)
    assert are_immutable([value])
    assert not is_plain((value,))
    assert not are_immutable([(value,)])
    assert is_immutable(value)
    assert not is_immutable((value,))


@given(st.lists(st.none() | st.integers() | st.text() | st.lists(st.none())))
def test_many_at_once_are_judged_as_one_by_one_but_for_their_size(values):
    def refers_to_nothing(value):
        return is_plain(value) or isinstance(value, int | str)

    assert are_immutable(values) == all(map(refers_to_nothing, values))
    assert list(map(is_immutable, values)) == list(map(refers_to_nothing, values))


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False), st.tuples))
def test_a_plain_value_does_not_change_by_sharing_a_pickle(value):
    if is_plain(value):
        assert pickle.loads(pickle.dumps([value, value])) == [value, value]
