"""The tables in docs/design.md, from the code: what the scheduler was seen to do in a long game.

``python -m tests.design_tables`` writes them into the page, from many games.  `test_design_page`
plays some of these and fails where the page lacks what it sees.  It does not ask for all that the
page has: the rarest of it needs more games than a test has time for.
"""

from __future__ import annotations

import random
import re
import typing
from collections import defaultdict
from pathlib import Path

from hookpool import _events, _scheduler
from tests.test_scheduler_machine import World

PAGE = Path(__file__).parents[1] / "docs" / "design.md"
GAMES, GAMES_IN_TEST, MOVES = 40_000, 1500, 80


class Recorder(World):
    """A world that remembers what each event led to."""

    def __init__(self, config, seen_actions, seen_states):
        super().__init__(config)
        handle = self.scheduler.handle

        def recorded(event):
            name, before = type(event).__name__, self.scheduler.state
            actions = handle(event)
            seen_actions[name] |= {type(action).__name__ for action in actions}
            after = self.scheduler.state
            if after is not before:
                seen_states[before.name, after.name].add(name)
            return actions

        # Here, and not where the world tells it something: that may have it told more.
        self.scheduler.handle = recorded


def play(world, rng):
    """One move."""
    workers = sorted(world.workers)
    move = rng.choices(
        [
            "submit",
            "step",
            "flush",
            "die",
            "unfit",
            "cancel",
            "shut",
            "tick",
            "resize",
            "expect",
            "abandon",
        ],
        [6, 20, 12, 1, 0.2, 2, 0.3, 3, 0.5, 1, 0.5],
    )[0]
    if move == "submit" and not (world.broken or world.done):
        first, world.submitted = world.submitted, world.submitted + rng.randint(1, 5)
        world.tell(_events.Submitted(first, world.submitted, rng.randint(0, 1), world.now))
    elif move == "step" and workers:
        world.workers[rng.choice(workers)].step(world.ran)
    elif move == "flush" and workers:
        world.flush(rng.choice(workers))
    elif move == "die" and workers:
        world.exit(rng.choice(workers))
    elif move == "unfit" and workers:
        number = rng.choice(workers)
        if not world.workers[number].ready:
            world.tell(_events.InitializerFailed(number))
    elif move == "cancel" and world.submitted:
        task = rng.randrange(world.submitted)
        if not (world.ended[task] or world.broken or world.done):
            world.tell(_events.CancelAsked(task, world.now))
    elif move == "abandon" and world.submitted:
        stop = rng.randint(1, world.submitted)
        world.tell(_events.Abandoned(rng.randrange(stop), stop, world.now))
    elif move == "shut":
        event = rng.choice([True, False, None])
        world.tell(
            _events.TerminateAsked() if event is None else _events.ShutdownAsked(event, world.now)
        )
    elif move == "tick":
        world.advance(rng.choice([0.0005, 0.002, 6.0]))
    elif move == "resize":
        world.tell(_events.Resized(rng.randint(1, 4), world.now))
    elif move == "expect":
        world.tell(_events.Expected(world.now))


def observe(games: int):
    """Play that many games; the actions seen on each event, the events at each change of state."""
    rng = random.Random(20)
    actions, states = defaultdict(set), defaultdict(set)
    for game in range(games):
        config = _scheduler.Config(
            max_workers=rng.randint(1, 3),
            max_tasks_per_child=rng.choice([None, None, 2]),
            idle_timeout=rng.choice([None, 5.0]),
            claims=game % 4 != 0,
            break_on_death=game % 5 == 0,
        )
        world = Recorder(config, actions, states)
        for _ in range(MOVES):
            play(world, rng)
    return actions, states


def tables(games: int) -> dict[str, str]:
    """The Markdown of each table, by name."""
    actions, states = observe(games)
    events = ["| event | what has happened | actions seen |", "|---|---|---|"]
    for event in typing.get_args(_events.Event):
        said = " ".join((event.__doc__ or "").split()).rstrip(".").replace("``", "`")
        led = ", ".join(f"`{name}`" for name in sorted(actions[event.__name__])) or "none"
        events.append(f"| `{event.__name__}` | {said} | {led} |")
    rows = ["| pool was | became | on |", "|---|---|---|"]
    for (before, after), names in sorted(states.items()):
        led = ", ".join(f"`{name}`" for name in sorted(names))
        rows.append(f"| {before} | {after} | {led} |")
    return {"events": "\n".join(events), "states": "\n".join(rows)}


def place(name: str) -> re.Pattern[str]:
    """Where the table stands in the page; its one group is the table."""
    return re.compile(rf"<!-- table: {re.escape(name)} -->\n\n((?:\|.*\n)*)")


def filled(page: str) -> str:
    """The page with its tables replaced by the present ones."""
    for name, table in tables(GAMES).items():
        assert place(name).search(page), f"docs/design.md has no place for the table {name!r}"
        mark = f"<!-- table: {name} -->\n\n"
        page = place(name).sub(lambda _, new=mark + table + "\n": new, page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
