"""Keys under which a pickler's `met` has what is not an object by its id: no object has these.

Owns that they differ.
"""

from __future__ import annotations

#: Where bare objects are, by what holds them: `_objects`.
PLACES = -1
#: Which exceptions of a chain can be carried: `_exceptions`.
ERRORS = -2
#: Stamps of captured globals: `_worker_pickler`.
STAMPS = -3
#: Which types that only annotations name can be carried: `_type_forms`.
ANNOTATED = -4
#: What stands for classes of `ctypes`: `_layouts`.
BARE = -5
#: Sentinels that a function in this pickle names: `_sentinels`.
SENTINELS = -6
#: The ids of what modules hold, by their names: `_sentinels`.
GLOBALS = -7
#: That names are left out whose values the receiver was given at its start: `_functions`.
LEAVES_GIVEN = -8
