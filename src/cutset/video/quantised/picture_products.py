"""Who multiplies for a network in integers: this machine, or whoever is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.convolution import ConvolutionI8
from cutset.video.quantised.integer_network import IntegerLayer

__all__ = ["LocalProducts", "PictureProducts"]


class PictureProducts(Protocol):
    """The products of a network by number. Every one of them gives the same bits, or raises."""

    def multiply(self, number: int, q: NDArray[np.int16], scale: float) -> NDArray[np.float32]:
        """What a layer makes of a map q (depth,), by position and channel, of this scale: (positions, outputs), each
        sum times `scale` and the output's own scale. Raises CutsetError."""


class LocalProducts:
    """Multiplies here."""

    def __init__(self, layers: Sequence[IntegerLayer], threads: int = 1) -> None:
        self._pool = native.Pool(threads)
        self._layers = layers
        self._products = [ConvolutionI8(one.weight, one.shape, one.scales, self._pool) for one in layers]

    def multiply(self, number: int, q: NDArray[np.int16], scale: float) -> NDArray[np.float32]:
        """See `PictureProducts`."""
        layer = self._layers[number]
        sums = self._products[number].integers(q.reshape(1, -1), layer.bits, self._pool)
        out = np.empty((layer.shape.positions, layer.shape.outputs), np.float32)
        scales = np.full(len(out), scale, np.float32)
        # As where somebody else multiplies, so that rounding is the same.
        native.settle(sums.reshape(out.shape), scales, layer.scales, out, pool=self._pool)
        return out
