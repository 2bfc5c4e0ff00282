"""Results against the whole network, run in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.stream.coordinator.result import Result
from cutset.stream.model import Model

__all__ = ["Check", "difference"]


def difference(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> tuple[float, float, bool]:
    """The largest error of an element; of all outputs the largest as a share of that output's largest element; and
    whether all have the same bits. What has other shapes, or a NaN on one side alone, is infinitely wrong.
    """
    worst = relative = 0.0
    equal = True
    for name, right in wanted.items():
        one = found[name]
        if one.shape == right.shape and one.tobytes() == right.tobytes():
            continue
        equal = False
        error = np.inf
        if one.shape == right.shape:
            with np.errstate(invalid="ignore"):
                apart = np.abs(one.astype(np.float64) - right.astype(np.float64))
            error = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
        most = float(np.abs(right.astype(np.float64)).max(initial=0.0))
        worst = max(worst, error)
        relative = max(relative, error / most if most else (np.inf if error else 0.0))
    return worst, relative, equal


class Check:
    """Computes every picture again, here; as many threads as torch has in this process."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.pictures = self.equal = 0
        self.largest = 0.0  # error of an element
        self.relative = 0.0  # the same by the largest element of its output

    def compare(self, result: Result) -> float | None:
        """The largest error of a result; None for one that was dropped."""
        if result.dropped:
            return None
        worst, relative, equal = difference(result.outputs, self._model.run(result.pixels))
        self.pictures += 1
        self.equal += equal
        self.largest, self.relative = max(self.largest, worst), max(self.relative, relative)
        return worst

    def within(self, relative: float) -> bool:
        """Whether no error was larger, as a share of the largest element of its output."""
        return self.relative <= relative

    def line(self) -> str:
        """What is said at the end."""
        if self.equal == self.pictures:
            return f"check: all {self.pictures} pictures have the bits of the network in one piece"
        return (
            f"check: {self.equal} of {self.pictures} pictures have the bits of the network in one piece; largest error "
            f"{self.largest:.3g}, {self.relative:.2e} of the largest element"
        )
