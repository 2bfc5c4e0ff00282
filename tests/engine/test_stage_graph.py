"""A decoder as a graph for coordinators, and what a worker makes of it or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.cluster.model import Model
from cutset.engine.stage_graph import (
    DESCRIPTION,
    StageLimits,
    StageModel,
    decoder_graph,
    read_model,
    segments,
    stage_model,
    uncut,
)
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_runtime import StageRuntime
from cutset.errors import CheckpointError, CutsetError, DeviceError, GraphError
from cutset.models.families import spec_from_config
from cutset.models.files.integer import write_integer_checkpoint
from cutset.models.files.source import ModelSource, open_source
from cutset.models.files.tensor import Tensor
from cutset.models.random import RandomModel
from cutset.models.run.native import NativeDecoder
from cutset.models.spec import DecoderSpec
from cutset.models.stages import stage_tensors
from cutset.partition.description import describe, read_description
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value
from runner.files import CONFIGS, config_of

SETUP = StageSetup(blocks=3, block_size=16)
LIMITS = StageLimits(rows=32, sequences=4, context=48)
RUNTIME = StageRuntime()
LFM2 = {
    "model_type": "lfm2",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "block_auto_adjust_ff_dim": False,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "conv_L_cache": 3,
    "layer_types": ["conv", "full_attention", "conv"],
}


def source_of(config: dict[str, Any]) -> ModelSource:
    """A model with weights of zeros."""
    spec = spec_from_config(config)
    tensors = {
        name: Tensor(name, Path("x"), "F32", np.zeros(shape, np.float32)) for name, shape in shapes(spec).items()
    }
    return ModelSource(Path("x"), lambda: config, spec, tensors, "float32")


def shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    return spec.tensor_shapes()


def random_source(**sizes: Any) -> ModelSource:
    model = RandomModel(**{"hidden": 32, "layers": 3, "heads": 4, "vocab": 61, "max_pos": 64} | sizes)
    tensors = {name: model.tensor(name) for name in model.spec().tensor_shapes()}
    return ModelSource(Path("x"), model.config, model.spec(), tensors, "float32")


def made(source: ModelSource) -> tuple[StageModel, Model]:
    model = stage_model(source, RUNTIME.software, "native", "float32", SETUP)
    return model, decoder_graph(source, model, LIMITS)


@pytest.mark.parametrize("case", [*CONFIGS, "lfm2"])
def test_every_family_is_described_and_read_alike(case: str) -> None:
    source = source_of(LFM2 if case == "lfm2" else config_of(case))
    model, graph = made(source)
    back = read_model(np.frombuffer(msgspec.json.encode(model), np.uint8))
    spec, own = back.spec(), source.spec
    assert list(spec.tensors()) == list(own.tensors())
    assert (spec.ropes, spec.windows, spec.recurrent_layers) == (own.ropes, own.windows, own.recurrent_layers)
    assert back.stage_setup() == SETUP
    nodes, ranges = graph.graph.nodes, segments(own)
    assert [nodes[0].name, nodes[-1].name] == ["embedding", "head"]
    assert [node.args[:2] for node in nodes] == [(layers.start, layers.stop) for layers in ranges]
    for first in range(len(nodes) - 2):
        for last in range(first + 2, len(nodes)):
            # A stage has the embedding if it has the first layer, and the head if it has the last one.
            begin, end = first + (first > 0), last + (last == len(nodes) - 1)
            layers = range(ranges[begin].start, ranges[end - 1].stop)
            wanted = {tensor.name for tensor in stage_tensors(own, layers)}
            assert set(graph.graph.weights_of(range(begin, end))) == wanted | {DESCRIPTION}
    for layers, node in zip(ranges, nodes, strict=True):
        assert node.state > 0 or not set(layers) - own.recurrent_layers
    assert uncut(own) == {f"hidden {layer}" for layer in (0, own.layers)}


def test_the_graph_goes_over_the_wire_as_it_is() -> None:
    _, model = made(random_source(tied=True))
    graph = read_description(json.loads(model.description))
    assert graph == model.graph
    assert describe(graph)["nodes"][0]["op"] == "cutset.layers"
    first, last = graph.nodes[0], graph.nodes[-1]
    assert "model.embed_tokens.weight" in first.weights
    assert "model.embed_tokens.weight" in last.weights, "a tied head multiplies with it"
    assert all("model.embed_tokens.weight" not in node.weights for node in graph.nodes[1:-1])
    assert {name for cut in graph.cuts[1:-1] for name in cut.values} == {"batch", *(f"hidden {i}" for i in range(4))}
    assert graph.cuts[-1].values == ("choices",)


@pytest.mark.parametrize("nodes", [[0], [4], [1, 2], [2, 3], [1, 2, 3]])
def test_a_stage_without_its_end_is_refused(nodes: list[int]) -> None:
    _, model = made(random_source())
    with pytest.raises(CutsetError, match=r"with the embedding|are no stage"):
        RUNTIME.stage(model.graph, nodes, weights_of(model, nodes))


def weights_of(model: Model, nodes: list[int]) -> dict[str, Any]:
    return {name: model.weights[name] for name in model.graph.weights_of(nodes)}


def test_layers_that_do_not_follow_each_other_are_no_stage() -> None:
    _, model = made(random_source())
    with pytest.raises(GraphError, match="must follow each other"):
        RUNTIME.stage(model.graph, [0, 1, 3], weights_of(model, [0, 1, 3]))


def test_a_network_of_pictures_is_refused_by_name() -> None:
    value = Value("x", (1,), "float32")
    node = Node("n", "", "aten.relu.default", (Read("x"),), (), (Value("y", (1,), "float32"),), False, 1)
    with pytest.raises(GraphError, match="cutset stream worker"):
        RUNTIME.stage(Graph((value,), ("y",), (node,), {}), [0], {})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"software": "cutset 0.0.0, stages, x"}, DeviceError, "the coordinator wants cutset 0.0.0"),
        ({"backend": "abacus"}, DeviceError, "backend abacus"),
        ({"format": "cutset-stages-9"}, CheckpointError, "cutset-stages-9"),
        ({"architecture": "[]"}, CutsetError, "."),
        ({"architecture": "{"}, CutsetError, "isn't JSON"),
        ({"tensors": {}}, CheckpointError, "doesn't say what"),
        ({"setup": b"\x90"}, CutsetError, "setup"),
        ({"dtype": "float64"}, CutsetError, "dtype"),
    ],
)
def test_what_a_worker_cannot_do_is_refused(change: dict[str, Any], error: type[CutsetError], words: str) -> None:
    described, model = made(random_source())
    wrong = msgspec.structs.replace(described, **change)
    weights = weights_of(model, [0, 1]) | {DESCRIPTION: np.frombuffer(msgspec.json.encode(wrong), np.uint8)}
    with pytest.raises(error, match=words):
        RUNTIME.stage(model.graph, [0, 1], weights)


def test_damaged_descriptions_are_refused() -> None:
    data = msgspec.json.encode(made(random_source())[0])
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        at = random.integers(0, damaged.size, 3)
        damaged[at] = random.integers(0, 256, 3)
        try:
            found = read_model(damaged[: random.integers(1, damaged.size + 1)])
            found.spec()
            found.stage_setup()
        except CutsetError:
            continue


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A small integer checkpoint."""
    folder = tmp_path_factory.mktemp("integers")
    RandomModel(hidden=64, layers=2, vocab=96, tied=False).write_checkpoint(folder / "floats")
    source = open_source(folder / "floats")
    write_integer_checkpoint(source.spec, source.config, source.tensors, folder / "floats", folder / "model")
    return open_source(folder / "model")


def test_weights_that_are_used_as_they_lie_are_counted_once(integers: ModelSource) -> None:
    model = stage_model(integers, RUNTIME.software, "native", "int8", SETUP)
    graph = decoder_graph(integers, model, LIMITS).graph
    assert sum(node.state for node in graph.nodes) == 2 * 3 * 16 * integers.spec.kv_floats * 4, "the cache alone"


@pytest.mark.parametrize("sent", [True, False])
def test_weights_that_were_sent_are_not_copied_a_second_time(integers: ModelSource, sent: bool) -> None:
    """Those of a file move from its pages into memory of ours; what was sent is there already."""
    made = decoder_graph(integers, stage_model(integers, RUNTIME.software, "native", "int8", SETUP), LIMITS)
    nodes = range(len(made.graph.nodes))
    weights = {name: made.weights[name] for name in made.graph.weights_of(nodes)}
    if sent:
        weights = {name: np.array(array) for name, array in weights.items()}
    stage = RUNTIME.stage(made.graph, nodes, weights)
    executor = stage.stage.executor
    assert isinstance(executor, NativeDecoder)
    assert executor.mapped is not sent
