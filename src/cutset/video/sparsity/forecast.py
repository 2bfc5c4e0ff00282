"""What deltas will cost on every value, also those that no link carries now, from the pictures that came last."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from cutset.partition.traffic import Traffic
from cutset.video.sparsity.changes import delta_bytes, features
from cutset.video.sparsity.predictor import Trained, choose

__all__ = ["Forecast"]

WINDOW = 16  # pictures; a mean over more than the key pictures of most encoders are apart


class Forecast:
    """Uses the better of a trained model and of saying that as much changes as before; `why` says which.

    Show it pictures as they come (it needs not see all of them) and, where they are known, what changed of values. Any
    thread may do so.
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.predictor, self.why = choose(trained)
        self._before: NDArray[np.uint8] | None = None
        self._last: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._lock = Lock()

    def saw(self, pixels: NDArray[np.uint8]) -> None:
        """A picture (1, C, height, width). A first one says nothing yet."""
        if self._before is not None:
            seen = features(self._before, pixels)
            values, mask = self._trained.graph.values, self._trained.mask
            with self._lock:
                said = self.predictor.predict(seen)
                self._last.append({name: delta_bytes(values[name], said[name], mask[name]) for name in values})
        self._before = pixels

    def changed(self, measured: Mapping[str, float]) -> None:
        """The fraction that did change, of some values."""
        with self._lock:
            self.predictor.observe(measured)

    def nbytes(self, value: str) -> float | None:
        """Bytes of a delta, the mean over the last pictures; None before the second picture."""
        with self._lock:
            return float(np.mean([said[value] for said in self._last])) if self._last else None

    def traffic(self, known: Mapping[str, Traffic]) -> dict[str, Traffic]:
        """`known` with deltas of the sizes that are foreseen. A value's ways to encode keep their proportions."""
        found = dict(known)
        for name, traffic in known.items():
            nbytes = self.nbytes(name) if name in self._trained.graph.values else None
            if nbytes is not None and traffic.delta and traffic.delta[0].nbytes > 0:
                factor = nbytes / traffic.delta[0].nbytes
                deltas = tuple(way._replace(nbytes=way.nbytes * factor) for way in traffic.delta)
                found[name] = Traffic(traffic.key, deltas)  # a mean already
        return found
