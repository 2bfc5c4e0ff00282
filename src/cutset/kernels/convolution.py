"""Convolutions of feature maps in exact integers, as products of windows with 8-bit matrices.

A map lies by position, then by channel: row `(y * columns + x) * channels + c` of a flat array. So a convolution's
outputs are a matrix (positions, outputs), of which everything that knows products of rows can take care. A linear layer
is a convolution of 1 x 1 over a map of one column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.reference_field import Residues

__all__ = ["ConvolutionI8", "ConvolutionShape", "convolve"]

PIECE = 1 << 22  # elements of windows that are in memory at a time
MOST = 1 << 31  # elements of a map, with the zeros around it

# multiply(group, windows (n, terms), out) gives a group's products (n, its outputs), in `out` where that is there.
MultiplyWindows = Callable[[int, NDArray[Any], NDArray[Any] | None], NDArray[Any]]


@dataclass(frozen=True)
class ConvolutionShape:
    """What a convolution takes and makes. ValueError for one that there can't be."""

    rows: int
    columns: int
    channels: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # zeros above, left, below, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        sizes = (self.rows, self.columns, self.channels, self.outputs, self.groups)
        if min(*sizes, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ValueError("a convolution's sizes are at least 1, and its padding at least 0")
        if max(*sizes, *self.kernel, *self.stride, *self.dilation, *self.padding) >= 1 << 24:
            raise ValueError("a convolution is larger than any picture's")
        if self.channels % self.groups or self.outputs % self.groups:
            raise ValueError(f"{self.channels} channels and {self.outputs} outputs make no {self.groups} groups")
        if min(self.made) < 1:
            raise ValueError("a convolution's window is larger than its map")
        top, left, bottom, right = self.padding
        padded = (self.rows + top + bottom) * (self.columns + left + right) * self.channels
        if max(padded, self.positions * self.outputs, self.terms * self.outputs) >= MOST:
            raise ValueError("a convolution is larger than any picture's")

    @property
    def made(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        top, left, bottom, right = self.padding
        size = self.rows + top + bottom, self.columns + left + right
        row, column = (
            (s - d * (k - 1) - 1) // step + 1
            for s, k, step, d in zip(size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return row, column

    @property
    def depth(self) -> int:
        """Elements of a map."""
        return self.rows * self.columns * self.channels

    @property
    def positions(self) -> int:
        """Of the output."""
        return self.made[0] * self.made[1]

    @property
    def terms(self) -> int:
        """Products of a sum."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Outputs, and the weights of each: by row of the window, by column, by channel of its group."""
        return self.outputs, self.terms

    @property
    def work(self) -> int:
        """Products in all."""
        return self.positions * self.outputs * self.terms

    @property
    def plain(self) -> bool:
        """Windows are the positions themselves."""
        return self.kernel == self.stride == (1, 1) and not any(self.padding) and self.groups == 1

    def padded(self, x: NDArray[Any]) -> NDArray[Any]:
        """A flat map (depth,) with the zeros around it: (rows, columns, channels)."""
        given = x.reshape(self.rows, self.columns, self.channels)
        if not any(self.padding):
            return given
        top, left, bottom, right = self.padding
        found = np.zeros((self.rows + top + bottom, self.columns + left + right, self.channels), x.dtype)
        found[top : top + self.rows, left : left + self.columns] = given
        return found

    def windows(self, padded: NDArray[Any], group: int, first: int, end: int) -> NDArray[Any]:
        """The windows of the output's rows first .. end: (positions, terms), of what `padded` gave."""
        own = self.channels // self.groups
        if self.plain:
            return padded[first:end].reshape(-1, self.channels)
        down, right, step = padded.strides
        begin = padded[first * self.stride[0] :, :, group * own :]
        places, steps = (end - first, self.made[1]), (self.stride[0] * down, self.stride[1] * right)
        taps: tuple[int, ...] = (*self.kernel, own)
        gaps: tuple[int, ...] = (self.dilation[0] * down, self.dilation[1] * right, step)
        if self.groups == 1 and self.dilation[1] == 1:  # a row of a window lies in one piece, which copies faster
            taps, gaps = (self.kernel[0], self.kernel[1] * own), (gaps[0], step)
        view = as_strided(begin, (*places, *taps), (*steps, *gaps), writeable=False)
        return np.ascontiguousarray(view).reshape(-1, self.terms)

    def __str__(self) -> str:
        parts = (self.kernel, self.stride, self.padding, self.dilation)
        shown = " ".join(",".join(map(str, part)) for part in parts)
        return f"{self.rows}x{self.columns}x{self.channels} {self.outputs} {shown} {self.groups}"


def convolve(
    shape: ConvolutionShape, x: NDArray[Any], dtype: Any, multiply: MultiplyWindows, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Convolutions of maps x (n, depth): (n, positions * outputs). ValueError for maps or `out` of another shape."""
    made = shape.positions * shape.outputs
    if x.ndim != 2 or x.shape[1] != shape.depth:
        raise ValueError(f"maps must be rows of {shape.depth} elements, not {x.shape}")
    if out is None:
        out = np.empty((len(x), made), dtype)
    elif out.shape != (len(x), made) or out.dtype != dtype:
        raise ValueError(f"out must be {np.dtype(dtype)} {(len(x), made)}, not {out.dtype} {out.shape}")
    columns, own = shape.made[1], shape.outputs // shape.groups
    step = max(1, PIECE // (columns * shape.terms))
    for i in range(len(x)):
        padded, whole = shape.padded(x[i]), out[i].reshape(shape.positions, shape.outputs)
        for first in range(0, shape.made[0], step):
            end = min(first + step, shape.made[0])
            part = whole[first * columns : end * columns]
            for group in range(shape.groups):
                windows = shape.windows(padded, group, first, end)
                if shape.groups == 1:
                    multiply(0, windows, part)
                else:
                    part[:, group * own : (group + 1) * own] = multiply(group, windows, None)
    return out


class ConvolutionI8:
    """A convolution with 8-bit weights (outputs, terms) over native products of rows."""

    def __init__(
        self,
        weight: NDArray[np.int8],
        shape: ConvolutionShape,
        scales: NDArray[np.float32] | None = None,
        pool: native.Pool | None = None,
    ) -> None:
        """ValueError for weights of another shape, or -128 among them."""
        if weight.shape != shape.weight_shape:
            raise ValueError(f"the weights of {shape} are {shape.weight_shape}, not {weight.shape}")
        self.shape = shape
        given = np.ones(shape.outputs, np.float32) if scales is None else scales
        parts = zip(np.split(weight, shape.groups), np.split(given, shape.groups), strict=True)
        self._linears: Sequence[native.LinearI8] = [native.LinearI8(w.copy(), s.copy(), pool) for w, s in parts]

    @property
    def depth(self) -> int:
        """Elements of a map."""
        return self.shape.depth

    @property
    def outputs(self) -> int:
        """Elements that a map makes."""
        return self.shape.positions * self.shape.outputs

    @property
    def most_bits(self) -> int:
        """The most bits of activations whose sums are exact; 0 where even 8 are too many."""
        return min(linear.most_bits for linear in self._linears)

    def integers(
        self, q: NDArray[np.int16], bits: int, pool: native.Pool | None = None, out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Sums (n, positions * outputs) of maps q (n, depth) of so many bits. ValueError for others."""
        return convolve(
            self.shape, q, np.int32, lambda g, windows, to: self._linears[g].integers(windows, bits, pool, to), out
        )

    def residues(self, x: Residues, pool: native.Pool | None = None, out: Residues | None = None) -> Residues:
        """The same mod P, of residues x. ValueError if some x isn't one."""
        return convolve(
            self.shape, x, np.uint32, lambda g, windows, to: self._linears[g].residues(windows, pool, to), out
        )
