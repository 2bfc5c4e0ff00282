"""How long a silence is normal, from the round trips of a link."""

from __future__ import annotations

import pytest

from cutset.cluster.heartbeat import RoundTrips


def test_quick_links_keep_the_least_silence() -> None:
    trips = RoundTrips()
    assert trips.silence(3.0) == 3.0
    for seconds in (0.0003, 0.002, 0.0005, 0.05) * 10:
        trips.observe(seconds)
    assert trips.silence(3.0) == 3.0
    assert trips.silence(3.0, 0.25) == 3.25


def test_slow_links_get_more_than_a_round_trip() -> None:
    trips = RoundTrips()
    for _ in range(5):
        trips.observe(6.4)
    assert trips.silence(3.0) >= 2 * 6.4
    jittery = RoundTrips()
    for seconds in (1.0, 5.0) * 20:
        jittery.observe(seconds)
    assert jittery.silence(3.0) > 2 * 5.0


def test_what_is_known_beforehand_counts_from_the_start_and_what_is_learned_is_forgotten_again() -> None:
    trips = RoundTrips(known=6.4)
    assert trips.silence(3.0) == 12.8
    once = RoundTrips()
    once.observe(2.5)
    assert once.silence(3.0) > 3.0
    for _ in range(60):
        once.observe(0.001)
    assert once.silence(3.0) == 3.0


@pytest.mark.parametrize("seconds", [-1.0, 301.0, float("nan"), float("inf")])
def test_a_trip_that_cannot_be_is_left_out(seconds: float) -> None:
    trips = RoundTrips()
    trips.observe(seconds)
    assert (trips.count, trips.expected) == (0, 0.0)
