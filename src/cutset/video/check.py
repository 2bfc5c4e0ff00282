"""Results against the whole network, run in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.network_model import NetworkModel
from cutset.video.result import Result

__all__ = ["ResultCheck", "difference", "range_error"]


def difference(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> tuple[float, float, bool]:
    """The largest error of an element; of all outputs the largest as a share of that output's largest element; and
    whether all have the same bits. What has another shape or dtype, or an infinity or NaN on one side alone, is
    infinitely wrong. Of truth values that differ the error is 1.
    """
    worst = relative = 0.0
    equal = True
    for name, right in wanted.items():
        one = found[name]
        if (one.shape, one.dtype) == (right.shape, right.dtype) and one.tobytes() == right.tobytes():
            continue
        equal = False
        error = _error(one, right) if (one.shape, one.dtype.kind) == (right.shape, right.dtype.kind) else np.inf
        finite = right[np.isfinite(right)]
        most = max((abs(float(bound)) for bound in (finite.max(), finite.min())), default=0.0) if finite.size else 0.0
        worst = max(worst, error)
        relative = max(relative, error / most if most else (np.inf if error else 0.0))
    return worst, relative, equal


def range_error(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> float:
    """The largest error of an element, of all outputs the largest as a share of the range of that output's elements.

    Where an output's elements are all equal, as a share of the largest; infinite where shapes or kinds differ.
    """
    worst = 0.0
    for name, right in wanted.items():
        one = found[name]
        same = (one.shape, one.dtype.kind) == (right.shape, right.dtype.kind)
        error = _error(one, right) if same else np.inf
        finite = right[np.isfinite(right)].astype(np.float64)
        span = (float(np.ptp(finite)) or float(abs(finite[0]))) if finite.size else 0.0
        worst = max(worst, error / span if span else (np.inf if error else 0.0))
    return worst


def _error(one: NDArray[Any], right: NDArray[Any]) -> float:
    """The largest error of an element, for arrays of one shape and kind."""
    if right.dtype.kind in "iu":  # exact: float64 would take large numbers for equal
        low, high = np.minimum(one, right).astype(np.int64), np.maximum(one, right).astype(np.int64)
        return float((high - low).view(np.uint64).max(initial=0))
    a, b = one.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


class ResultCheck:
    """Computes every picture again, here, in one piece: by the module itself, or by the reference of an ONNX file.

    With as many threads as torch has in this process. `tolerance`: what results may be off by, as a share of their
    range. `pieces` computes a picture as its plan does, one stage after the other: where a runtime fuses layers, the
    bits are those of the network with the same cuts.
    """

    def __init__(
        self,
        model: NetworkModel,
        tolerance: float = 0.0,
        pieces: Callable[[Result], Mapping[str, NDArray[Any]]] | None = None,
    ) -> None:
        self._model, self.tolerance, self._pieces = model, tolerance, pieces
        self.pictures = self.equal = self.within = 0
        self.largest = 0.0  # error of an element
        self.relative = 0.0  # the same by the largest element of its output
        self.ranged = 0.0  # the same by the range of its output

    def compare(self, result: Result) -> float | None:
        """The largest error of a result; None for one that was dropped."""
        if result.dropped:
            return None
        wanted = self._model.run(result.pixels) if self._pieces is None else self._pieces(result)
        worst, relative, equal = difference(result.outputs, wanted)
        ranged = 0.0 if equal else range_error(result.outputs, wanted)
        self.pictures += 1
        self.equal += equal
        self.within += ranged <= self.tolerance
        self.ranged = max(self.ranged, ranged)
        self.largest, self.relative = max(self.largest, worst), max(self.relative, relative)
        return worst

    @property
    def exact(self) -> bool:
        """Whether every picture had the bits of the network in one piece."""
        return self.equal == self.pictures

    @property
    def kept(self) -> bool:
        """Whether every picture is as near to the network in one piece as was promised."""
        return self.within == self.pictures

    def line(self) -> str:
        """What is said at the end."""
        if not self.pictures:
            return "check: no picture was compared"
        if self._pieces is not None and self.exact:
            return f"check: all {self.pictures} pictures have the bits of the network with the same cuts"
        if self.tolerance:
            return (
                f"check: {self.within} of {self.pictures} pictures are within {self.tolerance:g} of the output's range "
                f"of the network in one piece; largest error {self.ranged:.2e} of it"
            )
        if self.exact:
            return f"check: all {self.pictures} pictures have the bits of the network in one piece"
        return (
            f"check: {self.equal} of {self.pictures} pictures have the bits of the network in one piece; largest error "
            f"{self.largest:.3g}, {self.relative:.2e} of the largest element"
        )
