"""The products of a picture network, multiplied by an accelerator: mask, send, receive, unmask, check.

Feature maps come as integers, with the scale that their layer always has: a scale that depended on the picture would be
nothing that is sent, but it would have to be found first, and every mode would have to find the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from cutset.errors import OffloadError
from cutset.kernels import native
from cutset.kernels.convolution import ConvolutionI8
from cutset.models.files.integer import most_bits, sums_of_sizes
from cutset.offload.client.client_weights import ClientMatrix, ClientWeights
from cutset.offload.client.convolution_check import ConvolutionCheck
from cutset.offload.client.linears import AskedProduct, OffloadLinears
from cutset.offload.convolutions import NetworkProduct, digest_of_products
from cutset.offload.modes import Mode

__all__ = ["OffloadConvolutions", "load_products"]


class OffloadConvolutions(OffloadLinears):
    """A picture network's products over a Session. One call at a time; callers wait for each other.

    A call has one map. Each takes rows of pads of its own, so no two pictures share a mask.
    """

    def multiply(self, number: int, q: NDArray[np.int16], scale: float) -> NDArray[np.float32]:
        """The outputs (positions, outputs) of a product, times their scales, for a map q (depth,) of this scale.

        Raises IntegrityError for a wrong product, LinkError without answer, OffloadError for integers out of bounds.
        """
        matrix = self.weights.matrices[number]
        if q.shape != (matrix.depth,) or q.dtype != np.int16 or max(int(q.max()), -int(q.min())) > matrix.top:
            raise OffloadError(f"{matrix.name} takes {matrix.depth} integers from {-matrix.top} to {matrix.top}")
        with self._lock, nullcontext() if self.pads is None else self.pads.busy():
            self._decoded(None)
            pad = None
            if self.pads is not None:
                pad = self.pads.take(number, 1, self._pool)
                self.times.lap("mask")
            out = np.empty((matrix.positions, len(matrix.scales)), np.float32)
            scales = np.full(matrix.positions, scale, np.float32)
            self._ask(AskedProduct(matrix, q.reshape(1, -1), scales, pad), out)
            return out


def load_products(products: Iterable[NetworkProduct], mode: Mode, pool: native.Pool, *, pack: bool) -> ClientWeights:
    """What a client keeps of a picture network's products. `pack`: their weights too, to make pads.

    Raises OffloadError where sums might not fit in the field.
    """
    given, matrices = list(products), list[ClientMatrix]()
    for product in given:
        if not 8 <= product.bits <= most_bits(product.weight):
            raise OffloadError(
                f"{product.name}: sums of {product.shape.terms} products of {product.bits} bits overflow"
            )
        matrices.append(_client_product(product, mode, pool, pack))
    return ClientWeights(matrices, {}, digest_of_products(given))


def _client_product(product: NetworkProduct, mode: Mode, pool: native.Pool, pack: bool) -> ClientMatrix:
    return ClientMatrix(
        number=product.number,
        site=None,
        name=product.name,
        outputs=product.outputs,
        depth=product.depth,
        bits=product.bits,
        scales=product.scales,
        bounds=sums_of_sizes(product.weight),
        check=ConvolutionCheck(product.weight, product.shape, pool) if mode.verified else None,
        packed=ConvolutionI8(product.weight, product.shape, product.scales, pool) if pack else None,
        positions=product.shape.positions,
    )
