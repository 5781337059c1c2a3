"""Tasks on the owner's side: what is sent of them, and what becomes of their results.

A `Task` is one call with a future; a `Block` is neighbouring calls of one map, one object for all
of them.  The driver's table has one of the two for each number.  Knows neither the scheduler nor
channels.  Tasks are made in the thread that submits; the driver's thread settles them, and there
the user's code runs that rebuilding a result needs.
"""

from __future__ import annotations

import os
import pickle
from concurrent.futures import CancelledError
from threading import current_thread, main_thread
from types import CodeType

from hookpool import _wire, _worker, errors
from hookpool._buffers import Parcel, loads, loads_again
from hookpool._future import RebuildInterrupted, settle, settle_one
from hookpool._raised import cause_of, set_cause, summary_of
from hookpool._ticket import Ticketed
from hookpool._wire import Form, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from typing import Any, Protocol, TypeAlias

    from hookpool._buffers import Borrowed, Exchange
    from hookpool._definition import Definition
    from hookpool._future import HookFuture
    from hookpool._wire import Buffer, ResultRow

    class Consumer(Protocol):
        """Who takes the outcomes of a block; called by the driver's thread, or the feeding one."""

        def take_values(self, index: int, values: list[Any], /) -> None:
            """The calls from this index on returned these."""

        def take_error(self, index: int, error: BaseException, /) -> None:
            """The call with this index failed, or was cancelled."""


_PROTOCOL = pickle.HIGHEST_PROTOCOL
_PLAIN, _LONE = Form.PLAIN, Form.LONE
_QUALNAME: Any = vars(type)["__qualname__"]


class Task:
    """One call, and the future of its result."""

    __slots__ = (
        "definition", "form", "function", "future", "group", "limit", "needs", "payload", "worker",
    )  # fmt: skip

    def __init__(
        self,
        future: HookFuture[Any],
        function: object,
        definition: Definition | None,
        form: Form,
        payload: Any,
        needs: tuple[Definition, ...],
        group: int,
        limit: float | None = None,
    ) -> None:
        self.future = future
        #: Only to name the task in errors.
        self.function = function
        #: The function, where it travels as a definition; else it is in the payload.
        self.definition = definition
        self.form = form
        #: A pickle; or the arguments themselves where they are plain.
        self.payload = payload
        #: The definitions that the payload refers to, in order.
        self.needs = needs
        #: Tasks of one group are expected to last equally long.
        self.group = group
        #: For how many seconds it may run.
        self.limit = limit
        #: Who was sent it, when nothing else was.
        self.worker: Any = None

    def pickled(self) -> bytes:
        """The payload of a run of this task alone, where its arguments are plain."""
        return pickle.dumps([self.payload], _PROTOCOL)

    def set_values(self, number: int, values: list[Any]) -> None:
        """The call returned this."""
        settle_one(self.future, values[0])

    def set_exception(self, number: int, error: BaseException) -> None:
        """The call failed."""
        self.future.settle_exception(error)

    def note_dropped(self) -> None:
        """The call will never run, and its future hears so soon: who cancels it is right."""
        self.future.note_dropped()

    def set_cancelled(self, number: int) -> None:
        """The call will never run."""
        self.future.set_cancelled()


class Block:
    """Neighbouring calls of one map: the tasks from `first` on, the items from `index` on."""

    __slots__ = (
        "consumer", "definition", "first", "form", "function", "group", "index", "is_dear",
        "limit", "needs", "payloads",
    )  # fmt: skip

    def __init__(
        self,
        consumer: Consumer,
        index: int,
        function: object,
        definition: Definition | None,
        form: Form,
        payloads: list[Any],
        needs: tuple[Definition, ...],
        group: int,
        limit: float | None = None,
    ) -> None:
        self.consumer = consumer
        self.index = index
        #: The number of the first task, once submitted.
        self.first = -1
        self.function = function
        self.definition = definition
        self.form = form
        #: One pickle for each call; or its arguments themselves, or the only one, where all are
        #: plain.
        self.payloads = payloads
        kinds = set(map(type, payloads))
        #: Whether parcels or tickets are among them, which go as soon as they have served.
        self.is_dear = Parcel in kinds or Ticketed in kinds
        self.needs = needs
        self.group = group
        #: As of a task, for each of them.
        self.limit = limit

    def __len__(self) -> int:
        return len(self.payloads)

    def end_index(self) -> int:
        """The index after that of the last item."""
        return self.index + len(self.payloads)

    def set_values(self, number: int, values: list[Any]) -> None:
        """The calls from this one on returned these."""
        if self.is_dear:
            self._drop(number, len(values))
        self.consumer.take_values(self.index + number - self.first, values)

    def set_exception(self, number: int, error: BaseException) -> None:
        """The call failed."""
        self._drop(number, 1)
        self.consumer.take_error(self.index + number - self.first, error)

    def set_cancelled(self, number: int) -> None:
        """The call will never run."""
        self._drop(number, 1)
        self.consumer.take_error(self.index + number - self.first, CancelledError())

    def drop_all_but(self, unfinished: Container[int]) -> None:
        """Some have been cancelled, and nobody wants to be told."""
        if self.is_dear:
            for number in range(self.first, self.first + len(self)):
                if number not in unfinished:
                    self._drop(number, 1)

    def _drop(self, number: int, count: int) -> None:
        at = number - self.first
        self.payloads[at : at + count] = [None] * count


Work: TypeAlias = "Task | Block"


def describe(work: Work) -> str:
    """What errors call a task: its function's name and, where it has code, where that stands."""
    return f"task {name_of(work.function)}"


def name_of(function: object) -> str:
    """A function's name and, where it has code, where that stands; never raises."""
    try:
        # Proxies have any attribute that they are asked for, of any type.
        name, code = getattr(function, "__qualname__", None), getattr(function, "__code__", None)
        if type(name) is not str or not name:
            name = repr(function)
        if type(code) is not CodeType:
            return f"{name}"
        return f"{name} at {os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    except BaseException:  # noqa: BLE001 - whatever a user's __getattr__ or __repr__ raises
        return f"<{_QUALNAME.__get__(type(function))} object>"  # which a metaclass may have, too


# -- on its way out ----------------------------------------------------------------------------


def end_of_run(table: Mapping[int, Work], start: int, stop: int) -> int:
    """Where the tasks end, from `start` on and before `stop`, that can travel as one run."""
    head = table[start]
    if type(head) is Block:
        return min(stop, head.first + len(head.payloads))
    number = start + 1
    while number < stop:
        work = table[number]
        if (
            work.definition is not head.definition
            or work.form is not head.form
            or work.needs is not head.needs
            or type(work) is Block
        ):
            break
        number += 1
    return number


def run_frame(
    table: Mapping[int, Work], start: int, stop: int, exchange: Exchange
) -> list[Buffer]:
    """The frame that brings a worker the run of tasks from `start` to `stop`.

    Plain arguments are pickled here and not before, all in one: that runs no code, takes no longer
    than copying them, and they cannot have changed since they were given.
    """
    head = table[start]
    if type(head) is Block:
        at = start - head.first
        payloads = head.payloads[at : at + stop - start]
    else:
        tasks = [table[number] for number in range(start, stop)]
        payloads = [task.payload for task in tasks]  # type: ignore[union-attr]
    function = 0 if head.definition is None else head.definition.number
    if head.form is _PLAIN or head.form is _LONE:
        data = pickle.dumps(payloads, _PROTOCOL)
        return _wire.plain_frame(start, stop - start, function, data, head.form)
    for at, payload in enumerate(payloads):
        if type(payload) is Parcel:
            payloads[at] = exchange.lend(payload)
    return _wire.run_frame(start, function, head.form, payloads)


# -- on its way back ---------------------------------------------------------------------------


def settle_values(works: Sequence[Work | None], first: int, values: list[Any]) -> None:
    """Give neighbouring tasks, from number `first` on, what they returned.

    Args:
        works: None for a task that nobody waits for any more.
        first: the number of the first.
        values: as many as `works`.
    """
    outcomes = []
    at, count = 0, len(works)
    while at < count:
        work = works[at]
        stop = at + 1
        if type(work) is Task:
            outcomes.append((work.future, values[at]))
        elif type(work) is Block:
            # The tasks of a block are neighbours, so all in between are of this block as well.
            end = min(count, work.first + len(work) - first)
            stop = end if works[end - 1] is work else stop
            work.set_values(first + at, values[at:stop])
        at = stop
    if outcomes:
        settle(outcomes)


class Values:
    """Plain values of neighbouring tasks that have arrived, on their way to those who wait."""

    __slots__ = ("_first", "_values", "works")

    def __init__(self, first: int, values: list[Any]) -> None:
        #: The tasks, in order; None for one that nobody waits for any more.  Empty when an
        #: interrupt came before they were out of the driver's table.
        self.works: list[Work | None] = []
        self._first = first
        self._values = values

    def settle(self) -> None:
        """Give them to those who wait."""
        if self.works:
            settle_values(self.works, self._first, self._values)

    def tasks(self) -> list[tuple[int, Work]]:
        """Those that wait, with their numbers."""
        numbered = enumerate(self.works, self._first)
        return [(number, work) for number, work in numbered if work is not None]


class Rows:
    """Results that have arrived one by one, on their way to those who wait."""

    __slots__ = ("_rows", "works")

    def __init__(self, rows: list[ResultRow]) -> None:
        #: As in `Values`.
        self.works: list[Work | None] = []
        self._rows = rows

    def settle(self) -> None:
        """Rebuild them and give them to those who wait."""
        for work, row in zip(self.works, self._rows):  # noqa: B905 - see `works`
            if work is not None:
                resolve(work, row)

    def tasks(self) -> list[tuple[int, Work]]:
        """As in `Values`."""
        pairs = zip(self.works, self._rows)  # noqa: B905 - see `works`
        return [(row.task, work) for work, row in pairs if work is not None]


Arrival: TypeAlias = Values | Rows


def resolve(work: Work, row: ResultRow) -> None:
    """Rebuild the outcome of a task and give it to who waits for it."""
    try:
        value, error = _outcome(work, row, loads)
    except BaseException as why:  # noqa: BLE001 - whatever a user's __setstate__ raises
        # Or whatever else: the task is in no table any more, and would never be settled.
        value, error = None, _unreadable(work, why)
    _give(work, row, value, error)


def resolve_here(work: Work, row: ResultRow) -> None:
    """As `resolve`, in a thread of the user's.

    Raises:
        RebuildInterrupted: what was raised may be an interrupt, and nothing was done.
    """
    try:
        # Not `loads`, which is for once: an interrupt may come before the value is in place.
        value, error = _outcome(work, row, loads_again)
    except Exception:  # noqa: BLE001 - whatever a user's __setstate__ raises
        resolve(work, row)
    except BaseException as why:  # noqa: BLE001 - the result's, or an interrupt
        raise RebuildInterrupted(why) from None
    else:
        _give(work, row, value, error)


def _outcome(
    work: Work, row: ResultRow, load: Callable[[Any], Any]
) -> tuple[Any, BaseException | None]:
    """What a task returned, and None; or None, and what it failed with."""
    if row.status == Status.VALUE:
        return load(row.payload), None
    if row.status == Status.NO_ROOM:
        return None, _no_room(work)
    error, text = _worker.read_error(row.payload, load)
    return None, _told(work, row.status, error, text)


def _give(work: Work, row: ResultRow, value: Any, error: BaseException | None) -> None:
    if error is None:
        work.set_values(row.task, [value])
    else:
        work.set_exception(row.task, error)


def _no_room(work: Work) -> BaseException:
    return MemoryError(
        f"there is no memory here for the result of {describe(work)}; the task has run, and other "
        "tasks are not affected"
    )


def _unreadable(work: Work, why: BaseException) -> BaseException:
    unreadable = errors.CannotUnpickle(
        f"the result of {describe(work)} cannot be rebuilt here: {summary_of(why)}; "
        "the task has run, and other tasks are not affected",
        task=describe(work),
        may_have_run=True,
    )
    unreadable.__cause__ = why
    return unreadable


def _told(work: Work, status: int, error: BaseException, text: str) -> BaseException:
    """The exception of a task as its caller shall see it."""
    if status == Status.UNREADABLE:
        unread = errors.CannotUnpickle(
            f"the arguments of {describe(work)} could not be rebuilt in the worker: "
            f"{summary_of(error)}; the task did not run",
            task=describe(work),
        )
        unread.__cause__ = error
        outer: BaseException = unread
    else:
        outer = error
        if status == Status.UNSENDABLE and issubclass(type(error), errors.HookPoolError):
            error.__dict__.update(task=describe(work), may_have_run=True)
    _add_traceback(outer, text)
    return outer


def _add_traceback(error: BaseException, text: str) -> None:
    """Put the worker's traceback at the end of the user's own chain of causes, which is kept."""
    seen = {id(error)}
    while (cause := cause_of(error)) is not None:
        if id(cause) in seen:
            return
        error = cause
        seen.add(id(error))
    set_cause(error, errors.remote_traceback(text))


def rebuilt(data: Buffer | Borrowed) -> BaseException:
    """What an initializer raised."""
    try:
        error, text = _worker.read_error(data)
    except errors.CannotUnpickle as why:
        return why
    except BaseException as why:
        # SystemExit or the like, of a user's __setstate__; in the main thread perhaps of Ctrl-C.
        if current_thread() is main_thread():
            raise
        lost = errors.cannot_rebuild(summary_of(why))
        lost.__cause__ = why
        return lost
    _add_traceback(error, text)
    return error
