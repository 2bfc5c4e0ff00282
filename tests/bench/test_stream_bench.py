"""`cutset bench stream` on pictures so small that its figures mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from benchmarks.report import report
from benchmarks.stream import CSR, TARGETS, csr_bytes
from benchmarks.stream import PARTS as STREAM_PARTS
from benchmarks.stream_faults import ERROR, RECOVERY, FaultSchedule
from benchmarks.stream_planning import TIME, chain, large_problem, run_planning
from benchmarks.targets import judge
from cutset.bench.stream import PARTS as OWN_PARTS
from cutset.bench.stream import StreamSetting
from cutset.bench.stream_bytes import FIRST_CUTS, CutBytes, measure_bytes
from cutset.bench.stream_plans import (
    CHANGED_ALLOWED,
    CHOSEN,
    DELTA_ERRORS,
    HOPS,
    LATENCY,
    MISSED,
    PERIOD,
    Candidate,
    candidates,
    chosen,
    errors_of,
    near_best,
    verdicts,
)
from cutset.bench.stream_session import Played
from cutset.bench.stream_videos import find_videos, generated
from cutset.cli.bench_stream import IN_CHECKOUT, PARTS
from cutset.cluster.emulation import Hop, connections
from cutset.compare.results import Results, Row, machine, save
from cutset.partition.cost import Cost, Part
from cutset.partition.node import Value
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.problem import ChangedWork
from cutset.partition.profile import Sizes
from cutset.partition.schedulers import scheduler

SMALL = (96, 128)


def quick() -> StreamSetting:
    return StreamSetting([generated(SMALL)], ("alexnet",), True, lambda line: None, (CSR,))


def test_the_command_has_the_parts():
    assert tuple(OWN_PARTS) == PARTS
    assert tuple(STREAM_PARTS) == PARTS + IN_CHECKOUT


def test_bytes_at_every_cut():
    setting = quick()
    model = setting.model("alexnet", setting.videos[0])
    cuts = measure_bytes(model.graph, model.tensors, setting.videos[0].places((0, 5), 3), codings=[CSR])
    assert len(cuts) == len(model.graph.trunk) == len(model.graph.nodes) + 1
    assert cuts[0].value == model.input
    assert all(len(cut.delta) == len(cut.changed) == len(cut.codings[CSR.system]) == 4 for cut in cuts)
    assert all(len(cut.full) == 2 and max(cut.full) <= cut.value.nbytes for cut in cuts)
    assert 0.15 < np.mean(cuts[0].changed) < 0.4, "noise and shapes"
    assert all(cut.against(CSR.system) <= 1 for cut in cuts)


def test_csr_is_counted_as_the_older_system_would():
    before = np.zeros((1, 2, 5, 10), np.float32)
    after = before.copy()
    after[0, 1, 2, 3:6] = 1
    assert csr_bytes(before, after) == 2 * 4 * 6 + 3 * 8
    after[0, 1] = 1  # sparse rows are larger than the channel
    assert csr_bytes(before, after) == 4 * 6 + 4 * 50
    flat = np.zeros((1, 100), np.uint8)
    assert csr_bytes(flat, flat) == 8


def test_the_worst_picture_counts():
    cut = CutBytes(Value("x", (1, 1, 8, 8), "float32"), [100, 40], [0.3, 0.1], [256], {CSR.system: [200, 30]})
    assert cut.bound == pytest.approx(40 / (256 * (0.1 + 1 / 32)))
    assert cut.against(CSR.system) == pytest.approx(40 / 30)


def test_rows_make_a_page(tmp_path: Path):
    rows = tuple(STREAM_PARTS["bytes"](quick()))
    save(Results("cutset bench stream", machine(1), rows), tmp_path / "stream.json")
    assert "CSR" in report(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["plans", "faults"])
def test_parts_that_start_workers(tmp_path: Path, part: str):
    rows = tuple(STREAM_PARTS[part](quick()))
    save(Results("cutset bench stream", machine(1), rows), tmp_path / "stream.json")
    assert report(tmp_path)
    if part == "faults":
        [error] = [row.value for row in rows if row.unit == "rel error"]
        assert error == 0
    else:
        measured = {row.system for row in rows if row.metric == LATENCY}
        assert {"cutset optimal", "balance", "edge", "cloud", "cloud, float32"} <= measured
        assert {CHANGED_ALLOWED, "edge, delta compute", "cloud, delta compute"} <= measured
        errors = {row.system: row.value for row in rows if row.metric == DELTA_ERRORS}
        assert {"edge, delta compute", "cloud, delta compute"} <= set(errors)
        assert max(errors.values()) < 0.1
        verdict = [row.value for row in rows if row.system == CHANGED_ALLOWED and row.metric.endswith(CHOSEN)]
        assert len(verdict) == 2
        assert min(verdict) >= 1.0


def candidate(system: str, metric: str, latency: float, plan: Plan, deltas: bool = True) -> Candidate:
    cost = Cost((Part("compute", "worker1", latency),), latency, 0.0, 1)
    return Candidate(system, metric, plan, deltas, cost)


def test_the_verdict_compares_with_the_best_that_was_run():
    whole, split = (StagePlan("worker1", (0, 1)),), (StagePlan("worker1", (0,)), StagePlan("worker2", (1,)))
    found = [
        candidate("cutset optimal", LATENCY, 1.0, Plan("", whole)),
        candidate("balance", LATENCY, 2.0, Plan("", split)),
        candidate("cloud, jpeg", LATENCY, 0.5, Plan("", whole, "jpeg")),
        candidate("edge", LATENCY, 0.1, Plan("", whole), deltas=False),
    ]
    runs = {
        found[0].key: Played([1.5, 1.5, 9.0]),
        found[1].key: Played([1.0, 1.2, 1.1]),
        found[2].key: Played([0.1]),
    }
    [row] = list(verdicts("x", found, runs))
    assert row.value == pytest.approx(1.5 / 1.1), "neither the JPEG nor what wasn't run"
    assert errors_of(found[:2], runs) == pytest.approx([100 / 3, 100 * (2 / 1.1 - 1)])


def test_delta_compute_is_measured_beside_the_others():
    """The plan that may use it is held against all of them, the exact one against exact ones alone."""
    found = [
        candidate("cutset optimal", LATENCY, 1.0, Plan("", (StagePlan("worker1", (0,)),))),
        candidate(CHANGED_ALLOWED, LATENCY, 0.5, Plan("", (StagePlan("worker2", (0,)),))),
        candidate("cloud, delta compute", LATENCY, 0.6, Plan("", (StagePlan("worker3", (0,)),))),
    ]
    found[1:] = [replace(one, scale=0.4) for one in found[1:]]
    runs = {one.key: Played([seconds]) for one, seconds in zip(found, (1.0, 0.6, 0.5), strict=True)}
    values = {row.system: row.value for row in verdicts("x", found, runs)}
    assert values == {"cutset optimal": 1.0, CHANGED_ALLOWED: pytest.approx(1.2)}
    assert replace(found[1], scale=None).key != found[1].key


@pytest.mark.parametrize(("share", "partial"), [(0.05, True), (1.3, False)])
def test_candidates_with_delta_compute(share: float, partial: bool):
    """On a quiet scene the plan that may use it does, on one that changes everywhere it is the exact one."""
    graph = chain(6)
    plain = large_problem(graph, "latency", 3)
    plain = replace(plain, hops=HOPS)
    machines = tuple(replace(one, changed=ChangedWork(one.seconds * share)) for one in plain.machines)
    sizes = Sizes("x", 2, {}, {})
    found = candidates({LATENCY: (plain, sizes)}, False, {LATENCY: (replace(plain, machines=machines), 0.4)})
    by = {one.system: one for one in found}
    assert {CHANGED_ALLOWED, "edge, delta compute", "cloud, delta compute"} <= set(by)
    allowed = by[CHANGED_ALLOWED]
    assert bool(allowed.delta_stages) == partial
    if partial:
        assert allowed.seconds < by["cutset optimal"].seconds
        assert allowed.scale == 0.4
    else:
        assert allowed.key == by["cutset optimal"].key, "run once"
    assert by["cloud, delta compute"].delta_stages == ["worker3"]
    assert by["cutset optimal"].delta_stages == []


def test_later_rounds_run_what_came_near_the_best():
    plans = [Plan("", (StagePlan("worker1", (i,)),)) for i in range(4)]
    found = [candidate(str(i), LATENCY, 1.0, plan) for i, plan in enumerate(plans)]
    found.append(candidate("3", PERIOD, 1.0, plans[3]))
    runs = {one.key: Played([seconds]) for one, seconds in zip(found, (1.0, 1.4, 1.6, 9.0), strict=False)}
    runs[plans[3].stages, "", True, None].periods = [2.0]
    assert [(one.system, one.metric) for one in near_best(found, runs)] == [
        ("0", LATENCY),
        ("1", LATENCY),
        ("3", PERIOD),
    ]
    both = Played([1.0], 5.0, [2.0], [7], outputs=[np.zeros(1)]).then(Played([3.0], 6.0, [4.0], [8]))
    assert (both.latency, both.first, both.periods, both.nbytes) == ([1.0, 3.0], 5.0, [2.0, 4.0], [7, 8])
    assert len(both.outputs) == 1


def test_slow_networks_are_run_by_serious_plans_alone():
    plan = Plan("", ())
    found = [candidate(str(s), LATENCY, s, plan) for s in (1.0, 1.4, 2.1, 7.0)]
    assert [one.system for one in chosen(found, serious=True)] == ["1.0", "1.4"]
    assert [one.system for one in chosen(found, serious=False)] == ["1.0", "1.4", "2.1"]


def test_connections_of_a_line():
    found = connections(["coordinator", "a", "b"], (Hop(8e6, 0.002), Hop(1e6, 0.01)))
    assert len(found) == 6
    assert found["coordinator", "b"] == found["b", "coordinator"] == Hop(1e6, 0.012)
    assert found["a", "b"] == Hop(1e6, 0.01)


def test_targets_take_the_worst_row():
    rows = [
        Row("vgg16, x", "cutset", CSR.metric, 0.9, "rel"),
        Row("alexnet, x", "cutset", CSR.metric, 1.2, "rel"),
        Row("a chain: 200 layers", "cutset optimal", TIME, 0.3, "s"),
        Row("a chain: 200 layers", "cutset neighbourhood", TIME, 9.0, "s"),
        Row("vgg16, one-by-one 432x768", "cutset", FIRST_CUTS, 3.5, "x"),
    ]
    assert [(line[0].split()[0], line[2], line[3]) for line in judge(rows, TARGETS)] == [
        ("bytes", "1.20", "NO"),
        ("full", "3.50", "yes"),
        ("seconds", "0.300", "yes"),
    ]


def test_every_target_is_a_figure_of_some_part():
    setting = quick()
    rows = [*STREAM_PARTS["bytes"](setting), *run_planning({"a chain": chain(5)}, 1, lambda line: None)]
    known = {row.metric for row in rows} | {ERROR, RECOVERY, MISSED, f"{LATENCY}: {CHOSEN}"}
    for target in TARGETS:
        assert any(metric.endswith(target.metric) for metric in known), target.text


def test_a_large_problem_can_be_planned():
    graph = chain(30)
    plan = scheduler("optimal").plan(large_problem(graph, "throughput", 4))
    plan.check(graph, "0" * 64)


def test_without_videos_pictures_are_made_up(tmp_path: Path):
    [video] = find_videos(tmp_path / "absent")
    assert video.name.startswith("generated")
    pictures = video.pictures(2, 3)
    assert [picture.index for picture in pictures] == [3, 4]
    assert (pictures[0].pixels != pictures[1].pixels).any()


@pytest.mark.parametrize("kills", [1, 2, 3, 6])
def test_nothing_else_happens_while_a_worker_is_away(kills: int) -> None:
    """Plans and kills wait until all workers are there: one between a kill and its start would wait for ever."""
    away = None
    for share, event, what in FaultSchedule.spread(1000, kills).events:
        assert 0 < share < 1
        if event == "start":
            assert what == away
            away = None
        else:
            assert away is None
            away = what if event == "kill" else None
    assert away is None
