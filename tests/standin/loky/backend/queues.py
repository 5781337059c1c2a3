"""A queue that a test derives a slow one from."""

from multiprocessing.queues import SimpleQueue

__all__ = ["SimpleQueue"]
