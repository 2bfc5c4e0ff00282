"""The ledger: every row once, in one process."""

import os
import pickle
import subprocess
import sys
import threading

import pytest

from cutset.errors import OffloadError
from cutset.offload.client.ledger import Ledger


def test_numbers_rise_and_seeds_differ():
    ledger, other = Ledger(), Ledger()
    blocks = [ledger.open(4) for _ in range(5)]
    assert [block.number for block in blocks] == [0, 1, 2, 3, 4]
    assert ledger.blocks == 5
    other.open(4)
    seeds = {ledger.seed(block.number) for block in blocks} | {other.seed(0)}
    assert len(seeds) == 6
    assert all(len(seed) == 32 for seed in seeds)
    with pytest.raises(ValueError, match="never opened"):
        ledger.seed(5)
    with pytest.raises(ValueError, match="at least one row"):
        ledger.open(0)


def test_rows_are_handed_out_once():
    block = Ledger().open(10)
    spans = [block.take(n) for n in (1, 4, 5)]
    assert [(span.start, span.rows) for span in spans] == [(0, 1), (1, 4), (5, 5)]
    for rows in (1, 0, -1):
        with pytest.raises(OffloadError, match="0 rows left"):
            block.take(rows)


def test_threads_never_share_a_row():
    ledger = Ledger()
    shared = ledger.open(4000)
    rows, numbers = [], []

    def work():
        for _ in range(500):
            rows.append(shared.take(1).start)
            numbers.append(ledger.open(1).number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rows) == list(range(4000))
    assert sorted(numbers) == list(range(1, 4001))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_can_not_use_it():
    ledger = Ledger()
    block = ledger.open(3)
    child = os.fork()
    if child == 0:
        outcome = 0
        for use in (lambda: ledger.open(1), lambda: block.take(1), lambda: ledger.seed(0)):
            try:
                use()
                outcome = 1
            except OffloadError:
                pass
            except BaseException:
                outcome = 2
        os._exit(outcome)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert block.take(3).rows == 3


def test_a_ledger_neither_shows_its_key_nor_leaves():
    ledger = Ledger()
    assert ledger._master.hex() not in repr(ledger) + repr(ledger.open(1))
    assert repr(ledger._master) not in repr(ledger)
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(ledger)


FORKED = """
import ctypes, os, sys
from cutset.errors import OffloadError
from cutset.offload.client.ledger import Ledger

ledger = Ledger()
ledger.open(3)
number = os.getpid()
os.getpid = lambda: number
# With the interpreter's lock held: in a child that another thread's holding of it was copied to, nobody lets it go.
child = os.fork() if sys.argv[1] == "os.fork" else ctypes.PyDLL(None).fork()
if child == 0:
    try:
        ledger.seed(0)
        os._exit(1)
    except OffloadError:
        os._exit(2 if any(ledger._master) else 0)
    except BaseException:
        os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(ledger.seed(0)) == 32
assert any(ledger._master)
"""


@pytest.mark.parametrize("fork", ["os.fork", "fork of the system"])
def test_a_child_with_the_same_process_id_can_not_use_it(fork):
    """As in a new namespace of processes. Python's own hooks don't see a fork that something else makes.

    In a process of its own: threads of other tests' libraries may hold locks that a forked child would wait for.
    """
    subprocess.run([sys.executable, "-c", FORKED, fork], check=True, timeout=60)
