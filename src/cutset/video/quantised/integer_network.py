"""A network in integers, and the directory that keeps it.

Its graph is the network's own, with `cutset.product.N` in the place of the layers whose products are of integers: such
a node reads a feature map and, if there is one, the layer's bias in float32. Everything else is computed as before.

In a directory `network.json` describes the graph (`cutset.partition.description`) and the layers, and
`model.safetensors` has `products.N.weight` (I8), `products.N.scale` (F32), and the graph's weights as `graph.NAME`.
Nothing in it is code, and all of it is checked before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.cluster.values import Array, as_kept
from cutset.errors import CheckpointError, GraphError
from cutset.files import write_json
from cutset.kernels.convolution import ConvolutionShape
from cutset.models.files.checkpoint import SafetensorsFile
from cutset.models.files.integer import most_bits
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.partition.description import describe, read_description
from cutset.partition.graph import Graph
from cutset.partition.node import Read, Weight
from cutset.reading import MALFORMED, read_bytes

__all__ = [
    "PRODUCT",
    "IntegerLayer",
    "IntegerNetwork",
    "is_integer_network",
    "of_map",
    "product_number",
    "read_network",
    "write_network",
]

FORMAT = "cutset-pictures-1"
DESCRIPTION, TENSORS = "network.json", "model.safetensors"
MOST_DESCRIPTION = 64 << 20  # bytes
MOST_LAYERS = 10_000
PRODUCT = "cutset.product."
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"} | {
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "U8",
}


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A product of a network: what it is, its weights, and the scale of the integers that its input becomes."""

    number: int
    name: str
    shape: ConvolutionShape
    bits: int  # of the input's integers
    scale: float  # of the input's integers
    weight: NDArray[np.int8]  # (outputs, terms)
    scales: NDArray[np.float32]  # (outputs,)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A graph for pictures of one size, the layers that its products are, and the weights of all others."""

    name: str
    graph: Graph
    layers: Sequence[IntegerLayer]
    weights: Mapping[str, Array]  # as `cutset.cluster.values` keeps them
    metadata: Mapping[str, str]  # what a file said of the network

    def __post_init__(self) -> None:
        """Raises GraphError where graph and layers don't fit together."""
        seen = []
        for node in self.graph.nodes:
            if (number := product_number(node.op)) is None:
                continue
            if not 0 <= number < len(self.layers) or len(node.outputs) != 1 or node.outputs[0] is None:
                raise GraphError(f"{node.name}: there is no product {number} for it")
            seen.append(number)
            layer, made = self.layers[number], node.outputs[0]
            source, bias = (*node.args, None, None)[:2]
            if not isinstance(source, Read) or not (bias is None or isinstance(bias, Weight)) or len(node.args) != 2:
                raise GraphError(f"{node.name}: a product reads a map and, at most, a bias")
            given = self.graph.values[source.name]
            if {given.dtype, made.dtype} != {"float32"} or not fits(layer.shape, given.shape, made.shape):
                raise GraphError(f"{node.name}: {given.shape} to {made.shape} isn't what product {number} makes")
            if bias is not None and self.graph.weights[bias.name].shape != (layer.shape.outputs,):
                raise GraphError(f"{node.name}: its bias hasn't {layer.shape.outputs} elements")
        if seen != list(range(len(self.layers))):
            raise GraphError("the products of a network must stand in it in their order, each once")


def product_number(op: str) -> int | None:
    """N of `cutset.product.N`; None for another operator."""
    rest = op.removeprefix(PRODUCT)
    return int(rest) if rest != op and rest.isascii() and rest.isdigit() and len(rest) < 6 else None


def of_map(shape: ConvolutionShape, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether a product makes of a map of this shape one of that shape."""
    return (given, made) == ((1, shape.channels, shape.rows, shape.columns), (1, shape.outputs, *shape.made))


def fits(shape: ConvolutionShape, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether a product makes of a value of this shape one of that shape: a map of a map, or rows of rows."""
    if of_map(shape, given, made):
        return True
    rows = shape.columns == 1 and shape.plain and len(given) > 1 and given[:-1] == made[:-1]
    return rows and (given[-1], made[-1], math.prod(given[:-1])) == (shape.channels, shape.outputs, shape.rows)


class _Layer(msgspec.Struct, forbid_unknown_fields=True):
    """A layer as it is written."""

    name: str
    rows: int
    columns: int
    channels: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    bits: int
    scale: float


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """network.json."""

    format: str
    name: str
    graph: Any
    layers: list[_Layer]
    metadata: dict[str, str]


def is_integer_network(path: Any) -> bool:
    """Whether this names a directory of a network in integers."""
    try:
        return isinstance(path, str | Path) and (Path(path) / DESCRIPTION).is_file()
    except (OSError, ValueError):
        return False


def write_network(network: IntegerNetwork, directory: Path) -> None:
    """Writes a new directory. Raises ModelError for one that isn't empty, OSError where it can't be written."""
    layout, tensors = dict[str, tuple[str, tuple[int, ...]]](), list[tuple[str, Array]]()

    def add(name: str, dtype: str, array: Array) -> None:
        layout[name] = dtype, array.shape
        tensors.append((name, array))

    for layer in network.layers:
        add(f"products.{layer.number}.weight", "I8", layer.weight)
    for layer in network.layers:
        add(f"products.{layer.number}.scale", "F32", layer.scales)
    for name, value in network.graph.weights.items():
        add(f"graph.{name}", DTYPES[value.dtype], as_kept(network.weights[name], value))
    document = {
        "format": FORMAT,
        "name": network.name,
        "graph": describe(network.graph),
        "layers": [
            {"name": layer.name}
            | {field: getattr(layer.shape, field) for field in layer.shape.__dataclass_fields__}
            | {"bits": layer.bits, "scale": layer.scale}
            for layer in network.layers
        ],
        "metadata": dict(network.metadata),
    }
    with new_directory(directory):
        write_safetensors(directory / TENSORS, layout, tensors, {"format": FORMAT})
        write_json(directory / DESCRIPTION, document)


def read_network(directory: Path) -> IntegerNetwork:
    """The network of a directory. Raises CheckpointError for one that is damaged, or whose sums wouldn't be exact."""
    path = directory / DESCRIPTION
    try:
        document = msgspec.json.decode(read_bytes(path, MOST_DESCRIPTION, "network"), type=_Document)
        if document.format != FORMAT or len(document.layers) > MOST_LAYERS:
            raise ValueError(f"its format is not {FORMAT}")
        graph = read_description(document.graph)
        tensors = SafetensorsFile(directory / TENSORS)
        layers = [_read_layer(tensors, number, one) for number, one in enumerate(document.layers)]
        weights = {name: _read_weight(tensors, graph, name) for name in graph.weights}
        if len(tensors) != 2 * len(layers) + len(weights):
            raise ValueError("its tensors are others than the description's")
        return IntegerNetwork(document.name[:200], graph, layers, weights, document.metadata)
    except (ValueError, GraphError, *MALFORMED) as error:
        raise CheckpointError(f"{path} is not a network in integers: {str(error)[:300]}") from None


def _read_layer(tensors: SafetensorsFile, number: int, one: _Layer) -> IntegerLayer:
    shape = ConvolutionShape(
        one.rows, one.columns, one.channels, one.outputs, one.kernel, one.stride, one.padding, one.dilation, one.groups
    )
    weight = _taken(tensors, f"products.{number}.weight", "I8", shape.weight_shape)
    scales = _taken(tensors, f"products.{number}.scale", "F32", (shape.outputs,))
    if weight.min() < -127 or not 8 <= one.bits <= most_bits(weight):
        raise ValueError(f"sums of {one.name[:80]} with {one.bits} bits wouldn't be exact")
    if not (math.isfinite(one.scale) and one.scale > 1e-30) or not np.isfinite(scales).all() or scales.min() < 0:
        raise ValueError(f"a scale of {one.name[:80]} is none")
    return IntegerLayer(number, one.name[:200], shape, one.bits, one.scale, weight, scales)


def _read_weight(tensors: SafetensorsFile, graph: Graph, name: str) -> Array:
    value = graph.weights[name]
    return as_kept(_taken(tensors, f"graph.{name}", DTYPES[value.dtype], value.shape), value)


def _taken(tensors: SafetensorsFile, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """A copy, so that the file may change afterwards."""
    tensor = tensors.get(name)
    if tensor is None or (tensor.dtype, tensor.shape) != (dtype, shape):
        raise ValueError(f"{name[:120]} isn't there as {dtype} {shape}")
    return np.array(tensor.raw)
