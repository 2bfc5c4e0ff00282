"""What an accelerator computes: products with 8-bit matrices, of integers and of residues, exact.

`NativeProducts` multiplies on this machine's processor; `torch_products.py` has those of torch, on CUDA or CPU.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError, DeviceError
from cutset.kernels import native
from cutset.kernels.reference_field import HALF, P, Residues, residue_product
from cutset.kernels.reference_linear import integer_linear

__all__ = ["NativeProducts", "Products", "self_test"]


class Products(Protocol):
    """Matrices by name, and their products. One thread at a time.

    Outputs may be given as `out`, which may lie in a ring; otherwise they are new.
    """

    device: str  # in words, for people

    def put(self, matrix: Hashable, weight: NDArray[np.int8]) -> None:
        """Keeps a copy of weight (outputs, depth). CheckpointError if its products can't be exact."""

    def drop(self, matrix: Hashable) -> None:
        """Forgets a matrix."""

    def integers(
        self, matrix: Hashable, q: NDArray[np.int16], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """q . W^T (n, outputs) of activations q (n, depth). ValueError for q of another shape, or so large that a sum
        could pass 2^30 - 1."""

    def warm(self, matrix: Hashable, offset: int, nbytes: int) -> int:
        """Brings weights closer, `nbytes` from `offset` on, because they will be wanted next; where it ended."""

    def residues(self, matrix: Hashable, x: Residues, out: Residues | None = None) -> Residues:
        """x . W^T mod P (n, outputs) of residues x (n, depth). ValueError for another shape or x not below P."""


class NativeProducts:
    """The byte products of cutset.kernels."""

    def __init__(self, threads: int) -> None:
        self.pool = native.Pool(threads)
        self._linears: dict[Hashable, native.LinearI8] = {}
        self.device = f"cpu, {native.isa()}, {threads} threads"

    def put(self, matrix: Hashable, weight: NDArray[np.int8]) -> None:
        try:
            linear = native.LinearI8(weight, np.ones(weight.shape[0], np.float32), self.pool)
        except ValueError as error:
            raise CheckpointError(f"matrix {matrix}: {error}") from None
        if linear.most_bits < 8 or linear.depth > native.most_residue_depth:
            raise CheckpointError(f"matrix {matrix}: sums of {linear.depth} products overflow")
        self._linears[matrix] = linear

    def linears(self, count: int) -> list[native.LinearI8]:
        """Of the matrices 0, 1, … count - 1."""
        return [self._linears[number] for number in range(count)]

    def drop(self, matrix: Hashable) -> None:
        """Forgets a matrix."""
        del self._linears[matrix]

    def integers(
        self, matrix: Hashable, q: NDArray[np.int16], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        linear = self._linears[matrix]
        return linear.integers(q, linear.most_bits, self.pool, out)

    def warm(self, matrix: Hashable, offset: int, nbytes: int) -> int:
        return self._linears[matrix].warm(offset, nbytes)

    def residues(self, matrix: Hashable, x: Residues, out: Residues | None = None) -> Residues:
        return self._linears[matrix].residues(x, self.pool, out)


def self_test(products: Products) -> None:
    """Multiplies small matrices at the ends of every range. Raises DeviceError unless each bit is right."""
    rng = np.random.default_rng(0)
    name = "self-test"
    for n, outputs, depth in ((1, 1, 1), (3, 40, 67), (33, 64, 2048), (128, 17, 300)):
        weight = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
        weight[0] = 127
        weight[-1, ::2] = -127
        top = 2047 if depth * 127 * 2047 <= HALF else 127
        q = rng.integers(-top, top + 1, (n, depth)).astype(np.int16)
        q[0] = top
        x = rng.integers(0, P, (n, depth), np.uint32)
        x[0] = P - 1
        x[-1, ::2] = rng.choice(np.array([0, 1, HALF, HALF + 1, 2**24 - 1, 0x7F7F7F7F, P - 128], np.uint32))
        products.put(name, weight)
        try:
            right = np.array_equal(products.integers(name, q), integer_linear(q, weight)) and np.array_equal(
                products.residues(name, x), residue_product(x, weight)
            )
        finally:
            products.drop(name)
        if not right:
            raise DeviceError(f"{products.device} multiplies wrong ({n} rows, {depth} by {outputs}); don't use it")
