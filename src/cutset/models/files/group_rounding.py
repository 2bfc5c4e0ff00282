"""Rounds float weights to codes of few bits with a scale for each group of a row's columns.

`nearest` rounds each weight by itself. `compensated` spreads the errors by the activations that the matrix is
multiplied with (`error_spreading.py`). Scales are settled before, so that the columns of a group stay together, and
fitted to the codes that were found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.error_spreading import Compensation, descend, spread_errors
from cutset.models.files.grouped import GroupedWeight, GroupScales

__all__ = ["GroupGrid", "Scheme", "compensated", "fit_scales", "nearest"]

PASSES = 3  # over all columns after errors were spread, each with scales that were fitted before
ROWS = 1024  # whose scales are fitted at a time
SHRINKS = tuple(1 - 0.04 * step for step in range(10))  # of a group's range that are tried
MOST_CHANGE = 1.2  # of a scale that is fitted, to either side
LEAST_SCALE, MOST_SCALE = 2.0**-14, 65504.0  # what float16 holds precisely

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a matrix is rounded: bits of a code, columns of a group, and whether groups lie around zero."""

    bits: int
    group: int
    symmetric: bool


@dataclass(slots=True)
class GroupGrid:
    """The levels of a matrix's groups: scales, on float16's grid, and zero points, (outputs, groups) each."""

    scheme: Scheme
    scales: Floats
    zeros: Floats

    def rounded(self, rows: slice, column: int, values: Floats) -> tuple[Floats, Floats]:
        """See Grid."""
        group = column // self.scheme.group
        scale, zero = self.scales[rows, group], self.zeros[rows, group]
        codes = _codes(values, scale, zero, self.scheme)
        return codes, (codes - zero) * scale

    def offsets(self, codes: NDArray[np.uint8]) -> Floats:
        """Codes (outputs, depth) less their zero points."""
        parts = codes.reshape(*self.scales.shape, self.scheme.group) - self.zeros[..., None]
        return parts.reshape(codes.shape)

    def values(self, codes: NDArray[np.uint8]) -> Floats:
        """What codes (outputs, depth) stand for."""
        return self.offsets(codes) * np.repeat(self.scales, self.scheme.group, axis=1)


def nearest(weight: Floats, scheme: Scheme, importance: Floats | None = None, *, search: bool = True) -> GroupedWeight:
    """weight (outputs, depth), each rounded to the nearest. With `search` a group's range is the one of several whose
    squared error is least, weighted by `importance` (depth,). Raises ValueError for a weight that isn't finite."""
    scales, zeros = _ranges(weight, scheme, importance, search)
    codes = _codes(weight.reshape(*scales.shape, scheme.group), scales[..., None], zeros[..., None], scheme)
    return _weight(codes.reshape(weight.shape).astype(np.uint8), scheme, scales, zeros)


def compensated(weight: Floats, scheme: Scheme, how: Compensation) -> GroupedWeight:
    """weight (outputs, depth), rounded so that its products with such activations change least. Raises ValueError for
    a weight that isn't finite."""
    grid = GroupGrid(scheme, *_ranges(weight, scheme, how.remaining, True))
    codes = np.empty(weight.shape, np.uint8)
    spread_errors(weight, how, grid, codes)
    for _ in range(PASSES):
        fit_scales(weight, how, grid, codes)
        descend(weight, how, grid, codes, grid.values(codes))
    return _weight(codes, scheme, grid.scales, grid.zeros)


def fit_scales(weight: Floats, how: Compensation, grid: GroupGrid, codes: NDArray[np.uint8]) -> None:
    """Gives each row the scales that are best for its codes, by least squares."""
    size, count = grid.scheme.group, grid.scales.shape[1]
    for first in range(0, len(weight), ROWS):
        rows = slice(first, min(first + ROWS, len(weight)))
        offsets = GroupGrid(grid.scheme, grid.scales[rows], grid.zeros[rows]).offsets(codes[rows])
        parts = offsets.reshape(len(offsets), count, size)
        left = np.empty((len(offsets), count, count), np.float64)
        for group in range(count):
            product = parts[:, group] @ how.moments[group * size : (group + 1) * size]
            left[:, group] = (product.reshape(parts.shape) * parts).sum(axis=2)
        right = ((weight[rows] @ how.moments).reshape(parts.shape) * parts).sum(axis=2, dtype=np.float64)
        diagonal = np.einsum("rgg->rg", left)
        diagonal += 1e-6 * diagonal.mean(axis=1, keepdims=True) + np.finfo(np.float64).tiny
        scales = np.linalg.solve(left, right[..., None])[..., 0]
        old = grid.scales[rows]
        scales = np.clip(scales, old / MOST_CHANGE, old * MOST_CHANGE)
        grid.scales[rows] = _storable(scales.astype(np.float32))


def _ranges(weight: Floats, scheme: Scheme, importance: Floats | None, search: bool) -> tuple[Floats, Floats]:
    """Scales, on float16's grid, and zero points, (outputs, groups) each."""
    outputs, depth = weight.shape
    x = weight.reshape(outputs, depth // scheme.group, scheme.group)
    if not np.isfinite(weight).all():
        raise ValueError("the weights hold a NaN or an infinity")
    weights = np.ones(depth, np.float32) if importance is None else importance + importance.mean() * 1e-3
    weights = weights.reshape(-1, scheme.group)
    least, most = np.minimum(x.min(axis=2), 0), np.maximum(x.max(axis=2), 0)
    best: tuple[Floats, Floats] | None = None
    found = np.full(least.shape, np.inf, np.float32)
    for shrink in SHRINKS if search else (1.0,):
        scales, zeros = _range(least * np.float32(shrink), most * np.float32(shrink), scheme)
        codes = _codes(x, scales[..., None], zeros[..., None], scheme)
        off = (codes - zeros[..., None]) * scales[..., None] - x
        off *= off
        error = np.einsum("ogi,gi->og", off, weights)
        if best is None:
            best = scales, zeros
        better = error < found
        best = np.where(better, scales, best[0]), np.where(better, zeros, best[1])
        found = np.where(better, error, found)
    assert best is not None
    return best


def _range(least: Floats, most: Floats, scheme: Scheme) -> tuple[Floats, Floats]:
    half, top = 1 << (scheme.bits - 1), (1 << scheme.bits) - 1
    width, steps = (np.maximum(most, -least), half - 1) if scheme.symmetric else (most - least, top)
    sizes = (width / np.float32(steps)).astype(np.float32, copy=False)
    if sizes.size and sizes.max() > MOST_SCALE:
        raise ValueError("the weights have too wide a range for scales in float16")
    scales = _storable(sizes)
    zeros = np.full_like(scales, half) if scheme.symmetric else np.clip(np.rint(-least / scales), 0, top)
    return scales, zeros


def _storable(scales: Floats) -> Floats:
    """Scales on float16's grid, and none below what it holds precisely."""
    return np.clip(scales, np.float32(LEAST_SCALE), np.float32(MOST_SCALE)).astype(np.float16).astype(np.float32)


def _codes(values: Floats, scales: Floats, zeros: Floats, scheme: Scheme) -> Floats:
    codes: Floats = np.clip(np.rint(values / scales) + zeros, 0, (1 << scheme.bits) - 1)
    return codes


def _weight(codes: NDArray[np.uint8], scheme: Scheme, scales: Floats, zeros: Floats) -> GroupedWeight:
    points: NDArray[np.uint8] | int = 1 << (scheme.bits - 1) if scheme.symmetric else zeros.astype(np.uint8)
    return GroupedWeight(codes, scheme.bits, scheme.group, GroupScales(scales.astype(np.float16)), points)
