"""ONNX's larger layers as calls of torch: convolutions, pools, norms, padding, resizing, quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cutset.errors import GraphError
from cutset.video.runtimes.onnx_calls import Inputs, OnnxCall, Operator, numbers
from cutset.video.runtimes.onnx_windows import pads_of, resize_axis, resize_scales, unknown_resize

__all__ = ["LAYERS"]


def _around(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    flat = [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, weight, *bias = inputs
    kernel = weight.shape[2:]
    dims = len(kernel)
    steps, gaps = call.get("strides", (1,) * dims), call.get("dilations", (1,) * dims)
    before, after = pads_of(call.attributes, x.shape[2:], kernel, steps, gaps)
    pads = before
    if before != after:
        x, pads = _around(x, before, after), [0] * dims
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return function(x, weight, bias[0] if bias else None, tuple(steps), tuple(pads), tuple(gaps), call.get("group", 1))


def _conv_transposed(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, weight, *rest = inputs
    dims = x.dim() - 2
    steps, gaps = call.get("strides", (1,) * dims), call.get("dilations", (1,) * dims)
    more = list(call.get("output_padding", (0,) * dims))
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    pads = list(call.get("pads", (0,) * 2 * dims))
    plain = call.get("auto_pad", "NOTSET") in ("NOTSET", "") and call.get("output_shape") is None
    bias = rest[0] if rest else None
    if plain and pads[:dims] == pads[dims:] and all(one < step for one, step in zip(more, steps, strict=True)):
        found: Tensor = function(
            x, weight, bias, tuple(steps), tuple(pads[:dims]), tuple(more), call.get("group", 1), tuple(gaps)
        )
        return found
    found = function(x, weight, bias, tuple(steps), 0, 0, call.get("group", 1), tuple(gaps))
    wanted = call.shape[2:]
    for i in range(dims):
        over = found.shape[2 + i] - wanted[i]
        begin = pads[i] if plain else over // 2 if call.get("auto_pad") == "SAME_UPPER" else (over + 1) // 2
        if begin < 0 or begin + wanted[i] > found.shape[2 + i]:
            raise GraphError("its output reaches over what it computes, which torch doesn't")
        found = found.narrow(2 + i, begin, wanted[i])
    return found


def _max_pool(call: OnnxCall, inputs: Inputs) -> Tensor:
    [x], kernel = inputs, call.get("kernel_shape")
    if len(call.outputs) > 1 and call.outputs[1] is not None:
        raise GraphError("it gives places of maxima, which torch counts otherwise")
    dims = len(kernel)
    steps, gaps = call.get("strides", (1,) * dims), call.get("dilations", (1,) * dims)
    before, after = pads_of(call.attributes, x.shape[2:], kernel, steps, gaps)
    most = [window // 2 for window in kernel]
    if before != after or any(pad > half for pad, half in zip(before, most, strict=True)):
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, before = _around(x, before, after, lowest), [0] * dims
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    found: Tensor = function(x, kernel, steps, before, gaps, ceil_mode=bool(call.get("ceil_mode", 0)))
    return found


def _average_pool(call: OnnxCall, inputs: Inputs) -> Tensor:
    [x], kernel = inputs, call.get("kernel_shape")
    dims = len(kernel)
    steps, gaps = call.get("strides", (1,) * dims), call.get("dilations", (1,) * dims)
    before, after = pads_of(call.attributes, x.shape[2:], kernel, steps, gaps)
    most = [window // 2 for window in kernel]
    if any(gap != 1 for gap in gaps):
        raise GraphError("it leaves gaps in its windows, which torch doesn't")
    if before != after or any(pad > half for pad, half in zip(before, most, strict=True)):
        raise GraphError("it pads one side more than the other, which torch doesn't")
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    inclusive = bool(call.get("count_include_pad", 0))
    found: Tensor = function(x, tuple(kernel), tuple(steps), tuple(before), bool(call.get("ceil_mode", 0)), inclusive)
    return found


def _pad(call: OnnxCall, inputs: Inputs) -> Tensor:
    x: Tensor = inputs[0]
    mode = call.get("mode", "constant")
    if call.opset < 11:
        pads, value = list(call.get("pads")), call.get("value", 0.0)
    else:
        pads = numbers(inputs[1])
        value = (numbers(inputs[2]) or [0])[0] if len(inputs) > 2 else 0
    axes = numbers(inputs[3]) if len(inputs) > 3 else []
    axes = [axis % x.dim() for axis in axes] or list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    if mode == "constant":
        return _around(x, before, after, value)
    for axis, (front, behind) in enumerate(zip(before, after, strict=True)):
        if not front and not behind:
            continue
        size = x.shape[axis]
        places = torch.arange(-front, size + behind, device=x.device)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "reflect" and size > 1:
            places = places.remainder(2 * (size - 1))
            places = torch.minimum(places, 2 * (size - 1) - places)
        elif mode == "wrap":
            places = places.remainder(size)
        else:
            raise GraphError(f"it pads by {mode[:20]}, which isn't known")
        x = x.index_select(axis, places)
    return x


def _resize(call: OnnxCall, inputs: Inputs) -> Tensor:
    """Dimension by dimension, by the standard's formulas: places of the nearest elements, or of two and a weight."""
    x: Tensor = inputs[0]
    if why := unknown_resize(call.attributes, call.opset):
        raise GraphError(why)
    given = [number for one in inputs[1:3] if one is not None and one.dim() == 1 for number in numbers(one)]
    sizes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
    scales = resize_scales(call.attributes, x.shape, given, sizes)
    for axis, (size, wanted) in enumerate(zip(x.shape, call.shape, strict=True)):
        if size == wanted and scales.get(axis, 1.0) == 1:
            continue
        between = resize_axis(call.attributes, call.opset, size, wanted, scales.get(axis))
        first, second = (torch.from_numpy(place).to(x.device) for place in between[:2])
        if call.get("mode", "nearest") == "nearest":
            x = x.index_select(axis, first)
        else:
            weight = torch.from_numpy(between.share).to(x.dtype).to(x.device)
            weight = weight.reshape([-1 if d == axis else 1 for d in range(x.dim())])
            x = x.index_select(axis, first) * (1 - weight) + x.index_select(axis, second) * weight
    return x


def _along(call: OnnxCall, x: Tensor, factor: Tensor) -> Tensor:
    """Scales or zero points of an axis, to be combined with x."""
    if factor.dim() == 0 or factor.numel() == 1:
        return factor.reshape(())
    if factor.dim() != 1:
        raise GraphError("it quantises in blocks, which isn't known here")
    axis = call.get("axis", 1) % x.dim()
    return factor.reshape([-1 if d == axis else 1 for d in range(x.dim())])


def _quantise(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, scale, *zero = inputs
    kind = zero[0].dtype if zero and zero[0] is not None else torch.uint8
    info = torch.iinfo(kind)
    steps = torch.round(x / _along(call, x, scale))
    if zero and zero[0] is not None:
        steps = steps + _along(call, x, zero[0]).to(steps.dtype)
    return steps.clamp(info.min, info.max).to(kind)


def _dequantise(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, scale, *zero = inputs
    steps = x.to(torch.int32)
    if zero and zero[0] is not None:
        steps = steps - _along(call, x, zero[0]).to(torch.int32)
    found: Tensor = steps.to(scale.dtype) * _along(call, x, scale)
    return found


def _batch_norm(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, scale, bias, mean, variance = inputs
    if call.get("training_mode", 0):
        raise GraphError("it is in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, call.get("epsilon", 1e-5))


def _layer_norm(call: OnnxCall, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale, *rest = inputs
    shape = x.shape[call.get("axis", -1) :]
    bias = rest[0].reshape(shape) if rest and rest[0] is not None else None
    epsilon = call.get("epsilon", 1e-5)
    found = F.layer_norm(x, shape, scale.expand(shape), bias, epsilon)
    if all(one is None for one in call.outputs[1:]):
        return (found,)
    axes = tuple(range(x.dim() - len(shape), x.dim()))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return found, mean, torch.rsqrt(variance + epsilon)


def _group_norm(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, scale, bias = inputs
    groups = call.get("num_groups")
    if call.opset < 21:  # one for each group, not for each channel
        scale, bias = (one.repeat_interleave(x.shape[1] // groups) for one in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


LAYERS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transposed,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda call, inputs: inputs[0].mean(tuple(range(2, inputs[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda call, inputs: inputs[0].amax(tuple(range(2, inputs[0].dim())), keepdim=True),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda call, inputs: F.instance_norm(
        inputs[0], None, None, inputs[1], inputs[2], True, 0.0, call.get("epsilon", 1e-5)
    ),
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _dequantise,
}
