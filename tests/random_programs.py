"""Programs made at random, of classes and functions that refer to each other in every way.

Each has `ROOTS`, every object that is worth pickling by itself, by its name, and `use`, which
calls such an object, and what that refers to, and gives plain data: the same in each process.
"""

from __future__ import annotations

import random
import types

START = """\
import abc, dataclasses, enum, functools, typing
T = typing.TypeVar("T")
class Noting(type):
    def __new__(mcls, name, bases, body):
        cls = super().__new__(mcls, name, bases, body)
        cls.noted = [*getattr(cls, "noted", ()), name]
        return cls
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.trace += ("called",)
        return made
class Named:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, obj, kind): return self.name, kind.__name__
def wrapped(fn):
    @functools.wraps(fn)
    def wrapper(*args): return "wrapped", fn(*args)
    return wrapper
def use(obj, depth=3):
    if depth <= 0:
        return getattr(obj, "__qualname__", type(obj).__qualname__)
    if isinstance(obj, type):
        return use(obj(), depth)
    if isinstance(obj, enum.Enum):
        return repr(obj), obj.go(depth - 1)
    if hasattr(obj, "go"):
        return type(obj).__name__, obj.trace, obj.go(depth - 1), getattr(obj, "noted", None)
    if isinstance(obj, (list, tuple)):
        return [use(one, depth - 1) for one in obj]
    if isinstance(obj, dict):
        return {key: use(one, depth - 1) for key, one in obj.items()}
    return obj.__name__, obj(depth - 1)
"""


class _Writer:
    def __init__(self, seed: int, *, counting: bool) -> None:
        #: Whether closures count their calls, and so show who has the same one.
        self.counting = counting
        self.rng = random.Random(seed)
        self.lines = [START]
        self.classes: list[str] = []
        #: Names that can be used when everything is defined; also of what comes later.
        self.names: list[str] = []
        self.roots: list[str] = []

    def some(self, most: int = 2) -> list[str]:
        """Names of other objects, defined by now or not."""
        return self.rng.sample(self.names, min(len(self.names), self.rng.randint(0, most)))

    def calls(self, captured: list[str]) -> str:
        return "(" + "".join(f"use({name}, depth), " for name in captured) + ")"

    def chance(self, of: float) -> bool:
        return self.rng.random() < of

    # -- what programs consist of -----------------------------------------------------------

    def add_class(self, name: str) -> None:
        rng = self.rng
        bases = rng.sample(self.classes, min(len(self.classes), rng.choice((0, 0, 1, 1, 2))))
        bases.sort(key=self.classes.index, reverse=True)  # an order that an mro exists for
        heads = list(bases)
        if not bases:
            heads += rng.choice(([], [], ["metaclass=Noting"], ["abc.ABC"], ["typing.Generic[T]"]))
        body = [f"class {name}({', '.join(heads)}):"]
        if self.chance(0.3):
            body.append(f'    "The text of {name}."')
        if self.chance(0.2) and not bases and "Noting" not in "".join(heads):
            body.append("    __slots__ = ('trace', '__dict__')")
        if self.chance(0.3):
            body.append("    named = Named()")
        body += [
            "    def __init__(self, *args):",
            "        super().__init__(*args)" if self.chance(0.8) or bases else "        pass",
            f"        self.trace = (*getattr(self, 'trace', ()), '{name}')",
        ]
        for kind in rng.sample(("go", "prop", "cm", "sm", "hash", "state"), rng.randint(0, 4)):
            body += getattr(self, f"_{kind}")(name, bool(bases))
        if not bases and "    def go(self, depth):" not in body:
            body += self._go(name, False)
        self.lines.append("\n".join(body))
        self.classes.append(name)

    def _go(self, name: str, has_base: bool) -> list[str]:
        inner = "super().go(depth)" if has_base and self.chance(0.7) else "__class__.__name__"
        own = f"self.__own_{name}(depth)" if self.chance(0.5) else "None"
        return [
            "    def go(self, depth):",
            f"        return {inner}, {own}, {self.calls(self.some())}",
            f"    def __own_{name}(self, depth): return {self.calls(self.some(1))}",
        ]

    def _prop(self, name: str, has_base: bool) -> list[str]:
        return ["    @property", f"    def prop(self): return __class__, {self.some(1)!r}"]

    def _cm(self, name: str, has_base: bool) -> list[str]:
        made = self.rng.choice(("cls()", "getattr(super(), 'cm', repr)(depth)"))
        return [
            "    @classmethod",
            f"    def cm(cls, depth): return type({made}).__name__, {self.calls(self.some(1))}",
        ]

    def _sm(self, name: str, has_base: bool) -> list[str]:
        return ["    @staticmethod", f"    def sm(depth): return {self.calls(self.some(1))}"]

    def _hash(self, name: str, has_base: bool) -> list[str]:
        return [
            f"    def __hash__(self): return hash(({name}.__name__, len({self.some(1)!r})))",
            f"    def __eq__(self, other): return isinstance(other, {name})",
        ]

    def _state(self, name: str, has_base: bool) -> list[str]:
        return [
            f"    def __getstate__(self): return ({name}.__name__, dict(vars(self)), self.trace)",
            "    def __setstate__(self, state):",
            f"        assert state[0] == {name}.__name__",
            "        vars(self).update(state[1]); self.trace = state[2]",
        ]

    def add_dataclass(self, name: str) -> None:
        options = [o for o in ("slots", "frozen", "order", "kw_only") if self.chance(0.3)]
        if "frozen" in options:
            options.append("eq")
        head = ", ".join(f"{option}=True" for option in options)
        self.lines.append(
            f"@dataclasses.dataclass({head})\n"
            f"class {name}:\n"
            f"    a: int = 1\n"
            f"    trace: tuple = ('{name}',)\n"
            f"    c: typing.Any = dataclasses.field(default_factory=lambda: {self.some(1)!r})\n"
            f"    def go(self, depth): return self.a, self.c, {self.calls(self.some())}\n"
            + (f"{name}.zero = {name}()\n" if self.chance(0.5) else "")
        )

    def add_enum(self, name: str) -> None:
        self.lines.append(
            f"class {name}(enum.{self.rng.choice(('Enum', 'IntEnum', 'Flag'))}):\n"
            f"    ONE = 1\n    TWO = 2\n"
            f"    def go(self, depth): return {name}.ONE.name, {self.calls(self.some(1))}\n"
            f"{name}_two = {name}.TWO\n"
        )
        self.roots += [name + "_two"]

    def add_function(self, name: str) -> None:
        head = self.rng.choice(("", "", "@wrapped\n", "@functools.cache\n"))
        self.lines.append(f"{head}def {name}(depth): return {self.calls(self.some())}")

    def add_closure(self, name: str) -> None:
        first, second = f"{name}_in", f"{name}_out"
        captured = self.some(2)
        values = ", ".join(f"lambda: {one}" for one in captured)
        self.lines.append(
            f"def make_{name}(*captured):\n"
            f"    count = 0\n"
            f"    def {first}(depth):\n"
            f"        nonlocal count\n"
            f"        count += {self.counting:d}\n"
            f"        return count, [use(one(), depth) for one in captured]\n"
            f"    def {second}(depth): return count, use({first}, depth)\n"
            f"    return {first}, {second}\n"
            f"{name}_in, {name}_out = make_{name}({values})\n"
        )
        self.roots += [first, second]

    def add_later(self, name: str) -> None:
        """What is made of classes that are there, and set on them afterwards."""
        cls = self.rng.choice(self.classes)
        kind = self.rng.choice(("bound", "instance", "in class", "method of class", "table"))
        if kind == "bound":
            self.lines.append(f"{name} = {cls}().go")
        elif kind == "instance":
            self.lines.append(f"{name} = {cls}()")
        elif kind == "in class":
            self.lines.append(f"{name} = {cls}.kept_{name} = {cls}()")
        elif kind == "method of class":
            self.lines.append(f"{name} = {cls}.bound_{name} = {cls}().go")
        else:
            self.lines.append(f"{name} = {{'a': {cls}, 'b': {cls}().go, 'c': [{cls}()]}}")
        self.roots.append(name)

    def source(self) -> str:
        rng = self.rng
        plan = [
            rng.choice(("class", "class", "function", "closure")) for _ in range(rng.randint(3, 7))
        ]
        plan.insert(0, "class")
        if self.chance(0.3):
            plan.append("dataclass")
        if self.chance(0.2):
            plan.append("enum")
        named = [(kind, f"{kind[0].upper()}{at}") for at, kind in enumerate(plan)]
        laters = [f"later{at}" for at in range(rng.randint(0, 3))]
        for kind, name in named:
            self.names += [f"{name}_in", f"{name}_out"] if kind == "closure" else [name]
        self.names += laters
        for kind, name in named:
            getattr(self, f"add_{kind}")(name)
            if kind != "closure":
                self.roots.append(name)
        for name in laters:
            self.add_later(name)
        everything = "{" + ", ".join(f"{name!r}: {name}" for name in self.roots) + "}"
        return "\n".join([*self.lines, f"ROOTS = {everything}", ""])


def program(seed: int, *, counting: bool = True) -> str:
    """The source of a program: the same for the same seed.

    Args:
        seed: any.
        counting: whether what closures give depends on how often they were called.
    """
    return _Writer(seed, counting=counting).source()


def run(source: str, name: str) -> types.ModuleType | None:
    """The module that a program makes, whose file nobody can find; None if it does not run."""
    module = types.ModuleType(name)
    try:
        exec(compile(source, f"{name}.py", "exec", dont_inherit=True), vars(module))
    except TypeError:  # bases that have no layout or metaclass in common
        return None
    return module
