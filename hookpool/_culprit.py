"""Why an object could not be pickled: the path to the culprit, and what to do about it.

Owns the search that runs *after* a dump has failed. It knows nothing of the pickler: it is
handed a callable that pickles one object and raises when it cannot, and finds the smallest part
of the object for which that callable fails too. It costs nothing until an error happens.

The search is breadth first, so the path reported is a shortest one. It is bounded in time and
in number of probes, does not recurse, and never raises: without a finding, the original error is
told as it is. It calls `__reduce_ex__` of users' objects and the given callable, both of which
the failed dump has called before; between two calls it looks at the clock.

Any thread may call it: there is no state.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import pickle
import sys
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from hookpool._annotations import evaluated
from hookpool._cures import cure_of
from hookpool._raw_classes import is_written_in_c

__all__ = ["explain", "explain_parts"]

Dumps = Callable[[Any], object]

# What an object is called when nobody gave it a name.
ROOT = "object"
# A second is what somebody reading a traceback does not notice; most searches end in a few
# milliseconds. Probes are capped as well, for a clock that stands still (a suspended machine).
SECONDS = 1.0
PROBES = 4000
# Below this many children each is probed alone, above they are bisected: the break-even.
ONE_BY_ONE = 8
# Of a million broken items these many are followed. More than one, because the first may fail
# only for pointing back at its owner.
FOLLOWED = 8
# A path of more steps than this is told without its middle.
LONGEST = 16
# A chain this long is called deep nesting; a shorter one met with a RecursionError means that
# somebody's `__getattr__` or `__reduce__` calls itself.
DEEP = 60


def explain(
    obj: object,
    error: BaseException,
    dumps: Dumps,
    root: str = ROOT,
    *,
    seconds: float = SECONDS,
) -> str:
    """Return one line that says which part of `obj` cannot be pickled, why, and the cure.

    To be called where a dump has failed, outside the pickler, for instance::

        try:
            return _dumps(obj)
        except RECOVERABLE as error:
            raise PicklingError(explain(obj, error, _dumps)) from error

    Args:
        obj: what was being pickled.
        error: what its dump raised.
        dumps: pickles one object and raises if it cannot. Pass the bare function, not the one
            that calls `explain`. Parts reached through an attribute, a cell, a global or a
            default come wrapped in a `types.SimpleNamespace`, so that a rule about objects given
            bare does not fire for them.
        root: what the caller calls `obj`: ``"args[0]"``, ``"the function"``, ``"result"``.
        seconds: time after which the search settles for what it has.

    Returns:
        For instance ``args[0].model -> closure variable 'db' of <lambda> at app.py:12 ->
        attribute 'conn': cannot pickle 'sqlite3.Connection' object. Open the connection ...``
    """
    return explain_parts({root: obj}, error, dumps, seconds=seconds)


def explain_parts(
    parts: Mapping[str, object],
    error: BaseException,
    dumps: Dumps,
    *,
    seconds: float = SECONDS,
) -> str:
    """Do as `explain` for several objects pickled together, each under its own name.

    For example ``{"the function": fn, "args": args, "kwargs": kwargs}``.
    """
    try:
        too_deep = _recursion_in(error)
        if too_deep:
            told = _tell_nesting(parts, too_deep, time.monotonic() + seconds)
            if told:
                return told
        search = _Search(dumps, time.monotonic() + seconds)
        return _tell(search.run(parts, error), error, search.stopped)
    except Exception:  # noqa: BLE001 - a search that fails must not hide the error it is about
        return _reason(error, None)


# --- the search ----------------------------------------------------------------------------


class _Step(NamedTuple):
    """One hop from an object to a part of it."""

    prose: str  # "closure variable 'db' of <lambda> at app.py:12"
    accessor: str = ""  # ".model", "[0]": how Python itself would say it, if it can
    held: bool = True  # an attribute, cell, global or default, as against an item


class _Node:
    """A part known to fail, and how it was reached."""

    __slots__ = ("depth", "error", "held", "parent", "step", "value")

    def __init__(
        self, value: object, error: str, step: _Step, parent: _Node | None = None
    ) -> None:
        self.value = value
        self.error = error
        self.step = step
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.held: bool = parent is not None and (parent.held or step.held)

    def steps(self) -> list[_Step]:
        """The hops from the root to here, the root's own name first."""
        found = []
        node: _Node | None = self
        while node is not None:
            found.append(node.step)
            node = node.parent
        return found[::-1]


class _Branch(NamedTuple):
    """Parts of one kind. Labels are made on demand: a list may have ten million items."""

    values: Sequence[object]
    step: Callable[[int], _Step]


class _OutOfBudgetError(Exception):
    """The clock or the number of probes has run out."""


class _Search:
    """Breadth-first search over the parts that fail."""

    __slots__ = ("deadline", "dumps", "probes", "stopped")

    def __init__(self, dumps: Dumps, deadline: float) -> None:
        self.dumps = dumps
        self.deadline = deadline
        self.probes = PROBES
        self.stopped = False

    def run(self, parts: Mapping[str, object], error: BaseException) -> _Node | None:
        """Return the culprit, or the deepest failing part when time runs out."""
        queue: deque[_Node] = deque()
        seen: dict[int, _Node] = {}  # holds the values too, so that no id is used twice
        found: _Node | None = None
        try:
            queue.extend(self._roots(parts, error))
            seen.update((id(node.value), node) for node in queue)
            while queue:
                node = queue.popleft()
                failing = list(self._failing_parts(node))
                if not failing:
                    if node.error == _reason(error, node.value):
                        return node
                    # Fails alone, but not with what stopped the dump. Keep looking.
                    found = found or node
                for child in failing:
                    if id(child.value) not in seen:
                        seen[id(child.value)] = child
                        queue.append(child)
        except _OutOfBudgetError:
            self.stopped = found is None
        return found or max(seen.values(), key=lambda node: node.depth, default=None)

    def _roots(self, parts: Mapping[str, object], error: BaseException) -> Iterator[_Node]:
        for name, value in parts.items():
            # A single root is known to fail: the caller has just seen it.
            alone = len(parts) == 1
            told = _reason(error, value) if alone else self._probe(value, held=False)
            if told is not None:
                yield _Node(value, told, _Step(name, name))

    def _failing_parts(self, node: _Node) -> Iterator[_Node]:
        for branch in _parts(node.value):
            for index, error in islice(self._failing(branch, node), FOLLOWED):
                yield _Node(branch.values[index], error, branch.step(index), node)

    def _failing(self, branch: _Branch, node: _Node) -> Iterator[tuple[int, str]]:
        """Index and error of each value of `branch` that fails, by bisection, in order."""
        values = branch.values
        held = node.held or (bool(values) and branch.step(0).held)
        todo = [(0, len(values))]
        while todo:
            start, stop = todo.pop()
            if stop - start <= ONE_BY_ONE:
                for index in range(start, stop):
                    error = self._probe(values[index], held)
                    if error is not None:
                        yield index, error
            elif self._probe(list(values[start:stop]), held) is not None:
                middle = (start + stop) // 2
                todo += [(middle, stop), (start, middle)]

    def _probe(self, value: object, held: bool) -> str | None:
        """Return what pickling `value` raises, as text, or None."""
        if id(type(value)) in _ATOMS:
            return None
        self.probes -= 1
        if self.probes < 0 or time.monotonic() > self.deadline:
            raise _OutOfBudgetError
        try:
            self.dumps(types.SimpleNamespace(part=value) if held else value)
        except Exception as error:  # noqa: BLE001 - users' reducers raise what they like
            return _reason(error, value)
        return None


# --- the parts of an object ----------------------------------------------------------------

# By the id of the type: a type need not be hashable, that is up to its metaclass.
_ATOMS = frozenset(
    map(id, (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)))
)


def _parts(obj: object) -> Iterator[_Branch]:
    """The parts of `obj` that its pickle contains, seen without running code of its owner.

    Exact types, like the pickler: a subclass of dict goes through its own reduction.
    """
    kind = type(obj)
    parts = _PARTS.get(id(kind))
    if parts is None and (id(kind) in _ATOMS or cure_of(obj)):
        return  # a lock inside a Queue is true but helps nobody: stop at the Queue
    if parts is None and issubclass(kind, type):  # isinstance would ask obj.__class__
        parts = _parts_of_class
    if parts is None:
        if kind.__flags__ & _HEAP and not _is_importable(kind):
            yield _branch([(_Step(f"its class {kind.__qualname__}"), kind)])
        parts = _parts_of_instance
    try:
        yield from parts(obj)
    except _OutOfBudgetError:
        raise
    except Exception:  # noqa: BLE001 - half-made objects raise anything; the rest goes untold
        return


def _branch(pairs: Iterable[tuple[_Step, object]]) -> _Branch:
    known = list(pairs)
    return _Branch([value for _, value in known], lambda index: known[index][0])


def _attribute(name: str) -> _Step:
    return _Step(f"attribute {name!r}", f".{name}" if name.isidentifier() else "")


def _item(key: object) -> _Step:
    label = f"[{_short(key)}]"
    return _Step(f"item {label}", label, held=False)


def _parts_of_sequence(obj: Any) -> Iterator[_Branch]:
    yield _Branch(obj, _item)


def _parts_of_set(obj: Any) -> Iterator[_Branch]:
    step = _Step("an element of the set", held=False)
    yield _Branch(list(obj), lambda index: step)


def _parts_of_dict(obj: Any) -> Iterator[_Branch]:
    keys = list(obj)
    yield _Branch(list(obj.values()), lambda index: _item(keys[index]))
    yield _Branch(keys, lambda index: _Step(f"the key {_short(keys[index])}", held=False))


def _parts_of_function(fn: types.FunctionType) -> Iterator[_Branch]:
    code = fn.__code__
    name = _place(code)
    empty = types.CellType()
    cells = zip(code.co_freevars, fn.__closure__ or (), strict=True)
    yield _branch(
        (_Step(f"closure variable {var!r} of {name}"), cell.cell_contents)
        for var, cell in cells
        if cell != empty
    )
    yield _branch(
        (_Step(f"global {var!r} used by {name}"), fn.__globals__[var])
        for var in _global_names(code)
        if var in fn.__globals__
    )
    yield _branch(
        (_Step(f"default of parameter {parameter!r} of {name}"), value)
        for parameter, value in _defaults(fn)
    )
    yield _branch((_attribute(key), value) for key, value in vars(fn).items())
    yield _branch(
        (_Step(f"annotation of {key!r} in {name}"), value)
        for key, value in fn.__annotations__.items()
    )


def _defaults(fn: types.FunctionType) -> Iterator[tuple[str, object]]:
    positional = fn.__defaults__ or ()
    code = fn.__code__
    names = code.co_varnames[: code.co_argcount]
    yield from zip(names[len(names) - len(positional) :], positional, strict=False)
    yield from (fn.__kwdefaults__ or {}).items()


def _global_names(code: types.CodeType) -> list[str]:
    """Names that `code` or code nested in it looks up as globals, in order of appearance."""
    import dis  # only here: an import that no worker should pay for before its first error

    found: dict[str, None] = {}
    todo = [code]
    while todo:
        current = todo.pop()
        for instruction in dis.get_instructions(current):
            if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                found[instruction.argval] = None
        todo += [const for const in current.co_consts if isinstance(const, types.CodeType)]
    return list(found)


_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not built into the interpreter
_UNINTERESTING = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__"})


def _parts_of_class(cls: type) -> Iterator[_Branch]:
    if not cls.__flags__ & _HEAP or is_written_in_c(cls):
        return  # it goes by a name, or not at all
    name = cls.__qualname__
    yield _branch(
        (_Step(f"base class {base.__qualname__} of {name}"), base) for base in cls.__bases__
    )
    if type(cls) is not type:
        yield _branch([(_Step(f"metaclass of {name}"), type(cls))])
    yield _branch(
        (_Step(f"{_class_part(value)} {key!r} of class {name}"), value)
        for key, value in vars(cls).items()
        if key not in _UNINTERESTING and not isinstance(value, _DESCRIPTORS)
    )
    module, annotations = sys.modules.get(cls.__module__), vars(cls).get("__annotations__")
    if module is not None and type(annotations) is dict:
        space, own = vars(module), dict(vars(cls))
        yield _branch(
            (_Step(f"annotation of {key!r} in class {name}"), evaluated(text, space, own))
            for key, text in annotations.items()
            if type(text) is str
        )


_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _class_part(value: object) -> str:
    if isinstance(value, (types.FunctionType, staticmethod, classmethod)):
        return "method"
    return "property" if isinstance(value, property) else "attribute"


def _parts_named(*names: str) -> Callable[[Any], Iterator[_Branch]]:
    def parts(obj: Any) -> Iterator[_Branch]:
        yield _branch((_attribute(name), getattr(obj, name)) for name in names)

    return parts


def _parts_of_partial(obj: Any) -> Iterator[_Branch]:
    yield from _parts_named("func")(obj)
    yield _branch((_Step(f"item .args[{i}]", f".args[{i}]"), v) for i, v in enumerate(obj.args))
    yield _branch(
        (_Step(f"item .keywords[{key!r}]", f".keywords[{key!r}]"), value)
        for key, value in obj.keywords.items()
    )
    yield _branch((_attribute(key), value) for key, value in vars(obj).items())


def _parts_of_instance(obj: Any) -> Iterator[_Branch]:
    """What the reduction of `obj` consists of, told as attributes and items where it is that."""
    if issubclass(type(obj), BaseException):
        yield from _parts_named("__cause__", "__context__")(obj)
    reduction = _reduce(obj)
    if not isinstance(reduction, tuple):
        return
    make, args, state, listitems, dictitems = (*reduction, None, None, None)[:5]
    if state is not None:
        yield from _parts_of_state(obj, state)
    if listitems is not None:
        yield _Branch(list(listitems), _item)
    if dictitems is not None:
        yield from _parts_of_dict(dict(dictitems))
    if not _is_importable(make):
        yield _branch([(_Step("the function that its reduction calls"), make)])
    yield _branch((_argument(obj, i), v) for i, v in enumerate(args) if v is not type(obj))


def _reduce(obj: Any) -> object:
    kind = type(obj)
    registered = None if type(kind).__hash__ is None else copyreg.dispatch_table.get(kind)
    # Protocol 4: at 5 numpy and others hand out buffers, which need not be picklable.
    return registered(obj) if registered else obj.__reduce_ex__(4)


def _argument(obj: object, index: int) -> _Step:
    if issubclass(type(obj), BaseException):
        return _Step(f"item .args[{index}]", f".args[{index}]")
    return _Step(f"argument {index} of the reduction of a {type(obj).__qualname__}")


def _parts_of_state(obj: object, state: object) -> Iterator[_Branch]:
    layers: tuple[object, ...] = (state,)
    if type(state) is tuple and len(state) == 2:
        layers = state  # (dict, slots), what object.__reduce_ex__ gives
    if not all(layer is None or type(layer) is dict for layer in layers):
        yield _branch([(_Step("what its __getstate__ returns"), state)])
        return
    own = _instance_dict(obj)
    for layer in layers:
        yield _branch(
            (_part_of_state(own, key, value), value)
            for key, value in (layer if isinstance(layer, dict) else {}).items()
        )


def _instance_dict(obj: object) -> dict[str, object]:
    """The attributes of `obj`, slots included, without asking a `__getattr__`."""
    found: dict[str, object] = {}
    for cls in type(obj).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # a slot not set
                    found.setdefault(name, member.__get__(obj, type(obj)))
    with contextlib.suppress(AttributeError):
        found.update(object.__getattribute__(obj, "__dict__"))
    return found


def _part_of_state(own: dict[str, object], key: object, value: object) -> _Step:
    if isinstance(key, str) and own.get(key, own) is value:
        return _attribute(key)
    return _Step(f"item {_short(key)} of what its __getstate__ returns")


def _is_importable(obj: Any) -> bool:
    """Whether `obj` is found under its own name; good enough to leave out boring steps."""
    module = getattr(obj, "__module__", None) or ""
    if module == "__main__":
        return False
    found: object = sys.modules.get(module)
    for name in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is obj


def _parts_of_weakref(obj: weakref.ref[Any]) -> Iterator[_Branch]:
    yield _branch([(_Step("what the weak reference points to"), obj())])


def _parts_of_module(obj: types.ModuleType) -> Iterator[_Branch]:
    if obj.__spec__ is not None:
        return  # can be imported: its contents never travel
    name = obj.__name__
    yield _branch(
        (_Step(f"global {key!r} of module {name!r}", f".{key}"), value)
        for key, value in vars(obj).items()
        if not key.startswith("__")
    )


_PARTS_OF: dict[type, Callable[[Any], Iterator[_Branch]]] = {
    list: _parts_of_sequence,
    tuple: _parts_of_sequence,
    set: _parts_of_set,
    frozenset: _parts_of_set,
    dict: _parts_of_dict,
    types.MappingProxyType: _parts_of_dict,
    types.FunctionType: _parts_of_function,
    types.MethodType: _parts_named("__self__", "__func__"),
    types.BuiltinFunctionType: _parts_named("__self__"),
    types.MethodWrapperType: _parts_named("__self__"),
    types.CellType: _parts_named("cell_contents"),
    types.ModuleType: _parts_of_module,
    weakref.ref: _parts_of_weakref,
    staticmethod: _parts_named("__func__"),
    classmethod: _parts_named("__func__"),
    property: _parts_named("fget", "fset", "fdel"),
    super: _parts_named("__self__", "__thisclass__"),
    functools.partial: _parts_of_partial,
    functools.partialmethod: _parts_named("func", "args", "keywords"),
    functools.cached_property: _parts_named("func"),
    type(functools.lru_cache(lambda: None)): _parts_named("__wrapped__"),
}
_PARTS = {id(kind): parts for kind, parts in _PARTS_OF.items()}


# --- the telling ---------------------------------------------------------------------------


def _tell(node: _Node | None, error: BaseException, stopped: bool) -> str:
    if node is None:
        return _reason(error, None)
    if stopped:
        # Some way down, and no leaf seen: what stopped the dump is all that is known.
        where = f"{_path(node.steps())} -> somewhere in this {type(node.value).__qualname__}"
        return f"{where} (too large to search further): {_reason(error, None)}"
    path = _path(node.steps())
    # "object: cannot pickle it" tells less than it seems to.
    told = node.error if path == ROOT else f"{path}: {node.error}"
    cure = cure_of(node.value)
    return f"{told.rstrip('.')}. {cure}" if cure else told


def _path(steps: Sequence[_Step]) -> str:
    """`args[0].model -> closure variable 'db' of f at app.py:3 -> attribute 'conn'`."""
    path, *rest = steps
    if len(rest) > LONGEST:
        left_out = _Step(f"... {len(rest) - LONGEST} more ...")
        rest[LONGEST // 2 : -LONGEST // 2] = [left_out]
    text = path.prose
    expression = " " not in text
    for step in rest:
        # As an expression while it is one, in words from the first hop that has none.
        expression = expression and bool(step.accessor)
        text += step.accessor if expression else f" -> {step.prose}"
    return text


def _reason(error: BaseException, value: object) -> str:
    """The error's own words, with its type unless it speaks of pickling by itself."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__
        text = ""
    of_pickle = "pickle" in text.lower() or text.startswith("Can't get local object")
    if of_pickle or issubclass(type(error), pickle.PicklingError):
        return text
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return told if value is None else f"pickling this {type(value).__qualname__} raised {told}"


def _place(code: types.CodeType) -> str:
    # The last component only: paths are long, and the line number tells files apart.
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{code.co_name} at {file}:{code.co_firstlineno}"


def _short(value: object) -> str:
    if id(type(value)) in _ATOMS:
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return f"<{type(value).__qualname__}>"  # no repr of a user's: it may be long, slow or raise


# --- too deep ------------------------------------------------------------------------------


def _tell_nesting(
    parts: Mapping[str, object], error: RecursionError, deadline: float
) -> str | None:
    """Say what the endless nesting is made of; None if there is none, only a runaway method."""
    steps, kinds = _deepest(parts, deadline)
    if len(steps) <= DEEP:
        return None
    labels = [step.prose for step in steps]
    period = _period(labels)
    start = len(labels) - period
    while start > 1 and labels[start - 1] == labels[start - 1 + period]:
        start -= 1
    if len(labels) - start <= period:  # each step is called something else
        inner = ", ".join(list(dict.fromkeys(kinds))[:LONGEST])
        return (
            f"{_path(steps[: LONGEST // 2])} -> ...: nested too deeply to be pickled: at least "
            f"{len(steps) - 1} levels (of {inner}). {_limit(error)}"
        )
    pattern = " -> ".join(labels[start : start + period])
    inner = ", ".join(dict.fromkeys(kinds[start : start + period]))
    return (
        f"{_path(steps[:start])}: nested too deeply to be pickled: {pattern} (of {inner}), again "
        f"and again, at least {len(steps) - start} levels. {_limit(error)}"
    )


def _recursion_in(error: BaseException) -> RecursionError | None:
    # Picklers like to raise an error of their own from it.
    causes = (error, error.__cause__, error.__context__)
    return next((cause for cause in causes if isinstance(cause, RecursionError)), None)


def _limit(error: RecursionError) -> str:
    if sys.version_info >= (3, 12) and "pickling an object" in str(error):
        limit = "This is the interpreter's limit on recursion in C, which cannot be raised"
        return f"{limit}: keep linked structures flat, for instance in a list."
    limit = f"The recursion limit is {sys.getrecursionlimit()} (sys.getrecursionlimit())"
    return f"{limit}: raise it, or keep linked structures flat, for instance in a list."


def _deepest(parts: Mapping[str, object], deadline: float) -> tuple[list[_Step], list[str]]:
    """The longest chain that a walk in the pickler's own order meets, without recursion.

    Objects met before are not entered again, as the pickler's memo would not.
    """
    seen: dict[int, object] = {}
    best: tuple[list[_Step], list[str]] = ([], [])
    for name, value in parts.items():
        steps, kinds = [_Step(name)], [type(value).__qualname__]
        stack = [_children(value)]
        while stack and time.monotonic() < deadline:
            found = next(stack[-1], None)
            if found is None:
                stack.pop(), steps.pop(), kinds.pop()
                continue
            step, child = found
            if id(child) in seen or id(type(child)) in _ATOMS:
                continue
            seen[id(child)] = child
            stack.append(_children(child))
            steps.append(step)
            kinds.append(type(child).__qualname__)
            if len(steps) > len(best[0]):
                best = list(steps), list(kinds)
            if len(steps) > 10 * DEEP:
                return best
    return best


def _children(obj: object) -> Iterator[tuple[_Step, object]]:
    for branch in _parts(obj):
        for index, value in enumerate(branch.values):
            yield branch.step(index), value


def _period(labels: Sequence[str]) -> int:
    """Length of the shortest unit that `labels` ends in twice."""
    for period in range(1, 7):
        if labels[-period:] == labels[-2 * period : -period]:
            return period
    return 1
