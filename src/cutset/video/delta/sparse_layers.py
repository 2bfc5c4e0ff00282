"""Layers of incremental inference: which positions of a map must be computed again, and what computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.reference_sparse import Window

__all__ = [
    "Affine",
    "ChannelSlice",
    "Concatenation",
    "Convolution",
    "Gate",
    "Mask",
    "Pair",
    "Pool",
    "Resize",
    "SparseLayer",
    "Spread",
    "Writing",
]

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]  # (rows, columns) of a map, 1 where something changed
Size = tuple[int, int]
NOWHERE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Writing:
    """Where a layer writes: the map that holds its last output, the positions, and the mask of what it replaced."""

    out: native.SparseMap
    positions: NDArray[np.int64]
    changed: Mask
    threshold: float
    pool: native.Pool

    def target(self, layer: SparseLayer, first_channel: int = 0) -> native.SparseTarget:
        """The same for a kernel, with what follows the layer."""
        return native.SparseTarget(
            self.out, self.positions, self.changed, self.threshold, first_channel, layer.activation, layer.parameter
        )


@dataclass(kw_only=True)
class SparseLayer:
    """One or several nodes of a graph that make one map of others."""

    nodes: list[int]  # by number; what follows the first is computed with it
    reads: tuple[str, ...]
    made: str
    flops: int
    activation: str = "none"
    parameter: float = 0.0
    held_back = False  # whether changes below a threshold are left out after it

    @property
    def window(self) -> Window:
        """What a position of the output reads of every input."""
        return Window(1, 1)

    def border(self, size: Size, made: Size) -> int:
        """Zeros that it needs around a map of this size that it reads."""
        return 0

    def positions(self, masks: Sequence[Mask | None], size: Size) -> NDArray[np.int64]:
        """Those of an output of this size to compute, rising, given what changed in what it reads."""
        marked = [mask for mask in masks if mask is not None]
        return native.sparse_reached(marked, self.window, *size) if marked else NOWHERE

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        """Computes positions, and replaces those that differ: how many."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Convolution(SparseLayer):
    """weight (outputs, rows, columns, channels / groups) and bias (outputs,), joined with a batch norm that follows."""

    weight: Floats
    bias: Floats
    groups: int
    place: Window
    packed: native.SparseConv | None = None
    held_back = True

    @property
    def window(self) -> Window:
        return self.place

    def border(self, size: Size, made: Size) -> int:
        return self.place.border(size, made)

    def scaled(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Takes in that every output is multiplied and added to, by channel."""
        self.weight = np.asarray(self.weight * scale[:, None, None, None], np.float32)
        self.bias = np.asarray(self.bias * scale + shift, np.float32)

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        if self.packed is None:
            self.packed = native.SparseConv(np.ascontiguousarray(self.weight), self.bias, self.groups, self.place)
            self.weight = np.empty((0, 0, 0, 0), np.float32)
        return self.packed.update(maps[self.reads[0]], to.target(self), to.pool)


@dataclass(kw_only=True)
class Pool(SparseLayer):
    """The largest or the mean of a window; with a divisor above 0 the sum over that."""

    place: Window
    mean: bool = False
    divisor: int = 0
    held_back: bool = False

    @property
    def window(self) -> Window:
        return self.place

    def border(self, size: Size, made: Size) -> int:
        return self.place.border(size, made)

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        return native.sparse_pool(maps[self.reads[0]], self.place, self.mean, self.divisor, to.target(self), to.pool)


@dataclass(kw_only=True)
class Affine(SparseLayer):
    """x * scale + shift, by channel; an activation alone has scales of 1."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def scaled(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Takes in that every output is multiplied and added to, by channel."""
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        scale, shift = self.scale.astype(np.float32), self.shift.astype(np.float32)
        return native.sparse_affine(maps[self.reads[0]], scale, shift, to.target(self), to.pool)


@dataclass(kw_only=True)
class Pair(SparseLayer):
    """Two maps of one shape: add, sub, mul, div, max or min."""

    kind: str

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        return native.sparse_combine(self.kind, maps[self.reads[0]], maps[self.reads[1]], to.target(self), to.pool)


@dataclass(kw_only=True)
class Gate(SparseLayer):
    """A map and another of one position, which is multiplied with it or added to it everywhere."""

    kind: str  # add or mul

    def positions(self, masks: Sequence[Mask | None], size: Size) -> NDArray[np.int64]:
        return super().positions(masks[:1], size) if masks[1] is None else np.arange(math.prod(size))

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        gate = np.array(maps[self.reads[1]].values[0, 0])
        scale, shift = (gate, np.zeros_like(gate)) if self.kind == "mul" else (np.ones_like(gate), gate)
        return native.sparse_affine(maps[self.reads[0]], scale, shift, to.target(self), to.pool)


@dataclass(kw_only=True)
class Concatenation(SparseLayer):
    """The channels of all that is read, one after another."""

    channels: tuple[int, ...]  # of each
    begins: tuple[int, ...] = ()  # the first channel of each; none: 0

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        first = replaced = 0
        begins = self.begins or (0,) * len(self.reads)
        for name, begin, count in zip(self.reads, begins, self.channels, strict=True):
            replaced += native.sparse_copy(maps[name], begin, count, to.target(self, first), to.pool)
            first += count
        return replaced


@dataclass(kw_only=True)
class ChannelSlice(SparseLayer):
    """Some channels of a map."""

    first: int
    count: int

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        return native.sparse_copy(maps[self.reads[0]], self.first, self.count, to.target(self), to.pool)


@dataclass(kw_only=True)
class Spread(SparseLayer):
    """Channels go to places: each position becomes a block of rows x columns, of which each has a part of them.

    The channels of a place lie side by side, or (`apart`) one channel's of all places do. `products` is what made the
    map for this layer alone, as for a transposed convolution whose windows don't overlap.
    """

    block: Size
    apart: bool = False
    products: Convolution | None = None

    def scaled(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Takes in that every output is multiplied and added to, by channel. Only with `products`."""
        assert self.products is not None
        places = self.block[0] * self.block[1]
        self.products.scaled(np.tile(scale, places), np.tile(shift, places))

    def positions(self, masks: Sequence[Mask | None], size: Size) -> NDArray[np.int64]:
        [mask] = masks
        return NOWHERE if mask is None else np.flatnonzero(mask.repeat(self.block[0], 0).repeat(self.block[1], 1))

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        return native.sparse_spread(maps[self.reads[0]], *self.block, self.apart, to.target(self), to.pool)


@dataclass(kw_only=True)
class Resize(SparseLayer):
    """Rows and columns between two of the input: places (2, n), and the share (n,) of the second one."""

    row_places: NDArray[np.int64]
    row_shares: Floats
    column_places: NDArray[np.int64]
    column_shares: Floats
    _blends: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._blends = bool(self.row_shares.any() or self.column_shares.any())

    def positions(self, masks: Sequence[Mask | None], size: Size) -> NDArray[np.int64]:
        [mask] = masks
        if mask is None:
            return NOWHERE
        found: Mask = mask[self.row_places[0]]
        if self._blends:
            found = found | mask[self.row_places[1]]
        first: Mask = found[:, self.column_places[0]]
        return np.flatnonzero(first | found[:, self.column_places[1]] if self._blends else first)

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        return native.sparse_resize(
            maps[self.reads[0]],
            self.row_places,
            self.row_shares,
            self.column_places,
            self.column_shares,
            to.target(self),
            to.pool,
        )
