"""How hops are written, and what lies between two parties on a line."""

from __future__ import annotations

import math

import pytest

from cutset.cluster.emulation import DIRECT, Hop, parse_hop, parse_hops, parse_speeds, path
from cutset.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "bandwidth", "latency"),
    [
        ("8MB/s,20ms", 8e6, 0.02),
        ("8MB/s", 8e6, 0.0),
        ("20ms", math.inf, 0.02),
        (" 1.5 MiB/s , 0.5 s ", 1.5 * 2**20, 0.5),
        ("20ms,300kB/s", 3e5, 0.02),
        ("12B/s,7us", 12.0, 7e-6),
    ],
)
def test_hops_are_read(text, bandwidth, latency):
    hop = parse_hop(text)
    assert (hop.bandwidth, hop.latency) == (bandwidth, pytest.approx(latency))


@pytest.mark.parametrize("text", ["", "8", "8MB", "8mb/s", "8MB/s,8MB/s", "20ms,1s", "-1MB/s", "fast", "8MB/s,20ms,"])
def test_what_is_no_hop_is_refused(text):
    with pytest.raises(ConfigError, match="8MB/s,20ms"):
        parse_hop(text)


def test_zero_and_too_slow_are_refused():
    with pytest.raises(ConfigError, match="carries nothing"):
        parse_hop("0MB/s,20ms")
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="carries nothing"):
            Hop(bad)
    for bad in (-1.0, 61.0, math.nan):
        with pytest.raises(ConfigError, match="latency"):
            Hop(1.0, bad)


def test_a_written_hop_reads_back():
    for hop in (Hop(8e6, 0.02), Hop(1e6), Hop(latency=0.5)):
        assert parse_hop(str(hop)) == hop


def test_paths_add_latencies_and_take_the_least_bandwidth():
    hops = (Hop(8e6, 0.01), Hop(4e6, 0.02), Hop(1e6, 0.04))
    whole = path(hops, 0, 3)
    assert whole == path(hops, 3, 0)
    assert (whole.bandwidth, whole.latency) == (1e6, pytest.approx(0.07))
    assert path(hops, 0, 2) == Hop(4e6, 0.01 + 0.02)
    assert path(hops, 1, 1) == DIRECT
    with pytest.raises(ConfigError, match="parties 0 to 3"):
        path(hops, 0, 4)


def test_one_for_all_or_one_each():
    assert parse_hops([], 3) == (DIRECT,) * 3
    assert parse_hops(["1MB/s"], 2) == (Hop(1e6),) * 2
    assert parse_hops(["1MB/s", "2MB/s"], 2) == (Hop(1e6), Hop(2e6))
    with pytest.raises(ConfigError, match="2 links for 3 hops"):
        parse_hops(["1MB/s", "2MB/s"], 3)
    assert parse_speeds("0.5", 2) == (0.5, 0.5)
    assert parse_speeds("0.125,0.25,1", 3) == (0.125, 0.25, 1.0)
    with pytest.raises(ConfigError, match="2 speeds for 3"):
        parse_speeds("1,1", 3)
    for bad in ("0", "2", "fast", "nan", ""):
        with pytest.raises(ConfigError):
            parse_speeds(bad, 1)
