"""Freivalds' check of the products of a matrix, and whose product is wrong when it fails (Freivalds 1977).

s is a secret vector of residues, fresh for every load. If z = q . W^T then z . s = q . (s W) mod P; a wrong z passes
with probability 1 / P, two wrong in a row of repetitions with 1 / P^2. s W is computed once, so a check costs depth +
outputs products a row instead of depth * outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.reference_field import P, Residues
from cutset.offload.arithmetic import random_residues
from cutset.offload.client.private_memory import private_array

__all__ = ["REPETITIONS", "Blame", "Check"]

REPETITIONS = 2


@dataclass(frozen=True)
class Blame:
    """Whose product is wrong."""

    accelerator: bool
    pad_server: bool

    def __str__(self) -> str:
        names = [name for name, wrong in (("accelerator", self.accelerator), ("pad server", self.pad_server)) if wrong]
        return " and the ".join(names)


class Check:
    """The secrets of one matrix: s (repetitions, outputs) and s W (repetitions, depth), residues."""

    def __init__(
        self, weight: NDArray[np.int8], pool: native.Pool | None = None, repetitions: int = REPETITIONS
    ) -> None:
        """weight (outputs, depth); it isn't kept."""
        outputs = weight.shape[0]
        self.secrets: Residues = private_array((repetitions, outputs), np.uint32)
        self.secrets[:] = random_residues(repetitions * outputs).reshape(repetitions, outputs)
        self.projected: Residues = native.project(weight, self.secrets, pool)

    def __repr__(self) -> str:
        return f"Check(repetitions={len(self.secrets)})"

    def expected(self, q: NDArray[np.integer], pool: native.Pool | None = None) -> Residues:
        """What z . s must be mod P, (n, repetitions), for activations q (n, depth)."""
        return native.dots(q, self.projected, pool)

    def right(self, x: NDArray[np.integer], product: NDArray[np.integer], pool: native.Pool | None = None) -> bool:
        """`product` (n, outputs) is x . W^T mod P, and canonical where it is of residues."""
        if product.dtype == np.uint32 and product.size and int(product.max()) >= P:
            return False
        found = native.dots(product.reshape(-1, self.secrets.shape[1]), self.secrets, pool)
        return bool(np.array_equal(found, self.expected(x, pool)))

    def blame(
        self,
        sent: NDArray[np.integer],
        reply: NDArray[np.integer],
        r: Residues | None = None,
        product: Residues | None = None,
        pool: native.Pool | None = None,
    ) -> Blame:
        """Whose product is wrong, after a reply failed: each server's product is checked by itself.

        sent: what the accelerator was given, residues or int16 (n, depth); reply: what it gave back (n, outputs).
        r, product: the pad. Where both products are right by now, the reply was changed after it had been read, which
        only the accelerator can do.
        """
        pad_server = r is not None and product is not None and not self.right(r, product, pool)
        return Blame(not self.right(sent, np.array(reply), pool) or not pad_server, pad_server)
