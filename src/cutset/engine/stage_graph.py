"""A decoder as a graph that a coordinator can plan and send: a node for each range of layers that can't be cut further.

    batch ─→ [0] ─hidden 1→ [1] ─hidden 2→ … [n] ─→ choices        every node reads batch, too

A worker gets the graph, the weights of its nodes, and `StageModel`, which is data like they are: the architecture as a
normalised specification or as a config.json, what to compute in, and the engine's `StageSetup`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from cutset.cluster.model import Model
from cutset.cluster.values import Array, Bytes
from cutset.engine.decoder_stage import BATCH, CHOICES, HIDDEN
from cutset.engine.stage_item import MOST_ITEM, StageSetup, decode_setup, encode_setup
from cutset.errors import ArchitectureError, CheckpointError, ConfigError
from cutset.models.families import spec_from_config
from cutset.models.files.integer import scale_name, stored_form
from cutset.models.files.pieces import TensorForm, TensorPieces
from cutset.models.files.source import ModelSource
from cutset.models.files.specification import describable, from_json, to_json
from cutset.models.files.tensor import Tensor
from cutset.models.spec import DecoderSpec
from cutset.models.stages import cuts, stage_kv_floats, stage_state_floats, stage_tensors
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight

__all__ = [
    "DESCRIPTION",
    "OP",
    "StageLimits",
    "StageModel",
    "StageWeights",
    "decoder_graph",
    "read_model",
    "stage_model",
]

DESCRIPTION = "stage description"  # the name of the weight that has a StageModel
OP = "cutset.layers"
FORMAT = "cutset-stages-1"
MOST_DESCRIPTION = 64 << 20
MOST_CONFIG = 16 << 20
LEAST_BYTES = 4096  # of what a stage gives: room for why it couldn't
MOST_CHOICE = 512  # bytes of a token with its log probabilities: 20 others at most, each of some 15 bytes
MOST_DRAFTS = 64  # of a sequence in a step
Text = Annotated[str, msgspec.Meta(max_length=200)]


class StageLimits(NamedTuple):
    """What an engine's items may have, at most."""

    rows: int  # of a step
    sequences: int  # of a step
    context: int  # tokens of a sequence


class StageModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker must know beside graph and weights, as JSON."""

    format: Text
    software: Text  # that described it: others may round in another way
    family: Text
    architecture: Annotated[str, msgspec.Meta(max_length=MOST_CONFIG)]  # JSON: a specification, or a config.json
    normalised: bool  # which of them
    tied: bool  # what the tensors say, where a config.json says something else
    backend: Text
    dtype: Text
    setup: bytes  # as encode_setup gives it
    tensors: dict[str, TensorForm]

    def spec(self) -> DecoderSpec:
        """The decoder. Raises ModelError."""
        try:
            content = json.loads(self.architecture)
        except (ValueError, RecursionError):
            raise ArchitectureError("the architecture of a stage isn't JSON") from None
        where = "the coordinator's model"
        if self.normalised:
            return from_json(content, where, self.family)
        if not isinstance(content, dict):
            raise ArchitectureError("the config.json of a stage is no object")
        return replace(spec_from_config(content, where), tied=self.tied)

    def stage_setup(self) -> StageSetup:
        """Raises FrameError."""
        return decode_setup(self.setup)


def stage_model(source: ModelSource, software: str, backend: str, dtype: str, setup: StageSetup) -> StageModel:
    """What workers must know of a model. Raises ConfigError for one that can't be described to them."""
    spec, pieces = source.spec, TensorPieces(source.tensors)
    normalised = describable(spec)
    content = to_json(spec) if normalised else dict(source.config)
    names = dict.fromkeys(name for nodes in _segments(spec) for name in _names(spec, source.tensors, nodes))
    made = StageModel(
        FORMAT,
        software,
        spec.family,
        json.dumps(content, allow_nan=False),
        normalised,
        spec.tied,
        backend,
        dtype,
        encode_setup(setup),
        {name: pieces.form(name) for name in names},
    )
    same = to_json(made.spec()) == content if normalised else _bare(made.spec()) == _bare(spec)
    if not same:
        raise ConfigError(f"a model of {spec.family} can't be described to stages yet: it runs on this machine alone")
    return made


def read_model(data: Bytes) -> StageModel:
    """A StageModel that came as a weight. Raises ModelError."""
    try:
        found = msgspec.json.decode(data.tobytes(), type=StageModel)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"what came isn't the description of a decoder's stages: {error}") from None
    if found.format != FORMAT:
        raise CheckpointError(f"the description of stages is {found.format}; this program reads {FORMAT}")
    return found


class StageWeights(Mapping[str, Array]):
    """The arrays of a model's tensors, each read from its file when it is asked for, and its description."""

    def __init__(self, tensors: Mapping[str, Tensor], model: StageModel | None = None) -> None:
        self.pieces = TensorPieces(tensors)
        self._description = None if model is None else np.frombuffer(msgspec.json.encode(model), np.uint8)

    def __getitem__(self, name: str) -> Array:
        if name == DESCRIPTION and self._description is not None:
            return self._description
        return self.pieces[name]

    def __iter__(self) -> Iterator[str]:
        if self._description is not None:
            yield DESCRIPTION
        yield from self.pieces

    def __len__(self) -> int:
        return len(self.pieces) + (self._description is not None)


def decoder_graph(source: ModelSource, model: StageModel, limits: StageLimits) -> Model:
    """The decoder as a coordinator runs it, its weights in the file until they are needed."""
    spec, tensors, setup = source.spec, source.tensors, model.stage_setup()
    weights = StageWeights(tensors, model)
    described: dict[str, Value] = {DESCRIPTION: Value(DESCRIPTION, weights[DESCRIPTION].shape, "uint8")}
    batch = Value(BATCH, (item_bytes(limits, setup.block_size),), "uint8", bounded=True)
    nodes: list[Node] = []
    segments = _segments(spec)
    for layers in segments:
        names = [DESCRIPTION]
        for name in _names(spec, tensors, layers):
            for piece, array in weights.pieces.of(name).items():
                described.setdefault(piece, Value(piece, array.shape, weights.pieces.dtype(piece)))
                names.append(piece)
        first, last = layers.start == 0, layers.stop == spec.layers
        reads = (Read(BATCH),) if first else (Read(BATCH), Read(f"{HIDDEN} {layers.start}"))
        made = Value(
            CHOICES if last else f"{HIDDEN} {layers.stop}",
            (LEAST_BYTES + (choices_bytes(limits) if last else limits.rows * spec.hidden * 4),),
            "uint8",
            bounded=True,
        )
        nbytes = sum(described[name].nbytes for name in names)
        nodes.append(
            Node(
                name=f"layers {layers.start}-{layers.stop - 1}",
                path="",
                op=OP,
                args=(layers.start, layers.stop, *reads, *(Weight(name) for name in names)),
                kwargs=(),
                outputs=(made,),
                several=False,
                flops=nbytes,
                state=_state(spec, setup, layers) + _kept(spec, tensors, layers, model.dtype),
            )
        )
    return Model(Graph((batch,), (CHOICES,), tuple(nodes), described), weights)


def item_bytes(limits: StageLimits, block_size: int) -> int:
    """The most bytes of an item: what a step of so many rows and sequences can come to."""
    blocks = -(-limits.context // block_size)
    sequence = 64 + 4 * blocks + 256 + 3 * 4 * limits.context  # tables, parameters, counts for penalties
    return min(MOST_ITEM, 4096 + 8 * limits.rows + limits.sequences * sequence)


def choices_bytes(limits: StageLimits) -> int:
    """The most bytes of what is drawn in a step: a token for each sequence, and for each of its drafts."""
    return min(limits.rows, limits.sequences * (1 + MOST_DRAFTS)) * MOST_CHOICE


def _segments(spec: DecoderSpec) -> list[range]:
    """The ranges of layers that no stage divides."""
    return [range(first, last) for first, last in pairwise([0, *cuts(spec), spec.layers])]


def _names(spec: DecoderSpec, tensors: Mapping[str, Tensor], layers: range) -> Iterator[str]:
    """The names of a range's tensors in a model's table: an integer checkpoint has names of its own."""
    if not any(tensor.dtype == "I8" for tensor in tensors.values()):
        yield from dict.fromkeys(tensor.name for tensor in stage_tensors(spec, layers))
        return
    packed = any(tensor.dtype == "I8" and len(tensor.shape) == 4 for tensor in tensors.values())
    for tensor in stage_tensors(stored_form(spec, 2 if packed else 1), layers):
        yield tensor.name
        if tensor.product:
            yield scale_name(tensor.name)


def _state(spec: DecoderSpec, setup: StageSetup, layers: range) -> int:
    """Bytes of a range's cache."""
    heads = sum(spec.heads_of(layer).kv_heads for layer in spec.attention_layers if layer in layers)
    floats = stage_kv_floats(spec, layers)
    token = floats + 4 * heads if setup.kv_dtype == "int8" else 4 * floats
    return setup.blocks * setup.block_size * 2 * token + 4 * stage_state_floats(spec, layers) * setup.states


# Bytes of an element of a product as it is computed with, where it isn't what the file has.
ELEMENT = {"float32": 4.0, "int8": 1.1, "int4": 0.7, "exact": 1.1}


def _kept(spec: DecoderSpec, tensors: Mapping[str, Tensor], layers: range, dtype: str) -> int:
    """About the bytes of a range's weights as they are laid out for the kernels, beside those that were sent."""
    found = 0.0
    for wanted in stage_tensors(spec, layers):
        tensor = tensors.get(wanted.name)
        if tensor is None or tensor.dtype == "I8":  # an integer checkpoint's, which is used as it lies there
            continue
        size = math.prod(tensor.shape)
        if not wanted.product:
            found += 4 * size if tensor.dtype != "F32" else 0
        elif dtype == "stored":
            found += size * (4 if tensor.dtype == "F32" and not hasattr(tensor, "grouped") else 0.8)
        else:
            found += ELEMENT[dtype] * size
    return int(found)


def _bare(spec: DecoderSpec) -> DecoderSpec:
    """What a decoder computes: not what only a reader of its files must know, nor its end tokens."""
    return replace(spec.bare(), eos_token_ids=(), eos_assumed=False)
