"""From the nodes of a graph to layers that compute some positions: those that can, joined where one follows another.

A batch norm, and what multiplies or adds a constant to each channel, becomes part of the weights before it; an
activation part of the layer before it. Both are so in every run, whatever changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Weight, short_name
from cutset.video.delta.builders import BUILDERS, PARTS, part
from cutset.video.delta.calls import NodeCall, is_map
from cutset.video.delta.sparse_layers import Affine, Convolution, SparseLayer

__all__ = ["Compiled", "Compiler", "DenseLayer", "compile_layers"]

Array = NDArray[Any]


@dataclass
class DenseLayer:
    """A node that is computed whole, by the runtime, where something changed that it reads."""

    node: int
    reads: tuple[str, ...]
    flops: int


@dataclass
class Compiled:
    """Layers in order. `alias` names the value that another one is the same as; `maps` those that are held as maps."""

    layers: list[SparseLayer | DenseLayer] = field(default_factory=list)
    alias: dict[str, str] = field(default_factory=dict)
    maps: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # rows, columns, channels

    def name(self, value: str) -> str:
        """What holds a value."""
        return self.alias.get(value, value)


def compile_layers(graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> Compiled:
    """Layers for these nodes, in the order of the graph; `weights` in float32 where they are floats."""
    return Compiler(graph, nodes, weights).run()


class Compiler:
    """Goes through the nodes once; builders ask it for what is known of a node's arguments."""

    def __init__(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> None:
        self.graph, self.nodes, self.weights = graph, sorted(nodes), weights
        self.found = Compiled()
        self.maker: dict[str, SparseLayer] = {}
        self.inputs = graph.boundary(self.nodes)[0]

    def run(self) -> Compiled:
        """All layers."""
        for i in self.nodes:
            node = self.graph.nodes[i]
            build = BUILDERS.get(short_name(node.op))
            layer: SparseLayer | bool = False
            if build is not None and len(node.made) == 1:
                layer = build(self, NodeCall(i, node, node.made[0]))
            elif short_name(node.op) in PARTS and self._parts(i, node):
                continue
            if layer is True:  # it became part of another one
                continue
            if isinstance(layer, SparseLayer):
                self.add(layer)
            else:
                self.found.layers.append(DenseLayer(i, tuple(map(self.found.name, node.reads)), node.flops))
        return self.found

    def add(self, layer: SparseLayer) -> None:
        """Puts a layer behind the others."""
        for name in (*layer.reads, layer.made):
            self.hold(name)
        self.found.layers.append(layer)
        self.maker[layer.made] = layer

    def hold(self, name: str) -> None:
        """Notes that a value is held as a map."""
        _, channels, rows, columns = self.graph.values[name].shape
        self.found.maps[name] = rows, columns, channels

    def map(self, argument: Argument) -> str | None:
        """What holds the map that an argument reads; None where it is none."""
        if not isinstance(argument, Read):
            return None
        name, value = self.found.name(argument.name), self.graph.values[argument.name]
        return name if is_map(value) else None

    def before(self, argument: Argument, number: int) -> SparseLayer | None:
        """The layer that made what this node alone reads, so that the two may be one."""
        if isinstance(argument, Read) and self.graph.readers[argument.name] == (number,):
            layer = self.maker.get(argument.name)
            return layer if layer is not None and layer.activation == "none" else None
        return None

    def join(self, layer: SparseLayer, call: NodeCall) -> bool:
        """Makes a node part of the layer before it."""
        del self.found.maps[layer.made], self.maker[layer.made]
        layer.nodes.append(call.number)
        layer.flops += call.node.flops
        layer.made = call.value.name
        self.hold(layer.made)
        self.maker[layer.made] = layer
        return True

    def constant(self, argument: Argument, channels: int) -> NDArray[np.float64] | None:
        """(channels,) of a number, or of a weight that is one number for each channel of a map; None for others."""
        if isinstance(argument, int | float):
            return np.full(channels, float(argument))
        if not isinstance(argument, Weight):
            return None
        array = np.asarray(self.weights[argument.name])
        if array.size == 1:
            return np.full(channels, float(array.reshape(-1)[0]))
        shape = (1,) * (4 - array.ndim) + array.shape
        return array.reshape(-1).astype(np.float64) if shape == (1, channels, 1, 1) else None

    def statistic(self, argument: Argument, channels: int, default: float) -> NDArray[np.float64] | None:
        """(channels,) of a weight of that shape, or the default; None for others."""
        if argument is None:
            return np.full(channels, default)
        if not isinstance(argument, Weight):
            return None
        array = np.asarray(self.weights[argument.name])
        return array.astype(np.float64) if array.shape == (channels,) else None

    def affine(self, call: NodeCall, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> SparseLayer | bool:
        """The layer of what multiplies each channel and adds to it, or True where one before it takes that in."""
        source = self.map(call.node.args[0])
        if source is None or not is_map(call.value):
            return False
        before = self.before(call.node.args[0], call.number)
        if isinstance(before, Convolution | Affine):
            before.scaled(scale, shift)
            return self.join(before, call)
        return Affine(**self.common(call, source), scale=scale, shift=shift)

    def common(self, call: NodeCall, *reads: str) -> dict[str, Any]:
        return {"nodes": [call.number], "reads": reads, "made": call.value.name, "flops": call.node.flops}

    def _parts(self, number: int, node: Node) -> bool:
        """Whether an operator that parts channels became layers."""
        calls = [NodeCall(number, node, value) for value in node.made]
        layers = [layer for call in calls if isinstance(layer := part(self, call), SparseLayer)]
        if len(layers) < len(calls):
            return False
        for layer in layers:
            self.add(layer)
        return True
