"""Messages survive every way a stream may cut them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookpool import _wire
from hookpool._wire import Decoder, Form, Frame, Kind, Status

payloads = st.binary(max_size=40) | st.just(b"x" * (_wire.ROOM + 7))
frames = st.one_of(
    st.builds(
        _wire.frame,
        st.sampled_from([Kind.DEFINE, Kind.FORGET, Kind.EXIT, Kind.READY]),
        st.integers(0, 2**32 - 1),
        payloads,
    ),
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.just(1), payloads),
        max_size=4,
    ).map(_wire.tasks_frame),
)


def decode(stream, cut):
    decoder, at, out = Decoder(), 0, []
    while at < len(stream):
        room = decoder.room()
        here = min(len(room), cut, len(stream) - at)
        room[:here] = stream[at : at + here]
        out += decoder.filled(here)
        at += here
    return out


@given(st.lists(frames, max_size=5), st.sampled_from([1, 3, 17, 4096, 1 << 20]))
def test_any_cut_of_the_stream_gives_the_same_frames(messages, cut):
    stream = b"".join(_wire.join(buffers) for buffers in messages)
    if cut == 1:
        stream = stream[:3000]

    whole = decode(stream, 1 << 30)

    assert [tuple(f)[:2] for f in decode(stream, cut)] == [tuple(f)[:2] for f in whole]
    assert [bytes(f.body) for f in decode(stream, cut)] == [bytes(f.body) for f in whole]


def test_a_truncated_frame_is_not_delivered():
    stream = _wire.join(_wire.frame(Kind.DEFINE, 7, b"12345"))

    assert decode(stream[:-1], 1 << 20) == []


def test_task_rows_come_back_in_order():
    rows = [(1, 5, Form.ARGS, b"a"), (2, 0, Form.CALL, b""), (3, 5, Form.KWARGS, b"ccc")]

    (frame,) = decode(_wire.join(_wire.tasks_frame(rows)), 1 << 20)

    assert frame.kind == Kind.TASKS
    assert [(*row[:3], bytes(row.payload)) for row in _wire.task_rows(frame)] == rows


def test_result_rows_come_back_in_order():
    rows = [(1, Status.VALUE, 12, b"a" * 100_000), (2, Status.RAISED, 3, b"b")]

    (frame,) = decode(_wire.join(_wire.results_frame(rows)), 1 << 20)

    assert [(*row[:3], bytes(row.payload)) for row in _wire.result_rows(frame)] == rows


def test_an_empty_frame_is_a_header_only():
    (frame,) = decode(_wire.join(_wire.frame(Kind.EXIT)), 1)

    assert frame == Frame(Kind.EXIT, 0, b"")


@pytest.mark.parametrize("sent", range(8))
def test_what_remains_after_a_partial_write(sent):
    buffers = [b"abc", b"", b"defg"]

    assert b"".join(_wire.after(buffers, sent)) == b"abcdefg"[sent:]
