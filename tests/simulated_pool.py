"""A pool without processes in a time of its own: how good are the scheduler's decisions?

`makespan` plays owner, channels and workers around a real `Scheduler`, with every cost a number,
and says when the last result is there; `list_schedule` says when it would be if deciding, sending
and reporting took no time.  Between the two lies nothing but what was decided, so that a bad
decision shows exactly and on any machine, with as many workers as one likes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from hookpool import _events as s
from hookpool._scheduler import Config, Scheduler
from hookpool._worker import FLUSH_SECONDS

#: Of a message, on a machine with cores to spare, in seconds.
LATENCY = 50e-6
#: What an event costs the owner, which takes one after the other.
DECISION = 20e-6


class _Worker:
    """As in the machine of the scheduler's test, with a clock."""

    def __init__(self, pool: _Simulation, number: int) -> None:
        self.pool = pool
        self.number = number
        #: What has arrived, and claims that nobody has won.
        self.inbox: deque[int] = deque()
        self.claims = 0
        self.is_busy = False
        #: Seconds of each task that has ended and was not reported; since when there are any.
        self.unsent: list[float] = []
        self.unsent_since = 0.0

    def receive(self, tasks: list[int]) -> None:
        self.inbox.extend(tasks)
        if not self.is_busy:
            self.start_next()

    def start_next(self) -> None:
        self.is_busy = False
        if not self.inbox:
            self.flush()
        elif not self.claims:
            self.flush()
            dropped = len(self.inbox)
            self.inbox.clear()
            self.pool.report(lambda: s.Dropped(self.number, dropped, self.pool.now))
        else:
            self.claims -= 1
            self.is_busy = True
            seconds = self.pool.durations[self.inbox.popleft()]
            self.pool.after(seconds, lambda: self.end_of_task(seconds))

    def end_of_task(self, seconds: float) -> None:
        if not self.unsent:
            self.unsent_since = self.pool.now - min(seconds, FLUSH_SECONDS)
            self.pool.after(FLUSH_SECONDS, self.flush_late)
        self.unsent.append(seconds)
        self.start_next()
        self.flush_late()

    def flush_late(self) -> None:
        if self.unsent and self.pool.now - self.unsent_since >= FLUSH_SECONDS * 0.999:
            self.flush()

    def flush(self) -> None:
        if self.unsent:
            unsent, self.unsent = self.unsent, []
            runs = ((len(unsent), int(sum(unsent) * 1e6)),)
            self.pool.report(lambda: s.Finished(self.number, runs, self.pool.now), len(unsent))


class _Simulation:
    def __init__(
        self, durations: Sequence[float], workers: int, claims: bool, latency: float
    ) -> None:
        self.durations = durations
        self.latency = latency
        self.now = 0.0
        self.left = len(durations)
        self.scheduler = Scheduler(Config(max_workers=workers, claims=claims))
        self.workers: dict[int, _Worker] = {}
        self.messages = 0
        #: Until when the owner is busy.
        self.busy_until = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._entries, what))

    def report(self, event: Callable[[], s.Event], results: int = 0) -> None:
        """A message to the owner, which has one event after the other."""
        self.messages += 1
        arrives = max(self.now + self.latency, self.busy_until)
        self.busy_until = arrives + DECISION

        def arrive() -> None:
            self.left -= results
            self.tell(event())

        self.after(self.busy_until - self.now, arrive)

    def tell(self, event: s.Event) -> None:
        for action in self.scheduler.handle(event):
            self.perform(action)

    def perform(self, action: s.Action) -> None:
        match action:
            case s.Launch(number):
                self.workers[number] = _Worker(self, number)
                self.report(lambda: s.WorkerReady(number, self.now))
            case s.Send(number, spans):
                self.messages += 1
                worker = self.workers[number]
                tasks = [task for span in spans for task in span.tasks()]
                worker.claims += len(tasks)
                self.after(self.latency, lambda: worker.receive(tasks))
            case s.TakeBack(number, tasks):
                won = min(tasks, self.workers[number].claims)
                self.workers[number].claims -= won
                self.tell(s.TookBack(number, won, self.now))
            case s.WakeAt(when):
                self.after(max(0.0, when - self.now), lambda: self.tell(s.Tick(self.now)))
            case _:
                raise AssertionError(action)

    def run(self) -> float:
        self.tell(s.Submitted(0, len(self.durations), 0, self.now))
        while self.left:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        return self.now


def makespan(
    durations: Sequence[float], workers: int, claims: bool = True, latency: float = LATENCY
) -> float:
    """When the last result is there, in seconds from the call of `map`.

    Args:
        durations: of the tasks, in order, in seconds.
        workers: how many there are.
        claims: without them each worker has one task at a time.
        latency: how long a message is on its way, and its receiver asleep, in seconds.
    """
    return _Simulation(durations, workers, claims, latency).run()


def list_schedule(durations: Sequence[float], workers: int) -> float:
    """The same if whoever is free had the next task at once."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
