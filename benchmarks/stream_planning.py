"""`python -m benchmarks stream`, planning: how long schedulers take for large problems.

Nothing is run by these plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from cutset.compare.results import Row, summarise
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.node import Node, Read, Value
from cutset.partition.problem import Machine, Problem
from cutset.partition.schedulers import SCHEDULERS
from cutset.partition.traffic import Traffic, spread

__all__ = ["LAYERS", "TIME", "chain", "large_problem", "run_planning"]

LAYERS, WORKERS = 200, 16
TIME = "time to plan"
LONG = 1.0  # seconds, above which one round is enough
SECONDS = 2.0  # of the whole network on the fastest machine


def chain(layers: int) -> Graph:
    """Layers in a row; sizes fall towards the end, as in a convolutional network, and rise now and then."""
    values = [Value("picture", (1, 3, 432, 768), "uint8")]
    nodes = []
    for i in range(layers):
        side = max(432 >> (5 * i // layers), 1)
        value = Value(f"v{i}", (1, 64 if i % 3 else 32, side, side), "float32")
        flops = 1000 * value.nbytes
        nodes.append(
            Node(f"layer{i}", f"layer{i}", "aten.relu.default", (Read(values[-1].name),), (), (value,), False, flops)
        )
        values.append(value)
    return Graph((values[0],), (values[-1].name,), tuple(nodes), {})


def large_problem(graph: Graph, objective: Literal["latency", "throughput"], workers: int = WORKERS) -> Problem:
    """Machines from slow to fast, links from fast to slow, a fifth of every value changing."""
    share = np.array([node.flops for node in graph.nodes], float)
    seconds = SECONDS * share / share.sum()
    machines = tuple(Machine(f"worker{i + 1}", seconds * 8 * 0.125 ** (i / (workers - 1))) for i in range(workers))
    hops = tuple(Hop(8e6 * 0.125 ** (i / (workers - 1)), 0.002) for i in range(workers))
    traffic = spread(graph.values.values(), 0.2, 1e-10, 1e-10, 1e-10)
    picture: Traffic = traffic[graph.inputs[0].name]
    return Problem(graph, "0" * 64, machines, hops, traffic, {"": picture}, objective, 4)


def run_planning(graphs: dict[str, Graph], rounds: int, tell: Callable[[str], None]) -> Iterator[Row]:
    """Seconds of every scheduler that takes problems of this size, for both objectives."""
    objectives: tuple[Literal["latency", "throughput"], ...] = ("latency", "throughput")
    for name, graph in graphs.items():
        for objective in objectives:
            problem = large_problem(graph, objective)
            workload = f"{name}: {len(graph.nodes)} layers on {WORKERS} workers, {objective}"
            tell(f"planning: {workload}")
            for scheduler in SCHEDULERS.values():
                if scheduler.name == "exhaustive":  # it refuses problems of this size
                    continue
                samples: list[float] = []
                for turn in range(rounds):
                    if turn and samples[0] > LONG:
                        break
                    start = time.perf_counter()
                    scheduler.plan(problem)
                    samples.append(time.perf_counter() - start)
                yield summarise(workload, f"cutset {scheduler.name}", TIME, samples, "s")
