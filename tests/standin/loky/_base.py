"""loky's future is the standard library's, and so is ours."""

from concurrent.futures import Future

__all__ = ["Future"]
