"""Ctrl-C, and owners that end in every way: no orphan, no hang, one traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.processes import Program, marked_processes, run_python, wait_until

# The contract: workers gone within a second of their owner. The rest is for a loaded machine.
SOON = 5.0

BUSY = """
import ctypes, os, sys, time
from hookpool import HookPoolExecutor
def work(n):
    os.write(1, b"busy\\n")
    {work}
{program}
"""
IN_C = "ctypes.PyDLL(None).sleep(60)"  # holds the GIL: no Python code of the worker can run
ASLEEP = "time.sleep(60)"


def start(program, work=ASLEEP):
    """Run the program until two workers are busy."""
    source = BUSY.format(work=work, program=program)
    started = Program(
        ("-c", source),
        timeout=50,
        env=None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(2):
        assert started.process.stdout.readline() == b"busy\n"
    return started


@pytest.mark.parametrize("work", [ASLEEP, IN_C], ids=["asleep", "in-c"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_workers_end_with_their_owner(work, how):
    with start("pool = HookPoolExecutor(2); list(pool.map(work, range(4)))", work) as program:
        assert len(marked_processes(program.mark)) >= 3

        os.kill(program.process.pid, how)

        program.process.wait(SOON)
        wait_until(lambda: not marked_processes(program.mark), SOON)


@pytest.mark.parametrize(
    "program",
    [
        "with HookPoolExecutor(2) as pool: list(pool.map(work, range(8)))",
        "pool = HookPoolExecutor(2)\nlist(pool.map(work, range(8)))",
        "with HookPoolExecutor(2) as pool:\n    calls = [pool.submit(work, n) for n in range(8)]"
        "\n    calls[0].result()",
        "with HookPoolExecutor(2) as pool:\n    calls = [pool.submit(work, n) for n in range(8)]",
        "pool = HookPoolExecutor(2)\ncalls = [pool.submit(work, n) for n in range(8)]"
        "\ntime.sleep(60)",
    ],
    ids=["map-with", "map-bare", "submit-with", "end-of-with", "elsewhere"],
)
def test_ctrl_c_ends_the_program_at_once_with_one_traceback(program):
    with start(program) as running:
        err = told_after_ctrl_c(running)

        assert running.process.returncode != 0
        assert err.count("Traceback (most recent call last)") == 1


def told_after_ctrl_c(running):
    """What a program writes to standard error when it ends of Ctrl-C, with all its processes."""
    os.killpg(running.process.pid, signal.SIGINT)  # as the terminal does it
    _, err = running.process.communicate(timeout=SOON)
    assert "KeyboardInterrupt" in err.decode()
    wait_until(lambda: not marked_processes(running.mark), SOON)
    return err.decode()


def test_ctrl_c_while_the_program_waits_for_pending_work_at_its_end_ends_it_at_once():
    program = """
from hookpool import _driver
pool = HookPoolExecutor(2)
calls = [pool.submit(work, n) for n in range(8)]
join = _driver.Driver.join
def tell_and_join(driver):
    os.write(2, b"waits\\n")
    join(driver)
_driver.Driver.join = tell_and_join
"""
    with start(program) as running:
        assert running.process.stderr.readline() == b"waits\n"
        told_after_ctrl_c(running)


def test_ctrl_c_that_has_been_caught_does_not_cost_the_pending_work():
    program = """
pool = HookPoolExecutor(2)
started = [pool.submit(work, n) for n in range(2)]
try:
    time.sleep(60)
except KeyboardInterrupt:
    for future in started:
        future.add_done_callback(lambda future: os.write(1, b"done\\n"))
"""
    with start(program, "time.sleep(1)") as running:
        os.killpg(running.process.pid, signal.SIGINT)

        out, err = running.process.communicate(timeout=30)

    assert out == b"done\n" * 2, err.decode()
    assert running.process.returncode == 0


def test_ctrl_c_in_a_map_leaves_the_pool_usable():
    program = """
pool = HookPoolExecutor(2)
try:
    list(pool.map(work, range(8)))
except KeyboardInterrupt:
    print(pool.submit(abs, -42).result(timeout=20), flush=True)
pool.shutdown()
"""
    with start(program) as running:
        os.kill(running.process.pid, signal.SIGINT)

        out, err = running.process.communicate(timeout=30)

    assert out.decode().splitlines()[-1] == "42", err.decode()
    assert running.process.returncode == 0


def test_a_worker_does_not_die_of_an_interrupt_and_its_children_are_not_deaf_to_it():
    program = """
import signal, subprocess
pool = HookPoolExecutor(1)
pid = pool.submit(os.getpid).result()
os.kill(pid, signal.SIGINT)
assert pool.submit(os.getpid).result() == pid
ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
print(pool.submit(subprocess.check_output, [sys.executable, "-c", ask], text=True).result())
pool.shutdown()
"""
    out = subprocess.run(
        [sys.executable, "-c", BUSY.format(work="pass", program=program)],
        stdout=subprocess.PIPE,
        timeout=50,
        text=True,
        check=True,
    ).stdout

    assert out.strip() == "True"


@pytest.mark.parametrize(("where", "is_finished"), [("inside", True), ("around", False)])
def test_asyncio_makes_of_an_interrupt_a_cancellation_in_its_coroutine(
    where, is_finished, tmp_path
):
    """As limits.md says: a pool in there waits for what runs, one around it does not."""
    source = """
import asyncio, contextlib, os, signal, sys, time
from hookpool import HookPoolExecutor
where, finished, heard = sys.argv[1:]
owner = os.getpid()

def task():
    os.kill(owner, signal.SIGINT)
    while not os.path.exists(heard):  # the coroutine has heard of it
        time.sleep(0.01)
    time.sleep(1 if where == "inside" else 60)
    open(finished, "x")

async def main(pool):
    with HookPoolExecutor(1) if where == "inside" else contextlib.nullcontext(pool) as pool:
        try:
            await asyncio.get_running_loop().run_in_executor(pool, task)
        finally:
            open(heard, "x")

with contextlib.suppress(KeyboardInterrupt):
    if where == "inside":
        asyncio.run(main(None))
    else:
        with HookPoolExecutor(1) as pool:
            asyncio.run(main(pool))
"""
    finished = tmp_path / "finished"
    run_python("-c", source, where, str(finished), str(tmp_path / "heard"), timeout=30)
    assert finished.exists() == is_finished


@pytest.mark.parametrize("method", ["hookpool", "spawn", "fork"])
def test_what_tasks_start_is_deaf_to_an_interrupt_where_the_program_is(method):
    """A job in the background of a script ignores Ctrl-C, and so does all that it starts."""
    source = """
import signal, subprocess, sys
from hookpool import HookPoolExecutor
signal.signal(signal.SIGINT, signal.SIG_IGN)
ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
with HookPoolExecutor(1, sys.argv[1]) as pool:
    print(pool.submit(subprocess.check_output, [sys.executable, "-c", ask], text=True).result())
"""
    assert run_python("-c", source, method).strip() == "True"


def test_a_program_that_ends_when_its_pipe_is_closed_outlives_its_workers():
    """As command line tools are set up, for `tool | head`: SIGPIPE ends them without a word."""
    source = """
import os, signal
from hookpool import HookPoolExecutor
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def work(n):
    if n % 5 == 3: os._exit(1)
    return n
with HookPoolExecutor(2) as pool:
    futures = [pool.submit(work, n % 100) for n in range(1000)]
    print(sum(future.exception() is not None for future in futures))
"""
    assert int(run_python("-c", source)) >= 200  # and some whose results were lost with them
