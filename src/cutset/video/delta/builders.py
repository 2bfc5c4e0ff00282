"""Which of torch's operators are computed by positions, and the layers that do so.

A builder gives the layer of a node; True where it became part of another one, False where it is computed whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_sparse import Window
from cutset.partition.node import Argument, Read, Weight, short_name
from cutset.video.delta.calls import NodeCall, is_map
from cutset.video.delta.sparse_layers import (
    ChannelSlice,
    Concatenation,
    Convolution,
    Gate,
    Pair,
    Pool,
    Resize,
    SparseLayer,
)

if TYPE_CHECKING:
    from cutset.video.delta.compiling import Compiler

__all__ = [
    "BUILDERS",
    "MOST_WINDOW",
    "PART_NAMES",
    "Build",
    "arithmetic",
    "concatenated",
    "convolution",
    "everywhere",
    "normalised",
    "part",
    "same",
]

Array = NDArray[Any]
Build = Callable[["Compiler", NodeCall], "SparseLayer | bool"]

MOST_WINDOW = 64  # rows or columns of a pool that is computed by positions
MOST_SIDE = 4096  # of a map that is pooled as a whole
PART_NAMES = ("split", "split_with_sizes", "chunk")  # operators that make several values of one


def _conv(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source, weight = compiler.map(call.arg(0)), call.arg(1)
    rest = 6 if short_name(call.node.op) == "conv2d" else 8  # convolution is also told whether it is transposed
    bias = call.arg(2)
    if source is None or not isinstance(weight, Weight) or not (bias is None or isinstance(bias, Weight)):
        return False
    if rest == 8 and call.arg(6, False):
        return False
    array = np.asarray(compiler.weights[weight.name])
    stride, dilation, padding = call.sides(3, 1), call.sides(5, 1), call.arg(4, 0)
    if stride is None or dilation is None or array.ndim != 4:
        return False
    if padding == "same":
        sides = tuple(d * (k - 1) // 2 for d, k in zip(dilation, array.shape[2:], strict=True))
        before: tuple[int, int] | None = (sides[0], sides[1])
    else:
        before = (0, 0) if padding == "valid" else call.sides(4, 0)
    groups = call.arg(rest, 1)
    if before is None or type(groups) is not int:
        return False
    own = None if bias is None else np.asarray(compiler.weights[bias.name])
    place = Window(array.shape[2], array.shape[3], *stride, *before, *dilation)
    return convolution(compiler, call, source, array, own, groups, place)


def convolution(
    compiler: Compiler, call: NodeCall, source: str, weight: Array, bias: Array | None, groups: int, place: Window
) -> SparseLayer | bool:
    """The layer of a weight (outputs, channels / groups, rows, columns) and a bias (outputs,)."""
    if weight.ndim != 4 or weight.dtype != np.float32 or not is_map(call.value):
        return False
    numbers, flops = list(call.numbers), call.flops
    scaled = compiler.scaled_by(call.arg(0), call.numbers)
    if scaled is not None:  # what multiplies pixels is part of the weights that follow
        numbers, flops, source = [*numbers, *scaled.nodes], flops + scaled.flops, scaled.reads[0]
        each = np.split(scaled.scale, groups)
        by = np.stack([each[i // (len(weight) // groups)] for i in range(len(weight))])
        weight = np.asarray(weight * by[:, :, None, None], np.float32)
    return Convolution(
        **(compiler.common(call, source) | {"nodes": numbers, "flops": flops}),
        weight=np.ascontiguousarray(weight.transpose(0, 2, 3, 1)),
        bias=np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32),
        groups=groups,
        place=place,
    )


def _batch_norm(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    if not is_map(call.value):
        return False
    plain = call.node.op.startswith("aten.batch_norm")  # which is also told whether it is in training
    epsilon = call.arg(7 if plain else 6)
    if not isinstance(epsilon, float) or (plain and call.arg(5, False)) or None in (call.arg(3), call.arg(4)):
        return False
    return normalised(compiler, call, [call.arg(at) for at in (1, 2, 3, 4)], epsilon)


def normalised(compiler: Compiler, call: NodeCall, given: list[Argument], epsilon: float) -> SparseLayer | bool:
    """A batch norm by the gain, shift, mean and variance of each channel."""
    channels = call.value.shape[1]
    found = [compiler.statistic(one, channels, x) for one, x in zip(given, (1.0, 0.0, 0.0, 1.0), strict=True)]
    gain, shift, mean, variance = found
    if gain is None or shift is None or mean is None or variance is None:
        return False
    scale = gain / np.sqrt(variance + epsilon)
    return compiler.affine(call, scale, shift - mean * scale, call.arg(0))


def _activation(kind: str) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        name, parameter = kind, 0.0
        if kind == "leaky_relu":
            parameter = float(call.arg(1, 0.01, "negative_slope"))
        elif kind == "gelu" and call.arg(1, "none", "approximate") == "tanh":
            name = "gelu_tanh"
        elif kind == "clamp":
            least, most = call.arg(1, None, "min"), call.arg(2, None, "max")
            if short_name(call.node.op) == "relu6":
                least, most = 0, 6
            if short_name(call.node.op) == "hardtanh":
                least, most = call.arg(1, -1, "min_val"), call.arg(2, 1, "max_val")
            if least != 0 or not isinstance(most, int | float):
                return False
            parameter = float(most)
        return compiler.activate(call, call.arg(0), name, parameter)

    return build


def arithmetic(kind: str) -> Build:
    """The builder of a sum, difference, product or quotient of two maps, or of a map and constants."""

    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        a, b = call.arg(0), call.arg(1)
        if not is_map(call.value) or call.arg(2, 1, "alpha") != 1:
            return False
        turned = not isinstance(a, Read)  # a constant comes first
        if turned:
            a, b = b, a
        first, second = compiler.map(a), compiler.map(b)
        shape = call.value.shape
        if first is None:
            return False
        if second is None:
            own = compiler.constant(b, shape[1]) if compiler.graph.values[a.name].shape == shape else None
            if own is None or kind in ("max", "min") or (kind == "div" and (turned or not own.all())):
                return False
            one, none = np.ones_like(own), np.zeros_like(own)
            by = {
                "add": (one, own),
                "sub": (-one, own) if turned else (one, -own),
                "mul": (own, none),
                "div": (1 / own if own.all() else one, none),
            }
            scale, shift = by[kind]
            if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
                return False
            return compiler.affine(call, scale, shift, a)
        shapes = compiler.graph.values[a.name].shape, compiler.graph.values[b.name].shape
        if shapes == (shape, shape):
            return Pair(**compiler.common(call, first, second), kind=kind)
        gate = (1, shape[1], 1, 1)
        if kind in ("add", "mul") and gate in shapes and shape in shapes:
            reads = (first, second) if shapes[0] == shape else (second, first)
            return Gate(**compiler.common(call, *reads), kind=kind)
        return False

    return build


def _pool(mean: bool) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        source, window = compiler.map(call.arg(0)), call.sides(1, None)
        if source is None or window is None or max(window) > MOST_WINDOW:
            return False
        stride, padding = call.sides(2, window), call.sides(3, 0)
        dilation = (1, 1) if mean else call.sides(4, 1)
        if stride is None or padding is None or dilation is None:
            return False
        divisor = 0
        if mean:
            divisor = call.arg(6, None, "divisor_override") or 0
            counted = bool(call.arg(5, True, "count_include_pad")) and padding != (0, 0)
            if counted and call.arg(4, False, "ceil_mode"):
                return False  # what lies beyond the padding isn't counted: that differs from window to window
            if counted and not divisor:
                divisor = window[0] * window[1]
        return Pool(
            **compiler.common(call, source),
            place=Window(*window, *stride, *padding, *dilation),
            mean=mean,
            divisor=int(divisor),
        )

    return build


def _adaptive(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    source = compiler.map(call.arg(0))
    if source is None or not is_map(call.value):
        return False
    size, made = compiler.graph.values[call.arg(0).name].shape[2:], call.value.shape[2:]
    if made == (1, 1):
        return everywhere(compiler, call, source, mean=True)
    window = tuple(s // m for s, m in zip(size, made, strict=True))
    if any(s % m for s, m in zip(size, made, strict=True)) or max(window) > MOST_WINDOW:
        return False  # windows of several sizes: computed whole
    return Pool(**compiler.common(call, source), place=Window(*window, *window), mean=True)


def everywhere(compiler: Compiler, call: NodeCall, source: str, *, mean: bool) -> SparseLayer | bool:
    """A pool of a whole map: first of each row, so that only rows in which something changed are read again."""
    _, channels, rows, columns = compiler.graph.values[call.arg(0).name].shape
    if max(rows, columns) > MOST_SIDE or call.value.shape != (1, channels, 1, 1) or not is_map(call.value):
        return False
    between = compiler.between(call, (rows, 1, channels))
    common = compiler.common(call, source) | {"made": between}
    compiler.add(Pool(**common, place=Window(1, columns), mean=mean))
    common = compiler.common(call, between) | {"flops": 0}
    return Pool(**common, place=Window(rows, 1), mean=mean, held_back=True)


def _mean(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """Over rows and columns."""
    source, dims = compiler.map(call.arg(0)), call.arg(1, (), "dim")
    if source is None or not isinstance(dims, tuple) or not call.arg(2, False, "keepdim"):
        return False
    if sorted(d % 4 for d in dims if isinstance(d, int)) != [2, 3] or call.arg(3, None, "dtype") is not None:
        return False
    return everywhere(compiler, call, source, mean=True)


def _cat(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    parts, dim = call.arg(0), call.arg(1, 0, "dim")
    if dim not in (1, -3) or not isinstance(parts, tuple):
        return False
    return concatenated(compiler, call, parts)


def concatenated(compiler: Compiler, call: NodeCall, parts: tuple[Argument, ...]) -> SparseLayer | bool:
    """The channels of several maps, one after another."""
    if not is_map(call.value):
        return False
    reads = [compiler.map(part) for part in parts]
    channels = tuple(compiler.graph.values[part.name].shape[1] for part in parts if isinstance(part, Read))
    if None in reads or len(channels) < len(parts):
        return False
    return Concatenation(**compiler.common(call, *(name for name in reads if name)), channels=channels)


def part(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """Channels of a map: one of the parts of an operator that makes several, or a slice."""
    source, node = compiler.map(call.arg(0)), call.node
    if source is None or not is_map(call.value):
        return False
    common = compiler.common(call, source)
    if short_name(node.op) == "slice":
        dim, first, step = call.arg(1, 0, "dim"), call.arg(2, None, "start") or 0, call.arg(4, 1, "step")
        if dim not in (1, -3) or step != 1:
            return False
        total = compiler.graph.values[call.arg(0).name].shape[1]
        first = min(max(first + total if first < 0 else first, 0), total)
        return ChannelSlice(**common, first=first, count=call.value.shape[1])
    if call.arg(2, 0, "dim") not in (1, -3):
        return False
    first = 0
    for output in node.outputs:
        if output is None:
            return False  # its size isn't known
        if output.name == call.value.name:
            break
        first += output.shape[1]
    common["flops"] = 0
    return ChannelSlice(**common, first=first, count=call.value.shape[1])


def _resize(bilinear: bool) -> Build:
    def build(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
        source = compiler.map(call.arg(0))
        if source is None or not is_map(call.value):
            return False
        scales = call.arg(3 if bilinear else 2, None, "scale_factors")
        if call.node.op.endswith(".default"):
            scales = (
                call.arg(3 if bilinear else 2, None, "scales_h"),
                call.arg(4 if bilinear else 3, None, "scales_w"),
            )
        align = bool(bilinear and call.arg(2, False, "align_corners"))
        size, made = compiler.graph.values[call.arg(0).name].shape[2:], call.value.shape[2:]
        sides: list[Array] = []
        for axis in (0, 1):
            given = scales[axis] if isinstance(scales, tuple) and len(scales) == 2 else None
            sides += _between(size[axis], made[axis], given if isinstance(given, float) else None, bilinear, align)
        rows, down, columns, right = sides
        return Resize(
            **compiler.common(call, source),
            row_places=rows,
            row_shares=down,
            column_places=columns,
            column_shares=right,
        )

    return build


def _between(size: int, made: int, scale: float | None, bilinear: bool, align: bool) -> tuple[Array, Array]:
    """Places (2, made) on one axis and the second one's shares, as torch defines them."""
    step = np.float32(1 / scale if scale else size / made)
    at = np.arange(made, dtype=np.float32)
    if not bilinear:
        first = np.minimum(np.floor(at * step).astype(np.int64), size - 1)
        return np.stack([first, first]), np.zeros(made, np.float32)
    if align:
        at = at * np.float32((size - 1) / (made - 1) if made > 1 else 0)
    else:
        at = np.maximum((at + np.float32(0.5)) * step - np.float32(0.5), np.float32(0))
    first = np.minimum(at.astype(np.int64), size - 1)
    share = np.clip(at - first.astype(np.float32), 0, 1).astype(np.float32)
    return np.stack([first, np.minimum(first + 1, size - 1)]), share


def same(compiler: Compiler, call: NodeCall) -> SparseLayer | bool:
    """What gives its input as it is; a picture of bytes is held as floats anyway."""
    argument = call.arg(0)
    if not isinstance(argument, Read) or not is_map(call.value) or call.node.outputs[0] is not call.value:
        return False
    value = compiler.graph.values[argument.name]
    picture = compiler.picture(argument) is not None and value.shape == call.value.shape
    if not picture and not (is_map(value) and value.shape == call.value.shape):
        return False
    compiler.found.alias[call.value.name] = compiler.found.name(argument.name)
    return True


BUILDERS: Mapping[str, Build] = {
    **dict.fromkeys(("conv2d", "convolution"), _conv),
    "batch_norm": _batch_norm,
    **{name: _activation(name) for name in ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")},
    **{name: _activation(name) for name in ("hardsigmoid", "hardswish")},
    **dict.fromkeys(("relu6", "hardtanh", "clamp"), _activation("clamp")),
    **{name: arithmetic(name) for name in ("add", "sub", "mul", "div")},
    "maximum": arithmetic("max"),
    "minimum": arithmetic("min"),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices"), _pool(False)),
    "avg_pool2d": _pool(True),
    "mean": _mean,
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive),
    **dict.fromkeys(("cat", "concat"), _cat),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "chunk"), part),
    "upsample_nearest2d": _resize(False),
    "upsample_bilinear2d": _resize(True),
    **dict.fromkeys(("_to_copy", "to", "alias", "clone", "detach", "contiguous", "dropout"), same),
}
