"""Source archives of other projects, for their tests; downloaded once, into `build/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[1] / "build" / "agree"


class NotToBeHadError(Exception):
    """The archive is not in the cache and cannot be downloaded."""


def archive(name: str, version: str) -> Path:
    """The source archive of a release, from the package index."""
    path = CACHE / f"{name}-{version}.tar.gz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        command += [str(CACHE), "--no-binary", ":all:", f"{name}=={version}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        except subprocess.CalledProcessError as error:
            raise NotToBeHadError(error.stderr.strip().splitlines()[-1:]) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotToBeHadError(str(error)) from error
    return path
