"""The kernels of the prime field in numpy: what the native ones compute, written to be read.

P = 2^31 - 1. A residue is a uint32 in [0, P). Everything is exact: residues are cut into 16-bit halves, and the sums of
products of halves stay far below 2^53, where float64 is exact and numpy multiplies fast.

`pool` is there because the native functions have it; nothing here uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cutset.kernels.native import Pool

__all__ = ["HALF", "P", "dots", "lift", "mask", "project", "residue_product", "settle"]

P = 2**31 - 1
HALF = (P - 1) // 2  # the centre is [-HALF, HALF]
STEP = 1 << 20  # terms of one sum in float64: 2^20 products below 2^32

Residues = NDArray[np.uint32]


def mask(q: NDArray[np.int16], r: Residues, out: Residues | None = None, pool: Pool | None = None) -> Residues:
    """(q + r) mod P, canonical: q int16 (n, depth), r residues (n, depth). `out` may be given."""
    if q.shape != r.shape:
        raise ValueError(f"r must have shape {q.shape}, not {r.shape}")
    masked = ((q.astype(np.int64) + r) % P).astype(np.uint32)
    if out is None:
        return masked
    out[...] = masked
    return out


def lift(residues: Residues) -> NDArray[np.int32]:
    """The integer in [-HALF, HALF] that each residue stands for."""
    z = residues.astype(np.int64)
    return np.where(z > HALF, z - P, z).astype(np.int32)


def product(a: NDArray[np.integer], b: NDArray[np.integer]) -> Residues:
    """a . b^T mod P for integers a (n, k) and b (m, k) of any sign and at most 32 bits."""
    total = np.zeros((a.shape[0], b.shape[0]), np.int64)
    for start in range(0, a.shape[1], STEP):
        left, right = (np.asarray(x[:, start : start + STEP], np.int64) % P for x in (a, b))
        for i in (0, 16):
            for j in (0, 16):
                halves = (left >> i & 0xFFFF).astype(np.float64) @ (right >> j & 0xFFFF).astype(np.float64).T
                part = halves.astype(np.int64) % P
                for shift in (i, j):  # one after the other, so that nothing reaches 2^63
                    part = (part << shift) % P
                total += part
        total %= P
    return total.astype(np.uint32)


def residue_product(x: Residues, weight: NDArray[np.int8]) -> Residues:
    """x . W^T mod P: x residues (n, depth), weight (outputs, depth). ValueError if some x isn't below P."""
    if x.size and int(x.max()) >= P:
        raise ValueError("x must hold residues, which are below 2147483647")
    return product(x, weight)


def project(weight: NDArray[np.int8], s: Residues, pool: Pool | None = None) -> Residues:
    """s . W mod P, (reps, depth): weight (outputs, depth), s residues (reps, outputs)."""
    return product(s, weight.T)


def dots(x: NDArray[np.integer], v: Residues, pool: Pool | None = None) -> Residues:
    """Each row's product with each vector mod P, (n, reps): x int16, int32 or uint32 (n, k), v residues (reps, k)."""
    return product(x, v)


def settle(
    reply: NDArray[np.integer],
    row_scales: NDArray[np.float32],
    output_scales: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    pad: Residues | None = None,
    bounds: NDArray[np.int32] | None = None,
    top: int = 0,
    secrets: Residues | None = None,
    expected: Residues | None = None,
    pool: Pool | None = None,
) -> tuple[int, int, int]:
    """From an accelerator's reply to the site's output, if it is right. `reply` is read once.

    reply: int32 (n, outputs), or uint32 residues with `pad` = R . W^T mod P, residues (n, outputs); then the integers
      are z = (reply - pad) mod P, lifted to the centre.
    bounds: int32 (outputs,), sum_k |W_jk|; |z| must be at most top * bounds[j], and always at most HALF.
    secrets, expected: residues (reps, outputs) and (n, reps); z . secrets mod P must be what is expected, row by row.
    out: float32 (n, outputs) = float32(z) * (row_scales[i] * output_scales[j]).

    Returns (code, row, column) of the first row in which something is wrong: 1 for a reply that isn't below P, 2 for z
    out of bounds, whichever comes first in the row, or else 3 for z that isn't what was expected, with column -1.
    `out` is zeros then. (0, -1, -1) if all is right.
    """
    reply = reply.copy()
    foreign: NDArray[np.bool_]
    if pad is None:
        foreign = np.zeros(reply.shape, np.bool_)
        z = reply.astype(np.int64)
    else:
        foreign = reply >= P
        z = lift(((reply.astype(np.int64) - pad) % P).astype(np.uint32)).astype(np.int64)
    limit = np.full(reply.shape[1], HALF, np.int64)
    if bounds is not None:
        limit = np.minimum(limit, top * bounds.astype(np.int64))
    wrong = foreign | (np.abs(z) > limit)
    failed = np.zeros(reply.shape[0], np.bool_)
    if secrets is not None and expected is not None:
        failed = (dots((z % P).astype(np.uint32), secrets) != expected).any(axis=1)
    bad = wrong.any(axis=1) | failed
    if bad.any():
        out[...] = 0
        row = int(bad.argmax())
        if not wrong[row].any():
            return 3, row, -1
        column = int(wrong[row].argmax())
        return (1 if foreign[row, column] else 2), row, column
    out[...] = z.astype(np.float32) * (row_scales[:, None] * output_scales)
    return 0, -1, -1
