"""`managers`: shared objects whose registration and whose calls are by value."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing import managers as standard

import pytest

from hookpool.managers import _SERIALIZER, BaseManager, SyncManager
from tests.helpers import run_python


class Counter:
    def __init__(self) -> None:
        self.n = 0

    def change(self, how: object) -> int:
        self.n = how(self.n)  # type: ignore[operator]
        return self.n

    def fail(self) -> None:
        class Local(Exception):
            pass

        raise Local("from the manager")


class Manager(BaseManager):
    pass


Manager.register("Counter", lambda: Counter())


def test_a_registered_lambda_makes_objects_whose_calls_take_lambdas() -> None:
    with Manager() as manager:
        counter = manager.Counter()  # type: ignore[attr-defined]
        assert counter.change(lambda n: n + 5) == 5


def test_an_exception_of_a_local_class_comes_back() -> None:
    with Manager() as manager:
        counter = manager.Counter()  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="from the manager") as caught:
            counter.fail()
    assert type(caught.value).__qualname__ == "Counter.fail.<locals>.Local"


def test_a_manager_started_elsewhere_is_reached_by_its_address() -> None:
    run_python("-c", ELSEWHERE)


ELSEWHERE = """
from hookpool.managers import BaseManager
class Server(BaseManager): pass
class Visitor(BaseManager): pass
shared = []
Server.register("shared", lambda: shared)
Visitor.register("shared")
with Server(authkey=b"key") as server:
    visitor = Visitor(server.address, b"key")
    visitor.connect()
    items = visitor.shared()
    items.append(3)
    items.append(1)
    items.sort(key=lambda x: x)
    assert items.pop() == 3
"""


def test_a_proxy_says_how_it_wants_to_be_called_wherever_it_lands() -> None:
    # In a process that never imported this module, unpickling the name imports it.
    source = (
        "import pickle, sys\n"
        f"name = pickle.loads({pickle.dumps(_SERIALIZER)!r})\n"
        "from multiprocessing import managers\n"
        "assert managers.listener_client[name][0].__module__ == 'hookpool._primitives'"
    )
    run_python("-c", source)


def test_the_default_context_of_a_manager_is_ours() -> None:
    assert BaseManager()._ctx is multiprocessing.get_context("hookpool")  # type: ignore[attr-defined]
    assert issubclass(SyncManager, standard.SyncManager)


def test_a_standard_manager_in_our_context_takes_lambdas_in_register_only() -> None:
    run_python("-c", STANDARD)


STANDARD = """
import hookpool, multiprocessing, pickle
from multiprocessing.managers import BaseManager
class Mine(BaseManager): pass
Mine.register("make", lambda: [1, 2])
with Mine(ctx=multiprocessing.get_context("hookpool")) as manager:
    made = manager.make()
    assert made.pop() == 2
    try:
        made.sort(key=lambda x: x)
    except (AttributeError, pickle.PicklingError):
        pass
    else:
        raise AssertionError("documented as not possible")
"""
