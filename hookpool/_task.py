"""A task on the owner's side: what is sent of it, and what becomes of its result.

Knows neither the scheduler nor channels.  The owner makes a `Task` in the thread that submits;
the driver's thread resolves it, and there the user's code runs that rebuilding a result needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from hookpool import _wire, _worker, errors, reduction
from hookpool._wire import Status

if TYPE_CHECKING:
    from hookpool._definitions import Definition
    from hookpool._wire import ResultRow


class Sink(Protocol):
    """What takes the outcome of a task; called at most once, from the driver's thread."""

    def set_result(self, value: Any, /) -> None:
        """The task returned this."""

    def set_exception(self, error: BaseException, /) -> None:
        """The task failed."""

    def set_cancelled(self) -> None:
        """The task did not run and never will."""

    def has_callbacks(self) -> bool:
        """Whether the outcome makes code of the user run, which is the driver's thread's."""


class Task:
    """One call on its way through the pool."""

    __slots__ = ("definition", "form", "function", "group", "needs", "payload", "sink")

    def __init__(
        self,
        sink: Sink,
        function: object,
        definition: Definition | None,
        form: _wire.Form,
        payload: _wire.Buffer,
        needs: tuple[Definition, ...],
        group: int,
    ) -> None:
        self.sink = sink
        #: Only to name the task in errors.
        self.function = function
        #: The function, where it travels as a definition; else it is in the payload.
        self.definition = definition
        self.form = form
        self.payload = payload
        #: The definitions the worker must have before the payload can be loaded, in order.
        self.needs = needs
        #: Tasks of one group are expected to last equally long.
        self.group = group

    def __str__(self) -> str:
        return f"task {describe(self.function)}"


def describe(function: object) -> str:
    """A function's name and, where it has code, where that stands."""
    name = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(function, "__code__", None)
    where = f" at {os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code else ""
    return f"{name}{where}"


def resolve(task: Task, row: ResultRow) -> None:
    """Rebuild the outcome of a task and give it to the sink."""
    try:
        if row.status == Status.VALUE:
            value = reduction.loads(row.payload)
        else:
            error, text = _worker.read_error(row.payload)
    except BaseException as why:  # noqa: BLE001 - whatever a user's __setstate__ raises
        unreadable = errors.CannotUnpickle(
            f"the result of {task} cannot be rebuilt here: {type(why).__name__}: {why}; "
            "the task has run, and other tasks are not affected",
            task=str(task),
            may_have_run=True,
        )
        unreadable.__cause__ = why
        task.sink.set_exception(unreadable)
        return
    if row.status == Status.VALUE:
        task.sink.set_result(value)
    else:
        task.sink.set_exception(_told(task, row.status, error, text))


def resolve_here(task: Task, row: ResultRow) -> None:
    """As `resolve`, in a thread of the user's: an interrupt comes through, and nothing is done."""
    if row.status == Status.VALUE:
        try:
            value = reduction.loads(row.payload)
        except Exception:  # noqa: BLE001 - whatever a user's __setstate__ raises
            resolve(task, row)
        else:
            task.sink.set_result(value)
    else:
        resolve(task, row)


def _told(task: Task, status: int, error: BaseException, text: str) -> BaseException:
    """The exception of a task as its caller shall see it."""
    if status == Status.UNREADABLE:
        unread = errors.CannotUnpickle(
            f"the arguments of {task} could not be rebuilt in the worker: "
            f"{type(error).__name__}: {error}; the task did not run",
            task=str(task),
        )
        unread.__cause__ = error
        outer: BaseException = unread
    else:
        outer = error
    # The user's own chain of causes is kept; the worker's traceback goes to its end.
    last, seen = outer, {id(outer)}
    while last.__cause__ is not None and id(last.__cause__) not in seen:
        last = last.__cause__
        seen.add(id(last))
    if last.__cause__ is None:
        last.__cause__ = errors.remote_traceback(text)
    return outer


def rebuilt(data: _wire.Buffer) -> BaseException:
    try:
        error, text = _worker.read_error(data)
    except errors.CannotUnpickle as why:
        return why
    error.__cause__ = errors.remote_traceback(text)
    return error
