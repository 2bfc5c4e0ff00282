"""A network for pictures of one size as coordinators run it and compare with it, whatever it was made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cutset.cluster.model import Model
from cutset.cluster.values import Array
from cutset.partition.graph import Graph

__all__ = ["NetworkModel"]


class NetworkModel(Model):
    """A graph of torch's or ONNX's operators, its weights, and the whole network in one piece to compare with.

    `tensors` are the weights as whoever opens stages in this process takes them: torch's for a torch module, arrays for
    an ONNX file. See `cutset.video.runtimes.open_stage`. `metadata` is what a file says of itself, names of classes for
    instance; whoever made it may have written anything.
    """

    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, graph: Graph, weights: Mapping[str, Array], tensors: Mapping[str, Any] | None = None) -> None:
        super().__init__(graph, weights)
        self.tensors: Mapping[str, Any] = weights if tensors is None else tensors

    @abstractmethod
    def run(self, picture: Array) -> dict[str, Array]:
        """The outputs of the network in one piece, computed here: what every plan must give.

        By the graph's names, as `cutset.cluster.values.readable` gives them.
        """
