"""`_lifeline`: a child ends with its parent, whatever either is doing."""

from __future__ import annotations

import multiprocessing

import pytest

from hookpool._lifeline import die_with_parent
from tests.helpers import run_python

# An owner in the middle, so that somebody is left to see what its death does.
KILLED_OWNER = """
import os, signal
from multiprocessing import connection
from hookpool import _launch
from tests import launching
from tests.helpers import wait_until

_launch.HAVE_FORK_SERVER = {have_fork_server}
reader, writer = connection.Pipe(duplex=False)
if (owner := os.fork()) == 0:
    launching.{process}(target=launching.{life}, args=(writer,)).start()
    signal.pause()
child = reader.recv()
assert not launching.is_gone(child)
os.kill(owner, signal.SIGKILL)
os.waitpid(owner, 0)
wait_until(lambda: launching.is_gone(child), 5)
"""


@pytest.mark.parametrize("have_fork_server", [True, False])
@pytest.mark.parametrize("life", ["report_and_sleep", "report_and_hold_the_interpreter"])
def test_a_child_dies_with_its_owner_also_inside_c_code(life: str, have_fork_server: bool) -> None:
    source = KILLED_OWNER.format(process="Mortal", life=life, have_fork_server=have_fork_server)
    run_python("-c", source)


def test_where_the_kernel_sends_no_signal_a_thread_watches() -> None:
    source = KILLED_OWNER.format(
        process="Process", life="watch_and_sleep", have_fork_server="_launch.HAVE_FORK_SERVER"
    )
    run_python("-c", source)


def test_a_child_whose_owner_is_gone_before_it_asks_dies_at_once() -> None:
    run_python("-c", GONE_BEFORE)


GONE_BEFORE = """
import os, signal
from multiprocessing import connection
from tests import launching
from tests.helpers import wait_until

ours, theirs = connection.Pipe()
if (owner := os.fork()) == 0:
    launching.Process(target=launching.ask_when_told, args=(theirs,)).start()
    signal.pause()
child = ours.recv()
os.kill(owner, signal.SIGKILL)
os.waitpid(owner, 0)
assert not launching.is_gone(child)
ours.send("now")
wait_until(lambda: launching.is_gone(child), 5)
"""


def test_a_process_that_multiprocessing_did_not_start_watches_nobody() -> None:
    assert multiprocessing.parent_process() is None
    die_with_parent()
