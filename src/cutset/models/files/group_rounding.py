"""Rounds float weights to codes of few bits with a scale for each group of a row's columns.

`nearest` rounds each weight by itself. `compensated` is GPTQ (Frantar, Ashkboos, Hoefler and Alistarh 2022,
arXiv:2210.17323): column after column, in the order of falling importance, it spreads each column's error over those
that are still to come, by the second moments of the activations that the matrix is multiplied with. The scales are
settled before, so that the columns of a group stay together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.grouped import GroupedWeight, GroupScales

__all__ = ["Compensation", "Scheme", "compensated", "compensation", "nearest"]

BLOCK = 128  # columns whose errors reach the later ones together
DAMPING = 0.01  # of the mean of the diagonal
SHRINKS = tuple(1 - 0.04 * step for step in range(10))  # of a group's range that are tried
LEAST_SCALE, MOST_SCALE = 2.0**-14, 65504.0  # what float16 holds precisely

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a matrix is rounded: bits of a code, columns of a group, and whether groups lie around zero."""

    bits: int
    group: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Compensation:
    """What spreads errors for activations of known second moments: the order of the columns, and by row of it how much
    of the error of a column each later one takes, (depth, depth), upper triangular."""

    order: NDArray[np.int64]
    factor: Floats
    importance: Floats  # (depth,): the mean square of the activations


def nearest(weight: Floats, scheme: Scheme, importance: Floats | None = None, *, search: bool = True) -> GroupedWeight:
    """weight (outputs, depth), each rounded to the nearest. With `search` a group's range is the one of several whose
    squared error is least, weighted by `importance` (depth,). Raises ValueError for a weight that isn't finite."""
    scales, zeros = _ranges(weight, scheme, importance, search)
    codes = _codes(weight.reshape(*scales.shape, scheme.group), scales[..., None], zeros[..., None], scheme)
    return _weight(codes.reshape(weight.shape).astype(np.uint8), scheme, scales, zeros)


def compensation(moments: Floats) -> Compensation | None:
    """Of second moments (depth, depth) of activations; None where there were none."""
    diagonal = np.diagonal(moments).astype(np.float64)
    if not np.isfinite(moments).all() or not (diagonal > 0).any():
        return None
    order = np.argsort(-diagonal, kind="stable")
    h = moments[np.ix_(order, order)].astype(np.float64)
    h[np.diag_indices_from(h)] += DAMPING * diagonal.mean()
    lower = np.linalg.cholesky(np.linalg.inv(h))
    return Compensation(order, np.ascontiguousarray(lower.T, np.float32), diagonal.astype(np.float32))


def compensated(weight: Floats, scheme: Scheme, how: Compensation) -> GroupedWeight:
    """weight (outputs, depth), rounded so that its products with such activations change least. Raises ValueError for
    a weight that isn't finite."""
    scales, zeros = _ranges(weight, scheme, how.importance, True)
    rest = np.ascontiguousarray(weight.T[how.order])  # (depth, outputs)
    groups = how.order // scheme.group
    codes = np.empty(rest.shape, np.uint8)
    for first in range(0, len(rest), BLOCK):
        end = min(first + BLOCK, len(rest))
        errors = np.empty((end - first, rest.shape[1]), np.float32)
        for column in range(first, end):
            scale, zero = scales[:, groups[column]], zeros[:, groups[column]]
            code = _codes(rest[column], scale, zero, scheme)
            codes[column] = code
            spread = how.factor[column, column:end]
            errors[column - first] = (rest[column] - (code - zero) * scale) / spread[0]
            rest[column + 1 : end] -= np.outer(spread[1:], errors[column - first])
        rest[end:] -= how.factor[first:end, end:].T @ errors
    placed = np.empty(weight.shape, np.uint8)
    placed[:, how.order] = codes.T
    return _weight(placed, scheme, scales, zeros)


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
    sizes = np.maximum(most, -least) / np.float32(half - 1) if scheme.symmetric else (most - least) / np.float32(top)
    if sizes.size and sizes.max() > MOST_SCALE:
        raise ValueError("the weights have too wide a range for scales in float16")
    scales = np.maximum(sizes, np.float32(LEAST_SCALE)).astype(np.float16).astype(np.float32)
    zeros = np.full_like(scales, half) if scheme.symmetric else np.clip(np.rint(-least / scales), 0, top)
    return scales, zeros


def _codes(values: Floats, scales: Floats, zeros: Floats, scheme: Scheme) -> Floats:
    codes: Floats = np.clip(np.rint(values / scales) + zeros, 0, (1 << scheme.bits) - 1)
    return codes


def _weight(codes: NDArray[np.uint8], scheme: Scheme, scales: Floats, zeros: Floats) -> GroupedWeight:
    points: NDArray[np.uint8] | int = 1 << (scheme.bits - 1) if scheme.symmetric else zeros.astype(np.uint8)
    return GroupedWeight(codes, scheme.bits, scheme.group, GroupScales(scales.astype(np.float16)), points)
