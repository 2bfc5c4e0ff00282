"""Stages that compute what changed alone: what they cost, when a planner takes them, and what a run teaches it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest

from cutset.cluster.messages import EdgeReport, Report
from cutset.cluster.trace.spans import Span
from cutset.errors import ConfigError, CutsetError
from cutset.partition.choices import best, compare, explain, stages_text
from cutset.partition.cost import CostModel, rank, why_not
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.lattice import lattice
from cutset.partition.live_planner import LivePlanner
from cutset.partition.memory import held_bytes, held_memory, stage_memory
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.plan import Plan, StagePlan, read_plan, write_plan
from cutset.partition.problem import ChangedWork, Machine, Problem, scaled
from cutset.partition.schedulers import SCHEDULERS, scheduler
from cutset.partition.schedulers.exhaustive import every_plan
from cutset.partition.search import Search, StepSearch
from cutset.partition.simulate import simulate
from cutset.partition.traffic import spread
from partition.problems import close, plan_or_none, random_problem, random_traffic

LAYERS = 6
QUIET, BUSY = 0.1, 1.2  # times what dense takes


def chain() -> Graph:
    """Values of 40, 36, 32, … kB; each layer has 4 kB of weights."""
    values = [Value("x", (40_000,), "uint8")] + [Value(f"v{i}", (9_000 - 1000 * i,), "float32") for i in range(LAYERS)]
    nodes = tuple(
        Node(f"n{i}", f"n{i}", "aten.conv2d.default", (Read(a.name), Weight(f"w{i}")), (), (b,), False, 1)
        for i, (a, b) in enumerate(pairwise(values))
    )
    weights = {f"w{i}": Value(f"w{i}", (1000,), "float32") for i in range(LAYERS)}
    return Graph((values[0],), (values[-1].name,), nodes, weights)


def scene(share: float, passing: float = 0.0, mean: float = 1.0, sent: float = 0.8, **more: object) -> Problem:
    """Two workers, of which layers take that share of the dense seconds where what changed alone is computed; `sent` is
    what changes of the values then, 0.8 of dense ones."""
    graph = chain()
    values = graph.values.values()
    seconds = np.full(LAYERS, 0.01)
    changed = ChangedWork(seconds * share, passing, mean)
    machines = (Machine("edge", seconds * 4, changed=changed.times(4)), Machine("cloud", seconds, changed=changed))
    usual = spread(values, 0.8)
    given = {"hops": (Hop(1e7, 0.001),) * 2, "partial": spread(values, sent)} | more
    return Problem(graph, "g", machines, traffic=usual, inputs={"": usual["x"]}, **given)


def with_changed(given: Problem, seed: int) -> Problem:
    """Some machines may compute what changed alone: for some layers that is slower, for most much quicker."""
    rng = random.Random(seed)
    machines = tuple(
        replace(
            machine,
            changed=ChangedWork(
                machine.seconds * np.array([rng.choice([0.05, 0.4, 1.5]) for _ in machine.seconds]),
                rng.choice([0.0, 0.05, 0.4]),
                rng.choice([1.0, 2.0]),
            ),
        )
        if rng.random() < 0.7
        else machine
        for machine in given.machines
    )
    some = [name for name in given.graph.values if rng.random() < 0.8]
    partial = {name: random_traffic(rng, given.graph.values[name].nbytes // 2) for name in some}
    return replace(given, machines=machines, partial=partial)


def partial_workers(problem: Problem, plan: Plan) -> list[str]:
    return [stage.worker for stage in plan.stages if problem.partial_stage(stage)]


def test_a_quiet_scene_is_computed_by_what_changed_and_a_busy_one_dense() -> None:
    for objective in ("latency", "throughput"):
        for share, partial in ((QUIET, True), (BUSY, False)):
            problem = scene(share, objective=objective, in_flight=4)
            for name in SCHEDULERS:
                plan = scheduler(name).plan(problem)
                found = partial_workers(problem, plan)
                assert found == ([stage.worker for stage in plan.stages] if partial else []), (objective, share, name)
                assert all(stage.dense != partial for stage in plan.stages)


def test_what_passes_a_stage_counts() -> None:
    """Layers at a tenth, but each number that a stage takes and gives costs: 44,000 of them for the whole network."""
    plan = Plan("g", (StagePlan("cloud", tuple(range(LAYERS))),))
    cost = CostModel(scene(QUIET, passing=1e-6)).cost(plan)
    [compute] = [part for part in cost.parts if part.kind == "compute"]
    assert compute.seconds == pytest.approx(0.006 + 1e-6 * (40_000 + 4_000))
    assert scheduler("optimal").plan(scene(QUIET, passing=1e-6)).stages[0].dense is False
    assert scheduler("optimal").plan(scene(QUIET, passing=2e-6)).stages[0].dense is True


def test_the_mean_counts_for_throughput_and_all_of_it_for_the_first() -> None:
    plan = Plan("g", (StagePlan("cloud", tuple(range(LAYERS))),))
    for objective, seconds in (("latency", 0.006), ("throughput", 0.018)):
        cost = CostModel(scene(QUIET, mean=3.0, objective=objective)).cost(plan)
        assert sum(part.seconds for part in cost.parts if part.kind == "compute") == pytest.approx(seconds)
        assert cost.first > 0.06, "the first item is computed whole"
    dense = replace(plan, stages=(replace(plan.stages[0], dense=True),))
    cost = CostModel(scene(QUIET)).cost(dense)
    assert sum(part.seconds for part in cost.parts if part.kind == "compute") == pytest.approx(0.06)


def test_what_changed_less_is_sent_by_stages_that_compute_so() -> None:
    problem = scene(QUIET, sent=0.1)
    cut = (StagePlan("edge", (0, 1)), StagePlan("cloud", (2, 3, 4, 5)))
    for dense, share in ((False, 0.1), (True, 0.8)):
        plan = Plan("g", (replace(cut[0], dense=dense), cut[1]))
        [link] = [part for part in CostModel(problem).cost(plan).parts if part.name == "link edge → cloud"]
        size = problem.graph.values["v1"].nbytes
        assert link.nbytes == pytest.approx(size // 4 / 8 + share * size)


def test_the_table_has_both_and_says_which() -> None:
    for share, says in ((QUIET, "computing only what changed"), (BUSY, "computing all of every item")):
        problem = scene(share)
        choices = compare(problem)
        names = {one.name: one for one in choices}
        assert {f"{name}, dense" for name in ("optimal", "edge", "cloud")} <= set(names)
        assert {f"{name}, delta compute" for name in ("edge", "cloud")} <= set(names)
        chosen = best(problem, choices)
        assert says in explain(problem, chosen, choices)
        assert chosen.plan is not None
        text = stages_text(chosen.plan, LAYERS, problem)
        assert text == ("cloud all delta" if share == QUIET else "cloud all")
        costs = {name: one.cost.latency for name, one in names.items() if one.cost}
        assert costs["optimal"] == min(costs.values())
        assert (costs["cloud, delta compute"] < costs["cloud, dense"]) == (share == QUIET)
    usual = scene(QUIET).all_dense()
    choices = compare(usual)
    assert not [one.name for one in choices if one.name.endswith((", dense", ", delta compute"))]
    assert "changed" not in explain(replace(usual, mode="full"), best(usual, choices), choices)


def test_one_stage_may_and_another_not() -> None:
    """A machine that knows nothing of it, and pictures that stay there at first."""
    problem = scene(QUIET, private=frozenset({"x"}))
    plain = replace(problem, machines=(replace(problem.machines[0], changed=None), problem.machines[1]))
    plan = scheduler("optimal").plan(plain)
    assert [stage.worker for stage in plan.stages] == ["edge", "cloud"]
    assert partial_workers(plain, plan) == ["cloud"]
    assert not any(stage.dense for stage in plan.stages), "the edge has no choice"
    assert stages_text(plan, LAYERS, plain).endswith("delta")
    assert "only what changed on cloud" in explain(plain, best(plain, compare(plain)), compare(plain))


def test_optimal_is_the_best_of_all_plans_in_all_variants() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(250):
        problem = with_changed(random_problem(seed), seed)
        model = CostModel(problem)
        try:
            exhaustive = scheduler("exhaustive").plan(problem, model)
        except ConfigError as error:
            kinds["none"] += 1
            if "plans; take" not in str(error):
                assert plan_or_none("optimal", problem, model) is None, f"seed {seed}"
            continue
        found = scheduler("optimal").plan(problem, model)
        found.check(problem.graph, problem.digest)
        assert why_not(problem, found) is None, f"seed {seed}"
        first, second = zip(rank(problem, model.cost(exhaustive)), rank(problem, model.cost(found)), strict=True)
        assert close(*first) or (problem.slack and problem.objective == "throughput"), f"seed {seed}: {first}"
        assert close(*second) or (problem.objective == "latency" and problem.rate is None), f"seed {seed}: {second}"
        partial = partial_workers(problem, found)
        kinds["both" if 0 < len(partial) < len(found.stages) else "partial" if partial else "dense"] += 1
        for name in ("balance", "neighbourhood", "edge", "cloud", "forward"):
            other = plan_or_none(name, problem, model)
            if other is not None:
                assert why_not(problem, other) is None
                assert rank(problem, model.cost(other))[0] * (1 + problem.slack) >= first[1] * (1 - 1e-9), name
    assert min(kinds[kind] for kind in ("both", "partial", "dense")) > 3, kinds
    assert kinds["none"] < 150, kinds


def test_the_search_by_steps_is_the_search_by_pairs() -> None:
    partial = 0
    for seed in range(100):
        given = random_problem(seed)
        free = replace(given, machines=tuple(replace(machine, memory=None) for machine in given.machines))
        problem = with_changed(free, seed)
        model, sets = CostModel(problem), lattice(problem.graph)
        pairs, steps = Search(model, sets).run(), StepSearch(model, sets).run()
        assert (pairs is None) == (steps is None)
        if pairs is not None and steps is not None:
            assert close(pairs.latency, steps.latency), f"seed {seed}"
            assert close(model.cost(steps.plan).latency, steps.latency)
            partial += bool(partial_workers(problem, steps.plan))
    assert partial > 20


def test_the_simulation_is_the_closed_form() -> None:
    for seed in range(30):
        problem = with_changed(random_problem(seed, rate=None), seed)
        model = CostModel(problem)
        for plan in islice(every_plan(problem), 0, None, 97):
            cost, run = model.cost(plan), simulate(model, plan, 120 if problem.in_flight else 300)
            assert run.first == pytest.approx(cost.first, rel=1e-9)
            assert run.period == pytest.approx(cost.period, rel=1e-9), f"seed {seed}"


def test_what_is_held_takes_memory() -> None:
    graph = chain()
    nodes, takes = (1, 2), graph.values["v0"].nbytes
    held = held_memory(graph, nodes, takes)
    assert held == takes + graph.values["v1"].nbytes + graph.values["v2"].nbytes + 2 * 4000
    assert held_bytes(graph, lattice(graph))[1, 3] == held
    everything, takes = tuple(range(LAYERS)), graph.values["x"].nbytes
    dense = stage_memory(graph, everything, takes, graph.values[graph.outputs[0]].nbytes, 1)
    partial = dense + held_memory(graph, everything, takes)
    plan = Plan("g", (StagePlan("cloud", everything),))
    for memory, allowed in ((partial - 1, False), (partial, True)):
        problem = scene(QUIET)
        tight = replace(problem, machines=tuple(replace(one, memory=int(memory)) for one in problem.machines))
        assert why_not(tight, replace(plan, stages=(replace(plan.stages[0], dense=True),))) is None
        assert (why_not(tight, plan) is None) == allowed
        assert partial_workers(tight, scheduler("cloud").plan(tight)) == (["cloud"] if allowed else [])


def test_all_dense_is_the_problem_without_a_choice() -> None:
    problem = scene(QUIET)
    dense = problem.all_dense()
    assert [partial for _, partial in dense.variants] == [False, False]
    assert [partial for _, partial in problem.variants] == [False, True, False, True]
    plan = scheduler("optimal").plan(dense)
    assert not plan.stages[0].dense, "a run that allows nothing has nothing to say"
    fast = scaled(problem.machines[0], 2.0)
    assert fast.changed is not None
    assert fast.changed.seconds == pytest.approx(np.full(LAYERS, 0.01 * QUIET * 2))
    assert problem.among(["cloud"]).partial == problem.partial


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (ChangedWork(np.ones(2)), "of what changed for 2 layers"),
        (ChangedWork(np.full(LAYERS, np.nan)), "finite"),
        (ChangedWork(np.ones(LAYERS), passing=-1.0), "not below 0"),
        (ChangedWork(np.ones(LAYERS), mean=float("inf")), "finite"),
    ],
)
def test_work_that_can_not_be(changed: ChangedWork, says: str) -> None:
    with pytest.raises(CutsetError, match=says):
        replace(scene(QUIET), machines=(Machine("edge", np.ones(LAYERS), changed=changed), scene(QUIET).machines[1]))


def test_the_file_says_which_stage_computes_all() -> None:
    plan = Plan("0" * 64, (StagePlan("a", (0, 1)), StagePlan("b", (2,), "openvino", True)))
    assert read_plan(write_plan(plan)) == plan
    assert write_plan(plan).count(b"dense") == 1
    assert b"dense" not in write_plan(replace(plan, stages=plan.stages[:1])), "earlier versions read it"


CLOUD = Plan("g", (StagePlan("cloud", tuple(range(LAYERS))),))


def reported(planner: LivePlanner, seconds: float, shares: list[float] | None, plan: Plan = CLOUD) -> None:
    """Nine items that took so long on the cloud."""
    for i in range(9):
        spans = [Span("compute", 0, i, 100.0, 100.0 + seconds)]
        planner.report(Report(1, 0, 0, i, "cloud", spans, shares=shares), plan)


def test_a_scene_that_begins_to_move_is_no_slow_machine() -> None:
    """Three times as much changes as was thought; then all of it, and the stage computes dense."""
    planner = LivePlanner(scene(QUIET))
    planner(["edge", "cloud"], "start")
    reported(planner, 0.018, [0.3] * LAYERS)
    edge, cloud = planner.problem().machines
    assert cloud.seconds == pytest.approx(np.full(LAYERS, 0.01)), "no slower than before"
    assert edge.changed is not None
    assert cloud.changed is not None
    assert cloud.changed.seconds == pytest.approx(np.full(LAYERS, 0.003))
    assert edge.changed.seconds == pytest.approx(np.full(LAYERS, 0.012)), "the scene is the same everywhere"
    reported(planner, 0.06, [1.0] * LAYERS)
    cloud = planner.problem().machines[1]
    assert cloud.changed is not None
    assert cloud.changed.seconds == pytest.approx(cloud.seconds), "as long as dense, which it computes"
    assert cloud.seconds == pytest.approx(np.full(LAYERS, 0.01))


def test_dense_stages_say_nothing_of_what_changed() -> None:
    planner = LivePlanner(scene(QUIET))
    reported(planner, 0.12, None, replace(CLOUD, stages=(replace(CLOUD.stages[0], dense=True),)))
    cloud = planner.problem().machines[1]
    assert cloud.seconds == pytest.approx(np.full(LAYERS, 0.02))
    assert cloud.changed is not None
    assert cloud.changed.seconds == pytest.approx(np.full(LAYERS, 0.002)), "the machine is slower in both ways"


def test_sizes_are_known_apart() -> None:
    """What a stage sends that computes what changed alone says nothing of what a dense one would."""
    planner = LivePlanner(scene(QUIET, sent=0.2))
    plan = Plan("g", (StagePlan("edge", (0, 1)), StagePlan("cloud", (2, 3, 4, 5))))
    sent = EdgeReport("v1", "delta", 1_000, 0.1, 20_000, 0.0, 0.0)
    for i in range(9):
        planner.report(Report(1, 0, 0, i, "edge", [], None, [], [sent], None, [0.1, 0.2]), plan)
    now = planner.problem()
    assert now.partial["v1"].delta[0].nbytes == pytest.approx(1_000)
    assert now.partial["v2"].delta[0].nbytes < planner.start.partial["v2"].delta[0].nbytes, "moved as v1 was"
    assert now.traffic["v1"] == planner.start.traffic["v1"]
    for i in range(9):
        planner.report(Report(1, 0, 0, i, "edge", [], None, [], [sent], None, [1.0, 1.0]), plan)
    assert planner.problem().traffic["v1"].delta[0].nbytes == pytest.approx(1_000), "it was computed dense"


def test_a_scene_that_calms_down_gets_another_chance() -> None:
    """All of it changes for a while, the planner goes over to dense; later it tries again."""
    planner = LivePlanner(scene(QUIET))
    first = planner(["edge", "cloud"], "start")
    assert partial_workers(planner.start, first) == ["cloud"]
    reported(planner, 0.09, [0.99] * LAYERS)
    plans = [planner(["edge", "cloud"], "a look") for _ in range(5)]
    assert partial_workers(planner.start, plans[-1]) == [], "slower than dense"
    later = [planner(["edge", "cloud"], "a look") for _ in range(40)]
    assert partial_workers(planner.start, later[-1]) == ["cloud"]
