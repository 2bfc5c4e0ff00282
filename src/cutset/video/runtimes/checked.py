"""What a runtime gives, held against the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError
from cutset.partition.node import Value

__all__ = ["checked", "zeros"]


def checked(array: Any, value: Value) -> Array:
    """What a runtime made, as parties keep it. Raises GraphError where it isn't the tensor that the graph has there."""
    if not isinstance(array, np.ndarray) or array.shape != value.shape or array.dtype.name != value.dtype:
        raise GraphError(f"{value.name} came out as another tensor than the {value.dtype} {value.shape} of the graph")
    return as_kept(np.ascontiguousarray(array).reshape(value.shape), value)


def zeros(value: Value) -> Array:
    """Zeros as parties keep them."""
    return as_kept(np.zeros(value.shape, value.dtype), value)
