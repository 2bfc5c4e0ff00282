"""What delta compute is said to cost: by shares that are measured, never less than its dense part, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from cutset.cluster.values import Array
from cutset.partition.hop import Hop
from cutset.partition.problem import Problem
from cutset.partition.profile import Profile
from cutset.partition.schedulers import scheduler
from cutset.partition.traffic import spread
from cutset.video.check import difference
from cutset.video.delta.compiling import DenseLayer
from cutset.video.delta.pricing import DeltaPrice, layer_prices, measure_price
from cutset.video.delta.program import Program
from cutset.video.network_model import NetworkModel
from cutset.video.profile.delta_price import price_delta
from cutset.video.profile.setup import Wish, problem_of
from cutset.video.torch_model import TorchModel
from video.delta.test_delta_stage import Everything, pictures
from video.networks import filled

CALL, OPERATION = 1e-5, 1e-7  # seconds of a clock that counts work
RUNTIME = 0.8  # times what our own layers take, if all of them are computed: another runtime is quicker


@pytest.fixture(scope="module")
def model() -> TorchModel:
    module = filled(Everything())
    module.pictures.reset()
    return TorchModel.of(module, (1, 3, 24, 28), torch.uint8)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers take the same on every machine: a call, and so much for each operation that is done."""
    now = [0.0]
    monkeypatch.setattr("cutset.video.delta.program.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("cutset.video.delta.pricing.PAUSE", 0.0)
    for name in ("_some", "_whole"):
        compute = getattr(Program, name)

        def counting(self: Program, layer: Any, *rest: Any, compute: Any = compute) -> float:
            share: float = compute(self, layer, *rest)
            now[0] += CALL + OPERATION * layer.flops * share
            return share

        monkeypatch.setattr(Program, name, counting)


def whole(model: NetworkModel) -> float:
    """What all layers take if everything is dirty."""
    layers = Program(model.graph, range(len(model.graph.nodes)), model.tensors).compiled.layers
    return sum(CALL + OPERATION * layer.flops for layer in layers)


def moving(count: int) -> list[np.ndarray[Any, Any]]:
    """Every pixel is another one in every picture."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (1, 3, 24, 28), np.uint8) for _ in range(count)]


def priced(
    model: NetworkModel, given: list[Any], scale: float = 0.0, search: bool = False, moved: Any = None
) -> DeltaPrice:
    nodes = range(len(model.graph.nodes))
    values = [{model.input.name: picture} for picture in given]
    dense = [model.run(picture) for picture in given]
    return measure_price(
        Program(model.graph, nodes, model.tensors),
        values,
        dense,
        moved or (lambda found, wanted: difference(found, wanted)[1] / 0.01),
        dense_seconds=RUNTIME * whole(model),
        scale=scale,
        search=search,
    )


def problem(model: NetworkModel, price: DeltaPrice | None, **more: Any) -> Problem:
    """Three workers, whose runtime is quicker than our own layers where everything is dirty."""
    seconds = np.array([node.flops + 1.0 for node in model.graph.nodes])
    seconds *= RUNTIME * whole(model) / seconds.sum()
    profile = Profile(
        format="cutset-profile-1",
        model="net",
        size=(24, 28),
        graph=model.digest,
        cpu="x",
        cores=1,
        threads=1,
        versions={},
        seconds=tuple(seconds.tolist()),
        spread=tuple(0.0 for _ in seconds),
        whole=float(seconds.sum()),
        observing=0.0,
        rounds=1,
        encode={},
        decode={},
    )
    wish = Wish(speeds=(0.25, 0.5, 1.0), hops=(Hop(1e9, 1e-7),) * 3, **more)
    return problem_of(model.graph, model.digest, profile, None, wish, price)


def test_a_layer_costs_its_share_of_what_it_isnt_idle() -> None:
    idle, all_of_it = np.array([0.1, 0.0, 0.5]), np.array([1.0, 2.0, 0.5])
    shares = np.array([[0.5, 0.1, 0.2], [0.1, 1.0, 0.3], [0.0, 0.3, 1.0]])
    seconds = idle + shares * (all_of_it - idle)
    found = layer_prices(shares, seconds, all_of_it)
    assert found.idle == pytest.approx(idle)
    assert found.seconds(np.ones(3)) == pytest.approx(all_of_it)
    assert found.seconds(np.array([0.5, 0.5, 0.5])) == pytest.approx([0.55, 1.0, 0.5])


def test_noise_makes_no_layer_cheaper_than_nothing_or_dearer_than_all() -> None:
    shares, all_of_it = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([1.0, 1.0])
    found = layer_prices(shares, np.array([[0.01, 9.0], [0.02, 9.0]]), all_of_it)
    assert found.idle == pytest.approx([0.0, 1.0])
    always = layer_prices(np.ones((2, 1)), np.array([[0.2], [0.2]]), np.array([0.3]))
    assert always.seconds(np.ones(1)) == pytest.approx([0.3]), "what is dirty in every picture costs all of it"


@pytest.mark.usefixtures("counted")
def test_the_price_is_that_of_the_shares_that_were_computed(model: TorchModel) -> None:
    price = priced(model, pictures(7))
    program = Program(model.graph, range(len(model.graph.nodes)), model.tensors)
    expected = sum(CALL + OPERATION * one.flops * price.shares[one.nodes[0]] for one in program.compiled.layers)
    assert price.work.seconds.sum() == pytest.approx(expected)
    assert 0 < price.share < 0.7
    assert price.moved < 0.4, "every bit is followed; our sums run in another order"
    assert price.pictures == 6
    names = set(price.sent)
    assert model.input.name in names
    assert all(0 <= typical <= 1 for typical, _ in price.sent.values())


@pytest.mark.usefixtures("counted")
def test_it_is_never_below_what_is_computed_whole(model: TorchModel) -> None:
    """Few pixels change, but linear layers and means over all places are computed whole whenever any does."""
    price = priced(model, pictures(7))
    program = Program(model.graph, range(len(model.graph.nodes)), model.tensors)
    dense = [layer for layer in program.compiled.layers if isinstance(layer, DenseLayer)]
    assert dense
    least = sum(CALL + OPERATION * layer.flops for layer in dense)
    assert price.work.seconds[[i for layer in dense for i in layer.nodes]].sum() == pytest.approx(least)
    assert price.work.seconds.sum() > least


@pytest.mark.usefixtures("counted")
def test_a_scene_all_dirty_is_computed_dense_and_a_quiet_one_is_not(model: TorchModel) -> None:
    busy, quiet = priced(model, moving(6)), priced(model, [pictures(1)[0]] * 6)
    assert busy.work.seconds.sum() == pytest.approx(whole(model))
    assert busy.share == pytest.approx(1.0)
    assert quiet.share == 0.0
    for price, partial in ((busy, False), (quiet, True)):
        price = replace(price, work=replace(price.work, passing=0.0))  # by the real clock
        for objective in ("latency", "throughput"):
            asked = problem(model, price, objective=objective, in_flight=4)
            for name in ("optimal", "cloud", "forward", "balance"):
                plan = scheduler(name).plan(asked)
                assert any(asked.partial_stage(stage) for stage in plan.stages) == partial, (objective, name)
    assert all(machine.changed is None for machine in problem(model, None).machines)


@pytest.mark.usefixtures("counted")
def test_every_machine_is_as_much_slower_in_both_ways(model: TorchModel) -> None:
    asked = problem(model, priced(model, moving(4)))
    for machine in asked.machines:
        assert machine.changed is not None
        assert machine.changed.seconds.sum() / machine.seconds.sum() == pytest.approx(1 / RUNTIME)


@pytest.mark.usefixtures("counted")
def test_thresholds_grow_while_they_save_and_are_allowed(model: TorchModel) -> None:
    scene = [pictures(1)[0] // 2 + np.uint8(i % 2) for i in range(5)]

    def by(limit: float) -> DeltaPrice:
        return priced(model, scene, 0.1, True, lambda found, wanted: difference(found, wanted)[1] / limit)

    loose, tight, none = by(1.0), by(0.02), by(1e-9)
    assert loose.scale > 0.5, "two of 255 levels are 1 at a scale of 0.5: less follows every flicker"
    assert loose.share == 0.0
    assert loose.moved <= 0.4
    assert tight.moved <= 0.4 or tight.scale < 0.1
    assert none.scale < 0.1, "even the first thresholds were too much"
    same = priced(model, scene, 0.1)
    assert same.scale == 0.1


def test_what_is_sent_is_less_by_what_stays(model: TorchModel) -> None:
    graph = model.graph
    usual = spread(graph.values.values(), 0.8)
    quiet, busy = priced(model, pictures(5)), priced(model, moving(5))
    for price in (quiet, busy):
        found = price.traffic(graph, usual)
        assert set(found) == set(price.sent)
        for name, one in found.items():
            assert one.key == usual[name].key
            assert one.delta[0].nbytes <= usual[name].delta[0].nbytes
            typical, size = price.sent[name][0], graph.values[name].nbytes
            elements = graph.values[name].nbytes // (1 if name == model.input.name else 4)
            wanted = min((elements + 7) // 8 + typical * size, usual[name].delta[0].nbytes)
            assert one.delta[0].nbytes == pytest.approx(wanted)
            assert one.mean * one.delta[0].nbytes <= usual[name].delta[0].nbytes * (1 + 1e-9)
    first = next(name for name in quiet.sent if name != model.input.name)
    assert quiet.sent[first][0] < busy.sent[first][0]


def test_a_source_is_priced_by_what_it_shows(model: TorchModel) -> None:
    price = price_delta(model, pictures(6), 0.01)
    assert price is not None
    assert price.dense > 0
    assert price.pictures == 5
    assert "of the operations" in price.line()
    assert price_delta(model, pictures(1), 0.01) is None, "nothing to compare"
    fixed = price_delta(model, pictures(6), 0.01, scale=0.3)
    assert fixed is not None
    assert fixed.scale == 0.3
    nothing = price_delta(model, pictures(6), 0.01, boxes=True)
    assert nothing is not None
    assert nothing.scale == 0.5, "nobody says what this network detects: thresholds as at the beginning"


def test_what_has_no_maps_has_no_price() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 4 * 4, 5)

        def forward(self, x: Any) -> Any:
            return self.head(x.float().flatten(1))

    flat = TorchModel.of(filled(Flat()), (1, 3, 4, 4), torch.uint8)
    rng = np.random.default_rng(0)
    found: Mapping[str, Array] | Any = price_delta(
        flat, [rng.integers(0, 256, (1, 3, 4, 4), np.uint8) for _ in range(3)], 0.01
    )
    assert found is None
