"""An owner's ledger, and workers that are told no more than what it says they need."""

from __future__ import annotations

import pickle
from typing import Any

from hookpool._definition import Definition
from hookpool._definitions import Ledger
from tests.elsewhere import Elsewhere


class Pool:
    """One owner with workers that know what they were sent."""

    def __init__(self, *workers: Elsewhere) -> None:
        self.ledger = Ledger()
        self.workers = workers
        self.known: list[set[int]] = [set() for _ in workers]
        self.sent = 0

    def prepare(self, fn: Any, *args: Any) -> tuple[Definition, Any]:
        definition = self.ledger.call(fn)
        assert definition is not None
        return definition, self.ledger.dump(args)

    def run(self, fn: Any, *args: Any, worker: int = 0) -> Any:
        return self.perform(*self.prepare(fn, *args), worker=worker)

    def perform(self, definition: Definition, packet: Any, worker: int = 0) -> Any:
        for one in (*definition.needs, definition, *packet.needs):
            if one.number not in self.known[worker]:
                self.known[worker].add(one.number)
                self.workers[worker].ask("define", one.number, one.data)
                self.sent += 1
        answer = self.workers[worker].ask("run", definition.number, packet.data)
        return pickle.loads(answer)
