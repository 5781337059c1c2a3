"""`Record`: what `typing.NamedTuple` is, without `typing`.

Importing that takes as long as ten modules of ours, and a program's first result would wait for
it three times: in the owner, in the fork server, and once more in half the time that a class needs
to be made, since `typing` looks at each annotation.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = ["Record"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class _Maker(type):
        def __new__(cls, name, bases, body):
            fields = body.get("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for attribute, value in body.items():
                if attribute not in _NAMES_IT:
                    setattr(made, attribute, value)
            return made

    #: What a class statement says besides; all but the annotations the tuple has already.
    _NAMES_IT = frozenset({"__module__", "__qualname__"})

    Record = type.__new__(_Maker, "Record", (), {})
