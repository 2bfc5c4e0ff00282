"""The places where a graph may be cut: closed sets of nodes, each the done side of a cut.

A chain has one more than nodes; branches have many, every combination of how far each branch has come. Between two
blocks all sets pass through one (the cut of a trunk), so their number is a sum over blocks, of products over branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.partition.graph import Graph

__all__ = ["Lattice", "closed_sets", "lattice"]

MOST = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Closed sets, those with fewer nodes first; the first is empty, the last has all nodes."""

    done: NDArray[np.bool_]  # (sets, nodes)
    values: tuple[tuple[str, ...], ...]  # what crosses the cut after each set
    nbytes: NDArray[np.int64]  # (sets,) of those values
    complete: bool  # whether no closed set is missing

    def after(self) -> NDArray[np.bool_]:
        """(sets, sets): [a, b] is whether b has all nodes of a, and more."""
        size = self.done.sum(1)
        common = self.done.astype(np.float32) @ self.done.T.astype(np.float32)
        found: NDArray[np.bool_] = (common == size[:, None]) & (size[None, :] > size[:, None])
        return found

    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of numbers of sets, of which the second has one node more than the first."""
        rows = np.packbits(self.done, axis=1)
        number = {row.tobytes(): i for i, row in enumerate(rows)}
        before, after = [], []
        for node in range(self.done.shape[1]):
            byte, bit = node // 8, np.uint8(128 >> node % 8)
            without = np.flatnonzero(~self.done[:, node])
            more = rows[without]
            more[:, byte] |= bit
            for a, row in zip(without.tolist(), more, strict=True):
                if (b := number.get(row.tobytes())) is not None:
                    before.append(a)
                    after.append(b)
        return np.array(before, np.int64), np.array(after, np.int64)

    def only(self, chosen: Sequence[int]) -> Lattice:
        """With these sets alone, in their order."""
        rows = sorted(chosen)
        everything = self.complete and len(rows) == len(self.values)
        return Lattice(self.done[rows], tuple(self.values[row] for row in rows), self.nbytes[rows], everything)


def closed_sets(graph: Graph, most: int = MOST) -> list[int] | None:
    """All closed sets as bits, by their number of nodes; None if there are more than `most`."""
    needs = [sum(1 << graph.maker[name] for name in node.reads if graph.maker[name] >= 0) for node in graph.nodes]
    found, level = [0], [0]
    for _ in graph.nodes:
        following: dict[int, None] = {}
        for done in level:
            for i, need in enumerate(needs):
                if need & done == need and not done >> i & 1:
                    following[done | 1 << i] = None
            if len(following) + len(found) > most:
                return None
        level = list(following)
        found += level
    return found


def lattice(graph: Graph, most: int = MOST) -> Lattice:
    """All closed sets of a graph, or where they are too many those of its order alone."""
    sets = closed_sets(graph, most)
    complete = sets is not None
    if sets is None:
        sets = [(1 << k) - 1 for k in range(len(graph.nodes) + 1)]
    return _describe(graph, sets, complete)


def _describe(graph: Graph, sets: list[int], complete: bool) -> Lattice:
    count = len(graph.nodes)
    width = (count + 7) // 8
    raw = np.frombuffer(b"".join(done.to_bytes(width, "little") for done in sets), np.uint8).reshape(len(sets), width)
    done = np.unpackbits(raw, axis=1, bitorder="little")[:, :count].astype(bool)
    # A value crosses where its maker is done and one of its readers isn't; the caller reads after all nodes.
    crosses = np.empty((len(sets), len(graph.values)), bool)
    for column, name in enumerate(graph.values):
        readers, maker = graph.readers[name], graph.maker[name]
        made = done[:, maker] if maker >= 0 else True
        inside = [i for i in readers if i < count]
        wanted = ~done[:, inside].all(axis=1) if len(inside) == len(readers) else True
        crosses[:, column] = made & wanted & bool(readers)
    names = list(graph.values)
    sizes = np.array([value.nbytes for value in graph.values.values()], np.int64)
    values = tuple(tuple(names[i] for i in np.flatnonzero(row)) for row in crosses)
    return Lattice(done, values, crosses @ sizes, complete)
