"""The path to what cannot be pickled, with a toy by-value pickler as the callable.

`_culprit` knows nothing of hookpool's pickler, and so neither does this file.
"""

from __future__ import annotations

import copyreg
import ctypes
import dataclasses
import functools
import io
import pickle
import queue
import re
import selectors
import sqlite3
import sys
import threading
import time
import types
import weakref
from multiprocessing import sharedctypes
from typing import Any

import pytest

from hookpool import _culprit, _cures
from hookpool._culprit import explain, explain_parts
from tests.helpers import Raising


class _Stuck:
    """What no pickler takes, and what `_culprit` has no cure for."""

    def __reduce__(self) -> str:
        raise TypeError("cannot pickle '_Stuck' object")


STUCK = _Stuck()


class Box:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


class ByValue(pickle.Pickler):
    """The least that carries functions and this module's `Local…` classes by value."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType) and "<locals>" in obj.__qualname__:
            names = _culprit._global_names(obj.__code__)
            captured = {name: obj.__globals__[name] for name in names if name in obj.__globals__}
            parts = [obj.__closure__, captured, obj.__defaults__, obj.__kwdefaults__]
            return types.SimpleNamespace, (), {"parts": [*parts, vars(obj), obj.__annotations__]}
        if isinstance(obj, type) and "<locals>" in obj.__qualname__:
            body = {k: v for k, v in vars(obj).items() if k not in _culprit._UNINTERESTING}
            return types.SimpleNamespace, (), {"body": body, "bases": list(obj.__bases__)}
        if isinstance(obj, types.CellType):
            return types.SimpleNamespace, (), {"contents": obj.cell_contents}
        if isinstance(obj, (classmethod, staticmethod)):
            return types.SimpleNamespace, (), {"func": obj.__func__}
        if isinstance(obj, property):
            return types.SimpleNamespace, (), {"fget": obj.fget}
        return NotImplemented


def dumps(obj: object) -> None:
    ByValue(io.BytesIO(), 5).dump(obj)


def told(obj: object, root: str = "object", **options: Any) -> str:
    """What `explain` says of the failure of `obj`."""
    with pytest.raises(Exception) as caught:
        dumps(obj)
    return explain(obj, caught.value, dumps, root, **options)


def path(obj: object, root: str = "object") -> str:
    text = told(obj, root)
    if text == "cannot pickle '_Stuck' object":
        return ""
    assert text.endswith(": cannot pickle '_Stuck' object")
    return text.removesuffix(": cannot pickle '_Stuck' object")


def line(fn: Any) -> str:
    return f"test_culprit.py:{fn.__code__.co_firstlineno}"


# --- the path --------------------------------------------------------------------------------


def test_the_example_of_the_design() -> None:
    db = Box(conn=sqlite3.connect(":memory:"))
    model = lambda: db
    try:
        assert told(Box(model=model), "args[0]") == (
            f"args[0].model -> closure variable 'db' of <lambda> at {line(model)} -> attribute "
            "'conn': cannot pickle 'sqlite3.Connection' object. Open the connection inside the "
            "function, or once per worker in an initializer."
        )
    finally:
        db.conn.close()


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (STUCK, ""),
        ([1, STUCK], "object[1]"),
        ((STUCK,), "object[0]"),
        ({"a": [0, {"b": STUCK}]}, "object['a'][1]['b']"),
        ({(1, 2): STUCK}, "object[<tuple>]"),
        ({STUCK: 1}, "object -> the key <_Stuck>"),
        ({1, STUCK}, "object -> an element of the set"),
        (frozenset({STUCK}), "object -> an element of the set"),
        (Box(a=Box(b=STUCK)), "object.a.b"),
        (Box(**{"not a name": STUCK}), "object -> attribute 'not a name'"),
        (types.SimpleNamespace(x=STUCK), "object.x"),
        (functools.partial(print, 1, STUCK), "object.args[1]"),
        (functools.partial(print, end=STUCK), "object.keywords['end']"),
        (Box(a=STUCK).__init__, "object.__self__.a"),
        ([STUCK].append, "object.__self__[0]"),
        (ValueError("x", STUCK), "object.args[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_path_to(obj: object, expected: str) -> None:
    assert path(obj) == expected


def test_slots_are_attributes() -> None:
    @dataclasses.dataclass(slots=True)
    class Slotted:
        x: object

    Slotted.__qualname__ = "Slotted"
    globals()["Slotted"] = Slotted
    try:
        assert path(Slotted(STUCK)) == "object.x"
    finally:
        del globals()["Slotted"]


def test_items_of_a_subclass_of_list_and_dict() -> None:
    assert path(_List([1, STUCK])) == "object[1]"
    assert path(_Dict(k=STUCK)) == "object['k']"


class _List(list[object]):
    pass


class _Dict(dict[str, object]):
    pass


class _State:
    def __init__(self, state: object) -> None:
        self.given = state

    def __getstate__(self) -> object:
        return self.given


def test_a_state_that_is_no_dict() -> None:
    assert path(_State([STUCK])) == "object -> what its __getstate__ returns -> item [0]"


def test_a_state_whose_items_are_no_attributes() -> None:
    state = {"made": STUCK}
    assert path(_State(state)) == "object -> item 'made' of what its __getstate__ returns"


class _Args:
    def __reduce__(self) -> tuple[object, ...]:
        return print, (STUCK,)


def test_an_argument_of_a_reduction() -> None:
    assert path(_Args()) == "object -> argument 0 of the reduction of a _Args"


def test_a_reducer_of_copyreg_is_followed() -> None:
    copyreg.pickle(_Registered, lambda obj: (_Registered, (), {"registered": STUCK}))
    try:
        where = path(_Registered())
        assert where == "object -> item 'registered' of what its __getstate__ returns"
    finally:
        del copyreg.dispatch_table[_Registered]


class _Registered:
    pass


def test_each_place_of_a_function() -> None:
    def place(fn: Any) -> str:
        return path(fn, "the function").replace(f" at {line(fn)}", "")

    stuck = STUCK
    assert place(lambda: stuck) == "the function -> closure variable 'stuck' of <lambda>"
    assert place(lambda: STUCK) == "the function -> global 'STUCK' used by <lambda>"
    assert place(lambda: lambda: STUCK) == "the function -> global 'STUCK' used by <lambda>"
    default = "the function -> default of parameter 'b' of <lambda>"
    assert place(lambda a, b=STUCK: 0) == default
    assert place(lambda a, *, b=STUCK: 0) == default

    def annotated(x: int) -> None: ...

    annotated.__annotations__["x"] = STUCK
    assert place(annotated) == "the function -> annotation of 'x' in annotated"
    annotated.__annotations__.clear()
    annotated.note = STUCK  # type: ignore[attr-defined]
    assert place(annotated) == "the function -> attribute 'note'"


def test_an_empty_cell_is_no_obstacle() -> None:
    def outer() -> Any:
        def inner() -> object:
            return later, stuck

        stuck = STUCK
        if stuck is None:
            later = 1
        return inner

    assert path(outer()).startswith("object -> closure variable 'stuck' of inner at ")


def test_an_attribute_called_like_a_global_is_not_taken_for_it() -> None:
    held = STUCK
    found = path(lambda x: (x.STUCK, held))
    assert found.startswith("object -> closure variable 'held' of ")


def test_a_wrapper_is_told_by_its_code_not_its_borrowed_name() -> None:
    def wrapped() -> None: ...

    @functools.wraps(wrapped)
    def wrapper() -> object:
        return stuck

    del wrapper.__wrapped__  # type: ignore[attr-defined]
    stuck = STUCK
    assert path(wrapper) == f"object -> closure variable 'stuck' of wrapper at {line(wrapper)}"


def test_each_place_of_a_class() -> None:
    class Base:
        table = (STUCK,)

    class Model(Base):
        pass

    name = Base.__qualname__
    expected = f"object -> attribute 'table' of class {name} -> item [0]"
    assert path(Base) == expected
    assert path(Model).startswith(f"object -> base class {name} of {Model.__qualname__} -> attri")

    class Method:
        def run(self) -> object:
            return STUCK

    expected = (
        f"object -> method 'run' of class {Method.__qualname__} -> global 'STUCK' used by run"
    )
    assert path(Method).startswith(expected)
    Method.run = 1  # type: ignore[assignment, method-assign]
    Method.x = property(lambda self: STUCK)  # type: ignore[attr-defined]
    assert path(Method).startswith(f"object -> property 'x' of class {Method.__qualname__} -> att")


def test_an_instance_of_a_class_that_fails_is_told_by_its_class() -> None:
    class Local:
        lock = STUCK

    name = Local.__qualname__
    expected = f"args[0] -> its class {name} -> attribute 'lock' of class {name}"
    assert path(Local(), "args[0]") == expected


def test_the_referent_of_a_weak_reference() -> None:
    def dumps_referent(obj: Any) -> None:
        dumps(obj() if isinstance(obj, weakref.ref) else obj)

    box = Box(a=STUCK)
    text = explain(weakref.ref(box), TypeError("x"), dumps_referent)
    assert text.startswith("object -> what the weak reference points to -> attribute 'a': cannot")


def test_several_roots_have_their_own_names() -> None:
    parts = {"the function": print, "args": (1, {"x": STUCK}), "kwargs": {}}
    text = explain_parts(parts, TypeError("cannot pickle '_Stuck' object"), dumps)
    assert text == "args[1]['x']: cannot pickle '_Stuck' object"


# --- which of several ------------------------------------------------------------------------


def test_the_shortest_path_wins() -> None:
    assert path(Box(a=Box(b=Box(c=STUCK)), z=STUCK)) == "object.z"


def test_a_reference_back_to_the_owner_is_not_the_culprit() -> None:
    owner = Box()
    owner.child = Box(owner=owner)  # type: ignore[attr-defined]
    owner.zebra = STUCK  # type: ignore[attr-defined]
    assert path(owner) == "object.zebra"


def test_a_ring_ends() -> None:
    ring: list[object] = []
    ring.append(ring)
    text = explain(ring, TypeError("cannot pickle it"), _refuse)
    assert text == "cannot pickle it"


def _refuse(obj: object) -> None:
    raise TypeError("cannot pickle it")


def test_what_stopped_the_dump_is_preferred_to_what_fails_only_alone() -> None:
    lock = threading.Lock()

    def dumps_but_no_bare_lock(obj: object) -> None:
        if obj is lock:
            raise TypeError("cannot pickle a bare lock")
        if obj == [lock, STUCK] or obj is STUCK:
            raise TypeError("cannot pickle '_Stuck' object")

    text = explain(
        [lock, STUCK], TypeError("cannot pickle '_Stuck' object"), dumps_but_no_bare_lock
    )
    assert text == "object[1]: cannot pickle '_Stuck' object"


def test_parts_reached_through_attributes_are_not_probed_bare() -> None:
    probed = []

    def note(obj: object) -> None:
        probed.append(obj)
        dumps(obj)

    explain(Box(part=STUCK), TypeError("x"), note)
    assert probed == [types.SimpleNamespace(part=STUCK)]


def test_one_bad_item_of_many_is_found_by_bisection() -> None:
    probes = 0

    def counted(obj: object) -> None:
        nonlocal probes
        probes += 1
        dumps(obj)

    items = [Box() for _ in range(10_000)]
    items[7_777] = Box(a=STUCK)
    text = explain(items, TypeError("x"), counted, seconds=60.0)
    assert text.startswith("object[7777].a: ")
    assert probes < 60


# --- the reason and the cure -------------------------------------------------------------------


class _Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_that_does_not_speak_of_pickling_is_told_with_its_type() -> None:
    text = told([Raising(ValueError("no"))])
    assert text == "object[0]: pickling this Raising raised ValueError: no"
    assert told([Raising(pickle.PicklingError("no"))]) == "object[0]: no"
    assert told([Raising(KeyError())]).endswith("pickling this Raising raised KeyError")
    assert told([Raising(_Mute())]).endswith("pickling this Raising raised _Mute")


@pytest.mark.parametrize(
    ("obj", "cure"),
    [
        (threading.Lock(), "multiprocessing's"),
        (threading.RLock(), "multiprocessing's"),
        (queue.Queue(), "queue of multiprocessing"),
        (threading.Thread(), "Threads"),
        ((i for i in ()), "list(...)"),
        (sys._getframe(), "plain values"),
        (threading, "inside the function"),
        (selectors.DefaultSelector(), "what is to be waited for"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_cure_of(obj: object, cure: str) -> None:
    text = told(Box(part=obj), "result")
    assert text.startswith("result.part: ")
    assert cure in text


def test_the_search_stops_at_what_it_knows_and_not_at_a_lock_inside() -> None:
    assert told([queue.Queue()]).startswith("object[0]: ")


def test_the_cure_is_the_same_for_shared_ctypes_whose_types_are_made_when_they_are() -> None:
    shared = sharedctypes.Array("d", 3)
    cure = _cures.cure_of(shared)
    assert cure is not None
    assert _cures.cure_of(shared.get_obj()) == cure
    assert _cures.cure_of(sharedctypes.RawValue("d", 1.0)) == cure
    assert _cures.cure_of((ctypes.c_double * 3)()) is None


def test_cures_name_types_that_exist() -> None:
    """A typo in the table would go unnoticed: names of loaded modules must resolve."""
    builtin = {"builtins", "posix", "_thread", "_io", "_ssl"}  # names differ from attributes
    lost = []
    for name in _cures._cures():
        module, _, qualname = name.rpartition(".")
        loaded = module in sys.modules and module not in builtin
        if loaded and not hasattr(sys.modules[module], qualname):
            lost.append(name)
    assert lost == []


# --- too deep ----------------------------------------------------------------------------------


def _nested(levels: int) -> object:
    nested: object = None
    for _ in range(levels):
        nested = Box(next=[nested])
    return nested


def test_nesting_too_deep_is_told_as_a_pattern_with_the_limit() -> None:
    nested = Box(model=_nested(5_000))
    text = told(nested, "args[0]")
    pattern = "attribute 'next' -> item [0] (of list, Box), again and again, at least "
    assert text.startswith(f"args[0].model: nested too deeply to be pickled: {pattern}")
    assert "limit" in text
    assert len(text) < 500


def test_nesting_under_ever_new_names_is_told_without_a_pattern() -> None:
    nested: object = None
    for number in range(5_000):
        nested = {str(number): nested}
    text = told(nested, "args[0]")
    assert text.startswith("args[0]['4999']['4998']")
    assert re.search(
        r"-> \.\.\.: nested too deeply to be pickled: at least \d{3,} levels \(of dict", text
    )
    assert "again" not in text
    assert len(text) < 500


def test_a_pickler_that_raises_from_a_recursion_error_is_understood() -> None:
    try:
        try:
            raise RecursionError("maximum recursion depth exceeded")
        except RecursionError as cause:
            raise pickle.PicklingError("too deep") from cause
    except pickle.PicklingError as error:
        text = explain(_nested(500), error, dumps)
    assert str(sys.getrecursionlimit()) in text


class _Runaway:
    def __reduce__(self) -> Any:
        return self.__reduce__()


def test_a_method_that_calls_itself_is_the_culprit_and_not_nesting() -> None:
    assert told(Box(a=[_Runaway()])).startswith("object.a[0]: pickling this _Runaway raised Recur")


# --- what must not happen ----------------------------------------------------------------------


def test_a_long_path_is_told_without_its_middle() -> None:
    nested: object = STUCK
    for _ in range(40):
        nested = [nested]
    text = path(nested)
    assert "... 24 more ..." in text
    assert len(text) < 400


def test_the_search_is_bounded_in_time() -> None:
    clock = time.monotonic()

    def slow(obj: object) -> None:
        nonlocal clock
        clock += 1.0
        dumps(obj)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_culprit.time, "monotonic", lambda: clock)
        text = explain(Box(a=[[[STUCK]]]), TypeError("cannot pickle"), slow, seconds=2.5)
    assert text == (
        "object.a[0][0] -> somewhere in this list (too large to search further): cannot pickle"
    )


class _Endless:
    def __reduce__(self) -> Any:
        return print, (_Endless(),)


def test_the_search_is_bounded_in_probes() -> None:
    text = explain(_Endless(), TypeError("cannot pickle"), _refuse, seconds=3_600.0)
    assert "too large to search further" in text


class _Hostile:
    """Everything about it raises, its class included."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        return 1


def test_hostile_objects_are_told_without_asking_them() -> None:
    assert told([_Hostile()]).startswith("object[0]: pickling this _Hostile raised RuntimeError")
    assert told({_Hostile(): 1}).startswith("object -> the key <_Hostile>: ")


class _Greedy:
    """A proxy that answers to any name."""

    def __getattr__(self, name: str) -> Any:
        return _Greedy()

    def __reduce_ex__(self, protocol: int) -> str:
        raise TypeError("cannot pickle a proxy")


def test_a_proxy_with_a_greedy_getattr_is_the_culprit_itself() -> None:
    assert told(Box(proxy=_Greedy())) == "object.proxy: cannot pickle a proxy"


def test_a_search_that_breaks_tells_the_original_error() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_culprit, "_parts", None)
        assert explain([1], TypeError("cannot pickle it"), _refuse) == "cannot pickle it"


def test_an_interrupt_is_not_swallowed() -> None:
    def interrupted(obj: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain([STUCK], TypeError("x"), interrupted)


def test_nothing_is_kept() -> None:
    box = Box(part=[STUCK])
    gone = weakref.ref(box)
    explain(box, TypeError("cannot pickle it"), dumps)
    del box
    assert gone() is None
