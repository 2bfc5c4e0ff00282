"""Makes a network in integers of one in floats, and of pictures like those that it is for.

Weights are rounded to 8 bits with one scale an output, so that errors are spread where they change least of what the
pictures make there (GPTQ, as language models are), or to the nearest in layers of too many terms for that; a batch norm
behind a convolution becomes part of its scales and bias. The integers of a layer's input have a scale of their own,
from the largest value that the pictures made there, with some room above; what is beyond is taken for the largest.
They have as many bits, 12 at most, as keep every sum exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cutset.cluster.values import Array, copied
from cutset.errors import GraphError
from cutset.kernels.reference_linear import top_of
from cutset.models.files.integer import most_bits
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight, free_name
from cutset.video.network_model import NetworkModel
from cutset.video.quantised.calibration_inputs import LayerInputs
from cutset.video.quantised.candidates import ProductCandidate, candidates
from cutset.video.quantised.integer_network import PRODUCT, IntegerLayer, IntegerNetwork
from cutset.video.runtimes import has_onnx
from cutset.video.runtimes.onnx_calls import OnnxCall, Operator
from cutset.video.runtimes.onnx_torch_stage import OnnxTorchStage
from cutset.video.torch_stage import TorchStage, to_tensor

__all__ = ["LEAST_SHARE", "quantise_network"]

# Products for each element that is sent or comes back, below which a layer isn't worth it: masking, checking and
# unmasking an element take about as long as so many products here. Depthwise convolutions are far below.
LEAST_SHARE = 16.0
ROOM = 1.25  # how far above the largest value that was seen integers reach
BITS = 12


def quantise_network(
    model: NetworkModel,
    pictures: Iterable[Array],
    name: str = "",
    *,
    bits: int = BITS,
    least: float = LEAST_SHARE,
    progress: Callable[[str, int, int], None] | None = None,
) -> IntegerNetwork:
    """The network of a model in integers. `least`: see LEAST_SHARE.

    Raises GraphError for a network without a product, weights that can't be rounded, or where torch can't run it.
    """
    if not 8 <= bits <= BITS:
        raise GraphError(f"activations have 8 to {BITS} bits, not {bits}")
    graph, arrays = model.graph, model.weights
    chosen = [one for one in candidates(graph, arrays) if one.share >= least]
    if not chosen:
        raise GraphError("the network has no convolution or linear layer that would be worth sending away")
    seen = _seen(model, chosen, pictures, progress)
    layers, weights = list[IntegerLayer](), dict[str, Array]()
    nodes, described = dict[int, Node](), dict[str, Value]()
    for number, one in enumerate(chosen):
        if progress is not None:
            progress("rounding weights", number + 1, len(chosen))
        layers.append(_layer(number, one, seen, bits))
        bias: Weight | None = None
        if one.bias is not None:
            bias = Weight(free_name(f"{one.name}.bias", {*graph.weights, *weights}))
            described[bias.name] = Value(bias.name, one.bias.shape, "float32")
            weights[bias.name] = one.bias
        nodes[one.nodes[0]] = _product(graph, number, one, bias)
    gone = {number for one in chosen for number in one.nodes[1:]}
    kept = [nodes.get(i, node) for i, node in enumerate(graph.nodes) if i not in gone]
    used = dict.fromkeys(name for node in kept for name in node.weights)
    described = {name: described.get(name) or graph.weights[name] for name in used}
    found = Graph(graph.inputs, graph.outputs, tuple(kept), described)
    weights = {name: weights[name] if name in weights else arrays[name] for name in used}
    return IntegerNetwork(name, found, layers, weights, dict(model.metadata))


def _product(graph: Graph, number: int, one: ProductCandidate, bias: Weight | None) -> Node:
    first = graph.nodes[one.nodes[0]]
    flops = sum(graph.nodes[i].flops for i in one.nodes)
    args = (Read(one.source), bias)
    return Node(first.name, first.path, f"{PRODUCT}{number}", args, (), (one.made,), False, flops)


def _layer(number: int, one: ProductCandidate, seen: LayerInputs, bits: int) -> IntegerLayer:
    try:
        weight, scales = seen.rounded(number, one)
    except ValueError as error:
        raise GraphError(f"{one.name}: {error}") from None
    own = min(bits, most_bits(weight))
    if own < 8:
        raise GraphError(f"{one.name}: sums of {one.shape.terms} products overflow, even of 8 bits")
    largest = seen.largest[one.source]
    scale = float(np.float32(ROOM * largest / top_of(own))) if largest > 1e-20 else 1.0
    return IntegerLayer(number, one.name, one.shape, own, scale, weight, scales)


def _seen(
    model: NetworkModel,
    chosen: Sequence[ProductCandidate],
    pictures: Iterable[Array],
    progress: Callable[[str, int, int], None] | None,
) -> LayerInputs:
    """What the pictures make of the inputs of these layers."""
    found = LayerInputs(chosen)

    def look(name: str, tensor: Tensor) -> None:
        if name in found.largest:
            found.add(name, tensor.numpy())

    run = _watched(model, look)
    count = 0
    for picture in pictures:
        count += 1
        pixels = copied(picture.reshape(model.input.shape), model.input)
        look(model.input.name, to_tensor(pixels, model.input))
        run(pixels)
        if progress is not None:
            progress("running pictures", count, count)
    if not count:
        raise GraphError("there is no picture to calibrate with")
    return found


def _watched(model: NetworkModel, look: Callable[[str, Tensor], None]) -> Callable[[Array], None]:
    """Runs the network in floats and shows each value."""
    graph, name = model.graph, model.input.name
    if not has_onnx(graph):
        stage = TorchStage(graph, range(len(graph.nodes)), model.tensors)

        def run(pixels: Array) -> None:
            stage.forward({name: to_tensor(pixels, model.input)}, look=lambda value, tensor: look(value.name, tensor))

        return run

    class Watched(OnnxTorchStage):
        """Shows what nodes make."""

        def _keep(
            self, node: Node, function: Operator, call: OnnxCall, given: Sequence[Any], held: dict[str, Tensor]
        ) -> None:
            super()._keep(node, function, call, list(given), held)
            for value in node.made:
                look(value.name, held[value.name])

    watched = Watched(graph, range(len(graph.nodes)), model.weights)

    def watch(pixels: Array) -> None:
        watched.run(0, {name: pixels})

    return watch
