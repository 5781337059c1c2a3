"""Instances without state are one object in a worker, whichever pickles bring them there."""

from __future__ import annotations

import email.policy
import multiprocessing
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from hookpool import _rebuild, _sentinels
from hookpool.reduction import dumps, loads
from tests.elsewhere import Elsewhere
from tests.owner import Pool

pytestmark = pytest.mark.usefixtures("by_value")


class Missing:
    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING = Missing()
OPTIONS = {"a": MISSING, "b": [MISSING]}


def default(value: Any = MISSING) -> Any:
    return value is MISSING


def keyword(*, value: Any = MISSING) -> Any:
    return value is MISSING


def plain(value=MISSING):  # type: ignore[no-untyped-def]
    return value is MISSING


class Field:
    default = MISSING
    table: ClassVar[Any] = {"a": MISSING}

    def get(self, value: Any = MISSING) -> Any:
        return value is MISSING


def closure() -> Any:
    missing = MISSING
    return lambda: missing is MISSING


CLOSURE = closure()

PROBES = {
    "default": lambda: default(),
    "keyword": lambda: keyword(),
    "plain": lambda: plain(),
    "attribute": lambda: Field.default is MISSING,
    "table of a class": lambda: Field.table["a"] is MISSING,
    "default of a method": lambda: Field().get(),
    "table": lambda: OPTIONS["a"] is MISSING is OPTIONS["b"][0],
    "closure": lambda: CLOSURE(),
}


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Elsewhere(worker=True) as one:
        yield Pool(one)


@pytest.mark.parametrize("probe", PROBES)
def test_a_sentinel_is_one_object_with_the_first_function_and_the_second(
    pool: Pool, probe: str
) -> None:
    assert pool.run(PROBES[probe]) is True
    assert pool.run(lambda: (MISSING, PROBES[probe]())[1]) is True
    assert pool.run(PROBES[probe]) is True


@pytest.mark.parametrize("is_forward", [True, False])
def test_it_is_one_object_in_any_order(pool: Pool, is_forward: bool) -> None:
    names = list(PROBES) if is_forward else list(reversed(PROBES))
    assert {name: pool.run(PROBES[name]) for name in names} == dict.fromkeys(names, True)


def test_functions_among_the_arguments_have_the_same_one(pool: Pool) -> None:
    assert pool.run(lambda: default()) is True
    for fn in (default, keyword, plain):
        assert pool.run(lambda fn: fn(), fn) is True
        assert pool.run(lambda fns: [fn() for fn in fns], [fn, default]) == [True, True]


def test_arguments_are_copies(pool: Pool) -> None:
    def mark(one: Any) -> Any:
        before = len(vars(one))
        one.mark = 1
        return before, one is MISSING

    assert [pool.run(mark, MISSING) for _ in range(2)] == [(0, False), (0, False)]
    assert pool.run(lambda: len(vars(MISSING))) == 0


def test_an_argument_that_a_function_among_the_arguments_has_is_that(pool: Pool) -> None:
    assert pool.run(lambda fn, one: (fn(), one is MISSING), default, MISSING) == (True, True)


def test_a_pool_has_the_same_one_in_all_chunks() -> None:
    with multiprocessing.get_context("hookpool").Pool(1) as pool:
        found = pool.map(lambda _, value=MISSING: value is MISSING, range(4), chunksize=1)

    assert found == [True] * 4


def test_another_one_of_its_class_is_another_one(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = MISSING

    def has_old(value: Any = old) -> Any:
        return value is MISSING

    assert pool.run(has_old) is True
    monkeypatch.setattr(sys.modules[__name__], "MISSING", Missing())

    assert pool.run(has_old) is False
    assert pool.run(lambda value=MISSING: value is MISSING) is True


def test_those_of_a_loop_do_not_become_one(pool: Pool) -> None:
    def counting(one: Any) -> Any:
        def count() -> int:
            one.count = getattr(one, "count", 0) + 1
            return one.count

        return count

    assert [pool.run(counting(Missing())) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("holder", ["default", "closure"])
def test_what_has_a_state_is_copied_with_each_function(pool: Pool, holder: str) -> None:
    one = Missing()
    one.count = 0  # type: ignore[attr-defined]

    def made() -> Any:
        if holder == "default":

            def count(one: Any = one) -> int:
                one.count += 1
                return one.count
        else:

            def count() -> int:
                one.count += 1  # type: ignore[attr-defined]
                return one.count  # type: ignore[attr-defined]

        return count

    assert [pool.run(made()) for _ in range(3)] == [1, 1, 1]


class Slotted:
    __slots__ = ("a",)


class Made:
    def __new__(cls) -> Made:
        return super().__new__(cls)


class Reduced:
    def __reduce__(self) -> str:
        return "REDUCED"


class Text(str):
    pass


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        return cls is other


class Unhashable(metaclass=Meta):
    pass


OTHERS = [Slotted(), Made(), Reduced(), Text(), Unhashable(), Exception(), []]
SLOTTED, MADE, REDUCED, TEXT, UNHASHABLE, ERROR, LIST = OTHERS


@pytest.mark.parametrize("obj", [*OTHERS, 1, None, Missing, len, Missing()])
def test_these_are_none(obj: Any) -> None:
    assert not _sentinels.is_sentinel({}, obj)


def test_what_cannot_be_looked_up_travels_all_the_same(pool: Pool) -> None:
    assert pool.run(lambda: type(UNHASHABLE).__name__) == "Unhashable"


def test_a_global_with_an_attribute_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sentinels.is_sentinel({}, MISSING)
    monkeypatch.setattr(MISSING, "a", 1, raising=False)
    assert not _sentinels.is_sentinel({}, MISSING)


def test_one_that_a_task_has_given_a_state_is_not_brought_again(pool: Pool) -> None:
    def mark(one: Any = MISSING) -> Any:
        one.mark = 1
        return vars(MISSING)

    assert pool.run(mark) == {"mark": 1}
    assert pool.run(lambda one=MISSING: vars(one)) == {}


def test_an_instance_of_a_class_that_it_was_given_later(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Missing):
        pass

    assert pool.run(lambda: type(MISSING).__name__) == "Missing"
    monkeypatch.setattr(MISSING, "__class__", Other)
    assert pool.run(lambda one=MISSING: type(one).__name__) == "Other"


def test_the_module_of_each_class_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [types.ModuleType(f"made_by_hand_{number}") for number in range(2)]
    for module in modules:
        exec("class Missing: pass\nMISSING = Missing()", module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    met: dict[int, Any] = {}
    assert [_sentinels.is_sentinel(met, module.MISSING) for module in modules] == [True, True]


def test_many_empty_instances_are_no_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Missing() for _ in range(100)]
    monkeypatch.setitem(OPTIONS, "many", many)
    before = len(_rebuild._by_object)
    with Elsewhere(worker=True) as one:
        assert Pool(one).run(lambda: len(OPTIONS["many"])) == 100
    assert len(_rebuild._by_object) <= before + 2  # the class and its sentinel


# An instance without state that an importable module holds.
COMPAT32 = email.policy.compat32


def is_compat32(value: Any = COMPAT32) -> Any:
    return value is COMPAT32 is email.policy.compat32


class Reading:
    policy = COMPAT32


def test_what_an_importable_module_holds_is_what_that_module_holds_there(pool: Pool) -> None:
    """``from library import MISSING``: the library's own functions compare with theirs."""
    assert pool.run(is_compat32)
    assert pool.run(lambda: Reading.policy is email.policy.compat32)
    assert pool.run(is_compat32, COMPAT32)
    assert pool.run(lambda: email.policy.compat32) is COMPAT32
    assert loads(dumps([COMPAT32]))[0] is COMPAT32


def test_a_module_that_has_got_another_one_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = type(COMPAT32)
    other, third = kind(), kind()
    assert loads(dumps(other)) is not other
    monkeypatch.setattr(sys.modules[kind.__module__], "other", other, raising=False)
    assert loads(dumps(other)) is other
    monkeypatch.setattr(sys.modules[kind.__module__], "other", third)
    assert loads(dumps(third)) is third
    assert loads(dumps(other)) is not other


class Named:
    """As the sentinels of PEP 661."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return self.name


class Slotted:
    __slots__ = ("others",)
    none: ClassVar[Any]

    def __reduce__(self) -> Any:
        return "Slotted.none"


UNSET = Named("UNSET")
Slotted.none = Slotted()
Slotted.none.others = [UNSET, Slotted.none]


def is_unset(value: Any = UNSET) -> Any:
    return value is UNSET, value.name


def is_none(value: Any = Slotted.none) -> Any:
    return value is Slotted.none, value.others[0] is UNSET, value.others[1] is value


def test_who_goes_by_a_name_of_the_main_module_is_one_object(pool: Pool) -> None:
    """``def __reduce__(self): return "UNSET"``: that module is not there to be asked for it."""
    assert pool.run(is_unset) == pool.run(is_unset, UNSET) == is_unset()
    assert pool.run(is_none) == pool.run(is_none, Slotted.none) == is_none()
    assert pool.run(lambda: UNSET) is UNSET
    assert pool.run(lambda given: [given], Slotted.none)[0] is Slotted.none


def test_what_a_task_does_to_it_stays_there(pool: Pool) -> None:
    def rename() -> Any:
        UNSET.name = "UNSET"
        UNSET.__dict__["more"] = 1
        return UNSET

    assert pool.run(rename) is UNSET
    assert not hasattr(UNSET, "more")
    assert pool.run(lambda: UNSET.__dict__["more"]) == 1


def test_it_travels_to_who_is_no_worker(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(is_unset) == is_unset()


class Colour:
    """As enumerations were, before there were any."""

    table: ClassVar[dict[str, Colour]] = {}
    RED: ClassVar[Colour]
    BLUE: ClassVar[Colour]

    def __init__(self, name: str) -> None:
        self.name = name
        Colour.table[name] = self
        setattr(Colour, name, self)

    def __reduce__(self) -> Any:
        return getattr, (type(self), self.name)


Colour("RED").other = Colour("BLUE")  # type: ignore[attr-defined]
Colour.BLUE.other = Colour.RED  # type: ignore[attr-defined]


class Constant(float):
    name: str

    def __reduce__(self) -> Any:
        return getattr, (Constants, self.name)


class Constants:
    PI = Constant(3.14)
    PI.name = "PI"


def is_red(value: Any = Colour.RED) -> Any:
    is_it = value is Colour.RED is Colour.table["RED"] is Colour.BLUE.other  # type: ignore[attr-defined]
    return is_it, value.name, value.other is Colour.BLUE, Constants.PI + 0, Constants.PI.name


def test_who_is_found_in_a_class_comes_with_the_class(pool: Pool, elsewhere: Elsewhere) -> None:
    """``return getattr, (Colour, "RED")``: the class has none yet when it is being loaded."""
    assert elsewhere.call(is_red) == pool.run(is_red) == pool.run(is_red, Colour.RED) == is_red()
    assert is_red()[0]
    assert pool.run(lambda: Colour.RED) is Colour.RED
    assert pool.run(lambda given: [given], Constants.PI)[0] is Constants.PI


def test_who_is_not_what_has_the_name_is_refused() -> None:
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        dumps(Named("UNSET"))
