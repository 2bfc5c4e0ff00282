"""What a runtime gives, held against the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError
from cutset.partition.node import Value

__all__ = ["checked", "made_up", "zeros"]


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
