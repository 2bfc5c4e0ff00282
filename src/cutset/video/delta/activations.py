"""Activations that a graph writes out as several nodes: x * sigmoid(x), x * relu6(x + 3) / 6, the parts of a GELU.

What such nodes are is seen by what they compute: all that lies between one value and another, and is read by nobody
else, is tried on numbers, and compared with the activations that layers have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_sparse import activated
from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Weight, short_name
from cutset.video.delta.calls import is_map

__all__ = ["Written", "written_out"]

KINDS = ("silu", "hardswish", "gelu", "gelu_tanh", "hardsigmoid", "sigmoid")
MOST = 9  # nodes of one activation
CLOSE, NEAR_ZERO = 1e-5, 2e-6  # constants in files are rounded, 1 / 6 for one

Array = NDArray[Any]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """Nodes, the last of which gives an activation of what the value `source` holds."""

    kind: str  # as of `SparseLayer.activation`
    source: str
    members: tuple[int, ...]


def written_out(graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> dict[int, Written]:
    """All of them among these nodes, by their last node."""
    chosen, found, taken = set(nodes), dict[int, Written](), set[int]()
    for last in sorted(chosen, reverse=True):
        if last in taken or not _fits(graph, last, weights):
            continue
        one = _grown(graph, last, chosen - taken, weights)
        if one is not None:
            found[last] = one
            taken.update(one.members)
    return found


def _fits(graph: Graph, number: int, weights: Mapping[str, Array]) -> bool:
    """Whether a node computes each element of its output from the elements at that place alone, and constants."""
    node = graph.nodes[number]
    if len(node.outputs) != 1 or not node.made or not is_map(node.made[0]) or _function(node) is None:
        return False
    if not all(isinstance(one, Read) or _scalar(one, weights) is not None for one in _operands(node)):
        return False
    return all(graph.values[name].shape == node.made[0].shape for name in node.reads)


def _grown(graph: Graph, last: int, free: Collection[int], weights: Mapping[str, Array]) -> Written | None:
    """Goes back from the last node through what it alone needs; the most nodes that are an activation."""
    members, found = {last}, None
    while len(members) <= MOST:
        made = {value.name for i in members for value in graph.nodes[i].made}
        sources = {name for i in members for name in graph.nodes[i].reads} - made
        if len(members) > 1 and len(sources) == 1:
            [source] = sources
            kind = _kind(graph, sorted(members), source, weights)
            if kind and is_map(graph.values[source]):
                found = Written(kind, source, tuple(sorted(members)))
        more = [
            graph.maker[name]
            for name in sources
            if graph.maker[name] in free
            and set(graph.readers[name]) <= members
            and _fits(graph, graph.maker[name], weights)
        ]
        if not more:
            break
        members.add(max(more))
    return found


def _kind(graph: Graph, members: list[int], source: str, weights: Mapping[str, Array]) -> str:
    """The activation that the nodes give of numbers, or ""."""
    held: dict[str, Numbers] = {source: _probe()}
    with np.errstate(all="ignore"):
        for i in members:
            node = graph.nodes[i]
            function = _function(node)
            assert function is not None
            given = [held[one.name] if isinstance(one, Read) else _scalar(one, weights) for one in _operands(node)]
            held[node.made[0].name] = np.asarray(function(*given), np.float64)
    made = held[graph.nodes[members[-1]].made[0].name]
    if made.shape != _probe().shape:
        return ""
    return next((kind for kind in KINDS if np.allclose(made, _wanted(kind), CLOSE, NEAR_ZERO)), "")


@lru_cache(maxsize=1)
def _probe() -> Numbers:
    return np.concatenate([np.linspace(-12, 12, 193), [-200.0, -50.0, 50.0, 200.0]]).astype(np.float32).astype(float)


@lru_cache
def _wanted(kind: str) -> Numbers:
    return activated(kind, _probe().astype(np.float32)).astype(float)


def _scalar(argument: Argument, weights: Mapping[str, Array]) -> float | None:
    """A number, or a weight that is one."""
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return float(argument)
    if isinstance(argument, Weight) and argument.name in weights:
        array = np.asarray(weights[argument.name])
        if array.size == 1 and array.ndim <= 4 and array.dtype == np.float32:
            return float(array.reshape(()))
    return None


def _operands(node: Node) -> tuple[Argument, ...]:
    """What a node computes with; bounds and slopes that torch gives as arguments are among them."""
    return tuple(one for one in node.args if one is not None)


def _erf(x: Numbers) -> Numbers:
    return np.array([math.erf(one) for one in np.ravel(x)]).reshape(np.shape(x))


def _function(node: Node) -> Callable[..., Any] | None:
    """What a node computes of its operands, where it is one of few."""
    name, count = short_name(node.op).lower(), len(_operands(node))
    attributes: dict[str, Any] = dict(node.kwargs)
    onnx = node.op.startswith("onnx.")
    if name == "hardsigmoid" and count == 1 and (onnx or not attributes):
        slope, shift = (attributes.get("alpha", 0.2), attributes.get("beta", 0.5)) if onnx else (1 / 6, 0.5)
        return lambda x: np.clip(slope * x + shift, 0, 1)
    if name == "clip" and not attributes and len(node.args) == count == 3:
        return lambda x, low, high: np.clip(x, low, high)
    if name == "clip" and count == 1 and set(attributes) <= {"min", "max"}:
        low, high = attributes.get("min", -np.inf), attributes.get("max", np.inf)
        return lambda x: np.clip(x, low, high)
    if attributes:
        return None
    if name in ("hardtanh", "clamp") and count == 3:
        return lambda x, low, high: np.clip(x, low, high)
    one: dict[str, Callable[..., Any]] = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "tanh": np.tanh,
        "erf": _erf,
        "exp": np.exp,
        "neg": np.negative,
        "reciprocal": lambda x: 1 / x,
    }
    two: dict[str, Callable[..., Any]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "pow": np.power,
        "max": np.maximum,
        "min": np.minimum,
        "maximum": np.maximum,
        "minimum": np.minimum,
    }
    return one.get(name) if count == 1 else two.get(name) if count == 2 else None
