"""Results against the whole network, run in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.network_model import NetworkModel
from cutset.video.result import Result

__all__ = ["Ranges", "ResultCheck", "difference", "range_error"]


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
        error = _error(one, right) if _alike(one, right) else np.inf
        finite = right[np.isfinite(right)]
        most = max((abs(float(bound)) for bound in (finite.max(), finite.min())), default=0.0) if finite.size else 0.0
        worst = max(worst, error)
        relative = max(relative, error / most if most else (np.inf if error else 0.0))
    return worst, relative, equal


def range_error(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> float:
    """The largest error of an element, of all outputs the largest as a share of the range of that output's elements.

    Where an output's elements are all equal, as a share of the largest; infinite where shapes or kinds differ.
    """
    ranges = Ranges()
    ranges.add(wanted)
    return ranges.share(ranges.errors(found, wanted))


class Ranges:
    """The range of each output's elements, over all pictures that were added."""

    def __init__(self) -> None:
        self._bounds: dict[str, tuple[float, float]] = {}

    def add(self, wanted: Mapping[str, NDArray[Any]]) -> None:
        """Takes the outputs for a picture."""
        for name, array in wanted.items():
            finite = array[np.isfinite(array)]
            if finite.size:
                low, high = self._bounds.get(name, (np.inf, -np.inf))
                self._bounds[name] = min(low, float(finite.min())), max(high, float(finite.max()))

    def errors(self, found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """The largest error of an element, by output."""
        return {
            name: _error(found[name], right) if _alike(found[name], right) else np.inf for name, right in wanted.items()
        }

    def share(self, errors: Mapping[str, float]) -> float:
        """Of such errors, the largest as a share of the output's range as it is known now."""
        worst = 0.0
        for name, error in errors.items():
            low, high = self._bounds.get(name, (0.0, 0.0))
            span = high - low or abs(high)
            worst = max(worst, error / span if span else (np.inf if error else 0.0))
        return worst


def _alike(one: NDArray[Any], right: NDArray[Any]) -> bool:
    return (one.shape, one.dtype.kind) == (right.shape, right.dtype.kind)


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

    With as many threads as torch has in this process. `tolerance`: what results may be off by, as a share of the range
    of the output's elements over all pictures. `pieces` computes a picture as its plan does, one stage after the other:
    where a runtime fuses layers, the bits are those of the network with the same cuts.
    """

    def __init__(
        self,
        model: NetworkModel,
        tolerance: float = 0.0,
        pieces: Callable[[Result], Mapping[str, NDArray[Any]]] | None = None,
    ) -> None:
        self._model, self.tolerance, self._pieces = model, tolerance, pieces
        self.pictures = self.equal = 0
        self.largest = 0.0  # error of an element
        self.relative = 0.0  # the same by the largest element of its output
        self._ranges, self._near = Ranges(), list[dict[str, float]]()  # errors of pictures that aren't within it yet
        self._most: dict[str, float] = {}

    def compare(self, result: Result) -> float | None:
        """The largest error of a result; None for one that was dropped."""
        if result.dropped:
            return None
        wanted = self._model.run(result.pixels) if self._pieces is None else self._pieces(result)
        worst, relative, equal = difference(result.outputs, wanted)
        self.pictures += 1
        self.equal += equal
        self._ranges.add(wanted)
        if not equal:
            errors = self._ranges.errors(result.outputs, wanted)
            self._most = {name: max(error, self._most.get(name, 0.0)) for name, error in errors.items()}
            self._near.append(errors)
            self._near = self._far()
        self.largest, self.relative = max(self.largest, worst), max(self.relative, relative)
        return worst

    @property
    def exact(self) -> bool:
        """Whether every picture had the bits of the network in one piece."""
        return self.equal == self.pictures

    def _far(self) -> list[dict[str, float]]:
        """Errors that are too large. The range grows with the pictures that are seen."""
        return [errors for errors in self._near if not self._ranges.share(errors) <= self.tolerance]

    @property
    def within(self) -> int:
        """Pictures that are as near to the network in one piece as was promised."""
        return self.pictures - len(self._far())

    @property
    def kept(self) -> bool:
        """Whether all are."""
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
                f"of the network in one piece; largest error {self._ranges.share(self._most):.2e} of it"
            )
        if self.exact:
            return f"check: all {self.pictures} pictures have the bits of the network in one piece"
        return (
            f"check: {self.equal} of {self.pictures} pictures have the bits of the network in one piece; largest error "
            f"{self.largest:.3g}, {self.relative:.2e} of the largest element"
        )
