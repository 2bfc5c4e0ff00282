"""The thread pool: shared by several Python threads, forked, and idle."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cutset.kernels import _native as native


def product(pool, rows=40):
    """A product large enough to be shared out, and what it should be."""
    rng = np.random.default_rng(rows)
    weight, x = rng.integers(-9, 9, (256, 256)).astype(np.float32), rng.integers(-9, 9, (rows, 256)).astype(np.float32)
    out = np.full((rows, 256), np.nan, np.float32)
    native.LinearF32(weight, pool)(x, out, pool)
    return np.array_equal(out, x @ weight.T)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads(threads):
    pool = native.Pool(threads)
    assert pool.threads == threads
    for rows in (1, 2, 40, 100):
        assert product(pool, rows)


def test_several_python_threads_share_a_pool():
    pool = native.Pool(3)
    right = []

    def work(rows):
        right.extend(product(pool, rows) for _ in range(20))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 7, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(right) == 80
    assert all(right)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gets_threads_of_its_own():
    pool = native.Pool(2)
    assert product(pool)
    child = os.fork()
    if child == 0:
        os._exit(0 if product(pool) and product(native.Pool(2)) else 1)
    deadline = time.monotonic() + 20
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    assert product(pool)


# In a process of its own: other libraries' threads count as this process's time.
IDLE = """
import time
import numpy as np
import cutset.kernels._native as native

pool = native.Pool(4)
x, out = np.ones((4, 64), np.float32), np.empty((4, 512), np.float32)
native.LinearF32(np.ones((512, 64), np.float32), pool)(x, out, pool)
assert (out == 64).all()
time.sleep(0.05)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.05
"""


def test_an_idle_pool_uses_no_core():
    subprocess.run([sys.executable, "-c", IDLE], check=True, timeout=30)


def test_pools_come_and_go():
    for _ in range(50):
        assert product(native.Pool(3), 8)
