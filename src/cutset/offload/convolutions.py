"""The convolutions of a picture network that an accelerator multiplies with, and the digest that names them all.

Both sides make this table from their own files; nothing of it is taken from the other side. On the wire a convolution
is a matrix: a feature map is one row, by position and then by channel, and so is what is made of it. What is linear in
its rows can be masked and checked like any matrix; that most of its elements are zero is the arithmetic's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.convolution import ConvolutionShape

__all__ = ["NetworkProduct", "digest_of_products"]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkProduct:
    """One product of a picture network: a convolution, or a linear layer, which is one of 1 x 1 over rows."""

    number: int
    name: str  # of the layer, for messages
    shape: ConvolutionShape
    weight: NDArray[np.int8]  # (outputs, terms), see ConvolutionShape.weight_shape
    scales: NDArray[np.float32]  # (outputs,)
    bits: int  # of the activations, 8 to 12

    @property
    def outputs(self) -> int:
        """Elements of a row that comes back."""
        return self.shape.positions * self.shape.outputs

    @property
    def depth(self) -> int:
        """Elements of a row that is sent."""
        return self.shape.depth


def digest_of_products(products: Iterable[NetworkProduct]) -> str:
    """SHA-256 over the place, shape and bytes of every product, in order, in hexadecimal."""
    digest = hashlib.sha256(b"pictures\n")
    for product in products:
        digest.update(f"{product.number} {product.shape}\n".encode())
        digest.update(np.ascontiguousarray(product.weight).data.cast("B"))
    return digest.hexdigest()
