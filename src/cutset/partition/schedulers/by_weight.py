"""Consecutive nodes with about as much for each worker, within the workers' memory: bytes of weights, or seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cutset.partition.graph import Graph
from cutset.partition.memory import hop_memory, order_bytes
from cutset.partition.plan import StagePlan

__all__ = ["by_weight"]


def by_weight(
    graph: Graph,
    workers: Sequence[str],
    memory: Mapping[str, float],
    in_flight: int,
    *,
    uncut: Collection[str] = (),
    seconds: Sequence[NDArray[np.float64]] | None = None,
) -> tuple[StagePlan, ...] | None:
    """Stages in the order of the workers, whose largest is as small as can be; None where they don't fit.

    `memory`: bytes that a worker may use, 0 or absent for no limit; one that has too little for any node gets none. Of
    plans that are alike the one counts in which more workers have something to do. No stage ends where one of the
    values in `uncut` would cross. With `seconds` (nodes,) of each worker these are shared out and not the weights.
    """
    count = len(graph.nodes)
    cuts = np.array([cut.nbytes for cut in graph.cuts])
    needs = order_bytes(graph) + hop_memory(cuts[:, None], cuts[None, :], in_flight)
    ends_here = [not set(uncut).intersection(cut.values) for cut in graph.cuts]
    shares = [_work(each) for each in seconds] if seconds is not None else [_weights(graph)] * len(workers)
    # best[i]: the largest stage of the first i nodes on the workers so far, how many have none, and where each ends.
    best: dict[int, tuple[float, int, tuple[int, ...]]] = {0: (0.0, 0, ())}
    for worker, share in zip(workers, shares, strict=True):
        room = memory.get(worker, 0) or math.inf
        found: dict[int, tuple[float, int, tuple[int, ...]]] = {}
        for done, (most, idle, ends) in best.items():
            for last in range(done, count + 1):
                if last > done and (needs[done, last] > room or not ends_here[last]):
                    continue
                made = max(most, share[done, last]), idle + (last == done), (*ends, last)
                if last not in found or made < found[last]:
                    found[last] = made
        best = found
    if count not in best:
        return None
    ends = best[count][2]
    starts = (0, *ends[:-1])
    return tuple(
        StagePlan(worker, tuple(range(first, last)))
        for worker, first, last in zip(workers, starts, ends, strict=True)
        if last > first
    )


def _work(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    done: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(seconds)])
    between: NDArray[np.float64] = done[None, :] - done[:, None]
    return between


def _weights(graph: Graph) -> NDArray[np.float64]:
    count = len(graph.nodes)
    share = np.zeros((count + 1, count + 1))
    for first in range(count):
        known: set[str] = set()
        for last in range(first, count):
            new = set(graph.nodes[last].weights) - known
            known |= new
            share[first, last + 1] = share[first, last] + sum(graph.weights[name].nbytes for name in new)
    return share
