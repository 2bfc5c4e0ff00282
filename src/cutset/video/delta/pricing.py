"""What delta compute would take, for planners: each layer's seconds by how much of it is dirty, and what is sent then.

A few consecutive pictures go through all layers as a stage would compute them. A layer that is dirty in a share of its
positions takes what it takes when nothing is (its masks, its calls) and that share of the rest: the same prediction by
which a stage decides between delta and dense while it runs. Nodes that are computed whole, where something before them
changed, cost what they cost the runtime.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.values import Array
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES
from cutset.partition.problem import ChangedWork
from cutset.partition.timing import PAUSE
from cutset.partition.traffic import Traffic
from cutset.video.accuracy import AIM, MOST_SCALE
from cutset.video.delta.calibrating import Moved
from cutset.video.delta.measuring import operations
from cutset.video.delta.program import HeldState, Program
from cutset.video.delta.shifting import Motion

__all__ = ["DeltaPrice", "LayerPrice", "layer_prices", "measure_price"]

KEYS = 2  # pictures that are computed whole, until it is known what layers cost
HALVINGS = 4  # of thresholds, where even the first are too much
WORTH = 0.97  # times the seconds of smaller thresholds: larger ones must save that much

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerPrice:
    """Seconds of layers (n,): with nothing dirty, and with everything."""

    idle: Floats
    whole: Floats

    def seconds(self, shares: Floats) -> Floats:
        """Of layers that are dirty in these shares (n,) of their positions, 0 to 1."""
        found: Floats = self.idle + shares * (self.whole - self.idle)
        return found


def layer_prices(shares: Floats, seconds: Floats, whole: Floats) -> LayerPrice:
    """Prices of layers of which pictures (P, n) took so many seconds at these shares, and a whole one `whole` (n,).

    What a layer takes with nothing dirty is the median of what the shares leave unexplained; never less than nothing,
    nor more than all of it takes.
    """
    left = np.where(shares < 1, (seconds - shares * whole) / np.maximum(1 - shares, 1e-9), np.nan)
    known = ~np.isnan(left).all(axis=0)
    idle = np.zeros(len(whole))
    if known.any():
        idle[known] = np.nanmedian(left[:, known], axis=0)
    return LayerPrice(np.clip(idle, 0.0, whole), whole)


@dataclass(frozen=True)
class DeltaPrice:
    """Of stages that compute what changed alone, on this machine and for pictures of one source.

    `shares` (nodes,) is what of each node's output a typical picture computes again, `sent` what of a value changes at
    its readers: typical and in the mean.
    """

    work: ChangedWork
    dense: float  # seconds of the dense network, measured beside it
    shares: Floats
    sent: Mapping[str, tuple[float, float]]
    scale: float  # of the thresholds
    moved: float  # the most that outputs were off by, as a share of what is allowed
    pictures: int
    share: float  # of all operations, that of a typical picture

    def traffic(self, graph: Graph, usual: Mapping[str, Traffic]) -> dict[str, Traffic]:
        """What such stages' values cost to send, as far as it is known; `usual` is what dense ones cost.

        A delta has as many bytes less as fewer elements change; encoding compares all of them in any case.
        """
        found = {}
        for name, (typical, mean) in self.sent.items():
            one, value = usual[name], graph.values[name]
            if not one.delta:
                continue
            elements = value.nbytes // ITEM_BYTES[value.dtype]
            mask = (elements + 7) // 8
            fewer = min((mask + typical * value.nbytes) / max(one.delta[0].nbytes, 1.0), 1.0)
            ways = tuple(way._replace(nbytes=way.nbytes * fewer) for way in one.delta)
            more = (mask + mean * value.nbytes) / (mask + typical * value.nbytes)
            found[name] = replace(one, delta=ways, mean=min(more, one.mean / fewer))
        return found

    def line(self) -> str:
        """What is said of it."""
        own = float(self.work.seconds.sum())
        return (
            f"delta compute: {self.share:.0%} of the operations of a typical picture, {own * 1e3:,.1f} ms of layers; "
            f"dense {self.dense * 1e3:,.1f}. Thresholds times {self.scale:.3g} move the output by {self.moved:.2f} of "
            f"what is allowed in {self.pictures} pictures"
        )


@dataclass
class _Played:
    """What pictures took by one scale of thresholds."""

    scale: float
    moved: float = 0.0
    passing: list[float] = field(default_factory=list)  # seconds of each picture beside its layers
    shares: list[list[float]] = field(default_factory=list)  # of each layer's first node
    seconds: list[list[float]] = field(default_factory=list)
    nodes: list[list[float]] = field(default_factory=list)  # the share of each node
    sent: dict[str, list[float]] = field(default_factory=dict)

    @property
    def typical(self) -> float:
        """Seconds of a picture."""
        return statistics.median(sum(one) for one in self.seconds)


def measure_price(
    program: Program,
    pictures: Sequence[Mapping[str, Array]],
    dense: Sequence[Mapping[str, Array]],
    moved: Moved,
    *,
    dense_seconds: float,
    scale: float,
    search: bool = True,
) -> DeltaPrice:
    """Prices of a whole network's layers, from two consecutive pictures or more and what dense gives of them in
    `dense_seconds` each.

    Thresholds begin at `scale`. With `search` they are doubled as long as outputs stay within AIM of what is allowed
    and it saves time, or halved until they do: a stream's own checks lead there.
    """
    state = _whole(program, pictures[0])

    def play(scale: float, pause: float = 0.0) -> _Played:
        return _play(program, state, pictures[1:], dense[1:], moved, scale, pause)

    if search and scale:
        scale = _searched(play, play(scale)).scale
    return _priced(program, state.costs, play(scale, PAUSE), dense_seconds)


def _searched(play: Callable[[float], _Played], first: _Played) -> _Played:
    """The least thresholds within what is allowed that are as quick as larger ones; as they are where none are."""
    found = [first]
    while found[-1].moved > AIM and len(found) <= HALVINGS:
        found.append(play(found[-1].scale / 2))
    while found[-1].moved <= AIM and 2 * found[-1].scale <= MOST_SCALE:
        found.append(play(2 * found[-1].scale))
    within = sorted((one for one in found if one.moved <= AIM), key=lambda one: one.scale) or found[-1:]
    least = min(one.typical for one in within)
    return next(one for one in within if one.typical * WORTH <= least)


def _whole(program: Program, picture: Mapping[str, Array]) -> HeldState:
    """A state after a picture, with what each layer costs: the first time weights are brought into their form."""
    state, costs = program.state(), []
    for _ in range(KEYS + 1):
        time.sleep(PAUSE)
        state.stale = True
        program.update(state, program.take(state, picture))
        costs.append(state.costs)
    state.costs = [min(own) for own in zip(*costs, strict=True)]
    return state


def _play(
    program: Program,
    start: HeldState,
    pictures: Sequence[Mapping[str, Array]],
    dense: Sequence[Mapping[str, Array]],
    moved: Moved,
    scale: float,
    pause: float,
) -> _Played:
    """Pauses are as when layers are timed, since a stage waits between pictures."""
    state, found, motion = program.copied(start), _Played(scale), Motion()
    for values, wanted in zip(pictures, dense, strict=True):
        time.sleep(pause)
        begin = time.perf_counter()
        if program.strides:
            motion.since(values[program.inputs[0]])
        masks = program.take(state, values, None, scale)
        middle = time.perf_counter()
        work = program.update(state, masks, scale)
        end = time.perf_counter()
        made = program.results(state)
        found.passing.append(middle - begin + time.perf_counter() - end)
        found.moved = max(found.moved, moved(made, wanted))
        firsts = _first_nodes(program)
        found.shares.append([work.shares[i] for i in firsts])
        found.seconds.append([work.seconds[i] for i in firsts])
        found.nodes.append([work.shares.get(i, 0.0) for i in program.nodes])
        for name in program.graph.values:
            held = program.compiled.name(name)
            if held in state.maps and held in masks:
                mask = masks[held]
                found.sent.setdefault(name, []).append(0.0 if mask is None else float(np.mean(mask != 0)))
    return found


def _priced(program: Program, costs: Sequence[float], played: _Played, dense: float) -> DeltaPrice:
    graph = program.graph
    firsts, whole = _first_nodes(program), np.zeros(len(graph.nodes))
    for layer, cost in zip(program.compiled.layers, costs, strict=True):
        whole[layer.nodes[0]] += cost
    shares = np.array(played.shares)
    prices = layer_prices(shares, np.array(played.seconds), whole[firsts])
    typical, mean = prices.seconds(np.median(shares, axis=0)), prices.seconds(shares.mean(axis=0))
    seconds = np.zeros(len(graph.nodes))
    for one, took in zip(firsts, typical, strict=True):  # a stage may end within what is one layer here
        joined = sorted({i for layer in program.compiled.layers if layer.nodes[0] == one for i in layer.nodes})
        parts = np.array([graph.nodes[i].flops + 1.0 for i in joined])
        seconds[joined] += took * parts / parts.sum()
    nodes = np.median(np.array(played.nodes), axis=0)
    values = [graph.values[name] for name in (*program.inputs, *program.outputs)]
    passed = sum(value.nbytes // ITEM_BYTES[value.dtype] for value in values)
    factor = float(mean.sum() / typical.sum()) if typical.any() else 1.0
    fractions = {node.made[0].name: share for node, share in zip(graph.nodes, nodes, strict=True) if node.made}
    return DeltaPrice(
        ChangedWork(seconds, statistics.median(played.passing) / max(passed, 1), factor),
        dense,
        nodes,
        {name: (statistics.median(own), statistics.fmean(own)) for name, own in played.sent.items()},
        played.scale,
        played.moved,
        len(played.shares),
        float(operations(graph, fractions)),
    )


def _first_nodes(program: Program) -> list[int]:
    """Of each layer the node that its seconds count for; a node may be several layers."""
    return list(dict.fromkeys(layer.nodes[0] for layer in program.compiled.layers))
