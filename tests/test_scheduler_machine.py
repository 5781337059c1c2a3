"""The scheduler against a model of the world: random submissions, speeds, deaths and cancels.

`World` plays workers, claims and messages faithfully and is the referee: no task runs twice, none
is lost, and when the world behaves for long enough everything ends.
"""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hookpool import _events as s
from hookpool._scheduler import Config, Scheduler


class WorldWorker:
    """A worker as the scheduler cannot see it: with its claims, and results not sent yet."""

    def __init__(self):
        self.ready = False
        self.inbox = deque()
        self.claims = 0
        #: Claims taken and not used.
        self.tokens = 0
        self.running = None
        self.unsent = []
        self.dropped = 0
        self.retiring = False

    def step(self, ran):
        """Do the next thing the worker would do."""
        if not self.ready:
            self.ready = True
        elif self.running is not None:
            self.unsent.append(self.running)
            self.running = None
        elif self.inbox and (self.tokens or self.claims):
            if not self.tokens:  # several at once, as many as there happen to be
                self.tokens = min(self.claims, len(self.inbox), 1 + sum(self.inbox) % 3)
                self.claims -= self.tokens
            self.tokens -= 1
            self.running = self.inbox.popleft()
            ran[self.running] += 1
        elif self.inbox:
            self.dropped += len(self.inbox)
            self.inbox.clear()

    def put_back(self):
        """Put claims back that were not used."""
        self.claims += self.tokens
        self.tokens = 0

    def has_claimed(self, task):
        return task in list(self.inbox)[: self.tokens]


class World:
    """Carries the scheduler's actions out and tells it what came of them."""

    def __init__(self, config):
        self.scheduler = Scheduler(config)
        self.now = 0.0
        self.workers = {}
        self.told_ready = set()
        self.ran = Counter()
        self.ended = Counter()
        self.submitted = 0
        #: To take-backs: as from the driver, they come when all that was decided has been done.
        self.answers = deque()
        self.done = self.broken = False

    def tell(self, event):
        for action in self.scheduler.handle(event):
            self.perform(action)
        self.scheduler.check()
        while self.answers:
            self.tell(self.answers.popleft())

    def submit(self, task, group):
        """One task, by the shorter way if there is one for it."""
        worker = self.scheduler.give(task, group, self.now)
        self.scheduler.check()
        if worker < 0:
            self.tell(s.Submitted(task, task + 1, group, self.now))
        else:
            self.perform(s.Send(worker, (s.Span(task, task + 1, group),)))

    def finish(self, worker):
        """The same for the end of one task."""
        is_all = self.scheduler.finish(worker, 100, self.now)
        self.scheduler.check()
        if not is_all:
            self.tell(s.Finished(worker, ((1, 100),), self.now))

    def perform(self, action):
        match action:
            case s.Launch(worker):
                assert worker not in self.workers
                self.workers[worker] = WorldWorker()
            case s.Send(worker, spans):
                target = self.workers[worker]
                assert not target.retiring
                tasks = [task for span in spans for task in range(span.start, span.stop)]
                target.claims += len(tasks)
                target.inbox.extend(tasks)
            case s.TakeBack(worker, tasks):
                target = self.workers[worker]
                won = min(tasks, target.claims)
                target.claims -= won
                self.answers.append(s.TookBack(worker, won, self.now))
            case s.Retire(worker):
                self.workers[worker].retiring = True
            case s.Fail(span) | s.Cancel(span):
                for task in range(span.start, span.stop):
                    self.ended[task] += 1
                    assert not (isinstance(action, s.Cancel) and self.ran[task])
            case s.Break():
                self.broken = True
                for task in range(self.submitted):
                    self.ended[task] = self.ended[task] or 1
            case s.Done():
                assert not self.workers
                self.done = True
            case s.WakeAt(when):
                assert when >= self.now

    def flush(self, number):
        worker = self.workers[number]
        if worker.ready and number not in self.told_ready:
            self.told_ready.add(number)
            self.tell(s.WorkerReady(number, self.now))
        if worker.unsent:
            done, worker.unsent = worker.unsent, []
            if not self.broken:
                for task in done:
                    self.ended[task] += 1
            if len(done) == 1 and not self.broken:
                self.finish(number)
                done = []
            together = len(done) // 2  # reported as a run, the others one by one
            runs = ((together, 100 * together),) if together else ()
            runs += ((1, 100),) * (len(done) - together)
            if runs:
                self.tell(s.Finished(number, runs, self.now))
        if worker.dropped:
            dropped, worker.dropped = worker.dropped, 0
            self.tell(s.Dropped(number, dropped, self.now))
        if worker.retiring and not worker.inbox and worker.running is None:
            self.exit(number)

    def exit(self, number):
        worker = self.workers.pop(number)
        self.tell(
            s.WorkerExited(number, worker.claims + worker.tokens, self.now, worker.running is None)
        )

    def advance(self, seconds):
        self.now += seconds
        self.tell(s.Tick(self.now))


configs = st.builds(
    Config,
    max_workers=st.integers(1, 3),
    max_tasks_per_child=st.none() | st.integers(1, 4),
    idle_timeout=st.none() | st.just(5.0),
    claims=st.booleans(),
    break_on_death=st.booleans(),
    all_at_once=st.booleans(),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Everything that may happen to a pool, in any order."""

    @initialize(config=configs)
    def start(self, config):
        self.world = World(config)
        self.closed = False

    @rule(count=st.integers(1, 6), group=st.integers(0, 2), shortly=st.booleans())
    def submit(self, count, group, shortly):
        world = self.world
        first = world.submitted
        world.submitted += count
        if world.broken or world.done:
            for task in range(first, world.submitted):
                world.ended[task] += 1
            return
        if shortly:
            for task in range(first, first + count):
                world.submit(task, group)
        else:
            world.tell(s.Submitted(first, first + count, group, world.now))

    @rule()
    def a_task_is_expected(self):
        self.world.tell(s.Expected(self.world.now))

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def worker_steps(self, data):
        number = data.draw(st.sampled_from(sorted(self.world.workers)))
        self.world.workers[number].step(self.world.ran)

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def claims_are_put_back(self, data):
        number = data.draw(st.sampled_from(sorted(self.world.workers)))
        self.world.workers[number].put_back()

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def messages_arrive(self, data):
        self.world.flush(data.draw(st.sampled_from(sorted(self.world.workers))))

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def worker_dies(self, data):
        self.world.exit(data.draw(st.sampled_from(sorted(self.world.workers))))

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def initializer_fails(self, data):
        number = data.draw(st.sampled_from(sorted(self.world.workers)))
        if not self.world.workers[number].ready:
            self.world.tell(s.InitializerFailed(number))

    @precondition(lambda self: self.world.submitted)
    @rule(data=st.data())
    def cancel(self, data):
        world = self.world
        task = data.draw(st.integers(0, world.submitted - 1))
        if world.ended[task] or world.broken or world.done:
            return
        world.tell(s.CancelAsked(task, world.now))
        if not world.ended[task]:
            claimed = any(worker.has_claimed(task) for worker in world.workers.values())
            assert world.ran[task] or claimed or not world.scheduler.config.claims

    @precondition(lambda self: self.world.submitted)
    @rule(data=st.data())
    def abandon(self, data):
        world = self.world
        stop = data.draw(st.integers(1, world.submitted))
        tasks = range(data.draw(st.integers(0, stop - 1)), stop)
        before = sum(world.ran.values())
        world.tell(s.Abandoned(tasks.start, tasks.stop, world.now))
        assert sum(world.ran.values()) == before
        for task in tasks if world.scheduler.config.claims else ():
            claimed = any(worker.has_claimed(task) for worker in world.workers.values())
            assert world.ended[task] or world.ran[task] or claimed

    @rule(cancel=st.booleans())
    def shut_down(self, cancel):
        self.closed = True
        self.world.tell(s.ShutdownAsked(cancel, self.world.now))

    @rule(workers=st.integers(1, 4))
    def resize(self, workers):
        self.world.tell(s.Resized(workers, self.world.now))

    @rule(seconds=st.sampled_from([0.0005, 0.002, 6.0]))
    def time_passes(self, seconds):
        self.world.advance(seconds)

    @invariant()
    def nothing_runs_or_ends_twice(self):
        assert all(runs <= 1 for runs in self.world.ran.values())
        assert all(ends <= 1 for ends in self.world.ended.values())

    def teardown(self):
        """When the world behaves from here on, every task ends and so does the pool."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.tell(s.ShutdownAsked(False, world.now))
        for _ in range(40 * (world.submitted + 5)):
            if world.done:
                break
            for number in list(world.workers):
                if number in world.workers:
                    world.workers[number].step(world.ran)
                if number in world.workers and world.broken:
                    world.exit(number)
                elif number in world.workers:
                    world.flush(number)
            world.advance(0.1)  # so that what is waited for comes
        assert world.done
        assert all(world.ended[task] == 1 for task in range(world.submitted))
        self.nothing_runs_or_ends_twice()


TestScheduler = SchedulerMachine.TestCase
