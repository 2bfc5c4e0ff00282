"""Which calls share a product: who is behind catches up, who was just answered is waited for, nobody starves."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from cutset.offload.accelerator.batcher import PATIENCE, Batcher, Call

WINDOW = 0.002
MATRICES = 13


def batcher(max_rows: int = 64, max_waiting: int = 4) -> Batcher:
    return Batcher(matrices=MATRICES, window=WINDOW, max_rows=max_rows, max_waiting=max_waiting)


def call(client: str, matrix: int, arrived: float, rows: int = 1, masked: bool = True) -> Call:
    return Call(client, 1, matrix, masked, np.zeros((rows, 2), np.uint32), arrived)


def clients_of(batch: list[Call]) -> list[str]:
    return sorted(str(one.client) for one in batch)


def test_one_client_never_waits() -> None:
    waiting = batcher()
    assert waiting.wait(0.0) is None
    for matrix in (3, 4, 9):
        assert waiting.add(call("a", matrix, 1.0))
        assert waiting.complete
        assert waiting.wait(1.0) == 0.0
        assert clients_of(waiting.take(1.0)) == ["a"]
        waiting.answered("a", 1.0)
        assert waiting.wait(1.0) is None
    assert waiting.take(1.0) == []


def test_who_was_just_answered_is_waited_for_and_no_longer_than_the_window() -> None:
    waiting = batcher()
    waiting.add(call("b", 0, 1.0))
    waiting.take(1.0)
    waiting.answered("b", 1.0003)
    waiting.add(call("a", 1, 1.0005))
    assert not waiting.complete
    assert 0 < (waiting.wait(1.0006) or 0) < WINDOW
    assert waiting.wait(1.0003 + WINDOW) == 0.0
    waiting.add(call("b", 1, 1.0007))
    assert waiting.complete
    assert waiting.wait(1.0008) == 0.0  # all are here
    assert clients_of(waiting.take(1.0008)) == ["a", "b"]


def test_who_is_long_gone_or_never_asked_is_not_waited_for() -> None:
    waiting = batcher()
    waiting.join("idle")
    waiting.add(call("b", 0, 1.0))
    waiting.take(1.0)
    waiting.answered("b", 1.0)
    waiting.add(call("a", 0, 2.0))
    assert waiting.wait(2.0) == 0.0
    assert clients_of(waiting.take(2.0)) == ["a"]


def test_only_calls_of_one_matrix_and_one_kind_share_a_product() -> None:
    waiting = batcher()
    for client, matrix, masked in (("a", 1, True), ("b", 1, False), ("c", 2, True), ("d", 1, True)):
        waiting.add(call(client, matrix, 1.0, masked=masked))
    batches = [clients_of(waiting.take(1.0)) for _ in range(3)]
    assert sorted(batches) == [["a", "d"], ["b"], ["c"]]


def test_who_is_behind_catches_up_while_the_others_wait() -> None:
    waiting = batcher()
    for client in "abc":
        waiting.add(call(client, 5, 1.0))
    for step in range(3):  # from matrix 2 to 5
        now = 1.001 + 0.0003 * step
        waiting.add(call("late", 2 + step, now))
        assert waiting.wait(now) == 0.0
        assert clients_of(waiting.take(now)) == ["late"]
        waiting.answered("late", now + 0.0002)
        assert 0 < (waiting.wait(now + 0.0002) or 0) <= WINDOW  # it comes back
    waiting.add(call("late", 5, 1.0025))
    assert clients_of(waiting.take(1.0025)) == ["a", "b", "c", "late"]


def test_nobody_is_overtaken_for_longer_than_the_patience() -> None:
    waiting = batcher()
    waiting.add(call("alone", 7, 1.0))
    for client in "abc":
        waiting.add(call(client, 1, 1.0 + PATIENCE))
    assert clients_of(waiting.take(1.001 + PATIENCE)) == ["alone"]


def test_rows_are_bounded_and_who_got_least_goes_first() -> None:
    waiting = batcher(max_rows=8)
    waiting.join("modest")
    waiting.add(call("greedy", 0, 1.0, rows=8))
    assert clients_of(waiting.take(1.0)) == ["greedy"]
    waiting.add(call("greedy", 0, 1.001, rows=8))
    waiting.add(call("modest", 0, 1.0011, rows=1))
    assert clients_of(waiting.take(1.0012)) == ["modest"]
    assert clients_of(waiting.take(1.0012)) == ["greedy"]


def test_a_newcomer_starts_level_with_who_got_least() -> None:
    waiting = batcher(max_rows=8)
    waiting.add(call("old", 0, 1.0, rows=8))
    waiting.take(1.0)
    waiting.add(call("old", 0, 1.001, rows=8))
    waiting.add(call("new", 0, 1.0011, rows=8))
    assert clients_of(waiting.take(1.0012)) == ["old"]  # level, so who came first


def test_a_client_has_few_calls_waiting_and_takes_them_along_when_it_leaves() -> None:
    waiting = batcher(max_waiting=2)
    assert waiting.add(call("a", 0, 1.0))
    assert waiting.add(call("a", 1, 1.0))
    assert not waiting.add(call("a", 2, 1.0))
    assert len(waiting) == 2
    waiting.leave("a")
    waiting.leave("a")
    waiting.answered("a", 1.0)
    assert len(waiting) == 0
    assert waiting.clients == 0
    assert waiting.wait(1.0) is None


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_clients_that_decode_fall_into_step(cores: int) -> None:
    """A simulation: 8 clients start anywhere, each needs some time of a core between two products."""
    rng = np.random.default_rng(cores)
    waiting, now, served, products = batcher(), 0.0, 0, 0
    at = rng.integers(0, MATRICES, 8).tolist()
    coming = [(float(rng.random() * 0.005), client) for client in range(8)]
    heapq.heapify(coming)
    free = [0.0] * cores
    while now < 1.0:
        while coming and coming[0][0] <= now:
            arrived, client = heapq.heappop(coming)
            waiting.add(call(str(client), at[client], arrived))
        wait = waiting.wait(now)
        if wait != 0.0:
            arrival = coming[0][0] if coming else now
            now = arrival if wait is None else min(now + wait, arrival) if coming else now + wait
            continue
        batch, now = waiting.take(now), now + 0.00022
        served, products = served + len(batch), products + 1
        for one in batch:
            waiting.answered(one.client, now)
            client = int(str(one.client))
            at[client] = (at[client] + 1) % MATRICES
            core = min(range(cores), key=free.__getitem__)
            free[core] = max(free[core], now) + 0.00015 * float(rng.uniform(0.8, 1.4))
            heapq.heappush(coming, (free[core], client))
    assert served / products > 6
