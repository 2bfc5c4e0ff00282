"""How many floating-point operations an operator takes; a multiply-add counts as two."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["flops"]

Shape = Sequence[int]

# Operators that move values, or only look at them in another way.
MOVES = (
    *("_to_copy", "alias", "clone", "copy", "detach", "to", "empty", "full", "ones", "zeros"),
    *(
        "cat",
        "chunk",
        "split",
        "split_with_sizes",
        "stack",
        "unbind",
        "index_select",
        "select",
        "slice",
        "slice_scatter",
    ),
    *("expand", "flatten", "permute", "reshape", "squeeze", "t", "transpose", "unflatten", "unsqueeze", "view"),
    *("constant_pad_nd", "pad", "repeat", "upsample_nearest2d"),
)
PRODUCTS = frozenset(("mm", "bmm", "matmul", "mv", "dot"))
# Operations an output value, where it isn't one.
PER_VALUE = {"_native_batch_norm_legit_no_training": 2, "batch_norm": 2, "native_layer_norm": 8, "layer_norm": 8}
FUSED = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")  # a layer of attention in one operator
PER_VALUE |= {"group_norm": 8, "softmax": 5, "_softmax": 5, "sigmoid": 4, "silu": 5, "gelu": 10, "hardswish": 4}


def flops(op: str, shapes: Sequence[Shape | None], output: Shape, numbers: Sequence[object] = ()) -> int:
    """Operations of an operator (`conv2d`, without overload) on a picture or a batch.

    `shapes` are its arguments' shapes, None for what is no tensor; `output` is that of its first result; `numbers` are
    the arguments themselves, of which a pool's window is read.
    """
    made = math.prod(output)
    first = shapes[0] if shapes else None
    second = shapes[1] if len(shapes) > 1 else None
    if op in MOVES:
        return 0
    if op.startswith("conv") and second is not None and first is not None:
        per_value = 2 * math.prod(second[1:])
        bias = made if len(shapes) > 2 and shapes[2] is not None else 0
        return per_value * (math.prod(first) if "transpose" in op else made) + bias
    if op == "linear" and second is not None:
        return 2 * made * second[-1] + (made if len(shapes) > 2 and shapes[2] is not None else 0)
    if op in ("addmm", "baddbmm") and second is not None:
        return (2 * second[-1] + 1) * made
    if op in PRODUCTS and first is not None:
        return 2 * made * first[-1]
    if op == "scaled_dot_product_attention" and first is not None and second is not None:
        return 2 * math.prod(first[:-1]) * second[-2] * (first[-1] + output[-1])
    if op in FUSED and first is not None:
        tokens = math.prod(first[:-1])
        products = sum(math.prod(shape) for shape in shapes[3:] if shape is not None and len(shape) == 2)
        return 2 * tokens * (products + 2 * first[-2] * first[-1])
    if op.startswith("adaptive_") and first is not None:
        return math.prod(first)
    if "pool" in op:
        window = numbers[1] if len(numbers) > 1 else 1
        sizes = window if isinstance(window, tuple) else (window,)
        return made * math.prod(size for size in sizes if isinstance(size, int))
    if op in ("mean", "sum", "amax", "amin", "max", "min", "argmax") and first is not None:
        return math.prod(first)
    return made * PER_VALUE.get(op, 1)
