"""Which values would show a picture to whoever sees them.

A value is *picture-like* if a path leads to it from an input on which no layer mixes neighbouring pixels over all
channels: the picture itself, normalised, cut to size, permuted, pooled, or through a pointwise or depthwise layer. A
convolution larger than one element that isn't grouped, or a product with a weight matrix, mixes. This says that no copy
of a picture leaves, in whatever colours or size; it does not say that nobody could infer something of it from features.
"""

from __future__ import annotations

from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Weight, short_name

__all__ = ["mixes", "picture_like"]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "Conv")
PRODUCTS = ("linear", "addmm", "mm", "bmm", "matmul", "addmv", "mv", "Gemm", "MatMul")
GROUPS = {"convolution": 8}  # the argument's place; 6 for the others


def picture_like(graph: Graph) -> frozenset[str]:
    """The names of the values from which a picture could simply be read."""
    found = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if found.intersection(node.reads) and not mixes(graph, node):
            found.update(value.name for value in node.made)
    return frozenset(found)


def mixes(graph: Graph, node: Node) -> bool:
    """Whether the node is one of the layers after which a value isn't picture-like any more."""
    name = short_name(node.op)
    weight = next((n for a in node.args[1:] for n in _read(a) if len(graph.weights[n].shape) > 1), "")
    if not weight:
        return False
    if name in PRODUCTS:
        return True
    if name in CONVOLUTIONS:
        place = GROUPS.get(name, 6)
        groups = node.args[place] if len(node.args) > place else dict(node.kwargs).get("groups", 1)
        groups = dict(node.kwargs).get("group", 1) if name == "Conv" else groups
        return groups == 1 and any(size > 1 for size in graph.weights[weight].shape[2:])
    return False


def _read(argument: Argument) -> list[str]:
    """The weights of an argument: itself, or a quantised one of which ONNX's operators make floats."""
    if isinstance(argument, Weight):
        return [argument.name]
    return [name for one in argument for name in _read(one)] if isinstance(argument, tuple) else []
