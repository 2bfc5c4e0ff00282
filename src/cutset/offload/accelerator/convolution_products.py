"""An accelerator's convolutions: windows of maps, multiplied by the products of rows that the device has."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.kernels.convolution import ConvolutionShape, convolve
from cutset.kernels.reference_field import Residues
from cutset.offload.accelerator.products import Products
from cutset.offload.convolutions import NetworkProduct

__all__ = ["ConvolutionProducts"]


class ConvolutionProducts(Products):
    """Products of a picture network by number, each row a feature map. See `cutset.offload.accelerator.products`."""

    def __init__(self, inner: Products) -> None:
        self.inner, self.device = inner, inner.device
        self._shapes: dict[Hashable, ConvolutionShape] = {}

    def put(self, matrix: Hashable, weight: NDArray[np.int8]) -> None:
        self.inner.put(matrix, weight)

    def put_product(self, product: NetworkProduct) -> None:
        """Keeps a copy of a product's weights. CheckpointError if its sums can't be exact."""
        if product.weight.shape != product.shape.weight_shape:
            raise CheckpointError(f"{product.name}: weights {product.weight.shape} don't fit {product.shape}")
        for group, weight in enumerate(np.split(product.weight, product.shape.groups)):
            self.inner.put((product.number, group), weight.copy())
        self._shapes[product.number] = product.shape

    def drop(self, matrix: Hashable) -> None:
        shape = self._shapes.pop(matrix, None)
        for name in [matrix] if shape is None else [(matrix, group) for group in range(shape.groups)]:
            self.inner.drop(name)

    def integers(
        self, matrix: Hashable, q: NDArray[np.int16], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        shape = self._shapes.get(matrix)
        if shape is None:
            return self.inner.integers(matrix, q, out)
        return convolve(
            shape, q, np.int32, lambda group, windows, to: self.inner.integers((matrix, group), windows, to), out
        )

    def warm(self, matrix: Hashable, offset: int, nbytes: int) -> int:
        return offset  # which groups come next isn't known

    def residues(self, matrix: Hashable, x: Residues, out: Residues | None = None) -> Residues:
        shape = self._shapes.get(matrix)
        if shape is None:
            return self.inner.residues(matrix, x, out)
        return convolve(
            shape, x, np.uint32, lambda group, windows, to: self.inner.residues((matrix, group), windows, to), out
        )
