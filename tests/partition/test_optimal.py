"""The optimal plan is the best of all plans, and no other scheduler has a better one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cutset.errors import CutsetError
from cutset.partition.cost import CostModel, rank, why_not
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.lattice import closed_sets, lattice
from cutset.partition.memory import order_bytes
from cutset.partition.mesh import Mesh
from cutset.partition.problem import Machine, Problem
from cutset.partition.schedulers import SCHEDULERS, scheduler
from cutset.partition.schedulers.exhaustive import every_plan
from cutset.partition.search import Search, StepSearch
from cutset.partition.traffic import Coded, Traffic
from partition.problems import close, layer, plan_or_none, random_graph, random_problem, random_traffic, value


def test_optimal_is_the_best_of_all_plans() -> None:
    """Both objectives, with rates, memory limits, pictures that stay, branches, several forms of the picture."""
    kinds: Counter[str] = Counter()
    for seed in range(400):
        problem = random_problem(seed)
        model = CostModel(problem)
        best, found = (plan_or_none(name, problem, model) for name in ("exhaustive", "optimal"))
        assert (best is None) == (found is None), f"seed {seed}"
        if best is None or found is None:
            kinds["none"] += 1
            continue
        found.check(problem.graph, problem.digest)
        assert why_not(problem, found) is None, f"seed {seed}"
        first, second = zip(rank(problem, model.cost(best)), rank(problem, model.cost(found)), strict=True)
        # With slack the best time between pictures may be given up for latency, so only that must be the same.
        assert close(*first) or (problem.slack and problem.objective == "throughput"), f"seed {seed}: {first}"
        # A plain latency has no second wish.
        assert close(*second) or (problem.objective == "latency" and problem.rate is None), f"seed {seed}: {second}"
        kinds[f"{problem.objective}, {len(found.stages)} stages"] += 1
        kinds[f"{problem.mode}, {found.input}"] += 1
    # The problems are such that the answers differ.
    for kind in ("latency, 2 stages", "throughput, 2 stages", "throughput, 3 stages", "delta, ", "full, packets"):
        assert kinds[kind] > 3, kinds
    assert kinds["none"] < 150, kinds


def test_no_scheduler_is_better() -> None:
    compared: Counter[str] = Counter()
    for seed in range(1000, 1100):
        problem = random_problem(seed)
        model = CostModel(problem)
        found = plan_or_none("optimal", problem, model)
        for name in SCHEDULERS:
            other = plan_or_none(name, problem, model)
            if other is not None:
                assert found is not None
                costs = [model.cost(other), model.cost(found)]
                firsts = [rank(problem, cost)[0] for cost in costs]
                assert firsts[0] * (1 + problem.slack) >= firsts[1] * (1 - 1e-9)
                if firsts[0] < firsts[1] * (1 - 1e-9):
                    assert costs[0].latency >= costs[1].latency * (1 - 1e-9)
                assert why_not(problem, other) is None
                compared[name] += 1
    assert min(compared.values()) > 20, compared


def test_the_search_by_steps_is_the_search_by_pairs() -> None:
    split = 0
    for seed in range(150):
        given = random_problem(seed)
        problem = replace(given, machines=tuple(replace(machine, memory=None) for machine in given.machines))
        model, sets = CostModel(problem), lattice(problem.graph)
        pairs, steps = Search(model, sets).run(), StepSearch(model, sets).run()
        assert (pairs is None) == (steps is None)
        if pairs is not None and steps is not None:
            assert close(pairs.latency, steps.latency), f"seed {seed}"
            steps.plan.check(problem.graph, problem.digest)
            assert close(model.cost(steps.plan).latency, steps.latency)
            split += len(steps.plan.stages) > 1
    assert split > 20


def test_a_network_with_more_closed_sets_than_pairs_can_be_looked_at() -> None:
    """Six branches of four layers between two layers: 5^6 closed sets and a few."""
    layers = [layer("a", "x")]
    for branch in range(6):
        for i in range(4):
            layers.append(layer(f"b{branch}{i}", f"b{branch}{i - 1}" if i else "a"))
    layers.append(layer("z", *(f"b{branch}3" for branch in range(6))))
    graph = Graph((value("x", 9),), ("z",), tuple(layers), {})
    assert len(lattice(graph).values) == 5**6 + 2
    # Only the branches' third layers are small, so the best cut goes through all branches at once.
    traffic = {name: Traffic((Coded(1.0 if name[0] == "b" and name[2] == "2" else 100.0),)) for name in graph.values}
    seconds = np.full(len(layers), 1.0)
    fast_there = np.where([node.name[0] == "z" or node.name[2:] == "3" for node in layers], 0.01, 9.0)
    machines = (Machine("u", seconds), Machine("v", fast_there))
    problem = Problem(graph, "digest", machines, (Hop(), Hop(1000.0)), traffic, {"": traffic["x"]}, mode="full")
    plan = scheduler("optimal").plan(problem)
    assert {layers[i].name for i in plan.stages[0].nodes} == {"a", *(f"b{k}{i}" for k in range(6) for i in range(3))}
    loaded = replace(problem, objective="throughput", in_flight=8)
    found = scheduler("optimal").plan(loaded)
    found.check(graph, "digest")


def test_optimal_keeps_any_set_of_private_values() -> None:
    """Also sets without the input, or with results, which no graph of a network would give."""
    kept = 0
    for seed in range(60):
        rng, names = random.Random(seed), list(random_problem(seed).graph.values)
        private = frozenset(rng.sample(names, rng.randint(1, max(len(names) // 2, 1))))
        problem = random_problem(seed, private=private)
        model = CostModel(problem)
        best, found = (plan_or_none(name, problem, model) for name in ("exhaustive", "optimal"))
        assert (best is None) == (found is None), f"seed {seed}"
        if best is None or found is None:
            continue
        assert why_not(problem, found) is None, f"seed {seed}"
        first, _ = zip(rank(problem, model.cost(best)), rank(problem, model.cost(found)), strict=True)
        assert close(*first) or (problem.slack and problem.objective == "throughput"), f"seed {seed}: {first}"
        kept += len(found.stages) > 1
    assert kept > 3


def test_optimal_keeps_values_off_links_and_takes_any_mesh() -> None:
    """Values that no link may carry, connections that are on no line, and memory for more items than are in flight."""
    kept: Counter[str] = Counter()
    for seed in range(40):
        given, rng = random_problem(seed, private=frozenset()), random.Random(seed)
        parties = len(given.machines) + 1
        latency = np.array(
            [[0.0 if i == j else rng.choice([0.1, 1, 9]) for j in range(parties)] for i in range(parties)]
        )
        bandwidth = np.array([[rng.choice([4.0, 50.0, np.inf]) for _ in range(parties)] for _ in range(parties)])
        inner = [name for name in given.graph.values if name not in given.graph.outputs]
        uncut = frozenset(rng.sample(inner[1:], min(len(inner) - 1, rng.randint(0, 2))))
        problem = replace(given, uncut=uncut, mesh=Mesh(latency, bandwidth), hops=(), held=rng.choice([None, 6]))
        model = CostModel(problem)
        best, found = (plan_or_none(name, problem, model) for name in ("exhaustive", "optimal"))
        assert (best is None) == (found is None), f"seed {seed}"
        if best is None or found is None:
            continue
        assert why_not(problem, found) is None, f"seed {seed}"
        assert all(not uncut.intersection(names) for names in found.edges(problem.graph)[1:-1]), f"seed {seed}"
        first, _ = zip(rank(problem, model.cost(best)), rank(problem, model.cost(found)), strict=True)
        assert close(*first) or (problem.slack and problem.objective == "throughput"), f"seed {seed}: {first}"
        kept["stages" if len(found.stages) > 1 else "one"] += 1
        kept["uncut"] += bool(uncut)
        fewer = problem.among([machine.name for machine in problem.machines[1:]]) if parties > 2 else problem
        assert fewer.way(0, len(fewer.machines)) == problem.way(0, parties - 1)
    assert min(kept["stages"], kept["one"], kept["uncut"]) > 4, kept


def test_every_plan_is_legal_and_there_once() -> None:
    problem = random_problem(3, private=frozenset())
    plans = list(every_plan(problem))
    assert len({(plan.stages, plan.input) for plan in plans}) == len(plans) > 3
    for plan in plans:
        plan.check(problem.graph, problem.digest)


def large(seed: int, layers: int, workers: int, branchy: float, memory: int | None = None, **more: object) -> Problem:
    rng = random.Random(seed)
    graph = random_graph(rng, layers, branchy)
    machines = tuple(
        Machine(f"w{i}", np.array([rng.random() * (1 + i % 4) for _ in range(layers)]), memory) for i in range(workers)
    )
    hops = tuple(Hop(rng.choice([4, 20, 100]), rng.random()) for _ in machines)
    traffic = {name: random_traffic(rng, v.nbytes) for name, v in graph.values.items()}
    pictures = {"": traffic["x"]}
    return Problem(graph, "digest", machines, hops, traffic, pictures, **more)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize(("branchy", "memory"), [(0.0, None), (0.0, 4000), (0.05, None)])
def test_a_large_network_on_many_workers(objective: str, branchy: float, memory: int | None) -> None:
    problem = large(1, 200, 16, branchy, memory, objective=objective, in_flight=8)
    model = CostModel(problem)
    found = scheduler("optimal").plan(problem, model)
    found.check(problem.graph, problem.digest)
    assert why_not(problem, found) is None
    others = [plan_or_none(name, problem, model) for name in ("balance", "forward", "edge", "cloud")]
    ranks = [rank(problem, model.cost(plan)) for plan in others if plan]
    assert rank(problem, model.cost(found)) <= min(ranks, default=(np.inf, np.inf))


def test_exhaustive_refuses_what_would_take_for_ever() -> None:
    with pytest.raises(CutsetError, match="optimal"):
        scheduler("exhaustive").plan(large(2, 90, 6, 0.0))


def test_bytes_of_stages_are_those_of_the_graph() -> None:
    for seed in range(20):
        graph = random_graph(random.Random(seed), 9, 0.6)
        needs = order_bytes(graph)
        for first in range(9):
            for last in range(first + 1, 10):
                nodes = range(first, last)
                assert needs[first, last] == graph.weight_bytes(nodes) + graph.peak_bytes(nodes)
        assert np.isinf(needs[np.tri(10, dtype=bool)]).all()


def test_closed_sets_and_what_crosses_them() -> None:
    for seed in range(20):
        graph = random_graph(random.Random(seed), 8, 0.7)
        found = lattice(graph)
        assert found.complete
        masks = {sum(1 << int(i) for i in np.flatnonzero(row)) for row in found.done}
        closed = set()
        for mask in range(1 << 8):
            nodes = [i for i in range(8) if mask >> i & 1]
            try:
                graph.cut(nodes)
            except CutsetError:
                continue
            closed.add(mask)
        assert masks == closed
        after = found.after()
        for i, row in enumerate(found.done):
            cut = graph.cut([int(n) for n in np.flatnonzero(row)])
            assert (found.values[i], found.nbytes[i]) == (cut.values, cut.nbytes)
            for k, other in enumerate(found.done):
                assert after[i, k] == (i != k and bool((row <= other).all()))
    assert closed_sets(graph, 3) is None
    assert not lattice(graph, 3).complete


def test_a_name_that_no_scheduler_has() -> None:
    with pytest.raises(CutsetError, match="did you mean 'optimal'"):
        scheduler("optimum")
