"""What tests of glue kernels share: random floats, and outputs that show what was not written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import cutset.kernels._native as native

Floats = NDArray[np.float32]

# The others share their vectors, and so all of this, with avx512.
ISAS = [isa for isa in native.available_isas() if isa in ("portable", "avx2", "avx512")]


def floats(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


def nothing(*shape: int) -> Floats:
    """An output that shows what was not written."""
    return np.full(shape, np.nan, dtype=np.float32)


def close(actual: Floats, expected: Floats, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
