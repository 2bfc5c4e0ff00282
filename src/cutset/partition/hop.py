"""What lies between two neighbouring parties: so many bytes a second, so many seconds on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from cutset.errors import ConfigError

__all__ = ["DIRECT", "Hop", "connections", "parse_hop", "parse_hops", "path", "relayed"]

BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *([A-Za-zµ/]+)")
MOST_LATENCY = 60.0
HELP = "write a link as 8MB/s,20ms: bandwidth in B, kB, MB, MiB or GB a second, latency in s, ms or us"


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """`bandwidth`: bytes a second each way, infinite for no limit; `latency`: seconds one way.

    Messages carry it as it is. Raises ConfigError for what can't be.
    """

    bandwidth: float = math.inf
    latency: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ConfigError(f"a link with a bandwidth of {self.bandwidth:g} B/s carries nothing; give it more than 0")
        if not 0 <= self.latency <= MOST_LATENCY:
            raise ConfigError(f"a latency must be between 0 and {MOST_LATENCY:g} s, not {self.latency:g}")

    def seconds(self, nbytes: float) -> float:
        """From the start of sending until all of it is there, where nothing else is on the way."""
        return self.latency + nbytes / self.bandwidth

    def __str__(self) -> str:
        if not math.isfinite(self.bandwidth):
            return f"{self.latency * 1e3:g}ms"
        return f"{self.bandwidth / 1e6:g}MB/s,{self.latency * 1e3:g}ms"


DIRECT = Hop()


def parse_hop(text: str) -> Hop:
    """`8MB/s,20ms`, `8MB/s` or `20ms`. Raises ConfigError."""
    bandwidth: float | None = None
    latency: float | None = None
    for part in text.split(","):
        found = NUMBER.fullmatch(part.strip())
        unit = found[2] if found else ""
        if found and unit.endswith("/s") and unit[:-2] in BYTES and bandwidth is None:
            bandwidth = float(found[1]) * BYTES[unit[:-2]]
        elif found and unit in SECONDS and latency is None:
            latency = float(found[1]) * SECONDS[unit]
        else:
            raise ConfigError(f"{text!r} is no link: {HELP}")
    if bandwidth == 0:
        raise ConfigError(f"a link of {text!r} carries nothing; give it a bandwidth of more than 0")
    return Hop(math.inf if bandwidth is None else bandwidth, latency or 0.0)


def parse_hops(texts: Sequence[str], count: int) -> tuple[Hop, ...]:
    """The hops between `count` + 1 parties: none given is DIRECT for each, one is for each. Raises ConfigError."""
    hops = [parse_hop(text) for text in texts] or [DIRECT]
    if len(hops) == 1:
        return tuple(hops * count)
    if len(hops) != count:
        raise ConfigError(f"{len(hops)} links for {count} hops: name one for all, or one for each worker")
    return tuple(hops)


def path(hops: Sequence[Hop], i: int, j: int) -> Hop:
    """The connection of two parties on a line; hop k lies between parties k and k + 1.

    It has the least bandwidth and the sum of the latencies of the hops between, whichever way round.
    """
    low, high = min(i, j), max(i, j)
    if not 0 <= low <= high <= len(hops):
        raise ConfigError(f"there are parties 0 to {len(hops)} on this line, not {i} and {j}")
    between = hops[low:high]
    return Hop(min((hop.bandwidth for hop in between), default=math.inf), sum(hop.latency for hop in between))


def relayed(first: Hop, second: Hop) -> Hop:
    """What lies between two parties whose bytes a third one passes on: for any number of bytes the seconds of both."""
    per_byte = 1 / first.bandwidth + 1 / second.bandwidth
    return Hop(1 / per_byte if per_byte else math.inf, min(first.latency + second.latency, MOST_LATENCY))


def connections(parties: Sequence[str], hops: Sequence[Hop]) -> dict[tuple[str, str], Hop]:
    """What lies between all parties of a line, by sender and receiver; hop k leads from party k to party k + 1."""
    numbers = range(len(parties))
    return {(parties[i], parties[j]): path(hops, i, j) for i in numbers for j in numbers if i != j}
