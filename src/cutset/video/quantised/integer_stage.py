"""Runs a network in integers: its products by whoever is handed in, everything else by torch, here.

What goes to a product are integers, rounded here; what comes back is float32. So nobody but this process sees a map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.values import Array, copied, readable
from cutset.kernels.reference_linear import top_of
from cutset.partition.node import Node
from cutset.video.network_model import NetworkModel
from cutset.video.quantised.integer_network import IntegerLayer, IntegerNetwork, of_map, product_number
from cutset.video.quantised.picture_products import PictureProducts
from cutset.video.runtimes.onnx_calls import OnnxCall, Operator
from cutset.video.runtimes.onnx_torch_stage import OnnxTorchStage
from cutset.video.torch_stage import TorchStage, to_tensor

__all__ = ["IntegerModel", "IntegerTorchStage", "OnnxIntegerStage", "integers_of", "open_integer_stage"]

# A product's output lies by position, which a view of torch's can't always be taken of.
COPYING = {"aten.view.default": torch.ops.aten.reshape.default}


def integers_of(x: Tensor, scale: float, bits: int, *, map_: bool = True) -> NDArray[np.int16]:
    """A map (1, channels, rows, columns), or rows (…, channels), in integers, flat, by position and then by channel.

    Largest and smallest stand for all beyond them; what is no number becomes one that is in bounds.
    """
    top = top_of(bits)
    by_position = x.permute(0, 2, 3, 1) if map_ else x
    rounded = torch.mul(by_position, 1 / scale).round_().clamp_(-top, top)
    q = rounded.to(torch.int16).clamp_(-top, top).contiguous()
    found: NDArray[np.int16] = q.reshape(-1).numpy()
    return found


class _Multiplied:
    """The products of a stage as functions of tensors."""

    def __init__(self, layers: Collection[IntegerLayer], products: PictureProducts) -> None:
        self.layers, self.products = tuple(layers), products

    def __call__(self, node: Node, number: int, x: Tensor, bias: Tensor | None) -> Tensor:
        layer, made = self.layers[number], node.made[0]
        map_ = of_map(layer.shape, tuple(x.shape), made.shape)
        q = integers_of(x, layer.scale, layer.bits, map_=map_)
        rows = torch.from_numpy(self.products.multiply(number, q, layer.scale))
        if bias is not None:
            rows += bias
        if map_:
            return rows.view(1, *layer.shape.made, layer.shape.outputs).permute(0, 3, 1, 2)
        return rows.view(made.shape)


class IntegerTorchStage(TorchStage):
    """A whole network that was a torch module."""

    def __init__(self, network: IntegerNetwork, products: PictureProducts) -> None:
        self._multiplied = _Multiplied(network.layers, products)
        graph = network.graph
        tensors = {name: to_tensor(array, graph.weights[name]) for name, array in network.weights.items()}
        super().__init__(graph, range(len(graph.nodes)), tensors)

    def _call(self, node: Node) -> Any:
        number = product_number(node.op)
        if number is None:
            return COPYING.get(node.op) or super()._call(node)
        return partial(self._multiplied, node, number)


class OnnxIntegerStage(OnnxTorchStage):
    """A whole network that was an ONNX file."""

    def __init__(self, network: IntegerNetwork, products: PictureProducts) -> None:
        self._multiplied = _Multiplied(network.layers, products)
        super().__init__(network.graph, range(len(network.graph.nodes)), network.weights)

    def _call(self, node: Node) -> tuple[Operator, OnnxCall, list[Any]]:
        number = product_number(node.op)
        if number is None:
            return super()._call(node)

        def multiply(call: OnnxCall, given: Any) -> Tensor:
            return self._multiplied(node, number, *given)

        return multiply, OnnxCall({}, node.outputs, 0), [self._argument(argument, 0) for argument in node.args]


def open_integer_stage(network: IntegerNetwork, products: PictureProducts) -> IntegerTorchStage | OnnxIntegerStage:
    """The network with these products. Raises GraphError where torch can't run a layer, and what products raise."""
    onnx = any(node.op.startswith("onnx.") for node in network.graph.nodes)
    return OnnxIntegerStage(network, products) if onnx else IntegerTorchStage(network, products)


class IntegerModel(NetworkModel):
    """A network in integers as what is run and compared with."""

    def __init__(self, network: IntegerNetwork, products: PictureProducts) -> None:
        super().__init__(network.graph, network.weights)
        self.metadata = network.metadata
        self._stage = open_integer_stage(network, products)

    def run(self, picture: Array) -> dict[str, Array]:
        """The outputs for a picture, by the graph's names. Raises what products raise."""
        pixels = copied(picture.reshape(self.input.shape), self.input)
        made: Mapping[str, Array] = {self.input.name: pixels, **self._stage.run(0, {self.input.name: pixels})}
        return {name: readable(made[name], self.graph.values[name]) for name in self.graph.outputs}
