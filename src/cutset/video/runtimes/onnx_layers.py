"""ONNX's larger layers as calls of torch: convolutions, pools, norms, padding, resizing, quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cutset.errors import GraphError
from cutset.video.runtimes.onnx_calls import Inputs, OnnxCall, Operator, numbers

__all__ = ["LAYERS"]


def _pads(
    call: OnnxCall, sizes: Sequence[int], kernel: Sequence[int], steps: Sequence[int], gaps: Sequence[int]
) -> Any:
    """What is added in front of each dimension, and behind it."""
    dims, auto = len(kernel), call.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID", ""):
        pads = list(call.get("pads", [0] * 2 * dims)) if auto != "VALID" else [0] * 2 * dims
        return pads[:dims], pads[dims:]
    found = []
    for size, window, step, gap in zip(sizes, kernel, steps, gaps, strict=True):
        found.append(max((-(-size // step) - 1) * step + (window - 1) * gap + 1 - size, 0))
    small, large = [one // 2 for one in found], [one - one // 2 for one in found]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def _around(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    flat = [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(call: OnnxCall, inputs: Inputs) -> Tensor:
    x, weight, *bias = inputs
    kernel = weight.shape[2:]
    dims = len(kernel)
    steps, gaps = call.get("strides", (1,) * dims), call.get("dilations", (1,) * dims)
    before, after = _pads(call, x.shape[2:], kernel, steps, gaps)
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
    before, after = _pads(call, x.shape[2:], kernel, steps, gaps)
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
    before, after = _pads(call, x.shape[2:], kernel, steps, gaps)
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
    how = call.get("mode", "nearest")
    where = call.get("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric")
    known = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")
    if how not in ("nearest", "linear") or where not in known or call.get("antialias", 0):
        raise GraphError(f"it resizes by {how[:20]} and {where[:30]}, which isn't known here")
    scales = [number for one in inputs[1:3] if one is not None and one.dim() == 1 for number in numbers(one)]
    axes = [axis % x.dim() for axis in call.get("axes", range(x.dim()))]
    by_size = len(inputs) > 3 and inputs[3] is not None
    named = _proportions(call, x, axes, inputs[3]) if by_size else dict(zip(axes, scales[-len(axes) :], strict=False))
    for axis, (size, wanted) in enumerate(zip(x.shape, call.shape, strict=True)):
        if size == wanted and named.get(axis, 1.0) == 1:
            continue
        at = _coordinates(where, size, wanted, named.get(axis, wanted / size))
        if how == "nearest":
            x = x.index_select(axis, _nearest(call, at).clamp(0, size - 1).to(x.device))
        else:
            at = at.clamp(0, size - 1)
            low = at.floor()
            weight = (at - low).to(x.dtype).to(x.device).reshape([-1 if d == axis else 1 for d in range(x.dim())])
            first, second = (place.to(torch.int64).clamp(0, size - 1).to(x.device) for place in (low, low + 1))
            x = x.index_select(axis, first) * (1 - weight) + x.index_select(axis, second) * weight
    return x


def _proportions(call: OnnxCall, x: Tensor, axes: Sequence[int], sizes: Tensor) -> dict[int, float]:
    """By how much axes are scaled whose proportions are kept; their sizes are rounded. {} where they needn't be."""
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {}
    scales = [size / x.shape[axis] for axis, size in zip(axes, numbers(sizes), strict=True)]
    return dict.fromkeys(axes, min(scales) if policy == "not_larger" else max(scales))


def _coordinates(where: str, size: int, wanted: int, scale: float) -> Tensor:
    out = torch.arange(wanted, dtype=torch.float32)
    if where == "asymmetric":
        return out / scale
    if where == "align_corners":
        length = scale * size
        return out * (size - 1) / (length - 1) if wanted > 1 else torch.zeros(1)
    if where == "pytorch_half_pixel" and wanted <= 1:
        return torch.zeros(1)
    at = (out + 0.5) / scale - 0.5
    if where == "half_pixel_symmetric":
        at = at + size / 2 * (1 - wanted / (scale * size))
    return at


def _nearest(call: OnnxCall, at: Tensor) -> Tensor:
    mode = call.get("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")
    if mode == "floor":
        return at.floor().to(torch.int64)
    if mode == "ceil":
        return at.ceil().to(torch.int64)
    return (torch.ceil(at - 0.5) if mode == "round_prefer_floor" else torch.floor(at + 0.5)).to(torch.int64)


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
