"""A planner in a run: it hears what workers hold and may use, and what it proposes pays for the weights it moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running, torch_settings
from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.weight_store import save_weight
from cutset.partition.hop import Hop
from cutset.partition.live import LivePlanner, Policy
from cutset.partition.memory import stage_memory
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.problem import Machine, Problem
from cutset.partition.traffic import spread
from cutset.stream import Stream
from cutset.video.torch_model import TorchModel

FAR = 1e6  # seconds between two looks: none in these tests


def problem(model: TorchModel, slow: tuple[float, ...] = (1.0, 1.0), **more: object) -> Problem:
    """Two workers over quick links; `slow` says how much slower each is."""
    graph = model.graph
    seconds = np.full(len(graph.nodes), 0.01)
    machines = tuple(Machine(name, seconds * by) for name, by in zip(("near", "far"), slow, strict=True))
    traffic = spread(graph.values.values(), 0.2, 1e-10, 1e-10)
    pictures = {"": traffic[model.input.name]}
    return Problem(graph, model.digest, machines, (Hop(1e9, 0.0),) * 2, traffic, pictures, **more)


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, tuple[str, bytes | None]]]:
    """Addresses of two workers in threads; `request.param` are their settings."""
    settings = getattr(request, "param", (torch_settings(), torch_settings()))
    running = [Running(f"ipc://{tmp_path}/{i}", setting) for i, setting in enumerate(settings)]
    yield {name: (worker.address, None) for name, worker in zip(("near", "far"), running, strict=True)}
    for worker in running:
        worker.close()


def run(
    model: TorchModel, workers: dict[str, tuple[str, bytes | None]], planner: LivePlanner
) -> tuple[list[Plan], list[str]]:
    """Plays a few pictures by what the planner says; the plans, and what was told. Results are compared to the bit."""
    pictures, said = moving(6), list[str]()

    def source() -> Iterator[NDArray[Any]]:
        """The last picture waits until both workers have said what they hold."""
        yield from pictures[:-1]
        until = time.monotonic() + 20
        while len(planner.observed.holds) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        yield pictures[-1]

    with Stream(model, source(), workers=workers, planner=Advisor(planner, FAR), tell=said.append) as stream:
        same(list(stream), expected(pictures))
        plans = [plan for _, plan, _ in stream.coordinator.plans]
    return plans, said


def test_the_planner_hears_what_each_worker_holds(two: dict[str, tuple[str, bytes | None]]) -> None:
    model = small_model()
    planner = LivePlanner(problem(model, (100.0, 1.0)))
    [plan], _ = run(model, two, planner)
    assert [stage.worker for stage in plan.stages] == ["far"]
    assert planner.observed.holds == {"near": frozenset(), "far": frozenset(model.graph.weights)}
    # Back to the near worker everything would have to be sent; at the far one nothing.
    near = Plan(model.digest, (StagePlan("near", plan.stages[0].nodes),))
    assert planner.cost(near).weights > 0
    assert planner.cost(plan).weights == 0


def test_weights_in_a_workers_cache_count_as_held(tmp_path: Path) -> None:
    model, cache = small_model(), tmp_path / "cache"
    cache.mkdir()
    some = sorted(model.graph.weights)[::2]
    for name in some:
        save_weight(cache, model.weight_digest(name), model.tensors[name])
    near, far = Running(f"ipc://{tmp_path}/a", torch_settings(cache=cache)), Running(f"ipc://{tmp_path}/b")
    planner = LivePlanner(problem(model, (100.0, 1.0)))
    try:
        run(model, {"near": (near.address, None), "far": (far.address, None)}, planner)
    finally:
        near.close()
        far.close()
    equal = {name for name in model.graph.weights if model.weight_digest(name) in map(model.weight_digest, some)}
    assert planner.observed.holds["near"] == frozenset(equal)


def test_a_switch_waits_until_it_pays_for_its_weights() -> None:
    """The same gain, offered by a worker that lacks the weights and by one that has them."""
    model = small_model()
    given = replace(problem(model), hops=(Hop(1e4), Hop(1e4)))  # the weights take longer than a picture
    weights = model.graph.weight_bytes(range(len(model.graph.nodes)))
    planner = LivePlanner(given, policy=Policy(horizon=5, patience=1))
    advisor = Advisor(planner, FAR)
    try:
        for name in ("near", "far"):
            advisor.holds(name, model.graph.weights if name == "near" else ())
        before = advisor.plan(("near", "far"), "start")
        assert [stage.worker for stage in before.stages] == ["near"]
        nodes, quick = before.stages[0].nodes, float(given.machines[0].seconds.sum())
        slow = 0.9 * weights / 1e4 / 5  # of a picture: over five pictures less than what the weights cost
        for _ in range(12):
            planner.stage("near", nodes, quick + slow)
        assert planner.look(("near", "far")) is None
        assert planner.decision is not None
        assert "to switch" in planner.decision.why
        advisor.holds("far", model.graph.weights)
        after = planner.look(("near", "far"))
        assert after is not None
        assert [stage.worker for stage in after.stages] == ["far"]
    finally:
        advisor.close()


def tight(model: TorchModel) -> int:
    """Bytes that are enough for either half of the network, and not for all of it."""
    graph = model.graph
    nodes = range(len(graph.nodes))

    def needs(first: int, last: int) -> float:
        return stage_memory(graph, range(first, last), graph.cuts[first].nbytes, graph.cuts[last].nbytes, 4)

    halves = min(max(needs(0, k), needs(k, len(nodes))) for k in nodes[1:])
    assert halves < needs(0, len(nodes)), "no cut halves this network"
    return int((halves + needs(0, len(nodes))) / 2)


def test_no_plan_is_made_that_a_worker_would_refuse(tmp_path: Path) -> None:
    model = small_model()
    limit = tight(model)
    running = [Running(f"ipc://{tmp_path}/{i}", torch_settings(memory=limit)) for i in range(2)]
    planner = LivePlanner(problem(model, (100.0, 1.0), in_flight=4))
    assert [stage.worker for stage in planner(("near", "far"), "without their word").stages] == ["far"]
    planner.current = None
    try:
        plans, said = run(model, {n: (w.address, None) for n, w in zip(("near", "far"), running, strict=True)}, planner)
    finally:
        for worker in running:
            worker.close()
    assert [[stage.worker for stage in plan.stages] for plan in plans] == [["near", "far"]]
    assert not [line for line in said if "MiB" in line]
    for (_, first), (_, second) in pairwise(enumerate(plans[0].stages)):
        assert first.nodes[-1] < second.nodes[0]


def test_a_planner_and_a_worker_count_the_same_bytes(tmp_path: Path) -> None:
    """One byte less than the planner says, and the worker refuses."""
    model = small_model()
    graph, nodes = model.graph, range(len(model.graph.nodes))
    needs = int(stage_memory(graph, nodes, graph.cuts[0].nbytes, graph.cuts[-1].nbytes, 4))
    for limit, works in ((needs, True), (needs - 1, False)):
        worker = Running(f"ipc://{tmp_path}/{limit}", torch_settings(memory=limit))
        said: list[str] = []
        try:
            with Stream(model, moving(2), workers={"w": (worker.address, None)}, tell=said.append) as stream:
                if works:
                    same(list(stream), expected(moving(2)))
                else:
                    stream.coordinator.options = replace(stream.coordinator.options, patience=0.5)
                    with pytest.raises(Exception, match="no worker is left"):
                        list(stream)
                    assert any("may use" in line for line in said)
        finally:
            worker.close()
