"""What a model's files hold: which network, and how its weights are stored, with counts and sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cutset.models.families import load_spec
from cutset.models.files.fields import read_json
from cutset.models.files.float8 import ScaledFloats
from cutset.models.files.formats import read_weights, weight_files
from cutset.models.files.gguf_model import GGUFModel
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.integer import is_integer
from cutset.models.files.source import open_source
from cutset.models.files.stacked import StackedPart
from cutset.models.files.tensor import DTYPES, Tensor
from cutset.models.spec import DecoderSpec

__all__ = ["Contents", "StoredKind", "contents_of"]


@dataclass(frozen=True, slots=True)
class StoredKind:
    """The tensors of one type. `bits` of a weight count scales and all. `group`: how many share a scale, or 0."""

    name: str
    tensors: int
    weights: int
    nbytes: int
    group: int

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


@dataclass(frozen=True, slots=True)
class Contents:
    """A model's network, files and types of tensors; `title` is what the file calls it, if it does."""

    path: Path
    title: str
    format: str
    spec: DecoderSpec
    files: int
    nbytes: int  # of the files that hold weights
    kinds: tuple[StoredKind, ...]  # the largest first

    @property
    def bits(self) -> float:
        """Bits a weight, over all tensors."""
        weights = sum(kind.weights for kind in self.kinds)
        return 8 * sum(kind.nbytes for kind in self.kinds) / weights if weights else 0.0


class Stored(NamedTuple):
    """A tensor's type, weights, bytes and group."""

    kind: str
    weights: int
    nbytes: int
    group: int


def contents_of(path: Path) -> Contents:
    """What a checkpoint directory or a GGUF file holds; no weights are read. Raises ModelError."""
    files = weight_files(path)
    table = read_weights(path)
    if isinstance(table, GGUFModel):
        title = table.metadata.file.metadata.get("general.name")
        title = title if isinstance(title, str) else ""
        name, spec, stored = f"GGUF, {table.metadata.architecture}", table.spec, _of_gguf(table)
    else:
        title, name, spec = "", "safetensors", load_spec(path)
        config = read_json(path / "config.json")
        grouped = "quantization_config" in config and not is_integer(config)  # by another program, in several tensors
        stored = (_of_tensor(tensor) for tensor in (open_source(path).tensors if grouped else table).values())
    sums: dict[tuple[str, int], list[int]] = {}
    for one in stored:
        row = sums.setdefault((one.kind, one.group), [0, 0, 0])
        row[:] = row[0] + 1, row[1] + one.weights, row[2] + one.nbytes
    kinds = [StoredKind(kind, row[0], row[1], row[2], group) for (kind, group), row in sums.items()]
    kinds.sort(key=lambda kind: -kind.nbytes)
    nbytes = sum(file.stat().st_size for file in files)
    return Contents(path, title, name, spec, len(files), nbytes, tuple(kinds))


def _of_gguf(model: GGUFModel) -> Iterator[Stored]:
    for info in model.stored.values():
        yield Stored(info.kind.name, math.prod(info.shape), int(info.data.nbytes), info.kind.group)


def _of_tensor(tensor: Tensor) -> Stored:
    weights = math.prod(tensor.shape)
    if isinstance(tensor, GroupedTensor):
        group = re.search(r"groups of (\d{1,9})", tensor.form)
        return Stored(tensor.form, weights, tensor.nbytes, int(group[1]) if group else 0)
    if isinstance(tensor, StackedPart):
        return Stored(tensor.dtype, weights, weights * DTYPES[tensor.dtype]().itemsize, 0)
    if isinstance(tensor, ScaledFloats):
        return Stored(tensor.form, weights, tensor.nbytes, 0)
    size = int(tensor.raw.nbytes)
    return Stored(tensor.dtype, weights, size, 0)
