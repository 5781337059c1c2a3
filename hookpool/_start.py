"""What a worker is told before its first task: its surroundings, and the user's initializer.

Owns how the initializer and its arguments travel: what is large in them as a closure's captured
arrays do, copied once into shared memory, which each worker maps for itself.  Knows neither the
pool nor how processes are started.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque

from hookpool import _nesting, _rebuild
from hookpool._buffers import THRESHOLD, Parcel, is_borrowed, loads
from hookpool._given import note_given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from hookpool._buffers import Exchange
    from hookpool._sharing import Sharing
    from hookpool.reduction import Table

# Libraries that start a thread per CPU unless told otherwise, by the variable each reads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class Start:
    """What a worker needs to know before its first task; travels as an argument of `Process`.

    Pickled as bytes in bytes: what does not unpickle then fails the initializer, with a message,
    and does not end the process in the middle of its start.  With fork nothing is pickled.
    """

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        environ: Mapping[str, str],
        threads: int | None,
        depth: int,
        lending: tuple[int | None, int] = (None, THRESHOLD),
        reducers: Table | None = None,
        sharing: Callable[[], Sharing] | None = None,
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs
        note_given(initargs)
        #: Variables to set, whatever they are now.
        self.environ = environ
        #: How many threads numeric libraries may use; their own variables win.  None: any number.
        self.threads = threads
        self.depth = depth
        #: See `_nesting`; known when the pool is used for the first time.
        self.users: tuple[str, ...] = ()
        #: The most shared memory to hold, and from which size data go there.
        self.lending = lending
        #: Of types in results.
        self.reducers = reducers
        #: Where what is large goes; None: into the pickle.
        self._sharing = sharing
        #: What the last worker had, if it was large: kept for the next ones, by all that `through`
        #: has made of this.
        self._latest: deque[Parcel] = deque(maxlen=1)
        #: What the one worker has that this is for.
        self._exchange: Exchange | None = None
        self._packed: bytes | Parcel | None = None
        #: In the worker: what has come; None where it was forked.
        self._arrived: bytes | None = None

    def through(self, exchange: Exchange) -> Start:
        """The same, for the worker at the other end."""
        # Not by `copy`, which would pickle it.
        one = Start.__new__(Start)
        vars(one).update(vars(self), _exchange=exchange)
        return one

    def pack(self) -> None:
        """Pickle what is the user's here and now, and not in the thread that starts workers.

        That one would wait for a module that is being imported, while who imports it waits for
        the workers. What travels only to a child that is being started is left to it.
        """
        with contextlib.suppress(Exception):  # of anything else it will say the same
            self._packed = self._dumped()

    def __reduce__(self) -> tuple[Any, ...]:
        data = self._packed if self._packed is not None else self._dumped()
        if isinstance(data, Parcel):
            data = self._lent(data)
        rest = dict(self.environ), self.threads, self.depth, self.lending
        return _start, (data, self.users, *rest)

    def _lent(self, parcel: Parcel) -> bytes:
        for latest in self._latest:
            if parcel.is_like(latest):
                parcel = latest
        self._latest.append(parcel)
        return parcel.inline() if self._exchange is None else self._exchange.lend(parcel)

    def _dumped(self) -> bytes | Parcel:
        # Late: it is the owner who sends.
        from hookpool._worker_pickler import start_gathered, worker_dumps

        parts = {
            "the initializer": self.initializer,
            "initargs": self.initargs,
            "result_reducers": self.reducers,
        }
        what = tuple(parts.values())
        if self._sharing is None:
            return worker_dumps(what, parts=parts)
        return start_gathered(what, parts, self._sharing())

    def prepare(self, exchange: Exchange) -> None:
        """Set the process up and run the initializer; raises what it raises.

        What has travelled is not kept: how long its arguments live is for the initializer to say.

        Args:
            exchange: through which it came.
        """
        _nesting.enter(self.depth, self.users)
        os.environ.update(self.environ)
        if self.threads is not None:
            for name in THREAD_VARIABLES:
                os.environ.setdefault(name, str(self.threads))
        if self._arrived is None:
            self._initialize_forked()
            return
        initializer, initargs = self._unpacked(self._arrived, exchange)
        self._arrived = None
        if initializer is not None:
            initializer(*initargs)

    def _initialize_forked(self) -> None:
        """Run the initializer where it need not travel, as with the owner's main module.

        Elsewhere its globals come with it, and what it makes of them stays until the owner makes
        something else of them.  So here it is noted what they were: those that it binds anew, and
        those that it may have put something into.
        """
        if self.initializer is None:
            return
        from hookpool._worker_pickler import is_small, stamps_of

        main = vars(sys.modules["__main__"])
        before = dict(main)
        _rebuild.note_inherited(stamps_of({n: v for n, v in before.items() if is_small(v)}))
        self.initializer(*self.initargs)
        bound = {name: value for name, value in before.items() if main.get(name) is not value}
        _rebuild.note_inherited(stamps_of(bound))

    def _unpacked(
        self, arrived: bytes, exchange: Exchange
    ) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
        data = exchange.borrow(arrived) if is_borrowed(arrived) else arrived
        initializer, initargs, self.reducers = loads(data)
        return initializer, initargs


def _start(arrived: bytes, users: tuple[str, ...], *rest: Any) -> Start:
    start = Start(None, (), *rest)
    start._arrived, start.users = arrived, users
    return start
