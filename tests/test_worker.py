"""A worker in this very process, its owner played by the test: claims, results, drops."""

from __future__ import annotations

import os
import pickle
import threading
import time

import pytest

from hookpool import _nesting, _start, _wire, _worker, errors, reduction
from hookpool._buffers import Lender
from hookpool._channel import Channel
from hookpool._claims import Board, Doing, are_possible
from hookpool._link import Link
from hookpool._wire import Form, Kind, Status
from tests import odd_errors
from tests.helpers import wait_until

pytestmark = pytest.mark.skipif(not are_possible(), reason="there is no atomic claim here")


class Owner:
    """The other end of a worker that runs in a thread."""

    def __init__(self):
        self.board = Board()
        self.channel = Channel(self.board)
        self.worker = _worker._Worker(
            Link(
                os.dup(self.channel.worker_in),
                os.dup(self.channel.worker_out),
                os.dup(self.channel.claims),
                os.dup(self.board.fd),
                self.channel.slot,
            ),
            Lender(),
        )
        self.thread = threading.Thread(target=self.worker.run)
        self.frames = []
        #: The first task and the number of tasks of each frame of plain values.
        self.together = []

    def send(self, *calls, claims=None):
        payloads = [reduction.dumps((fn, args, {})) for fn, *args in calls]
        self.channel.add_claims(len(calls) if claims is None else claims)
        self.channel.send(_wire.run_frame(0, 0, Form.CALL, payloads))

    def send_plain(self, fn, rows, first=0, number=1):
        self.channel.send(_wire.frame(Kind.DEFINE, number, reduction.dumps(fn)))
        self.channel.add_claims(len(rows))
        self.channel.send(_wire.plain_frame(first, len(rows), number, pickle.dumps(rows)))

    def receive(self, count):
        """Wait for so many results or other frames."""

        def enough():
            size, _ = self.channel.read()
            for frame in self.channel.decoder.filled(size) if size else ():
                if frame.kind == Kind.RESULTS:
                    self.frames += list(_wire.result_rows(frame))
                elif frame.kind == Kind.VALUES:
                    first, _, payload = _wire.values(frame)
                    self.together.append((first, frame.number))
                    for at, value in enumerate(pickle.loads(payload)):
                        self.frames.append((first + at, value))
                else:
                    self.frames.append(frame)
            return len(self.frames) >= count

        wait_until(enough, 20)
        got, self.frames = self.frames[:count], self.frames[count:]
        return got

    def end(self):
        self.channel.send(_wire.frame(Kind.EXIT))
        if not self.thread.ident:
            self.thread.start()
        self.thread.join(20)
        self.worker.close()
        self.channel.close()
        self.board.close()


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    owner.end()


def values(rows):
    return [reduction.loads(row.payload) for row in rows]


def test_tasks_run_in_order_and_their_results_come_in_order(owner):
    owner.send((abs, -1), (abs, -2), (abs, -3))
    owner.thread.start()

    rows = owner.receive(3)

    assert [row.task for row in rows] == [0, 1, 2]
    assert values(rows) == [1, 2, 3]
    assert {row.status for row in rows} == {Status.VALUE}


def test_what_was_taken_back_is_dropped_and_said_so(owner):
    owner.send((abs, -1), (abs, -2), (abs, -3))
    assert owner.channel.take_claims(2) == 2
    owner.thread.start()

    row, dropped = owner.receive(2)

    assert values([row]) == [1]
    assert (dropped.kind, dropped.number) == (Kind.DROPPED, 2)


def test_a_worker_that_dropped_takes_new_tasks(owner):
    owner.send((abs, -1), claims=0)
    owner.thread.start()
    assert owner.receive(1)[0].kind == Kind.DROPPED

    owner.send((abs, -7))

    assert values(owner.receive(1)) == [7]


def test_a_finished_task_is_heard_of_while_the_next_one_is_long(owner):
    gate = threading.Event()
    _gates.append(gate)
    owner.send((abs, -1), (_wait,), (abs, -3))
    owner.thread.start()

    assert values(owner.receive(1)) == [1]
    gate.set()
    assert values(owner.receive(2)) == [True, 3]


_gates: list[threading.Event] = []


def _wait():
    return _gates.pop().wait(20)


def test_a_task_that_raises_says_what_and_where(owner):
    owner.send((int, "x"))
    owner.thread.start()

    [row] = owner.receive(1)
    error, text = _worker.read_error(row.payload)

    assert row.status == Status.RAISED
    assert type(error) is ValueError
    assert "invalid literal" in text
    assert "_worker.py" not in text


def test_a_payload_that_cannot_be_loaded_fails_its_task_only(owner):
    owner.channel.add_claims(1)
    owner.channel.send(_wire.run_frame(5, 0, Form.CALL, [b"nonsense"]))
    owner.send((abs, -1))
    owner.thread.start()

    bad, good = owner.receive(2)

    assert (bad.task, bad.status) == (5, Status.UNREADABLE)
    assert values([good]) == [1]


def test_a_result_that_cannot_be_pickled_fails_its_task_only(owner):
    owner.send((threading.Event,), (iter, b"x"), (abs, -1))
    owner.thread.start()

    rows = owner.receive(3)

    assert values(rows[2:]) == [1]
    assert rows[2].status == Status.VALUE


def test_plain_calls_come_back_as_plain_values(owner):
    owner.send_plain(abs, [(-1,), (-2,), (-3,)])
    owner.thread.start()

    assert owner.receive(3) == [(0, 1), (1, 2), (2, 3)]


def test_errors_and_objects_between_plain_values_keep_their_places(owner):
    owner.send_plain(_odd_ones, [(n,) for n in range(6)])
    owner.thread.start()

    results = owner.receive(6)

    assert results[0] == (0, 0)
    assert (results[1].task, results[1].status) == (1, Status.RAISED)
    assert results[2] == (2, 2)
    assert reduction.loads(results[3].payload) == [3]
    assert results[4:] == [(4, 4), (5, 5)]


def _odd_ones(n):
    if n == 1:
        raise ValueError(n)
    return [n] if n == 3 else n


def test_plain_calls_that_were_taken_back_are_dropped_with_all_behind_them(owner):
    owner.send_plain(abs, [(-1,), (-2,), (-3,)])
    owner.send((abs, -4))
    assert owner.channel.take_claims(3) == 3
    owner.thread.start()

    value, dropped = owner.receive(2)

    assert value == (0, 1)
    assert (dropped.kind, dropped.number) == (Kind.DROPPED, 3)


def test_values_of_one_function_leave_together_whatever_messages_brought_the_calls(owner):
    owner.worker._flush = lambda: None  # no millisecond passes
    owner.send_plain(abs, [(-1,), (-2,)])
    owner.send_plain(abs, [(-3,), (-4,)], first=2)
    owner.send_plain(str, [(5,), (6,)], first=4, number=2)  # of another: measured apart
    owner.send_plain(str, [(8,), (9,)], first=8, number=2)  # no neighbours
    while len(owner.worker._queue) < 4:
        owner.worker._take_in(owner.worker._read())
    for number in (1, 2):
        owner.worker._shelf.function(number)  # the first call that needs one loaded goes alone
    while owner.worker._queue:
        owner.worker._work_off(owner.worker._queue.popleft())
    del owner.worker._flush
    owner.worker._flush()

    assert [value for _, value in owner.receive(8)] == [1, 2, 3, 4, "5", "6", "8", "9"]
    assert owner.together == [(0, 4), (4, 2), (8, 2)]


def test_a_value_is_heard_of_while_the_next_plain_call_is_long(owner):
    gate = threading.Event()
    _gates.append(gate)
    owner.send_plain(_wait_if, [(False,), (True,), (False,)])
    owner.thread.start()

    assert owner.receive(1) == [(0, False)]
    gate.set()
    assert owner.receive(2) == [(1, True), (2, False)]


def _wait_if(wait):
    return wait and _wait()


def test_results_of_both_kinds_are_heard_of_while_the_next_call_is_long(owner):
    gate = threading.Event()
    _gates.append(gate)
    owner.send_plain(_odd_ones_or_wait, [(0,), (3,), (4,)])
    owner.thread.start()

    plain, row = owner.receive(2)
    assert plain == (0, 0)
    assert values([row]) == [[3]]
    gate.set()
    assert owner.receive(1) == [(2, True)]


def _odd_ones_or_wait(n):
    return [n] if n % 2 else n and _wait()


@pytest.mark.parametrize("are_plain", [True, False])
def test_nobody_is_woken_for_results_that_leave_at_once(owner, are_plain):
    """A thread beside the task's costs a tenth of a task of a millisecond."""
    if are_plain:
        owner.send_plain(_busy, [(1.0,), (2.0,), (3.0,)])
    else:
        owner.send((_busy, 1.0), (_busy, 2.0), (_busy, 3.0))
    owner.thread.start()

    owner.receive(3)

    assert owner.worker._flusher is None


def _busy(value):
    began = time.perf_counter()
    while time.perf_counter() - began < 2 * _worker.FLUSH_SECONDS:
        pass
    return value


def test_a_function_that_cannot_be_loaded_fails_each_plain_call_of_it(owner):
    owner.channel.send(_wire.frame(Kind.DEFINE, 1, b"nonsense"))
    owner.channel.add_claims(2)
    owner.channel.send(_wire.plain_frame(0, 2, 1, pickle.dumps([(1,), (2,)])))
    owner.send((abs, -1))
    owner.thread.start()

    first, second, good = owner.receive(3)

    assert (first.status, second.status) == (Status.UNREADABLE, Status.UNREADABLE)
    assert values([good]) == [1]


_tries: list[int] = []


class _SecondTime:
    """Loads at the second try."""

    def __reduce__(self):
        return _second_time, ()


def _second_time():
    _tries.append(1)
    if len(_tries) < 2:
        raise OSError("not yet")
    return 5


def test_a_function_that_loads_later_is_called_by_those_behind(owner):
    _tries.clear()
    captured = _SecondTime()
    owner.send_plain(lambda x, y: (captured, x, y), [(1, 2), (3, 4), (5, 6)])
    owner.thread.start()

    first, *others = owner.receive(3)

    assert (first.task, first.status) == (0, Status.UNREADABLE)
    assert others == [(1, (5, 3, 4)), (2, (5, 5, 6))]


def test_to_load_a_function_belongs_to_the_first_call_that_needs_it(owner):
    """Whoever waits for it, or dies of it, has been claimed and is named."""
    gate = threading.Event()
    _gates.append(gate)
    captured = _Gate()
    owner.send_plain(abs, [(-1,)])
    owner.send_plain(lambda x: (captured, x), [(2,), (3,)], first=1, number=2)
    owner.thread.start()

    assert owner.receive(1) == [(0, 1)]
    wait_until(lambda: owner.channel.started() == 1, 20)
    assert owner.channel.doing() is Doing.LOADING
    assert owner.channel.take_claims(2) == 1
    gate.set()

    value, dropped = owner.receive(2)
    assert value == (1, (True, 2))
    assert (dropped.kind, dropped.number) == (Kind.DROPPED, 1)


class _Gate:
    def __reduce__(self):
        return _wait, ()


def test_tasks_and_functions_that_there_is_no_memory_for_fail_alone(owner, monkeypatch):
    def scarce(size):
        if size > _wire.ROOM:
            raise MemoryError
        return bytearray(size)

    monkeypatch.setattr(_wire, "bytearray", scarce, raising=False)
    large = b"x" * (3 * _wire.ROOM)
    owner.channel.add_claims(3)
    owner.channel.send(_wire.run_frame(0, 0, Form.CALL, [large, large]))
    owner.channel.send(_wire.frame(Kind.DEFINE, 1, large))
    owner.channel.send(_wire.plain_frame(2, 1, 1, pickle.dumps([(1,)])))
    owner.send((abs, -1))
    owner.thread.start()
    while owner.channel.backed_up:
        owner.channel.flush()

    frames = owner.receive(5)

    *failed, good = [row for row in frames if not isinstance(row, _wire.Frame)]
    lacking = [frame for frame in frames if isinstance(frame, _wire.Frame)]
    assert [(frame.kind, frame.number) for frame in lacking] == [(Kind.LACKS, 1)]
    assert len(failed) == 3
    for row in failed:
        assert row.status == Status.UNREADABLE
        assert type(_worker.read_error(row.payload)[0]) is MemoryError
    assert values([good]) == [1]


def test_durations_are_measured(owner):
    owner.send((time.sleep, 0.02))
    owner.thread.start()

    assert owner.receive(1)[0].micros >= 20_000


@pytest.mark.parametrize("name", odd_errors.NAMES)
@pytest.mark.parametrize("is_plain", [True, False])
def test_whatever_a_task_raises_arrives_and_the_next_one_runs(owner, name, is_plain):
    if is_plain:
        owner.send_plain(odd_errors.throw, [(name,)])
    else:
        owner.send((odd_errors.throw, name))
    owner.send((abs, -1))
    owner.thread.start()

    row, good = owner.receive(2)
    error, text = _worker.read_error(row.payload)

    assert row.status == Status.RAISED
    assert type(error) is type(odd_errors.make(name))
    assert "in throw" in text
    assert values([good]) == [1]


def test_an_exception_that_does_not_travel_is_told_of_whatever_the_reason_says(owner):
    owner.send((_raise_not_sent,), (abs, -1))
    owner.thread.start()

    row, good = owner.receive(2)
    error, text = _worker.read_error(row.payload)

    assert type(error) is errors.CannotPickle
    assert "NotSent: what" in str(error)
    assert "a NoText, whose text cannot be shown" in str(error)
    assert "in _raise_not_sent" in text
    assert values([good]) == [1]


def _raise_not_sent():
    raise odd_errors.NotSent("what")


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_an_initializer_that_fails_is_heard_of_also_where_that_cannot_be_logged(
    owner, name, monkeypatch, logging_fails
):
    monkeypatch.setattr(_nesting, "depth", 0)
    start = _start.Start(odd_errors.throw, (name,), {}, None, 1)

    assert not owner.worker.prepare(start)

    [frame] = owner.receive(1)
    error, text = _worker.read_error(frame.body)
    assert frame.kind == Kind.UNFIT
    assert type(error) is type(odd_errors.make(name))
    assert "in throw" in text


def test_what_an_exception_is_rebuilt_as_is_an_exception():
    with pytest.raises(errors.CannotUnpickle, match="makes a str"):
        _worker.read_error(reduction.dumps(("no exception", "where")))


def test_an_exception_that_cannot_be_rebuilt_says_why_whatever_that_says():
    with pytest.raises(errors.CannotUnpickle, match="a NoText, whose text") as caught:
        _worker.read_error(reduction.dumps((odd_errors.AtLoad("no text"), "where")))
    assert type(caught.value.__cause__) is odd_errors.NoText
