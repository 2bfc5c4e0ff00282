"""Estimates of links: right, robust, quick to follow, and sure of themselves only with reason."""

from __future__ import annotations

import math
import random

import pytest

from cutset.partition.estimates import Line, LinkEstimate
from cutset.partition.hop import Hop, path

TRUE = Hop(4e6, 0.02)


def feed(
    estimate: LinkEstimate, hop: Hop, count: int, sizes: tuple[int, int] = (20_000, 400_000), seed: int = 0
) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        nbytes = rng.randint(*sizes)
        estimate.observe(nbytes, (hop.latency + nbytes / hop.bandwidth) * rng.uniform(0.98, 1.02))


def test_both_are_found_from_sizes_that_differ() -> None:
    estimate = LinkEstimate()
    feed(estimate, TRUE, 24)
    assert estimate.bandwidth == pytest.approx(4e6, rel=0.05)
    assert estimate.latency == pytest.approx(0.02, abs=0.003)
    assert estimate.seconds(100_000) == pytest.approx(0.045, rel=0.05)
    assert estimate.sure > 0.9


def test_sizes_that_are_alike_leave_the_latency() -> None:
    estimate = LinkEstimate(Hop(1e6, 0.02))
    feed(estimate, TRUE, 10, (100_000, 101_000))
    assert estimate.latency == 0.02
    assert estimate.bandwidth == pytest.approx(4e6, rel=0.05)


def test_outliers_move_nothing() -> None:
    estimate, other = LinkEstimate(), LinkEstimate()
    feed(estimate, TRUE, 12)
    feed(other, TRUE, 12)
    for _ in range(2):  # the machine was busy
        other.observe(100_000, 5.0)
    assert other.bandwidth == pytest.approx(estimate.bandwidth, rel=0.1)
    assert other.latency == pytest.approx(estimate.latency, abs=0.01)


def test_a_change_that_lasts_shows_soon() -> None:
    estimate = LinkEstimate()
    feed(estimate, TRUE, 24)
    feed(estimate, Hop(1e6, 0.02), 8, seed=1)
    assert estimate.bandwidth == pytest.approx(1e6, rel=0.25)


def test_who_saw_nothing_is_not_sure() -> None:
    estimate = LinkEstimate(TRUE)
    assert (estimate.sure, estimate.hop) == (0.0, TRUE)
    for nbytes, seconds in [(0, 1.0), (100, 0.0), (100, -1.0), (100, math.nan), (math.inf, 1.0)]:
        estimate.observe(nbytes, seconds)
    assert estimate.count == 0
    steady, noisy = LinkEstimate(), LinkEstimate()
    rng = random.Random(2)
    for _ in range(20):
        steady.observe(100_000, 0.1)
        noisy.observe(100_000, 0.1 * rng.choice([0.2, 1, 3]))
    assert steady.sure == 1.0
    assert noisy.sure < 0.8


def test_tiny_frames_say_nothing_of_the_bandwidth() -> None:
    estimate = LinkEstimate(TRUE)
    for _ in range(20):
        estimate.observe(100, 0.0201)
    assert estimate.bandwidth > 1e6


def test_what_is_seen_of_a_connection_speaks_of_its_slowest_hop() -> None:
    line = Line((Hop(8e6), Hop(4e6), Hop(2e6, 0.01)))
    line.learn(0, 2, Hop(1e6))
    assert [hop.bandwidth for hop in line.hops] == pytest.approx([8e6, 1e6, 2e6])
    line.learn(2, 3, Hop(1e6, 0.01))
    line.learn(3, 0, Hop(1e6, 0.01))  # the other way round is the same connection
    assert [hop.bandwidth for hop in line.hops] == pytest.approx([8e6, 1e6, 1e6], rel=0.01)
    quick = Line((Hop(1e6), Hop(4e6)))
    quick.learn(0, 2, Hop(1e7))
    assert [hop.bandwidth for hop in quick.hops] == pytest.approx([1e7, 1e7])


def test_paths() -> None:
    hops = (Hop(8.0, 1.0), Hop(2.0, 0.5), Hop())
    assert path(hops, 0, 3) == path(hops, 3, 0) == Hop(2.0, 1.5)
    assert path(hops, 2, 3) == path(hops, 1, 1) == Hop()
