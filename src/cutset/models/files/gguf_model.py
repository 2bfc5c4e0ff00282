"""Models in GGUF files: the tensors under the names and in the order of rows that a checkpoint has, still as codes.

What llama.cpp's converter does to a checkpoint is undone without rounding: rows of q and k that it laid in pairs are
put back, gains that it added 1 to lose it again, experts that it stacked are cut out, products that a family has fused
are put together or taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.families import spec_from_config
from cutset.models.files.checkpoint import TensorTable
from cutset.models.files.gguf import GGUFFile, TensorInfo, read_gguf
from cutset.models.files.gguf_blocks import BlockType, cut
from cutset.models.files.gguf_config import ROPE_FACTORS, ROPE_FREQUENCIES, Metadata, config_of, floats
from cutset.models.files.grouped import GroupedTensor, GroupedWeight
from cutset.models.files.stacked import StackedPart
from cutset.models.files.tensor import DTYPES, Tensor
from cutset.models.spec import WantedTensor

__all__ = ["GGUFModel", "gguf_files"]

MOST_PARTS = 1000
PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
LAYER = "blk.{layer}."
Rows = NDArray[np.intp] | slice

# Tensors of a parameter, whose rows follow each other: the first of the ways that a file has.
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "embedding": (("token_embd.weight",),),
    "final_norm": (("output_norm.weight",),),
    "lm_head": (("output.weight",),),
    "attention_norm": ((LAYER + "attn_norm.weight",),),
    "attention_output_norm": ((LAYER + "post_attention_norm.weight",),),
    "mlp_norm": ((LAYER + "ffn_norm.weight",),),
    "mlp_output_norm": ((LAYER + "post_ffw_norm.weight",),),
    "qkv": (tuple(LAYER + f"attn_{part}.weight" for part in "qkv"), (LAYER + "attn_qkv.weight",)),
    "qkv_bias": (tuple(LAYER + f"attn_{part}.bias" for part in "qkv"), (LAYER + "attn_qkv.bias",)),
    "q_norm": ((LAYER + "attn_q_norm.weight",),),
    "k_norm": ((LAYER + "attn_k_norm.weight",),),
    "o": ((LAYER + "attn_output.weight",),),
    "o_bias": ((LAYER + "attn_output.bias",),),
    "sinks": ((LAYER + "attn_sinks.weight",),),
    "router": ((LAYER + "ffn_gate_inp.weight",),),
    "router_bias": ((LAYER + "ffn_gate_inp.bias",),),
    "gate_up": ((LAYER + "ffn_gate.weight", LAYER + "ffn_up.weight"), (LAYER + "ffn_up.weight",)),
    "gate_up_bias": ((LAYER + "ffn_gate.bias", LAYER + "ffn_up.bias"),),
    "down": ((LAYER + "ffn_down.weight",),),
    "down_bias": ((LAYER + "ffn_down.bias",),),
    "expert_gate_up": (
        (LAYER + "ffn_gate_exps.weight", LAYER + "ffn_up_exps.weight"),
        (LAYER + "ffn_gate_up_exps.weight",),
    ),
    "expert_down": ((LAYER + "ffn_down_exps.weight",),),
    "expert_gate_up_bias": ((LAYER + "ffn_gate_exps.bias", LAYER + "ffn_up_exps.bias"),),
    "expert_down_bias": ((LAYER + "ffn_down_exps.bias",),),
    "in_proj": ((LAYER + "shortconv.in_proj.weight",),),
    "in_proj_bias": ((LAYER + "shortconv.in_proj.bias",),),
    "conv": ((LAYER + "shortconv.conv.weight",),),
    "conv_bias": ((LAYER + "shortconv.conv.bias",),),
    "out_proj": ((LAYER + "shortconv.out_proj.weight",),),
    "out_proj_bias": ((LAYER + "shortconv.out_proj.bias",),),
}
READ_ELSEWHERE = {ROPE_FREQUENCIES, *ROPE_FACTORS}


class Piece(NamedTuple):
    """Rows of a stored tensor, or elements of a vector."""

    info: TensorInfo
    rows: Rows


def gguf_files(path: Path) -> list[Path]:
    """The files of a model, of which `path` is the first. Raises CheckpointError for one that is missing."""
    count = read_gguf(path).metadata.get("split.count", 0)
    if type(count) is not int or count <= 1:
        return [path]
    named = PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count or count > MOST_PARTS:
        raise CheckpointError(
            f"{path} is one of {count:,} parts: they must be called NAME-00001-of-{min(count, 99999):05d}.gguf etc."
        )
    files = [path.with_name(f"{named['name']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    if int(named["number"]) != 1:
        raise CheckpointError(f"{path} is part {int(named['number'])} of {count}; give the first, {files[0].name}")
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: the model has {count} parts")
    return files


class GGUFModel(TensorTable):
    """A model's configuration, specification and tensors. Raises ModelError for what can't be used."""

    def __init__(self, path: Path) -> None:
        self.directory = path
        parts = [read_gguf(file) for file in gguf_files(path)]
        self.stored = _stored(parts)
        self.metadata = Metadata(parts[0], self.stored)
        self.architecture, self.config = config_of(self.metadata)
        self.spec = spec_from_config(self.config, str(path))
        self._tensors = dict(self._read())

    def _read(self) -> Iterator[tuple[str, Tensor]]:
        used = set(READ_ELSEWHERE)
        starts: dict[tuple[str, int, int], int] = {}
        for wanted in self.spec.tensors():
            stored = self._stored_as(wanted)
            used.update(info.name for info in stored)
            key = wanted.role, wanted.layer, wanted.expert
            first = starts.get(key, 0)  # the parts of a parameter come one after another
            starts[key] = first + wanted.shape[0]
            yield wanted.name, self._tensor(wanted, stored, first)
        for name, info in self.stored.items():
            if name not in used and not name.endswith(".attn_rot_embd.weight"):
                yield name, _tensor(name, self._file(info), [Piece(info, slice(None))], info.shape)

    def _file(self, info: TensorInfo) -> Path:
        return Path(getattr(info.data, "filename", None) or self.directory)

    def _stored_as(self, wanted: WantedTensor) -> list[TensorInfo]:
        ways = NAMES.get(wanted.role, ())
        if wanted.role in self.architecture.names:
            ways = (self.architecture.names[wanted.role],)
        named = [[name.replace("{layer}", str(wanted.layer)) for name in way] for way in ways]
        for names in named:
            if all(name in self.stored for name in names):
                return [self.stored[name] for name in names]
        if not named:
            raise CheckpointError(f"{self.directory}: {wanted.name} has no name in GGUF that is known")
        missing = next(name for name in named[0] if name not in self.stored)
        raise CheckpointError(f"{self.directory}: the tensor {missing} is missing; the network needs it")

    def _tensor(self, wanted: WantedTensor, stored: list[TensorInfo], first: int) -> Tensor:
        """What is wanted, out of the rows of the stored ones from `first` on."""
        file = self._file(stored[0])
        if wanted.role == "expert_gate_up_bias":
            return _side_by_side(wanted, file, stored)
        rows = [_rows(info, wanted.expert) for info in stored]
        pieces: list[Piece] = []
        begin = 0
        for info, (at, size) in zip(stored, rows, strict=True):
            low, high = max(first, begin), min(first + wanted.shape[0], begin + size)
            if low < high:
                pieces.append(Piece(info, slice(at + low - begin, at + high - begin)))
            begin += size
        whole = sum(piece.rows.stop - piece.rows.start for piece in pieces if isinstance(piece.rows, slice))
        if whole != wanted.shape[0] or (
            len(wanted.shape) > 1 and any(p.info.shape[-1] != wanted.shape[-1] for p in pieces)
        ):
            shapes = ", ".join(f"{info.name} {info.shape}" for info in stored)
            raise CheckpointError(f"{file}: {shapes}; the network asks for {wanted.shape}")
        if self.architecture.paired and len(pieces) == 1 and wanted.role in ("qkv", "qkv_bias"):
            pieces = self._unpaired(pieces[0], first)
        shift = 1.0 if self.architecture.shifted and wanted.role.endswith("_norm") else 0.0
        return _tensor(wanted.name, file, pieces, wanted.shape, shift)

    def _unpaired(self, piece: Piece, first: int) -> list[Piece]:
        """Rows of q or k as checkpoints have them, halves of a head after each other; those of v as they are."""
        spec = self.spec
        if first >= (spec.heads + spec.kv_heads) * spec.head_dim:
            return [piece]
        assert isinstance(piece.rows, slice)
        order = np.arange(piece.rows.start, piece.rows.stop).reshape(-1, spec.head_dim // 2, 2)
        return [Piece(piece.info, order.swapaxes(1, 2).reshape(-1))]


def _stored(parts: list[GGUFFile]) -> dict[str, TensorInfo]:
    """The tensors of all parts by name."""
    found: dict[str, TensorInfo] = {}
    for number, part in enumerate(parts):
        if len(parts) > 1 and (part.metadata.get("split.no"), part.metadata.get("split.count")) != (number, len(parts)):
            raise CheckpointError(f"{part.path} says of itself that it is another part than its name does")
        for name, info in part.tensors.items():
            if name in found:
                raise CheckpointError(f"{part.path}: {name} is in another part too")
            found[name] = info
    count = parts[0].metadata.get("split.tensors.count", len(found))
    if len(parts) > 1 and count != len(found):
        raise CheckpointError(f"{parts[0].path}: its parts have {len(found):,} tensors, not {count!r:.40}")
    return found


def _rows(info: TensorInfo, expert: int) -> tuple[int, int]:
    """Where the rows of a matrix, or the elements of a vector, begin, and how many there are."""
    if len(info.shape) == 3:
        return max(expert, 0) * info.shape[1], info.shape[1] if expert < info.shape[0] else 0
    return 0, info.shape[0]


def _tensor(name: str, file: Path, pieces: list[Piece], shape: tuple[int, ...], shift: float = 0.0) -> Tensor:
    """A tensor of `shape` whose rows are those of the pieces; `shift` is taken off its values."""
    kinds = {piece.info.kind.name for piece in pieces}
    kind = pieces[0].info.kind
    sources = tuple(Tensor(piece.info.name, file, "U8", piece.info.data) for piece in pieces)
    if len(kinds) == 1 and not kind.dtype and len(shape) == 2:
        read = partial(_cut, kind, pieces)
        return GroupedTensor(name, file, (shape[0], shape[1]), kind.name, read, sources)
    if len(kinds) == 1 and kind.dtype and not shift:
        [*others, last] = pieces
        if not others and isinstance(last.rows, slice):
            return Tensor(name, file, kind.dtype, _values(last).reshape(shape))
        return StackedPart(
            name, shape, kind.dtype, sources, lambda: _joined([_values(p) for p in pieces]).reshape(shape)
        )

    def compute() -> NDArray[Any]:
        joined = _joined([_floats(piece) for piece in pieces])
        return (joined - np.float32(shift) if shift else joined).reshape(shape)

    return StackedPart(name, shape, "F32", sources, compute)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _lines(info: TensorInfo) -> NDArray[np.uint8]:
    """What rows are taken of: of a vector its elements, where it has floats."""
    if len(info.shape) > 1 or not info.kind.dtype:
        return info.data
    return info.data.reshape(info.shape[0], -1)


def _values(piece: Piece) -> NDArray[Any]:
    """Floats as they are stored."""
    rows = _lines(piece.info)[piece.rows]
    values: NDArray[Any] = rows.view(DTYPES[piece.info.kind.dtype])
    return values if len(piece.info.shape) > 1 else values.reshape(-1)


def _floats(piece: Piece) -> NDArray[np.float32]:
    if len(piece.info.shape) == 1 and not piece.info.kind.dtype:
        return floats(piece.info)[piece.rows]
    if not piece.info.kind.dtype:
        return _cut(piece.info.kind, [piece]).float32()
    return Tensor("", Path(), piece.info.kind.dtype, _values(piece)).float32()


def _cut(kind: BlockType, pieces: list[Piece]) -> GroupedWeight:
    return cut(kind, _joined([piece.info.data[piece.rows] for piece in pieces]))


def _side_by_side(wanted: WantedTensor, file: Path, stored: list[TensorInfo]) -> Tensor:
    """Biases of experts: gate and up are two matrices, a row for each expert."""
    width = sum(info.shape[-1] for info in stored)
    if any(len(info.shape) != 2 or info.shape[0] != wanted.shape[0] for info in stored) or width != wanted.shape[1]:
        shapes = ", ".join(f"{info.name} {info.shape}" for info in stored)
        raise CheckpointError(f"{file}: {shapes}; the network asks for {wanted.shape}")
    sources = tuple(Tensor(info.name, file, "U8", info.data) for info in stored)
    return StackedPart(
        wanted.name, wanted.shape, "F32", sources, lambda: np.concatenate([floats(info) for info in stored], axis=1)
    )
