"""A stage's layers in order, what is held of a source, and how a picture updates it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cutset.cluster.values import DTYPES, Array, as_bytes, copied
from cutset.codec.changed import Changed
from cutset.kernels import native
from cutset.partition.graph import Graph
from cutset.video.delta.compiling import DenseLayer, compile_layers
from cutset.video.delta.shifting import Shift, apart, moved
from cutset.video.delta.sparse_layers import Mask, SparseLayer, Writing
from cutset.video.runtimes import open_stage

__all__ = ["LEVELS", "SHARE", "HeldState", "PictureWork", "Program"]

LEVELS = 2.0  # of 255 that pixels may be off by, times the scale: more lets fewer, but larger steps through
WORTH = 0.25  # of what all layers cost, which must be those of maps that move along, or nothing is moved
SHARE = 0.02  # of a layer's range that its output may be off by, times the scale


@dataclass
class HeldState:
    """What is held of one source: maps, other tensors, and the range of each layer's output at the last key."""

    maps: dict[str, native.SparseMap]
    tensors: dict[str, Array] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    stale: bool = True  # only the inputs' maps are of the last picture
    seen: bool = False  # a picture was taken
    scale: float = 0.0  # of the thresholds by which it is held
    costs: list[float] = field(default_factory=list)  # seconds of each layer at the last key

    @property
    def nbytes(self) -> int:
        """Bytes of the maps."""
        return sum(one.nbytes for one in self.maps.values())


@dataclass
class PictureWork:
    """What a picture took: of each node the share of its positions that were computed, and its seconds."""

    shares: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    abandoned: bool = False
    dense: bool = False  # by the runtime's own stage
    tried: bool = True  # by our own layers, though it may have been abandoned

    def share(self, flops: Mapping[int, int]) -> float:
        """Of all operations."""
        total = sum(flops.values())
        return sum(flops[i] * share for i, share in self.shares.items()) / total if total else 0.0


class Program:
    """The layers of a stage. Keeps nothing of a source itself.

    Nodes that can't be computed by positions are computed by `runtime`, "" for the graph's reference.
    """

    def __init__(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Any], threads: int = 1, runtime: str = ""
    ) -> None:
        """`weights`: arrays as parties keep them, or torch's tensors. Raises GraphError, DeviceError."""
        self.graph, self.nodes = graph, tuple(sorted(set(nodes)))
        self.inputs, self.outputs = graph.boundary(self.nodes)
        arrays = {name: _as_array(weights[name]) for name in graph.weights_of(self.nodes)}
        self.compiled = compile_layers(graph, self.nodes, arrays)
        self.pool = native.Pool(threads)
        self.flops = {i: graph.nodes[i].flops for i in self.nodes}
        self.factors: Mapping[str, float] = {}  # of the thresholds of inputs and of what layers make; none: 1
        self._dense = {
            layer.nodes[0]: open_stage(graph, layer.nodes, weights, runtime, threads=threads)
            for layer in self.compiled.layers
            if isinstance(layer, DenseLayer)
        }
        self._borders = dict.fromkeys(self.compiled.maps, 0)
        for layer in self.compiled.layers:
            if isinstance(layer, SparseLayer):
                made = self.compiled.maps[layer.made][:2]
                for name in layer.reads:
                    self._borders[name] = max(self._borders[name], layer.border(self.compiled.maps[name][:2], made))
        self.strides = apart(self.compiled.layers, self.inputs, self.compiled.maps)

    @property
    def sparse_flops(self) -> int:
        """Operations of the layers that are computed by positions."""
        return sum(layer.flops for layer in self.compiled.layers if isinstance(layer, SparseLayer))

    def shift(self, state: HeldState, down: int, across: int) -> Shift | None:
        """Moves what is held by so many pixels of the input, where that saves enough; None where it doesn't."""
        if state.stale or not (down or across) or not self.strides:
            return None
        found = moved(self.strides, down, across, self.compiled.layers)
        costs = zip(self.compiled.layers, state.costs, strict=True)
        kept = sum(cost for layer, cost in costs if isinstance(layer, SparseLayer) and layer.made in found.by)
        if kept < WORTH * sum(state.costs):
            return None
        found.apply(state.maps)
        return found

    def state(self) -> HeldState:
        """Of a source that has shown nothing yet."""
        return HeldState(
            {name: native.SparseMap(*shape, self._borders[name]) for name, shape in self.compiled.maps.items()}
        )

    def copied(self, state: HeldState) -> HeldState:
        """A state of its own that holds the same."""
        found = self.state()
        for name, one in state.maps.items():
            found.maps[name].values[...] = one.values
        tensors = {name: array.copy() for name, array in state.tensors.items()}
        return replace(state, maps=found.maps, tensors=tensors, ranges=dict(state.ranges), costs=list(state.costs))

    def take(
        self,
        state: HeldState,
        values: Mapping[str, Array],
        changed: Mapping[str, Changed] | None = None,
        scale: float = 0.0,
    ) -> dict[str, Mask | None]:
        """Brings the inputs that are held up to a picture; where they changed.

        `changed` is what the decoder replaced since the picture before, for inputs of which it is known.
        """
        masks: dict[str, Mask | None] = {}
        for name in self.inputs:
            array = values[name]
            if name not in state.maps:
                same = name in state.tensors and _same_bits(state.tensors[name], array)
                state.tensors[name] = array.copy()
                masks[name] = None if same else np.ones((1, 1), np.uint8)
                continue
            among = None
            known = (changed or {}).get(name)
            if known is not None and state.seen and not known.everything:
                if not known.count:
                    masks[name] = None
                    continue
                among = known.mask()[0].any(axis=0).view(np.uint8)
            mask = np.zeros(self.compiled.maps[name][:2], np.uint8)
            threshold = self._threshold(state, name, scale)
            held = state.maps[name]
            masks[name] = mask if held.take(np.ascontiguousarray(array[0]), mask, threshold, among, self.pool) else None
        state.seen = True
        return masks

    def _threshold(self, state: HeldState, name: str, scale: float) -> float:
        """What an input's elements may be off by."""
        picture = self.graph.values[name].dtype == "uint8"
        return scale * self.factors.get(name, 1.0) * (LEVELS if picture else SHARE * state.ranges.get(name, 0.0))

    def thresholds(self, state: HeldState, scale: float) -> dict[str, float]:
        """The same of every input; 0 where every bit counts."""
        return {name: self._threshold(state, name, scale) if name in state.maps else 0.0 for name in self.inputs}

    def update(
        self,
        state: HeldState,
        masks: dict[str, Mask | None],
        scale: float = 0.0,
        *,
        go_on: Callable[[float, float], bool] | None = None,
        shift: Shift | None = None,
    ) -> PictureWork:
        """Brings the state up to inputs that were taken and changed at `masks`; those of a stale state all did.

        `scale` times SHARE of a layer's range is its threshold; 0 leaves nothing out. `go_on` is asked after each
        layer, with the seconds so far and those to come at its share; False leaves a stale state and ends. `shift` was
        applied to the maps before the inputs were taken.
        """
        key, work, begin = state.stale, PictureWork(), time.perf_counter()
        state.stale = True  # until all of it is done
        if key:
            masks = {name: self._all(state, name) for name in masks}
        seconds: list[float] = []
        for layer in self.compiled.layers:
            start = time.perf_counter()
            threshold = 0.0 if key else scale * SHARE
            if isinstance(layer, DenseLayer):
                share = self._whole(layer, state, masks, threshold, key, shift)
            else:
                share = self._some(layer, state, masks, threshold, key, shift)
            for i in layer.nodes:  # of which one may be several layers
                work.shares[i] = max(share, work.shares.get(i, 0.0))
                work.seconds.setdefault(i, 0.0)
            now = time.perf_counter()
            work.seconds[layer.nodes[0]] += now - start
            seconds.append(now - start)
            if go_on is not None and not go_on(now - begin, share * sum(state.costs[len(seconds) :])):
                work.abandoned = True
                return work
        if key:
            self._measure(state)
            state.costs = seconds
        state.stale = False
        return work

    def results(self, state: HeldState) -> dict[str, Array]:
        """The outputs as they are held, each in memory of its own."""
        found = {}
        for name in self.outputs:
            value = self.graph.values[name]
            found[name] = copied(self._given(state, self.compiled.name(name), name), value)
        return found

    def _some(
        self,
        layer: SparseLayer,
        state: HeldState,
        masks: dict[str, Mask | None],
        threshold: float,
        key: bool,
        shift: Shift | None,
    ) -> float:
        """Computes a layer by positions; their share."""
        size = self.compiled.maps[layer.made][:2]
        places = math.prod(size)
        positions = np.arange(places) if key else layer.positions([masks[name] for name in layer.reads], size)
        if shift is not None and not key:
            positions = np.union1d(positions, shift.also(layer, self.compiled.maps))
        masks[layer.made] = None
        if not len(positions):
            return 0.0
        changed = np.zeros(size, np.uint8)
        limit = self._limit(state, layer.made, threshold) if layer.held_back else 0.0
        replaced = layer.compute(state.maps, Writing(state.maps[layer.made], positions, changed, limit, self.pool))
        if key or replaced:
            masks[layer.made] = self._all(state, layer.made) if key else changed
        return len(positions) / places

    def _whole(
        self,
        layer: DenseLayer,
        state: HeldState,
        masks: dict[str, Mask | None],
        threshold: float,
        key: bool,
        shift: Shift | None,
    ) -> float:
        """Computes a node whole, unless nothing changed that it reads, or moved."""
        stage = self._dense[layer.nodes[0]]
        stood = shift is None or not any(name in shift.by for name in layer.reads)
        if not key and stood and all(masks[name] is None for name in layer.reads):
            masks |= dict.fromkeys(stage.outputs)
            return 0.0
        reads = {
            name: np.ascontiguousarray(self._given(state, held, name)).reshape(self.graph.values[name].shape)
            for name, held in zip(stage.inputs, layer.reads, strict=True)
        }
        for name, array in stage.run(0, reads).items():
            if name in state.maps:
                mask = np.zeros(self.compiled.maps[name][:2], np.uint8)
                limit = self._limit(state, name, threshold)
                count = state.maps[name].take(np.ascontiguousarray(array[0]), mask, limit, None, self.pool)
                masks[name] = self._all(state, name) if key else mask if count else None
                continue
            same = not key and name in state.tensors and _same_bits(state.tensors[name], array)
            state.tensors[name] = array
            masks[name] = None if same else np.ones((1, 1), np.uint8)
        return 1.0

    def _limit(self, state: HeldState, name: str, threshold: float) -> float:
        """What elements of a value that is made here may be off by."""
        return threshold * self.factors.get(name, 1.0) * state.ranges.get(name, 0.0)

    def _given(self, state: HeldState, held: str, name: str) -> Array:
        """What is held, as parties keep the graph's value of that name; a view where it can be one."""
        array = state.maps[held].values.transpose(2, 0, 1)[None] if held in state.maps else state.tensors[held]
        return array.astype(DTYPES[self.graph.values[name].dtype], copy=False)

    def _all(self, state: HeldState, name: str) -> Mask:
        return np.ones(self.compiled.maps[name][:2] if name in state.maps else (1, 1), np.uint8)

    def _measure(self, state: HeldState) -> None:
        """The range of everything that a threshold is for."""
        names: set[Any] = {
            layer.made for layer in self.compiled.layers if isinstance(layer, SparseLayer) and layer.held_back
        }
        names |= {n for n in state.maps if n in self.inputs}
        names |= {n for stage in self._dense.values() for n in stage.outputs if n in state.maps}
        for name in names:
            values = state.maps[name].values
            span = float(values.max() - values.min())
            state.ranges[name] = span if math.isfinite(span) else 0.0


def _as_array(weight: Any) -> Array:
    if isinstance(weight, np.ndarray):
        return weight
    from cutset.video.torch_stage import to_array

    return to_array(weight)


def _same_bits(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(as_bytes(one), as_bytes(other))
