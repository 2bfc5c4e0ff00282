"""Do two outputs agree? Arrays by relative measures, traces operator by operator.

Relative, because a tolerance in absolute terms says nothing about logits of unknown size; and an array of zeros never
passes, because it would pass many a loose check.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import RequestError
from cutset.models.files.npy import map_npy

__all__ = ["Agreement", "compare_arrays", "compare_traces", "load_array", "trace_steps"]

MOST_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two arrays of one shape are apart. Positions that are padding don't count."""

    shape: tuple[int, ...]
    relative_l2: float  # |a - b| / |b|
    max_error: float
    cosine: float
    top1: float  # share of positions whose largest element along the last axis is the same
    positions: int
    problem: str = ""  # why they can't be said to agree, whatever the figures

    def within(self, tolerance: float) -> bool:
        """The relative L2 distance is at most `tolerance` and nothing else is wrong."""
        return not self.problem and self.relative_l2 <= tolerance

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return (
            f"shape {self.shape}, relative L2 {self.relative_l2:.3g}, maximum error {self.max_error:.3g}, "
            f"cosine {self.cosine:.9f}, top-1 agreement {self.top1:.2%} of {self.positions} positions"
        )


def compare_arrays(a: NDArray[Any], b: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Agreement:
    """Compares two arrays (…, n); `mask` (…) is False at positions that don't count."""
    if a.shape != b.shape:
        return _apart(a, f"shapes differ: {a.shape} and {b.shape}")
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return _apart(a, f"dtypes {a.dtype} and {b.dtype} can't be compared")
    if a.ndim == 0 or a.size == 0:
        return _apart(a, "nothing to compare: the arrays are empty")
    if mask is not None:
        if mask.shape != a.shape[: mask.ndim] or mask.ndim >= a.ndim:
            return _apart(a, f"a mask of shape {mask.shape} doesn't fit arrays of shape {a.shape}")
        if not mask.any():
            return _apart(a, "nothing to compare: every position is padding")
        a, b = a[mask], b[mask]
    x, y = a.astype(np.float64).reshape(-1, a.shape[-1]), b.astype(np.float64).reshape(-1, b.shape[-1])
    for which, values in (("first", x), ("second", y)):
        if not np.isfinite(values).all():
            return _apart(a, f"the {which} holds values that aren't finite")
        if not values.any():
            return _apart(a, f"the {which} is all zeros")
    norm_x, norm_y, apart = (_norm(v) for v in (x, y, x - y))
    return Agreement(
        shape=a.shape,
        relative_l2=apart / norm_y,
        max_error=float(np.abs(x - y).max()),
        cosine=float((x / norm_x * (y / norm_y)).sum()),
        top1=float((x.argmax(axis=1) == y.argmax(axis=1)).mean()),
        positions=len(x),
    )


def _norm(values: NDArray[np.float64]) -> float:
    """The Euclidean norm; squares of very large or small numbers are numbers no more."""
    largest = float(np.abs(values).max())
    return largest * float(np.linalg.norm(values / largest)) if largest else 0.0


def _apart(a: NDArray[Any], problem: str) -> Agreement:
    return Agreement(a.shape, float("inf"), float("inf"), 0.0, 0.0, 0, problem)


def load_array(path: Path) -> NDArray[Any]:
    """An array from a .npy file, mapped. Raises RequestError for anything else; nothing is ever unpickled."""
    try:
        return map_npy(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} can't be read as an array: {error}") from None


def trace_steps(folder: Path) -> dict[str, Path]:
    """The operators of a trace in the order in which they ran: their names (`layer 0 qkv`) to their files.

    Files are named NUMBER-OPERATOR or NUMBER-layerLL-OPERATOR, as `cutset forward --trace` writes them.
    """
    steps = {}
    for path in sorted(folder.glob("*.npy")):
        number, _, name = path.stem.partition("-")
        if not number.isdigit() or not name:
            raise RequestError(f"{path} is not named as `cutset forward --trace` names the files of a trace")
        steps[name] = path
    if not steps:
        raise RequestError(f"{folder} holds no trace; write one with `cutset forward --trace`")
    return steps


def compare_traces(a: Path, b: Path, rows: NDArray[np.bool_] | None = None) -> dict[str, Agreement]:
    """The agreement of every operator that both traces have, in order; `rows` is False for rows of padding.

    An operator that only one of them has is a problem.
    """
    first, second = trace_steps(a), trace_steps(b)
    found = {}
    for name in [*first, *(name for name in second if name not in first)]:
        if name not in first or name not in second:
            missing = a if name not in first else b
            found[name] = _apart(np.empty(0), f"{missing} doesn't have it")
            continue
        x, y = load_array(first[name]), load_array(second[name])
        counts = rows is not None and x.shape[:1] == rows.shape  # experts see rows of their own choice
        found[name] = compare_arrays(x, y, rows if counts else None)
    return found
