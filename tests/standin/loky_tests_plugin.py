"""A plugin for pytest in the process that runs loky's tests: what is the same but looks different.

loky's tests count workers among the children of the process, and among those of what looks like
the standard fork server. Ours looks different; here it gets that look. And where loky's errors say
``EXIT(3)``, ours say ``exited with code 3``.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from hookpool import _launch


def pytest_collection_finish(session: pytest.Session) -> None:
    from tests import _executor_mixin

    found = _executor_mixin._direct_children_with_cmdline

    def direct_children(process: Any) -> list[tuple[Any, str]]:
        server = _launch.server_pid()
        return [
            (child, "multiprocessing.forkserver" if child.pid == server else line)
            for child, line in found(process)
        ]

    _executor_mixin._direct_children_with_cmdline = direct_children
    _translate()


def _translate() -> None:
    raises: Any = pytest.raises

    def raises_in_our_words(*args: Any, match: str | None = None, **more: Any) -> Any:
        if match is not None:
            more["match"] = re.sub(r"EXIT\\\((\d+)\\\)", r"exited with code \1", match)
        return raises(*args, **more)

    pytest.raises = raises_in_our_words
