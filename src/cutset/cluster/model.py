"""What a coordinator runs: a graph, its weights, and the digests of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from cutset.cluster.messages import WeightPart
from cutset.cluster.values import Array, Bytes, as_bytes, digest_of
from cutset.cluster.weight_store import save_weight
from cutset.cluster.wire import PIECE, pack
from cutset.errors import GraphError
from cutset.partition.description import describe, graph_digest
from cutset.partition.graph import Graph
from cutset.partition.node import Value

__all__ = ["Model"]


class Model:
    """A graph with one input, and its weights as `cutset.cluster.values` keeps them; they may be read when they are
    asked for. Raises GraphError."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        if len(graph.inputs) != 1:
            raise GraphError(f"the network takes {len(graph.inputs)} inputs; a run gives it one for each item")
        self.graph = graph
        self.weights = weights
        self.digest = graph_digest(graph)
        self._digests: dict[str, str] = {}

    @property
    def input(self) -> Value:
        """What it takes."""
        return self.graph.inputs[0]

    @cached_property
    def description(self) -> bytes:
        """The graph as JSON."""
        return json.dumps(describe(self.graph), separators=(",", ":"), allow_nan=False).encode()

    def weight_digest(self, name: str) -> str:
        """SHA-256 of a weight; computed when it is first asked for."""
        if name not in self._digests:
            self._digests[name] = digest_of(self.weights[name], self.graph.weights[name])
        return self._digests[name]

    def weight_frames(self, name: str, size: int = PIECE) -> Iterator[tuple[bytes, list[Bytes]]]:
        """The frames that carry a weight to a worker, at most `size` bytes each."""
        data = as_bytes(self.weights[name])
        for at in range(0, data.size, size):
            header, _ = pack(WeightPart(self.weight_digest(name), at, data.size))
            yield header, [data[at : at + size]]

    def save_weights(self, cache: Path) -> None:
        """Puts the weights into a cache, where workers find them."""
        for name, weight in self.weights.items():
            digest = self.weight_digest(name)
            if not (cache / digest).exists():
                save_weight(cache, digest, weight)
