"""What a runtime gives, held against the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError
from cutset.partition.node import Value

__all__ = ["checked", "made_up", "pictures", "zeros"]


def checked(array: Any, value: Value) -> Array:
    """What a runtime made, as parties keep it. Raises GraphError where it isn't the tensor that the graph has there."""
    if not isinstance(array, np.ndarray) or array.shape != value.shape or array.dtype.name != value.dtype:
        raise GraphError(f"{value.name} came out as another tensor than the {value.dtype} {value.shape} of the graph")
    return as_kept(np.ascontiguousarray(array).reshape(value.shape), value)


def zeros(value: Value) -> Array:
    """Zeros as parties keep them."""
    return as_kept(np.zeros(value.shape, value.dtype), value)


def made_up(value: Value) -> Array:
    """Numbers as parties keep them: of a picture where they are whole, else normally distributed."""
    random, kind = np.random.default_rng(0), "float32" if value.dtype == "bfloat16" else value.dtype
    if "float" in kind:
        made: Array = random.standard_normal(value.shape, np.float32).astype(kind)
    else:
        made = random.integers(0, 2 if kind == "bool" else 128, value.shape).astype(kind)
    if value.dtype == "bfloat16":  # its bits are the upper half of float32's
        return (made.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return as_kept(made, value)


def pictures(value: Value) -> list[Array]:
    """Two made-up inputs: a page with dark strokes, and patches of noise on a gradient. Others than pictures: numbers.

    Pixels are 0 to 255, floats of pictures 0 to 1.
    """
    if len(value.shape) != 4 or value.dtype not in ("uint8", "float16", "float32", "float64"):
        return [made_up(value)]
    random, (height, width) = np.random.default_rng(0), value.shape[2:]
    page = np.full(value.shape, 0.9, np.float32)
    for row in range(height // 16, height - height // 16, max(height // 8, 8)):
        for column in range(width // 16, width - width // 16, max(width // 24, 4)):
            if random.random() < 0.8:
                page[:, :, row : row + max(height // 16, 4), column : column + max(width // 72, 1)] = 0.1
    rows, columns = np.linspace(0, 1, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    scene = np.broadcast_to((rows[:, None] + columns) / 2, value.shape).copy()
    for _ in range(6):
        row, column = (int(random.integers(0, max(side - side // 4, 1))) for side in (height, width))
        patch = scene[:, :, row : row + height // 4, column : column + width // 4]
        patch[...] = random.random(patch.shape, np.float32)
    found: list[Array] = [page, scene]
    return [(255 * one).astype(np.uint8) if value.dtype == "uint8" else one.astype(value.dtype) for one in found]
