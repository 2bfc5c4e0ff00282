"""What a stage does that only measures: it passes items on, times a step of made-up layers, and says what is free.

A plan of such stages over all workers shows what each computes and what lies between them, on the very way that steps
take. An item is bytes: how many rows to compute, then a place for each worker, then what makes it as large as wanted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from cutset.cluster.model import Model
from cutset.cluster.values import Array, Bytes
from cutset.engine.made_up import LayerModel, made_up_executor
from cutset.engine.stage_graph import StageModel
from cutset.engine.stage_timing import Bench
from cutset.errors import CheckpointError, FrameError, GraphError
from cutset.models.run.backend import free_bytes
from cutset.models.run.executor import Executor
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight

__all__ = ["PROBE", "ProbeStage", "probe_item", "probe_model", "read_layers", "read_places"]

PROBE = "cutset.probe"
LAYERS = "probed layers"  # the weight that has a LayerModel, or nothing
GIVEN, GOT = "probe", "probed"
HEAD = struct.Struct("<III")  # rows of a step, how many steps, and which stage passes it on next
PLACE = struct.Struct("<Q")  # bytes that are free there
MOST_ITEM = 1 << 18
MOST_ROWS, MOST_STEPS = 256, 256
MOST_STAGES = 4096


def probe_model(layers: LayerModel | None, stages: int) -> Model:
    """A graph of so many nodes, each for a worker."""
    data = b"" if layers is None else msgspec.json.encode(layers)
    weight = np.frombuffer(data or b" ", np.uint8)
    described = Value(LAYERS, weight.shape, "uint8")
    values = [Value(GIVEN if i == 0 else f"{GOT} {i}", (MOST_ITEM,), "uint8", bounded=True) for i in range(stages + 1)]
    nodes = tuple(
        Node(f"probe {i}", "", PROBE, (i, Read(values[i].name), Weight(LAYERS)), (), (values[i + 1],), False, 1)
        for i in range(stages)
    )
    return Model(Graph((values[0],), (values[-1].name,), nodes, {LAYERS: described}), {LAYERS: weight})


def probe_item(stages: int, rows: int, steps: int, nbytes: int) -> Bytes:
    """An item of about so many bytes for so many stages, each of which runs so many steps of `rows` rows."""
    least = HEAD.size + PLACE.size * stages
    item = np.zeros(min(max(nbytes, least), MOST_ITEM), np.uint8)
    item[: HEAD.size] = np.frombuffer(HEAD.pack(rows, steps, 0), np.uint8)
    return item


def read_places(item: Bytes, stages: int) -> list[int]:
    """Bytes that are free where each stage ran. Raises FrameError."""
    data = item[HEAD.size : HEAD.size + PLACE.size * stages].tobytes()
    if len(data) != PLACE.size * stages:
        raise FrameError("a stage answered with less than it was asked")
    return [int(each) for (each,) in PLACE.iter_unpack(data)]


def read_layers(data: Bytes) -> LayerModel | None:
    """What came as the weight of a probe. Raises CheckpointError."""
    content = data.tobytes()
    if not content.strip():
        return None
    try:
        return msgspec.json.decode(content, type=LayerModel)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"what came describes no layers: {error}") from None


class _Header(NamedTuple):
    rows: int
    steps: int
    at: int


class ProbeStage:
    """A stage that measures; see `cutset.cluster.stage.Stage`. `executor` has made-up layers, or is None."""

    def __init__(self, executor: Executor | None, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._bench = None if executor is None else Bench(executor)

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """Raises FrameError for what is no such item."""
        item = np.array(values[self.inputs[0]])
        if item.size < HEAD.size:
            raise FrameError(f"an item of {item.size} bytes came to be measured with")
        header = _Header(*HEAD.unpack(item[: HEAD.size].tobytes()))
        place = HEAD.size + PLACE.size * header.at
        much = header.rows > MOST_ROWS or header.steps > MOST_STEPS or header.at >= MOST_STAGES
        if much or place + PLACE.size > item.size:
            raise FrameError("an item came to be measured with that asks for too much")
        if header.rows and header.steps and self._bench is not None:
            seconds = self._bench.run(header.rows, 1, steps=header.steps)
            if observe is not None:
                observe(seconds)
        item[: HEAD.size] = np.frombuffer(HEAD.pack(header.rows, header.steps, header.at + 1), np.uint8)
        item[place : place + PLACE.size] = np.frombuffer(PLACE.pack(free_bytes("cpu")), np.uint8)
        return {self.outputs[0]: item}


def probe_stage(
    graph: Graph,
    nodes: Collection[int],
    weights: Mapping[str, Array],
    threads: int,
    check: Callable[[StageModel], object],
) -> ProbeStage:
    """The stage of a node that measures; `check` refuses models that can't run here. Raises CutsetError."""
    if len(nodes) != 1 or LAYERS not in weights:
        raise GraphError("a stage that measures has one node")
    layers = read_layers(weights[LAYERS])
    inputs, outputs = graph.boundary(nodes)
    if layers is not None:
        check(layers.model)
    executor = None if layers is None else made_up_executor(layers, threads)
    return ProbeStage(executor, inputs, outputs)
