"""What connects a worker with its owner, on its way to the worker.

Owns how descriptors travel with a process that is being started.  Knows nothing of what is said.
"""

from __future__ import annotations

import os

from hookpool._claims import Claims, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Link:
    """The worker's ends of its channel and of its claims; travels as an argument of `Process`."""

    __slots__ = ("board", "claims", "inn", "out", "rights", "slot")

    def __init__(
        self,
        inn: int,
        out: int,
        claims: int | None = None,
        board: int | None = None,
        slot: int = -1,
        rights: int | None = None,
    ) -> None:
        #: Where tasks come from, and where results go.
        self.inn = inn
        self.out = out
        #: The pipe with the tokens; None: there is one task at a time.
        self.claims = claims
        #: What to map to say what is started, and the place there.
        self.board = board
        self.slot = slot
        #: A socket on which descriptors of shared memory travel; None where there are none.
        self.rights = rights

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while a process is started: DupFd asks the start method how descriptors travel.
        from multiprocessing.reduction import DupFd

        fds = (self.inn, self.out, self.claims, self.board, self.rights)
        return _link, (self.slot, *[None if fd is None else DupFd(fd) for fd in fds])

    def take_claims(self) -> Claims:
        """The worker's side of its claims."""
        if self.board is None:
            return Claims(self.claims)
        try:
            return Claims(self.claims, words_of(self.board, self.slot))
        finally:
            os.close(self.board)


def _link(slot: int, *fds: Any) -> Link:
    inn, out, *others = fds
    claims, board, rights = (None if fd is None else fd.detach() for fd in others)
    return Link(inn.detach(), out.detach(), claims, board, slot, rights)
