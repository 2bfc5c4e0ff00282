"""Results against the whole network, run in one place."""

from __future__ import annotations

import numpy as np

from cutset.stream.coordinator.result import Result
from cutset.stream.model import Model

__all__ = ["Check"]


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
        self.pictures += 1
        worst, equal = 0.0, True
        for name, wanted in self._model.run(result.pixels).items():
            found = result.outputs[name]
            equal = equal and found.tobytes() == wanted.tobytes()
            with np.errstate(invalid="ignore"):
                apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
            error = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)) if found.shape == wanted.shape else np.inf
            if found.tobytes() == wanted.tobytes():
                error = 0.0
            worst = max(worst, error)
            most = float(np.abs(wanted.astype(np.float64)).max(initial=0.0))
            self.relative = max(self.relative, error / most if most else (np.inf if error else 0.0))
        self.equal += equal
        self.largest = max(self.largest, worst)
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
