"""The matrices of a model that an accelerator multiplies with, by number, and the digest that names them all.

Both sides make this table from their own files; nothing of it is taken from the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.grouped import holds_codes
from cutset.models.files.integer import Progress, quantized
from cutset.models.files.source import ModelSource
from cutset.models.spec import Site

__all__ = [
    "Matrix",
    "ModelDigest",
    "each_matrix",
]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """One product: its place in the model and its weights in integers, as canonical rounding gives them."""

    number: int
    site: Site
    layer: int  # -1 for lm_head
    expert: int  # -1 outside of mixtures of experts
    weight: NDArray[np.int8]  # (outputs, depth)
    scales: NDArray[np.float32]  # (outputs,)

    @property
    def outputs(self) -> int:
        """Rows of the weight."""
        return int(self.weight.shape[0])

    @property
    def depth(self) -> int:
        """Columns of the weight."""
        return int(self.weight.shape[1])

    @property
    def name(self) -> str:
        """For messages: `layer 3 down`, `layer 3 down of expert 2`, `lm_head`."""
        where = self.site if self.layer < 0 else f"layer {self.layer} {self.site}"
        return where if self.expert < 0 else f"{where} of expert {self.expert}"


def each_matrix(source: ModelSource, progress: Progress | None = None) -> Iterator[Matrix]:
    """The matrices of a model in the order of a forward pass, one at a time; a float checkpoint is quantised now.

    Raises CheckpointError for weights that can't be quantised, and for a file of weights of few bits: those would be
    rounded a second time, which nobody should get unasked.
    """
    if holds_codes(source.tensors):
        raise CheckpointError(
            f"{source.path} has weights in groups; an offload multiplies integer checkpoints alone: make one with "
            f"`cutset quantize {source.path} -o DIR`"
        )
    sites = source.spec.sites()
    for number, (site, layer, expert) in enumerate(sites):
        if progress is not None:
            progress("reading weights", number + 1, len(sites))
        weight, scales = quantized(source.spec, source.tensors, site, layer, expert)
        yield Matrix(number, site, layer, expert, weight, scales)


class ModelDigest:
    """SHA-256 over the place, shape and bytes of every matrix: equal for equal weights, however they are stored."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, matrix: Matrix) -> None:
        """Matrices are added in their order."""
        shape = f"{matrix.site} {matrix.layer} {matrix.expert} {matrix.outputs}x{matrix.depth}\n"
        self._digest.update(shape.encode())
        self._digest.update(np.ascontiguousarray(matrix.weight).data.cast("B"))

    def hex(self) -> str:
        """The digest of all that was added."""
        return self._digest.hexdigest()
