"""Layers with made-up weights: as large as a model's and laid out like them, to be timed without its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.config import Settings
from cutset.engine.stage_graph import StageModel, node_tensors, segments
from cutset.errors import CheckpointError
from cutset.models.files.pieces import DTYPES, TensorForm, join
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import build_executor
from cutset.models.run.executor import Executor
from cutset.models.stages import check_stage
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES

__all__ = ["LayerModel", "layer_model", "made_up_executor"]

WHERE = Path("made-up weights")
BLOCK = (1 << 16) + 1  # values that are drawn; an array repeats them, so that rows differ
MOST_MADE = 1 << 31  # bytes of the weights of some layers
Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**40)], ...], msgspec.Meta(max_length=8)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]


class LayerModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some nodes of a decoder's graph without their weights, as JSON."""

    model: StageModel  # with the forms of these nodes' tensors alone
    nodes: tuple[Annotated[int, msgspec.Meta(ge=0, le=100_000)], Annotated[int, msgspec.Meta(ge=0, le=100_000)]]
    pieces: dict[Text, tuple[Text, Shape]]  # dtype and shape of each array, by its name


def layer_model(model: StageModel, graph: Graph, tensors: Mapping[str, Any], nodes: range) -> LayerModel:
    """The description of nodes of a graph, which follow each other."""
    spec = model.spec()
    names: dict[str, None] = {}
    for own in node_tensors(spec, tensors)[nodes.start : nodes.stop]:
        names |= dict.fromkeys(own)
    pieces = {}
    for piece in graph.weights_of(nodes):
        if piece.partition("#")[0] in names:
            value = graph.weights[piece]
            pieces[piece] = (value.dtype, value.shape)
    forms = {name: model.tensors[name] for name in names}
    return LayerModel(msgspec.structs.replace(model, tensors=forms, setup=b""), (nodes.start, nodes.stop), pieces)


def made_up_executor(layers: LayerModel, threads: int) -> Executor:
    """An executor of these layers. Raises CutsetError for what can't be one, or is too large."""
    model, spec = layers.model, layers.model.spec()
    every = segments(spec)
    first, stop = layers.nodes
    if not 0 <= first < stop <= len(every):
        raise CheckpointError(f"layers {first} to {stop} of a model of {len(every)} nodes can't be made up")
    ranges = every[first:stop]
    chosen = range(ranges[0].start, ranges[-1].stop)
    check_stage(spec, chosen)
    total = 0
    for dtype, shape in layers.pieces.values():
        if dtype not in ITEM_BYTES:
            raise CheckpointError(f"{dtype[:20]} is no dtype of weights")
        total += ITEM_BYTES[dtype] * math.prod(shape)
    if total > MOST_MADE:
        raise CheckpointError(f"layers of {total / 1e6:,.0f} MB are too large to be made up")
    random = np.random.default_rng(0)
    arrays = {
        name: _array(name, dtype, shape, model.tensors.get(name.partition("#")[0]), random)
        for name, (dtype, shape) in layers.pieces.items()
    }
    tensors = {name: join(name, form, arrays, WHERE) for name, form in model.tensors.items()}
    stored = "int8" if any(form.dtype == "I8" for form in model.tensors.values()) else "float32"
    source = ModelSource(WHERE, dict, spec, tensors, "stored" if model.dtype == "stored" else stored)
    settings = Settings(backend=model.backend, dtype=model.dtype, threads=threads)
    executor, _ = build_executor(source, settings, layers=chosen)
    return executor


def _array(
    name: str, dtype: str, shape: tuple[int, ...], form: TensorForm | None, random: np.random.Generator
) -> NDArray[Any]:
    """Values that are neither zeros, which would lie in one page of memory, nor so small that products are denormal."""
    _, _, part = name.partition("#")
    kind = next((own for called, own in DTYPES.values() if called == dtype), dtype)
    if part == "order":
        return np.arange(shape[0], dtype=np.int32)
    if part == "levels":
        return np.arange(shape[0], dtype=np.int8)
    if part == "zeros" and form is not None:
        return np.full(shape, 1 << max(int(form.bits) - 1, 0), kind)
    if dtype == "bfloat16":
        block: NDArray[Any] = (_floats(random, shape).view(np.uint32) >> 16).astype(np.uint16)
    elif "float" in dtype:
        block = _floats(random, shape).astype(kind)
    elif part == "codes":
        block = random.integers(0, 256, BLOCK).astype(kind)
    else:
        block = random.integers(1, 16, BLOCK).astype(kind)
    return np.resize(block, shape)


def _floats(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Small ones of both signs for matrices, around one for gains and scales of groups."""
    values = random.uniform(0.01, 0.05, BLOCK)
    if len(shape) > 1:
        values *= random.choice([-1.0, 1.0], BLOCK)
    return values.astype(np.float32)
