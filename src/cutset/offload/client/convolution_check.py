"""Freivalds' check of a convolution, over its output channels.

s is a secret vector of residues, one for each channel. The channels of a right output, weighed by s and added up, are
the convolution with the weights added up alike: one channel, which costs 1 / outputs of the whole. So each position of
each map is checked as a row of a matrix is, with the same soundness; see `checks.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.convolution import ConvolutionShape, convolve
from cutset.kernels.reference_field import Residues
from cutset.offload.arithmetic import random_residues
from cutset.offload.client.checks import REPETITIONS, Check
from cutset.offload.client.private_memory import private_array

__all__ = ["ConvolutionCheck"]


class ConvolutionCheck(Check):
    """The secrets of one convolution: s (repetitions, outputs), and the combined kernels (repetitions, terms of all
    channels). A kernel has weights for the channels of every group, so one convolution checks all groups."""

    def __init__(
        self,
        weight: NDArray[np.int8],
        shape: ConvolutionShape,
        pool: native.Pool | None = None,
        repetitions: int = REPETITIONS,
    ) -> None:
        """weight (outputs, terms); it isn't kept."""
        self.shape = replace(shape, outputs=repetitions, groups=1)
        self.secrets: Residues = private_array((repetitions, shape.outputs), np.uint32)
        self.secrets[:] = random_residues(repetitions * shape.outputs).reshape(repetitions, shape.outputs)
        self.projected: Residues = private_array((repetitions, self.shape.terms), np.uint32)
        kernels = self.projected.reshape(repetitions, *shape.kernel, shape.channels)
        inside, outside = shape.channels // shape.groups, shape.outputs // shape.groups
        for group, part in enumerate(np.split(weight, shape.groups)):
            own = np.ascontiguousarray(self.secrets[:, group * outside : (group + 1) * outside])
            combined = native.project(part.copy(), own, pool)
            kernels[..., group * inside : (group + 1) * inside] = combined.reshape(repetitions, *shape.kernel, inside)

    def expected(self, q: NDArray[np.integer], pool: native.Pool | None = None) -> Residues:
        """What z . s must be mod P at each position, (n * positions, repetitions), for maps q (n, depth)."""

        def multiply(group: int, windows: NDArray[np.integer], out: Residues | None) -> Residues:
            found = native.dots(windows, self.projected, pool)
            if out is not None:
                out[...] = found
            return found

        found: Residues = convolve(self.shape, q, np.uint32, multiply)
        return found.reshape(-1, len(self.secrets))
