"""Stages of ONNX graphs that torch's kernels compute, node by node."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutset.cluster.values import Array
from cutset.errors import GraphError, first_line
from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Weight
from cutset.video.runtimes.checked import zeros
from cutset.video.runtimes.onnx_calls import SIMPLE, OnnxCall, Operator
from cutset.video.runtimes.onnx_layers import LAYERS
from cutset.video.torch_stage import to_array, to_tensor

__all__ = ["OnnxTorchStage"]

OPERATORS: dict[str, Operator] = SIMPLE | LAYERS


class OnnxTorchStage:
    """Some nodes of an ONNX graph. See `cutset.cluster.stage`.

    What a node gives is laid out row-major, as it is where it comes over a cut, so that torch chooses the same kernels
    and the bits are the same however the graph is cut.
    """

    def __init__(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Any], device: torch.device | str = "cpu"
    ) -> None:
        """Raises GraphError where they can't be a stage, or torch has no function for an operator."""
        self.graph, self.device = graph, torch.device(device)
        self.inputs, self.outputs = graph.boundary(nodes)
        chosen = sorted(set(nodes))
        self._weights = {name: self._weight(name, weights) for name in graph.weights_of(chosen)}
        self._calls = [(graph.nodes[i], *self._call(graph.nodes[i])) for i in chosen]
        last = {name: i for i in chosen for name in graph.nodes[i].reads}
        kept = set(self.outputs)
        self._frees = [tuple(n for n in graph.nodes[i].reads if last[n] == i and n not in kept) for i in chosen]
        self.run(0, {name: zeros(graph.values[name]) for name in self.inputs})

    def _weight(self, name: str, weights: Mapping[str, Any]) -> Tensor:
        if name not in weights:
            raise GraphError(f"the weight {name} is missing; this stage needs it")
        given, value = weights[name], self.graph.weights[name]
        tensor = to_tensor(given, value) if isinstance(given, np.ndarray) else given
        if tuple(tensor.shape) != value.shape or str(tensor.dtype) != f"torch.{value.dtype}":
            raise GraphError(f"the weight {name} isn't the {value.dtype} {value.shape} that the graph has there")
        return tensor.to(self.device)

    def _call(self, node: Node) -> tuple[Operator, OnnxCall, list[Any]]:
        """The function of a node, its attributes, and its arguments: weights as they are, values as what they read."""
        kind, opset = node.op.split(".")[1], int(node.op.split(".")[2])
        if kind not in OPERATORS:
            raise GraphError(f"{node.name}: torch has no function for {kind}; take --runtime onnxruntime or openvino")
        call = OnnxCall(dict(node.kwargs), node.outputs, opset)
        return OPERATORS[kind], call, [self._argument(argument, opset) for argument in node.args]

    def _argument(self, argument: Argument, opset: int) -> Any:
        if argument is None or isinstance(argument, Read):
            return argument
        if isinstance(argument, Weight):
            return self._weights[argument.name]
        if isinstance(argument, tuple) and len(argument) == 3 and argument[0] == "DequantizeLinear":
            _, inputs, pairs = argument
            if isinstance(inputs, tuple) and isinstance(pairs, tuple):
                attributes = {str(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
                given = [self._argument(one, opset) for one in inputs]
                return LAYERS["DequantizeLinear"](OnnxCall(attributes, (), opset), given)
        raise GraphError("an input is neither a value nor a weight")

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """The outputs of an item."""
        if missing := [name for name in self.inputs if name not in values]:
            raise GraphError(f"the input {missing[0]} is missing; this stage needs it")
        held = {name: to_tensor(values[name], self.graph.values[name]).to(self.device) for name in self.inputs}
        with torch.no_grad():
            for (node, function, call, arguments), frees in zip(self._calls, self._frees, strict=True):
                begin = time.perf_counter() if observe else 0.0
                given = [held[one.name] if isinstance(one, Read) else one for one in arguments]
                self._keep(node, function, call, given, held)
                for name in frees:
                    del held[name]
                if observe:
                    observe(time.perf_counter() - begin)
            return {name: to_array(held[name]) for name in self.outputs}

    def _keep(self, node: Node, function: Operator, call: OnnxCall, given: list[Any], held: dict[str, Tensor]) -> None:
        try:
            made = function(call, given)
        except GraphError as error:
            raise GraphError(f"{node.name}: {error}") from None
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
            raise GraphError(f"{node.name}: torch can't compute it: {first_line(error)}") from None
        made = made if isinstance(made, tuple | list) else (made,)
        if any(value is not None for value in node.outputs[len(made) :]):
            raise GraphError(f"{node.name}: torch gives {len(made)} of its outputs, and more are read")
        for value, tensor in zip(node.outputs, made, strict=False):
            if value is None:
                continue
            if tuple(tensor.shape) != value.shape or str(tensor.dtype) != f"torch.{value.dtype}":
                raise GraphError(f"{value.name} came out as another tensor than the {value.dtype} {value.shape} it is")
            fresh = tensor.contiguous()
            shares = any(isinstance(one, Tensor) and fresh.data_ptr() == one.data_ptr() for one in given)
            held[value.name] = fresh.clone() if shares else fresh
