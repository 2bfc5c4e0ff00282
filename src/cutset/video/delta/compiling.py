"""From the nodes of a graph to layers that compute some positions: those that can, joined where one follows another.

A batch norm, and what multiplies or adds a constant to each channel, becomes part of the weights before it; an
activation part of the layer before it. Both are so in every run, whatever changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Value, Weight, short_name
from cutset.video.delta.activations import Written, written_out
from cutset.video.delta.builders import BUILDERS, PART_NAMES, Build, part
from cutset.video.delta.calls import NodeCall, is_map
from cutset.video.delta.onnx_builders import ONNX_BUILDERS
from cutset.video.delta.sparse_layers import Affine, Convolution, SparseLayer, Spread

__all__ = ["Compiled", "Compiler", "DenseLayer", "compile_layers"]

Array = NDArray[Any]

FEW = 16  # operations for each element that is read or made: less than it takes to bring it from one form to another
SMALL = 4096  # elements of a constant that says where or how
ALL: Mapping[str, Build] = {**BUILDERS, **ONNX_BUILDERS}
# Of operators that make several values, a layer for each.
PARTS: Mapping[str, Build] = {**dict.fromkeys(PART_NAMES, part), "Split": ONNX_BUILDERS["Split"]}


@dataclass
class DenseLayer:
    """Nodes that are computed whole, by the runtime, where something changed that they read."""

    nodes: list[int]
    reads: tuple[str, ...]  # what holds what they read, in the order of the graph's boundary
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
        self.shapes: dict[str, tuple[int, int, int]] = {}  # of maps that no value of the graph is
        # Values of bytes that are held as floats: pictures, and their channels in another order.
        self.pictures = {name for name in self.inputs if _is_picture(graph.values[name])}

    def run(self) -> Compiled:
        """All layers."""
        written = written_out(self.graph, self.nodes, self.weights)
        inner = {i for one in written.values() for i in one.members} - set(written)
        for i in self.nodes:
            if i in inner:
                continue
            node = self.graph.nodes[i]
            layers = self._written(i, written[i]) if i in written else self._layers(i, node)
            if layers is None:
                self.found.layers.append(DenseLayer([i], (), node.flops))
            for layer in layers or ():
                self.add(layer)
        self._gather_dense()
        return self.found

    def _written(self, number: int, found: Written) -> list[SparseLayer] | None:
        """What becomes of the last of several nodes that are one activation."""
        node = self.graph.nodes[number]
        flops = sum(self.graph.nodes[i].flops for i in found.members)
        call = NodeCall(number, node, node.made[0], found.members, flops)
        layer = self.activate(call, Read(found.source), found.kind)
        assert layer is not False  # `written_out` finds maps alone
        return [layer] if isinstance(layer, SparseLayer) else []

    def _layers(self, number: int, node: Node) -> list[SparseLayer] | None:
        """The layers of a node; none where it became part of others, None where it is computed whole."""
        name = short_name(node.op)
        build = (PARTS if len(node.made) > 1 else ALL).get(name)
        if build is None or not node.made:
            return None
        layers = [build(self, NodeCall.of(number, node, value)) for value in node.made]
        return None if False in layers else [layer for layer in layers if isinstance(layer, SparseLayer)]

    def _gather_dense(self) -> None:
        """Joins nodes that are computed whole; what little lies between such nodes alone is computed with them."""
        layers, last = self.found.layers, len(self.graph.nodes)
        whole = {i for layer in layers if isinstance(layer, DenseLayer) for i in layer.nodes}
        for at, layer in enumerate(layers):
            if not isinstance(layer, SparseLayer) or any(name in self.shapes for name in (*layer.reads, layer.made)):
                continue
            values = [name for i in layer.nodes for name in self.graph.nodes[i].reads]
            made = {value.name for i in layer.nodes for value in self.graph.nodes[i].made}
            read = {i for name in made for i in self.graph.readers[name]} - set(layer.nodes)
            before = {self.graph.maker[name] for name in values if name not in made}
            moved = sum(math.prod(self.graph.values[name].shape) for name in {*values, *made})
            if before and before <= whole and read and read <= whole - {last} and layer.flops <= FEW * moved:
                whole.update(layer.nodes)
                layers[at] = DenseLayer(sorted(layer.nodes), (), layer.flops)
        joined: list[SparseLayer | DenseLayer] = []
        waiting: DenseLayer | None = None  # until something needs it, so that others may be computed with it
        for layer in layers:
            if isinstance(layer, DenseLayer):
                both = sorted([*(waiting.nodes if waiting is not None else []), *layer.nodes])
                if waiting is not None and not self._is_stage(both):
                    joined.append(waiting)
                    both, waiting = layer.nodes, None
                waiting = DenseLayer(both, (), layer.flops + (waiting.flops if waiting is not None else 0))
                continue
            if waiting is not None and {v.name for i in waiting.nodes for v in self.graph.nodes[i].made} & {
                *layer.reads
            }:
                joined.append(waiting)
                waiting = None
            joined.append(layer)
        joined += [waiting] if waiting is not None else []
        for layer in joined:
            if isinstance(layer, DenseLayer):
                layer.reads = tuple(map(self.found.name, self.graph.boundary(layer.nodes)[0]))
        self.found.layers = joined
        held = {name for layer in joined if isinstance(layer, SparseLayer) for name in (*layer.reads, layer.made)}
        self.found.maps = {name: shape for name, shape in self.found.maps.items() if name in held}

    def _is_stage(self, nodes: list[int]) -> bool:
        try:
            self.graph.boundary(nodes)
        except GraphError:
            return False
        return True

    def add(self, layer: SparseLayer) -> None:
        """Puts a layer behind the others."""
        for name in (*layer.reads, layer.made):
            self.hold(name)
        self.found.layers.append(layer)
        self.maker[layer.made] = layer

    def hold(self, name: str) -> None:
        """Notes that a value is held as a map."""
        if name in self.shapes:
            self.found.maps[name] = self.shapes[name]
            return
        _, channels, rows, columns = self.graph.values[name].shape
        self.found.maps[name] = rows, columns, channels

    def between(self, call: NodeCall, shape: tuple[int, int, int]) -> str:
        """A name for a map of these rows, columns and channels that one layer of a node makes for another."""
        name = f"{call.value.name} between"
        while name in self.graph.values or name in self.shapes:
            name += "'"
        self.shapes[name] = shape
        return name

    def map(self, argument: Argument) -> str | None:
        """What holds the map that an argument reads; None where it is none."""
        if not isinstance(argument, Read):
            return None
        name, value = self.found.name(argument.name), self.graph.values[argument.name]
        return name if is_map(value) else None

    def picture(self, argument: Argument) -> str | None:
        """The same for a picture of bytes."""
        if isinstance(argument, Read) and argument.name in self.pictures:
            return self.found.name(argument.name)
        return None

    def before(self, argument: Argument, numbers: Collection[int]) -> SparseLayer | None:
        """The layer that made what these nodes alone read, so that it and they may be one."""
        if isinstance(argument, Read) and set(self.graph.readers[argument.name]) <= set(numbers):
            layer = self.maker.get(argument.name)
            return layer if layer is not None and layer.activation == "none" else None
        return None

    def scaled_by(self, argument: Argument, numbers: Collection[int]) -> Affine | None:
        """What multiplies each channel of what these nodes alone read, and is no layer any more then."""
        layer = self.before(argument, numbers)
        if not isinstance(layer, Affine) or layer.shift.any():
            return None
        self.found.layers = [one for one in self.found.layers if one is not layer]
        del self.found.maps[layer.made], self.maker[layer.made]
        return layer

    def join(self, layer: SparseLayer, call: NodeCall) -> bool:
        """Makes a node part of the layer before it."""
        del self.found.maps[layer.made], self.maker[layer.made]
        layer.nodes += call.numbers
        layer.flops += call.flops
        layer.made = call.value.name
        self.hold(layer.made)
        self.maker[layer.made] = layer
        return True

    def activate(self, call: NodeCall, argument: Argument, kind: str, parameter: float = 0.0) -> SparseLayer | bool:
        """The layer of an activation, or True where one before it takes that in."""
        source = self.map(argument)
        if source is None or not is_map(call.value):
            return False
        layer = self.before(argument, call.numbers)
        if layer is None:
            channels = call.value.shape[1]
            layer = Affine(**self.common(call, source), scale=np.ones(channels), shift=np.zeros(channels))
            layer.activation, layer.parameter = kind, parameter
            return layer
        layer.activation, layer.parameter = kind, parameter
        return self.join(layer, call)

    def array(self, argument: Argument) -> Array | None:
        """A weight, also one of which the graph has quantised numbers; None for others."""
        if isinstance(argument, Weight):
            return np.asarray(self.weights[argument.name])
        if not isinstance(argument, tuple) or len(argument) != 3 or argument[0] != "DequantizeLinear":
            return None
        _, inputs, pairs = argument
        if not isinstance(inputs, tuple) or not isinstance(pairs, tuple):
            return None
        attributes: dict[Any, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        codes, scale, *zero = (self.array(one) for one in inputs)
        if codes is None or scale is None or scale.dtype != np.float32 or attributes.get("block_size", 0):
            return None
        shape = [1] * codes.ndim
        if scale.size > 1:
            shape[attributes.get("axis", 1)] = -1
        steps = codes.astype(np.int32)
        if zero and zero[0] is not None:
            steps = steps - zero[0].astype(np.int32).reshape(shape if zero[0].size > 1 else ())
        return np.asarray(steps.astype(np.float32) * scale.reshape(shape if scale.size > 1 else ()))

    def numbers(self, argument: Argument) -> list[Any] | None:
        """The elements of a small constant; None for others."""
        array = self.array(argument) if isinstance(argument, Weight) else None
        return array.reshape(-1).tolist() if array is not None and array.size <= SMALL else None

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

    def affine(
        self, call: NodeCall, scale: NDArray[np.float64], shift: NDArray[np.float64], argument: Argument
    ) -> SparseLayer | bool:
        """The layer of what multiplies each channel and adds to it, or True where one before it takes that in."""
        source = self.map(argument)
        if source is None or not is_map(call.value):
            return False
        before = self.before(argument, call.numbers)
        if isinstance(before, Convolution | Affine) or (isinstance(before, Spread) and before.products is not None):
            before.scaled(scale, shift)
            return self.join(before, call)
        return Affine(**self.common(call, source), scale=scale, shift=shift)

    def common(self, call: NodeCall, *reads: str) -> dict[str, Any]:
        return {"nodes": list(call.numbers), "reads": reads, "made": call.value.name, "flops": call.flops}


def _is_picture(value: Value) -> bool:
    return value.dtype == "uint8" and len(value.shape) == 4 and value.shape[0] == 1 and 0 not in value.shape
