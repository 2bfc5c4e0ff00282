"""Which calls share a product: company is worth a short wait, nobody waits longer than the window."""

from __future__ import annotations

import numpy as np

from cutset.offload.accelerator.batcher import Batcher, Call

WINDOW = 0.001


def batcher(max_rows: int = 64, max_waiting: int = 4) -> Batcher:
    return Batcher(window=WINDOW, max_rows=max_rows, max_waiting=max_waiting)


def call(client: str, matrix: int, arrived: float, rows: int = 1, masked: bool = True) -> Call:
    return Call(client, 1, matrix, masked, np.zeros((rows, 2), np.uint32), arrived)


def clients_of(batch: list[Call]) -> list[object]:
    return [one.client for one in batch]


def test_one_client_never_waits() -> None:
    waiting = batcher()
    assert waiting.wait(0.0) is None
    assert waiting.add(call("a", 3, 1.0))
    assert waiting.wait(1.0) == 0.0
    assert clients_of(waiting.take(1.0)) == ["a"]
    assert waiting.wait(1.0) is None
    assert waiting.take(1.0) == []


def test_who_was_here_lately_is_waited_for_and_no_longer_than_the_window() -> None:
    waiting = batcher()
    waiting.add(call("b", 0, 1.0))
    waiting.take(1.0)
    waiting.add(call("a", 0, 1.0005))
    assert 0 < (waiting.wait(1.0006) or 0) < WINDOW
    assert waiting.wait(1.0016) == 0.0  # the window has passed
    waiting.add(call("b", 0, 1.0007))
    assert waiting.wait(1.0008) == 0.0  # all are here
    assert sorted(map(str, clients_of(waiting.take(1.0008)))) == ["a", "b"]


def test_who_is_long_gone_is_not_waited_for() -> None:
    waiting = batcher()
    waiting.add(call("b", 0, 1.0))
    waiting.take(1.0)
    waiting.add(call("a", 0, 2.0))
    assert waiting.wait(2.0) == 0.0


def test_only_calls_of_one_matrix_and_one_kind_share_a_product() -> None:
    waiting = batcher()
    for client, matrix, masked in (("a", 1, True), ("b", 1, False), ("c", 2, True), ("d", 1, True)):
        waiting.add(call(client, matrix, 1.0, masked=masked))
    assert clients_of(waiting.take(1.0)) == ["a", "d"]
    assert clients_of(waiting.take(1.0)) == ["b"]
    assert clients_of(waiting.take(1.0)) == ["c"]


def test_a_late_call_goes_before_a_larger_company() -> None:
    waiting = batcher()
    waiting.add(call("late", 7, 1.0))
    for client in "abc":
        waiting.add(call(client, 1, 1.0 + 2.5 * WINDOW))
    assert clients_of(waiting.take(1.0 + 2.6 * WINDOW)) == ["late"]


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
    assert len(waiting) == 0
    assert waiting.clients == 0
    assert waiting.wait(1.0) is None
