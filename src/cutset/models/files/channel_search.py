"""Finds the scales of a site's channels that leave the least error when weights and activations are rounded.

With t the squares of the scales s, the expected squared error of a site's outputs over a calibration text is

    sum_i max_j(w_ij^2 t_j) * sum_j(d_j / t_j) / (12 * 127^2)
        + sum_n max_j(x_nj^2 / t_j) * sum_ij(w_ij^2 t_j) / (12 * top^2)

with w the weights (one step a row i), x the activations (one step a row n), and d_j what a squared error in column j
costs after errors were spread. Both terms are products of sums of powers, so the logarithm is convex in log t: descent
finds the least. The largest elements are smoothed by a norm of high power; what counts is measured without.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_linear import top_of

__all__ = ["search_scales"]

STEPS, FIRST, LAST = 48, 0.5, 0.02  # of the descent, and how far log t may go at the first and the last of them
DOUBLINGS = 3  # of the norm's power, over squares: 8
LEAST = np.float32(1e-4)  # of the largest, so that no power of it is subnormal
MOST_ROWS = 4096  # of the weights that are looked at
REACH = 6.0  # |log t| at most

Floats = NDArray[np.float32]


def search_scales(
    weight: Floats, cost: Floats, rows: Floats, count: int, makers: NDArray[np.int64], bits: int = 12
) -> Floats:
    """Scales (depth,) for weight (outputs, depth), `cost` (depth,) of a squared error in each column, a sample `rows`
    (n, depth) of the `count` rows that the moments are of, and activations of `bits`. Channels with the same of
    `makers` (depth,) get the same scale."""
    w = np.square(weight[:: -(-len(weight) // MOST_ROWS)])
    w *= np.float32(len(weight) / len(w))
    x = np.square(rows) * np.float32(count / max(1, len(rows)))
    x *= np.float32((top_of(8) / top_of(bits)) ** 2)
    sizes = w.sum(axis=0)
    log_t = np.zeros(len(cost), np.float32)
    best, least = log_t, np.inf
    for step in range(STEPS + 1):
        t = np.exp(log_t).astype(np.float32)
        wt, xt, dt, ct = w * t, x / t, cost / t, sizes * t
        error = float(wt.max(axis=1).sum()) * float(dt.sum()) + float(xt.max(axis=1).sum()) * float(ct.sum())
        if error < least:
            best, least = log_t, error
        ws, xs = _largest(wt), _largest(xt)
        up = ws * dt.sum() + ct * xs.sum()
        down = dt * ws.sum() + xs * ct.sum()
        up, down = (np.bincount(makers, part)[makers] for part in (up, down))
        pull = ((up - down) / np.maximum(up + down, np.finfo(np.float32).tiny)).astype(np.float32)
        log_t = log_t - np.float32(FIRST * (LAST / FIRST) ** (step / STEPS)) * pull
        log_t = np.clip(log_t - log_t.mean(), -REACH, REACH)
    return np.exp(best / 2).astype(np.float32)


def _largest(squares: Floats) -> Floats:
    """(columns,): the sum over rows of the largest element, shared out among those that are close to it."""
    most = squares.max(axis=1, keepdims=True)
    shares = squares / np.maximum(most, np.finfo(np.float32).tiny)
    np.maximum(shares, LEAST, out=shares)
    for _ in range(DOUBLINGS):
        shares *= shares
    shares *= most / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    found: Floats = shares.sum(axis=0)
    return found
