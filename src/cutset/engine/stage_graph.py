"""A decoder as a graph that a coordinator can plan and send: the embedding, the layers, and the head with the sampler.

    batch ─→ [embedding] ─hidden 0→ [layer 0] ─hidden 1→ … [layer n-1] ─hidden n→ [head] ─→ choices

Every node reads batch, too. Layers that can't be cut are one node. No stage ends between the embedding and the first
layer, nor between the last one and the head (`uncut`): a stage has layers.

A worker gets the graph, the weights of its nodes, and `StageModel`, which is data like they are: the architecture as a
normalised specification or as a config.json, what to compute in, and the engine's `StageSetup`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np

from cutset.cluster.model import Model
from cutset.cluster.values import Array, Bytes
from cutset.engine.decoder_stage import BATCH, CHOICES, HIDDEN
from cutset.engine.stage_adapters import SentAdapter, SentAdapters
from cutset.engine.stage_blocks import MOST_BLOCKS
from cutset.engine.stage_item import MOST_ITEM, StageSetup, decode_setup, encode_setup
from cutset.errors import ArchitectureError, CheckpointError, ConfigError
from cutset.models.families import spec_from_config
from cutset.models.files.integer import scale_name, stored_form
from cutset.models.files.pieces import TensorForm, TensorPieces
from cutset.models.files.source import ModelSource
from cutset.models.files.specification import describable, from_json, to_json
from cutset.models.files.tensor import Tensor
from cutset.models.spec import DecoderSpec, WantedTensor
from cutset.models.stages import cuts, stage_kv_floats, stage_state_floats, stage_tensors
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight
from cutset.version import ARITHMETIC

__all__ = [
    "BUILD",
    "DESCRIPTION",
    "OP",
    "StageLimits",
    "StageModel",
    "StageWeights",
    "TensorKind",
    "cache_bytes",
    "decoder_graph",
    "graph_of",
    "read_model",
    "segments_of",
    "stage_model",
    "uncut",
]

DESCRIPTION = "stage description"  # the name of the weight that has a StageModel
OP = "cutset.layers"
FORMAT = "cutset-stages-1"
BUILD = f"arithmetic {ARITHMETIC}"
MOST_DESCRIPTION = 64 << 20
MOST_CONFIG = 16 << 20
LEAST_BYTES = 4096  # of what a stage gives: room for why it couldn't
MOST_CHOICE = 512  # bytes of a token with its log probabilities: 20 others at most, each of some 15 bytes
MOST_DRAFTS = 64  # of a sequence in a step
MOST_ADAPTERS = 4096
Text = Annotated[str, msgspec.Meta(max_length=200)]


class StageLimits(NamedTuple):
    """What an engine's items may have, at most."""

    rows: int  # of a step
    sequences: int  # of a step
    context: int  # tokens of a sequence


class TensorKind(Protocol):
    """What a graph must know of a tensor; one of codes has `grouped`, too."""

    @property
    def dtype(self) -> str:
        """As safetensors names it; of codes that of the floats that they stand for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


class StageModel(msgspec.Struct, frozen=True):
    """What a worker must know beside graph and weights, as JSON. A field that a later release adds has a default."""

    format: Text
    software: Text  # that described it, and the instruction set to run at: others round in another way
    family: Text
    architecture: Annotated[str, msgspec.Meta(max_length=MOST_CONFIG)]  # JSON: a specification, or a config.json
    normalised: bool  # which of them
    tied: bool  # what the tensors say, where a config.json says something else
    backend: Text
    dtype: Text
    setup: bytes  # as encode_setup gives it
    tensors: dict[str, TensorForm]
    adapters: Annotated[tuple[SentAdapter, ...], msgspec.Meta(max_length=MOST_ADAPTERS)] = ()
    build: Text = ""  # what else rounding depends on

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


def stage_model(
    source: ModelSource,
    software: str,
    backend: str,
    dtype: str,
    setup: StageSetup,
    adapters: Sequence[SentAdapter] = (),
) -> StageModel:
    """What workers must know of a model. Raises ConfigError for one that can't be described to them."""
    spec, pieces = source.spec, TensorPieces(source.tensors)
    normalised = describable(spec)
    content = to_json(spec) if normalised else dict(source.config)
    names = dict.fromkeys(name for own in node_tensors(spec, source.tensors) for name in own)
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
        tuple(adapters),
        BUILD,
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
    """The arrays of a model's tensors, each read from its file when it is asked for, its description, and `more`."""

    def __init__(
        self, tensors: Mapping[str, Tensor], model: StageModel | None = None, more: Mapping[str, Bytes] | None = None
    ) -> None:
        self.pieces, self._more = TensorPieces(tensors), more or {}
        self._description: Bytes | None = None
        if model is not None:
            self.describe(model)

    def describe(self, model: StageModel) -> None:
        """Another description, which must be as long once it is part of a graph."""
        self._description = np.frombuffer(msgspec.json.encode(model), np.uint8)

    def __getitem__(self, name: str) -> Array:
        if name == DESCRIPTION and self._description is not None:
            return self._description
        return self._more[name] if name in self._more else self.pieces[name]

    def __iter__(self) -> Iterator[str]:
        if self._description is not None:
            yield DESCRIPTION
        yield from self._more
        yield from self.pieces

    def __len__(self) -> int:
        return len(self.pieces) + len(self._more) + (self._description is not None)


def decoder_graph(
    source: ModelSource, model: StageModel, limits: StageLimits, adapters: SentAdapters | None = None
) -> Model:
    """The decoder as a coordinator runs it, its weights in the file until they are needed."""
    spec, tensors = source.spec, source.tensors
    weights = StageWeights(tensors, model, None if adapters is None else adapters.weights)

    def values(name: str) -> list[Value]:
        pieces = weights.pieces.of(name)
        return [Value(piece, array.shape, weights.pieces.dtype(piece)) for piece, array in pieces.items()]

    def packed(layers: range) -> list[Value]:
        names = [] if adapters is None else adapters.names(layers)
        return [Value(name, weights[name].shape, "uint8") for name in names]

    described = Value(DESCRIPTION, weights[DESCRIPTION].shape, "uint8")
    graph = graph_of(spec, tensors, values, model.stage_setup(), limits, model.dtype, described, packed)
    return Model(graph, weights)


def graph_of(
    spec: DecoderSpec,
    tensors: Mapping[str, TensorKind],
    values: Callable[[str], list[Value]],
    setup: StageSetup,
    limits: StageLimits,
    dtype: str,
    description: Value | None = None,
    adapters: Callable[[range], list[Value]] = lambda layers: [],
) -> Graph:
    """The graph of a decoder whose tensors are sent as these `values`, and computed with in `dtype`; `description` is
    sent to every stage, too, and `adapters` are the weights that some layers need beside their own."""
    described: dict[str, Value] = {} if description is None else {description.name: description}
    always = tuple(described)
    batch = Value(BATCH, (item_bytes(limits, setup.block_size),), "uint8", bounded=True)
    nodes: list[Node] = []
    kept = _kept(spec, tensors, dtype)
    for layers, own, more in zip(segments(spec), node_tensors(spec, tensors), kept, strict=True):
        names = list(always)
        for name in own:
            for value in values(name):
                described.setdefault(value.name, value)
                names.append(value.name)
        state = cache_bytes(spec, setup, layers, dtype) + more
        for value in adapters(layers):
            described.setdefault(value.name, value)
            names.append(value.name)
            state += value.shape[0]  # packed, beside what was sent
        begins, ends = layers.stop == 0, layers.start == spec.layers
        reads = (Read(BATCH),) if begins else (Read(BATCH), Read(f"{HIDDEN} {layers.start}"))
        made = Value(
            CHOICES if ends else f"{HIDDEN} {layers.stop}",
            (LEAST_BYTES + (choices_bytes(limits) if ends else limits.rows * spec.hidden * 4),),
            "uint8",
            bounded=True,
        )
        name = "embedding" if begins else "head" if ends else f"layers {layers.start}-{layers.stop - 1}"
        nodes.append(
            Node(
                name=name,
                path="",
                op=OP,
                args=(layers.start, layers.stop, *reads, *(Weight(name) for name in names)),
                kwargs=(),
                outputs=(made,),
                several=False,
                flops=2 * sum(math.prod(tensors[name].shape) for name in own if name in tensors) * (not begins),
                state=state,
            )
        )
    return Graph((batch,), (CHOICES,), tuple(nodes), described)


def uncut(spec: DecoderSpec) -> frozenset[str]:
    """The values of a decoder's graph that go from one stage to no other."""
    return frozenset({f"{HIDDEN} 0", f"{HIDDEN} {spec.layers}"})


def item_bytes(limits: StageLimits, block_size: int) -> int:
    """The most bytes of an item: what a step of so many rows and sequences can come to."""
    blocks = -(-limits.context // block_size)
    sequence = 64 + 4 * blocks + 256 + 4 * limits.context  # tables, parameters, tokens that penalties count
    stored = MOST_BLOCKS * (64 + 4 * block_size)  # a message on blocks that are kept
    return min(MOST_ITEM, 4096 + stored + 8 * limits.rows + limits.sequences * sequence)


def choices_bytes(limits: StageLimits) -> int:
    """The most bytes of what is drawn in a step: a token for each sequence, and for each of its drafts."""
    return min(limits.rows, limits.sequences * (1 + MOST_DRAFTS)) * MOST_CHOICE


def segments_of(spec: DecoderSpec) -> list[range]:
    """The ranges of layers that no stage divides."""
    return [range(first, last) for first, last in pairwise([0, *cuts(spec), spec.layers])]


def segments(spec: DecoderSpec) -> list[range]:
    """The layers of each node: none of the embedding's and the head's, which come before and after all."""
    return [range(0), *segments_of(spec), range(spec.layers, spec.layers)]


def node_tensors(spec: DecoderSpec, tensors: Mapping[str, TensorKind]) -> list[list[str]]:
    """The names of each node's tensors in a model's table: an integer checkpoint has names of its own."""
    if not any(tensor.dtype == "I8" for tensor in tensors.values()):
        return [list(own) for own in _wanted(spec)]
    packed = any(tensor.dtype == "I8" and len(tensor.shape) == 4 for tensor in tensors.values())
    found = []
    for own in _wanted(stored_form(spec, 2 if packed else 1)):
        scales = {name: scale_name(name) for name, wanted in own.items() if wanted.product}
        found.append([each for name in own for each in (name, *([scales[name]] if name in scales else []))])
    return found


def _wanted(spec: DecoderSpec) -> list[dict[str, WantedTensor]]:
    """Each node's tensors, by name.

    What every stage needs, however few layers it has, is every node's. Beside that the embedding and the head have
    theirs, and layers those that belong to a layer.
    """
    first, last = ({one.name: one for one in stage_tensors(spec, range(at, at))} for at in (0, spec.layers))
    always = {name: one for name, one in first.items() if name in last and spec.layer_inputs is not None}
    of_layer: dict[int, dict[str, WantedTensor]] = {}
    for one in spec.tensors():
        if one.layer >= 0:
            of_layer.setdefault(one.layer, {})[one.name] = one
    found = [first]
    for layers in segments(spec)[1:-1]:
        found.append(always | {name: one for layer in layers for name, one in of_layer[layer].items()})
    return [*found, last]


def cache_bytes(spec: DecoderSpec, setup: StageSetup, layers: range, dtype: str) -> int:
    """Bytes of a range's cache."""
    heads = sum(spec.heads_of(layer).kv_heads for layer in spec.attention_layers if layer in layers)
    floats = stage_kv_floats(spec, layers)
    token = floats + 4 * heads if setup.kv_dtype == "int8" else (2 if dtype in HALF else 4) * floats
    return setup.blocks * setup.block_size * 2 * token + 4 * stage_state_floats(spec, layers) * setup.states


# Bytes of an element of a product as it is computed with, where it isn't what the file has.
HALF = ("float16", "bfloat16")
ELEMENT = {"float32": 4.0, "int8": 1.1, "int4": 0.7, "exact": 1.1, **dict.fromkeys(HALF, 2.0)}


def _kept(spec: DecoderSpec, tensors: Mapping[str, TensorKind], dtype: str) -> list[int]:
    """About the bytes of each node's weights as they are laid out for the kernels, beside those that were sent."""
    return [int(sum(_kept_of(one, tensors.get(one.name), dtype) for one in own.values())) for own in _wanted(spec)]


def _kept_of(wanted: WantedTensor, tensor: TensorKind | None, dtype: str) -> float:
    if tensor is None or tensor.dtype == "I8":  # an integer checkpoint's, which is used as it lies there
        return 0.0
    size = math.prod(tensor.shape)
    if not wanted.product:
        return 4.0 * size if tensor.dtype != "F32" else 0.0
    if dtype == "stored":
        return size * (4.0 if tensor.dtype == "F32" and not hasattr(tensor, "grouped") else 0.8)
    return ELEMENT[dtype] * size


def _bare(spec: DecoderSpec) -> DecoderSpec:
    """What a decoder computes: not what only a reader of its files must know, nor its end tokens."""
    return replace(spec.bare(), eos_token_ids=(), eos_assumed=False)
