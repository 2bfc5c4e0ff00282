"""A camera that moves: what is held moves along, wherever a layer's positions lie as far apart as the picture moved.

A layer whose positions are s pixels apart gives the same at places moved by a multiple of s, but where its windows see
the picture's edge or what came in there. Such maps are moved, and those places computed again. A layer behind them
whose positions don't fit the movement is computed everywhere; what comes then follows from what changed, as always.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.values import Array
from cutset.kernels import native
from cutset.video.delta.sparse_layers import (
    Affine,
    ChannelSlice,
    Concatenation,
    Convolution,
    Gate,
    Pair,
    Pool,
    Resize,
    SparseLayer,
    Spread,
)

__all__ = ["Motion", "Shift", "Strides", "apart", "estimated", "moved"]

Strides = Mapping[str, tuple[Fraction, Fraction]]  # of maps: pixels of the input from one row to the next, and columns
Size = tuple[int, int]
LOOK = 192  # rows and columns in the middle of a picture by which movements are found
LEVELS = 8  # of 255 that a pixel changed by at least, as far as movements go
MUCH = 0.2  # of these pixels must have changed, until a movement is looked for
LEFT = 0.5  # of the changed pixels, which may still differ once the movement is undone


def apart(
    layers: Iterable[object], inputs: Collection[str], maps: Mapping[str, tuple[int, int, int]]
) -> dict[str, Any]:
    """`Strides` of all maps that can be moved along with one input; none where there are several."""
    found: dict[str, tuple[Fraction, Fraction]] = {}
    if len(inputs) != 1 or not maps.keys() & set(inputs):
        return found
    found[next(iter(inputs))] = Fraction(1), Fraction(1)
    for layer in layers:
        if not isinstance(layer, SparseLayer):
            continue
        reads = {found.get(name) for name in (layer.reads[:1] if isinstance(layer, Gate) else layer.reads)}
        if len(reads) != 1 or (before := next(iter(reads))) is None:
            continue
        factors = _factors(layer, maps)
        if factors is not None:
            found[layer.made] = before[0] * factors[0], before[1] * factors[1]
    return found


def _factors(layer: SparseLayer, maps: Mapping[str, tuple[int, int, int]]) -> tuple[Fraction, Fraction] | None:
    """How many times as far apart a layer's positions are as those that it reads; None where that isn't one number."""
    if isinstance(layer, Convolution | Pool):
        return Fraction(layer.place.row_stride), Fraction(layer.place.column_stride)
    if isinstance(layer, Affine | Pair | Gate | Concatenation | ChannelSlice):
        return Fraction(1), Fraction(1)
    if isinstance(layer, Spread):
        return Fraction(1, layer.block[0]), Fraction(1, layer.block[1])
    if isinstance(layer, Resize) and not layer.row_shares.any() and not layer.column_shares.any():
        size, made = maps[layer.reads[0]][:2], maps[layer.made][:2]
        if made[0] % size[0] or made[1] % size[1]:
            return None
        times = made[0] // size[0], made[1] // size[1]
        places = layer.row_places[0], layer.column_places[0]
        if all(np.array_equal(p, np.arange(len(p)) // k) for p, k in zip(places, times, strict=True)):
            return Fraction(1, times[0]), Fraction(1, times[1])
    return None


@dataclass(frozen=True)
class Shift:
    """A movement by rows and columns of the maps that move with it; their own rows and columns."""

    by: Mapping[str, tuple[int, int]]

    def apply(self, maps: Mapping[str, native.SparseMap]) -> None:
        """Moves what is held; what comes in at the edges is left as it was there."""
        for name, (down, across) in self.by.items():
            values = maps[name].values
            to, source = _overlap(values.shape[:2], down, across)
            values[to] = values[source].copy()

    def also(self, layer: SparseLayer, maps: Mapping[str, tuple[int, int, int]]) -> NDArray[np.int64]:
        """Positions of a layer's output to compute beside those that follow from what changed."""
        size = maps[layer.made][:2]
        if layer.made not in self.by:
            whole = any(name in self.by for name in layer.reads)
            return np.arange(size[0] * size[1] if whole else 0, dtype=np.int64)
        mask = np.zeros(size, bool)
        for axis, step in enumerate(self.by[layer.made]):
            if not step:
                continue
            lines = np.arange(size[axis])
            found = (lines < step) | (lines >= size[axis] + step)
            if isinstance(layer, Convolution | Pool):
                length, before = maps[layer.reads[0]][axis], self.by[layer.reads[0]][axis]
                window = layer.window
                first = lines * window[2 + axis] - window[4 + axis]
                last = first + (window[axis] - 1) * window[6 + axis]
                found |= (first < max(before, 0)) | (last >= length + min(before, 0))
            if axis == 0:
                mask[found] = True
            else:
                mask[:, found] = True
        return np.flatnonzero(mask)


def moved(strides: Strides, down: int, across: int, layers: Iterable[object]) -> Shift:
    """The maps that a movement by so many pixels takes along: those whose positions fit it, behind others that do."""
    by: dict[str, tuple[int, int]] = {}
    made = {layer.made: layer.reads for layer in layers if isinstance(layer, SparseLayer)}
    for name, (rows, columns) in strides.items():  # in the order of layers
        steps = Fraction(down) / rows, Fraction(across) / columns
        if any(step.denominator != 1 for step in steps):
            continue
        before = made.get(name, ())
        if all(one in by for one in before if one in strides):
            by[name] = int(steps[0]), int(steps[1])
    return Shift(by)


def _overlap(size: tuple[int, ...], down: int, across: int) -> tuple[Any, Any]:
    """Where a map lies after a movement, and where that was before."""
    to, source = [], []
    for length, step in zip(size, (down, across), strict=True):
        to.append(slice(max(step, 0), max(length + min(step, 0), 0)))
        source.append(slice(max(-step, 0), max(length - max(step, 0), 0)))
    return tuple(to), tuple(source)


class Motion:
    """Of one source: by how many rows and columns its picture moved since the one before."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None

    def since(self, picture: Array) -> tuple[int, int]:
        """(0, 0) where it didn't, or nothing is known. `picture` is (1, channels, rows, columns) of bytes, or of floats
        of which the largest is taken for white."""
        look, before = _middle(picture), self._before
        self._before = look
        return (0, 0) if before is None else estimated(before, look)

    def forget(self) -> None:
        """The next picture isn't compared with the last one."""
        self._before = None


def estimated(before: NDArray[np.float32], after: NDArray[np.float32]) -> tuple[int, int]:
    """Rows and columns by which one of two pictures (rows, columns) is moved; (0, 0) where that explains little.

    By phase correlation (Kuglin and Hines, 1975), and what is left of the changes is counted.
    """
    differs = _share(before, after)
    if differs < MUCH:
        return 0, 0
    window = np.hanning(before.shape[0])[:, None] * np.hanning(before.shape[1])[None, :]
    a, b = (np.fft.rfft2((one - one.mean()) * window) for one in (before, after))
    cross = b * np.conj(a)
    size = np.abs(cross)
    peaks = np.fft.irfft2(np.divide(cross, size, out=np.zeros_like(cross), where=size > 0), s=before.shape)
    place = np.unravel_index(int(peaks.argmax()), peaks.shape)
    down, across = (int(p) - n if p > n // 2 else int(p) for p, n in zip(place, peaks.shape, strict=True))
    if not down and not across:
        return 0, 0
    to, source = _overlap(before.shape, down, across)
    if min(after[to].shape) < min(before.shape) // 2:
        return 0, 0
    return (down, across) if _share(before[source], after[to]) < LEFT * differs else (0, 0)


def _share(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.mean(np.abs(a - b) >= LEVELS))


def _middle(picture: Array) -> NDArray[np.float32]:
    """The middle of one channel, that which counts most for how bright a picture is."""
    channel = picture[0, min(1, picture.shape[1] - 1)]
    rows, columns = channel.shape
    top, left = max((rows - LOOK) // 2, 0), max((columns - LOOK) // 2, 0)
    look: NDArray[np.float32] = channel[top : top + LOOK, left : left + LOOK].astype(np.float32)
    if picture.dtype != np.uint8 and look.size:
        look *= 255 / max(float(np.abs(look).max()), 1e-6)
    return look
