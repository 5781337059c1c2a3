"""What a worker has imported when it gets its first task: each module is paid for by each program.

Counted, not timed. Most of the time until a program's first result is spent on imports: by the
owner, by the fork server, and by the worker of what that had not.
"""

from __future__ import annotations

import sys

from hookpool import _launch
from hookpool.context import CONTEXT, PRELOAD, PRELOAD_LATER
from tests.helpers import run_python, wait_until
from tests.test_context import in_child

#: Of hookpool.
NEEDED = {
    "hookpool",
    "hookpool._annotations",
    "hookpool._arena",
    "hookpool._borrowed",
    "hookpool._buffers",
    "hookpool._callables",
    "hookpool._claims",
    "hookpool._classes",
    "hookpool._code",
    "hookpool._containers",
    "hookpool._ending",
    "hookpool._exceptions",
    "hookpool._functions",
    "hookpool._given",
    "hookpool._handle",
    "hookpool._importable",
    "hookpool._lifeline",
    "hookpool._link",
    "hookpool._met",
    "hookpool._nesting",
    "hookpool._objects",
    "hookpool._phases",
    "hookpool._plain",
    "hookpool._plans",
    "hookpool._raised",
    "hookpool._raw_classes",
    "hookpool._reach",
    "hookpool._rebuild",
    "hookpool._rebuild_objects",
    "hookpool._records",
    "hookpool._returned",
    "hookpool._shelf",
    "hookpool._slots",
    "hookpool._spin",
    "hookpool._start",
    "hookpool._streams",
    "hookpool._ticket",
    "hookpool._type_forms",
    "hookpool._wire",
    "hookpool._worker",
    "hookpool.context",
    "hookpool.reduction",
}

#: What took a quarter of the time when it was imported. The standard library's spawn needs none.
DEAR = {
    "asyncio",
    "concurrent.futures",
    "concurrent.futures.process",
    "ctypes",
    "dataclasses",
    "inspect",
    "logging",
    "multiprocessing.connection",
    "multiprocessing.managers",
    "multiprocessing.pool",
    "multiprocessing.queues",
    "pathlib",
    "tempfile",
    "tokenize",
    "traceback",
    "typing",
}


def modules(said: str) -> tuple[set[str], set[str]]:
    """Those of hookpool, and the dear ones."""
    found = set(said.split())
    return {name for name in found if name.partition(".")[0] == "hookpool"}, found & DEAR


# With spawn the worker itself imports what it needs, and nothing else has.
SPAWNED = """
import multiprocessing, sys
from hookpool import HookPoolExecutor
with HookPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
    print(*pool.submit(lambda: tuple(sys.modules)).result())
"""


def test_a_worker_needs_few_modules_for_its_first_task() -> None:
    ours, dear = modules(run_python("-c", SPAWNED))
    assert ours == NEEDED
    assert dear == set()


# `expect_processes` is the first thing that making an executor does.
AWAITED = """
import multiprocessing, sys
from hookpool import HookPoolExecutor
multiprocessing.get_context("hookpool").expect_processes()
print(*sys.modules)
"""


def test_a_program_imports_little_before_it_has_a_fork_server_started() -> None:
    bare = set(run_python("-c", "import sys, concurrent.futures\nprint(*sys.modules)").split())
    found = set(run_python("-c", AWAITED).split()) - bare
    assert modules(" ".join(found)) == (
        {
            "hookpool",
            "hookpool._arguments",
            "hookpool._cpus",
            "hookpool._forkserver",
            "hookpool._given",
            "hookpool._launch",
            "hookpool._nesting",
            "hookpool._plain",
            "hookpool._raised",
            "hookpool._rebound",
            "hookpool._standing",
            "hookpool._streams",
            "hookpool.context",
            "hookpool.executor",
        },
        set(),
    )


# The owner's part is done by then, but for errors: nothing of it needs what is dear and can wait.
MADE = """
import sys
from hookpool import HookPoolExecutor
with HookPoolExecutor(1) as pool:
    pool.submit(lambda: None).result()
    print(*sys.modules)
"""


def test_a_program_has_its_first_result_without_typing() -> None:
    assert "typing" not in run_python("-c", MADE).split()


# The request is there before the server is; so nothing of what can wait is imported before it.
FORKED = """
import multiprocessing, sys, hookpool
process = multiprocessing.get_context("hookpool").Process(target=lambda: print(*sys.modules))
process.start()
process.join()
"""


def test_the_fork_server_imports_no_more_than_that_before_it_serves() -> None:
    ours, dear = modules(run_python("-c", FORKED))
    assert ours == NEEDED | {"hookpool._forkserver"}
    assert dear == set()
    assert set(PRELOAD) <= ours


def test_it_imports_the_rest_when_it_has_time_so_that_children_share_it() -> None:
    CONTEXT.expect_processes()
    wait_until(lambda: set(PRELOAD_LATER) <= in_child(lambda: set(sys.modules)))
    assert _launch.server_pid() is not None
