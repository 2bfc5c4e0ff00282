"""Layers of incremental inference: which positions of a map must be computed again, and what computes them."""

from __future__ import annotations

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
    "Writing",
]

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]  # (rows, columns) of a map, 1 where something changed
Size = tuple[int, int]


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

    def dirty(self, masks: Sequence[Mask | None], size: Size) -> Mask | None:
        """The positions of an output of this size to compute, given what changed in what it reads; None for none."""
        found: Mask | None = None
        for mask in masks:
            if mask is not None:
                own = mask if self.window == (1, 1, 1, 1, 0, 0, 1, 1) else self.window.spread(mask, size)
                found = own if found is None else found | own
        return found

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

    @property
    def window(self) -> Window:
        return self.place

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

    def dirty(self, masks: Sequence[Mask | None], size: Size) -> Mask | None:
        return masks[0] if masks[1] is None else np.ones(size, np.uint8)

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        gate = np.array(maps[self.reads[1]].values[0, 0])
        scale, shift = (gate, np.zeros_like(gate)) if self.kind == "mul" else (np.ones_like(gate), gate)
        return native.sparse_affine(maps[self.reads[0]], scale, shift, to.target(self), to.pool)


@dataclass(kw_only=True)
class Concatenation(SparseLayer):
    """The channels of all that is read, one after another."""

    channels: tuple[int, ...]  # of each

    def compute(self, maps: Mapping[str, native.SparseMap], to: Writing) -> int:
        first = replaced = 0
        for name, count in zip(self.reads, self.channels, strict=True):
            replaced += native.sparse_copy(maps[name], 0, count, to.target(self, first), to.pool)
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
class Resize(SparseLayer):
    """Rows and columns between two of the input: places (2, n), and the share (n,) of the second one."""

    row_places: NDArray[np.int64]
    row_shares: Floats
    column_places: NDArray[np.int64]
    column_shares: Floats
    _blends: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._blends = bool(self.row_shares.any() or self.column_shares.any())

    def dirty(self, masks: Sequence[Mask | None], size: Size) -> Mask | None:
        [mask] = masks
        if mask is None:
            return None
        found: Mask = mask[self.row_places[0]]
        if self._blends:
            found = found | mask[self.row_places[1]]
        first: Mask = found[:, self.column_places[0]]
        return first | found[:, self.column_places[1]] if self._blends else first

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
