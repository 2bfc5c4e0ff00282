"""What a client keeps of each matrix: scales, bounds, how many bits it multiplies, and the secrets of the check.

The weights themselves are needed only while loading, and where the client makes its own pads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.errors import OffloadError
from cutset.kernels import native
from cutset.kernels.convolution import ConvolutionI8
from cutset.kernels.reference_field import Residues
from cutset.models.files.integer import Progress, bits_of_site, sums_of_sizes
from cutset.models.files.source import ModelSource
from cutset.models.spec import Site
from cutset.offload.client.checks import Check
from cutset.offload.matrices import Matrix, ModelDigest, each_matrix
from cutset.offload.modes import Mode

__all__ = ["ClientMatrix", "ClientWeights", "load_weights"]


@dataclass(frozen=True, slots=True, eq=False)
class ClientMatrix:
    """One matrix as its client knows it."""

    number: int
    site: Site | None  # None in a picture network, whose places have names alone
    name: str
    outputs: int
    depth: int
    bits: int  # of the activations
    scales: NDArray[np.float32]  # (outputs,)
    bounds: NDArray[np.int32]  # (outputs,) the sum of |W|
    check: Check | None  # where the mode has it
    packed: native.LinearI8 | ConvolutionI8 | None  # where the client makes its own pads
    positions: int = 1  # rows of `scales` outputs that a row makes: of a convolution's output, of one row of a matrix

    def residues(self, x: Residues, pool: native.Pool | None = None, out: Residues | None = None) -> Residues:
        """x . W^T mod P, for pads that are made here."""
        if self.packed is None:
            raise OffloadError("the weights weren't kept: pads come from elsewhere")
        return self.packed.residues(x, pool=pool, out=out)

    @property
    def top(self) -> int:
        """The largest |q|."""
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True, slots=True)
class ClientWeights:
    """All matrices of a model by number, the numbers by place, and the digest of the weights."""

    matrices: list[ClientMatrix]
    numbers: dict[tuple[str, int, int], int]
    digest: str

    def of(self, site: Site, layer: int, expert: int) -> ClientMatrix:
        """The matrix of a place in the model; layer and expert are -1 where there are none."""
        return self.matrices[self.numbers[site, layer, expert]]


def load_weights(
    source: ModelSource, mode: Mode, pool: native.Pool, *, pack: bool, progress: Progress | None = None
) -> ClientWeights:
    """Reads a model's matrices once. `pack`: keep them, packed, to make pads.

    Raises OffloadError for a mixture of experts in a masked mode, CheckpointError where even 8-bit activations could
    make sums that don't fit in the field.
    """
    if mode.masked and source.spec.moe is not None:
        raise OffloadError(
            f"mode {mode.name} doesn't run mixtures of experts: which expert gets how many rows reveals what is read. "
            "Use --mode local, or --mode verified if the accelerator may see everything"
        )
    digest, matrices = ModelDigest(), list[ClientMatrix]()
    numbers: dict[tuple[str, int, int], int] = {}
    for matrix in each_matrix(source, progress):
        digest.add(matrix)
        matrices.append(_client_matrix(matrix, mode, pool, pack))
        numbers[matrix.site, matrix.layer, matrix.expert] = matrix.number
    source.forget()
    return ClientWeights(matrices, numbers, digest.hex())


def _client_matrix(matrix: Matrix, mode: Mode, pool: native.Pool, pack: bool) -> ClientMatrix:
    return ClientMatrix(
        number=matrix.number,
        site=matrix.site,
        name=matrix.name,
        outputs=matrix.outputs,
        depth=matrix.depth,
        bits=bits_of_site("exact", matrix.site, matrix.layer, matrix.weight),
        scales=matrix.scales,
        bounds=sums_of_sizes(matrix.weight),
        check=Check(matrix.weight, pool) if mode.verified else None,
        packed=native.LinearI8(matrix.weight, matrix.scales, pool) if pack else None,
    )
