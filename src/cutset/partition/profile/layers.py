"""Seconds of every layer on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cutset.partition.graph import Graph
from cutset.partition.node import Node
from cutset.video.stage import TorchStage

__all__ = ["LayerTimes", "measure_layers", "quickest"]

ROUNDS = 7
BUDGET = 20.0  # seconds; a network that takes longer is measured at least twice
WARM = 1
PAUSE = 0.05  # seconds before each run: a stage waits between pictures, and works slower for a while then


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Medians, in seconds. The layers are scaled so that their sum is the whole network's time without observing."""

    seconds: tuple[float, ...]  # of each node
    spread: tuple[float, ...]  # half the range between the quartiles, as a share of each median
    whole: float  # of a run of all nodes that nobody observes
    overhead: float  # of observing, as a share of `whole`; the sum before scaling less `whole`
    rounds: int


def measure_layers(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    *,
    rounds: int = ROUNDS,
    budget: float = BUDGET,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> LayerTimes:
    """Runs the network on made-up pictures, observed and not in turn, with pauses as between pictures that come from a
    camera. Threads are torch's, as they are set.
    """
    stage = TorchStage(graph, range(len(graph.nodes)), tensors)
    inputs = {value.name: _made_up(value.shape, value.dtype) for value in graph.inputs}
    for _ in range(WARM):
        stage.forward(inputs)
    alone: list[float] = []
    observed: list[list[float]] = []
    start = time.perf_counter()
    for done in range(rounds):
        time.sleep(PAUSE)
        begin = time.perf_counter()
        stage.forward(inputs)
        alone.append(time.perf_counter() - begin)
        times: list[float] = []

        def note(node: Node, seconds: float, times: list[float] = times) -> None:
            times.append(seconds)

        time.sleep(PAUSE)
        stage.forward(inputs, note)
        observed.append(times)
        tell("layers", done + 1, rounds)
        if done >= 1 and time.perf_counter() - start > budget:
            break
    tell("layers", rounds, rounds)
    medians = [statistics.median(of) for of in zip(*observed, strict=True)]
    whole, total = statistics.median(alone), sum(medians)
    factor = whole / total if total > 0 else 1.0
    return LayerTimes(
        tuple(seconds * factor for seconds in medians),
        tuple(_spread(of) for of in zip(*observed, strict=True)),
        whole,
        total / whole - 1 if whole > 0 else 0.0,
        len(alone),
    )


def quickest(graph: Graph, tensors: Mapping[str, Tensor], runs: int = 2) -> float:
    """Seconds of the quickest of a few runs of the whole network, as `measure_layers` makes them."""
    stage = TorchStage(graph, range(len(graph.nodes)), tensors)
    inputs = {value.name: _made_up(value.shape, value.dtype) for value in graph.inputs}
    found = []
    for _ in range(runs):
        time.sleep(PAUSE)
        begin = time.perf_counter()
        stage.forward(inputs)
        found.append(time.perf_counter() - begin)
    return min(found)


def _made_up(shape: tuple[int, ...], dtype: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    return torch.randint(0, 2 if kind == torch.bool else 256, shape, generator=generator).to(kind)


def _spread(times: tuple[float, ...]) -> float:
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle > 0 else 0.0
