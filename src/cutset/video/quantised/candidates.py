"""Which layers of a network are products of a map with fixed weights, in graphs of torch and of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.values import Array
from cutset.kernels.convolution import ConvolutionShape
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight, short_name
from cutset.video.delta.calls import NodeCall

__all__ = ["ProductCandidate", "candidates"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ProductCandidate:
    """A layer that can be a product. `nodes` are those that it stands for: itself, and a norm that was folded in."""

    name: str
    source: str  # the value that it reads
    made: Value
    shape: ConvolutionShape
    weight: Floats  # (outputs, terms)
    bias: Floats | None  # (outputs,)
    nodes: tuple[int, ...]

    @property
    def share(self) -> float:
        """Products for each element that goes out or comes back: what is gained, by what it costs."""
        return self.shape.work / (self.shape.depth + self.shape.positions * self.shape.outputs)


def candidates(graph: Graph, weights: Mapping[str, Array]) -> list[ProductCandidate]:
    """The layers of a graph that can be products, in its order; `weights` as `cutset.cluster.values` keeps them."""
    found = []
    for number, node in enumerate(graph.nodes):
        one = _candidate(graph, weights, number, node)
        if one is not None:
            found.append(_folded(graph, weights, one))
    return found


def _candidate(graph: Graph, weights: Mapping[str, Array], number: int, node: Node) -> ProductCandidate | None:
    build = BUILD.get(short_name(node.op))
    if build is None or len(node.outputs) != 1 or node.outputs[0] is None:
        return None
    call = NodeCall(number, node, node.outputs[0])
    onnx = node.op.startswith("onnx.")

    def array(argument: Any) -> Floats | None:
        if not isinstance(argument, Weight) or graph.weights[argument.name].dtype != "float32":
            return None
        found: Floats = np.asarray(weights[argument.name], np.float32)
        return found

    source = call.arg(0)
    weight, bias = array(call.arg(1)), array(call.arg(2))
    if not isinstance(source, Read) or weight is None or (call.arg(2) is not None and bias is None):
        return None
    given = graph.values[source.name]
    if {given.dtype, call.value.dtype} != {"float32"} or 0 in given.shape:
        return None
    try:
        made = build(call, given, weight, onnx)
    except (TypeError, ValueError):  # arguments that no convolution here has
        return None
    if made is None or (bias is not None and bias.reshape(-1).shape != (made[0].outputs,)):
        return None
    flat = None if bias is None else np.ascontiguousarray(bias.reshape(-1))
    return ProductCandidate(node.name, source.name, call.value, *made, flat, (number,))


def _convolution(call: NodeCall, given: Value, weight: Floats, onnx: bool) -> tuple[ConvolutionShape, Floats] | None:
    if weight.ndim != 4 or len(given.shape) != 4 or given.shape[0] != 1:
        return None
    kernel = weight.shape[2], weight.shape[3]
    if onnx:
        stride, dilation = _pair(call, "strides", (1, 1)), _pair(call, "dilations", (1, 1))
        groups, padding = dict(call.node.kwargs).get("group", 1), _onnx_padding(call, given, kernel)
    else:
        rest = 6 if short_name(call.node.op) == "conv2d" else 8
        if rest == 8 and call.arg(6, False):
            return None  # transposed
        steps, gaps = call.sides(3, 1), call.sides(5, 1)
        if steps is None or gaps is None:
            return None
        stride, dilation = steps, gaps
        groups, padding = call.arg(rest, 1), _torch_padding(call, kernel, dilation)
    if padding is None or type(groups) is not int:
        return None
    shape = ConvolutionShape(
        rows=given.shape[2],
        columns=given.shape[3],
        channels=given.shape[1],
        outputs=weight.shape[0],
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    if call.value.shape != (1, shape.outputs, *shape.made) or weight.shape[1] * groups != shape.channels:
        return None
    return shape, np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(shape.weight_shape)


def _pair(call: NodeCall, name: str, default: tuple[int, int]) -> tuple[int, int]:
    given: Mapping[str, Any] = dict(call.node.kwargs)
    first, second = given.get(name, default)
    return int(first), int(second)


def _onnx_padding(call: NodeCall, given: Value, kernel: tuple[int, int]) -> tuple[int, int, int, int] | None:
    attributes: Mapping[str, Any] = dict(call.node.kwargs)
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        return int(top), int(left), int(bottom), int(right)
    if auto == "VALID":
        return 0, 0, 0, 0
    found = []
    stride, dilation = _pair(call, "strides", (1, 1)), _pair(call, "dilations", (1, 1))
    for size, window, step, gap in zip(given.shape[2:], kernel, stride, dilation, strict=True):
        whole = max((-(-size // step) - 1) * step + (window - 1) * gap + 1 - size, 0)
        found.append((whole // 2, whole - whole // 2) if auto == "SAME_UPPER" else (whole - whole // 2, whole // 2))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def _torch_padding(
    call: NodeCall, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    padding = call.arg(4, 0)
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        down, across = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return down // 2, across // 2, down - down // 2, across - across // 2
    sides = call.sides(4, 0)
    return None if sides is None else (*sides, *sides)


def _rows(call: NodeCall, given: Value, weight: Floats) -> tuple[ConvolutionShape, Floats] | None:
    """A linear layer with weights (outputs, depth)."""
    if weight.ndim != 2 or len(given.shape) < 2 or given.shape[-1] != weight.shape[1]:
        return None
    if call.value.shape != (*given.shape[:-1], weight.shape[0]):
        return None
    shape = ConvolutionShape(math.prod(given.shape[:-1]), 1, weight.shape[1], weight.shape[0])
    return shape, np.ascontiguousarray(weight)


def _linear(call: NodeCall, given: Value, weight: Floats, onnx: bool) -> tuple[ConvolutionShape, Floats] | None:
    return _rows(call, given, weight)


def _matmul(call: NodeCall, given: Value, weight: Floats, onnx: bool) -> tuple[ConvolutionShape, Floats] | None:
    return _rows(call, given, weight.T) if weight.ndim == 2 else None


def _gemm(call: NodeCall, given: Value, weight: Floats, onnx: bool) -> tuple[ConvolutionShape, Floats] | None:
    attributes = dict(call.node.kwargs)
    if attributes.get("transA", 0) or (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) != (1.0, 1.0):
        return None
    return _rows(call, given, weight if attributes.get("transB", 0) else weight.T)


BUILD: Mapping[str, Callable[[NodeCall, Value, Floats, bool], tuple[ConvolutionShape, Floats] | None]] = {
    "conv2d": _convolution,
    "convolution": _convolution,
    "Conv": _convolution,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "MatMul": _matmul,
    "Gemm": _gemm,
}


def _folded(graph: Graph, weights: Mapping[str, Array], one: ProductCandidate) -> ProductCandidate:
    """With the batch norm behind it, where nobody else reads what is between."""
    readers = graph.readers[one.made.name]
    if len(readers) != 1 or readers[0] >= len(graph.nodes):
        return one
    node = graph.nodes[readers[0]]
    norm = _norm(graph, weights, node, one.shape.outputs)
    if norm is None or len(one.made.shape) != 4 or not isinstance(node.args[0], Read):
        return one
    made = next(value for value in node.outputs if value is not None)
    if node.args[0].name != one.made.name or made.shape != one.made.shape or made.dtype != "float32":
        return one
    scale, shift = norm
    before = np.zeros(one.shape.outputs) if one.bias is None else one.bias.astype(np.float64)
    return replace(
        one,
        made=made,
        weight=(one.weight * scale[:, None]).astype(np.float32),
        bias=(before * scale + shift).astype(np.float32),
        nodes=(*one.nodes, readers[0]),
    )


def _norm(
    graph: Graph, weights: Mapping[str, Array], node: Node, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What a batch norm in inference multiplies each channel with, and adds."""
    kind = short_name(node.op)
    if kind not in ("batch_norm", "BatchNormalization") or len(node.made) != 1 or node.outputs[0] is None:
        return None
    if kind == "BatchNormalization":
        attributes = dict(node.kwargs)
        epsilon: Any = attributes.get("epsilon", 1e-5)
        training: Any = attributes.get("training_mode", 0)
    else:
        plain = node.op.startswith("aten.batch_norm")
        epsilon, training = node.args[7 if plain else 6], plain and node.args[5]
    found = []
    for argument, default in zip(node.args[1:5], (1.0, 0.0, None, None), strict=True):
        if argument is None and default is not None:
            found.append(np.full(channels, default))
        elif isinstance(argument, Weight) and graph.weights[argument.name].shape == (channels,):
            found.append(np.asarray(weights[argument.name], np.float64))
        else:
            return None
    if training or not isinstance(epsilon, float):
        return None
    gain, shift, mean, variance = found
    scale = gain / np.sqrt(variance + epsilon)
    return scale, shift - mean * scale
