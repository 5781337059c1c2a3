"""Any order of lending, loading, slicing, writing, forking, dying and trimming: nothing that is
held ever changes but by who holds it, and in the end all memory is back.

Both ends are in this process: what one maps is as foreign to the other as another process's.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from hookpool import _buffers
from hookpool._buffers import READ_ONLY, SHARED, Borrowed, Exchange, Lender, Parcel, socket_pair
from tests.test_buffers import Data, is_all

pytestmark = pytest.mark.skipif(not _buffers.CAN_LEND, reason="there is no memfd here")

PAGE = os.sysconf("SC_PAGE_SIZE")
LIMIT = 40 * PAGE

sizes = st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
fills = st.integers(0, 255)


class View:
    """Something that was loaded, and what must be in it."""

    def __init__(self, raw: Any, fill: int) -> None:
        self.raw = raw
        self.fill = fill


def parcel(lender: Lender, fill: int, size: int, mode: int) -> Parcel:
    import pickle

    buffers: list[pickle.PickleBuffer] = []
    obj = Data(bytearray([fill]) * size)
    pickled = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    return lender.parcel((pickled,), buffers, mode)


class Buffers(RuleBasedStateMachine):
    parcels = Bundle("parcels")  # (parcel, fill, mode)
    arrived = Bundle("arrived")  # (borrowed, fill, mode)
    views = Bundle("views")

    @initialize()
    def begin(self) -> None:
        self.lender = Lender(LIMIT, threshold=1)
        self.held: list[View] = []
        self.packages: list[Parcel] = []
        self.borrowed: list[Borrowed] = []
        self.meet()

    def meet(self) -> None:
        """A borrower, and another one when it has died."""
        ours, theirs = socket_pair()
        self.a, self.b = Exchange(ours, self.lender), Exchange(theirs, Lender(0))

    @rule(target=parcels, fill=fills, size=sizes, mode=st.sampled_from([0, 0, SHARED, READ_ONLY]))
    def pack(self, fill: int, size: int, mode: int) -> Any:
        package = parcel(self.lender, fill, size, mode)
        self.packages.append(package)
        return package, fill, mode

    @rule(one=consumes(parcels))
    def drop_parcel(self, one: Any) -> None:
        one[0].let_go()
        self.packages.remove(one[0])

    @rule(target=arrived, one=parcels)
    def lend_shared(self, one: Any) -> Any:
        package, fill, mode = one
        if not mode:
            return multiple()
        return self.take(package), fill, mode

    @rule(target=arrived, one=consumes(parcels))
    def lend(self, one: Any) -> Any:
        package, fill, mode = one
        arrived = self.take(package)
        self.drop_parcel(one)
        return arrived, fill, mode

    def take(self, package: Parcel) -> Borrowed:
        borrowed = self.b.borrow(self.a.lend(package))
        self.borrowed.append(borrowed)
        return borrowed

    @rule(one=consumes(parcels))
    def take_back_unseen(self, one: Any) -> None:
        self.b.refuse(self.a.lend(one[0]))
        self.drop_parcel(one)

    @rule(target=views, one=arrived)
    def load_again(self, one: Any) -> Any:
        borrowed, fill, mode = one
        if not mode:
            return multiple()
        return self.hold(View(borrowed.loads().raw, fill))

    @rule(target=views, one=consumes(arrived))
    def load_once(self, one: Any) -> Any:
        borrowed, fill, _ = one
        return self.hold(View(borrowed.load_once().raw, fill))

    def hold(self, view: View) -> View:
        self.held.append(view)
        return view

    @rule(one=consumes(arrived))
    def drop_unloaded(self, one: Any) -> None:
        one[0]._parts = ()
        self.borrowed.remove(one[0])

    @rule(view=views, fill=fills)
    def write(self, view: View, fill: int) -> None:
        if not memoryview(view.raw).readonly:
            view.raw[:] = bytes([fill]) * len(view.raw)
            view.fill = fill

    @rule(view=views)
    def keep_a_slice(self, view: View) -> None:
        view.raw = view.raw[len(view.raw) // 2 :]

    @rule(view=consumes(views))
    def drop(self, view: View) -> None:
        self.held.remove(view)
        del view.raw

    @rule()
    def pass_news(self) -> None:
        self.a.heard(self.b.news())
        self.b.heard(self.a.news())

    @rule()
    def trim(self) -> None:
        self.lender.trim()

    @rule()
    def about_to_fork(self) -> None:
        self.a.isolate()
        self.b.isolate()

    @rule()
    def borrower_dies_and_another_comes(self) -> None:
        self.b.close()
        self.a.close()
        self.meet()

    @invariant()
    def nothing_has_changed(self) -> None:
        for view in getattr(self, "held", ()):
            assert is_all(view.raw, view.fill)

    @invariant()
    def the_books_are_in_order(self) -> None:
        if hasattr(self, "lender"):
            self.lender._slots.check()
            assert self.lender.held <= LIMIT

    def teardown(self) -> None:
        if not hasattr(self, "lender"):
            return
        # Not by dropping them: Hypothesis keeps what it has been given.
        for view in self.held:
            del view.raw
        self.held.clear()
        for borrowed in self.borrowed:
            borrowed._parts = ()
        for package in self.packages:
            package.let_go()
        self.pass_news()
        assert not self.a._lent
        self.lender.trim()
        assert self.lender.held == 0
        for one in (self.a, self.b):
            one.close()
            one.lender.close()


TestBuffers = Buffers.TestCase
TestBuffers.settings = settings(stateful_step_count=30, deadline=None)
