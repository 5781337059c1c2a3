"""The pickler's own promises: what travels how, in which rank, and what is said when it cannot."""

from __future__ import annotations

import array
import collections
import concurrent.futures
import copy
import copyreg
import datetime
import decimal
import fractions
import functools
import gc
import io
import multiprocessing
import pathlib
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
import uuid
import weakref
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from hookpool import reduction
from hookpool.reduction import HookPickler, dumps, loads
from tests import odd_errors
from tests.elsewhere import ROOT, Elsewhere, RaisedElsewhere
from tests.helpers import Raising, no_collections

HERE = sys.modules[__name__]
pytestmark = pytest.mark.usefixtures("by_value")


# -- functions ------------------------------------------------------------------------------


base = 10
unrelated = threading.Thread()


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def test_lambdas_closures_and_recursion_travel(elsewhere: Elsewhere) -> None:
    offset = 3

    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert elsewhere.call(lambda x: x + offset + base, 1) == 14
    assert elsewhere.call(factorial, 5) == 120
    assert elsewhere.call(even, 10) is True


def make_counter() -> tuple[Any, Any]:
    count = 0

    def up() -> None:
        nonlocal count
        count += 1

    return up, lambda: count


def test_functions_that_share_a_cell_go_on_sharing_it() -> None:
    up, look = loads(dumps(make_counter()))

    up()

    assert look() == 1
    assert up.__closure__[0] is look.__closure__[0]


def test_a_bare_cell_and_the_function_that_has_it_share_it() -> None:
    _, look = make_counter()
    for pair in ((look.__closure__[0], look), (look, look.__closure__[0])):
        one, other = loads(dumps(pair))
        cell, fn = (one, other) if callable(other) else (other, one)
        cell.cell_contents = 7
        assert fn() == 7


def test_an_empty_cell_stays_empty() -> None:
    def outer() -> Any:
        if base < 0:
            late = 1
        return lambda: late

    with pytest.raises(NameError):
        loads(dumps(outer()))()


def set_base(value: int) -> None:
    global base
    base = value


def get_base() -> int:
    return base


def test_functions_share_their_globals_within_one_load_and_not_beyond() -> None:
    setter, getter = loads(dumps((set_base, get_base)))
    other = loads(dumps(get_base))

    setter(11)

    assert (getter(), other(), base) == (11, 10, 10)


def test_only_what_the_code_refers_to_travels() -> None:
    fn = loads(dumps(get_base))

    assert "unrelated" not in fn.__globals__
    assert fn.__globals__["base"] == 10


def test_class_bodies_inside_functions_find_their_globals(elsewhere: Elsewhere) -> None:
    def make() -> Any:
        class Inner:
            value = base

        return Inner.value

    assert elsewhere.call(make) == 10


@pytest.mark.parametrize("kind", ["wrapped", "bare"])
def test_a_chain_of_500_decorators_travels_at_the_default_recursion_limit(
    elsewhere: Elsewhere, kind: str
) -> None:
    def decorated(fn: Any) -> Any:
        def wrapper(x: int) -> Any:
            return fn(x)

        return functools.wraps(fn)(wrapper) if kind == "wrapped" else wrapper

    fn: Any = lambda x: x + 1
    for _ in range(500):
        fn = decorated(fn)

    made = loads(dumps(fn))

    length = 0
    while made.__closure__:
        made, length = made.__closure__[0].cell_contents, length + 1
    assert (length, made(1)) == (500, 2)


def test_attributes_of_functions_are_kept() -> None:
    def fn(a: int, b: Any = (1, 2), *, c: int = 3) -> str:
        """What it does."""
        return f"{a}{b}{c}"

    fn.note = [1]  # type: ignore[attr-defined]
    fn.__qualname__ = "elsewhere.fn"
    made = loads(dumps(fn))

    assert made(0) == fn(0)
    for name in (
        "__doc__",
        "__defaults__",
        "__kwdefaults__",
        "__qualname__",
        "__module__",
        "note",
    ):
        assert getattr(made, name) == getattr(fn, name)


def test_the_submodule_that_only_a_nested_function_uses_is_imported(elsewhere: Elsewhere) -> None:
    import xml.etree.ElementTree

    def outer() -> str:
        def inner() -> str:
            return xml.etree.ElementTree.fromstring("<a/>").tag

        return inner()

    assert elsewhere.call(outer) == "a"


def test_code_with_constants_that_cannot_be_marshalled_travels() -> None:
    fn = lambda: "constant"
    value = collections.Counter("aab")
    consts = tuple(value if one == "constant" else one for one in fn.__code__.co_consts)
    fn.__code__ = fn.__code__.replace(co_consts=consts)

    assert loads(dumps(fn))() == value


# -- modules --------------------------------------------------------------------------------


def test_functions_of_a_dynamic_module_share_its_namespace(elsewhere: Elsewhere) -> None:
    module: Any = types.ModuleType("dynamic")
    exec(
        "value = 1\ndef get(): return value\ndef put(x):\n global value\n value = x", vars(module)
    )

    for pair in ((module, module.put), (module.put, module)):
        one, other = loads(dumps(pair))
        made, put = (one, other) if isinstance(one, types.ModuleType) else (other, one)
        put(5)
        assert (made.value, made.get()) == (5, 5)


def test_a_module_whose_name_finds_another_one_travels_by_value(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("json")
    exec("def where(): return 'here'", vars(module))
    monkeypatch.setitem(sys.modules, "json", module)

    assert elsewhere.call(module.where) == "here"


def test_the_registry_refuses_what_is_no_imported_module() -> None:
    for wrong in ("json", types.ModuleType("never_imported")):
        with pytest.raises(ValueError, match=r"json|never_imported"):
            reduction.register_pickle_by_value(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not registered"):
        reduction.unregister_pickle_by_value(types)


# -- the rank of reducers -------------------------------------------------------------------


def test_a_reducer_registered_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Registered:
        pass

    try:
        dumps(Registered())
        for answer in ("first", "second"):
            ForkingPickler.register(Registered, lambda _, answer=answer: (str, (answer,)))
            assert loads(dumps(Registered())) == answer
        monkeypatch.setitem(
            ForkingPickler._extra_reducers, functools.partial, lambda _: (str, ("mine",))
        )
        assert loads(dumps(functools.partial(print))) == "mine"
    finally:
        del ForkingPickler._extra_reducers[Registered]


def test_an_overridden_hook_can_call_ours() -> None:
    class Mine(HookPickler):
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is complex:
                return str, ("mine",)
            return super().reducer_override(obj)

    file = io.BytesIO()
    Mine(file).dump([1j, lambda: 3])
    mine, fn = loads(file.getvalue())

    assert (mine, fn()) == ("mine", 3)


def test_one_pickler_writes_several_objects_and_remembers_the_first() -> None:
    file = io.BytesIO()
    pickler = HookPickler(file)
    pickler.dump(even)
    first = file.tell()
    pickler.dump(even)
    pickler.clear_memo()
    second = file.tell()
    pickler.dump(even)

    assert second - first < 20
    assert file.tell() - second == first
    file.seek(second)
    assert pickle.load(file)(4) is True


# -- locks ----------------------------------------------------------------------------------


class Guarded:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.again = threading.RLock()
        self.done = threading.Event()
        self.changed = threading.Condition()
        self.local = threading.local()
        self.local.x = 1


lock = threading.Lock()


def use_lock() -> bool:
    with lock:
        return lock.locked()


def test_a_copy_gets_a_copy_of_its_lock(elsewhere: Elsewhere) -> None:
    def check(obj: Guarded) -> Any:
        with obj.lock, obj.again, obj.changed:
            obj.changed.notify_all()
        obj.done.set()
        return obj.done.is_set(), hasattr(obj.local, "x")

    assert elsewhere.call(check, Guarded()) == (True, False)
    assert elsewhere.call(use_lock) is True


PRIMITIVES = [
    threading.Lock,
    threading.RLock,
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.BoundedSemaphore,
    functools.partial(threading.Barrier, 2),
]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: ((1, {"k": x}), {})])
@pytest.mark.parametrize("make", PRIMITIVES)
def test_a_bare_lock_is_refused_and_the_cure_said_once(make: Any, wrap: Any) -> None:
    with pytest.raises(pickle.PicklingError) as caught:
        dumps(wrap(make()))
    assert str(caught.value).count("multiprocessing") == 1


@pytest.mark.parametrize("make", PRIMITIVES)
def test_a_captured_lock_is_made_anew(make: Any, elsewhere: Elsewhere) -> None:
    one = make()
    assert elsewhere.call(lambda: type(one).__name__) == type(one).__name__
    assert elsewhere.call(lambda it=one: type(it).__name__) == type(one).__name__


def test_a_lock_of_multiprocessing_is_refused_unless_a_child_is_being_started() -> None:
    for one in (multiprocessing.Lock(), multiprocessing.Event()):
        with pytest.raises(pickle.PicklingError, match=r"object\[0\]\.lock.*initargs") as caught:
            dumps([types.SimpleNamespace(lock=one)])
        assert isinstance(caught.value, RuntimeError)


def test_other_runtime_errors_of_users_pass_as_they_are() -> None:
    class Refusing:
        def __reduce__(self) -> Any:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$") as caught:
        dumps(Refusing())
    assert type(caught.value) is RuntimeError


def test_a_future_travels_only_when_it_is_done() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    with pytest.raises(pickle.PicklingError, match="not done"):
        dumps(types.SimpleNamespace(it=future))
    future.set_result(3)
    assert loads(dumps([future]))[0].result() == 3


def test_a_held_lock_is_refused() -> None:
    guarded = Guarded()
    for one in (guarded.lock, guarded.again):
        with one, pytest.raises(pickle.PicklingError, match=r"lock|again"):
            dumps(guarded)
    dumps(guarded)


# -- when it cannot travel ------------------------------------------------------------------


def test_an_error_names_the_path_and_can_be_caught_both_ways() -> None:
    file = (ROOT / "README.md").open("rb")
    with file:
        for kind in (pickle.PicklingError, TypeError):
            with pytest.raises(kind, match=r"object\['a'\].*closure variable 'file'"):
                dumps({"a": lambda: file})


def test_recursion_too_deep_is_a_clean_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    for kind in (pickle.PicklingError, RecursionError):
        with pytest.raises(kind, match="limit"):
            dumps(nested)


class Odd(ValueError):
    """With arguments that only its owner knows."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("kind", [ValueError, KeyError, NotImplementedError])
def test_a_refusal_of_a_reducer_names_the_path_and_can_be_caught_both_ways(kind: Any) -> None:
    held = Simple(lock=[0, Raising(kind("no"))])
    for caught in (kind, pickle.PicklingError):
        with pytest.raises(caught) as info:
            dumps(held)
        assert str(info.value).startswith("object.lock[1]: pickling this Raising raised")
        assert type(info.value.__cause__) is kind


@pytest.mark.parametrize("error", [ZeroDivisionError("zero"), OSError(5, "why")])
def test_another_error_of_a_reducer_is_raised_as_it_is_with_the_path_as_a_note(error: Any) -> None:
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            dumps(Simple(lock=[0, Raising(error)]))
        assert caught.value is error
        (note,) = error.__notes__
        assert note.startswith("object.lock[1]: pickling this Raising raised")


class Wordless(RuntimeError):
    """Cannot be asked what it says."""

    def __str__(self) -> str:
        raise OSError("no text")


@pytest.mark.parametrize("make", [Wordless, odd_errors.NoClass])
def test_an_error_of_a_reducer_that_cannot_be_looked_at_is_raised_as_it_is(make: Any) -> None:
    error = make()

    with pytest.raises(make) as caught:
        dumps(Simple(lock=[0, Raising(error)]))
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), SystemExit(), TimeoutError(), Odd(1, 2)]
)
def test_what_may_not_be_about_the_object_is_raised_as_it_is_after_one_try(error: Any) -> None:
    tried = []

    class Late(Raising):
        def __reduce__(self) -> Any:
            tried.append(1)
            return super().__reduce__()

    with pytest.raises(type(error)) as caught:
        dumps([Late(error)])
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert len(tried) == 1


def test_a_file_that_takes_no_more_is_no_fault_of_the_object() -> None:
    file = io.BytesIO()
    file.close()
    with pytest.raises(ValueError, match="closed file") as caught:
        reduction.dump([1], file)
    assert type(caught.value) is ValueError
    assert not hasattr(caught.value, "__notes__")


class WithASlot:
    __slots__ = ("x",)


@pytest.mark.parametrize("protocol", [0, 1])
def test_what_only_an_old_protocol_refuses_is_found_with_it(protocol: int) -> None:
    with pytest.raises(pickle.PicklingError, match=r"^object\['key'\]\[0\]: .*__slots__"):
        dumps({"key": [WithASlot()]}, protocol)


def test_a_pointer_is_refused_with_a_cure() -> None:
    ctypes = pytest.importorskip("ctypes")
    with pytest.raises(pickle.PicklingError, match=r"object\[0\]: .*pointer.*pass its contents"):
        dumps([ctypes.pointer(ctypes.c_int(3))])


def test_a_text_file_in_another_encoding_is_refused_and_stays_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b"abc\n" * 10_000 + b"\xff")
    with path.open(encoding="utf-8") as file:
        file.readline()
        with pytest.raises(pickle.PicklingError, match=r"object\[0\].*cannot be read anew"):
            dumps([file])
        assert file.tell() == 4
        next(file)
        with pytest.raises(pickle.PicklingError, match=r"object\[0\].*cannot be read anew"):
            dumps([file])  # while it is iterated over


class Same:
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Undecided(Same):
    def __eq__(self, other: object) -> bool:
        raise ValueError("as an array")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Same, Undecided])
def test_a_docstring_may_be_anything(kind: Any) -> None:
    def documented() -> int:
        return 1

    @functools.wraps(documented)
    def wrapping() -> int:
        return documented()

    documented.__doc__ = kind()
    found = loads(dumps([documented, wrapping, property(documented, doc=kind())]))
    assert type(found[0].__doc__) is type(found[2].__doc__) is kind
    assert (found[0](), found[1](), found[1].__doc__) == (1, 1, None)


def test_code_of_another_python_is_refused_before_it_is_loaded() -> None:
    data = dumps(even).replace(__import__("importlib.util").util.MAGIC_NUMBER, b"\x01\x02\r\n")

    with pytest.raises(pickle.UnpicklingError, match="another version of Python"):
        loads(data)


def test_what_an_elsewhere_lacks_is_told_there(elsewhere: Elsewhere) -> None:
    reduction.unregister_pickle_by_value(HERE)
    try:
        with pytest.raises(RaisedElsewhere, match="No module named 'tests"):
            elsewhere.call(even, 1)
    finally:
        reduction.register_pickle_by_value(HERE)


# -- the same bytes -------------------------------------------------------------------------

PROGRAM = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {root!r})
    import dataclasses, enum, hashlib
    from hookpool import dumps

    @dataclasses.dataclass
    class Point:
        x: int = 0
        def moved(self, by=1): return Point(self.x + by)

    class Colour(enum.Enum):
        RED = 1

    class Base: pass
    class Derived(Base):
        __slots__ = ("a", "b")

    def fn(x):
        if x in {{"a", "b", "c", "d"}}:
            return Point, Colour
        return lambda: (x, fn, Derived)

    data = dumps([fn, fn(1), Point, Point(3), Derived, Colour.RED])
    assert data == dumps([fn, fn(1), Point, Point(3), Derived, Colour.RED])
    print(hashlib.sha256(data).hexdigest())
    """
)


def test_two_runs_of_a_script_give_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM.format(root=str(ROOT)))

    results = {
        subprocess.run(
            [sys.executable, script],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(results) == 1


def test_a_module_under_another_name_is_importable_if_its_parent_puts_it_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import collections.abc
    import os.path

    for obj in (collections.abc.Mapping, os.path.join):
        assert loads(dumps(obj)) is obj
        assert b"code" not in dumps(obj)


MISSING = object()


def test_a_sentinel_is_one_object_within_a_load_and_its_owners_own(elsewhere: Elsewhere) -> None:
    def probe(one: Any = MISSING) -> bool:
        return one is MISSING

    assert elsewhere.call(probe) is True
    assert loads(dumps([MISSING]))[0] is MISSING
    plain = object()
    assert loads(dumps(plain)) is not plain


def test_what_is_known_of_a_code_object_goes_with_it() -> None:
    space: dict[str, Any] = {}
    exec("def f():\n    def g(): return [x for x in y]\n    return g", space)
    gone = weakref.ref(space["f"].__code__)
    dumps(space["f"])
    dumps(space["f"]())
    space.clear()
    gc.collect()
    assert gone() is None


# -- picklers that are used again -------------------------------------------------------------


class Asks:
    """Calls back while it is being pickled."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return bytes, (self.call(),)


def test_a_dump_inside_a_dump_and_one_after_an_error_are_as_if_alone() -> None:
    shared = [base] * 3
    alone = dumps([shared, shared, lambda: base])

    def fail() -> bytes:
        with pytest.raises(pickle.PicklingError):
            dumps([shared, threading.Lock()])
        return dumps([shared, shared, lambda: base])

    inside, after = loads(dumps([Asks(lambda: dumps([shared, shared, lambda: base])), Asks(fail)]))

    assert loads(inside)[:2] == loads(after)[:2] == loads(alone)[:2]
    assert dumps([shared, shared]) == pickle.dumps([shared, shared], 5)


class Kept:
    """What can be watched."""


@pytest.mark.parametrize("size", [1, 100_000])
def test_nothing_that_was_pickled_is_kept_alive(size: int) -> None:
    def watched(*more: Any) -> weakref.ref[Kept]:
        captured = Kept()
        obj = [captured, lambda: captured, "x" * size, *more]
        if more:
            with pytest.raises(pickle.PicklingError):
                dumps(obj)
        else:
            dumps(obj)
        return weakref.ref(captured)

    with no_collections():
        assert watched()() is None
    failed = watched(threading.Lock())
    gc.collect()  # an error that was raised from another one is a cycle
    assert failed() is None


def test_long_pickles_are_joined_from_their_pieces() -> None:
    obj = [b"a" * 200_000, "b" * 70_000, bytearray(b"c" * 200_000), lambda: base]

    assert loads(dumps(obj))[:3] == obj[:3]
    assert loads(dumps(obj[:3])) == obj[:3]


def test_threads_pickle_side_by_side() -> None:
    def work(number: int) -> bool:
        obj = [[number, str(number)]] * 3
        return all(loads(dumps([obj, work]))[0] == obj for _ in range(200))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))


# -- functions in one piece ---------------------------------------------------------------------


def test_functions_in_one_piece_keep_everything_and_share_what_they_shared(
    elsewhere: Elsewhere,
) -> None:
    seen: list[int] = []
    names: dict[str, Any] = {"os": types, "n": (1, 2)}

    def note(x: int, y: int = 2, *, z: tuple[int, ...] = (3,)) -> int:
        seen.append(x)
        return x + y + z[0]

    @functools.wraps(note)
    def wrapper(*args: Any) -> tuple[Any, ...]:
        return note(*args), len(seen), sorted(names), base

    def both(x: int) -> Any:
        wrapper(x)
        return wrapper(x), wrapper.__wrapped__ is note, note.__name__, wrapper.__qualname__, seen

    assert elsewhere.call(both, 1) == (
        (6, 2, ["n", "os"], 10),
        True,
        "note",
        note.__qualname__,
        [1, 1],
    )
    assert elsewhere.call(wrapper, 1) == (6, 1, ["n", "os"], 10)


def test_a_function_in_what_it_captures_or_carries_is_found_again(elsewhere: Elsewhere) -> None:
    def itself(depth: int) -> int:
        return itself(depth - 1) + 1 if depth else 0

    def marked() -> bool:
        return marked.own[0] is marked

    marked.own = [marked]  # type: ignore[attr-defined]

    def defaulted(others: Any = ()) -> bool:
        return others[0] is defaulted

    defaulted.__defaults__ = ([defaulted],)
    table: dict[str, Any] = {}

    def tabled() -> bool:
        return table["me"] is tabled

    table["me"] = tabled
    tail = lambda: head
    head = lambda: tail

    assert elsewhere.call(itself, 3) == 3
    assert elsewhere.call(marked) is elsewhere.call(defaulted) is elsewhere.call(tabled) is True
    assert elsewhere.call(lambda: head()() is head and tail()() is tail) is True


def test_an_inner_function_that_shares_a_cell_with_the_outer_one_goes_on_sharing(
    elsewhere: Elsewhere,
) -> None:
    count = 0

    def up() -> None:
        nonlocal count
        count += 1

    def twice() -> int:
        nonlocal count
        up()
        count += 10
        up()
        return count

    assert elsewhere.call(twice) == 12


MODULE_OF_A_PACKAGE = """
import sys
import hookpool
def plain(): return 1
def relative():
    from . import helper
    return helper.VALUE
if __name__ == "__main__":
    sys.stdout.buffer.write(hookpool.dumps([plain, relative]))
    with hookpool.HookPoolExecutor(1) as pool:
        print([pool.submit(fn).result() for fn in (plain, relative)], file=sys.stderr)
"""


def test_functions_of_a_module_run_with_m_import_relatively(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("VALUE = 42")
    (package / "app.py").write_text(MODULE_OF_A_PACKAGE)
    env = {"PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, "-m", "pack.app"], cwd=tmp_path, env=env, capture_output=True, check=True
    )
    load = "import pickle, sys; print([fn() for fn in pickle.load(sys.stdin.buffer)])"
    there = subprocess.run(
        [sys.executable, "-c", load],
        cwd=tmp_path,
        env=env,
        input=done.stdout,
        capture_output=True,
        check=True,
    )

    assert done.stderr == b"[1, 42]\n"
    assert there.stdout == b"[1, 42]\n"


# -- instances ------------------------------------------------------------------------------------


class Simple:
    def __init__(self, **own: Any) -> None:
        vars(self).update(own)


class Stateful(Simple):
    def __getstate__(self) -> Any:
        return {"state": 1}


class Slotted:
    __slots__ = ("__dict__", "x")


def test_many_instances_are_written_as_pickle_writes_them() -> None:
    """After the first of a simple class, the others are not asked how they want to be reduced."""
    reduction.unregister_pickle_by_value(HERE)
    slotted = Slotted()
    slotted.x, slotted.y = 1, 2  # type: ignore[attr-defined]
    odd = Simple(a=1)
    odd.__reduce_ex__ = lambda _: (str, ("odd",))  # type: ignore[method-assign,assignment]
    objects = [Simple(a=1), Simple(), Simple(b=[1]), Stateful(a=1), Stateful(), slotted, slotted]
    try:
        for protocol in range(6):
            some = objects if protocol > 1 else objects[:-2]  # older ones refuse slots
            assert dumps(some, protocol) == pickle.dumps(some, protocol)
        assert loads(dumps([Simple(), odd, Simple(a=2)]))[1] == "odd"
    finally:
        reduction.register_pickle_by_value(HERE)


@pytest.mark.parametrize("protocol", range(6))
def test_objects_with_a_way_of_their_own_are_written_as_pickle_writes_them(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first of a type, what the C pickler would call is called without asking."""
    # An import of multiprocessing.managers registers one, which counts for us and not for pickle.
    monkeypatch.delitem(ForkingPickler._extra_reducers, array.array, raising=False)
    now, thing = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), Simple(a=1)
    some = [decimal.Decimal("1.5"), now, fractions.Fraction(1, 3), uuid.UUID(int=3), range(3)]
    some += [collections.deque([1]), pathlib.PurePosixPath("a"), slice(1), bytearray(b"x"), {1}]
    some += [collections.Counter("aab"), Exception("e"), re.compile("a"), array.array("i", [1])]
    objects = [*some, *some[::-1], *map(copy.copy, some)]
    reduction.unregister_pickle_by_value(HERE)
    try:
        assert dumps(objects, protocol) == pickle.dumps(objects, protocol)
        proxies = [weakref.proxy(thing), weakref.proxy(thing)]
        if protocol > 1:
            assert dumps(proxies, protocol) == pickle.dumps(proxies, protocol)
    finally:
        reduction.register_pickle_by_value(HERE)


def test_a_registration_for_a_type_with_a_way_of_its_own_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = [decimal.Decimal(1), decimal.Decimal(2)]
    assert loads(dumps(pair)) == pair
    monkeypatch.setitem(copyreg.dispatch_table, decimal.Decimal, lambda one: (str, (str(one),)))
    assert loads(dumps(pair)) == ["1", "2"]
    monkeypatch.undo()
    assert loads(dumps(pair)) == pair


def test_how_instances_are_reduced_is_looked_at_in_each_dump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = [Simple(a=1), Simple(a=2)]
    dumps(pair)
    monkeypatch.setattr(Simple, "__reduce__", lambda self: (int, (self.a,)), raising=False)
    assert loads(dumps(pair)) == [1, 2]
    monkeypatch.undo()

    monkeypatch.setitem(copyreg.dispatch_table, Simple, lambda one: (int, (-one.a,)))
    assert loads(dumps(pair)) == [-1, -2]


class Stand:
    """A proxy that goes as what it stands for."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "target", target)

    def __getattribute__(self, name: str) -> Any:
        target = object.__getattribute__(self, "target")
        if name == "__reduce_ex__":
            return lambda _: (Simple, (), vars(target))
        return object.__getattribute__(self, name)


class Static:
    __slots__ = ()

    @staticmethod
    def __reduce__() -> Any:
        return Static, ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_an_instance_answers_is_heard_for_each_one(count: int) -> None:
    stands = [Stand(Simple(a=n)) for n in range(count)]
    found = loads(dumps(stands))
    assert [type(one) for one in found] == [Simple] * count
    assert [one.a for one in found] == list(range(count))
    statics = loads(dumps([Static() for _ in range(count)]))
    assert [type(one) for one in statics] == [Static] * count


def test_a_lambda_takes_no_more_bytes_than_others_need() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    table, offset = {"a": 1}, 3

    def decorate(fn: Any) -> Any:
        return functools.wraps(fn)(lambda *args: fn(*args))

    for fn in (lambda x: x * 2, lambda x: table.get(x, offset), decorate(lambda x: x)):
        assert len(dumps(fn)) <= 1.1 * len(cloudpickle.dumps(fn))


# -- exceptions -----------------------------------------------------------------------------------


class Coded(ExceptionGroup[Exception]):
    def __new__(cls, message: str, errors: list[Exception], code: int) -> Coded:
        self = super().__new__(cls, message, errors)
        self.code = code
        return self

    code: int


class Silent(UnicodeDecodeError):
    """Does not tell its base what it was given."""

    def __init__(self, reason: str) -> None:
        self.why = reason


def test_exceptions_of_builtin_kinds_keep_their_fields(elsewhere: Elsewhere) -> None:
    try:
        undefined_here  # type: ignore[name-defined]  # noqa: B018
    except NameError as error:
        unknown = error
    try:
        types.missing  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        missing = error
    coded, silent = Coded("group", [ValueError(1)], 7), Silent("because")
    stop, leave = StopIteration(5), SystemExit(3)
    syntax = SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3))
    for error in (stop, leave, syntax, coded):
        error.__cause__ = KeyError("cause")

    def fields() -> list[Any]:
        return [
            (stop.value, leave.code, syntax.filename, syntax.end_offset, str(syntax)),
            (coded.code, coded.message, coded.args[2], coded.exceptions[0].args),
            (silent.why, silent.args),
            (unknown.name, missing.name, str(missing)),
            [type(one.__cause__).__name__ for one in (stop, leave, syntax, coded)],
        ]

    assert elsewhere.call(fields) == fields()


class Fussy:
    pass


def test_a_reducer_that_raises_is_not_asked_again() -> None:
    """A TypeError of the user's own is not one of ours, for which there is another way."""
    asked: list[Fussy] = []

    def reduce(obj: Fussy) -> Any:
        asked.append(obj)
        if len(asked) == 10:
            raise TypeError("not yet")
        return Fussy, ()

    copyreg.pickle(Fussy, reduce)
    try:
        with pytest.raises(TypeError, match="not yet"):
            reduction.dumps([Fussy() for _ in range(20)])
    finally:
        del copyreg.dispatch_table[Fussy]


def test_a_pickler_that_was_not_made_ready_says_so() -> None:
    class Unready(HookPickler):
        def __init__(self) -> None:
            pass

    with pytest.raises(pickle.PicklingError, match=r"was not called by Unready\.__init__"):
        Unready().dump(1)
