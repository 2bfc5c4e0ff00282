"""Plans of a decoder for machines that aren't there: of a model on disk, or of a shape without weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cutset.config import Settings
from cutset.engine.decoder_times import CHUNK, DecoderTimes, Rates, rated_times
from cutset.engine.stage_choices import StageChoices, stage_choices
from cutset.engine.stage_graph import StageLimits, StageModel, decoder_graph, graph_of, stage_model
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_planner import StageLoad, StageMachine, StagePlanner
from cutset.engine.stage_runtime import software_of
from cutset.engine.stage_scenario import DecoderScenario
from cutset.engine.stage_timing import measured_times
from cutset.errors import ConfigError
from cutset.kernels import native
from cutset.models.files.source import ModelSource
from cutset.models.files.tensor import Tensor
from cutset.models.random import RandomModel
from cutset.models.run.backend import choose, stored_dtype
from cutset.models.spec import DecoderSpec
from cutset.partition.description import graph_digest
from cutset.partition.graph import Graph
from cutset.partition.mesh import Mesh, star
from cutset.partition.node import Value

__all__ = ["simulated_choices", "simulated_planner"]

BLOCK = 16
ROWS = 512
REFERENCE = RandomModel(hidden=1024, layers=4, heads=16, kv_heads=4, intermediate=2816, vocab=256, max_pos=1024)
WEIGHT = 1.1  # bytes of one of its weights, as it is read
Progress = Callable[[str, int, int], None]


class _ShapeTensor(NamedTuple):
    """What a graph must know of a tensor that isn't there."""

    dtype: str
    shape: tuple[int, ...]
    grouped: bool


def simulated_choices(
    scenario: DecoderScenario, source: ModelSource | None, settings: Settings, progress: Progress
) -> tuple[StageChoices, DecoderSpec]:
    """The plan and the others beside it. `source` is the scenario's model. Raises CutsetError."""
    planner, machines, mesh = simulated_planner(scenario, source, settings, progress)
    return stage_choices(planner, machines, mesh), planner.spec


def simulated_planner(
    scenario: DecoderScenario, source: ModelSource | None, settings: Settings, progress: Progress
) -> tuple[StagePlanner, list[StageMachine], Mesh]:
    """A planner for the scenario's decoder and load, its machines, and what lies between them. Raises CutsetError."""
    most = len(scenario.machines) + 1 if len(scenario.machines) > 1 else 1
    held = min(most, 64)
    limits = StageLimits(ROWS, min(scenario.sequences, ROWS), scenario.context)
    setup = StageSetup(scenario.sequences * -(-scenario.context // BLOCK), BLOCK, _states(scenario, source))
    if source is not None:
        spec, graph, times = _of_model(source, settings, setup, limits, progress)
        element = graph.weight_bytes(range(len(graph.nodes))) / max(sum(node.flops for node in graph.nodes) / 2, 1)
    else:
        assert scenario.shape is not None
        spec, element = scenario.shape.spec(), scenario.bits / 8
        graph = _of_shape(spec, scenario.bits, setup, limits)
        own = [one.rates for one in scenario.machines]
        reference = scenario.reference
        if reference is None:
            given = next((one for one in own if one is not None), None)
            reference = given if given is not None and None not in own else _here(settings, progress)
        times = rated_times(spec, graph, reference, element)
    rated: dict[Rates, DecoderTimes] = {}
    machines = []
    for one in scenario.machines:
        if one.rates is not None and one.rates not in rated:
            rated[one.rates] = rated_times(spec, graph, one.rates, element)
        own_times = None if one.rates is None else rated[one.rates]
        machines.append(StageMachine(one.name, one.speed, one.memory, times=own_times))
    mesh = star([one.link for one in scenario.machines], scenario.link)
    load = StageLoad(scenario.objective, scenario.context, scenario.sequences)
    return StagePlanner(graph, graph_digest(graph), spec, times, load, held), machines, mesh


def _states(scenario: DecoderScenario, source: ModelSource | None) -> int:
    spec = source.spec if source is not None else None
    return scenario.sequences if spec is not None and spec.state_floats else 0


def _of_model(
    source: ModelSource, settings: Settings, setup: StageSetup, limits: StageLimits, progress: Progress
) -> tuple[DecoderSpec, Graph, DecoderTimes]:
    choice = choose(settings, stored_dtype(source))
    if choice.backend == "torch":
        raise ConfigError("stages run on the backends native and reference, on the CPU: leave out --backend")
    model = _described(source, choice.backend, choice.dtype, setup)
    graph = decoder_graph(source, model, limits).graph
    times = measured_times(model, graph, source.tensors, choice.threads, progress=progress)
    return source.spec, graph, times


def _of_shape(spec: DecoderSpec, bits: float, setup: StageSetup, limits: StageLimits) -> Graph:
    few = bits < 8
    dtype = "stored" if few else "int8" if bits < 16 else "float32"
    tensors: dict[str, Any] = {
        name: _ShapeTensor("F32" if few or bits >= 32 else "BF16", shape, few)
        for name, shape in spec.tensor_shapes().items()
    }

    def values(name: str) -> list[Value]:
        shape = tensors[name].shape
        if len(shape) < 2:
            return [Value(name, shape, "float32")]
        return [Value(name, (math.ceil(math.prod(shape) * bits / 8),), "uint8")]

    return graph_of(spec, tensors, values, setup, limits, dtype)


def _here(settings: Settings, progress: Progress) -> Rates:
    """What this machine reads and computes in a second, of layers of 8 bits, measured."""
    spec = REFERENCE.spec()
    tensors = {
        name: Tensor(name, Path("made-up weights"), "F32", np.broadcast_to(np.float32(0), shape))
        for name, shape in spec.tensor_shapes().items()
    }
    source = ModelSource(Path("made-up weights"), REFERENCE.config, spec, tensors, "float32")
    backend = "native" if native.available() else "reference"
    setup = StageSetup(1, BLOCK)
    model = _described(source, backend, "int8", setup)
    graph = decoder_graph(source, model, StageLimits(ROWS, 8, 1024)).graph
    times = measured_times(model, graph, tensors, settings.thread_count, progress=progress)
    layer, weights = 2, graph.nodes[2].flops / 2
    return Rates(
        weights * WEIGHT / times.decode[1][layer], 2 * weights / max(times.step(CHUNK, 0)[layer] / CHUNK, 1e-12)
    )


def _described(source: ModelSource, backend: str, dtype: str, setup: StageSetup) -> StageModel:
    isa = native.isa() if native.available() else "numpy"
    return stage_model(source, software_of(isa), backend, dtype, setup)
