"""What a child was given at its start is there: tasks need not bring it, and could not."""

from __future__ import annotations

import gc
import threading

import pytest

from hookpool._given import note_given, was_given
from tests.helpers import run_python


def test_arguments_and_those_of_an_initializer_among_them_are_remembered():
    first, second, other = threading.Event(), threading.Event(), threading.Event()
    note_given((first, 3, [], ("a pool's", (second,))))

    assert was_given(first)
    assert was_given(second)
    assert not was_given(other)
    assert not was_given(3)


def test_what_is_gone_is_forgotten():
    given = threading.Event()
    note_given((given,))
    ident = id(given)
    del given
    gc.collect()

    from hookpool import _given

    assert ident not in _given._given


# The best known way to share a lock or a counter with the workers of a pool, with one name for it
# in all processes; with the methods of the standard library it works.
PROGRAM = """
import multiprocessing
import hookpool

mp = multiprocessing.get_context("hookpool")

class Log:
    def __init__(self, records):
        self.records = records

counter, lock, log = mp.Value("i", 0), mp.Lock(), Log(mp.SimpleQueue())

def init(the_counter, the_lock, the_log):
    global counter, lock, log
    counter, lock, log = the_counter, the_lock, the_log

def add(number):
    with counter.get_lock():
        counter.value += number

class Adder:
    def __call__(self, number):
        with lock:
            add(number)
        log.records.put(number)
        return number

given = (counter, lock, log)
"""

USES = {
    "Pool": """
with mp.Pool(2, init, given) as pool:
    assert pool.map(Adder(), range(5)) == [0, 1, 2, 3, 4]
    pool.map(add, [10, 20])
""",
    "executor": """
with hookpool.HookPoolExecutor(2, initializer=init, initargs=given) as pool:
    assert list(pool.map(Adder(), range(5))) == [0, 1, 2, 3, 4]
    pool.submit(add, 10).result()
    pool.submit(lambda: add(20)).result()
""",
    "Process": """
def run(functions, *the):
    init(*the)
    for function, arguments in iter(functions.get, None):
        for argument in arguments:
            function(argument)

functions = mp.Queue()
child = mp.Process(target=run, args=(functions, *given))
child.start()
functions.put((Adder(), range(5)))
functions.put((add, [10, 20]))
functions.put(None)
child.join()
""",
}

FORKED = """
mp = multiprocessing.get_context("fork")
given = counter, lock, log = mp.Value("i", 0), mp.Lock(), Log(mp.SimpleQueue())
with hookpool.HookPoolExecutor(2, "fork", init, given) as pool:
    assert list(pool.map(Adder(), range(5))) == [0, 1, 2, 3, 4]
    pool.submit(add, 30).result()
"""
USES["an executor that forks"] = FORKED

SUMS = """
print(counter.value, sorted(log.records.get() for _ in range(5)))
"""


@pytest.mark.parametrize("use", USES)
def test_a_global_that_an_initializer_was_given_is_the_workers_own(use):
    assert run_python("-c", PROGRAM + USES[use] + SUMS).strip() == "40 [0, 1, 2, 3, 4]"


REFUSED = """
def refused(run):
    try:
        run()
    except hookpool.CannotPickleNow as error:
        print(str(error).partition(" used by")[0])

with hookpool.HookPoolExecutor(1, initializer=init, initargs=given) as pool:
    pool.submit(add, 1).result()
    counter = mp.Value("i", 0)
    refused(pool.submit(add, 1).result)
with mp.Pool(1, init, given) as pool:
    refused(lambda: pool.apply(add, (1,)))
"""


def test_another_one_that_has_come_into_its_place_is_refused_as_ever():
    lines = run_python("-c", PROGRAM + REFUSED).splitlines()

    assert [line.partition(" -> ")[2] for line in lines] == ["global 'counter'"] * 2


SENT = """
class Settings:
    factor = 2

settings = Settings()

def take(the_settings):
    global settings
    settings = the_settings

def times(number):
    return settings.factor * number

with hookpool.HookPoolExecutor(1, initializer=take, initargs=(settings,)) as pool:
    print(pool.submit(times, 10).result())
    settings.factor = 3
    print(pool.submit(times, 10).result())
"""


def test_what_can_be_sent_is_sent_when_it_has_changed_though_it_was_given():
    assert run_python("-c", PROGRAM + SENT).split() == ["20", "30"]


STRANGE = """
strange = multiprocessing.get_context("fork").Lock()
try:
    mp.Pool(1, init, (0, strange, 0))
except hookpool.CannotPickleNow as error:
    print(error)
"""


def test_a_lock_of_a_method_that_forks_is_refused_with_where_it_is_and_what_to_do():
    text = run_python("-c", PROGRAM + STRANGE)

    assert text.startswith("args[3][1]: pickling this Lock raised RuntimeError: A SemLock created")
    assert "make it by the context that starts the child" in text
