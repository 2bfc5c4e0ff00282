"""The next try: masks in a ring, so that nothing can be read. The arithmetic is right; the checks are not.

`FieldClient` is Slalom's idea (Tramèr and Boneh, 2019) with three omissions: it checks congruence only, it checks the
masked product only, and it believes whoever computes its pads. `PowerOfTwoClient` works modulo 2³² because that is
what machines do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attacks.setting import Array

__all__ = ["FieldClient", "P", "PowerOfTwoClient", "Refused", "matmul"]

P = 2**31 - 1


class Refused(Exception):
    """The client found a lie."""


def matmul(rows: Array, weight: Array, modulus: int = P) -> Array:
    """rows · weightᵀ in the ring, exactly, in Python's integers: slow, and right for any modulus."""
    product = rows.astype(object) @ weight.astype(object).T
    return np.asarray(product % modulus, dtype=np.int64)


class FieldClient:
    """Fresh uniform masks modulo p and a Freivalds check. `weight` is int8 (outputs, depth)."""

    modulus = P

    def __init__(self, weight: Array, pad_server: Callable[[Array], Array] | None = None, seed: int = 6) -> None:
        self.weight, self.rng = weight, np.random.default_rng(seed)
        self.pad_server = pad_server or (lambda mask: matmul(mask, weight, self.modulus))
        self.secret = self.rng.integers(0, self.modulus, (1, weight.shape[0]))
        self.projected = matmul(self.secret, weight.T, self.modulus)  # s·W: (1, depth)

    def multiply(self, rows: Array, server: Callable[[Array], Array]) -> Array:
        """rows · weightᵀ in integers, by way of the server. Raises Refused where it finds a lie."""
        mask = self.rng.integers(0, self.modulus, rows.shape)
        product = self.pad_server(mask)
        masked = (rows + mask) % self.modulus
        reply = server(masked)
        if (matmul(reply, self.secret, self.modulus) != matmul(masked, self.projected, self.modulus)).any():
            raise Refused
        return self.unmask(reply.astype(np.uint32), product.astype(np.uint32))

    def unmask(self, reply: Array, product: Array) -> Array:
        """reply − product, lifted to the centre: the usual two instructions, right for residues below p only."""
        value = reply - product
        value = np.minimum(value, value + np.uint32(P)).astype(np.int64)
        return np.asarray(np.where(value > P // 2, value - P, value))


class PowerOfTwoClient(FieldClient):
    """The same in a ring that isn't a field: half of all secrets don't see an error of 2³¹."""

    modulus = 2**32

    def unmask(self, reply: Array, product: Array) -> Array:
        value: Array = (reply - product).view(np.int32)
        return value
