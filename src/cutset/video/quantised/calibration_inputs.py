"""What pictures make of the inputs of a network's layers: how large they are, and how their elements go together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.values import Array
from cutset.errors import GraphError
from cutset.kernels.reference_linear import quantize_weight
from cutset.models.files.error_spreading import compensation
from cutset.models.files.row_rounding import compensated_rows
from cutset.video.quantised.candidates import ProductCandidate

__all__ = ["LayerInputs"]

MOST_TERMS = 1536  # of a layer whose errors are spread: what that takes grows with their third power
MOST_WINDOWS = 2048  # of a picture and a layer, spread over the map


class LayerInputs:
    """Takes the values of pictures and rounds weights for them. `largest` is the largest size of each input."""

    def __init__(self, layers: Sequence[ProductCandidate]) -> None:
        self._layers = layers
        self.largest = {one.source: 0.0 for one in layers}
        self._moments: dict[int, list[NDArray[np.float32]]] = {}  # by layer: of each group's windows (terms, terms)
        self._counts = [0] * len(layers)  # of windows

    def add(self, name: str, value: Array) -> None:
        """An input, (1, channels, rows, columns) or rows (…, channels). Raises GraphError for one that isn't finite."""
        size = float(np.abs(value).max(initial=0.0))
        if not np.isfinite(size):
            raise GraphError(f"{name} isn't finite for a picture that was given")
        self.largest[name] = max(self.largest[name], size)
        for number, one in enumerate(self._layers):
            if one.source == name and one.shape.terms <= MOST_TERMS:
                self._add(number, one, value)

    def _add(self, number: int, one: ProductCandidate, value: Array) -> None:
        shape = one.shape
        is_map = value.shape == (1, shape.channels, shape.rows, shape.columns) and value.ndim == len(one.made.shape)
        by_position = value.transpose(0, 2, 3, 1) if is_map else value
        padded = shape.padded(np.ascontiguousarray(by_position, np.float32).reshape(-1))
        moments = self._moments.setdefault(
            number, [np.zeros((shape.terms, shape.terms), np.float32) for _ in range(shape.groups)]
        )
        rows, columns = shape.made
        step = max(1, -(-shape.positions // MOST_WINDOWS))
        for group in range(shape.groups):
            for first in range(0, rows, max(1, MOST_WINDOWS // columns)):
                end = min(rows, first + max(1, MOST_WINDOWS // columns))
                windows = shape.windows(padded, group, first, end)[::step]
                moments[group] += windows.T @ windows
                self._counts[number] += len(windows) if group == 0 else 0

    def rounded(self, number: int, one: ProductCandidate) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """A layer's weights (outputs, terms) in 8 bits, one scale an output. ValueError for any that isn't finite."""
        if number not in self._moments:
            return quantize_weight(one.weight)
        if not np.isfinite(one.weight).all():
            raise ValueError("the weights hold a NaN or an infinity")
        parts = []
        for weight, moments in zip(np.split(one.weight, one.shape.groups), self._moments[number], strict=True):
            how = compensation(moments, self._counts[number])
            own = np.ascontiguousarray(weight)
            parts.append(quantize_weight(own) if how is None else compensated_rows(own, how))
        return np.concatenate([weight for weight, _ in parts]), np.concatenate([scales for _, scales in parts])
