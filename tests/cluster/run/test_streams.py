"""Streams over real processes give what the module gives, in order, bit for bit."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import Report
from cutset.errors import ConfigError, CutsetError, GraphError, RequestError
from cutset.partition.plan import COORDINATOR, Plan, StagePlan
from cutset.stream import Stream
from cutset.video.imports.export import export
from cutset.video.torch_model import TorchModel
from cutset.video.zoo import build
from video.networks import Many, filled


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_every_picture_has_the_modules_result_in_order(workers: LocalWorkers, mode: Any) -> None:
    model, pictures = small_model(), moving(12)
    with Stream(model, pictures, workers=workers.addresses, mode=mode) as stream:
        results = list(stream)
        assert len(stream.coordinator.plans) == 1
    same(results, expected(pictures))
    assert all(r.attempts == 1 and r.captured <= r.sent <= r.done for r in results)


def test_a_stream_starts_workers_and_stops_them() -> None:
    pictures = moving(4)
    with Stream(small_model(), pictures, workers=1) as stream:
        assert stream.local is not None
        process, directory = stream.local.process("worker1"), stream.local.directory
        same(list(stream), expected(pictures))
    assert process.poll() is not None
    assert not directory.exists()


def test_a_network_of_the_zoo_with_its_head(workers: LocalWorkers) -> None:
    pictures = moving(3, 64, 64)
    module = build("googlenet", seed=4)
    with torch.no_grad():
        wanted = [module(torch.from_numpy(p)).numpy() for p in pictures]
    with Stream("googlenet", pictures, workers=workers.addresses, seed=4) as stream:
        results = list(stream)
    same(results, wanted)
    (best, share), *_ = results[0].top()
    assert best == int(wanted[0].argmax())
    assert 0 < share < 1


def random_plan(model: TorchModel, names: list[str], seed: int) -> Plan:
    """Stages of nodes in any legal order, so that values pass by stages that don't use them."""
    chooser, graph = random.Random(seed), model.graph
    order: list[int] = []
    while len(order) < len(graph.nodes):
        ready = [
            i
            for i in range(len(graph.nodes))
            if i not in order and all(graph.maker[n] in (-1, *order) for n in graph.nodes[i].reads)
        ]
        order.append(chooser.choice(ready))
    marks = sorted(chooser.sample(range(1, len(order)), len(names) - 1))
    ends = itertools.pairwise([0, *marks, len(order)])
    chooser.shuffle(names)
    stages = tuple(StagePlan(name, tuple(sorted(order[a:b]))) for name, (a, b) in zip(names, ends, strict=True))
    return Plan(model.digest, stages)


def test_branches_and_skips_over_any_stages_and_switches_while_pictures_are_on_their_way(
    workers: LocalWorkers,
) -> None:
    model, pictures = small_model(), moving(60)
    plans = [random_plan(model, list(workers.names), seed) for seed in range(4)]
    assert any(len(names) > 2 for plan in plans for names in plan.edges(model.graph)), "nothing passes by a stage"
    results = []
    with Stream(model, pictures, workers=workers.addresses, plan=plans[0], rate=40) as stream:
        for result in stream:
            results.append(result)
            if result.picture in (10, 25, 40):
                stream.coordinator.propose(plans[result.picture // 12], "a test")
        made = stream.coordinator.plans if stream._coordinator else []
        assert [plan for _, plan, _ in made] == [plans[0], *(plans[p // 12] for p in (10, 25, 40) if p // 12)]
    same(results, expected(pictures))
    assert all(r.attempts == 1 for r in results), "a switch loses nothing"
    assert len({r.plan for r in results}) > 2


def test_several_sources_are_kept_apart(workers: LocalWorkers) -> None:
    sources = [moving(7, seed=1), moving(3, seed=2), moving(9, seed=3)]
    with Stream(small_model(), *sources, workers=workers.addresses) as stream:
        results = list(stream)
    for i, pictures in enumerate(sources):
        same([r for r in results if r.source == i], expected(pictures))


def test_reports_tell_what_every_party_did(workers: LocalWorkers) -> None:
    reports: list[Report] = []
    pictures = moving(5)

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        assert 0 <= seconds < 10
        reports.append(report)

    with Stream(small_model(), pictures, workers=workers.addresses, observe=observe) as stream:
        assert len(list(stream)) == 5
        offsets = stream.coordinator.offsets
    assert all(abs(offset) < 0.05 for offset in offsets.values()), "one machine, one clock"
    for name in (*workers.names, "coordinator"):
        mine = [r for r in reports if r.party == name]
        assert sorted(report.number for report in mine) == list(range(5))
        for report in mine:
            assert report.hop is not None
            assert report.hop.nbytes > 0
            assert report.hop.sent <= report.hop.last + 0.05
            assert all(span.start <= span.end for span in report.spans)
    kinds = {span.kind for r in reports if r.party == "worker2" for span in r.spans}
    assert kinds == {"receive", "wait", "decode", "compute", "encode", "send"}
    deltas = [e for r in reports for e in r.edges if e.kind == "delta"]
    assert deltas
    assert all(0 < e.changed < 1 for e in deltas)


def test_leaving_early_stops_everything_and_the_workers_serve_the_next(workers: LocalWorkers) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from moving(5)

    for _ in range(2):
        with Stream(small_model(), endless(), workers=workers.addresses) as stream:
            found = list(itertools.islice(stream, 7))
        assert [r.picture for r in found] == list(range(7))
    pictures = moving(3)
    with Stream(small_model(), pictures, workers=workers.addresses) as stream:
        same(list(stream), expected(pictures))


def test_what_is_too_old_is_dropped_in_its_place(workers: LocalWorkers) -> None:
    pictures = moving(30)
    with Stream(small_model(), pictures, workers=workers.addresses, rate=500, deadline=0.02, in_flight=2) as stream:
        results = list(stream)
    assert [r.picture for r in results] == list(range(30))
    dropped = [r for r in results if r.dropped]
    assert dropped
    assert all("0.02" in r.dropped and not r.outputs for r in dropped)
    for result, wanted in zip(results, expected(pictures), strict=True):
        assert result.dropped or np.array_equal(result.output, wanted)


def test_the_rate_is_kept(workers: LocalWorkers) -> None:
    with Stream(small_model(), moving(6), workers=workers.addresses, rate=20) as stream:
        captured = [r.captured for r in stream]
    assert captured[-1] - captured[0] >= 0.2


def test_a_picture_of_another_size_is_an_error_after_those_before_it(workers: LocalWorkers) -> None:
    pictures = [*moving(5), *moving(2, 20, 20)]
    results: list[Any] = []
    with (
        Stream(small_model(), pictures, workers=workers.addresses) as stream,
        pytest.raises(RequestError, match=r"item 5 of source 0 .* \[1, 3, 20, 20\]"),
    ):
        results.extend(stream)
    same(results, expected(pictures[:5]))


def test_a_source_that_raises_is_an_error_with_its_message(workers: LocalWorkers) -> None:
    def broken() -> Iterator[Any]:
        yield from moving(2)
        raise ZeroDivisionError("the lens fell off")

    with (
        pytest.raises(RequestError, match="the lens fell off"),
        Stream(small_model(), broken(), workers=workers.addresses) as stream,
    ):
        list(stream)


def test_what_is_refused_before_anything_starts() -> None:
    model = small_model()
    with pytest.raises(RequestError, match="no picture"):
        Stream(torch.nn.ReLU(), [])
    with pytest.raises(ConfigError, match="in flight"):
        Stream(model, moving(1), in_flight=0)
    with pytest.raises(ConfigError, match="rate"):
        Stream(model, moving(1), rate=0)
    with pytest.raises(ConfigError, match="another model"):
        Stream(model, moving(1), plan=Plan("0" * 64, ()))
    with pytest.raises(CutsetError, match="not an address"):
        Stream(model, moving(1), workers=["nonsense"])
    two = export(filled(Many()), torch.zeros(2, 6), torch.zeros(2, 6))
    with pytest.raises(GraphError, match="2 inputs"):
        TorchModel(*two)


def test_without_any_worker_it_ends_with_the_reason(tmp_path: Any) -> None:
    from cutset.cluster.coordinator.switching import Options

    begun = time.monotonic()
    with (
        pytest.raises(CutsetError, match="no worker is left"),
        Stream(small_model(), moving(2), workers=[f"ipc://{tmp_path}/none"], options=Options(patience=0.5)) as stream,
    ):
        list(stream)
    assert time.monotonic() - begun < 30


def test_an_even_plan_covers_every_node() -> None:
    model = small_model()
    for count in (1, 2, 3, 40):
        even_plan(model, [f"w{i}" for i in range(count)]).check(model.graph, model.digest)


def noisy(count: int, levels: int) -> list[Any]:
    """A camera that stands still in bad light: every pixel is off by some levels, and a patch moves."""
    rng = np.random.default_rng(3)
    found = moving(count, 24, 28)
    return [np.clip(p + rng.integers(-levels, levels + 1, p.shape), 0, 255).astype(np.uint8) for p in found]


def sent(local: LocalWorkers, pictures: list[Any], **how: Any) -> tuple[list[Any], dict[str, int]]:
    """Results, and the bytes that the coordinator and the workers sent after the first picture."""
    total = {"coordinator": 0, "workers": 0}

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        if report.number:
            party = "coordinator" if report.party == COORDINATOR else "workers"
            total[party] += sum(edge.nbytes for edge in report.edges)

    with Stream(small_model(24, 28), pictures, workers=local.addresses, observe=observe, **how) as stream:
        return list(stream), total


def test_what_may_be_left_out_is_and_the_output_stays_near(workers: LocalWorkers) -> None:
    pictures = noisy(10, 2)
    wanted = expected(pictures)
    exact, whole = sent(workers, pictures)
    same(exact, wanted)

    def worst(results: list[Any]) -> float:
        return max(float(np.abs(r.output - w).max() / np.abs(w).max()) for r, w in zip(results, wanted, strict=True))

    by_levels, fewer = sent(workers, pictures, levels=4)
    assert fewer["coordinator"] < 0.5 * whole["coordinator"]
    assert 0 < worst(by_levels) < 0.2
    by_threshold, fewer = sent(workers, pictures, threshold=0.05)
    assert fewer["coordinator"] == whole["coordinator"], "pictures are not activations"
    assert fewer["workers"] < 0.8 * whole["workers"]
    assert 0 < worst(by_threshold) < 0.2


def test_the_error_of_the_output_is_kept_within_a_limit(workers: LocalWorkers) -> None:
    pictures = noisy(120, 2)
    wanted = expected(pictures)
    with Stream(
        small_model(24, 28), pictures, workers=workers.addresses, threshold=3.0, levels=30, max_error=0.02, in_flight=1
    ) as stream:
        results = list(stream)
    assert stream.accuracy is not None
    errors = [float(np.abs(r.output - w).max() / np.abs(w).max()) for r, w in zip(results, wanted, strict=True)]
    assert max(errors[:20]) > 0.02, "it was never tight: this shows nothing"
    assert sorted(errors[60:])[-10] <= 0.02
    assert stream.accuracy.above >= 1
    assert stream.accuracy.largest > 0.02
