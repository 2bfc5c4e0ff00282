"""What each value costs between each two parties, and from that what each cut does. All planners look it up here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.partition.hop import path
from cutset.partition.problem import Problem
from cutset.partition.traffic import Traffic

__all__ = ["Crossings", "Table"]

Floats = NDArray[np.float64]


class Table(NamedTuple):
    """Rows (values, cuts or forms) × senders × receivers, parties by number. Seconds, and bytes."""

    nbytes: Floats
    encode: Floats
    wire: Floats  # bytes over bandwidth: how long the link is busy
    decode: Floats

    @property
    def seconds(self) -> Floats:
        """Of all three, without the link's latency."""
        return self.encode + self.wire + self.decode

    def sums(self, rows: Any) -> Table:
        """For a matrix (cuts, rows) of zeros and ones: what each cut costs."""
        return Table(*(np.tensordot(rows, part, 1) for part in self))


class Crossings:
    """The tables of a problem: of values, and of the forms of a picture from the coordinator."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        parties = range(len(problem.machines) + 1)
        links = [[path(problem.hops, i, j) for j in parties] for i in parties]
        self.latency = np.array([[link.latency for link in row] for row in links])
        self._bandwidth = np.array([[link.bandwidth for link in row] for row in links])
        self._codec = np.array([problem.codec, *(machine.codec for machine in problem.machines)])
        self._row = {name: i for i, name in enumerate(problem.graph.values)}
        self.values = self._table({name: problem.traffic[name] for name in self._row})
        self.forms = self._table(problem.pictures)

    def cuts(self, cuts: Sequence[Sequence[str]]) -> Table:
        """The table of cuts, each named by the values that cross it."""
        rows = np.zeros((len(cuts), len(self._row)))
        for i, names in enumerate(cuts):
            rows[i, [self._row[name] for name in names]] = 1
        return self.values.sums(rows)

    def _table(self, traffic: Mapping[Any, Traffic]) -> Table:
        problem = self.problem
        mean = problem.objective == "throughput"
        ways = [one.ways(problem.mode, problem.horizon, mean=mean) for one in traffic.values()]
        most = max(map(len, ways))
        # (rows, ways, sender, receiver); a row with fewer ways than others repeats its first.
        coded = np.array([[*row, *row[:1] * (most - len(row))] for row in ways], np.float64)
        nbytes, encode, decode = (coded[:, :, part, None, None] for part in range(3))
        parts = np.broadcast_arrays(
            nbytes, encode * self._codec[:, None], nbytes / self._bandwidth, decode * self._codec[None, :]
        )
        best = np.argmin(parts[1] + parts[2] + parts[3], axis=1)[:, None]
        return Table(*(np.take_along_axis(part, best, 1)[:, 0] for part in parts))
