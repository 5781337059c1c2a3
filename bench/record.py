"""The file one run leaves behind: raw samples and everything needed to judge them later."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.stats import Rounds

HISTORY = Path(__file__).parent / "history"
FORMAT = 1

Record = dict[str, Any]


def begin(name: str, packages: Iterable[str]) -> Record:
    """A record with everything but blocks."""
    return {
        "format": FORMAT,
        "name": name,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "--short=10", "HEAD") or "uncommitted",
        "dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "versions": {package: _version(package) for package in sorted(set(packages))},
        "load_before": load(),
        "cases": {},
        "blocks": [],
    }


def save(record: Record, folder: Path = HISTORY) -> Path:
    """Write the record under a name that sorts by time."""
    record["load_after"] = load()
    folder.mkdir(parents=True, exist_ok=True)
    stamp = record["when"].replace("-", "").replace(":", "").removesuffix("Z")
    path = folder / f"{stamp}-{record['commit']}-{record['name']}.json"
    head = {key: value for key, value in record.items() if key != "blocks"}
    # One line per block: readable differences in git, and no line of half a megabyte.
    blocks = ",\n".join(json.dumps(block, separators=(",", ":")) for block in record["blocks"])
    path.write_text(json.dumps(head, indent=1)[:-2] + ',\n "blocks": [\n' + blocks + "\n]}\n")
    return path


def read(path: str | Path) -> Record:
    record: Record = json.loads(Path(path).read_text())
    if record.get("format") != FORMAT:
        raise SystemExit(f"{path}: format {record.get('format')!r}, this program reads {FORMAT}")
    return record


def newest(folder: Path = HISTORY) -> list[Path]:
    """All records, oldest first."""
    return sorted(folder.glob("*.json"))


def samples_of(record: Record, case: str, subject: str) -> Rounds:
    return {
        block["round"]: block["samples"]
        for block in record["blocks"]
        if block["case"] == case and block["subject"] == subject and block["status"] == "ok"
    }


def subjects_of(record: Record, case: str) -> list[str]:
    """In the order in which they were first measured."""
    return list(
        dict.fromkeys(block["subject"] for block in record["blocks"] if block["case"] == case)
    )


def remarks_on(record: Record, case: str, subject: str) -> list[str]:
    """What has to be said next to a number, or in place of one."""
    remarks: dict[str, None] = {}
    for block in record["blocks"]:
        if block["case"] == case and block["subject"] == subject:
            if block["status"] != "ok":
                remarks[block["why"]] = None
            remarks.update(dict.fromkeys(block.get("notes", ())))
    return list(remarks)


def load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cores() -> int | None:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
