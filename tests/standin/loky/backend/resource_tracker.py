"""The helpers of loky's tests import it; what they do with it is not run here."""

from multiprocessing.resource_tracker import _CLEANUP_FUNCS

__all__ = ["_CLEANUP_FUNCS"]
