"""Layers with made-up weights, the times that are measured on them, and stages that only measure."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from cutset.engine import stage_timing
from cutset.engine.made_up import LayerModel, layer_model, made_up_executor
from cutset.engine.stage_graph import decoder_graph, segments, stage_model
from cutset.engine.stage_probe import PROBE, ProbeStage, probe_item, probe_model, read_layers, read_places
from cutset.engine.stage_runtime import StageRuntime
from cutset.engine.stage_timing import Bench, digest_of, measured_times, stretch_of
from cutset.errors import CheckpointError, CutsetError, DeviceError, FrameError
from cutset.models.files.source import ModelSource, open_source
from cutset.models.random import RandomModel

from .test_stage_graph import LIMITS, SETUP, random_source

RUNTIME = StageRuntime()


def layers_of(source: ModelSource, nodes: range, dtype: str = "float32") -> LayerModel:
    model = stage_model(source, RUNTIME.software, "native", dtype, SETUP)
    return layer_model(model, decoder_graph(source, model, LIMITS).graph, source.tensors, nodes)


@pytest.mark.parametrize("dtype", ["float32", "int8", "exact", "int4"])
def test_made_up_layers_run_in_every_dtype(dtype: str) -> None:
    source = random_source(layers=3, hidden=64)
    for nodes, first, last in ((range(2), 0, 1), (range(2, 3), 1, 2), (range(3, 5), 2, 3), (range(5), 0, 3)):
        bench = Bench(made_up_executor(layers_of(source, nodes, dtype), 1))
        assert bench.executor.layers == range(first, last)
        assert bench.run(8, 1) > 0
        assert bench.run(64, 64, prompt=True) > 0


@pytest.mark.parametrize("sizes", [{"experts": 4}, {"qk_norm": True, "experts": 4, "top_k": 2}, {"tied": False}])
def test_made_up_layers_of_other_kinds(sizes: dict[str, int]) -> None:
    source = random_source(layers=4, **sizes)
    bench = Bench(made_up_executor(layers_of(source, range(6)), 1))
    assert np.isfinite(bench.run(4, 1))


def test_made_up_layers_of_a_file_of_few_bits(smollm2: Path) -> None:
    source = open_source(smollm2)
    model = stage_model(source, RUNTIME.software, "native", "stored", SETUP)
    graph = decoder_graph(source, model, LIMITS).graph
    bench = Bench(made_up_executor(layer_model(model, graph, source.tensors, range(5, 6)), 1))
    assert bench.executor.layers == range(4, 5)
    assert bench.run(8, 1) > 0


def test_what_cannot_be_made_up_is_refused() -> None:
    good = layers_of(random_source(), range(2, 3))
    piece = next(iter(good.pieces))
    for wrong, words in (
        ({"nodes": (3, 3)}, "can't be made up"),
        ({"nodes": (2, 99)}, "can't be made up"),
        ({"pieces": {piece: ("float32", (1 << 20, 1 << 20))}}, "too large"),
        ({"pieces": {piece: ("object", (2,))}}, "no dtype"),
        ({"pieces": good.pieces | {piece: ("float32", (3,))}}, "came as"),
    ):
        with pytest.raises(CheckpointError, match=words):
            made_up_executor(msgspec.structs.replace(good, **wrong), 1)


def test_times_are_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_timing, "RUNS", 2)
    source = random_source(layers=5, hidden=64)
    model = stage_model(source, RUNTIME.software, "native", "float32", SETUP)
    graph = decoder_graph(source, model, LIMITS).graph
    told: list[tuple[str, int, int]] = []
    found = measured_times(model, graph, source.tensors, 1, progress=lambda *what: told.append(what))
    assert told[-1][1] == told[-1][2] > 1
    step = found.step(1, 0)
    assert len(step) == len(graph.nodes) == len(segments(source.spec))
    assert len(set(step[1:-1])) == 1, "layers that are alike take the same time"
    assert (step[1:] > 0).all()
    assert found.step(32, 0).sum() > found.step(1, 0).sum()

    def never(*given: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(stage_timing, "_measure", never)
    again = measured_times(model, graph, source.tensors, 1)
    assert (again.step(8, 100) == found.step(8, 100)).all()
    assert (again.prompt(100) == found.prompt(100)).all()
    with pytest.raises(AssertionError, match="again"):
        measured_times(model, graph, source.tensors, 1, fresh=True)
    with pytest.raises(AssertionError, match="again"):
        measured_times(model, graph, source.tensors, 2)


def test_times_depend_on_the_model_and_not_on_the_cache() -> None:
    source = random_source()
    small, large = (
        stage_model(source, "x", "native", "float32", msgspec.structs.replace(SETUP, blocks=blocks))
        for blocks in (1, 100)
    )
    assert digest_of(small) == digest_of(large)
    assert digest_of(small) != digest_of(stage_model(source, "x", "native", "int8", SETUP))
    assert digest_of(small) != digest_of(stage_model(random_source(hidden=64), "x", "native", "float32", SETUP))


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_a_stretch_is_layers_that_follow_each_other(layers: int) -> None:
    source = random_source(layers=layers)
    model = stage_model(source, "x", "native", "float32", SETUP)
    graph = decoder_graph(source, model, LIMITS).graph
    for most in (1.0, 2e5, 1e9):
        found = stretch_of(graph, most)
        assert 1 <= len(found) <= len(graph.nodes)
        assert (0 in found) == (1 in found), "the embedding goes with the first layer"
        assert (layers + 1 in found) == (layers in found), "the head goes with the last one"
        made_up_executor(layer_model(model, graph, source.tensors, found), 1)
    assert len(stretch_of(graph, 1.0)) <= len(stretch_of(graph, 1e9))


def stage(layers: LayerModel | None, number: int = 0, stages: int = 2) -> ProbeStage:
    model = probe_model(layers, stages)
    found = RUNTIME.stage(model.graph, [number], dict(model.weights))
    assert isinstance(found, ProbeStage)
    return found


def test_a_probe_passes_on_and_says_what_is_free() -> None:
    two = [stage(layers_of(random_source(), range(2, 3)), number) for number in range(2)]
    item = probe_item(2, 3, 1, 5000)
    seconds: list[float] = []
    for one in two:
        item = one.run(0, {one.inputs[0]: item}, seconds.append)[one.outputs[0]]
    assert item.size == 5000
    assert all(free > 1 << 20 for free in read_places(item, 2))
    assert len(seconds) == 2
    small = stage(None).run(0, {"probe": probe_item(2, 3, 1, 0)}, seconds.append)["probed 1"]
    assert len(seconds) == 2, "without layers nothing is timed"
    assert small.size == 12 + 2 * 8


def test_what_is_no_probe_is_refused() -> None:
    one = stage(None)
    for wrong in (
        np.zeros(3, np.uint8),
        np.zeros(9, np.uint8),
        probe_item(2, 1 << 20, 1, 100),
        probe_item(2, 1, 1 << 20, 100),
    ):
        with pytest.raises(FrameError):
            one.run(0, {"probe": wrong})
    with pytest.raises(FrameError):
        read_places(np.zeros(9, np.uint8), 2)
    with pytest.raises(CheckpointError):
        read_layers(np.frombuffer(b"{}", np.uint8))
    other = layers_of(random_source(), range(2, 3))
    wrong_model = msgspec.structs.replace(other, model=msgspec.structs.replace(other.model, software="cutset 0.0.0"))
    with pytest.raises(DeviceError, match="tokens may differ"):
        stage(wrong_model)
    assert all(node.op == PROBE for node in probe_model(None, 3).graph.nodes)


def test_damaged_layers_are_refused() -> None:
    data = msgspec.json.encode(layers_of(random_source(), range(2, 3)))
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, damaged.size, 3)] = rng.integers(0, 256, 3)
        try:
            found = read_layers(damaged[: rng.integers(1, damaged.size + 1)])
            if found is not None:
                made_up_executor(found, 1)
        except CutsetError:
            continue


def test_a_random_model_is_measured_without_its_weights() -> None:
    """Its tensors are as large as they say, and not there."""
    shape = RandomModel(hidden=64, layers=2, heads=4, vocab=61, max_pos=64)
    from cutset.models.files.tensor import Tensor

    tensors = {
        name: Tensor(name, Path("x"), "F32", np.broadcast_to(np.float32(0), size))
        for name, size in shape.spec().tensor_shapes().items()
    }
    source = ModelSource(Path("x"), shape.config, shape.spec(), tensors, "float32")
    assert Bench(made_up_executor(layers_of(source, range(4), "int8"), 1)).run(1, 1) > 0
