"""Joblib's own resource tracker: a process that lives as long as who started it."""

from __future__ import annotations

import os

from joblib.externals.loky.backend import resource_tracker


def stop_tracker() -> None:
    """End it; the next that is needed starts by itself."""
    tracker = resource_tracker._resource_tracker
    if tracker._fd is None:
        return
    if hasattr(tracker, "_stop"):
        tracker._stop()
    else:  # before joblib 1.5
        os.close(tracker._fd)
        os.waitpid(tracker._pid, 0)
        tracker._fd = tracker._pid = None
