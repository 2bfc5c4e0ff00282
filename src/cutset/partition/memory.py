"""How much memory a stage needs: what planners count with, and what workers refuse by."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.partition.graph import Graph
from cutset.partition.lattice import Lattice
from cutset.partition.problem import Problem

__all__ = [
    "fits",
    "held_bytes",
    "held_memory",
    "hop_memory",
    "is_order",
    "order_bytes",
    "pair_bytes",
    "stage_memory",
]

WAITING = 2  # items between two threads of a worker, beside those in flight
MOST_KEPT = 8  # graphs whose table is kept: plans are made several times over
SENDING = 3  # items whose values are computed, encoded or held by the encoder


_kept: dict[int, tuple[weakref.ref[Graph], NDArray[np.float64]]] = {}


def stage_memory(graph: Graph, nodes: Collection[int], takes: float, gives: float, in_flight: int) -> float:
    """Bytes for a stage: weights, state, values at their most, items that wait, and what both ends of its hops hold.

    `takes` and `gives` are the bytes of all values on the hop to it and from it, those that pass it by as well.
    """
    state = sum(graph.nodes[i].state for i in nodes)
    return float(graph.weight_bytes(nodes) + state + graph.peak_bytes(nodes) + hop_memory(takes, gives, in_flight))


def hop_memory(takes: Any, gives: Any, in_flight: int) -> Any:
    """Bytes for what waits at a stage and what its codecs hold: of one stage, or of arrays of them."""
    return (max(in_flight, 1) + WAITING) * takes + SENDING * gives


def held_memory(graph: Graph, nodes: Collection[int], takes: float) -> float:
    """Bytes that a stage needs besides if it computes what changed alone, for one source: all that it made of the item
    before, what it took, and each layer's weights in a form of their own."""
    return takes + float(_held_by_node(graph)[list(nodes)].sum())


def held_bytes(graph: Graph, sets: Lattice) -> NDArray[np.float64]:
    """(sets, sets): the same of a stage from one set to the other."""
    held = sets.done @ _held_by_node(graph)
    found: NDArray[np.float64] = held[None, :] - held[:, None] + sets.nbytes[:, None]
    return found


def _held_by_node(graph: Graph) -> NDArray[np.float64]:
    own = (
        sum(value.nbytes for value in node.made) + sum(graph.weights[name].nbytes for name in node.weights)
        for node in graph.nodes
    )
    return np.fromiter(own, np.float64, len(graph.nodes))


def is_order(sets: Lattice) -> bool:
    """Whether the sets are the cuts of the graph's order, each node alone."""
    nodes = sets.done.shape[1]
    return len(sets.done) == nodes + 1 and bool((sets.done == np.tri(nodes + 1, nodes, -1, dtype=bool)).all())


def pair_bytes(problem: Problem, sets: Lattice) -> NDArray[np.float64]:
    """(sets, sets): what a stage from one set to the other needs (`stage_memory`); infinite where it is none."""
    if is_order(sets):
        stages = order_bytes(problem.graph)
        needs: NDArray[np.float64] = stages + hop_memory(sets.nbytes[:, None], sets.nbytes[None, :], problem.items_held)
        return needs
    needs = np.full((len(sets.values),) * 2, np.inf)
    for a, b in np.argwhere(sets.after()):
        nodes = tuple(int(i) for i in np.flatnonzero(sets.done[b] & ~sets.done[a]))
        needs[a, b] = stage_memory(problem.graph, nodes, sets.nbytes[a], sets.nbytes[b], problem.items_held)
    return needs


def order_bytes(graph: Graph) -> NDArray[np.float64]:
    """(nodes + 1, nodes + 1): weights, state and values at their most of the nodes from one place to another.

    The same as of `Graph.weight_bytes`, `Node.state` and `Graph.peak_bytes`, one node more at a time. Not to be written
    to: it is kept with the graph.
    """
    found = _kept.get(id(graph))
    if found is None or found[0]() is not graph:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        found = _kept[id(graph)] = weakref.ref(graph), _order_bytes(graph)
    return found[1]


def fits(needs: NDArray[np.float64], rooms: Sequence[float], uncut: Collection[int] = ()) -> bool:
    """Whether workers with so many bytes, in their order, some of them with nothing to do, have room for all nodes.

    `needs`: (nodes + 1, nodes + 1) of stages, as `order_bytes` gives it with what hops need. No stage ends at `uncut`.
    """
    reached = np.zeros(len(needs), bool)
    reached[0] = True
    for room in rooms:
        reached |= (np.isfinite(needs[reached]) & (needs[reached] <= room)).any(0)
        reached[list(uncut)] = False
    return bool(reached[-1])


def _order_bytes(graph: Graph) -> NDArray[np.float64]:
    count = len(graph.nodes)
    needs = np.full((count + 1, count + 1), np.inf)
    sizes = {name: value.nbytes for name, value in graph.values.items()}
    for first in range(count):
        alive = np.zeros(count - first)  # while each node runs
        weights: set[str] = set()
        weight_bytes = state = 0
        read: dict[str, int] = {}  # of the values from before: their last reader so far
        kept = 0  # made here so far, and needed by nodes or the caller that come later
        leaving: dict[int, int] = {}  # bytes whose last reader is that node
        for i in range(first, count):
            node, at = graph.nodes[i], i - first
            for name in node.reads:
                if graph.maker[name] < first:
                    # Held from the start until its last reader: this one now.
                    alive[read[name] - first + 1 if name in read else 0 : at] += sizes[name]
                    read[name] = i
            alive[at] += sum(sizes[name] for name in node.reads if name in read)
            made = sum(value.nbytes for value in node.made)
            alive[at] += kept + made
            for value in node.made:
                if last := max(graph.readers[value.name], default=0):
                    leaving[last] = leaving.get(last, 0) + value.nbytes
                    kept += value.nbytes
            kept -= leaving.pop(i, 0)
            for name in node.weights:
                if name not in weights:
                    weights.add(name)
                    weight_bytes += graph.weights[name].nbytes
            state += node.state
            needs[first, i + 1] = weight_bytes + state + alive[: at + 1].max()
    return needs
