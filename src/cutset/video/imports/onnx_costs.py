"""How many floating-point operations a node of an ONNX file takes: those of torch's operator that does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutset.partition.node import Argument
from cutset.video.imports.flops import flops

__all__ = ["node_flops"]

LIKE = {
    "Conv": "conv2d",
    "ConvTranspose": "conv_transpose2d",
    "ConvInteger": "conv2d",
    "BatchNormalization": "batch_norm",
    "LayerNormalization": "layer_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "group_norm",
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Gelu": "gelu",
    "HardSwish": "hardswish",
    "MaxPool": "max_pool2d",
    "AveragePool": "avg_pool2d",
    "LpPool": "avg_pool2d",
    "GlobalAveragePool": "adaptive_avg_pool2d",
    "GlobalMaxPool": "adaptive_max_pool2d",
    "MatMul": "matmul",
    "MatMulInteger": "matmul",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "amax",
    "ReduceMin": "amin",
    "ArgMax": "argmax",
}
MOVES = (
    *("Cast", "CastLike", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("Identity", "Pad", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "Upsample"),
)


def node_flops(
    kind: str, shapes: Sequence[tuple[int, ...] | None], output: tuple[int, ...], attributes: Mapping[str, Argument]
) -> int:
    """Of an operator with inputs of these shapes, None for one that is left out; `output` is its first result's."""
    if kind in MOVES:
        return 0
    if kind == "Gemm" and len(shapes) > 1 and shapes[1] is not None:
        weight = shapes[1] if attributes.get("transB") else shapes[1][::-1]
        return flops("linear", [shapes[0], weight, *shapes[2:]], output)
    if kind == "QLinearConv" and len(shapes) > 3:
        return flops("conv2d", [shapes[0], shapes[3]], output)
    return flops(LIKE.get(kind, kind.lower()), shapes, output, (None, attributes.get("kernel_shape")))
