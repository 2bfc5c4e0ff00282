"""Stages that compute what changed alone, over several workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from cluster.run.pictures import moving, small_model, small_network
from cutset.cluster.codecs import Receiver, Sender
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import Report
from cutset.partition.node import Value
from cutset.partition.plan import Plan, StagePlan
from cutset.stream import Stream
from cutset.video.summary import Summary


def test_two_stages_compute_what_changed(workers: LocalWorkers) -> None:
    import torch

    pictures, model = moving(8, 40, 48), small_model(40, 48)
    reports: list[Report] = []
    summary = Summary(graph=model.graph)

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        reports.append(report)
        summary.report(report, plan, seconds)

    addresses = dict(list(workers.addresses.items())[:2])
    with Stream(model, pictures, workers=addresses, options=Options(delta_scale=0.0), observe=observe) as stream:
        results = list(stream)
    with torch.no_grad():
        expected = [small_network()(torch.from_numpy(picture)).numpy() for picture in pictures]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.output, right, rtol=1e-4, atol=1e-4)
    shares = [report.shares for report in reports if report.shares is not None]
    assert len(shares) == 2 * len(pictures)
    assert any(0 < min(own) < max(own) for own in shares if own), "a part of some layers"
    assert sum("delta compute did" in line for line in summary.lines()) == 2


def test_the_error_is_kept_within_its_limit(workers: LocalWorkers) -> None:
    pictures, model = moving(6, 40, 48), small_model(40, 48)
    with Stream(model, pictures, workers=dict(list(workers.addresses.items())[:1]), delta_compute=True) as stream:
        assert stream.accuracy is not None
        assert stream.accuracy.limit == 0.01
        assert stream.coordinator.options.delta_scale is not None
        results = list(stream)
        assert stream.accuracy.checked + stream.accuracy.spared >= 1
        assert "delta compute's thresholds" in stream.accuracy.line()
    assert len(results) == len(pictures)


def test_what_changed_is_joined_until_it_is_asked_for() -> None:
    value = Value("a", (1, 2, 3, 4), "float32")
    sender, receiver = Sender([value], plan=1, epoch=1), Receiver([value], plan=1, watch=True)
    array = np.zeros(value.shape, np.float32)

    def send(number: int, **places: Any) -> None:
        for place in places.values():
            array.reshape(-1)[place] += 1
        work, arrays, _ = sender.encode(0, number, {"a": array})
        receiver.decode(work, arrays)

    send(0)
    assert receiver.changed(0)["a"].everything
    send(1, a=3)
    send(2, a=5, b=7)
    changed = receiver.changed(0)["a"]
    assert np.flatnonzero(changed.mask()).tolist() == [3, 5, 7]
    assert receiver.changed(0) == {}
    send(3)
    assert receiver.changed(0)["a"].count == 0
    assert Receiver([value], plan=1).changed(0) == {}


def test_a_stage_that_the_plan_has_computed_dense(workers: LocalWorkers) -> None:
    """The first stage computes what changed alone and says how much; the second one all of every picture."""
    pictures, model = moving(6, 40, 48), small_model(40, 48)
    names = list(workers.addresses)[:2]
    half, count = len(model.graph.nodes) // 2, len(model.graph.nodes)
    cut = next(at for at in range(half, count) if len(model.graph.cuts[at].values) == 1)
    stages = (StagePlan(names[0], tuple(range(cut))), StagePlan(names[1], tuple(range(cut, count)), dense=True))
    reports: list[Report] = []
    with Stream(
        model,
        pictures,
        workers={name: workers.addresses[name] for name in names},
        plan=Plan(model.digest, stages),
        options=Options(delta_scale=0.0),
        observe=lambda report, plan, seconds: reports.append(report),
    ) as stream:
        results = list(stream)
    assert len(results) == len(pictures)
    assert {report.party for report in reports if report.shares is not None} == {names[0]}
    for picture, result in zip(pictures, results, strict=True):
        right = model.run(picture)[model.graph.outputs[0]]
        np.testing.assert_allclose(result.output, right, rtol=1e-4, atol=1e-4)


def test_plans_of_a_list_of_pictures_say_how_stages_compute(workers: LocalWorkers) -> None:
    """Pictures that can be looked at beforehand are priced; the plan's stages then do what it says."""
    pictures, model = moving(8, 40, 48), small_model(40, 48)
    lines: list[str] = []
    plans: dict[str, Plan] = {}
    shares: list[tuple[str, bool]] = []

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        plans.update({stage.worker: plan for stage in plan.stages})
        if report.party in {stage.worker for stage in plan.stages}:
            shares.append((report.party, report.shares is not None))

    one = dict(list(workers.addresses.items())[:1])
    settings = {"delta_compute": True, "scheduler": "optimal"}
    with Stream(model, pictures, workers=one, observe=observe, log=lines.append, **settings) as stream:
        list(stream)
        assert stream.advisor is not None
        assert all(machine.changed is not None for machine in stream.advisor.planner.start.machines)
    text = "\n".join(lines)
    assert "of the operations of a typical picture" in text
    assert "delta compute: " in text
    assert shares
    for party, said in shares:
        [stage] = [stage for stage in plans[party].stages if stage.worker == party]
        assert said != stage.dense
