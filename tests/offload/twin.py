"""Small matrices of the field, for the tests of the client."""

from __future__ import annotations

from typing import Any

import numpy as np

from cutset.kernels import reference_field as field


class TwinMatrix:
    """A matrix whose products are the numpy twin's, and which counts them."""

    def __init__(self, seed: int, outputs: int, depth: int) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
        self.outputs, self.depth = outputs, depth
        self.products = 0

    def residues(self, x: Any, pool: Any = None, out: Any = None) -> Any:
        self.products += len(x)
        product = field.residue_product(x, self.weight)
        if out is None:
            return product
        out[...] = product
        return out
