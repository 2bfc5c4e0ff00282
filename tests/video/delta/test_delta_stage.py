"""A stage that computes what changed alone: against torch, against itself with everything changed, and its limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn
from torch.nn import functional

from cutset.codec import Decoder, EdgeSpec, Encoder
from cutset.codec.changed import Changed
from cutset.partition.graph import Graph
from cutset.video.delta.compiling import DenseLayer
from cutset.video.delta.delta_stage import DeltaStage
from cutset.video.delta.glance import Glance
from cutset.video.delta.program import Program
from cutset.video.imports.export import export
from cutset.video.torch_stage import TorchStage
from cutset.video.worker_runtime import VideoRuntime
from cutset.video.zoo.network import Network
from video.networks import filled


class Everything(Network):
    """Every layer that is computed by positions, and some that can't be."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, 2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.deep = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.grouped = nn.Conv2d(10, 12, 3, padding=2, dilation=2, groups=2)
        self.one = nn.Conv2d(12, 10, 1)
        self.gate = nn.Conv2d(10, 10, 1)
        self.last = nn.Conv2d(25, 6, (1, 3), padding=(0, 1))
        self.alone = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.silu(self.norm(self.first(self.pictures(pictures))))
        y = functional.hardswish(self.grouped(functional.relu6(self.deep(x))))
        y = functional.gelu(self.one(y)) + x
        y = y * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(y, 1)))
        a, b = torch.split(y, [4, 6], 1)
        pooled = functional.max_pool2d(y, 3, 2, 1)
        small = functional.avg_pool2d(functional.leaky_relu(b, 0.1), 2)
        up = functional.interpolate(pooled, scale_factor=2.0, mode="nearest")
        blend = functional.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
        z = torch.cat([a - 0.5, up, blend, functional.relu(y[:, 2:7]) * 0.25], 1)
        z = self.alone(self.last(z)).tanh()
        return z, self.head(z.mean((2, 3)))


def pictures(count: int, rows: int = 24, columns: int = 28, seed: int = 1) -> list[np.ndarray[Any, Any]]:
    """A still scene in which a few places change each time."""
    rng = np.random.default_rng(seed)
    now = rng.integers(0, 256, (1, 3, rows, columns), np.uint8)
    found = [now.copy()]
    for _ in range(count - 1):
        r, c = rng.integers(0, rows - 4), rng.integers(0, columns - 4)
        now[..., r : r + 4, c : c + 3] = rng.integers(0, 256, (1, 3, 4, 3), np.uint8)
        found.append(now.copy())
    return found


def exported(module: nn.Module, shape: tuple[int, ...] = (1, 3, 24, 28)) -> tuple[Graph, Mapping[str, Tensor]]:
    graph, tensors = export(module, torch.zeros(shape, dtype=torch.uint8))
    return graph, tensors


def stage(graph: Graph, tensors: Mapping[str, Tensor], nodes: Collection[int] | None = None, **more: Any) -> DeltaStage:
    nodes = range(len(graph.nodes)) if nodes is None else nodes
    return DeltaStage(graph, nodes, tensors, TorchStage(graph, nodes, tensors), **more)


@pytest.fixture(scope="module")
def everything() -> tuple[Graph, Mapping[str, Tensor]]:
    module = filled(Everything())
    module.pictures.reset()
    return exported(module)


def test_what_changed_alone_has_the_bits_of_everything_changed(everything: Any) -> None:
    graph, tensors = everything
    delta = stage(graph, tensors, always=True)
    dense = TorchStage(graph, range(len(graph.nodes)), tensors)
    for k, picture in enumerate(pictures(6)):
        values = {graph.inputs[0].name: picture}
        found = delta.run(0, values)
        whole = stage(graph, tensors, always=True, threads=3).run(0, values)  # nothing is held: all of it
        expected = dense.run(0, values)
        assert list(found) == list(delta.outputs)
        for name in graph.outputs:
            assert found[name].tobytes() == whole[name].tobytes()
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5)
        assert np.abs(found[graph.outputs[0]]).max() > 0.01, "zeros would prove nothing"
        assert (delta.share == 1.0) == (k == 0)


def test_every_layer_but_those_over_all_places_is_computed_by_positions(everything: Any) -> None:
    graph, tensors = everything
    program = Program(graph, range(len(graph.nodes)), tensors)
    whole = [i for layer in program.compiled.layers if isinstance(layer, DenseLayer) for i in layer.nodes]
    assert {graph.nodes[i].op.split(".")[1] for i in whole} <= {"mean", "linear", "addmm", "view", "t", "permute"}


def test_a_stage_of_the_middle_and_its_masks(everything: Any) -> None:
    """The mask of the decoder says where to look; what came between two pictures counts too."""
    graph, tensors = everything
    half = len(graph.nodes) // 2
    first = TorchStage(graph, range(half), tensors)
    told, blind = (stage(graph, tensors, range(half, len(graph.nodes)), always=True) for _ in range(2))
    spec = {n: EdgeSpec(0, n, "<f4", graph.values[n].shape) for n in told.inputs}
    senders, receivers = ({n: end(spec[n]) for n in spec} for end in (Encoder, Decoder))
    pending: dict[str, Changed] = {}
    everywhere = pictures(7)
    for k, picture in enumerate(everywhere):
        made = first.run(0, {graph.inputs[0].name: picture})
        values = {}
        for name in told.inputs:
            packed = senders[name].encode(np.ascontiguousarray(made[name]), k)
            update = receivers[name].decode(packed.payload, packed.arrays)
            assert update.changed is not None
            pending[name] = pending[name] | update.changed if name in pending else update.changed.copy()
            values[name] = np.array(update.tensor)
        if k == 3:  # dropped
            continue
        results = [told.run(0, values, None, pending), blind.run(0, values)]
        pending = {}
        for name in told.outputs:
            assert results[0][name].tobytes() == results[1][name].tobytes()


def test_sources_are_apart(everything: Any) -> None:
    graph, tensors = everything
    delta = stage(graph, tensors, always=True)
    many = [pictures(3, seed=seed) for seed in (1, 2)]
    for k in range(3):
        for source in (0, 1):
            values = {graph.inputs[0].name: many[source][k]}
            found = delta.run(source, values)
            alone = stage(graph, tensors, always=True).run(0, values)
            assert all(found[name].tobytes() == alone[name].tobytes() for name in alone)


def test_errors_do_not_add_up() -> None:
    """A picture that fades, by less than the threshold at a time, is followed: what is held is never far from it."""
    module = filled(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)))
    graph, tensors = export(module, torch.zeros(1, 3, 16, 16))
    delta, dense = stage(graph, tensors, scale=1.0, always=True), stage(graph, tensors, always=True)
    base = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    [output] = graph.outputs
    for k in range(60):
        values = {graph.inputs[0].name: base + np.float32(0.004 * k)}
        found, expected = delta.run(0, values)[output], dense.run(0, values)[output]
        span = np.ptp(expected)
        assert np.abs(found - expected).max() < 0.25 * span
    shares = [work.share(delta.program.flops) for work in delta.recent]
    assert 0 < np.mean(shares[1:]) < 0.9


def test_noise_below_the_thresholds_costs_nothing(everything: Any) -> None:
    graph, tensors = everything
    delta = stage(graph, tensors, scale=1.0, always=True)
    rng = np.random.default_rng(0)
    base = rng.integers(20, 200, (1, 3, 24, 28), np.uint8)
    first = delta.run(0, {graph.inputs[0].name: base})
    for _ in range(3):
        noisy = base + rng.integers(0, 2, base.shape, np.uint8)
        again = delta.run(0, {graph.inputs[0].name: noisy})
        assert delta.share == 0
        assert all(again[name].tobytes() == first[name].tobytes() for name in first)
    delta.scale = 0.5  # tighter: nothing that is held may stay as far off as it was
    again = delta.run(0, {graph.inputs[0].name: noisy})
    assert delta.share == 1
    whole = stage(graph, tensors, always=True).run(0, {graph.inputs[0].name: noisy})
    assert all(again[name].tobytes() == whole[name].tobytes() for name in whole)
    delta.scale = 2.0
    delta.run(0, {graph.inputs[0].name: base})
    assert delta.share == 0


def test_results_are_the_callers_own(everything: Any) -> None:
    graph, tensors = everything
    delta = stage(graph, tensors, always=True)
    few = pictures(2)
    first = delta.run(0, {graph.inputs[0].name: few[0]})
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[...] = 77
    second = delta.run(0, {graph.inputs[0].name: few[0]})
    assert all(second[name].tobytes() == kept[name].tobytes() for name in kept)


def test_a_glance_says_how_much_changes_from_item_to_item() -> None:
    glance, rng = Glance(), np.random.default_rng(0)
    picture = rng.integers(20, 200, (1, 3, 64, 40), np.uint8)
    assert glance.share({"a": picture}, {"a": 4.0}) == 1.0, "nothing is known"
    assert glance.share({"a": picture}, {"a": 4.0}) == 0.0
    assert glance.share({"a": picture + np.uint8(3)}, {"a": 4.0}) == 0.0
    half = picture + np.uint8(3)
    half[:, 1, :, :20] += 4
    assert glance.share({"a": half}, {"a": 4.0}) == 0.5
    assert glance.share({"a": half + np.uint8(1)}, {"a": 0.0}) == 1.0, "every bit"
    glance.forget()
    assert glance.share({"a": half}, {"a": 4.0}) == 1.0
    glance.forget()
    bits = np.array([[True, False]]).view(np.uint8)
    assert glance.share({"a": bits}, {"a": 0.0}) == 1.0
    assert glance.share({"a": bits[:, ::-1]}, {"a": 0.0}) == 1.0


class Slow:
    """A stage that notes its calls."""

    def __init__(self, inner: TorchStage) -> None:
        self.inner, self.calls = inner, 0
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, source: int, values: Any, observe: Any = None) -> Any:
        self.calls += 1
        return self.inner.run(source, values, observe)


def test_dense_is_the_runtimes_own_and_what_follows_is_right(everything: Any) -> None:
    """Where dense takes no time at all, pictures are computed dense, with its bits; and every picture is right."""
    graph, tensors = everything
    inner = TorchStage(graph, range(len(graph.nodes)), tensors)
    dense = Slow(inner)
    delta = DeltaStage(graph, range(len(graph.nodes)), tensors, dense, dense_seconds=1e-9)
    for k, picture in enumerate(pictures(8)):
        values = {graph.inputs[0].name: picture}
        seconds: list[float] = []
        found, expected = delta.run(0, values, seconds.append), inner.run(0, values)
        assert len(seconds) == len(graph.nodes)
        for name in graph.outputs:
            if k > 2:
                assert found[name].tobytes() == expected[name].tobytes()
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5)
    assert dense.calls >= 5
    assert delta.share == 1.0


def test_the_runtime_makes_one(everything: Any) -> None:
    graph, tensors = everything
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    made = VideoRuntime().incremental_stage(graph, range(len(graph.nodes)), weights, 0.5)
    picture = pictures(1)[0]
    found = made.run(0, {graph.inputs[0].name: picture})
    expected = made.dense.run(0, {graph.inputs[0].name: picture})
    for name in graph.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5)
    assert made.scale == 0.5
    assert len(made.shares) == len(graph.nodes)
