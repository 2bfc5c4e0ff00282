"""What predicts one layer's changed fractions: from those predicted for the values that it reads, or from the picture.

Every kind takes arrays (P, channels), one for each value that the layer reads, or one (P, features) where `of_picture`,
and gives (P, channels) in 0..1. Fitting is elsewhere (fit.py, which needs scikit-learn); this needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Channels", "Concat", "Layer", "Means", "Perceptron", "PictureLinear", "clip", "means", "sigmoid"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Channels:
    """Each channel by itself, linear in the same channel of what is read: ReLU, normalisation, pooling, addition."""

    kind: ClassVar[str] = "channels"
    of_picture: ClassVar[bool] = False
    weights: Floats  # (reads, channels)
    bias: Floats  # (channels,)

    def __call__(self, reads: Sequence[Floats]) -> Floats:
        total = self.bias + sum(w * x for w, x in zip(self.weights, reads, strict=True))
        return clip(total)

    def fits(self, reads: Sequence[int], channels: int) -> bool:
        """Whether the arrays have the shapes for values with so many channels."""
        return (
            self.weights.shape == (len(reads), channels) and all(c == channels for c in reads) and _row(self, channels)
        )


@dataclass(frozen=True)
class Means:
    """Each channel, linear in the means over channels of what is read."""

    kind: ClassVar[str] = "means"
    of_picture: ClassVar[bool] = False
    weights: Floats  # (reads, channels)
    bias: Floats  # (channels,)

    def __call__(self, reads: Sequence[Floats]) -> Floats:
        return clip(means(reads) @ self.weights + self.bias)

    def fits(self, reads: Sequence[int], channels: int) -> bool:
        return self.weights.shape == (len(reads), channels) and _row(self, channels)


@dataclass(frozen=True)
class PictureLinear:
    """Each channel, linear in the picture's features."""

    kind: ClassVar[str] = "picture"
    of_picture: ClassVar[bool] = True
    weights: Floats  # (features, channels)
    bias: Floats  # (channels,)

    def __call__(self, reads: Sequence[Floats]) -> Floats:
        [picture] = reads
        return clip(picture @ self.weights + self.bias)

    def fits(self, reads: Sequence[int], channels: int) -> bool:
        return self.weights.shape == (sum(reads), channels) and _row(self, channels)


@dataclass(frozen=True)
class Perceptron:
    """All channels together, by one small hidden layer of logistic units over the picture's features."""

    kind: ClassVar[str] = "network"
    of_picture: ClassVar[bool] = True
    weights: Floats  # (features, hidden)
    hidden: Floats  # (hidden,): added before the logistic function
    out: Floats  # (hidden, channels)
    bias: Floats  # (channels,)

    def __call__(self, reads: Sequence[Floats]) -> Floats:
        [picture] = reads
        return clip(sigmoid(picture @ self.weights + self.hidden) @ self.out + self.bias)

    def fits(self, reads: Sequence[int], channels: int) -> bool:
        units = self.hidden.size
        whole = self.weights.shape == (sum(reads), units) and self.hidden.shape == (units,)
        return whole and self.out.shape == (units, channels) and _row(self, channels)


@dataclass(frozen=True)
class Concat:
    """The channels of all that is read, one after another: exact."""

    kind: ClassVar[str] = "concat"
    of_picture: ClassVar[bool] = False

    def __call__(self, reads: Sequence[Floats]) -> Floats:
        return np.concatenate(reads, axis=1)

    def fits(self, reads: Sequence[int], channels: int) -> bool:
        return sum(reads) == channels


Layer = Channels | Means | PictureLinear | Perceptron | Concat
KINDS: Mapping[str, type[Any]] = {kind.kind: kind for kind in (Channels, Means, PictureLinear, Perceptron, Concat)}


def clip(fractions: Floats) -> Floats:
    """Within 0 to 1."""
    return np.clip(fractions, 0.0, 1.0)


def means(reads: Sequence[Floats]) -> Floats:
    """(P, reads): the mean over the channels of each."""
    return np.stack([x.mean(axis=1) for x in reads], axis=1)


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    half: Floats = 0.5 + 0.5 * np.tanh(0.5 * x)  # doesn't overflow
    return half


def _row(layer: Channels | Means | PictureLinear | Perceptron, channels: int) -> bool:
    return layer.bias.shape == (channels,)
