"""A program, not a test: run a source file as one cell of a real notebook kernel, or a notebook.

`python notebook.py SOURCE SECONDS` prints what the cells print. A process of its own, because a
kernel's client brings sockets and threads along that the leak check of the tests would rightly
complain about.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file


def main(cells: list[str], timeout: float) -> int:
    with tempfile.TemporaryDirectory(prefix="hookpool-kernel-") as folder:
        connection = str(Path(folder, "kernel.json"))
        write_connection_file(connection, transport="ipc", ip=str(Path(folder, "socket")))
        kernel = _start_kernel(connection, folder)
        threading.Thread(target=_die_with, args=(kernel,), daemon=True).start()
        client = BlockingKernelClient(connection_file=connection)
        client.load_connection_file()
        client.start_channels(hb=False)  # a busy machine misses beats, and a client then gives up
        try:
            _wait_until_heard(client, timeout)
            ok = all(_runs(client, cell, timeout) for cell in cells)
        finally:
            sys.stdout.flush()
            _expect_exit.set()
            client.shutdown()
            _wait_or_kill(kernel)
            client.stop_channels()
    return 0 if ok else 1


def cells_of(path: Path) -> list[str]:
    """A source file is one cell; of a notebook, those with code."""
    text = path.read_text()
    if path.suffix != ".ipynb":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _runs(client: BlockingKernelClient, cell: str, timeout: float) -> bool:
    reply = client.execute_interactive(cell, timeout=timeout, output_hook=_show, allow_stdin=False)
    return bool(reply["content"]["status"] == "ok")


def _start_kernel(connection: str, folder: str) -> subprocess.Popen[bytes]:
    places = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "HOME"), folder)
    return subprocess.Popen(
        [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", connection],
        env=os.environ | places | {"JPY_PARENT_PID": str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # its own chatter; what a cell prints comes over the channel
    )


def _wait_until_heard(client: BlockingKernelClient, timeout: float) -> None:
    """Until what the kernel publishes arrives: what it published before that is lost."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        client.kernel_info()
        try:
            client.get_iopub_msg(timeout=0.5)
        except queue.Empty:
            continue
        return
    sys.exit(f"nothing heard of the kernel within {timeout} s")


def _wait_or_kill(kernel: subprocess.Popen[bytes]) -> None:
    """As Jupyter does, only less patient.

    A kernel that shuts down kills its children and then waits up to half a minute for them to
    vanish; but it never reaps them, so multiprocessing's resource tracker alone, of any library,
    has it wait that long.
    """
    try:
        kernel.wait(0.5)
    except subprocess.TimeoutExpired:
        kernel.kill()
        kernel.wait()


_expect_exit = threading.Event()


def _die_with(kernel: subprocess.Popen[bytes]) -> None:
    """A client would wait for the answer of a dead kernel until its timeout."""
    code = kernel.wait()
    if not _expect_exit.is_set():
        print(f"the kernel ended by itself, exit {code}", file=sys.stderr, flush=True)
        os._exit(3)


def _show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", file=getattr(sys, content["name"]), flush=True)
    elif message["msg_type"] == "execute_result":
        print(content["data"]["text/plain"], flush=True)
    elif message["msg_type"] == "error":
        print("\n".join(content["traceback"]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the client's, about event loops; not ours to judge
    sys.exit(main(cells_of(Path(sys.argv[1])), float(sys.argv[2])))
