"""How long each node of a decoder takes, by rows and context: measured at a few points, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.models.spec import DecoderSpec
from cutset.models.stages import stage_kv_floats
from cutset.partition.graph import Graph

__all__ = ["CHUNK", "DecoderTimes", "Rates", "rated_times"]

Floats = NDArray[np.float64]
CHUNK = 64  # rows of a prompt in a step, at which prefill is measured
LEAST = 1e-9  # seconds of a node


@dataclass(frozen=True, eq=False)
class DecoderTimes:
    """Seconds of every node of a decoder's graph on one machine.

    `decode`: of a step of so many sequences, a row each, with hardly any context; `prefill`: of one row of a prompt, in
    steps of CHUNK; `attention`: what a row takes more for each token of its context, up to `windows` of them.
    """

    decode: Mapping[int, Floats]  # (nodes,), by rows
    prefill: Floats  # (nodes,)
    attention: Floats  # (nodes,)
    windows: Floats  # (nodes,) tokens, infinite where all are seen

    def step(self, rows: int, context: float) -> Floats:
        """(nodes,) of a step of so many sequences that decode, each with so many tokens before its row."""
        known = sorted(self.decode)
        if rows in self.decode or len(known) == 1:
            found = self.decode.get(rows, self.decode[known[0]])
        else:
            at = min(max(int(np.searchsorted(known, rows)), 1), len(known) - 1)
            low, high = known[at - 1], known[at]
            slope = np.maximum(self.decode[high] - self.decode[low], 0.0) / (high - low)
            found = self.decode[low] + slope * (rows - low)
        return np.maximum(found + rows * self.attention * np.minimum(context, self.windows), LEAST)

    def prompt(self, tokens: int) -> Floats:
        """(nodes,) of a prompt of so many tokens, all of its steps together."""
        seen = np.minimum(tokens, self.windows)
        looked = tokens * seen - seen * seen / 2  # the sum over rows of what each sees
        return np.maximum(self.prefill * tokens + self.attention * looked, LEAST)

    def faster(self, speed: float) -> DecoderTimes:
        """Of a machine that is so many times as fast."""
        decode = {rows: seconds / speed for rows, seconds in self.decode.items()}
        return DecoderTimes(decode, self.prefill / speed, self.attention / speed, self.windows)


@dataclass(frozen=True)
class Rates:
    """What a machine does in general: bytes a second that a step reads, operations a second with many rows."""

    read: float
    compute: float


def rated_times(spec: DecoderSpec, graph: Graph, rates: Rates, element: float) -> DecoderTimes:
    """What a machine of these rates takes for a decoder that nobody measured: each node reads its weights once in a
    step, `element` bytes for each, and computes two operations a weight and row; whichever takes longer counts.

    Of a mixture of experts a step reads those that its rows choose, all being equally likely.
    """
    weights = np.array([node.flops / 2 for node in graph.nodes])
    share = np.ones(len(graph.nodes))  # of a row's work
    if spec.moe is not None:
        sparse = [_sparse(spec, graph, i) for i in range(len(graph.nodes))]
        share = np.where(sparse, spec.moe.top_k / spec.moe.experts, 1.0)

    def step(rows: int) -> Floats:
        read = weights * (1 - (1 - share) ** rows) * element / rates.read
        return np.maximum(read, 2 * weights * share * rows / rates.compute)

    kv = np.array([8.0 * stage_kv_floats(spec, _layers(graph, i)) for i in range(len(graph.nodes))])
    return DecoderTimes(
        {rows: step(rows) for rows in (1, 2, 4, 8, 16, 32, 64)},
        step(CHUNK) / CHUNK,
        kv / rates.read,
        windows_of(spec, graph),
    )


def windows_of(spec: DecoderSpec, graph: Graph) -> Floats:
    """(nodes,) tokens that the layers of each node look back at most."""
    found = []
    for i in range(len(graph.nodes)):
        seen = [spec.window(layer) or math.inf for layer in _layers(graph, i)]
        found.append(max(seen, default=math.inf))
    return np.array(found)


def _layers(graph: Graph, node: int) -> range:
    first, stop = graph.nodes[node].args[:2]
    assert isinstance(first, int)
    assert isinstance(stop, int)
    return range(first, stop)


def _sparse(spec: DecoderSpec, graph: Graph, node: int) -> bool:
    return any(layer in spec.sparse_layers for layer in _layers(graph, node))
