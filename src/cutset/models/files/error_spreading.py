"""Rounds the columns of a matrix so that its products with activations of known second moments change least.

`spread_errors` is GPTQ (Frantar, Ashkboos, Hoefler and Alistarh 2022, arXiv:2210.17323): column after column, in the
order of falling importance, it spreads each column's error over those that are still to come. `descend` then visits the
columns again: each gets the level that is best with all others as they are, so that the error can only fall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Compensation", "Grid", "compensation", "descend", "spread_errors"]

BLOCK = 128  # columns whose errors reach the others together
ROWS = 2048  # that are rounded together: what they have of a block stays in a cache of the processor
DAMPING = 0.01  # of the mean of the diagonal
ENOUGH = 8  # rows for each column, to take what they say as it is

Floats = NDArray[np.float32]


class Grid(Protocol):
    """The levels that the elements of a matrix can have."""

    def rounded(self, rows: slice, column: int, values: Floats) -> tuple[Floats, Floats]:
        """For values (rows,) of some rows and one column the codes, and what these stand for."""
        ...


@dataclass(frozen=True, slots=True)
class Compensation:
    """What spreads errors for activations of known second moments: the order of the columns, and by row of it how much
    of the error of a column each later one takes, (depth, depth), upper triangular."""

    order: NDArray[np.int64]
    factor: Floats
    moments: Floats  # (depth, depth), damped

    @property
    def remaining(self) -> Floats:
        """(depth,): what a square of a column's error costs after the later columns have taken their share."""
        found = np.empty(len(self.order), np.float32)
        found[self.order] = 1 / np.square(np.diagonal(self.factor))
        return found


def compensation(moments: Floats, count: int | None = None) -> Compensation | None:
    """Of second moments (depth, depth) of activations; None where there were none.

    `count` says of how many rows they are. Of few rows it is chance how columns go together, so that counts for less.
    """
    diagonal = np.diagonal(moments).astype(np.float64)
    if not np.isfinite(moments).all() or not (diagonal > 0).any():
        return None
    order = np.argsort(-diagonal, kind="stable")
    h = moments.astype(np.float64)
    if count is not None and (known := count / (ENOUGH * len(h))) < 1:
        h *= known
        h[np.diag_indices_from(h)] = diagonal
    h[np.diag_indices_from(h)] += DAMPING * diagonal.mean()
    lower = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)]))
    return Compensation(order, np.ascontiguousarray(lower.T, np.float32), h.astype(np.float32))


def spread_errors(weight: Floats, how: Compensation, grid: Grid, codes: NDArray[Any]) -> None:
    """Fills codes (outputs, depth) with those of weight (outputs, depth)."""
    for first in range(0, len(weight), ROWS):
        rows = slice(first, min(first + ROWS, len(weight)))
        codes[rows, how.order] = _spread(np.ascontiguousarray(weight[rows].T[how.order]), how, grid, rows).T


def _spread(rest: Floats, how: Compensation, grid: Grid, rows: slice) -> Floats:
    """Codes (depth, rows) of the weights `rest`, both in the order of the columns."""
    codes = np.empty_like(rest)
    for first in range(0, len(rest), BLOCK):
        end = min(first + BLOCK, len(rest))
        errors = np.empty((end - first, rest.shape[1]), np.float32)
        for column in range(first, end):
            codes[column], values = grid.rounded(rows, int(how.order[column]), rest[column])
            spread = how.factor[column, column:end]
            errors[column - first] = (rest[column] - values) / spread[0]
            rest[column + 1 : end] -= np.outer(spread[1:], errors[column - first])
        rest[end:] -= how.factor[first:end, end:].T @ errors
    return codes


def descend(weight: Floats, how: Compensation, grid: Grid, codes: NDArray[Any], values: Floats) -> None:
    """Visits all columns once more: changes codes (outputs, depth), and what they stand for."""
    for first in range(0, len(weight), ROWS):
        rows = slice(first, min(first + ROWS, len(weight)))
        _descend(weight, how.moments, grid, codes, values, rows)


def _descend(weight: Floats, moments: Floats, grid: Grid, codes: NDArray[Any], values: Floats, rows: slice) -> None:
    found = np.ascontiguousarray(values[rows].T)  # (depth, rows)
    slopes = moments @ (found - weight[rows].T)  # half of the error's, by element
    for first in range(0, len(moments), BLOCK):
        end = min(first + BLOCK, len(moments))
        changes = np.empty((end - first, found.shape[1]), np.float32)
        for column in range(first, end):
            wanted = found[column] - slopes[column] / moments[column, column]
            codes[rows, column], new = grid.rounded(rows, column, wanted)
            changes[column - first] = new - found[column]
            found[column] = new
            slopes[column + 1 : end] += np.outer(moments[column, column + 1 : end], changes[column - first])
        slopes[end:] += moments[end:, first:end] @ changes
    values[rows] = found.T
