"""Which of ONNX's operators are computed by positions: as `builders`, for graphs of ONNX files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cutset.kernels.reference_sparse import Window
from cutset.partition.node import Argument
from cutset.video.delta.builders import (
    MOST_WINDOW,
    Build,
    arithmetic,
    concatenated,
    convolution,
    everywhere,
    normalised,
    same,
)
from cutset.video.delta.calls import NodeCall, is_map
from cutset.video.delta.sparse_layers import (
    ChannelSlice,
    Concatenation,
    Convolution,
    Pool,
    Resize,
    SparseLayer,
    Spread,
)
from cutset.video.runtimes.onnx_windows import Between, pads_of, resize_axis, resize_scales, unknown_resize

if TYPE_CHECKING:
    from cutset.video.delta.compiling import Compiler

__all__ = ["ONNX_BUILDERS"]

MOST = 1e30  # a limit beyond that is none


def _conv(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source, weight, has_bias = compiler.map(call.arg(0)), compiler.array(call.arg(1)), call.arg(2) is not None
    bias = compiler.array(call.arg(2)) if has_bias else None
    if source is None or weight is None or weight.ndim != 4 or (has_bias and bias is None):
        return False
    place = _window(compiler, call, weight.shape[2:])
    if place is None:
        return False
    return convolution(compiler, call, source, weight, bias, call.attributes.get("group", 1), place)


def _window(compiler: Compiler, call: NodeCall, kernel: tuple[int, ...]) -> Window | None:
    """What the node reads for an output; None where that isn't a window as layers have it."""
    size, given = compiler.graph.values[call.arg(0).name].shape[2:], call.attributes
    steps, gaps = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    if len(kernel) != 2 or len(steps) != 2 or len(gaps) != 2:
        return None
    before, after = pads_of(given, size, kernel, steps, gaps)
    if len(before) != 2 or min(*before, *after) < 0:
        return None
    return Window(*kernel, *steps, *before, *gaps)


def _transposed(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """A transposed convolution whose windows lie side by side: products at each position, which then spread."""
    source, weight, has_bias = compiler.map(call.arg(0)), compiler.array(call.arg(1)), call.arg(2) is not None
    bias = compiler.array(call.arg(2)) if has_bias else None
    given = call.attributes
    if source is None or weight is None or weight.ndim != 4 or (has_bias and bias is None) or not is_map(call.value):
        return False
    block = (weight.shape[2], weight.shape[3])
    size = compiler.graph.values[call.arg(0).name].shape[2:]
    plain = given.get("auto_pad", "NOTSET") in ("NOTSET", "", "VALID") and given.get("group", 1) == 1
    plain = plain and not any((*given.get("pads", ()), *given.get("output_padding", ())))
    plain = plain and set(given.get("dilations", (1,))) == {1} and tuple(given.get("strides", (1, 1))) == block
    if not plain or call.value.shape[2:] != (size[0] * block[0], size[1] * block[1]) or weight.dtype != np.float32:
        return False
    places, (own, outputs) = block[0] * block[1], weight.shape[:2]
    between = compiler.between(call, (size[0], size[1], places * outputs))
    products = Convolution(
        **(compiler.common(call, source) | {"made": between}),
        weight=np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(places * outputs, 1, 1, own),
        bias=np.tile(np.zeros(outputs, np.float32) if bias is None else np.asarray(bias, np.float32), places),
        groups=1,
        place=Window(1, 1),
    )
    compiler.add(products)
    return Spread(**(compiler.common(call, between) | {"flops": 0}), block=block, products=products)


def _depth_to_space(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source, side = compiler.map(call.arg(0)), call.attributes.get("blocksize")
    if source is None or not is_map(call.value) or not isinstance(side, int):
        return False
    apart = call.attributes.get("mode", "DCR") == "CRD"
    return Spread(**compiler.common(call, source), block=(side, side), apart=apart)


def _batch_norm(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    given = call.attributes
    if not is_map(call.value) or given.get("training_mode", 0) or not given.get("spatial", 1) or _hidden(call):
        return False
    return normalised(compiler, call, [call.arg(at) for at in (1, 2, 3, 4)], float(given.get("epsilon", 1e-5)))


def _hidden(call: NodeCall) -> bool:
    """Whether what somebody reads isn't the node's first output."""
    return call.node.outputs[0] is not call.value


def _activation(name: str) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        return compiler.activate(call, call.arg(0), name)

    return build


def _leaky_relu(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    return compiler.activate(call, call.arg(0), "leaky_relu", float(call.attributes.get("alpha", 0.01)))


def _slope(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    slope = compiler.array(call.arg(1))
    if slope is None or slope.size != 1 or not is_map(call.value):
        return False
    return compiler.activate(call, call.arg(0), "leaky_relu", float(slope.reshape(())))


def _gelu(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    how = {"none": "gelu", "tanh": "gelu_tanh"}.get(call.attributes.get("approximate", "none"))
    return compiler.activate(call, call.arg(0), how) if how else False


def _clip(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    bounds = [call.attributes.get(key) for key in ("min", "max")] if call.opset < 11 else [call.arg(1), call.arg(2)]
    low, high = _number(compiler, bounds[0], -math.inf), _number(compiler, bounds[1], math.inf)
    if low != 0 or high is None or high <= 0:
        return False
    kind = ("relu", 0.0) if high > MOST else ("clamp", high)
    return compiler.activate(call, call.arg(0), *kind)


def _number(compiler: Compiler, given: Argument, none: float) -> float | None:
    """What is given as an attribute or a constant; None where it isn't one number."""
    if given is None or isinstance(given, int | float):
        return none if given is None else float(given)
    found = compiler.numbers(given)
    return float(found[0]) if found is not None and len(found) == 1 else None


def _hard_sigmoid(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """A line, limited to 0 to 1."""
    slope, shift = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    if not is_map(call.value):
        return False
    channels = call.value.shape[1]
    layer = compiler.affine(call, np.full(channels, slope), np.full(channels, shift), call.arg(0))
    if layer is False:
        return False
    limited = compiler.maker[call.value.name] if layer is True else layer
    limited.activation, limited.parameter = "clamp", 1.0
    return layer


def _pool(mean: bool) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        source, given = compiler.map(call.arg(0)), call.attributes
        kernel = tuple(given.get("kernel_shape", ()))
        if source is None or len(kernel) != 2 or max(kernel) > MOST_WINDOW or _hidden(call) or not is_map(call.value):
            return False
        place = _window(compiler, call, kernel)
        if place is None:
            return False
        size, made = compiler.graph.values[call.arg(0).name].shape[2:], call.value.shape[2:]
        if any((n - 1) * step - pad >= s for n, step, pad, s in zip(made, place[2:4], place[4:6], size, strict=True)):
            return False  # a window that lies beyond the map
        divisor = 0
        if mean and given.get("count_include_pad", 0):
            if given.get("ceil_mode", 0):
                return False  # what lies beyond the padding isn't counted: that differs from window to window
            divisor = kernel[0] * kernel[1]
        return Pool(**compiler.common(call, source), place=place, mean=mean, divisor=divisor)

    return build


def _global_pool(mean: bool) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        source = compiler.map(call.arg(0))
        return False if source is None else everywhere(compiler, call, source, mean=mean)

    return build


def _reduce_mean(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source, given = compiler.map(call.arg(0)), call.attributes
    axes = compiler.numbers(call.arg(1)) if call.arg(1) is not None else list(given.get("axes", ()))
    if (
        source is None
        or axes is None
        or sorted(int(axis) % 4 for axis in axes) != [2, 3]
        or not given.get("keepdims", 1)
    ):
        return False
    return everywhere(compiler, call, source, mean=True)


def _concat(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    if call.attributes.get("axis") not in (1, -3):
        return False
    return concatenated(compiler, call, call.node.args)


def _split(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """One of the parts: the channels after those of the parts before it, which may be read by nobody."""
    source, given = compiler.map(call.arg(0)), call.attributes
    if source is None or not is_map(call.value) or given.get("axis", 0) not in (1, -3):
        return False
    total, parts = compiler.graph.values[call.arg(0).name].shape[1], call.node.outputs
    sizes: list[Any] | None
    if call.arg(1) is not None:
        sizes = compiler.numbers(call.arg(1))
    else:
        each = -(-total // len(parts))
        sizes = list(given.get("split", ())) or [each] * (len(parts) - 1) + [total - each * (len(parts) - 1)]
    if sizes is None or len(sizes) != len(parts) or sum(sizes) != total:
        return False
    at = next(i for i, one in enumerate(parts) if one is not None and one.name == call.value.name)
    if sizes[at] != call.value.shape[1]:
        return False
    common = compiler.common(call, source) | {"flops": 0}
    return ChannelSlice(**common, first=int(sum(sizes[:at])), count=call.value.shape[1])


def _slice(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """Channels side by side, and any rows and columns."""
    source = compiler.map(call.arg(0))
    if source is None or not is_map(call.value):
        return False
    shape, given = compiler.graph.values[call.arg(0).name].shape, call.attributes
    if call.opset < 10:
        starts, ends, axes, steps = (list(given.get(key, ())) for key in ("starts", "ends", "axes", "steps"))
    else:
        parts = [compiler.numbers(call.arg(at)) if call.arg(at) is not None else [] for at in (1, 2, 3, 4)]
        if any(part is None for part in parts):
            return False
        starts, ends, axes, steps = (part or [] for part in parts)
    axes = [axis % 4 for axis in axes] or list(range(len(starts)))
    places = [range(side) for side in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        places[axis] = range(*slice(start, end, step).indices(shape[axis]))
    if tuple(map(len, places)) != call.value.shape or places[1].step != 1:
        return False
    if (places[2], places[3]) == (range(shape[2]), range(shape[3])):
        return ChannelSlice(**compiler.common(call, source), first=places[1].start, count=len(places[1]))
    if places[1] != range(shape[1]):
        return False
    chosen = [np.array(place, np.int64) for place in places[2:]]
    return _resized(compiler, call, source, *(Between(p, p, np.zeros(len(p), np.float32)) for p in chosen))


def _gather(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """Channels in any order, those of a picture of bytes too: red and blue change places."""
    source, picture = compiler.map(call.arg(0)), compiler.picture(call.arg(0))
    numbers = compiler.numbers(call.arg(1))
    if (source is None and picture is None) or numbers is None or call.attributes.get("axis", 0) not in (1, -3):
        return False
    channels = compiler.graph.values[call.arg(0).name].shape[1]
    if call.value.shape[1:2] != (len(numbers),) or len(call.value.shape) != 4 or not numbers:
        return False
    places = [int(one) + channels if one < 0 else int(one) for one in numbers]
    if picture is not None:
        compiler.pictures.add(call.value.name)
    reads = (source or picture or "",) * len(places)
    ones = (1,) * len(places)
    return Concatenation(**compiler.common(call, *reads), channels=ones, begins=tuple(places))


def _resize(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source, given = compiler.map(call.arg(0)), call.attributes
    if source is None or not is_map(call.value) or unknown_resize(given, call.opset):
        return False
    if given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    numbers: list[float] = []
    for at in (1, 2):
        part = compiler.numbers(call.arg(at)) if call.arg(at) is not None else []
        if part is None:
            return False
        numbers += part
    sizes = None if call.arg(3) is None else compiler.numbers(call.arg(3))
    if sizes is None and call.arg(3) is not None:
        return False
    shape = compiler.graph.values[call.arg(0).name].shape
    scales = resize_scales(given, shape, numbers, sizes)
    if shape[:2] != call.value.shape[:2] or any(scales.get(axis, 1.0) != 1 for axis in (0, 1)):
        return False
    sides = [resize_axis(given, call.opset, shape[axis], call.value.shape[axis], scales.get(axis)) for axis in (2, 3)]
    return _resized(compiler, call, source, *sides)


def _resized(compiler: Compiler, call: NodeCall, source: str, down: Between, across: Between) -> SparseLayer:
    return Resize(
        **compiler.common(call, source),
        row_places=np.stack([down.first, down.second]),
        row_shares=down.share,
        column_places=np.stack([across.first, across.second]),
        column_shares=across.share,
    )


def _cast(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    return same(compiler, call) if call.value.dtype == "float32" else False


ONNX_BUILDERS: Mapping[str, Build] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "DepthToSpace": _depth_to_space,
    "BatchNormalization": _batch_norm,
    **{name: _activation(name.lower()) for name in ("Relu", "Sigmoid", "Tanh", "HardSwish")},
    "LeakyRelu": _leaky_relu,
    "PRelu": _slope,
    "Gelu": _gelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    **{name: arithmetic(name.lower()) for name in ("Add", "Sub", "Mul", "Div")},
    **{name: arithmetic(kind) for name, kind in (("Sum", "add"), ("Max", "max"), ("Min", "min"))},
    "MaxPool": _pool(False),
    "AveragePool": _pool(True),
    "GlobalAveragePool": _global_pool(True),
    "GlobalMaxPool": _global_pool(False),
    "ReduceMean": _reduce_mean,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Cast": _cast,
    **dict.fromkeys(("Identity", "Dropout", "Reshape", "Squeeze", "Expand"), same),
}
