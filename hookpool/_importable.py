"""Which functions, classes and modules another process can import by name.

Owns the answer to "by reference or by value?" and the registry of modules that users want by
value.  An object is importable when its name resolves to that same object *and* a finder finds its
module again: being in ``sys.modules`` proves nothing about another process.

Knows nothing of pickling.  Any thread may call it.  What a finder said is remembered per module
object; that a name still resolves to the object is looked at each time, since names are rebound.
"""

from __future__ import annotations

import importlib.machinery
import sys
import weakref
from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: A module and names there, or nothing.
    Held: TypeAlias = tuple[str, ...]

MAINS = frozenset({"__main__", "__mp_main__"})

_by_value: set[str] = set()
_verdicts: dict[str, tuple[weakref.ref[ModuleType], bool]] = {}
_places: weakref.WeakKeyDictionary[type, tuple[str, str]] = weakref.WeakKeyDictionary()


def is_importable(obj: Any) -> bool:
    """Whether a function or class (anything with a qualified name) can go by reference."""
    name = getattr(obj, "__module__", None)
    qualname: str = obj.__qualname__
    if type(name) is not str or "<" in qualname or not is_module_importable(name):
        return False
    found: Any = sys.modules[name]
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except AttributeError:
        return False
    return found is obj


def is_module_importable(name: str) -> bool:
    """Whether another process would find the module that ``sys.modules`` has under this name."""
    module = sys.modules.get(name)
    if _by_value and _is_registered(name):
        return False
    known = _verdicts.get(name)
    # A module that has been removed is None, and so is what is left of it here.
    if known is not None and known[0]() is module is not None:
        return known[1]
    if not isinstance(module, ModuleType):
        return False
    verdict = name not in MAINS and _is_found_again(name, module)
    _verdicts[name] = weakref.ref(module), verdict
    return verdict


def place_of(cls: type) -> tuple[str, str] | None:
    """The importable module that has a class, and its name there, where those are not what the
    class says: those written in C often leave out a package, or are better known by another name.
    """
    known = _places.get(cls)
    if known is not None and _has(*known, cls):
        return known
    found = [
        (module, name)
        for module in list(sys.modules)
        if is_module_importable(module)
        for name, value in list(vars(sys.modules[module]).items())
        if value is cls
    ]
    if not found:
        return None
    own = f".{cls.__module__}"
    place = min(found, key=lambda one: (not f".{one[0]}".endswith(own), one))
    _places[cls] = place
    return place


def place_of_instance(obj: Any) -> tuple[str, str] | None:
    """The importable module of an instance's class that holds the instance, and the name there."""
    held = held_by_module(type(obj))
    return place_in(held, obj) if held else None


def held_by_module(kind: Any) -> Held:
    """The names under which an importable module has instances of a class of its own, and it."""
    module = kind.__module__
    if type(module) is not str or not is_module_importable(module):
        return ()
    space = vars(sys.modules[module])
    size, names = _held.get(kind, (-1, ()))
    if size != len(space):
        # What a module binds anew, it mostly binds to the names that it had.
        names = tuple([name for name, one in list(space.items()) if type(one) is kind])
        _held[kind] = len(space), names
    return (module, *names) if names else ()


def place_in(held: Held, obj: Any) -> tuple[str, str] | None:
    """The module and the name of an instance that is among these."""
    module = held[0]
    space = vars(sys.modules[module])
    for name in held[1:]:
        if space.get(name) is obj:
            return module, name
    return None


#: How many names the module of a class had when it was looked at, and which were of instances.
_held: weakref.WeakKeyDictionary[type, tuple[int, tuple[str, ...]]] = weakref.WeakKeyDictionary()


def _has(module: str, name: str, cls: type) -> bool:
    return is_module_importable(module) and vars(sys.modules[module]).get(name) is cls


def register_pickle_by_value(module: ModuleType) -> None:
    """Let functions and classes of a module, and of its submodules, travel by value.

    For modules that the workers cannot import, or should not: a package under development whose
    edits are to be seen, a script beside the notebook.

    Args:
        module: an imported module.

    Raises:
        ValueError: it is not a module, or not one that was imported under its name.

    >>> import hookpool, json
    >>> hookpool.register_pickle_by_value(json)
    >>> hookpool.unregister_pickle_by_value(json)
    """
    if not isinstance(module, ModuleType):
        raise ValueError(f"register_pickle_by_value takes a module, not {module!r}")
    if module.__name__ not in sys.modules:
        raise ValueError(
            f"{module!r} was not imported under the name {module.__name__!r}: functions of a "
            "dynamic module travel by value anyway"
        )
    _by_value.add(module.__name__)


def unregister_pickle_by_value(module: ModuleType) -> None:
    """Undo `register_pickle_by_value`.

    Args:
        module: a module registered before.

    Raises:
        ValueError: it is not registered.
    """
    if not isinstance(module, ModuleType):
        raise ValueError(f"unregister_pickle_by_value takes a module, not {module!r}")
    if module.__name__ not in _by_value:
        raise ValueError(f"{module!r} is not registered to travel by value")
    _by_value.remove(module.__name__)


def list_registry_pickle_by_value() -> set[str]:
    """The names of the modules registered with `register_pickle_by_value`, as a new set."""
    return _by_value.copy()


def is_registry(names: set[str]) -> bool:
    """Whether these are the names that are registered now."""
    return names == _by_value


def _is_registered(name: str) -> bool:
    while name:
        if name in _by_value:
            return True
        name = name.rpartition(".")[0]
    return False


def _is_found_again(name: str, module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    parent = name.rpartition(".")[0]
    if parent and not is_module_importable(parent):
        return False
    if spec is None:
        return _is_made_by_its_parent(name, module)
    if spec.name != name:
        # As ``collections.abc``, which its parent makes another name of a private module.
        return _is_attribute_of_parent(name, module) and is_module_importable(spec.name)
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    if parent and path is None:
        return _is_made_by_its_parent(name, module)
    found = _find(name, path)
    return found is not None and found.origin == spec.origin


def _is_made_by_its_parent(name: str, module: ModuleType) -> bool:
    # Extension modules create submodules that no finder knows; importing the parent makes them.
    above = sys.modules.get(name.rpartition(".")[0])
    origin = getattr(getattr(above, "__spec__", None), "origin", None) or ""
    is_extension = origin.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    return is_extension and _is_attribute_of_parent(name, module)


def _is_attribute_of_parent(name: str, module: ModuleType) -> bool:
    parent, _, last = name.rpartition(".")
    return getattr(sys.modules.get(parent), last, None) is module


def _find(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        # A finder defined by value will not be there in another process.
        kind: Any = finder if isinstance(finder, type) else type(finder)
        if kind.__module__ in MAINS:
            continue
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # noqa: BLE001 - somebody else's finder must not break pickling
            continue
        if spec is not None:
            return spec
    return None


def function_home(fn: FunctionType) -> str | None:
    """The name of the module that a function's globals belong to, None for a bare dict."""
    name = fn.__globals__.get("__name__")
    module = sys.modules.get(name) if type(name) is str else None
    return name if getattr(module, "__dict__", None) is fn.__globals__ else None
