"""Annotations written as text: which names they refer to, and what they stand for.

Text is read, not run: what a user wrote for readers may look like a call, and name a lock or a
large list by accident.  Owns the reading, which depends on the text alone and is remembered, and
the rule for what may be part of a type.  Knows nothing of pickling.  Any thread may call it.
"""

from __future__ import annotations

import builtins
import functools
from types import GenericAlias, ModuleType, UnionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from types import CodeType
    from typing import Any


class _Read:
    """What can be known from the text of an annotation alone."""

    __slots__ = ("code", "names", "values")

    #: Names that may be those of types.
    names: tuple[str, ...]
    #: Names in the metadata of ``Annotated``, which may be those of anything.
    values: tuple[str, ...]
    #: What gives the type, if that takes no more than to look names up.
    code: CodeType | None

    def __init__(
        self, names: tuple[str, ...], values: tuple[str, ...], code: CodeType | None
    ) -> None:
        self.names, self.values, self.code = names, values, code


# More than the annotations of most programs; a program with more reads some of them again.
@functools.lru_cache(4096)
def read(text: str) -> _Read:
    """The names in the text of an annotation, which are none if it is no expression."""
    import ast  # late: a worker that is sent no such annotation needs none

    reader = _Reader()
    try:
        text = text.strip()
        tree = reader.visit(ast.parse(f"({text},)[0]" if text[:1] == "*" else text, mode="eval"))
        code = compile(ast.fix_missing_locations(tree), "<annotation>", "eval")
    # Prose, a null character, or deeper than the compiler goes.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Read((), (), None)
    names, values = dict.fromkeys(reader.names), dict.fromkeys(reader.values)
    return _Read(tuple(names), tuple(values), code if reader.is_plain else None)


class _Reader:
    """Collects names, and puts forward references in the place of strings that hold them."""

    __slots__ = ("is_plain", "names", "values")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[str] = []
        #: Whether nothing has been met that would call somebody's function.
        self.is_plain = True

    def visit(self, node: ast.AST) -> Any:
        """The tree of an annotation, or of a part of it."""
        import ast

        kind = type(node).__name__
        if isinstance(node, ast.Name):
            self.names.append(node.id)
        elif isinstance(node, ast.Constant):
            return self._forward(node) if type(node.value) is str else node
        elif isinstance(node, ast.Subscript):
            node.value = self.visit(node.value)
            node.slice = self._inside(node.value, node.slice)
            return node
        elif isinstance(node, ast.BinOp):
            self.is_plain = self.is_plain and isinstance(node.op, ast.BitOr)
        elif kind not in _PLAIN:
            self.is_plain = False
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
            elif type(value) is list:
                value[:] = [self.visit(v) if isinstance(v, ast.AST) else v for v in value]
        return node

    def _inside(self, form: Any, inside: Any) -> Any:
        import ast

        name = getattr(form, "id", None) or getattr(form, "attr", None)
        if name == "Literal":
            return inside  # its strings are values
        if name != "Annotated" or type(inside) is not ast.Tuple:
            return self.visit(inside)
        inside.elts[0] = self.visit(inside.elts[0])
        for node in (part for one in inside.elts[1:] for part in ast.walk(one)):
            if isinstance(node, ast.Name):
                self.values.append(node.id)
            self.is_plain = self.is_plain and not isinstance(node, ast.Call)
        return inside

    def _forward(self, node: Any) -> Any:
        import ast

        try:
            return self.visit(ast.parse(node.value.strip(), mode="eval").body)
        except (SyntaxError, ValueError):
            return node


_PLAIN = frozenset({"Expression", "Attribute", "BitOr", "List", "Load", "Starred", "Tuple"})


def is_of_types(value: Any) -> bool:
    """Whether a value may be part of a type: a class, a module, an alias, a type variable."""
    kind = type(value)
    if value is None or issubclass(kind, _TYPES):
        return True
    if kind is str:  # as in `Alias = "list[Node]"`
        return len(value) <= _LONG
    where = kind.__module__
    return type(where) is str and where in _MODULES


_TYPES = (type, ModuleType, GenericAlias, UnionType)
_MODULES = frozenset({"typing", "typing_extensions"})
_LONG = 200


def evaluated(text: str, space: dict[str, Any], own: dict[str, Any]) -> Any:
    """What an annotation stands for, given a class's globals and attributes, or else the text.

    Text that names nothing but builtins stays, since it stands for the same everywhere.
    """
    found = read(text)
    if found.code is None:
        return text
    is_needed = bool(found.values)
    for name in found.names:
        if name in space or name in own:  # in this order, as `get_type_hints` does
            is_needed = True
            if not is_of_types(space[name] if name in space else own[name]):
                return text
        elif not hasattr(builtins, name):
            return text
    if not is_needed:
        return text
    try:
        made = eval(found.code, own, space)
    except KeyboardInterrupt:
        raise
    # Not to be resolved here either, as `list[int` or a class that refuses `[...]`; and code that
    # is asked for an item or an attribute may raise anything, even SystemExit.
    except BaseException:  # noqa: BLE001
        return text
    return made if is_of_types(made) else text
