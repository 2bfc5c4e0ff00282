"""The plan of a decoder's stages against every other one, by a formula of its own, on random clusters."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cutset.engine.decoder_times import DecoderTimes
from cutset.engine.stage_graph import StageLimits, graph_of
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_planner import ENGINE, ENGINE_ROW, Division, StageLoad, StageMachine, StagePlanner
from cutset.errors import ConfigError
from cutset.models.random import RandomModel
from cutset.models.spec import DecoderSpec
from cutset.partition.description import graph_digest
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.memory import stage_memory
from cutset.partition.mesh import Mesh, line, mesh_of, star
from cutset.partition.node import Value
from cutset.partition.plan import COORDINATOR, Plan, StagePlan

LIMITS = StageLimits(rows=32, sequences=16, context=64)


class Shape:
    """What a graph must know of a tensor."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, "F32"


def decoder(layers: int, sequences: int = 4) -> tuple[DecoderSpec, Graph]:
    spec = RandomModel(hidden=32, layers=layers, heads=4, vocab=64, max_pos=64, tied=False).spec()
    tensors = {name: Shape(shape) for name, shape in spec.tensor_shapes().items()}
    setup = StageSetup(blocks=4 * sequences, block_size=16)

    def values(name: str) -> list[Value]:
        return [Value(name, tensors[name].shape, "float32")]

    return spec, graph_of(spec, tensors, values, setup, LIMITS, "float32")


def times(rng: random.Random, graph: Graph) -> DecoderTimes:
    """Layers of two kinds, a head that is as much as several of them, hardly any embedding."""
    end = len(graph.nodes) - 1
    kinds = [rng.uniform(0.5e-3, 4e-3), rng.uniform(0.5e-3, 4e-3)]
    one = np.array([1e-5, *(kinds[i % 2] for i in range(end - 1)), rng.uniform(0.1e-3, 12e-3)])
    more = one * rng.uniform(0.05, 0.8)  # for each row
    return DecoderTimes(
        {1: one, 8: one + 7 * more}, more, np.full(end + 1, rng.uniform(0, 1e-6)), np.full(end + 1, math.inf)
    )


def cluster(seed: int) -> tuple[StagePlanner, list[StageMachine], Mesh]:
    rng = random.Random(seed)
    layers, count = rng.randint(2, 6), rng.randint(1, 4)
    sequences = rng.choice([1, 2, 4, 7, 16])
    spec, graph = decoder(layers, sequences)
    whole = graph.weight_bytes(range(len(graph.nodes))) + sum(node.state for node in graph.nodes)
    tight = rng.random() < 0.5
    machines = [
        StageMachine(
            f"m{i}",
            rng.choice([1.0, 1.0, 0.5, 0.25, 0.1, 2.0]),
            whole * rng.uniform(0.3, 1.6) + 1e6 if tight else math.inf,
            rng.choice([1e-4, 5e-4]),
        )
        for i in range(count)
    ]
    slow = rng.choice([1e-4, 1e-3, 2e-2])
    names = [COORDINATOR, *(one.name for one in machines)]
    seen = {
        (a, b): Hop(rng.choice([1e6, 1e7, math.inf]), slow * rng.uniform(0.3, 2.0))
        for a, b in itertools.permutations(names, 2)
    }
    load = StageLoad(rng.choice(["latency", "throughput"]), 64, sequences)
    planner = StagePlanner(graph, graph_digest(graph), spec, times(rng, graph), load, count + 1)
    return planner, machines, mesh_of(names, seen)


def every_division(planner: StagePlanner, machines: list[StageMachine]) -> list[list[tuple[int, range]]]:
    """All ways: machines by number, in order, with their nodes. The ends keep to their layers, and memory counts."""
    graph, count = planner.graph, len(planner.graph.nodes)
    inner = range(2, count - 1)  # after the embedding and a layer, before the last layer and the head
    found = []
    for many in range(1, len(machines) + 1):
        for cuts in itertools.combinations(inner, many - 1):
            edges = [0, *cuts, count]
            parts = [range(a, b) for a, b in itertools.pairwise(edges)]
            needs = [
                stage_memory(graph, part, graph.cuts[part.start].nbytes, graph.cuts[part.stop].nbytes, planner.held)
                for part in parts
            ]
            for chosen in itertools.combinations(range(len(machines)), many):
                if all(need <= machines[i].room for need, i in zip(needs, chosen, strict=True)):
                    found.append(list(zip(chosen, parts, strict=True)))
    return found


def figures(
    planner: StagePlanner, machines: list[StageMachine], mesh: Mesh, parts: list[tuple[int, range]]
) -> tuple[float, float]:
    """Seconds of a token of one sequence alone, and tokens a second of all with the best number of steps at once."""

    def passes(rows: int) -> tuple[float, float]:
        """Seconds of a step that passes alone, and of its slowest part."""
        per = planner.times.step(rows, planner.load.context / 2)
        engine = ENGINE + ENGINE_ROW * rows
        total, slowest, at = engine, engine, 0
        batch, hidden = 200.0 + rows * (160 + 4 * 4), rows * planner.spec.hidden * 4.0
        for number, (i, nodes) in enumerate([*parts, (-1, range(0))]):
            size = batch if number == 0 else 60.0 + 16.0 * rows if i < 0 else batch + hidden
            way = mesh.way(at, i + 1)
            wire = size / way.bandwidth
            total, slowest = total + way.latency + wire, max(slowest, wire)
            if i >= 0:
                takes = sum(float(per[n]) for n in nodes) / machines[i].speed + machines[i].overhead
                total, slowest = total + takes, max(slowest, takes)
            at = i + 1
        return total, slowest

    rates = []
    for depth in range(1, min(planner.load.sequences, len(machines) + 1) + 1):
        total, slowest = passes(-(-planner.load.sequences // depth))
        rates.append(planner.load.sequences / depth / max(slowest, total / depth))
    return passes(1)[0], max(rates)


def check(planner: StagePlanner, machines: list[StageMachine], found: Division) -> None:
    """It is a plan, within the machines' memory."""
    found.plan.check(planner.graph, planner.digest)
    room = {one.name: one.room for one in machines}
    for stage in found.plan.stages:
        first, last = stage.nodes[0], stage.nodes[-1] + 1
        cuts = planner.graph.cuts
        assert (
            stage_memory(planner.graph, stage.nodes, cuts[first].nbytes, cuts[last].nbytes, planner.held)
            <= room[stage.worker]
        )
        assert not planner.uncut.intersection(cuts[last].values)


@pytest.mark.parametrize("block", range(4))
def test_the_plan_is_the_best_of_all(block: int) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(50 * block, 50 * block + 50):
        planner, machines, mesh = cluster(seed)
        ways = every_division(planner, machines)
        if not ways:
            with pytest.raises(ConfigError, match="MiB for weights and cache"):
                planner.divide(machines, mesh)
            kinds["none"] += 1
            continue
        found = planner.divide(machines, mesh)
        check(planner, machines, found)
        parts = [
            (
                next(i for i, one in enumerate(machines) if one.name == stage.worker),
                range(stage.nodes[0], stage.nodes[-1] + 1),
            )
            for stage in found.plan.stages
        ]
        assert parts in ways
        token, rate = figures(planner, machines, mesh, parts)
        assert found.token == pytest.approx(token, rel=1e-9)
        every = [figures(planner, machines, mesh, way) for way in ways]
        alone = [one for one, way in zip(every, ways, strict=True) if len(way) == 1]
        if planner.load.objective == "latency":
            assert token <= min(one for one, _ in every) * (1 + 1e-9)
        else:
            assert found.rate <= rate * (1 + 1e-9)
            assert found.rate >= max(one for _, one in every) / 1.05, f"seed {seed}"
            assert found.rate >= 0.97 * max((one for _, one in alone), default=0.0), f"seed {seed}"
        kinds[f"{planner.load.objective}, {min(len(parts), 2)}"] += 1
        kinds["some are left out"] += len(parts) < len(machines)
    for kind in ("latency, 1", "throughput, 1", "throughput, 2", "some are left out"):
        assert kinds[kind] >= 2, kinds


def machine(name: str, speed: float = 1.0, room: float = math.inf) -> StageMachine:
    return StageMachine(name, speed, room, 1e-4)


def planner_of(layers: int = 6, load: StageLoad | None = None, head: float = 2e-3, eight: float = 1.5) -> StagePlanner:
    """Layers of 2 ms; a step of eight rows takes so many times as long as one of one."""
    load = load or StageLoad("throughput", 64, 8)
    spec, graph = decoder(layers, load.sequences)
    one = np.array([1e-6, *[2e-3] * layers, head])
    known = DecoderTimes({1: one, 8: one * eight}, one / 8, 0 * one, np.full(len(one), math.inf))
    return StagePlanner(graph, graph_digest(graph), spec, known, load, 5)


def workers(division: Division) -> list[str]:
    return [stage.worker for stage in division.plan.stages]


NEAR = star([Hop(1e9, 1e-5)] * 3)


def test_a_weak_machine_is_left_out() -> None:
    planner = planner_of()
    assert workers(planner.divide([machine("a"), machine("b"), machine("c")], NEAR)) == ["a", "b", "c"]
    assert workers(planner.divide([machine("a"), machine("b", 0.02), machine("c")], NEAR)) == ["a", "c"]
    assert workers(planner.divide([machine("a", 0.01), machine("b", 0.02), machine("c")], NEAR)) == ["c"]


def test_a_machine_behind_a_slow_link_is_left_out() -> None:
    far = star([Hop(1e9, 1e-5), Hop(1e4, 2.0), Hop(1e9, 1e-5)])
    assert workers(planner_of().divide([machine("a"), machine("b"), machine("c")], far)) == ["a", "c"]


def test_a_faster_machine_gets_more_layers() -> None:
    planner = planner_of(6, head=1e-5, eight=8.0)
    plan = planner.divide([machine("a", 2.0), machine("b", 1.0), machine("c", 1e-3)], NEAR).plan
    assert [len(stage.nodes) for stage in plan.stages] == [5, 3], "four layers and the embedding, two and the head"


def test_objectives_differ_where_they_should() -> None:
    """Alone, a token passes all stages: the quickest machine does it. Together, two do more than one."""
    machines = [machine("a", 1.0), machine("b", 1.0), machine("c", 0.7)]
    both = {
        objective: planner_of(load=StageLoad(objective, 64, 8), eight=8.0).divide(machines, NEAR)
        for objective in ("latency", "throughput")
    }
    assert len(both["latency"].plan.stages) == 1
    assert workers(both["throughput"]) == ["a", "b", "c"]
    assert both["latency"].token < both["throughput"].token
    assert both["latency"].rate < both["throughput"].rate


def test_memory_is_kept_with_the_cache_that_context_and_sequences_need() -> None:
    few, many = planner_of(load=StageLoad("latency", 64, 1)), planner_of(load=StageLoad("latency", 64, 16))
    alone = stage_memory(few.graph, range(len(few.graph.nodes)), *ends(few), few.held)
    more = stage_memory(many.graph, range(len(many.graph.nodes)), *ends(many), many.held)
    assert more > alone
    room = (alone + more) / 2
    machines = [machine("a", room=room), machine("b", room=room)]
    assert len(workers(few.divide(machines, NEAR.among([0, 1, 2])))) == 1
    found = many.divide(machines, NEAR.among([0, 1, 2]))
    assert workers(found) == ["a", "b"]
    check(many, machines, found)


def ends(planner: StagePlanner) -> tuple[int, int]:
    return planner.graph.cuts[0].nbytes, planner.graph.cuts[-1].nbytes


def test_what_does_not_fit_says_what_is_missing_in_numbers() -> None:
    planner = planner_of()
    machines = [machine("a", room=3e5), machine("b", room=2e5), machine("c", room=2e5)]
    with pytest.raises(ConfigError) as caught:
        planner.divide(machines, NEAR)
    text = str(caught.value)
    nodes = planner.graph.nodes
    need = (planner.graph.weight_bytes(range(len(nodes))) + sum(node.state for node in nodes)) / 2**20
    assert f"need about {need:,.0f} MiB" in text
    assert "8 sequences of 64 tokens" in text
    assert "may use 1 MiB" in text
    assert "largest layer needs" in text
    with pytest.raises(ConfigError, match="MiB"):
        planner.divide(machines, NEAR, all_of_them=True)


def test_processes_of_one_machine_all_get_layers() -> None:
    planner = planner_of(load=StageLoad("latency", 64, 1))
    machines = [machine("a"), machine("b"), machine("c")]
    assert workers(planner.divide(machines, NEAR)) == ["a"]
    found = planner.divide(machines, NEAR, all_of_them=True)
    assert workers(found) == ["a", "b", "c"]
    seconds = planner.times.step(1, 32)
    most = max(sum(float(seconds[n]) for n in stage.nodes) for stage in found.plan.stages)
    assert most == pytest.approx(2 * 2e-3 + 2e-3, rel=0.01), "two layers and the head, of six and the head"


@pytest.mark.parametrize(("context", "sequences"), [(0, 1), (1, 0), (-5, 3)])
def test_nothing_is_no_load(context: int, sequences: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 token and at least 1 sequence"):
        StageLoad("latency", context, sequences)


def test_alone_says_what_each_would_do() -> None:
    planner = planner_of()
    machines = [machine("a"), machine("b", 0.5, room=1000.0)]
    a, b = planner.alone(machines, NEAR.among([0, 1, 2]))
    assert a.plan.stages == (StagePlan("a", tuple(range(8))),)
    assert not a.refused
    assert "needs" in b.refused
    assert b.token > 1.9 * (a.token - 1e-3)


def test_times_lie_between_what_was_measured() -> None:
    known = DecoderTimes({1: np.array([1.0]), 8: np.array([8.0])}, np.array([0.5]), np.array([0.01]), np.array([100.0]))
    assert known.step(1, 0)[0] == 1.0
    assert known.step(4, 0)[0] == pytest.approx(4.0)
    assert known.step(16, 0)[0] == pytest.approx(16.0), "beyond, as the last two say"
    assert known.step(1, 1000)[0] == pytest.approx(1 + 0.01 * 100), "a window ends what is looked at"
    assert known.prompt(50)[0] == pytest.approx(25 + 0.01 * 50 * 50 / 2)
    assert known.faster(2).step(1, 0)[0] == 0.5


def test_a_line_and_a_star() -> None:
    hops = [Hop(5e6, 0.01), Hop(2e6, 0.02), Hop(9e6, 0.04)]
    found = line(hops)
    assert (found.way(0, 3).bandwidth, found.way(3, 1).bandwidth) == (2e6, 2e6)
    assert found.way(0, 3).latency == pytest.approx(0.07)
    assert found.way(2, 2).latency == 0
    ways = star(hops, Hop(1e6, 0.03))
    assert (ways.way(1, 2).bandwidth, ways.way(1, 2).latency) == (2e6, 0.02)
    assert (ways.way(0, 1).bandwidth, ways.way(0, 1).latency) == (1e6, 0.03)
    few = ways.among([0, 3])
    assert few.way(0, 1) == ways.way(0, 3)
    with pytest.raises(ConfigError):
        Mesh(np.zeros((2, 2)), np.zeros((2, 2)))


def test_a_mesh_takes_the_other_way_round_for_what_was_not_measured() -> None:
    seen = {("a", "b"): Hop(1e6, 0.1), ("b", "c"): Hop(3e6, 0.3), (COORDINATOR, "a"): Hop(2e6, 0.2)}
    found = mesh_of([COORDINATOR, "a", "b", "c"], seen)
    assert found.way(2, 1) == Hop(1e6, 0.1)
    assert found.way(0, 3) == Hop(2e6, 0.2), "the median"


def test_a_stage_never_ends_between_an_end_and_its_layers() -> None:
    planner = planner_of(3)
    problem = planner.problem([machine("a"), machine("b")], NEAR.among([0, 1, 2]))
    from cutset.partition.cost import why_not

    for cut in (1, 4):
        plan = Plan(planner.digest, (StagePlan("a", tuple(range(cut))), StagePlan("b", tuple(range(cut, 5)))))
        assert "goes over no link" in (why_not(problem, plan) or "")
    assert why_not(replace(problem, uncut=frozenset()), plan) is None
