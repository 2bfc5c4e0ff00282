"""The batcher shares the machine by time: simulated, over both twins, with a clock of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from cutset.offload.accelerator.batcher import HOLD, PATIENCE, SLICE, Batcher, Call, quantum
from offload.test_batcher import NativeBatcher

COST, ROW, FIXED, THINK = 5_000_000, 0.00018, 0.0003, 0.00015  # multiplications, and seconds, of a matrix of 5 million
MATRICES = 13
COLD = 0.0003  # seconds that a product of a row takes longer behind one of somebody else


class Shares(NamedTuple):
    calls: float  # of the modest client, in a second
    colds: int  # of these, behind a product of somebody else
    others: float  # the share of the time that products of all others took
    gap: float  # seconds, the longest between two products of the modest client


class Native(NativeBatcher):
    def take(self, now: float) -> list[Any]:
        taken = []
        for client, number, first, count in self.native.take_pieces(now):
            one = self.calls[client, number]
            one.first, one.count = first, count
            one.charged = count * COST / self.native.speed
            taken.append(one)
        return taken

    def charge(self, client: str, seconds: float) -> None:
        self.native.charge(self.number(client), seconds)

    def hold(self, client: str, held: bool) -> None:
        self.native.hold(self.number(client), held)

    def busy(self, client: str, waits: bool) -> None:
        self.native.busy(self.number(client), waits)

    def may(self, client: str, now: float) -> bool:
        return bool(self.native.may(self.number(client), now))

    def has_room(self, client: str) -> bool:
        return bool(self.native.has_room(self.number(client)))

    def known(self, client: str, number: int, now: float) -> bool:
        return bool(self.native.known(self.number(client), number, now))

    @property
    def speed(self) -> float:
        return float(self.native.speed)

    @speed.setter
    def speed(self, speed: float) -> None:
        self.native.speed = speed


@pytest.fixture(params=[Batcher, Native])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def made(kind: Any, max_waiting: int = 4) -> Any:
    costs = [COST] * MATRICES
    return kind(matrices=MATRICES, window=0.002, max_rows=4096, max_waiting=max_waiting, costs=costs)


def simulate(
    kind: Any, greedy: int, seconds: float, held: bool = False, cold: float = 0.0, think: float = THINK
) -> Shares:
    """A client that asks for a row at a time, beside others that always have four calls of 256 or 512 rows waiting."""
    batcher, now, answered, number = made(kind), 0.0, 0, 0
    batcher.speed = COST / ROW
    names = [f"greedy {i}" for i in range(greedy)]
    back = 0.0  # when the modest one asks again
    colds, others, gap, last = 0, 0.0, 0.0, 0.0
    warm = False

    def fill(name: str) -> None:
        nonlocal number
        number += 1
        x = np.zeros((256 * (1 + number % 2), 1), np.uint32)
        batcher.add(Call(name, number, number % MATRICES, True, x, now))

    for name in names:
        for _ in range(4):
            fill(name)
        batcher.hold(name, held)
    while now < seconds:
        if back is not None and back <= now:
            number += 1
            batcher.add(Call("modest", number, answered % MATRICES, True, np.zeros((1, 1), np.uint32), now))
            back = float("inf")
        wait = batcher.wait(now)
        if wait is None or wait > 0:
            now = min(back, now + (1.0 if wait is None else wait))
            continue
        batch = batcher.take(now)
        rows = sum(one.count for one in batch)
        modest = any(one.client == "modest" for one in batch)
        spent = FIXED + ROW * rows + (0.0 if warm or not modest else cold)
        colds += modest and not warm
        warm = modest
        gap = max(gap, now - last if modest else 0.0)
        now += spent
        last = now if modest else last
        others += 0.0 if modest else spent
        for one in batch:
            batcher.charge(one.client, spent * one.count / rows - one.charged)
            if one.finished:
                batcher.answered(one.client, now)
                if one.client == "modest":
                    answered, back = answered + 1, now + think
                else:
                    fill(one.client)
    return Shares(answered / seconds, colds, others / seconds, gap)


@pytest.mark.parametrize("greedy", [1, 8])
def test_a_client_that_decodes_has_its_share_beside_greedy_ones(kind: Any, greedy: int) -> None:
    alone = simulate(kind, 0, 1.0).calls
    assert alone == pytest.approx(1 / (FIXED + ROW + THINK), rel=0.05)
    assert simulate(kind, greedy, 4.0).calls >= 0.9 * alone / (greedy + 1)


@pytest.mark.parametrize("greedy", [1, 3, 8, 16])
def test_a_client_that_decodes_finds_its_caches_filled(kind: Any, greedy: int) -> None:
    """Where every product behind somebody else's takes longer, it still gets its share: few of its products are."""
    alone, found = simulate(kind, 0, 1.0).calls, simulate(kind, greedy, 4.0, cold=COLD)
    assert found.calls >= 0.9 * alone / (greedy + 1)
    assert found.colds <= 0.1 * found.calls * 4.0


@pytest.mark.parametrize("think", [THINK, 0.002, 0.9 * HOLD])
@pytest.mark.parametrize("greedy", [1, 8])
def test_greedy_ones_have_their_share_beside_a_client_that_decodes(kind: Any, greedy: int, think: float) -> None:
    """The time in which one that decodes is waited for is its own; and it rests for no longer than a round."""
    found = simulate(kind, greedy, 4.0, think=think)
    assert found.others >= 0.93 * greedy / (greedy + 1)
    assert found.gap <= PATIENCE + (greedy + 1) * SLICE


@pytest.mark.parametrize("waiting", [1, 2, 8, 16, 63])
def test_a_quantum_grows_with_those_that_wait_and_keeps_a_round_short(waiting: int) -> None:
    assert SLICE <= quantum(waiting) <= 4 * SLICE
    assert quantum(waiting) == SLICE or waiting * quantum(waiting) <= PATIENCE * 1.000001
    assert quantum(8) > quantum(2) > quantum(1) > SLICE


def test_a_steady_client_is_waited_for_and_one_that_stays_away_is_not(kind: Any) -> None:
    batcher, now, rows = made(kind), 1.0, {"a": 1, "b": 512}
    batcher.speed = COST / ROW
    for number in range(3):
        batcher.add(Call("a", number, number, True, np.zeros((rows["a"], 1), np.uint32), now))
        if number == 1:
            batcher.add(Call("b", 9, 0, True, np.zeros((rows["b"], 1), np.uint32), now))
        assert batcher.wait(now) == 0.0
        assert [one.client for one in batcher.take(now)] == ["a"]
        now += FIXED
        batcher.answered("a", now)
    assert batcher.wait(now + THINK) > 0.0
    assert batcher.take(now + THINK) == []
    assert batcher.wait(now + HOLD + FIXED + THINK) == 0.0
    assert [one.client for one in batcher.take(now + HOLD + FIXED + THINK)] == ["b"]


def stubborn(kind: Any, hostile: int, seconds: float, dues: float) -> float:
    """Calls a second of a client that asks for a row at a time, beside others whose link ends after `dues` seconds of
    work that is no product (refusals, say) and who dial again at once. They take no answers."""
    batcher, now, back, answered, number = made(kind, 2), 0.0, 0.0, 0, 0
    batcher.speed = COST / ROW
    modest, links = "modest", dict.fromkeys(range(hostile), 0)

    def ask(name: str, rows: int, key: int) -> None:
        nonlocal number
        number += 1
        batcher.add(Call(name, number, key % MATRICES, True, np.zeros((rows, 1), np.uint32), now))

    def name(one: int) -> str:
        return f"{one} again {links[one]}"

    while now < seconds:
        if back <= now:
            ask(modest, 1, answered)
            back = float("inf")
        for one in links:  # each has its calls waiting, wants more than it may, and is dropped
            if not batcher.has_room(name(one)):
                continue
            for _ in range(2):
                ask(name(one), 300, 2)
        if batcher.wait(now) != 0.0:
            now += 1e-4
            continue
        batch = batcher.take(now)
        rows = sum(one.count for one in batch)
        spent = FIXED + ROW * rows
        now += spent
        for one in batch:
            batcher.charge(one.client, spent * one.count / rows - one.charged)
            if one.client == modest:
                batcher.answered(modest, now)
                answered, back = answered + 1, now + THINK
                continue
            number_of = int(one.client.split()[0])
            now += dues
            batcher.charge(one.client, dues)
            batcher.leave(one.client)
            links[number_of] += 1
    return answered / seconds


@pytest.mark.parametrize("hostile", [1, 8])
@pytest.mark.parametrize("dues", [0.0, 0.01])
def test_dialling_again_forgives_nothing(kind: Any, hostile: int, dues: float) -> None:
    """A link that is dropped leaves to the next one what it had used."""
    alone = simulate(kind, 0, 1.0).calls
    assert stubborn(kind, hostile, 4.0, dues) >= 0.9 * alone / (hostile + 1)


def test_what_somebody_owed_keeps_no_newcomer_waiting_for_long(kind: Any) -> None:
    batcher = made(kind)
    batcher.speed = COST / ROW
    batcher.join("other")
    for name in ("debtor", "other", "newcomer"):
        if name == "newcomer":
            batcher.charge("debtor", 100.0)
            batcher.leave("debtor")
        batcher.add(Call(name, 1, 0, True, np.zeros((4096, 1), np.uint32), 1.0))
    now, clients = 1.0, set[str]()
    while "newcomer" not in clients:
        batch = batcher.take(now)
        clients = {one.client for one in batch}
        now += sum(one.count for one in batch) * ROW
    assert now < 1.2


@pytest.mark.parametrize("why", ["held", "busy"])
def test_who_was_away_has_saved_nothing_up(kind: Any, why: str) -> None:
    """Neither by taking no answers, nor by asking for nothing and then for work of another kind."""
    batcher = made(kind)
    batcher.speed = COST / ROW
    for name in "ab":
        batcher.add(Call(name, 1, 0, True, np.zeros((1, 1), np.uint32), 1.0))
    batcher.take(1.0)
    batcher.hold("a", why == "held")
    batcher.charge("b", 50.0)
    batcher.add(Call("b", 2, 0, True, np.zeros((1, 1), np.uint32), 60.0))
    assert batcher.wait(60.0) == 0
    if why == "held":
        batcher.add(Call("a", 2, 0, True, np.zeros((1, 1), np.uint32), 60.0))
        batcher.hold("a", False)
    else:
        batcher.busy("a", True)
    batcher.charge("a", 2 * SLICE)
    assert batcher.may("b", 60.0)


def test_nobody_waits_for_who_does_not_take_its_answers(kind: Any) -> None:
    assert simulate(kind, 8, 1.0, held=True).calls >= 0.98 * simulate(kind, 0, 1.0).calls


def test_a_greedy_client_beside_a_modest_one_loses_no_more_than_that_uses(kind: Any) -> None:
    """Where the other one asks rarely, nothing is kept for it."""
    batcher, now, done = made(kind), 0.0, 0
    batcher.speed = COST / ROW
    asks, number = 0.0, 0
    while now < 4.0:
        if asks <= now:
            number += 1
            batcher.add(Call("rare", number, 0, True, np.zeros((1, 1), np.uint32), now))
            asks = now + 0.1
        number += 1
        batcher.add(Call("greedy", number, 1, True, np.zeros((512, 1), np.uint32), now))
        wait = batcher.wait(now)
        if wait:
            now += wait
            continue
        batch = batcher.take(now)
        rows = sum(one.count for one in batch)
        spent = FIXED + ROW * rows
        now += spent
        for one in batch:
            batcher.charge(one.client, spent * one.count / rows - one.charged)
            done += one.count if one.client == "greedy" else 0
            if one.finished:
                batcher.answered(one.client, now)
    assert done * ROW >= 0.75 * 4.0


@pytest.mark.parametrize("late", [0.0, 0.012], ids=["", "heard late"])
@pytest.mark.parametrize("window", [0.002, 0.05])
@pytest.mark.parametrize("behind", [1.2 * SLICE, 2.4 * SLICE, 4 * SLICE, 100 * SLICE])
def test_who_was_interrupted_once_has_company_again(kind: Any, behind: float, window: float, late: float) -> None:
    """Two links of one caller, who asks over both and then takes both answers. Where cores are busy a product may
    seem to take long. Whoever was charged for it lets the other one go first, and then they share products again."""
    batcher = kind(matrices=MATRICES, window=window, max_rows=4096, max_waiting=4, costs=[COST] * MATRICES)
    batcher.speed = COST / ROW
    now, products = 1.0, []
    for number in range(120):
        if number == 5:
            batcher.charge("a", behind)
        for client in "ab":
            batcher.add(Call(client, number, number % MATRICES, True, np.zeros((1, 1), np.uint32), now))
        waiting, count = {"a", "b"}, 0
        while waiting:
            if (wait := batcher.wait(now)) != 0.0:
                now += wait + late
                continue
            batch, count = batcher.take(now), count + 1
            spent = FIXED + ROW * len(batch)
            now += spent
            for one in batch:
                batcher.charge(one.client, spent / len(batch) - one.charged)
                batcher.answered(one.client, now)
                waiting.remove(one.client)
        products.append(count)
        now += THINK
    assert products[:5] == [1] * 5
    apart = products.count(2)
    assert 0 < apart <= 2 + behind / (0.9 * max(window, HOLD))
    assert products == [1] * 5 + [2] * apart + [1] * (115 - apart)


def test_a_piece_takes_about_a_slice(kind: Any) -> None:
    batcher = made(kind)
    batcher.speed = COST / ROW
    for name in "ab":
        batcher.add(Call(name, 1, 0, True, np.zeros((512, 1), np.uint32), 1.0))
    found = [(one.client, one.first, one.count) for one in batcher.take(1.0)]
    assert found == [("a", 0, int(SLICE / ROW))]


def test_a_call_that_waits_runs_or_was_just_answered_is_known(kind: Any) -> None:
    batcher = made(kind)
    one = Call("a", 0, 0, True, np.zeros((1, 1), np.uint32), 1.0)
    assert not batcher.known("a", 0, 1.0)
    batcher.add(one)
    assert batcher.known("a", 0, 1.5)
    batcher.take(2.0)
    assert batcher.known("a", 0, 3.0)
    batcher.answered("a", 4.0)  # it took 3 s: what was sent again in these is read now
    assert batcher.known("a", 0, 6.9)
    assert not batcher.known("a", 0, 7.1)
