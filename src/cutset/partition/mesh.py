"""What lies between every two parties: as two matrices, since a thousand machines have a million connections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.partition.hop import Hop

__all__ = ["Mesh", "line", "mesh_of", "star"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Connections by sender and receiver: 0 is the coordinator, worker i is party i + 1. Raises ConfigError."""

    latency: Floats  # (parties, parties) seconds one way
    bandwidth: Floats  # (parties, parties) bytes a second, infinite for no limit

    def __post_init__(self) -> None:
        parties = len(self.latency)
        if self.latency.shape != (parties, parties) or self.bandwidth.shape != (parties, parties):
            raise ConfigError("a mesh has a connection for each two parties")
        if not (np.isfinite(self.latency) & (self.latency >= 0)).all() or not (self.bandwidth > 0).all():
            raise ConfigError("latencies are finite and not below 0, bandwidths above 0")

    def way(self, sender: int, receiver: int) -> Hop:
        """One of them."""
        return Hop(float(self.bandwidth[sender, receiver]), float(self.latency[sender, receiver]))

    def among(self, parties: Sequence[int]) -> Mesh:
        """Those of these parties alone, in their order."""
        chosen = np.ix_(list(parties), list(parties))
        return Mesh(self.latency[chosen], self.bandwidth[chosen])


def line(hops: Sequence[Hop]) -> Mesh:
    """Of parties on a line, hop k between k and k + 1: the least bandwidth and all latencies of the hops between."""
    parties = len(hops) + 1
    sums = np.cumsum([0.0, *(hop.latency for hop in hops)])
    bandwidth = np.full((parties, parties), math.inf)
    each = np.array([hop.bandwidth for hop in hops])
    for i in range(parties - 1):
        bandwidth[i, i + 1 :] = np.minimum.accumulate(each[i:])
    return Mesh(np.abs(sums[:, None] - sums[None, :]), np.minimum(bandwidth, bandwidth.T))


def star(links: Sequence[Hop], coordinator: Hop | None = None) -> Mesh:
    """Of parties that reach each other over one network, each by a link of its own: the slower one of two counts."""
    own = [coordinator or Hop(), *links]
    latency, bandwidth = np.array([[hop.latency, hop.bandwidth] for hop in own]).T
    slower: Any = np.maximum(latency[:, None], latency[None, :])
    np.fill_diagonal(slower, 0.0)
    return Mesh(slower, np.minimum(bandwidth[:, None], bandwidth[None, :]))


def mesh_of(parties: Sequence[str], seen: Mapping[tuple[str, str], Hop]) -> Mesh:
    """Of measured connections, by the names of sender and receiver. One that wasn't measured counts as the other way
    round, or else as the median of those that were."""
    known = list(seen.values()) or [Hop()]
    usual = Hop(float(np.median([hop.bandwidth for hop in known])), float(np.median([hop.latency for hop in known])))
    latency, bandwidth = np.zeros((len(parties),) * 2), np.full((len(parties),) * 2, math.inf)
    for i, sender in enumerate(parties):
        for j, receiver in enumerate(parties):
            if i != j:
                hop = seen.get((sender, receiver)) or seen.get((receiver, sender)) or usual
                latency[i, j], bandwidth[i, j] = hop.latency, hop.bandwidth
    return Mesh(latency, bandwidth)
