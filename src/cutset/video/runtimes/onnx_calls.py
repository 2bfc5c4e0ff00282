"""ONNX's operators as calls of torch: which of torch's functions does what a node of an ONNX graph says.

Arithmetic is torch's alone. A `OnnxCall` has a node's attributes and what it makes; inputs are tensors, None where one
is left out. What shapes depend on is constant in a graph, so shapes are those of the values that the graph describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cutset.errors import GraphError
from cutset.partition.node import Value

__all__ = ["SIMPLE", "OnnxCall", "Operator"]

Inputs = Sequence[Any]  # tensors, or None


@dataclass(frozen=True)
class OnnxCall:
    """One node."""

    attributes: Mapping[str, Any]
    outputs: tuple[Value | None, ...]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output. Raises GraphError where nobody reads it."""
        if self.outputs[0] is None:
            raise GraphError("its first output is read by nobody")
        return self.outputs[0].shape


Operator = Callable[[OnnxCall, Inputs], Any]


def _of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call, inputs: function(inputs[0])


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call, inputs: function(inputs[0], inputs[1])


def _of_all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(call: OnnxCall, inputs: Inputs) -> Tensor:
        found: Tensor = inputs[0]
        for other in inputs[1:]:
            found = function(found, other)
        return found

    return run


def _reshaped(call: OnnxCall, inputs: Inputs) -> Tensor:
    found: Tensor = inputs[0].reshape(call.shape)
    return found


def numbers(tensor: Tensor | None) -> list[Any]:
    """The elements of a small constant."""
    return [] if tensor is None else tensor.reshape(-1).tolist()


def _dropout(call: OnnxCall, inputs: Inputs) -> Tensor:
    if len(inputs) > 2 and any(numbers(inputs[2])):
        raise GraphError("it draws random numbers")
    found: Tensor = inputs[0].clone()
    return found


def _div(call: OnnxCall, inputs: Inputs) -> Tensor:
    a, b = inputs
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _clip(call: OnnxCall, inputs: Inputs) -> Any:
    x: Tensor = inputs[0]
    bounds = inputs[1:]
    low, high = (*bounds, None, None)[:2] if call.opset >= 11 else (call.get("min"), call.get("max"))
    found: Any = x
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        found = torch.maximum(found, low) if low is not None else found
        return torch.minimum(found, high) if high is not None else found
    return found if low is None and high is None else torch.clamp(found, low, high)


def _selu(call: OnnxCall, inputs: Inputs) -> Tensor:
    alpha, gamma = call.get("alpha", 1.6732631921768188), call.get("gamma", 1.0507010221481323)
    found: Tensor = gamma * F.elu(inputs[0], alpha)
    return found


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def run(call: OnnxCall, inputs: Inputs) -> Tensor:
        x = inputs[0]
        axis = call.get("axis", 1 if call.opset < 13 else -1)
        if call.opset >= 13:
            return function(x, axis)
        rows = 1
        for size in x.shape[:axis]:  # all after the axis count as one
            rows *= size
        return function(x.reshape(rows, -1), -1).reshape(x.shape)

    return run


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(call: OnnxCall, inputs: Inputs) -> Tensor:
        x = inputs[0]
        axes = numbers(inputs[1]) if len(inputs) > 1 else list(call.get("axes", ()))
        if not axes and call.get("noop_with_empty_axes", 0):
            return torch.clone(x)
        return function(x, axes or list(range(x.dim())), bool(call.get("keepdims", 1))).reshape(call.shape)

    return run


def _arg(function: Callable[..., Tensor]) -> Operator:
    def run(call: OnnxCall, inputs: Inputs) -> Tensor:
        if call.get("select_last_index", 0):
            raise GraphError("it takes the last of equal elements, which torch doesn't")
        return function(inputs[0], call.get("axis", 0), bool(call.get("keepdims", 1)))

    return run


def _split(call: OnnxCall, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = inputs[0], call.get("axis", 0)
    sizes = numbers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else list(call.get("split", ()))
    if not sizes:
        count = len(call.outputs)
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return torch.split(x, sizes, axis)


def _slice(call: OnnxCall, inputs: Inputs) -> Tensor:
    x: Tensor = inputs[0]
    if call.opset < 10:
        starts, ends = call.get("starts"), call.get("ends")
        axes, steps = call.get("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends, axes, steps = (numbers(one) for one in (*inputs[1:], None, None)[:4])
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes or range(len(starts)))[i], (steps or [1] * len(starts))[i]
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, places.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _gather(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, places = inputs[0], inputs[1].to(torch.int64)
    axis = call.get("axis", 0)
    places = torch.where(places < 0, places + x.shape[axis], places)
    found: Tensor = x.index_select(axis, places.reshape(-1)).reshape(call.shape)
    return found


def _gather_elements(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, places, axis = inputs[0], inputs[1].to(torch.int64), call.get("axis", 0)
    found: Tensor = x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))
    return found


def _top(call: OnnxCall, inputs: Inputs) -> tuple[Tensor, Tensor]:
    x, axis = inputs[0], call.get("axis", -1)
    count = int(numbers(inputs[1])[0]) if len(inputs) > 1 else call.get("k")
    values, places = torch.sort(
        x, dim=axis, descending=bool(call.get("largest", 1)), stable=True
    )  # the first of equals
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _cast(call: OnnxCall, inputs: Inputs) -> Tensor:
    if call.outputs[0] is None:
        raise GraphError("its output is read by nobody")
    found: Tensor = inputs[0].to(getattr(torch, call.outputs[0].dtype))
    return found


def _gemm(call: OnnxCall, inputs: Inputs) -> Tensor:
    a, b = (x.t() if call.get(key, 0) else x for x, key in zip(inputs, ("transA", "transB"), strict=False))
    found: Tensor = a @ b
    if (alpha := call.get("alpha", 1.0)) != 1:
        found = alpha * found
    if len(inputs) > 2 and inputs[2] is not None:
        found = found + (inputs[2] if call.get("beta", 1.0) == 1 else call.get("beta") * inputs[2])
    return found


def _depth_to_space(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, block = inputs[0], call.get("blocksize")
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    found: Tensor = x.reshape(call.shape)
    return found


def _space_to_depth(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, block = inputs[0], call.get("blocksize")
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    found: Tensor = x.reshape(call.shape)
    return found


SIMPLE: dict[str, Operator] = {
    **{
        name: _of_one(getattr(torch, name.lower()))
        for name in (
            "Abs",
            "Ceil",
            "Cos",
            "Erf",
            "Exp",
            "Floor",
            "Log",
            "Neg",
            "Reciprocal",
            "Relu",
            "Round",
            "Sigmoid",
        )
    },
    **{name: _of_one(getattr(torch, name.lower())) for name in ("Sign", "Sin", "Sqrt", "Tan", "Tanh")},
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshaped),
    "Identity": _of_one(torch.clone),
    "Dropout": _dropout,
    "Not": _of_one(torch.logical_not),
    "Softplus": _of_one(F.softplus),
    "Softsign": _of_one(F.softsign),
    "Mish": _of_one(F.mish),
    "HardSwish": _of_one(F.hardswish),
    "Gelu": lambda call, inputs: F.gelu(inputs[0], approximate=call.get("approximate", "none")),
    "LeakyRelu": lambda call, inputs: F.leaky_relu(inputs[0], call.get("alpha", 0.01)),
    "Elu": lambda call, inputs: F.elu(inputs[0], call.get("alpha", 1.0)),
    "Selu": _selu,
    "HardSigmoid": lambda call, inputs: torch.clamp(
        call.get("alpha", 0.2) * inputs[0] + call.get("beta", 0.5), 0.0, 1.0
    ),
    "PRelu": lambda call, inputs: torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0]),
    "Clip": _clip,
    "Add": _of_two(torch.add),
    "Sub": _of_two(torch.sub),
    "Mul": _of_two(torch.mul),
    "Div": _div,
    "Pow": lambda call, inputs: torch.pow(inputs[0], inputs[1]).to(inputs[0].dtype),
    "And": _of_two(torch.logical_and),
    "Or": _of_two(torch.logical_or),
    "Xor": _of_two(torch.logical_xor),
    "Equal": _of_two(torch.eq),
    "Greater": _of_two(torch.gt),
    "GreaterOrEqual": _of_two(torch.ge),
    "Less": _of_two(torch.lt),
    "LessOrEqual": _of_two(torch.le),
    "Where": lambda call, inputs: torch.where(*inputs),
    "Max": _of_all(torch.maximum),
    "Min": _of_all(torch.minimum),
    "Sum": _of_all(torch.add),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Concat": lambda call, inputs: torch.cat(list(inputs), call.get("axis")),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "TopK": _top,
    "Cast": _cast,
    "Transpose": lambda call, inputs: inputs[0].permute(call.get("perm", tuple(range(inputs[0].dim()))[::-1])),
    "Expand": lambda call, inputs: inputs[0].expand(call.shape),
    "Tile": lambda call, inputs: inputs[0].repeat(numbers(inputs[1])),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "MatMul": _of_two(torch.matmul),
    "Gemm": _gemm,
    "Einsum": lambda call, inputs: torch.einsum(call.get("equation"), *inputs),
}
