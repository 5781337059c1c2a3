"""Plans for what `typing` makes: type variables, new types, aliases; and names in annotations.

Owns one function per kind.  The table that finds them is in `_objects`, the receiving side in
`_rebuild_objects`.  Any thread may call it.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType

from hookpool import _annotations, _classes
from hookpool import _rebuild_objects as there
from hookpool._importable import is_importable, is_module_importable
from hookpool._met import ANNOTATED
from hookpool._plain import ATOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VARIABLE_ARGUMENTS = {
    "bound": ("__bound__", None),
    "constraints": ("__constraints__", ()),
    "covariant": ("__covariant__", False),
    "contravariant": ("__contravariant__", False),
    "infer_variance": ("__infer_variance__", False),
}


def reduce_type_variable(_: Any, variable: Any) -> Any:
    name, module = variable.__name__, variable.__module__
    if is_module_importable(module) and getattr(sys.modules[module], name, None) is variable:
        return NotImplemented
    arguments = {}
    for key, (attribute, normal) in _VARIABLE_ARGUMENTS.items():
        value = _of_variable(variable, attribute, normal)
        if value != normal:
            arguments[key] = value
    if hasattr(variable, "has_default") and variable.has_default():
        default = _of_variable(variable, "__default__", arguments)
        if default is not arguments:
            arguments["default"] = default
    token = _classes.token_of(variable, module, name, type(variable), arguments)
    return there.type_variable, (token, _maker(variable, arguments), name, module, arguments)


def _maker(variable: Any, arguments: dict[str, Any]) -> Any:
    """What makes a variable like this one of such arguments."""
    kind, extensions = type(variable), sys.modules.get("typing_extensions")
    if extensions is None or sys.version_info >= (3, 13):
        return kind
    # It gives older Pythons' own variables what these do not take yet.
    is_newer = "default" in arguments or "infer_variance" in arguments
    return getattr(extensions, kind.__name__) if is_newer else kind


def _of_variable(variable: Any, attribute: str, normal: Any) -> Any:
    try:
        return getattr(variable, attribute, normal)
    except Exception:  # noqa: BLE001 - evaluated late, and it names what only type checkers see
        return normal


def with_annotated(
    names: tuple[str, ...], annotations: dict[str, Any], space: dict[str, Any]
) -> tuple[str, ...]:
    """Names, and those in annotations written as text that may be parts of a type."""
    texts = tuple(annotations.values())
    if list(map(id, map(type, texts))).count(_TEXT) < len(texts):
        texts = tuple([text for text in texts if type(text) is str])
    added, values = _words_in(names, texts)
    if not values and space.keys().isdisjoint(added):  # as a rule: they are builtins
        return names
    found = [name for name in added if name in space and _may_be_part(space[name])]
    return (*names, *found, *values)


def with_all_annotated(names: tuple[str, ...], annotations: dict[str, Any]) -> tuple[str, ...]:
    """Names, and all that `with_annotated` may add to them."""
    texts = tuple([text for text in annotations.values() if type(text) is str])
    added, values = _words_in(names, texts)
    return (*names, *added, *values)


_TEXT = id(str)


@functools.lru_cache(4096)
def _words_in(
    names: tuple[str, ...], texts: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    read = [_annotations.read(text) for text in texts]
    values = dict.fromkeys(name for one in read for name in one.values if name not in names)
    added = dict.fromkeys(name for one in read for name in one.names if name not in names)
    return tuple([name for name in added if name not in values]), tuple(values)


def _may_be_part(value: Any) -> bool:
    if type(value) is FunctionType:  # as in `x: conint(gt=1)`
        return is_importable(value)
    return _annotations.is_of_types(value)


def travels(pickler: Any, value: Any) -> bool:
    """Whether what only an annotation names can travel: if not, the function goes without it."""
    if id(value) in pickler.met or not _is_doubtful(value):
        return True
    # Of the outermost dump and all trials inside it.  In the trial of what leads back to it, it is
    # left out, and with it the reason why that might fail.
    verdicts = pickler.met.setdefault(ANNOTATED, {})
    known = verdicts.get(id(value))
    if known is None:
        verdicts[id(value)] = value, False
        known = verdicts[id(value)] = value, pickler.can_carry(value, {ANNOTATED: verdicts})
    verdict: bool = known[1]
    return verdict


def _is_doubtful(value: Any) -> bool:
    """Whether a type holds more than code: to try each one would take as long as to pickle it."""
    kind = type(value)
    if id(kind) in ATOMS:
        return False
    if issubclass(kind, type):
        return any(map(_holds_more, value.__mro__))
    if kind is FunctionType:
        return not is_importable(value)
    if issubclass(kind, ModuleType):
        name = value.__name__
        return sys.modules.get(name) is not value or not is_module_importable(name)
    if _annotations.is_of_types(value):
        parts = [getattr(value, name, None) for name in ("__origin__", "__bound__")]
        return any(map(_is_doubtful, (*parts, *getattr(value, "__args__", ()))))
    return True


def _holds_more(cls: Any) -> bool:
    if not cls.__flags__ & _classes.HEAP:
        return False
    own = _classes.dict_of(cls).copy()
    if _HARMLESS.issuperset(map(id, map(type, own.values()))):
        return False
    more = [name for name, value in own.items() if id(type(value)) not in _HARMLESS]
    return any(not name.startswith("__") for name in more) and not is_importable(cls)


_HARMLESS = ATOMS | set(
    map(
        id,
        (
            FunctionType,
            GetSetDescriptorType,
            MemberDescriptorType,
            classmethod,
            property,
            staticmethod,
        ),
    )
)


def reduce_new_type(_: Any, new_type: Any) -> Any:
    if is_importable(new_type):
        return NotImplemented
    name, parts = new_type.__name__, _parts(new_type.__supertype__)
    token = _classes.token_of(new_type, new_type.__module__, name, *parts)
    arguments = (token, type(new_type))
    return there.new_type, arguments, vars(new_type), None, None, there.fill_new_type


def reduce_type_alias(_: Any, alias: Any) -> Any:
    name, module = alias.__name__, alias.__module__
    if is_module_importable(module) and getattr(sys.modules[module], name, None) is alias:
        return NotImplemented
    parameters = alias.__type_params__
    try:
        value = alias.__value__
    except Exception as error:  # noqa: BLE001 - as above, and there it shall raise as well
        arguments = (_token_of_alias(alias, str(error)), name, parameters, module)
        return there.type_alias, arguments, str(error), None, None, there.leave_type_alias
    parts = _parts(value)
    token = _token_of_alias(alias, *parts)
    if parameters and not any(part is alias for part in parts):
        return there.generic_alias, (token, name, value, parameters, module)
    # The value comes as state, as it may contain the alias.
    arguments = (token, name, parameters, module)
    return there.type_alias, arguments, value, None, None, there.fill_type_alias


def _token_of_alias(alias: Any, *contents: Any) -> str:
    known = there.token_of_alias(alias)
    if known is not None:
        return known
    outline = _classes.outline_of(*contents)
    return there.keep_alias(_classes.new_token(alias.__module__, alias.__name__, outline), alias)


def _parts(annotation: Any) -> list[Any]:
    """What an annotation consists of: itself, what it is an alias of, and what of, and theirs."""
    found, met = [annotation], {id(annotation)}
    for one in found:
        for part in (getattr(one, "__origin__", None), *getattr(one, "__args__", ())):
            if id(part) not in met:
                met.add(id(part))
                found.append(part)
    return found
