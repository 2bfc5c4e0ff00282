"""Random small problems: graphs with branches and skips, and machines, links and sizes that disagree."""

from __future__ import annotations

import math
import random

import numpy as np

from cutset.errors import CutsetError
from cutset.partition.cost import CostModel
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.plan import Plan
from cutset.partition.problem import Machine, Problem
from cutset.partition.schedulers import scheduler
from cutset.partition.traffic import Coded, Traffic
from cutset.video.privacy import picture_like


def value(name: str, size: int) -> Value:
    return Value(name, (size,), "float32")


def layer(name: str, *reads: str) -> Node:
    return Node(name, name, "aten.relu.default", tuple(map(Read, reads)), (), (value(name, 5),), False, 1)


def random_graph(rng: random.Random, nodes: int, branchy: float = 0.5) -> Graph:
    """Each node reads the one before it or others, and every value is read by somebody."""
    made = [value("x", rng.randint(1, 30))]
    layers: list[Node] = []
    weights: dict[str, Value] = {}
    unread = {"x"}
    for i in range(nodes):
        reads = [made[-1].name]
        if rng.random() < branchy:
            reads = rng.sample([v.name for v in made], min(len(made), rng.randint(1, 2)))
        if i == nodes - 1:
            reads = sorted(unread | set(reads))
        names = []
        for _ in range(rng.choice([0, 1, 1])):
            name = rng.choice([*weights, f"w{i}"]) if rng.random() < 0.3 else f"w{i}"
            weights.setdefault(name, Value(name, (3, 2, *rng.choice([(1, 1), (3, 3)])), "float32"))
            names.append(name)
        out = value(f"v{i}", rng.randint(1, 40))
        args = (*(Read(name) for name in reads), *(Weight(name) for name in names))
        op = "aten.conv2d.default" if names else "aten.relu.default"
        layers.append(Node(f"n{i}", f"n{i}", op, args, (), (out,), False, 1))
        unread = (unread - set(reads)) | {out.name}
        made.append(out)
    outputs = tuple(sorted(unread))
    return Graph((made[0],), outputs, tuple(layers), weights)


def random_traffic(rng: random.Random, nbytes: int) -> Traffic:
    def ways(share: float) -> tuple[Coded, ...]:
        plain = Coded(nbytes * share, rng.random() * nbytes * 0.01, rng.random() * nbytes * 0.01)
        packed = Coded(nbytes * share * rng.random(), rng.random() * nbytes * 0.2, rng.random() * nbytes * 0.1)
        return (plain, packed) if rng.random() < 0.5 else (plain,)

    return Traffic(ways(1.0), ways(rng.random()) if rng.random() < 0.9 else (), 0.5 + rng.random())


def random_problem(seed: int, **given: object) -> Problem:
    """A problem with few enough plans to look at all of them."""
    rng = random.Random(seed)
    workers = rng.choice([1, 2, 3, 3, 4])
    nodes = rng.randint(1, 8) if workers < 4 else rng.randint(1, 6)
    graph = random_graph(rng, nodes, rng.choice([0.0, 0.3, 0.6]))
    work = [rng.choice([0.0, rng.random() * 10, rng.random() * 100]) for _ in range(nodes)]
    memory = rng.choice([None, None, 400, 800])
    machines = tuple(
        Machine(
            f"w{i}",
            np.array([seconds * (slow := rng.choice([1, 1, 2, 8])) * rng.uniform(0.7, 1.3) for seconds in work]),
            memory=None if memory is None else rng.randint(memory // 2, memory * 2),
            codec=slow,
            overhead=rng.choice([0.0, rng.random()]),
        )
        for i in range(workers)
    )
    hops = tuple(Hop(rng.choice([4.0, 20.0, 100.0, math.inf]), rng.choice([0.0, 1.0, 6.0])) for _ in machines)
    inputs = graph.inputs[0].nbytes
    more: dict[str, object] = {
        "objective": rng.choice(["latency", "throughput"]),
        "in_flight": rng.choice([0, 1, 2, 4]),
        "rate": rng.choice([None, None, 1 / rng.uniform(1, 100)]),
        "mode": rng.choice(["full", "delta"]),
        "horizon": rng.choice([math.inf, 1, 5.5]),
        "private": picture_like(graph) if rng.random() < 0.25 else frozenset(),
        "codec": rng.choice([1.0, 4.0]),
        "slack": rng.choice([0.0, 0.0, 0.1]),
    }
    return Problem(
        graph,
        "digest",
        machines,
        hops,
        {name: random_traffic(rng, v.nbytes) for name, v in graph.values.items()},
        {"": random_traffic(rng, inputs), "packets": Traffic((Coded(inputs * rng.random(), 0.0, rng.random()),))},
        **(more | given),
    )


def plan_or_none(name: str, problem: Problem, model: CostModel) -> Plan | None:
    """A scheduler's plan; None where it finds none."""
    try:
        return scheduler(name).plan(problem, model)
    except CutsetError:
        return None


def close(a: float, b: float) -> bool:
    """Equal but for rounding."""
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))
