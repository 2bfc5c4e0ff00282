"""Convolutions on a device of torch: maps go there once, and their windows are taken there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cutset.kernels.convolution import ConvolutionShape
from cutset.kernels.reference_field import P, Residues
from cutset.offload.accelerator.convolution_products import ConvolutionProducts
from cutset.offload.accelerator.torch_products import TorchProducts

__all__ = ["TorchConvolutions"]

PIECE = 1 << 26  # elements of windows that are in memory at a time


class TorchConvolutions(ConvolutionProducts):
    """See ConvolutionProducts; exact in the ways of TorchProducts."""

    def __init__(self, inner: TorchProducts) -> None:
        super().__init__(inner)
        self._torch = inner

    def integers(
        self, matrix: Hashable, q: NDArray[np.int16], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        shape = self._shapes.get(matrix)
        if shape is None:
            return self.inner.integers(matrix, q, out)
        top = min(self._torch.top((matrix, group)) for group in range(shape.groups))
        if q.size and max(int(q.max()), -int(q.min())) > top:
            raise ValueError(f"integers for these weights must lie between {-top} and {top}")
        z = _convolved(shape, self._torch.staged(q), lambda g, rows: self._torch.sums((matrix, g), rows))
        return self._torch.give(z, out, np.int32)

    def residues(self, matrix: Hashable, x: Residues, out: Residues | None = None) -> Residues:
        shape = self._shapes.get(matrix)
        if shape is None:
            return self.inner.residues(matrix, x, out)
        if x.size and int(x.max()) >= P:
            raise ValueError("x must hold residues, which are below 2147483647")
        z = _convolved(shape, self._torch.lifted(x), lambda g, rows: self._torch.remainders((matrix, g), rows))
        return self._torch.give(z, out, np.uint32)


def _convolved(shape: ConvolutionShape, maps: Any, multiply: Callable[[int, Any], Any]) -> Any:
    """Of maps (n, depth), int32 on the device: int32 (n, positions * outputs)."""
    top, left, bottom, right = shape.padding
    made = torch.empty((len(maps), shape.positions, shape.outputs), dtype=torch.int32, device=maps.device)
    own, outputs = shape.channels // shape.groups, shape.outputs // shape.groups
    columns, step = shape.made[1], max(1, PIECE // (shape.made[1] * shape.terms))
    for i in range(len(maps)):
        given = maps[i].view(shape.rows, shape.columns, shape.channels)
        padded = torch.nn.functional.pad(given, (0, 0, left, right, top, bottom)).contiguous()
        down, across, one = padded.stride()
        for first in range(0, shape.made[0], step):
            count = min(step, shape.made[0] - first)
            for group in range(shape.groups):
                windows = padded.as_strided(
                    (count, columns, *shape.kernel, own),
                    (
                        shape.stride[0] * down,
                        shape.stride[1] * across,
                        shape.dilation[0] * down,
                        shape.dilation[1] * across,
                        one,
                    ),
                    first * shape.stride[0] * down + group * own,
                )
                rows = windows.reshape(-1, shape.terms)
                to = made[i, first * columns : (first + count) * columns, group * outputs : (group + 1) * outputs]
                to.copy_(multiply(group, rows))
    return made.view(len(maps), -1)
