"""The pool of pads: right, each row once, bounded, giving way, and honest about what it lacks."""

import os
import threading
import time

import numpy as np
import pytest

from cutset.errors import IntegrityError, LinkTimeout, OffloadError
from cutset.kernels import reference_field as field
from cutset.kernels.reference_field import P
from cutset.offload.arithmetic import residues
from cutset.offload.client.ledger import Ledger
from cutset.offload.client.pads import PadPool
from offload.twin import TwinMatrix

SHAPES = [(7, 12), (20, 5), (3, 3)]


@pytest.fixture
def matrices():
    return [TwinMatrix(i, *shape) for i, shape in enumerate(SHAPES)]


class PadServer:
    """What a second accelerator does, and lies on demand."""

    def __init__(self, matrices):
        self.matrices = matrices
        self.asked = []
        self.change = lambda products: products

    def __call__(self, requests):
        self.asked += requests
        products = []
        for index, seed, rows in requests:
            matrix = self.matrices[index]
            r = residues(seed, rows * matrix.depth).reshape(rows, matrix.depth)
            products.append(field.residue_product(r, matrix.weight))
        return self.change(products)


def pool_of(matrices, **options):
    return PadPool(Ledger(), matrices, **({"block_rows": 4, "most_rows": 12, "timeout": 20.0} | options))


def assert_right(pad, matrix, rows):
    assert pad.r.shape == (rows, matrix.depth)
    assert np.array_equal(pad.product, field.residue_product(pad.r, matrix.weight))


@pytest.mark.parametrize("source", ["idle", "remote"])
@pytest.mark.parametrize("empty", ["wait", "inline"])
def test_pads_are_right_and_never_the_same(matrices, source, empty):
    multiply = PadServer(matrices) if source == "remote" else None
    seen, spans, numbers = set(), set(), []
    with pool_of(matrices, multiply=multiply, empty=empty) as pool:
        for rows in (1, 3, 4, 5, 1, 9, 13, 40):
            for index, matrix in enumerate(matrices):
                pad = pool.take(index, rows)
                assert_right(pad, matrix, rows)
                seen |= {row.tobytes() for row in pad.r}
                numbers.append(pad.number)
                spans |= {(span.block, row) for span in pad.spans for row in range(span.start, span.start + span.rows)}
        counters = pool.counters()
    total = 3 * (1 + 3 + 4 + 5 + 1 + 9 + 13 + 40)
    assert len(seen) == len(spans) == counters.used == total
    assert numbers == sorted(set(numbers))
    assert (counters.inline == 0) == (empty == "wait")
    assert counters.made + counters.inline >= total


def test_the_server_sees_seeds_of_single_use_and_nothing_else(matrices):
    server = PadServer(matrices)
    with pool_of(matrices, multiply=server) as pool:
        for _ in range(5):
            pool.take(0, 6)
    seeds = [seed for _, seed, _ in server.asked]
    assert len(set(seeds)) == len(seeds)


def test_a_pool_stops_at_its_level(matrices):
    with pool_of(matrices, most_rows=9) as pool:  # two blocks of four fit
        pool.fill(8)
        time.sleep(0.05)
        assert pool.counters().level == 8
        assert pool.counters().made == 24
        pool.take(1, 1)
        pool.take(1, 4)
        pool.fill(7)
        assert pool.counters().made in (28, 32)


def test_memory_is_bounded(matrices):
    row = sum(4 * (m.depth + m.outputs) for m in matrices)
    with pool_of(matrices, memory=6 * row + 1, most_rows=None) as pool:
        assert pool.target == 6
        with pytest.raises(OffloadError, match="allow more"):
            pool.fill(7)
        assert_right(pool.take(0, 30), matrices[0], 30)  # the request's own size comes on top
    with pytest.raises(OffloadError, match="a row of pads takes"):
        pool_of(matrices, memory=row - 1)


def test_an_empty_pool_may_be_an_error(matrices):
    with pool_of(matrices, empty="fail") as pool:
        pool.fill(4)
        assert_right(pool.take(0, 4), matrices[0], 4)
        with pytest.raises(OffloadError, match="are needed"):
            pool.take(0, 100)


def test_waiting_ends(matrices):
    class Slow(PadServer):
        def __call__(self, requests):
            time.sleep(0.3)
            return super().__call__(requests)

    with (
        pool_of(matrices, multiply=Slow(matrices), timeout=0.05) as pool,
        pytest.raises(OffloadError, match=r"weren't ready in 0\.05 s"),
    ):
        pool.take(0, 1)


def test_idle_work_gives_way_but_not_to_who_waits_for_it(matrices):
    with pool_of(matrices, most_rows=4) as pool:
        pool.fill(4)
        with pool.busy():
            for index in range(3):
                pool.take(index, 4)
            before = pool.counters().made
            time.sleep(0.1)
            assert pool.counters().made == before  # nothing is made while a request runs,
            assert_right(pool.take(1, 2), matrices[1], 2)  # but for what it waits for
            assert pool.counters().waited == 1
        pool.fill(4)


def test_a_block_is_interrupted(matrices, monkeypatch):
    """Between two slices of a block."""
    monkeypatch.setattr("cutset.offload.client.pad_sources.SLICE", 1)
    reached, go_on = threading.Event(), threading.Event()

    class Watched(TwinMatrix):
        def residues(self, x, pool=None, out=None):
            reached.set()
            go_on.wait(10)
            return super().residues(x, pool, out)

    matrix = Watched(0, 5, 6)
    with pool_of([matrix], block_rows=16, most_rows=16) as pool:
        assert reached.wait(10)
        with pool.busy():
            go_on.set()
            time.sleep(0.1)
            assert matrix.products == 4
        pool.fill(16)
        assert matrix.products == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda products: products[1:], "gave 0 products for 1"),
        (lambda products: [p[:, 1:] for p in products], "not uint32"),
        (lambda products: [p.astype(np.int64) for p in products], "gave int64"),
        (lambda products: [p + np.uint32(P) for p in products], "isn't of residues"),
    ],
)
@pytest.mark.parametrize("empty", ["wait", "inline", "fail"])
def test_impossible_products_end_the_session(matrices, change, message, empty):
    server = PadServer(matrices)
    server.change = change
    with pool_of(matrices[:1], multiply=server, empty=empty, most_rows=4) as pool:
        pool._thread.join(10)
        for _ in range(2):
            with pytest.raises(IntegrityError, match=message):
                pool.take(0, 1)


def test_a_server_that_is_gone(matrices):
    def gone(requests):
        raise LinkTimeout("no answer in 2 s; is the pad server running?")

    with pool_of(matrices, multiply=gone) as pool, pytest.raises(OffloadError, match="no more pads: no answer in 2 s"):
        pool.take(0, 1)


def test_a_pad_masks_one_set_of_bytes(matrices):
    rng = np.random.default_rng(0)
    q = rng.integers(-2047, 2048, (2, 12)).astype(np.int16)
    with pool_of(matrices) as pool:
        pad = pool.take(0, 2)
        out = np.zeros((2, 12), np.uint32)
        pad.mask(q, out)
        assert np.array_equal(out, field.mask(q, pad.r))
        assert np.array_equal(pad.mask(q), out)  # the same bytes, sent again
        with pytest.raises(ValueError, match="read-only"):
            q[0, 0] = 1
        with pytest.raises(OffloadError, match="used already"):
            pad.mask(q.copy())
        pad = pool.take(0, 2)
        pad.drop()
        assert pad.pieces == ()
        with pytest.raises(OffloadError, match="used already"):
            pad.mask(q)


def test_many_threads_take(matrices):
    rows = []

    def work(pool):
        for _ in range(20):
            rows.extend(row.tobytes() for row in pool.take(0, 3).r)

    with pool_of(matrices) as pool:
        threads = [threading.Thread(target=work, args=[pool]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.counters().used == 240
    assert len(set(rows)) == 240


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_gets_no_pads(matrices):
    with pool_of(matrices) as pool:
        pool.fill(4)
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                pool.take(0, 1)
            except OffloadError:
                pool.close()
                outcome = 0
            os._exit(outcome)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_pool(matrices):
    pool = pool_of(matrices)
    pool.close()
    pool.close()
    assert not pool._thread.is_alive()
    with pytest.raises(OffloadError, match="closed"):
        pool.take(0, 1)


@pytest.mark.parametrize("source", ["idle", "remote"])
def test_what_is_lent_is_handed_out_and_counted(matrices, source):
    multiply = PadServer(matrices) if source == "remote" else None
    with pool_of(matrices, multiply=multiply, empty="wait") as pool:
        pool.fill(12)
        spans, rows = set(), 0
        for _ in range(3):
            r, product, span = pool.lend(1)
            assert np.array_equal(product, field.residue_product(r, matrices[1].weight))
            assert len(r) == span.rows == 4
            spans |= {(span.block, row) for row in range(span.start, span.start + span.rows)}
            rows += span.rows
            pool.spend({1: 1})  # of each block one row is used: the others still take room
        assert len(spans) == rows == 12
        counters = pool.counters()
        assert counters.used == 3
        assert counters.level == 9
        pad = pool.take(1, 2)  # never a lent row
        taken = {(span.block, row) for span in pad.spans for row in range(span.start, span.start + span.rows)}
        assert not spans & taken
        pool.fill(9)  # what is lent counts
        assert pool._lent[1] == 9
        pool.spend({1: 9})
        pool.fill(12)
        assert pool.counters().level == 12


def test_a_pad_may_begin_with_lent_rows(matrices):
    with pool_of(matrices, empty="inline") as pool:
        pool.fill(4)
        lent = pool.lend(0)
        pad = pool.take(0, 5).behind([lent])
        assert_right(pad, matrices[0], 9)
        q = np.arange(9 * 12, dtype=np.int16).reshape(9, 12)
        assert np.array_equal(pad.mask(q), (q + pad.r.astype(np.int64)) % P)


def test_nothing_is_lent_after_a_fork_or_from_an_empty_pool(matrices):
    with pool_of(matrices, most_rows=0) as pool:
        assert pool.lend(0) is None
        key = pool.ledger._page[:33]
        pool.ledger.wipe()  # as the kernel does in a child
        with pytest.raises(OffloadError, match="forked"):
            pool.lend(0)
        pool.ledger._page[:33] = key  # or its thread would never end


@pytest.mark.parametrize("rows", [1, 63, 64, 90, 130, 300])
def test_a_pad_server_is_asked_for_whole_blocks_alone(matrices, rows):
    """A remainder, 26 rows for a prompt of 90, would tell how long it is."""
    server = PadServer(matrices)
    with pool_of(matrices, multiply=server, block_rows=64, most_rows=256) as pool:
        for index in range(len(matrices)):
            assert_right(pool.take(index, rows), matrices[index], rows)
    assert {asked for _, _, asked in server.asked} == {64}
