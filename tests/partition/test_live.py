"""The planner of a run: it follows what lasts, and stays where it is when there is little to gain."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from cutset.cluster.messages import EdgeReport, HopReport, Report
from cutset.cluster.trace.spans import Span
from cutset.errors import CutsetError
from cutset.partition.cost import CostModel
from cutset.partition.estimates import LinkEstimate
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop, path
from cutset.partition.live_planner import LivePlanner, Policy, decide, per_item
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.plan import COORDINATOR, Plan, StagePlan
from cutset.partition.problem import Machine, Problem
from cutset.partition.schedulers.plan_scheduler import single
from cutset.partition.traffic import Traffic, spread

LAYERS = 10
ALL = ("edge", "middle", "cloud")


def chain() -> Graph:
    """Values that shrink: 100 kB, 80 kB, …; the picture has 120 kB; each layer has 40 kB of weights."""
    values = [Value("x", (120_000,), "uint8")] + [
        Value(f"v{i}", (25_000 * (LAYERS - i) // LAYERS,), "float32") for i in range(LAYERS)
    ]
    nodes = tuple(
        Node(f"n{i}", f"n{i}", "aten.conv2d.default", (Read(a.name), Weight(f"w{i}")), (), (b,), False, 1)
        for i, (a, b) in enumerate(pairwise(values))
    )
    weights = {f"w{i}": Value(f"w{i}", (10_000,), "float32") for i in range(LAYERS)}
    return Graph((values[0],), (values[-1].name,), nodes, weights)


def problem(bandwidth: float = 8e6, **more: object) -> Problem:
    graph = chain()
    seconds = np.full(LAYERS, 0.01)
    machines = tuple(Machine(name, seconds * slow) for name, slow in zip(ALL, (8, 2, 1), strict=True))
    traffic = spread(graph.values.values(), 0.2, 1e-10, 1e-10)
    hops = (Hop(bandwidth, 0.005),) * 3
    return Problem(graph, "g", machines, hops, traffic, {"": traffic["x"]}, **more)


def test_the_first_answer_is_the_schedulers() -> None:
    planner = LivePlanner(problem())
    assert planner.explain() == "no plan yet"
    plan = planner(ALL, "start")
    assert plan == planner.current
    assert [stage.worker for stage in plan.stages] == ["cloud"]
    assert "cloud 10 layers (optimal); start" in planner.explain()
    edge = LivePlanner(problem(), "edge")
    assert [stage.worker for stage in edge(ALL, "start").stages] == ["edge"]


class Carried:
    """The estimate that a coordinator keeps of one connection, and hands to the planner with every picture."""

    def __init__(self, planner: LivePlanner, sender: str, receiver: str, start: Hop) -> None:
        self._planner, self._pair, self._estimate = planner, (sender, receiver), LinkEstimate(start)

    def picture(self, nbytes: int, seconds: float) -> None:
        self._estimate.observe(nbytes, seconds)
        self._planner.hop(*self._pair, self._estimate.hop)


def test_noise_moves_nothing_and_a_change_moves_it_once() -> None:
    """Bandwidth that jumps by ±40 % for 200 pictures; then the last link is down to a hundredth for good."""
    rng = random.Random(0)
    planner = LivePlanner(problem())
    link = Carried(planner, COORDINATOR, "cloud", path(problem().hops, 0, 3))
    plans = [planner(ALL, "start")]
    for _ in range(200):
        nbytes = rng.randint(30_000, 50_000)
        link.picture(nbytes, 0.015 + nbytes / (8e6 * rng.uniform(0.6, 1.4)))
        plans.append(planner(ALL, "a look"))
    assert len(set(plans)) == 1
    for _ in range(12):
        link.picture(40_000, 0.015 + 40_000 / 8e4)
        plans.append(planner(ALL, "a look"))
    assert len(set(plans)) == 2, "one switch"
    assert plans[-1] != plans[0]
    assert {planner(ALL, "a look") for _ in range(25)} == {plans[-1]}


def test_a_single_bad_look_moves_nothing() -> None:
    planner = LivePlanner(problem(), policy=Policy(patience=2))
    before = planner(ALL, "start")
    planner.line.hops = (Hop(8e6, 0.005), Hop(8e6, 0.005), Hop(1e3))
    assert planner(ALL, "a look") == before
    planner.line.hops = (Hop(8e6, 0.005),) * 3
    assert planner(ALL, "a look") == before
    planner.line.hops = (Hop(8e6, 0.005), Hop(8e6, 0.005), Hop(1e3))
    assert planner(ALL, "a look") == before
    assert planner(ALL, "a look") != before


def test_a_lost_worker_is_left_at_once_and_taken_back_if_it_pays() -> None:
    planner = LivePlanner(problem())
    before = planner(ALL, "start")
    without = planner(("edge", "middle"), "cloud was lost")
    assert {stage.worker for stage in without.stages} <= {"edge", "middle"}
    assert "cloud was lost" in planner.explain()
    assert "isn't there" in planner.explain()
    answers = [planner(ALL, "cloud is back") for _ in range(4)]
    assert answers[0] == without
    assert answers[-1] == before
    assert planner.look(ALL) is None
    found = planner.look(("edge",), "only one is left")
    assert found is not None
    assert [stage.worker for stage in found.stages] == ["edge"]
    with pytest.raises(CutsetError, match="no worker"):
        planner((), "all were lost")


def test_links_lead_past_a_worker_that_is_lost() -> None:
    now = LivePlanner(problem()).problem(("cloud",))
    assert now.hops == (Hop(8e6, 0.015),)


def test_private_values_need_their_worker() -> None:
    planner = LivePlanner(problem(private=frozenset({"x"})))
    assert planner(ALL, "start").stages[0].worker == "edge"
    with pytest.raises(CutsetError, match="edge, and it isn't there"):
        planner(("middle", "cloud"), "edge was lost")


def test_a_worker_that_became_slow_is_relieved() -> None:
    planner = LivePlanner(problem())
    before = planner(ALL, "start")
    nodes = before.stages[-1].nodes
    for _ in range(12):
        planner.stage("cloud", nodes, 20 * 0.01 * len(nodes))
        after = planner(ALL, "a look")
    assert after != before
    assert planner.problem().machines[2].seconds == pytest.approx(np.full(LAYERS, 0.2))
    assert "with another plan" in planner.explain() or "no plan is better" in planner.explain()


def test_a_worker_that_was_slow_gets_another_chance_ever_more_seldom() -> None:
    """Cloud is slow for good: it is tried again, left again, and the pauses grow."""
    planner = LivePlanner(problem())
    used = []
    for _ in range(250):
        plan = planner(ALL, "a look")
        used.append(plan.stages[-1].worker == "cloud")
        for stage in plan.stages:
            slow = 20.0 if stage.worker == "cloud" else 1.0
            machine = next(m for m in planner.start.machines if m.name == stage.worker)
            planner.stage(stage.worker, stage.nodes, slow * float(machine.seconds[list(stage.nodes)].sum()))
    returns = [i for i in range(1, 250) if used[i] and not used[i - 1]]
    assert len(returns) == 3, returns
    pauses = [b - a for a, b in pairwise(returns)]
    assert all(b > 1.5 * a for a, b in pairwise(pauses)), pauses
    assert sum(used) < 100


def test_a_link_that_was_bad_gets_another_chance() -> None:
    planner = LivePlanner(problem())
    link = Carried(planner, COORDINATOR, "cloud", path(problem().hops, 0, 3))
    planner(ALL, "start")
    for _ in range(12):
        link.picture(40_000, 0.015 + 40_000 / 8e4)
        planner(ALL, "a look")
    assert planner.current is not None
    assert {stage.worker for stage in planner.current.stages} <= {"edge", "middle"}
    assert planner.line.hops[2].bandwidth < 1e6
    for _ in range(40):
        planner(ALL, "a look")
    assert planner.line.hops[2].bandwidth == 8e6


def test_layers_that_were_timed_are_known_one_by_one() -> None:
    planner = LivePlanner(problem())
    for _ in range(5):
        planner.layers("edge", (0, 1), (0.1, 0.3))
    seconds = planner.problem().machines[0].seconds
    assert seconds[:2] == pytest.approx([0.1, 0.3])
    assert seconds[2:] == pytest.approx(np.full(8, 0.08 * 2.5))
    planner.layers("nobody", (0,), (1.0,))
    planner.layers("edge", (0,), (float("nan"),))
    assert planner.problem().machines[0].seconds[0] == pytest.approx(0.1)


def test_more_change_than_thought_makes_all_deltas_larger() -> None:
    given = problem()
    planner = LivePlanner(given)
    before = given.traffic["v3"].delta[0].nbytes
    for _ in range(5):
        planner.payload("v2", "delta", round(given.traffic["v2"].delta[0].nbytes * 2))
    after = planner.problem().traffic
    assert after["v2"].delta[0].nbytes == pytest.approx(given.traffic["v2"].delta[0].nbytes * 2, rel=1e-3)
    assert after["v3"].delta[0].nbytes == pytest.approx(before * 2, rel=1e-3)
    for _ in range(9):
        planner.payload("v2", "delta", 10**9)
    assert planner.problem().traffic["v3"].delta[0].nbytes == given.traffic["v3"].key[0].nbytes
    planner.payload("unknown", "delta", 5)
    planner.payload("v2", "key", 5, sender="edge", encode=1.0, receiver="cloud", decode=1.0)


def test_what_is_foreseen_counts_where_nothing_was_seen() -> None:
    given = problem()

    def tenth(known: Mapping[str, Traffic]) -> dict[str, Traffic]:
        return {
            name: replace(one, delta=tuple(way._replace(nbytes=way.nbytes / 10) for way in one.delta))
            for name, one in known.items()
        }

    planner = LivePlanner(given, forecast=tenth)
    planner.payload("v2", "delta", 12_345)
    now = planner.problem().traffic
    assert now["v2"].delta[0].nbytes == pytest.approx(12_345)
    assert now["v3"].delta[0].nbytes == pytest.approx(given.traffic["v3"].delta[0].nbytes / 10)
    assert now["v3"].key == given.traffic["v3"].key


def test_a_coder_that_is_slower_than_thought() -> None:
    planner = LivePlanner(problem())
    expected = problem().traffic["v0"].delta[0].encode
    slow = LivePlanner(replace(problem(), traffic=spread(chain().values.values(), 0.2, 1e-7, 1e-7)))
    for _ in range(3):
        planner.payload("v0", "delta", 100, sender="edge", encode=expected * 3)
        slow.payload("v0", "delta", 100, sender="edge", encode=0.03)
    assert planner.problem().machines[0].codec == 1.0, "so short a time says nothing"
    assert slow.problem().machines[0].codec == pytest.approx(3.0)
    assert slow.problem().machines[1].codec == 1.0


def test_a_switch_must_pay_for_the_weights_that_it_sends() -> None:
    empty = tuple(replace(machine, holds=frozenset()) for machine in problem().machines)
    given = replace(problem(), machines=empty)
    model = CostModel(given)
    edge, cloud = single(given, 0, "", ""), single(given, 2, "", "")
    gain = per_item(given, model.cost(edge)) - per_item(given, model.cost(cloud))
    assert gain > 0.5
    assert decide(model, edge, cloud, Policy(horizon=10)).better
    thin = replace(given, hops=(Hop(1e5),) * 3)
    few, many = (decide(CostModel(thin), edge, cloud, Policy(horizon=n)) for n in (2, 100))
    assert (few.better, many.better) == (False, True)
    assert few.switch > 1
    assert "to switch" in few.why
    assert not decide(model, cloud, edge, Policy()).better
    same = decide(model, cloud, replace(cloud, scheduler="other"), Policy())
    assert (same.better, same.switch) == (False, 0.0)


def test_reports_of_a_run_are_taken() -> None:
    """Times of stages and layers, bytes on hops, payloads; of other parties nothing."""
    planner = LivePlanner(problem())
    plan = Plan("g", (StagePlan("edge", (0, 1)), StagePlan("cloud", tuple(range(2, LAYERS)))))
    link = Carried(planner, "edge", "cloud", path(problem().hops, 1, 3))
    sent = EdgeReport("v1", "delta", 30_000, 0.3, 20_000, 0.0, 0.0)
    for i in range(8):
        compute = [Span("compute", 0, i, 101.0, 101.48)]
        planner.report(Report(1, 0, 0, i, "edge", compute, None, [], [sent], None), plan)
        nbytes = 30_000 + 9_000 * i
        hop = HopReport(nbytes, 102.0, 102.0, 103.0)
        took = 0.05 + nbytes / 1e6
        layers = [0.02] * (LAYERS - 2)
        planner.report(Report(1, 0, 0, i, "cloud", [], hop, [sent], [], layers), plan)
        link.picture(nbytes, took)
        planner.report(Report(1, 0, 0, i, "moon", [], hop, [], [], None), plan)
    now = planner.problem()
    assert now.machines[0].seconds == pytest.approx(np.full(LAYERS, 0.24))
    assert now.machines[2].seconds == pytest.approx(np.full(LAYERS, 0.02))
    assert now.traffic["v1"].delta[0].nbytes == 30_000
    way = path(now.hops, 1, 3)
    assert (way.bandwidth, way.latency) == (pytest.approx(1e6, rel=0.01), pytest.approx(0.05, abs=0.002))


def test_a_small_gain_is_left() -> None:
    given = problem()
    model = CostModel(given)
    best = LivePlanner(given)(ALL, "start")
    edge = single(given, 0, "", "")
    assert not decide(model, edge, best, Policy(margin=0.99)).better


def test_weights_that_a_worker_has_need_not_be_sent() -> None:
    planner = LivePlanner(problem())
    planner.holds("cloud", ())
    plan: Plan = planner(ALL, "start")
    assert planner.cost(plan).weights > 0
    planner.holds("cloud", planner.start.graph.weights)
    assert planner.cost().weights == 0


def test_a_baseline_without_a_plan_gives_way() -> None:
    small = tuple(replace(machine, memory=1_400_000) for machine in problem().machines)
    tight = replace(problem(), machines=(replace(small[0], memory=10_000), *small[1:]))
    plan = LivePlanner(tight, "edge")(ALL, "start")
    assert plan.scheduler == "optimal"
