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
    ).map(_wire.results_frame),
    st.builds(
        _wire.run_frame,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.just(Form.ARGS),
        st.lists(payloads, min_size=1, max_size=4),
    ),
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


def test_a_run_comes_back_with_a_payload_for_each_task():
    buffers = _wire.run_frame(1 << 62, 5, Form.KWARGS, [b"a", b"", b"ccc"])

    (frame,) = decode(_wire.join(buffers), 1 << 20)
    run = _wire.run(frame)

    assert frame.kind == Kind.TASKS
    assert run[:4] == (1 << 62, 5, Form.KWARGS, 3)
    assert [bytes(payload) for payload in run.payloads] == [b"a", b"", b"ccc"]


@pytest.mark.parametrize("form", [Form.PLAIN, Form.LONE])
def test_a_plain_run_comes_back_with_one_payload(form):
    (frame,) = decode(_wire.join(_wire.plain_frame(7, 3, 5, b"abc", form)), 1 << 20)
    run = _wire.run(frame)

    assert run[:4] == (7, 5, form, 3)
    assert [bytes(payload) for payload in run.payloads] == [b"abc"]


def test_values_come_back():
    (frame,) = decode(_wire.join(_wire.values_frame(7, 3, 1_000_000_000_000, b"abc")), 1 << 20)
    first, micros, payload = _wire.values(frame)

    assert (frame.kind, frame.number) == (Kind.VALUES, 3)
    assert (first, micros, bytes(payload)) == (7, 1_000_000_000_000, b"abc")


def read_once(stream):
    """A decoder with these bytes in its room, and how many they are."""
    decoder = Decoder()
    decoder.room()[: len(stream)] = stream
    return decoder, len(stream)


def test_a_lone_call_is_a_run_of_one_and_is_taken_out_at_once():
    message = _wire.lone_call(1 << 62, 5, b"abc")
    decoder, size = read_once(message)

    task, function, payload = decoder.lone_call(size)

    assert message == _wire.join(_wire.plain_frame(1 << 62, 1, 5, b"abc"))
    assert (task, function, bytes(payload)) == (1 << 62, 5, b"abc")
    assert len(decoder.room()) == _wire.ROOM


def test_a_lone_value_is_a_run_of_one_and_is_taken_out_at_once():
    message = _wire.lone_value(7, 1_000_000_000_000, b"abc")
    decoder, size = read_once(message)

    task, micros, payload = decoder.lone_value(size)

    assert message == _wire.join(_wire.values_frame(7, 1, 1_000_000_000_000, b"abc"))
    assert (task, micros, bytes(payload)) == (7, 1_000_000_000_000, b"abc")
    assert len(decoder.room()) == _wire.ROOM


CALL, VALUE = _wire.lone_call(7, 5, b"abc"), _wire.lone_value(7, 5, b"abc")


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        CALL[:-1],
        VALUE[:-1],
        CALL + CALL,
        VALUE + VALUE,
        _wire.join(_wire.plain_frame(7, 2, 5, b"abc")),
        _wire.join(_wire.values_frame(7, 2, 5, b"abc")),
        _wire.join(_wire.run_frame(7, 5, Form.ARGS, [b"abc"])),
        _wire.join(_wire.results_frame([(7, Status.VALUE, 12, b"abc" * 9)])),
        _wire.join(_wire.frame(Kind.DEFINE, 1, b"x" * 40)),
    ],
)
def test_what_is_not_alone_is_left_for_the_frames(stream):
    decoder, size = read_once(stream)

    assert decoder.lone_call(size) is None
    assert decoder.lone_value(size) is None
    assert [f.body for f in decoder.filled(size)] == [f.body for f in decode(stream, 1 << 20)]


def test_the_rest_of_a_frame_is_not_taken_for_one_alone():
    for rest in (CALL, VALUE):
        stream = _wire.join(_wire.frame(Kind.DEFINE, 1, rest))
        decoder, size = read_once(stream[:20])
        assert decoder.filled(size) == []
        decoder.room()[: len(stream) - 20] = stream[20:]

        assert decoder.lone_call(len(stream) - 20) is None
        assert decoder.lone_value(len(stream) - 20) is None


def test_result_rows_come_back_in_order():
    rows = [(1, Status.VALUE, 12, b"a" * 100_000), (2, Status.RAISED, 3, b"b")]

    (frame,) = decode(_wire.join(_wire.results_frame(rows)), 1 << 20)

    assert [(*row[:3], bytes(row.payload)) for row in _wire.result_rows(frame)] == rows


@pytest.mark.parametrize("length", [_wire.ROOM + 1, 2 * _wire.ROOM, 5 * _wire.ROOM + 3])
@pytest.mark.parametrize("cut", [1000, 1 << 20])
def test_a_body_that_there_is_no_memory_for_is_passed_over(monkeypatch, length, cut):
    def scarce(size):
        if size > _wire.ROOM:
            raise MemoryError
        return bytearray(size)

    stream = _wire.join(
        _wire.frame(Kind.EXIT, 1)
        + _wire.results_frame([(7, Status.VALUE, 5, b"x" * length)])
        + _wire.frame(Kind.EXIT, 2)
    )
    monkeypatch.setattr(_wire, "bytearray", scarce, raising=False)

    before, large, after = decode(stream, cut)

    assert (before.number, after.number) == (1, 2)
    assert large.is_cut
    assert list(_wire.result_rows(large)) == [(7, Status.NO_ROOM, 5, b"")]


def test_a_run_that_there_is_no_memory_for_still_says_whose_it_is():
    body = _wire.join(_wire.run_frame(3, 5, Form.ARGS, [b"a" * 100] * 4))[16:]

    run = _wire.run(Frame(Kind.TASKS, 4, body[:64], True))

    assert (run.first, run.tasks, run.payloads) == (3, 4, [])


def test_an_empty_frame_is_a_header_only():
    (frame,) = decode(_wire.join(_wire.frame(Kind.EXIT)), 1)

    assert frame == Frame(Kind.EXIT, 0, b"")


@pytest.mark.parametrize("sent", range(8))
def test_what_remains_after_a_partial_write(sent):
    buffers = [b"abc", b"", b"defg"]

    assert b"".join(_wire.after(buffers, sent)) == b"abcdefg"[sent:]
