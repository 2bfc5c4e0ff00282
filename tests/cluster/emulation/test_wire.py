"""The arithmetic of a wire, and what a machine that is slower sleeps: no clock but the test's own."""

from __future__ import annotations

import math
import random

import pytest

from cutset.cluster.emulation import Hop, Speed, Wire


def arrivals(wire: Wire, until: float) -> list[float]:
    """The times at which frames arrive, going from event to event."""
    found = []
    while (event := wire.next_event()) is not None and event <= until:
        found += [event] * wire.arrived(event)
    return found


def test_frames_leave_one_after_another_and_fly_at_the_same_time():
    wire = Wire(Hop(100.0, 5.0))
    for nbytes in (100, 200, 50):
        wire.offer(nbytes, 10.0)
    assert arrivals(wire, 100) == pytest.approx([16.0, 18.0, 18.5])


def test_a_wire_that_was_idle_saves_nothing_up():
    wire = Wire(Hop(100.0))
    wire.offer(100, 0.0)
    wire.offer(100, 50.0)
    wire.offer(100, 50.5)
    assert arrivals(wire, 100) == pytest.approx([1.0, 51.0, 52.0])


def test_late_looks_change_nothing():
    rng = random.Random(1)
    offers = sorted((rng.uniform(0, 20), rng.randrange(1, 400)) for _ in range(40))
    exact, late = Wire(Hop(200.0, 0.7)), Wire(Hop(200.0, 0.7))
    expected, at = [], 0.0
    for when, nbytes in offers:  # the formula: start when the one before has left
        at = max(at, when) + nbytes / 200.0
        expected.append(at + 0.7)
    for when, nbytes in offers:
        exact.offer(nbytes, when)
    assert arrivals(exact, 1e9) == pytest.approx(expected)
    found, steps, rest = [], sorted(rng.uniform(0, 60) for _ in range(30)), list(offers)
    for now in steps:
        while rest and rest[0][0] <= now:
            late.offer(rest[0][1], rest.pop(0)[0])
        found.append((now, late.arrived(now)))
    total = 0
    for now, count in found:
        total += count
        assert total == sum(when <= now for when in expected)


def test_bandwidth_changes_in_the_middle_of_a_frame():
    wire = Wire(Hop(100.0))
    wire.offer(1000, 0.0)
    wire.change(Hop(50.0), 4.0)  # 600 bytes are left
    wire.change(Hop(300.0), 8.0)  # 400 bytes are left
    assert arrivals(wire, 1e9) == pytest.approx([8 + 400 / 300])


def test_a_shorter_latency_lets_nothing_overtake():
    wire = Wire(Hop(100.0, 10.0))
    wire.offer(100, 0.0)
    wire.carry(1.0)
    wire.change(Hop(100.0, 1.0), 1.0)
    wire.offer(100, 1.0)
    assert arrivals(wire, 1e9) == pytest.approx([11.0, 11.0])


def test_without_a_limit_everything_is_there_at_once():
    wire = Wire(Hop(math.inf, 0.25))
    wire.offer(1 << 30, 1.0)
    assert wire.waiting == 1
    wire.carry(1.0)
    assert (wire.waiting, wire.in_flight(1.0), wire.in_flight(1.25)) == (0, 1, 0)
    assert arrivals(wire, 10) == [1.25]
    assert wire.next_event() is None


class Clock:
    """Sleeping moves it, by a bit more than was asked."""

    def __init__(self) -> None:
        self.now, self.cpu, self.over, self.sleeps = 0.0, 0.0, 0.0, 0

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self.over


def speed_of(clock: Clock, factor: float) -> Speed:
    return Speed(factor, cpu=lambda: clock.cpu, clock=lambda: clock.now, sleep=clock.sleep)


def test_work_is_paid_by_its_cpu_seconds():
    clock = Clock()
    speed = speed_of(clock, 0.25)
    with speed.work():
        clock.cpu += 1.0
        clock.now += 5.0  # a neighbour had the core
    assert clock.now == pytest.approx(5 + 3)
    assert speed.seconds(1.0) == 4.0


def test_sleeps_that_last_too_long_are_taken_off_the_next_and_short_ones_saved_up():
    clock = Clock()
    clock.over = 0.002
    speed = speed_of(clock, 0.5)
    for _ in range(1000):
        speed.pay(0.003)
    assert clock.now == pytest.approx(3.0, rel=0.01)
    clock = Clock()
    speed = speed_of(clock, 0.5)
    for _ in range(1000):
        speed.pay(1e-5)
    assert clock.now == pytest.approx(0.01, rel=0.02)
    assert clock.sleeps <= 101


def test_work_that_is_always_the_same_counts_as_the_least_it_took_lately():
    clock = Clock()
    speed = speed_of(clock, 0.25)
    for _ in range(3):
        speed.pay(1.0, "a")  # and one second of work
    before = clock.now
    speed.pay(1.5, "a")  # the caches were cold: 4 seconds all the same
    assert clock.now - before == pytest.approx(2.5)
    before = clock.now
    speed.pay(1.5, "b")
    assert clock.now - before == pytest.approx(4.5)
    for _ in range(9):
        before = clock.now
        speed.pay(2.0, "a")  # it has become slower for good
    assert clock.now - before == pytest.approx(6.0)
    for kind in range(100):
        speed.pay(1.0, kind)
    assert len(speed._took) <= 8


def test_full_speed_never_sleeps():
    clock = Clock()
    speed_of(clock, 1.0).pay(10.0)
    assert clock.sleeps == 0
