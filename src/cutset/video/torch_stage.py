"""Runs a part of a graph: exactly those nodes, with their weights alone, freeing each value after its last reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import ALIGNMENT, Argument, Keyword, Node, Read, Value, Weight, strides_of
from cutset.video.imports.operators import keyword, operator_of

__all__ = ["TorchStage", "lay", "layout_of", "to_array", "to_tensor"]

Observe = Callable[[Node, float], None]
Look = Callable[[Value, Tensor], None]

BITS = {"bool": torch.uint8, "bfloat16": torch.uint16}  # what numpy hasn't, or parties don't send, is kept as its bits


def to_array(tensor: Tensor) -> Array:
    """The tensor as parties keep and send it: row-major, without a copy where it lies so already."""
    name = str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach().cpu().contiguous()
    array: Array = (tensor.view(BITS[name]) if name in BITS else tensor).numpy()
    return array


def to_tensor(array: Array, value: Value) -> Tensor:
    """The tensor of an array that parties keep; of the same memory."""
    tensor = torch.from_numpy(as_kept(array, value))
    return tensor.view(getattr(torch, value.dtype)) if value.dtype in BITS else tensor


class TorchStage:
    """Some nodes of a graph, ready to run: a range of the order, or any difference of two closed sets.

    `inputs` and `outputs` name the values that it takes from elsewhere and that others need of it. Values that only
    pass by (made before it, needed after it) are not its business: whoever sends the outputs on sends those too.
    """

    def __init__(
        self, graph: Graph, nodes: Collection[int], tensors: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> None:
        """Takes of `tensors` what these nodes need, without copying where it lies on `device` already.

        Raises GraphError where the nodes can't be a stage, or a weight is missing or has another shape or dtype.
        """
        self.graph, self.device = graph, torch.device(device)
        self.nodes = tuple(sorted(set(nodes)))
        self.inputs, self.outputs = graph.boundary(self.nodes)
        self.weights = {name: self._weight(name, tensors) for name in graph.weights_of(self.nodes)}
        self._calls = [(graph.nodes[i], self._call(graph.nodes[i])) for i in self.nodes]
        last = {name: i for i in self.nodes for name in graph.nodes[i].reads}
        kept = set(self.outputs)
        self._frees = [tuple(n for n in graph.nodes[i].reads if last[n] == i and n not in kept) for i in self.nodes]

    def _call(self, node: Node) -> Callable[..., Any]:
        """What computes a node."""
        call: Callable[..., Any] = operator_of(node)
        return call

    def _weight(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        if name not in tensors:
            raise GraphError(f"the weight {name} is missing; this stage needs it")
        value = self.graph.weights[name]
        _check(tensors[name], value, "weight")
        return self._placed(tensors[name], value)

    def _placed(self, tensor: Tensor, value: Value) -> Tensor:
        return lay(tensor.detach().to(self.device), value).requires_grad_(value.requires_grad)

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """What `cutset.cluster.stage` asks of a stage: `forward` of arrays. It keeps nothing from item to item."""
        inputs = {name: to_tensor(values[name], self.graph.values[name]) for name in self.inputs if name in values}
        made = self.forward(inputs, None if observe is None else lambda _, seconds: observe(seconds))
        return {name: to_array(tensor) for name, tensor in made.items()}

    def forward(
        self, inputs: Mapping[str, Tensor], observe: Observe | None = None, look: Look | None = None
    ) -> dict[str, Tensor]:
        """The outputs of this stage, by name, for the inputs of this name.

        `inputs` may hold more; it is not changed, and what it keeps is not freed. No output shares memory with an
        input, a weight or another output, so that each side may overwrite its own. `observe` gets each node and its
        seconds (of the call, so on a GPU not of the work), `look` each value as it lies there. Raises GraphError for an
        input that is missing or misshapen.
        """
        values: dict[str, Tensor] = {}
        for name in self.inputs:
            if name not in inputs:
                raise GraphError(f"the input {name} is missing; this stage needs it")
            _check(inputs[name], self.graph.values[name], "input")
            values[name] = self._placed(inputs[name], self.graph.values[name])
        with torch.no_grad():
            for (node, call), frees in zip(self._calls, self._frees, strict=True):
                begin = time.perf_counter() if observe else 0.0
                args = [self._argument(a, values) for a in node.args]
                made = call(*args, **{key: self._argument(a, values) for key, a in node.kwargs})
                del args
                for value, tensor in zip(node.outputs, made if node.several else (made,), strict=True):
                    if value is not None:
                        values[value.name] = tensor
                        if look:
                            look(value, tensor)
                del made
                for name in frees:
                    del values[name]
                if observe:
                    observe(node, time.perf_counter() - begin)
            return self._own({name: values[name] for name in self.outputs}, inputs)

    def _argument(self, argument: Argument, values: Mapping[str, Tensor]) -> Any:
        if isinstance(argument, Read):
            return values[argument.name]
        if isinstance(argument, Weight):
            return self.weights[argument.name]
        if isinstance(argument, tuple):
            return [self._argument(element, values) for element in argument]
        if isinstance(argument, Keyword):
            return self.device if argument.kind == "device" else keyword(argument)
        return argument

    def _own(self, outputs: dict[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies what is a view of something else, so that it neither changes with it nor keeps it alive."""
        others = {_storage(t) for t in self.weights.values()} | {_storage(inputs[name]) for name in self.inputs}
        for name, tensor in outputs.items():
            if _storage(tensor) in others or tensor.untyped_storage().nbytes() != tensor.nbytes:
                outputs[name] = tensor.clone()
            others.add(_storage(outputs[name]))
        return outputs


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _check(tensor: Tensor, value: Value, kind: str) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tuple(tensor.shape) != value.shape or dtype != value.dtype:
        raise GraphError(
            f"the {kind} {value.name} is {dtype} {tuple(tensor.shape)}; the graph has {value.dtype} {value.shape} there"
        )


def layout_of(tensor: Tensor) -> tuple[tuple[int, ...] | None, int]:
    """`strides` and `offset` of the value that a tensor is."""
    strides, offset = tuple(tensor.stride()), int(tensor.storage_offset()) % (ALIGNMENT // tensor.itemsize)
    return None if strides == strides_of(tuple(tensor.shape)) else strides, offset


def lay(tensor: Tensor, value: Value) -> Tensor:
    """The same values as they lie in memory in the whole network, gaps and repeats included: kernels depend on it."""
    strides = value.strides or strides_of(value.shape)
    if layout_of(tensor) == (value.strides, value.offset):
        return tensor
    laid = torch.empty(value.room, dtype=tensor.dtype, device=tensor.device)
    laid = laid.as_strided(value.shape, strides, value.offset if laid.numel() else 0)
    to = laid
    for d, stride in enumerate(strides):
        if stride == 0 and value.shape[d] > 1:  # an element that stands for many is written once
            to, tensor = to.narrow(d, 0, 1), tensor.narrow(d, 0, 1)
    to.copy_(tensor)
    return laid
