"""The pool's decisions, one by one: events in, actions out, no process anywhere."""

from __future__ import annotations

import pytest

from hookpool._events import (
    Abandoned,
    Break,
    Cancel,
    CancelAsked,
    Done,
    Dropped,
    Expected,
    Fail,
    Finished,
    InitializerFailed,
    Launch,
    Resized,
    Retire,
    Send,
    ShutdownAsked,
    Span,
    Submitted,
    TakeBack,
    TerminateAsked,
    Tick,
    TookBack,
    WakeAt,
    Why,
    WorkerExited,
    WorkerReady,
)
from hookpool._scheduler import (
    AHEAD_SECONDS,
    DEATHS,
    LINGER_SECONDS,
    MOST_AHEAD,
    MOST_GROUPS,
    MOST_HELD,
    MOST_PAUSES,
    START_PAUSE,
    START_TRIES,
    STEAL_SECONDS,
    Config,
    Pool,
    Scheduler,
)


class Desk:
    """A scheduler with a clock one can turn, that checks the invariants after every event."""

    def __init__(self, **config):
        self.scheduler = Scheduler(Config(**{"max_workers": 2, **config}))
        self.now = 0.0
        self.submitted = 0

    def __call__(self, event):
        actions = self.scheduler.handle(event)
        self.scheduler.check()
        return actions

    def submit(self, count=1, group=0):
        first, self.submitted = self.submitted, self.submitted + count
        return self(Submitted(first, self.submitted, group, self.now))

    def ready(self, *workers):
        return [action for w in workers for action in self(WorkerReady(w, self.now))]

    def finish(self, worker, count=1, micros=100):
        return self(Finished(worker, ((1, micros),) * count, self.now))

    def exit(self, worker, unstarted=0, finished=False, killed=False):
        return self(WorkerExited(worker, unstarted, self.now, finished, killed))


def two_idle_workers(**config):
    desk = Desk(**config)
    desk.submit(2)
    desk.ready(0, 1)
    desk.finish(1)
    desk.finish(0)
    return desk


def test_a_task_without_a_worker_launches_one():
    assert Desk().submit() == [Launch(0)]


def test_no_more_workers_are_launched_than_there_are_tasks():
    desk = Desk(max_workers=8)

    assert desk.submit(3) == [Launch(0), Launch(1), Launch(2)]
    assert desk.submit() == [Launch(3)]


def test_no_more_workers_are_launched_than_allowed():
    assert Desk().submit(100) == [Launch(0), Launch(1)]


def test_all_workers_are_launched_at_once_when_asked():
    assert Desk(all_at_once=True)(Tick(0.0)) == [Launch(0), Launch(1)]


def test_a_ready_worker_is_sent_the_oldest_task():
    desk = Desk()
    desk.submit(2)

    assert desk.ready(0) == [Send(0, (Span(0, 1, 0),))]


def test_an_expected_task_launches_a_worker_when_none_is_idle():
    desk = Desk()

    assert desk(Expected(0.0)) == [Launch(0)]
    assert desk.submit() == []
    assert desk.ready(0) == [Send(0, (Span(0, 1, 0),))]
    assert desk(Expected(0.0)) == [Launch(1)]
    assert desk(Expected(0.0)) == []


def test_an_expected_task_launches_nothing_when_a_worker_is_idle():
    desk = Desk()
    desk.submit()
    desk.ready(0)
    desk.finish(0)

    assert desk(Expected(0.0)) == []


def test_an_idle_worker_is_sent_a_task_at_once_the_last_one_busy_first():
    assert two_idle_workers().submit() == [Send(0, (Span(2, 3, 0),))]


def test_two_tasks_go_to_two_idle_workers():
    assert two_idle_workers().submit(2) == [
        Send(0, (Span(2, 3, 0),)),
        Send(1, (Span(3, 4, 0),)),
    ]


def test_of_a_function_never_measured_a_worker_holds_one_and_one_ahead():
    desk = two_idle_workers()

    sent = [a for a in desk.submit(50, group=7) if isinstance(a, Send)]

    assert [s.stop - s.start for a in sent for s in a.spans] == [1, 1, 1, 1]


def test_nothing_waits_behind_a_task_never_measured_while_a_worker_starts():
    """Of [long, long, short, ...] the second waited, while all the short ones ran elsewhere."""
    desk = Desk()
    desk.submit(4)

    assert desk.ready(0) == [Send(0, (Span(0, 1, 0),))]
    assert desk.ready(1)[0] == Send(1, (Span(1, 2, 0),))


def test_tasks_measured_short_travel_in_messages_worth_the_time_ahead():
    desk = two_idle_workers(max_workers=2)

    sent = desk.submit(1000)  # of group 0, measured at 100 us

    [span] = sent[0].spans
    assert AHEAD_SECONDS / 1e-4 <= span.stop - span.start <= AHEAD_SECONDS / 1e-4 + 1


def test_tasks_of_no_measurable_length_travel_in_bounded_messages():
    desk = Desk()
    desk.submit(2)
    desk.ready(0, 1)
    desk.finish(1, micros=0)
    desk.finish(0, micros=0)

    first = desk.submit(10 * MOST_AHEAD)[0]

    assert first == Send(0, (Span(2, 2 + MOST_AHEAD, 0),))


def test_long_tasks_are_not_heaped_on_one_worker():
    desk = Desk()
    desk.submit(2)
    desk.ready(0, 1)
    desk.finish(1, micros=3_000_000)
    desk.finish(0, micros=3_000_000)

    sent = [a for a in desk.submit(10) if isinstance(a, Send)]

    assert [a.worker for a in sent] == [0, 1, 0, 1]


def test_without_claims_a_worker_holds_one_task():
    desk = two_idle_workers(claims=False)

    assert desk.submit(10) == [Send(0, (Span(2, 3, 0),)), Send(1, (Span(3, 4, 0),))]
    assert desk.finish(1) == [Send(1, (Span(4, 5, 0),))]


def test_groups_do_not_share_an_estimate_or_a_message():
    desk = two_idle_workers(max_workers=2)
    desk.submit(1, group=1)
    sent = desk.submit(100, group=0)

    assert all(len({span.group for span in action.spans}) == 1 for action in sent)


def test_an_idle_worker_gets_what_waits_behind_a_long_task():
    desk = two_idle_workers()
    desk.submit(4, group=9)  # one and one ahead, for each
    desk.now = 1.0

    assert desk.finish(0, 2) == [TakeBack(1, 1)]
    assert desk(TookBack(1, 1, 1.0)) == [Send(0, (Span(5, 6, 9),))]


def test_of_several_that_wait_behind_a_long_task_none_is_left_there():
    """Half is taken back at a time, also from a worker that has yet to drop the half before."""
    desk = two_idle_workers(max_workers=2)
    desk.submit(8)  # four for each: they are known to be short
    desk.now = 1.0

    assert desk.finish(0, 4) == [TakeBack(1, 2)]
    assert desk(TookBack(1, 2, desk.now)) == [Send(0, (Span(8, 10, 0),))]
    desk.now = 2.0
    assert desk.finish(0, 2) == [TakeBack(1, 1)]
    assert desk(TookBack(1, 1, desk.now)) == [Send(0, (Span(7, 8, 0),))]


def test_one_with_more_than_was_thought_is_asked_at_once_though_it_reports_all_the_time():
    desk = two_idle_workers()
    desk.submit(2, group=9)
    desk.finish(0, micros=1)
    desk.finish(1, micros=1)
    desk.submit(200, group=9)  # a hundred for each, thought to be tiny
    busy = desk.scheduler.holder(103)
    held = desk.scheduler._workers[busy].held
    for _ in range(20):  # every 0.9 ms one of them ends
        desk.now += 0.0009
        desk.finish(busy, 1, micros=900)

    assert desk.finish(1 - busy, 100) == [TakeBack(busy, (held - 20) // 2)]


def test_one_long_task_among_tiny_ones_does_not_have_the_next_ones_sent_one_by_one():
    desk = two_idle_workers()  # tasks of 100 us
    desk.submit(1)
    desk.finish(0, micros=200_000)

    [sent, *_] = desk.submit(1000)

    [span] = sent.spans
    assert span.stop - span.start > 4


def test_what_may_start_any_moment_is_not_taken_back():
    desk = two_idle_workers()
    desk.submit(4, group=9)

    assert desk.finish(0, 2) == [WakeAt(STEAL_SECONDS)]


def test_all_behind_a_long_task_is_taken_back_in_the_end():
    """The long one may wait for the one right behind it."""
    desk = two_idle_workers()
    desk.submit(2, group=9)
    desk.finish(0, micros=1)
    desk.finish(1, micros=1)
    desk.submit(100, group=9)
    other, held = desk.scheduler.holder(4), 0
    stuck = 1 - other
    rounds = 0
    while desk.scheduler._workers[stuck].held > 1:
        rounds += 1
        assert rounds < 20
        desk.now += 1.0
        done = desk.scheduler._workers[other].held
        actions = desk.finish(other, done) if done else desk(Tick(desk.now))
        for action in actions:
            if isinstance(action, TakeBack):
                held = desk.scheduler._workers[stuck].held
                desk(TookBack(stuck, action.tasks, desk.now))
                assert desk.scheduler._workers[stuck].held < held


def shares(actions):
    """How many tasks each worker is sent."""
    sends = [action for action in actions if isinstance(action, Send)]
    return {send.worker: sum(len(span.tasks()) for span in send.spans) for send in sends}


def test_for_less_work_than_it_costs_to_wake_it_no_second_worker_is_woken():
    desk = two_idle_workers()  # whose tasks took 100 us each
    assert sorted(shares(desk.submit(4)).values()) == [2, 2]
    for worker in (0, 1):
        desk.finish(worker, 2, micros=1)
    for _ in range(20):  # until that is believed
        [worker] = shares(desk.submit(1))
        desk.finish(worker, micros=1)

    assert list(shares(desk.submit(20)).values()) == [20]


def test_what_is_taken_back_is_shared_out_however_short_it_was_thought_to_be():
    desk = Desk(max_workers=4)
    desk.submit(4)
    desk.ready(0, 1, 2, 3)
    for worker in (0, 1, 2, 3):
        desk.finish(worker, micros=1)
    *sends, wake = desk.submit(8)
    [stuck] = shares(sends)
    desk.now = wake.when
    assert desk(Tick(desk.now)) == [TakeBack(stuck, 4)]

    spread = shares(desk(TookBack(stuck, 4, desk.now)))

    assert sorted(spread.values()) == [1, 1, 2]
    for worker, count in spread.items():
        desk.finish(worker, count, micros=1)
    assert list(shares(desk.submit(3)).values()) == [3]  # what comes later is not concerned


def test_one_that_nothing_can_be_won_from_does_not_keep_the_others_from_being_asked():
    desk = Desk(max_workers=3)
    desk.submit(3)
    desk.ready(0, 1, 2)
    for worker in (0, 1, 2):
        desk.finish(worker, micros=10)
    desk.submit(30, group=0)
    idle, *stuck = (0, 1, 2)
    assert all(desk.scheduler._workers[worker].held > 1 for worker in stuck)
    desk.finish(idle, desk.scheduler._workers[idle].held)
    asked = set()
    for _ in range(200):
        desk.now += 0.001
        actions = desk(Tick(desk.now))
        while actions:
            action = actions.pop()
            if isinstance(action, TakeBack):
                asked.add(action.worker)
                actions += desk(TookBack(action.worker, 0, desk.now))

    assert asked == set(stuck)


def test_what_waits_behind_a_long_task_has_a_worker_started_for_it():
    desk = Desk(max_workers=2)
    desk.submit(1)
    desk.ready(0)
    desk.finish(0, micros=1)
    desk.submit(2)  # both to the one there is: they are known to be tiny
    desk.now = 1.0

    assert TakeBack(0, 1) in desk(Tick(desk.now))
    assert Launch(1) in desk(TookBack(0, 1, desk.now))


def test_tries_in_vain_become_rare():
    desk = two_idle_workers()
    desk.submit(4, group=9)
    desk.now = 1.0
    desk.finish(0, 2)
    tries = 0
    for _ in range(1000):  # a second, in which nothing is ever won
        desk.now += 0.001
        for action in desk(Tick(desk.now)):
            if isinstance(action, TakeBack):
                tries += 1
                desk(TookBack(1, 0, desk.now))

    assert 5 <= tries <= 20


def test_no_worker_holds_more_than_there_is_room_for():
    desk = two_idle_workers(max_workers=2)
    desk.submit(1, group=9)
    desk.finish(0, 1, micros=0)  # takes no time at all
    desk.submit(2, group=9)
    desk.submit(50_000, group=9)
    for _ in range(100):
        desk(Tick(0.0))

    held = [worker.held for worker in desk.scheduler._workers.values()]

    assert max(held) == MOST_HELD


def test_a_worker_that_lost_tasks_is_sent_nothing_until_it_has_dropped_them():
    desk = two_idle_workers(max_workers=2)
    desk.submit(4, group=9)
    desk.now = 1.0
    desk.finish(0, 2)
    desk(TookBack(1, 1, 1.0))

    assert all(a.worker != 1 for a in desk.submit(20, group=9) if isinstance(a, Send))
    assert any(
        a.worker == 1 for a in desk.finish(1) + desk(Dropped(1, 1, 1.0)) if isinstance(a, Send)
    )


def test_a_queued_task_is_cancelled_at_once():
    desk = Desk()
    desk.submit(3)

    assert desk(CancelAsked(1, 0.0)) == [Cancel(Span(1, 2, 0))]
    assert desk.ready(0) == [Send(0, (Span(0, 1, 0),))]
    assert desk.ready(1) == [Send(1, (Span(2, 3, 0),))]


def test_a_sent_task_is_cancelled_only_if_its_claim_is_won():
    desk = two_idle_workers(max_workers=2)
    desk.submit(4, group=9)  # 2 and 4 to worker 0, 3 and 5 to worker 1

    assert desk(CancelAsked(4, 0.0)) == [TakeBack(0, 1)]
    assert desk(TookBack(0, 1, 0.0))[0] == Cancel(Span(4, 5, 9))
    assert desk(CancelAsked(5, 0.0)) == [TakeBack(1, 1)]
    assert Cancel(Span(5, 6, 9)) not in desk(TookBack(1, 0, 0.0))


def test_abandoned_tasks_are_cancelled_in_the_queue_all_at_once():
    desk = Desk()
    desk.submit(10)
    desk.submit(10, group=9)
    desk(CancelAsked(6, 0.0))

    assert desk(Abandoned(4, 13, 0.0)) == [
        Cancel(Span(4, 6, 0)),
        Cancel(Span(7, 10, 0)),
        Cancel(Span(10, 13, 9)),
    ]
    assert desk(Abandoned(4, 13, 0.0)) == []
    sent = [span for action in desk.ready(0, 1) for span in action.spans]
    assert sorted(task for span in sent for task in span.tasks()) == [0, 1, 2, 3]


def test_abandoned_tasks_are_taken_back_with_what_is_behind_them_which_goes_elsewhere():
    desk = two_idle_workers(max_workers=2)
    desk.submit(6, group=9)  # 2 and 4 to worker 0, 3 and 5 to worker 1; 6 and 7 wait

    assert desk(Abandoned(3, 5, 0.0)) == [TakeBack(0, 1), TakeBack(1, 2)]
    # Worker 1 is not sent what waits before its answer is known: that would be taken for its tail.
    assert desk(TookBack(0, 1, 0.0)) == [Cancel(Span(4, 5, 9))]
    assert desk(TookBack(1, 1, 0.0)) == []
    assert [a for a in desk.finish(1) if isinstance(a, Send)] == []
    [send] = desk(Dropped(0, 1, 0.0))
    assert send.worker == 0
    assert send.spans[0] == Span(5, 6, 9)


def test_what_is_abandoned_in_a_pool_that_has_ended_is_nobody_s():
    desk = Desk()
    desk.submit(2)
    desk(TerminateAsked())

    assert desk(Abandoned(0, 2, 0.0)) == []


def test_the_task_a_worker_died_in_fails_and_what_it_had_not_claimed_goes_elsewhere():
    desk = two_idle_workers(max_workers=2)
    desk.submit(4, group=9)

    actions = desk.exit(0, unstarted=1)

    assert Fail(Span(2, 3, 9), 0, Why.DIED) in actions
    assert Launch(2) in actions
    assert desk.ready(2) == [Send(2, (Span(4, 5, 9),))]


def test_tasks_finished_but_not_heard_of_are_lost_and_not_run_again():
    desk = two_idle_workers()
    desk.submit(40)
    held = desk.scheduler._workers[0].held

    actions = desk.exit(0, unstarted=held - 3)

    assert Fail(Span(2, 4, 0), 0, Why.LOST) in actions
    assert Fail(Span(4, 5, 0), 0, Why.DIED) in actions


def test_a_worker_that_dies_between_two_tasks_ran_none_of_them():
    desk = two_idle_workers()
    desk.submit(40)
    held = desk.scheduler._workers[0].held

    actions = desk.exit(0, unstarted=held - 3, finished=True)

    assert [a for a in actions if isinstance(a, Fail)] == [Fail(Span(2, 5, 0), 0, Why.LOST)]


def test_a_thousand_deaths_in_tasks_do_not_break_the_pool():
    desk = Desk(max_workers=1)
    for worker in range(1000):
        desk.submit()
        desk.ready(worker)
        assert any(isinstance(a, Fail) for a in desk.exit(worker))

    assert desk.scheduler.state is Pool.OPEN


@pytest.mark.parametrize("break_on_death", [False, True])
@pytest.mark.parametrize("unstarted", [0, 1])
def test_workers_that_the_owner_killed_do_not_break_the_pool(break_on_death, unstarted):
    """As Ctrl-C does in a map, items of it started or just claimed, and a limit of time."""
    desk = Desk(max_workers=1, break_on_death=break_on_death)
    for worker in range(3 * DEATHS):
        desk.submit()
        desk.ready(worker)
        desk.exit(worker, unstarted=unstarted, killed=True)

    assert desk.scheduler.state is Pool.OPEN


def test_deaths_outside_any_task_in_short_order_break_the_pool():
    desk = Desk(max_workers=1)
    for worker in range(DEATHS - 1):
        desk.submit()
        desk.ready(worker)
        desk.finish(worker)
        desk.exit(worker)
    desk.submit()
    desk.ready(DEATHS - 1)
    desk.finish(DEATHS - 1)

    assert desk.exit(DEATHS - 1) == [Break(Why.TOO_MANY_DEATHS, DEATHS - 1, DEATHS), Done()]


def test_deaths_outside_any_task_far_apart_do_not():
    desk = Desk(max_workers=1)
    for worker in range(3 * DEATHS):
        desk.now += 3.0
        desk.submit()
        desk.ready(worker)
        desk.finish(worker)
        assert desk.exit(worker) == []


def try_again(desk, actions):
    """What there is to do when the scheduler wants to be woken."""
    [wake] = actions
    assert wake.when > desk.now
    desk.now = wake.when
    return desk(Tick(desk.now))


def test_workers_that_never_become_ready_break_the_pool():
    desk = Desk(max_workers=1)
    desk.submit()
    for worker in range(START_TRIES - 1):
        assert try_again(desk, desk.exit(worker)) == [Launch(worker + 1)]

    last = desk.exit(START_TRIES - 1)

    assert last == [Break(Why.CANNOT_START, START_TRIES - 1, START_TRIES), Done()]


def test_workers_that_were_launched_together_count_as_one_try():
    desk = Desk(max_workers=5)
    desk.submit(5)
    for worker in range(4):
        assert all(isinstance(action, WakeAt) for action in desk.exit(worker))

    assert try_again(desk, desk.exit(4)) == [Launch(number) for number in range(5, 10)]


def test_while_a_worker_works_others_that_cannot_be_started_are_tried_less_and_less_often():
    desk = Desk(max_workers=2)
    desk.submit(3)
    desk.ready(0)  # has one, and soon another
    waits = []
    for worker in range(1, 12):
        wakes = [action for action in desk.exit(worker) if type(action) is WakeAt]
        waits.append(wakes[0].when - desk.now)
        assert try_again(desk, wakes) == [Launch(worker + 1)]

    assert waits == pytest.approx([START_PAUSE * 2 ** min(n, MOST_PAUSES) for n in range(11)])
    assert desk.ready(12) == [Send(12, (Span(2, 3, 0),))]


def test_workers_that_take_long_to_leave_are_not_joined_by_ever_more():
    desk = Desk(max_workers=1, max_tasks_per_child=1)
    desk.submit(4)
    desk.ready(0)
    assert desk.finish(0) == [Retire(0), Launch(1)]
    desk.ready(1)

    retire, wake = desk.finish(1)

    assert (retire, wake) == (Retire(1), WakeAt(desk.now + LINGER_SECONDS))
    assert desk(Tick(desk.now)) == [wake]
    assert try_again(desk, [wake]) == [Launch(2)]
    desk.ready(2)
    assert desk.finish(2) == [Retire(2), WakeAt(desk.now + LINGER_SECONDS)]
    assert desk.exit(0) == [WakeAt(desk.now + LINGER_SECONDS)]
    assert desk.exit(1) == [Launch(3)]


def test_an_initializer_that_raises_breaks_the_pool():
    desk = Desk(max_workers=1)
    desk.submit()

    assert desk(InitializerFailed(0)) == [Break(Why.INITIALIZER, 0, 1)]
    assert desk.exit(0) == [Done()]


def test_any_death_breaks_a_pool_that_was_told_so():
    desk = Desk(max_workers=1, break_on_death=True)
    desk.submit()
    desk.ready(0)

    assert Break(Why.WORKER_DIED, 0, 1) in desk.exit(0)


def test_a_worker_retires_after_its_share_of_tasks_and_another_takes_its_place():
    desk = Desk(max_workers=1, max_tasks_per_child=2)
    desk.submit(3)
    assert desk.ready(0) == [Send(0, (Span(0, 1, 0),)), Send(0, (Span(1, 2, 0),))]

    assert desk.finish(0, 2) == [Retire(0), Launch(1)]
    assert desk.exit(0) == []
    assert desk.ready(1) == [Send(1, (Span(2, 3, 0),))]


def test_idle_workers_leave_after_the_timeout():
    desk = two_idle_workers(idle_timeout=10.0)

    assert desk(Tick(9.0)) == [WakeAt(10.0), WakeAt(10.0)]
    assert desk(Tick(10.0)) == [Retire(1), Retire(0)]
    assert desk.submit() == [Launch(2)]


def test_a_smaller_pool_lets_idle_workers_go():
    assert two_idle_workers()(Resized(1, 0.0)) == [Retire(1)]


def test_a_smaller_pool_lets_busy_workers_go_when_they_have_done_what_they_hold():
    desk = Desk(max_workers=3)
    desk.submit(3)
    desk.ready(0, 1, 2)
    desk.submit(20)
    given = {number: desk.scheduler._workers[number].held for number in range(3)}
    assert min(given.values()) == 2

    assert desk(Resized(1, 0.0)) == [Retire(2), Retire(1)]
    for number in (1, 2):
        assert not [one for one in desk.finish(number, given[number]) if type(one) is Send]
    assert [type(one) for one in desk.finish(0)] == [Send]


def test_workers_that_retire_take_nobodys_place():
    desk = Desk(max_workers=3, max_tasks_per_child=1)
    desk.submit(3)
    desk.ready(0, 1, 2)
    for number in range(3):
        assert desk.finish(number) == [Retire(number)]

    assert [desk.submit() for _ in range(4)] == [[Launch(3)], [Launch(4)], [Launch(5)], []]


def test_a_larger_pool_launches_workers_for_what_waits():
    desk = Desk(max_workers=1)
    desk.submit(5)

    assert desk(Resized(3, 0.0)) == [Launch(1), Launch(2)]


def test_shutdown_lets_pending_work_finish():
    desk = Desk(max_workers=1)
    desk.submit(2)

    assert desk(ShutdownAsked(False, 0.0)) == []
    desk.ready(0)
    assert desk.finish(0, 2) == [Retire(0)]
    assert desk.exit(0) == [Done()]


def test_shutdown_with_cancel_takes_back_what_nobody_started():
    desk = Desk(max_workers=1)
    desk.submit(3)
    desk.ready(0)

    taken = [Cancel(Span(2, 3, 0)), TakeBack(0, 1)]
    assert desk(ShutdownAsked(True, 0.0)) == [*taken, WakeAt(STEAL_SECONDS)]
    assert desk(TookBack(0, 1, 0.0)) == [Cancel(Span(1, 2, 0))]


def test_shutdown_with_cancel_tries_again_what_was_claimed_with_the_task_that_runs():
    desk = Desk(max_workers=1)
    desk.submit(2)
    desk.ready(0)
    desk(ShutdownAsked(True, 0.0))
    desk(TookBack(0, 0, 0.0))
    desk.now = 2 * STEAL_SECONDS

    assert desk(Tick(desk.now)) == [TakeBack(0, 1)]
    assert desk(TookBack(0, 1, desk.now)) == [Cancel(Span(1, 2, 0))]
    assert desk.finish(0) == []
    assert desk(Dropped(0, 1, 0.0)) == [Retire(0)]


def test_an_unused_pool_ends_at_once():
    assert Desk()(ShutdownAsked(False, 0.0)) == [Done()]


def test_what_is_submitted_after_shutdown_is_cancelled():
    desk = Desk()
    desk(ShutdownAsked(False, 0.0))

    assert Cancel(Span(0, 1, 0)) in desk.submit()


def test_termination_breaks_the_pool():
    desk = Desk(max_workers=1)
    desk.submit(3)

    assert desk(TerminateAsked()) == [Break(Why.TERMINATED, -1, 0)]
    assert desk.exit(0) == [Done()]


@pytest.mark.parametrize(
    "event", [Finished(9, ((1, 1),), 0.0), TookBack(9, 0, 0.0), Dropped(9, 1, 0.0)]
)
def test_news_of_a_worker_that_is_gone_is_of_no_interest(event):
    assert Desk()(event) == []


def test_a_million_tasks_are_a_handful_of_spans():
    scheduler = Scheduler(Config(max_workers=2))
    for first in range(0, 1_000_000, 1000):
        scheduler.handle(Submitted(first, first + 1000, 0, 0.0))

    assert list(scheduler._queue) == [Span(0, 1_000_000, 0)]


def test_the_estimates_of_functions_long_gone_are_let_go():
    desk = two_idle_workers()
    for group in range(MOST_GROUPS + 10):
        desk.submit(group=group)
        desk.finish(0)

    assert len(desk.scheduler._estimates) == MOST_GROUPS


def test_the_runner_of_a_task_is_the_worker_that_has_it_at_its_head():
    desk = two_idle_workers(max_workers=2)
    desk.submit(4, group=9)

    scheduler = desk.scheduler
    assert [scheduler.runner(task) for task in (2, 3, 4, 5)] == [0, 1, -1, -1]
    assert [scheduler.holder(task) for task in (2, 3, 4, 5, 6)] == [0, 1, 0, 1, -1]


def test_what_a_worker_holds_behind_a_task_is_counted():
    desk = two_idle_workers(max_workers=1)
    desk.submit(4, group=9)
    worker = desk.scheduler.holder(2)
    held = [task for task in range(2, 6) if desk.scheduler.holder(task) == worker]

    behind = [desk.scheduler.behind(worker, task) for task in held]

    assert behind == list(reversed(range(len(held))))
    assert desk.scheduler.behind(worker, 1) == len(held)  # finished long ago: all are behind it
    assert desk.scheduler.behind(99, 2) == 0
