"""Which calls share a product: who is behind catches up, who was just answered is waited for, nobody starves.

Each test runs over the batcher and its twin in native code.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest

from cutset.kernels.native import extension
from cutset.offload.accelerator.batcher import PATIENCE, Batcher, Call

WINDOW = 0.002
MATRICES = 13


class NativeBatcher:
    """The native one under the same names."""

    def __init__(self, **sizes: Any) -> None:
        self.native = extension().Batcher(**sizes)
        self.names: list[str] = []
        self.calls: dict[tuple[int, int], Call] = {}

    def __len__(self) -> int:
        return len(self.native)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def number(self, client: str) -> int:
        if client not in self.names:
            self.names.append(client)
        return self.names.index(client)

    def join(self, client: str) -> None:
        self.native.join(self.number(client))

    def leave(self, client: str) -> None:
        self.native.leave(self.number(client))

    def answered(self, client: str, now: float) -> None:
        self.native.answered(self.number(client), now)

    def add(self, call: Call) -> bool:
        number = len(self.calls)
        self.calls[self.number(call.client), number] = call
        x = call.x if call.masked else call.x.astype(np.int16)
        return bool(self.native.add(self.number(call.client), number, call.matrix, x, call.arrived))

    def take(self, now: float) -> list[Call]:
        taken = [(self.calls[client, number], matrix) for client, number, matrix in self.native.take(now)]
        assert all(call.matrix == matrix for call, matrix in taken)
        return [call for call, _ in taken]


KINDS = {"python": Batcher, "native": NativeBatcher}
kind: Any = Batcher


@pytest.fixture(params=list(KINDS), autouse=True)
def _each_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "kind", KINDS[request.param])


def batcher(max_rows: int = 64, max_waiting: int = 4) -> Any:
    return kind(matrices=MATRICES, window=WINDOW, max_rows=max_rows, max_waiting=max_waiting)


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


def test_both_choose_the_same() -> None:
    """Long random histories, with rows, quotas, and clients that come and go."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = {"matrices": MATRICES, "window": WINDOW, "max_rows": 12, "max_waiting": 2}
        twins: list[Any] = [Batcher(**sizes), NativeBatcher(**sizes)]
        now = 1.0
        for _ in range(400):
            now += float(rng.exponential(0.0007))
            name, what = str(rng.integers(6)), rng.random()
            if what < 0.5:
                matrix = int(rng.integers(4)) if rng.random() < 0.8 else int(rng.integers(MATRICES))
                one = call(name, matrix, now, rows=int(rng.integers(1, 7)), masked=bool(rng.integers(2)))
                assert twins[0].add(one) == twins[1].add(one)
            elif what < 0.55:
                for twin in twins:
                    twin.leave(name)
            elif what < 0.6:
                for twin in twins:
                    twin.join(name)
            else:
                waits = [twin.wait(now) for twin in twins]
                assert waits[0] == waits[1]
                if waits[0] == 0.0:
                    batches = [[id(one) for one in twin.take(now)] for twin in twins]
                    first = twins[0].clients
                    assert batches[0] == batches[1]
                    assert first == twins[1].clients
                    for one in batches[0]:
                        answered = next(c for c in twins[1].calls.values() if id(c) == one)
                        for twin in twins:
                            twin.answered(answered.client, now + 0.0002)
            assert len(twins[0]) == len(twins[1])
            assert twins[0].complete == twins[1].complete
