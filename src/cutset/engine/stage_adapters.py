"""LoRA adapters on their way to stages: for each range of layers that no stage divides, a weight with its part of one.

A stage gets the parts of its own layers with their weights: by digest, from its cache or over the link, and again by
whoever takes its place. A weight is a length (4 bytes, little-endian), so many bytes of msgpack that say what the
matrices are, zeros up to a multiple of 4, and the matrices in float32: of each part `down`, then `up`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from cutset.cluster.values import Array, Bytes
from cutset.errors import CheckpointError
from cutset.models.files.adapter import LoraAdapter, LowRank, Told
from cutset.models.spec import DecoderSpec, Site
from cutset.models.stages import stage_parts

__all__ = ["ADAPTER", "SentAdapter", "SentAdapters", "joined_adapter", "pack_parts", "unpack_parts"]

ADAPTER = "LoRA adapter "  # begins the names of such weights; no tensor's does
MOST_PARTS = 1 << 18
MOST_HEAD = 32 << 20  # bytes
MOST_NAME = 200  # letters
Digest = Annotated[bytes, msgspec.Meta(min_length=8, max_length=64)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Number = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class SentAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stages must know of an adapter beside its matrices."""

    name: Annotated[str, msgspec.Meta(max_length=MOST_NAME)]
    digest: Digest
    in_bytes: bool  # it runs in 8 bits


class _Part(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    site: Site | Told
    layer: Number
    expert: Number
    first: Number
    rank: Size
    inputs: Size
    outputs: Size
    scale: float


_head = msgspec.msgpack.Decoder(Annotated[list[_Part], msgspec.Meta(max_length=MOST_PARTS)])


class SentAdapters:
    """The adapters of a model that runs in stages, cut where it may be cut."""

    def __init__(self, spec: DecoderSpec, segments: Sequence[range]) -> None:
        self.known: list[SentAdapter] = []
        self.weights: dict[str, Bytes] = {}
        self._spec, self._segments = spec, segments
        self._names: dict[range, list[str]] = {layers: [] for layers in segments}

    def add(self, adapter: LoraAdapter, *, in_bytes: bool) -> None:
        """One more; the same under another name is sent once."""
        if any(one.digest == adapter.digest for one in self.known):
            return
        self.known.append(SentAdapter(adapter.name[:MOST_NAME], adapter.digest, in_bytes))
        # What all layers have side by side stays whole, as the model's own does: a scale is of several rows.
        shared = [part for part in adapter.parts if part.site == "layer_product"]
        if shared:
            self._put(_name(adapter.digest), shared, self._segments)
        rest = [part for part in adapter.parts if part.site != "layer_product"]
        for layers in self._segments:
            if own := list(stage_parts(self._spec, layers, rest)):
                self._put(_name(adapter.digest, layers), own, [layers])

    def names(self, layers: range) -> list[str]:
        """The weights that a range of layers needs, of all adapters."""
        return self._names.get(layers, [])  # none of the embedding and the head

    def _put(self, name: str, parts: Sequence[LowRank], segments: Iterable[range]) -> None:
        self.weights[name] = pack_parts(parts)
        for layers in segments:
            self._names[layers].append(name)


def joined_adapter(one: SentAdapter, segments: Iterable[range], weights: Mapping[str, Array]) -> LoraAdapter:
    """What a stage of these ranges of layers has of an adapter. Raises CheckpointError for what is none."""
    names = [_name(one.digest), *(_name(one.digest, layers) for layers in segments)]
    parts = [part for name in names if name in weights for part in unpack_parts(weights[name])]
    return LoraAdapter(one.name, one.digest, tuple(parts))


def pack_parts(parts: Sequence[LowRank]) -> Bytes:
    """The bytes of some parts, in float32."""
    told = [
        _Part(one.site, one.layer, one.expert, one.first, len(one.down), one.down.shape[1], len(one.up), one.scale)
        for one in parts
    ]
    head = msgspec.msgpack.encode(told)
    pieces = [len(head).to_bytes(4, "little"), head, bytes(-len(head) % 4)]
    for one in parts:
        pieces += [one.down.astype("<f4", copy=False).tobytes(), one.whole_up.astype("<f4", copy=False).tobytes()]
    return np.frombuffer(b"".join(pieces), np.uint8)


def unpack_parts(data: Bytes) -> list[LowRank]:
    """The parts of `pack_parts`, as views of the bytes. Raises CheckpointError for anything else."""
    size = int.from_bytes(data[:4].tobytes(), "little")
    if data.size < 4 or size > min(MOST_HEAD, data.size - 4):
        raise CheckpointError("what came of an adapter is cut short")
    try:
        told = _head.decode(data[4 : 4 + size].data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CheckpointError(f"what came isn't part of an adapter: {error}") from None
    at, found = 4 + size + -size % 4, list[LowRank]()
    if data.size != at + 4 * sum(one.rank * (one.inputs + one.outputs) for one in told):
        raise CheckpointError("what came of an adapter has another size than it says")
    for one in told:
        matrices = []
        for rows, columns in ((one.rank, one.inputs), (one.outputs, one.rank)):
            end = at + 4 * rows * columns
            matrices.append(data[at:end].view("<f4").reshape(rows, columns))
            at = end
        found.append(LowRank(one.site, one.layer, one.expert, one.first, matrices[0], matrices[1], one.scale))
    return found


def _name(digest: bytes, layers: range | None = None) -> str:
    return f"{ADAPTER}{digest.hex()}" + ("" if layers is None else f" layers {layers.start}-{layers.stop - 1}")
