"""Annotations written as text: what they name comes along if it may be part of a type.

The text is nobody's code: it is for readers and type checkers, and may name anything by accident.
"""

from __future__ import annotations

import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest

from hookpool import reduction
from tests.agree_child import Child, observe

Program = Callable[[str], Any]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs a program as a module that can be looked up, and that nobody can import."""

    def run(source: str) -> Any:
        module = types.ModuleType("annotated")
        monkeypatch.setitem(sys.modules, "annotated", module)
        source = f"from __future__ import annotations\nimport typing\n{source}"
        exec(compile(source, "annotated.py", "exec", dont_inherit=True), vars(module))
        return vars(module)["probe"]

    return run


#: What it is -> the program. `get_type_hints` gives there what it gives at home.
RESOLVED = {
    "classes, aliases and type variables": """
T = typing.TypeVar("T")
class Node: pass
Nodes = list[Node]
Some = typing.Union[Node, None]
Number = typing.NewType("Number", int)
Text = "list[Node]"
def f(a: Nodes, b: T, c: Some, d: Number, e: typing.Optional[Nodes], g: dict[str, Node | None],
      h: Text) -> Node: ...
def probe():
    hints = typing.get_type_hints(f)
    return [str(hints[name]) for name in sorted(hints)], hints["return"] is Node
""",
    "forward references in text that is text already": """
class Node: pass
def f(a: "Node", b: typing.Optional["list['Node']"]): ...
def probe(): return str(typing.get_type_hints(f)), typing.get_type_hints(f)["a"] is Node
""",
    "a module": """
import decimal
import collections.abc as abc
def f(a: decimal.Decimal, b: abc.Callable[[decimal.Decimal], int]): ...
def probe(): return str(typing.get_type_hints(f))
""",
    "metadata": """
from typing import Annotated
LIMITS = (1, 2)
def check(x): return x in LIMITS
def f(a: Annotated[int, LIMITS, check]): ...
def probe():
    _, limits, fn = typing.get_args(typing.get_type_hints(f, include_extras=True)["a"])
    return limits, fn(2)
""",
    "what starts with a star": """
Ts = typing.TypeVarTuple("Ts")
def f(*args: *Ts): ...
def probe(): return str(typing.get_type_hints(f))
""",
    "a dataclass": """
import dataclasses, decimal
class Node: pass
@dataclasses.dataclass
class C:
    a: Node
    b: "list[Node]"
    c: typing.Optional["Node"] = None
    Node: decimal.Decimal = None
def probe():
    hints = typing.get_type_hints(C)
    return [str(hints[name]) for name in "abc"], hints["a"] is Node, hints["Node"] is not None
""",
    "a class of literals": """
class C:
    a: typing.Literal["C", "typing"]
    b: typing.Literal[-1]
def probe(): return str(typing.get_type_hints(C))
""",
}


@pytest.mark.parametrize("source", RESOLVED.values(), ids=RESOLVED)
def test_hints_resolve_there_as_they_do_here(child: Child, program: Program, source: str) -> None:
    probe = program(source)
    expected = observe(probe)
    assert expected[0] == "gave", expected
    assert child.ask(reduction.dumps(probe)) == expected


#: A program -> the words in it that name something large, or something that cannot travel.
ACCIDENTS = {
    "strings in a literal": """
def f(mode: typing.Literal["data", "lock"]): ...
""",
    "prose": """
def f(i: "index into the data, under the lock", j: "data", k: "size (data)", m: "\\0"): ...
""",
    "an attribute of that name": """
import dataclasses
@dataclasses.dataclass
class f:
    data: data = None
    lock: lock = None
    both: "data | lock" = None
""",
    "an instance": """
class Held:
    def __reduce__(self): raise TypeError("cannot pickle Held")
held = Held()
def f(x: held): ...
""",
}


@pytest.mark.parametrize("source", ACCIDENTS.values(), ids=ACCIDENTS)
def test_values_that_are_no_types_do_not_come_along(program: Program, source: str) -> None:
    source = f"""
import threading
data = ["as large as this"] * 1000
lock = threading.Lock()
lock.acquire()
{source}
def probe(): return f
"""
    data = reduction.dumps(program(source))
    assert len(data) < 4000
    assert b"as large as this" not in data
    pickle.loads(data)


def test_code_in_annotations_is_not_run(program: Program, capsys: Any) -> None:
    probe = program(
        """
class Refuses:
    def __class_getitem__(cls, item): raise SystemExit
class C:
    a: exit()
    b: print("called")
    c: Refuses[int]
    d: [print("called") for _ in "a"]
def f(x: "exit()"): ...
def probe(): return C, f
"""
    )
    cls, fn = pickle.loads(reduction.dumps(probe()))
    assert capsys.readouterr().out == ""
    assert cls.__annotations__ == probe()[0].__annotations__
    assert fn.__annotations__ == {"x": "'exit()'"}


def test_text_that_names_builtins_alone_stays_text(program: Program) -> None:
    probe = program("class C:\n    a: int\n    b: dict[str, int | None]\ndef probe(): return C")
    cls = pickle.loads(reduction.dumps(probe()))
    assert cls.__annotations__ == {"a": "int", "b": "dict[str, int | None]"}


def test_a_type_that_cannot_travel_does_not_come_along(program: Program) -> None:
    probe = program(
        """
import threading
class Service:
    lock = threading.Lock()
    def again(self, x: Service, y: Table): ...
class Table:
    rows = [1, 2]
    def of(self, x: Service, y: Table): ...
Maybe = typing.Optional[Service]
Service.lock.acquire()
def f(x: typing.Optional[Service], y: Maybe, z: list[Table]): return 1
def probe(): return f
"""
    )
    fn = pickle.loads(reduction.dumps(probe()))
    assert fn(1, 2, 3) == 1
    assert "Service" not in fn.__globals__
    assert "Maybe" not in fn.__globals__
    table = fn.__globals__["Table"]
    assert typing.get_type_hints(table.of, None, {"Service": int})["y"] is table


def test_the_way_to_what_cannot_travel_leads_through_the_annotations_of_a_class(
    program: Program,
) -> None:
    probe = program(
        """
import threading
class Service: lock = threading.Lock()
Service.lock.acquire()
class Job: service: typing.Optional[Service]
def probe(): return Job
"""
    )
    way = r"annotation of 'service' in class Job -> .*attribute 'lock' of class Service: .* held"
    with pytest.raises(pickle.PicklingError, match=way):
        reduction.dumps(probe())
