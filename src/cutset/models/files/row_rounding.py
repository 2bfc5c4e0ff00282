"""Rounds float weights to 8 bits with a scale a row, so that products with activations of known moments change least.

The integers are those of `exact`: from -127 to 127. `error_spreading.py` has the way in which errors are spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_linear import quantize_weight, top_of
from cutset.models.files.error_spreading import Compensation, descend, spread_errors

__all__ = ["compensated_rows"]

PASSES = 1  # over all columns after errors were spread
SHRINKS = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6)  # of a row's range that are tried
ROWS = 1024  # whose ranges are chosen at a time
TOP = np.float32(top_of(8))

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowGrid:
    """The levels of rows with the scales (outputs,), of which 0 stands for a row of zeros."""

    scales: Floats

    def rounded(self, rows: slice, column: int, values: Floats) -> tuple[Floats, Floats]:
        """See cutset.models.files.error_spreading.Grid."""
        scales = self.scales[rows]
        codes = np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)
        codes = np.clip(np.rint(codes), -TOP, TOP)
        return codes, codes * scales


def compensated_rows(weight: Floats, how: Compensation) -> tuple[NDArray[np.int8], Floats]:
    """weight (outputs, depth) as integers of that shape and one scale a row (outputs,). Raises ValueError for a weight
    that isn't finite."""
    _, largest = quantize_weight(weight)
    scales = np.empty_like(largest)
    for first in range(0, len(weight), ROWS):
        rows = slice(first, first + ROWS)
        scales[rows] = _ranges(weight[rows], largest[rows], how.remaining)
    grid, codes = RowGrid(scales), np.empty(weight.shape, np.int8)
    spread_errors(weight, how, grid, codes)
    for _ in range(PASSES):
        descend(weight, how, grid, codes, codes * scales[:, None])
    return codes, scales


def _ranges(weight: Floats, largest: Floats, cost: Floats) -> Floats:
    """Of several scales of each row, none above `largest` (rows,), the one whose squared errors cost least; `cost`
    (depth,) is that of an error in each column."""
    best, found = largest, np.full(largest.shape, np.inf, np.float32)
    for shrink in SHRINKS:
        scales = largest * np.float32(shrink)
        scales = np.where(scales >= np.finfo(np.float32).tiny, scales, largest)
        divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
        off = np.clip(np.rint(weight / divisors), -TOP, TOP) * divisors - weight
        off *= off
        error = off @ cost
        best, found = np.where(error < found, scales, best), np.minimum(error, found)
    return best
