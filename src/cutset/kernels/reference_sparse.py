"""The kernels of incremental inference in numpy: what the native ones compute, written to be read.

A map is (rows, columns, channels). These functions compute all of its positions; `settled` says which of them replace
what is held. Sums are equal within their rounding, everything that is copied or compared to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Window", "activated", "blended", "combined", "convolved", "pooled", "settled", "spread"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

COMBINE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


class Window(NamedTuple):
    """What a layer reads for an output: `rows` x `columns` inputs, the first one `top` and `left` of the map's own."""

    rows: int
    columns: int
    row_stride: int = 1
    column_stride: int = 1
    top: int = 0
    left: int = 0
    row_dilation: int = 1
    column_dilation: int = 1

    def border(self, size: tuple[int, int], outputs: tuple[int, int]) -> int:
        """Zeros that a map of this size needs on its sides, so that the windows of so many outputs lie within it."""
        most = max(self.top, self.left, 0)
        for length, made, window, stride, before, dilation in zip(
            size, outputs, self[0:2], self[2:4], self[4:6], self[6:8], strict=True
        ):
            most = max(most, (made - 1) * stride + (window - 1) * dilation + 1 - before - length)
        return most

    def spread(self, mask: NDArray[np.uint8], outputs: tuple[int, int]) -> NDArray[np.uint8]:
        """Of outputs (rows, columns): whether something in its window is marked."""
        for axis in (0, 1):
            length, made = mask.shape[axis], outputs[axis]
            window, stride, before, dilation = self[axis], self[axis + 2], self[axis + 4], self[axis + 6]
            found = np.zeros((made, mask.shape[1]) if axis == 0 else (mask.shape[0], made), np.uint8)
            for tap in range(window):
                offset = tap * dilation - before
                first = max(0, -(offset // stride))  # the first and last outputs whose tap lies on the map
                last = min(made - 1, (length - 1 - offset) // stride)
                if last < first:
                    continue
                taken = slice(first * stride + offset, last * stride + offset + 1, stride)
                if axis == 0:
                    found[first : last + 1] |= mask[taken]
                else:
                    found[:, first : last + 1] |= mask[:, taken]
            mask = found
        return mask


def convolved(
    x: Floats, weight: Floats, bias: Floats | None, groups: int, window: Window, outputs: tuple[int, int]
) -> Floats:
    """y (rows, columns, outputs) of weight (outputs, rows, columns, channels / groups)."""
    made, _, _, own = weight.shape
    padded = _padded(x, window, outputs, 0.0)
    y = np.zeros((*outputs, made), np.float32)
    if bias is not None:
        y += bias
    each = made // groups
    for r in range(window.rows):
        for c in range(window.columns):
            taken = _tap(padded, window, r, c, outputs)
            for g in range(groups):
                part, at = taken[..., g * own : (g + 1) * own], slice(g * each, (g + 1) * each)
                y[..., at] += part @ weight[at, r, c].T
    return y


def pooled(x: Floats, window: Window, mean: bool, divisor: int, outputs: tuple[int, int]) -> Floats:
    """The largest of each window's inputs inside of the map, or their mean; with a divisor above 0 it is that."""
    taps = [(r, c) for r in range(window.rows) for c in range(window.columns)]
    if not mean:
        padded = _padded(x, window, outputs, -np.inf)
        largest: Floats = np.max([_tap(padded, window, r, c, outputs) for r, c in taps], axis=0)
        return largest
    ones = _padded(np.ones((*x.shape[:2], 1), np.float32), window, outputs, 0.0)
    padded = _padded(x, window, outputs, 0.0)
    total = np.sum([_tap(padded, window, r, c, outputs) for r, c in taps], axis=0)
    count = divisor or np.sum([_tap(ones, window, r, c, outputs) for r, c in taps], axis=0)
    return np.asarray(total / count, np.float32)


def combined(kind: str, a: Floats, b: Floats) -> Floats:
    """Each channel of two maps: add, sub, mul, div, max or min."""
    result: Floats = COMBINE[kind](a, b)
    return result


def blended(
    x: Floats,
    row_places: NDArray[np.int64],
    row_shares: Floats,
    column_places: NDArray[np.int64],
    column_shares: Floats,
) -> Floats:
    """Output (r, c) is between two rows of x, places (2, rows), and two columns; shares are the second one's."""
    down, right = row_shares[:, None, None], column_shares[None, :, None]
    above, below = (x[places][:, column_places[0]] * (1 - right) for places in row_places)
    above, below = (
        side + x[places][:, column_places[1]] * right for side, places in zip((above, below), row_places, strict=True)
    )
    return np.asarray(above * (1 - down) + below * down, np.float32)


def spread(x: Floats, block: tuple[int, int], apart: bool) -> Floats:
    """Each position becomes a block of places, which have a part of its channels each: those of a place lie side by
    side, or (apart) one channel's of all places."""
    rows, columns, channels = x.shape
    down, across = block
    parts = x.reshape(rows, columns, -1, down, across) if apart else x.reshape(rows, columns, down, across, -1)
    order = (0, 3, 1, 4, 2) if apart else (0, 2, 1, 3, 4)
    return parts.transpose(order).reshape(rows * down, columns * across, channels // (down * across))


def activated(kind: str, x: Floats, parameter: float = 0.0) -> Floats:
    """What follows a layer; parameter: the slope of leaky_relu, the upper limit of clamp."""
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
    found: dict[str, Callable[[], NDArray[Any]]] = {
        "none": lambda: wide,
        "relu": lambda: np.maximum(wide, 0),
        "clamp": lambda: np.clip(wide, 0, parameter),
        "leaky_relu": lambda: np.where(wide > 0, wide, parameter * wide),
        "sigmoid": lambda: sigmoid,
        "tanh": lambda: np.tanh(wide),
        "silu": lambda: wide * sigmoid,
        "gelu": lambda: 0.5 * wide * (1 + np.array([math.erf(v / math.sqrt(2)) for v in wide.flat]).reshape(x.shape)),
        "gelu_tanh": lambda: 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
        "hardsigmoid": lambda: np.clip(wide + 3, 0, 6) / 6,
        "hardswish": lambda: wide * np.clip(wide + 3, 0, 6) / 6,
    }
    return np.asarray(found[kind](), np.float32)


def settled(fresh: Floats, held: Floats, threshold: float) -> Mask:
    """(rows, columns): the positions that are replaced, since a channel differs by the threshold or more.

    With a threshold of 0 where a bit differs. What isn't a number differs from everything.
    """
    if threshold == 0:
        bits: Mask = (fresh.view(np.uint32) != held.view(np.uint32)).any(axis=-1)
        return bits
    with np.errstate(invalid="ignore"):
        far: Mask = (~(np.abs(fresh - held) < np.float32(threshold))).any(axis=-1)
    return far


def _padded(x: Floats, window: Window, outputs: tuple[int, int], fill: float) -> Floats:
    border = window.border((x.shape[0], x.shape[1]), outputs)
    return np.pad(x, ((border, border), (border, border), (0, 0)), constant_values=fill)[
        border - window.top :, border - window.left :
    ]


def _tap(padded: Floats, window: Window, row: int, column: int, outputs: tuple[int, int]) -> Floats:
    """What each window has in one of its places."""
    r, c = row * window.row_dilation, column * window.column_dilation
    return padded[
        r : r + (outputs[0] - 1) * window.row_stride + 1 : window.row_stride,
        c : c + (outputs[1] - 1) * window.column_stride + 1 : window.column_stride,
    ]
