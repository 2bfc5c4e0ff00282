"""The cost model, against sums on paper and against pictures that are simulated one by one."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from cutset.errors import CutsetError
from cutset.partition.choices import best, compare, explain, stages_text
from cutset.partition.cost import CostModel, why_not
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.problem import Machine, Problem, scaled
from cutset.partition.schedulers import scheduler
from cutset.partition.schedulers.exhaustive import every_plan
from cutset.partition.simulate import simulate
from cutset.partition.traffic import Coded, Traffic
from partition.problems import random_problem


def node(name: str, read: str, size: int, *weights: str) -> Node:
    args = (Read(read), *(Weight(w) for w in weights))
    return Node(name, name, "aten.conv2d.default", args, (), (Value(name, (size,), "float32"),), False, 1)


# x → a → b → c; 10, 100, 50 and 1 numbers, and a weight for each layer.
GRAPH = Graph(
    (Value("x", (10,), "uint8"),),
    ("c",),
    (node("a", "x", 100, "wa"), node("b", "a", 50, "wb"), node("c", "b", 1, "wc")),
    {name: Value(name, (250, 4, 3, 3), "float32") for name in ("wa", "wb", "wc")},
)
SECONDS = np.array([1.0, 2.0, 4.0])


def problem(**more: object) -> Problem:
    """A slow worker near the camera, a quick one behind a thin link."""
    given: dict[str, object] = {
        "graph": GRAPH,
        "digest": "g",
        "machines": (Machine("edge", SECONDS * 10, codec=2.0, overhead=0.5), Machine("cloud", SECONDS)),
        "hops": (Hop(100.0, 0.25), Hop(10.0, 1.0)),
        "traffic": {
            "x": Traffic((Coded(10, 0, 0),), (Coded(5, 1, 1),)),
            "a": Traffic((Coded(400, 0, 0),), (Coded(40, 1, 2), Coded(20, 3, 3))),
            "b": Traffic((Coded(200, 0, 0),), (Coded(100, 1, 1),)),
            "c": Traffic((Coded(4, 0, 0),), ()),
        },
        "inputs": {"": Traffic((Coded(10, 0, 0),), (Coded(5, 1, 1),)), "packets": Traffic((Coded(1, 0, 8),))},
    }
    return Problem(**(given | more))


def split(at: int = 1, given: str = "") -> Plan:
    return Plan("g", (StagePlan("edge", tuple(range(at))), StagePlan("cloud", tuple(range(at, 3)))), given)


ALL_CLOUD = Plan("g", (StagePlan("cloud", (0, 1, 2)),))


def test_a_picture_that_passes_alone() -> None:
    cost = CostModel(problem()).cost(split())
    # To the edge: 1 to encode, 5 B at 100 B/s, decode 1 at half the speed. The delta of `a`: 40 B take 4 s and 2 + 2 s
    # of work, 20 B would take 2 and 6 + 3. The result is a key of 4 B over both hops: 10 B/s and 1.25 s.
    parts = [(part.name, part.seconds, part.latency) for part in cost.parts]
    assert parts == [
        ("encode on coordinator", 1.0, 0.0),
        ("link coordinator → edge", 0.05, 0.25),
        ("decode on edge", 2.0, 0.0),
        ("compute on edge", 10.5, 0.0),
        ("encode on edge", 2.0, 0.0),
        ("link edge → cloud", 4.0, 1.0),
        ("decode on cloud", 2.0, 0.0),
        ("compute on cloud", 6.0, 0.0),
        ("encode on cloud", 0.0, 0.0),
        ("link cloud → coordinator", 0.4, 1.25),
        ("decode on coordinator", 0.0, 0.0),
    ]
    assert cost.latency == pytest.approx(30.45)
    assert cost.first == pytest.approx(0.1 + 0.25 + 10.5 + 40 + 1 + 6 + 0.4 + 1.25)
    assert cost.nbytes == 5 + 40 + 4
    assert cost.weights == 0


def test_a_thin_link_takes_the_smaller_way_to_encode() -> None:
    cost = CostModel(problem(hops=(Hop(100.0, 0.25), Hop(1.0, 1.0)))).cost(split())
    [link] = [part for part in cost.parts if part.name == "link edge → cloud"]
    assert (link.seconds, link.nbytes) == (20.0, 20.0)


def test_what_a_link_carries_in_the_mean_counts_for_throughput_alone() -> None:
    """One picture in four has five times the delta of the others: a typical one is half as large as the mean."""
    bursts = problem().traffic | {"a": replace(problem().traffic["a"], mean=2.0)}
    for objective, seconds in (("latency", 4.0), ("throughput", 8.0)):
        cost = CostModel(problem(traffic=bursts, objective=objective)).cost(split())
        [link] = [part for part in cost.parts if part.name == "link edge → cloud"]
        # 40 B or 80 B at 10 B/s; the smaller way takes 5 s more to encode and decode, and saves 2 s or 4 s.
        assert link.seconds == seconds
    full = CostModel(problem(traffic=bursts, objective="throughput", mode="full")).cost(split())
    assert full.nbytes == 10 + 400 + 4, "of keys there is no mean"


def test_a_hop_past_a_worker_has_the_least_bandwidth_and_all_latency() -> None:
    cost = CostModel(problem()).cost(ALL_CLOUD)
    assert [part.seconds for part in cost.parts] == [1.0, 0.5, 1.0, 7.0, 0.0, 0.4, 0.0]
    assert [part.latency for part in cost.parts] == [0, 1.25, 0, 0, 0, 1.25, 0]


@pytest.mark.parametrize(("in_flight", "period"), [(1, 30.45), (2, 15.225), (3, 10.5), (0, 10.5)])
def test_the_time_between_pictures(in_flight: int, period: float) -> None:
    cost = CostModel(problem(in_flight=in_flight)).cost(split())
    assert cost.slowest.name == "compute on edge"
    assert cost.period == pytest.approx(period)
    assert cost.loaded == (math.inf if not in_flight else pytest.approx(in_flight * period))


def test_full_mode_and_a_horizon_count_keys() -> None:
    full = CostModel(problem(mode="full")).cost(split())
    assert full.latency == full.first == pytest.approx(59.5)
    delta = CostModel(problem()).cost(split()).nbytes
    some = CostModel(problem(horizon=4)).cost(split()).nbytes
    assert some == pytest.approx((5 * 3 + 10) / 4 + (40 * 3 + 400) / 4 + 4)
    assert some > delta


def test_forwarded_packets_are_decoded_at_the_first_stage() -> None:
    cost = CostModel(problem()).cost(split(given="packets"))
    assert [part.seconds for part in cost.parts[:3]] == [0.0, 0.01, 16.0]


def test_weights_are_sent_to_whoever_lacks_them() -> None:
    machines = tuple(replace(machine, holds=frozenset({"wb"})) for machine in problem().machines)
    cost = CostModel(problem(machines=machines)).cost(split())
    size = 250 * 4 * 9 * 4
    assert cost.weights == pytest.approx(size / 100 + 0.25 + size / 10 + 1.25)


def test_memory_counts_weights_values_and_what_edges_hold() -> None:
    # Stage `a`: 36,000 B of weights, 410 B of values at once, three inputs of 10 B that wait, three outputs of 400 B.
    needs = 36_000 + 410 + 3 * 10 + 3 * 400

    def limited(memory: int) -> Problem:
        return problem(machines=(replace(problem().machines[0], memory=memory), problem().machines[1]))

    assert why_not(limited(needs), split()) is None
    assert "memory" in (why_not(limited(needs - 1), split()) or "")
    assert why_not(replace(limited(needs), in_flight=2), split()) is not None


def test_private_values_go_to_no_worker_but_the_first() -> None:
    private = problem(private=frozenset({"x"}))
    assert why_not(private, split()) is None
    assert "cloud would be sent private values" in (why_not(private, ALL_CLOUD) or "")
    more = problem(private=frozenset({"x", "a"}))
    assert "private values" in (why_not(more, split()) or "")
    assert why_not(more, split(2)) is None
    assert why_not(problem(private=frozenset({"c"})), ALL_CLOUD) is None, "results go back to whoever asked"


def test_what_is_wrong_with_other_plans() -> None:
    backwards = Plan("g", (StagePlan("cloud", (0,)), StagePlan("edge", (1, 2))))
    assert "order" in (why_not(problem(), backwards) or "")
    assert "isn't there" in (why_not(problem(), Plan("g", (StagePlan("moon", (0, 1, 2)),))) or "")
    assert "jpeg" in (why_not(problem(), replace(split(), input="jpeg")) or "")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hops": (Hop(),)}, "2 links"),
        ({"machines": (Machine("a", SECONDS), Machine("a", SECONDS))}, "name of its own"),
        ({"machines": (Machine("a", SECONDS[:2]), Machine("b", SECONDS))}, "another model"),
        ({"machines": (Machine("a", SECONDS * math.nan), Machine("b", SECONDS))}, "finite"),
        ({"machines": (Machine("a", SECONDS, memory=0), Machine("b", SECONDS))}, "memory"),
        ({"traffic": {}}, "no sizes"),
        ({"inputs": {}}, "no way"),
        ({"private": frozenset({"z"})}, "no value 'z'"),
        ({"in_flight": -1}, "in-flight"),
        ({"rate": 0.0}, "rate"),
        ({"horizon": 0.5}, "horizon"),
    ],
)
def test_problems_that_can_not_be(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(CutsetError, match=says):
        problem(**wrong)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan])
def test_speeds_that_can_not_be(speed: float) -> None:
    with pytest.raises(CutsetError, match="speed"):
        scaled(Machine("a", SECONDS), speed)


def test_the_simulation_is_the_closed_form() -> None:
    """First picture, time between pictures and latency of many plans, event by event."""
    for seed in range(60):
        given = random_problem(seed, rate=None)
        model = CostModel(given)
        for plan in itertools.islice(every_plan(given), 0, None, 29):
            cost = model.cost(plan)
            run = simulate(model, plan, 120 if given.in_flight else 300)
            assert run.first == pytest.approx(cost.first, rel=1e-9)
            assert run.period == pytest.approx(cost.period, rel=1e-9), f"seed {seed}"
            if given.in_flight:
                assert run.latency == pytest.approx(cost.loaded, rel=1e-9), f"seed {seed}"


def test_pictures_at_a_rate_that_a_plan_keeps_up_with_do_not_wait() -> None:
    slow = problem(rate=1 / 11, in_flight=8)
    run = simulate(CostModel(slow), split(), 40)
    assert run.period == pytest.approx(11)
    assert run.delivered[-1] - run.admitted[-1] == pytest.approx(30.45)


def test_the_timeline_shows_every_part() -> None:
    run = simulate(CostModel(problem(in_flight=2)), split(), 3)
    line = list(run.timeline())
    assert {one.party for one in line} == {"coordinator", "edge", "cloud"}
    computed = [one for one in line if (one.party, one.kind) == ("edge", "compute")]
    assert [one.end - one.start for one in computed] == pytest.approx([10.5] * 3)
    [sent] = [one for one in line if (one.party, one.kind, one.item) == ("edge", "send", 2)]
    [got] = [one for one in line if (one.party, one.kind, one.item) == ("cloud", "receive", 2)]
    assert (got.start - sent.start, got.end - got.start) == pytest.approx((1.0, 4.0))
    assert sent.nbytes == 40


def test_a_rate_makes_latency_give_way() -> None:
    """The plan of least latency can't keep up; the one that can has more latency."""
    # All on one machine: 12 s each. Split over both: 14 s, but a picture every 6.
    even = (Machine("u", np.array([6.0, 3.0, 3.0])), Machine("v", np.array([6.0, 3.0, 3.0])))
    free = {name: Traffic((Coded(2.0),)) for name in GRAPH.values}
    given = problem(machines=even, hops=(Hop(), Hop(1.0)), traffic=free, inputs={"": free["x"]}, in_flight=4)
    assert len(scheduler("optimal").plan(given).stages) == 1
    assert len(scheduler("optimal").plan(replace(given, rate=1 / 7)).stages) == 2
    assert len(scheduler("optimal").plan(replace(given, rate=1 / 13)).stages) == 1


def test_the_comparison_says_what_wins() -> None:
    given = problem()
    jpeg = Traffic((Coded(1.0),))
    choices = compare(
        given, others={"jpeg": jpeg, "float32": Traffic((Coded(4000.0),))}, refused={"jpeg": "it changes the picture"}
    )
    names = {one.name: one for one in choices}
    assert {"optimal", "balance", "edge", "cloud", "forward", "cloud, packets", "cloud, jpeg"} <= set(names)
    assert names["cloud, jpeg"].why_not == "it changes the picture"
    assert names["cloud, float32"].why_not == ""
    allowed = compare(problem(inputs={**given.inputs, "jpeg": jpeg}), refused={"jpeg": "it changes the picture"})
    assert next(one for one in allowed if one.name == "cloud, jpeg").why_not == ""
    chosen = best(given, choices)
    assert chosen.name == "optimal"
    assert chosen.plan == names["optimal"].plan
    assert "Not splitting is best: send what changed of the inputs to cloud" in explain(given, chosen, choices)
    words = {"": "the pictures"}
    assert "send what changed of the pictures to cloud" in explain(given, chosen, choices, words)
    assert "send the pictures to cloud" in explain(replace(given, mode="full"), chosen, choices, words)
    assert stages_text(split(), 3) == "edge 0–0 → cloud 1–2"
    assert stages_text(ALL_CLOUD, 3) == "cloud all"


def test_forwarding_wins_where_packets_are_small() -> None:
    given = problem(inputs={"": problem().inputs[""], "packets": Traffic((Coded(1, 0, 0.01),))})
    choices = compare(given)
    assert "send the packets to cloud" in explain(given, best(given, choices), choices)
    words = {"packets": "the encoded video"}
    assert "send the encoded video to cloud" in explain(given, best(given, choices), choices, words)
