"""What is told of an exception is true of ordinary ones, and is something for every other."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from hookpool import _raised
from hookpool._raised import (
    cause_of,
    chain_of,
    set_cause,
    set_chain,
    summary_of,
    text_of,
    traceback_text,
)
from tests import odd_errors


def raised(name: str) -> BaseException:
    try:
        odd_errors.throw(name)
    except BaseException as error:
        return error


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_a_chain_can_be_set_and_read_whatever_the_class_says(name: str) -> None:
    error, cause, context = odd_errors.make(name), KeyError("cause"), KeyError("context")

    set_cause(error, cause)
    assert cause_of(error) is cause
    set_chain(error, None, context, False)
    assert chain_of(error) == (None, context, False)


def test_a_cause_is_set_as_raise_from_sets_it() -> None:
    error = ValueError()
    set_cause(error, KeyError())

    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("error", "summary"),
    [(KeyError("x"), "KeyError: 'x'"), (ValueError("two words"), "ValueError: two words")],
)
def test_an_ordinary_error_says_what_it_says(error: Exception, summary: str) -> None:
    assert text_of(error) == str(error)
    assert summary_of(error) == summary


def test_of_an_error_that_says_nothing_the_type_is_told() -> None:
    assert text_of(ValueError()) == ""
    assert summary_of(ValueError()) == "ValueError"


@pytest.mark.parametrize("kind", [odd_errors.NoText, odd_errors.ExitingText])
def test_where_there_is_no_text_the_type_is_told(kind: type[Exception]) -> None:
    assert text_of(kind()) == f"<a {kind.__name__}, whose text cannot be shown>"
    assert summary_of(kind()) == f"{kind.__name__}: <its text cannot be shown>"


def test_a_type_is_called_what_it_was_made_as() -> None:
    assert summary_of(odd_errors.OfNamelessKind("x")) == "OfNamelessKind: x"


def test_a_text_is_a_plain_string() -> None:
    class Loud(str):
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no format")

    class Speaking(Exception):
        def __str__(self) -> str:
            return Loud("x")

    assert type(text_of(Speaking())) is str
    assert summary_of(Speaking()) == "Speaking: x"


def test_a_traceback_is_the_interpreters_without_the_frames_that_are_ours() -> None:
    text = traceback_text(raised("frozen"), {__name__})

    assert text.startswith("Traceback (most recent call last):\n")
    assert "in throw\n    raise make(name)" in text
    assert "in raised" not in text
    assert text.endswith("Frozen: what\n")
    assert "in raised" in traceback_text(raised("frozen"))


@pytest.mark.parametrize("name", odd_errors.NAMES)
def test_a_traceback_says_what_and_where_whatever_the_class_is(name: str) -> None:
    error = raised(name)

    text = traceback_text(error)

    kind: Any = vars(type)["__name__"]
    assert "odd_errors.py" in text
    assert "in throw" in text
    assert kind.__get__(type(error)) in text


class Loader:
    def get_source(self, name: str) -> str:
        raise RuntimeError("no source")


@pytest.mark.parametrize("module", ["odd", ["no name"], None])
def test_a_traceback_may_lead_through_code_with_odd_globals(module: object) -> None:
    space = {"__name__": module, "__loader__": Loader()}
    exec(compile("def fail():\n    raise KeyError(1)\n", "no_such_file.py", "exec"), space)
    with pytest.raises(KeyError) as caught:
        space["fail"]()  # type: ignore[operator]

    text = traceback_text(caught.value, {__name__})

    assert 'File "no_such_file.py", line 2, in fail' in text
    assert text.endswith("KeyError: 1\n")


def test_an_error_is_told_also_when_nothing_can_be_imported_to_tell_it_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that uses up all descriptors fails, and its worker cannot import `traceback`."""
    monkeypatch.setitem(sys.modules, "traceback", None)

    assert _raised.traceback_text(OSError(24, "Too many open files")) == (
        "OSError: [Errno 24] Too many open files\n"
    )
