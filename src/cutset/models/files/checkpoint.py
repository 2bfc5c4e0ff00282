"""Checkpoints in safetensors: mapped, never copied, never unpickled.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian length, a JSON header of that
length, then the tensors' bytes. Everything in the header is checked against the file's size before it is used.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.fields import read_json
from cutset.models.files.lfs import MOST_POINTER_BYTES, check_no_pointer
from cutset.models.files.stacked import unstacked
from cutset.models.files.tensor import DTYPES, FLOATS, Tensor
from cutset.models.spec import DecoderSpec

__all__ = [
    "DTYPES",
    "FLOATS",
    "Checkpoint",
    "SafetensorsFile",
    "Tensor",
    "TensorTable",
    "check_tensors",
    "fitted",
    "weight_files",
    "whole_numbers",
]

log = logging.getLogger(__name__)

MOST_HEADER_BYTES = 100_000_000  # the format's own limit
OUTER = "model."  # before the names of a decoder in a language model
STRAY = ("adapter_", "consolidated")  # the weights in another form, or something to add to them


class TensorTable(Mapping[str, Tensor]):
    """Tensors by name; `directory` says in errors where they are."""

    directory: Path
    _tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def float_dtype(self) -> str:
        """The dtype of the largest tensor, as `float32`, `float16` or `bfloat16`."""
        largest = max(self._tensors.values(), key=lambda t: math.prod(t.shape))
        return {"F16": "float16", "BF16": "bfloat16"}.get(largest.dtype, "float32")


class SafetensorsFile(TensorTable):
    """The tensors of one file by name. Raises CheckpointError for a file that is cut off or lies about itself."""

    def __init__(self, path: Path) -> None:
        self.path = self.directory = path
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # numpy refuses to map an empty file with a ValueError
            raise CheckpointError(f"{path} can't be read: {error}") from None
        check_no_pointer(path, self._bytes[:MOST_POINTER_BYTES].tobytes(), CheckpointError)
        self._tensors, self.metadata = self._read_header()

    @property
    def bytes(self) -> NDArray[np.uint8]:
        """The whole file, mapped."""
        return self._bytes

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; the file is damaged or not in safetensors format")

    def _read_header(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        size = len(self._bytes)
        if size < 8:
            raise self._wrong(f"{size} bytes are too few for a header")
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if length > MOST_HEADER_BYTES or length > size - 8:
            raise self._wrong(f"its header claims {length:,} bytes, the file has {size:,}")
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes(), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"its header is not valid JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._wrong("its header is not an object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise self._wrong("its metadata is not a table of strings")
        data = self._bytes[8 + length :]
        spans = []
        tensors = {}
        for name, entry in header.items():
            begin, end, dtype, shape = self._read_entry(name, entry, len(data))
            spans.append((begin, end))
            tensors[name] = Tensor(name, self.path, dtype, data[begin:end].view(DTYPES[dtype]).reshape(shape))
        # The format allows neither holes nor overlaps: bytes that no tensor owns could smuggle, shared ones confuse.
        at = 0
        for begin, end in sorted(spans):
            if begin != at:
                raise self._wrong("its tensors overlap or leave holes")
            at = end
        if at != len(data):
            raise self._wrong(f"its tensors end at byte {at:,} of {len(data):,}")
        return tensors, metadata

    def _read_entry(self, name: str, entry: object, size: int) -> tuple[int, int, str, tuple[int, ...]]:
        if not isinstance(entry, dict):
            raise self._wrong(f"{name!r} has no description")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            shown = repr(dtype)[:60] if isinstance(dtype, str) else f"a {type(dtype).__name__}"
            raise CheckpointError(f"{self.path}: {name} has dtype {shown}; known are {', '.join(DTYPES)}")
        if not whole_numbers(shape) or not whole_numbers(offsets) or len(offsets) != 2 or len(shape) > 8:
            raise self._wrong(f"{name!r} has no valid shape or offsets")
        begin, end = offsets
        if not begin <= end <= size or end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise self._wrong(f"{name!r} claims bytes {begin:,} to {end:,} of {size:,} for {dtype} {tuple(shape)}")
        return begin, end, dtype, tuple(shape)


class Checkpoint(TensorTable):
    """All tensors of a model directory, from one file or from the shards that its index names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tensors: dict[str, Tensor] = {}
        for path in weight_files(directory):
            for name, tensor in SafetensorsFile(path).items():
                if name in self._tensors:
                    raise CheckpointError(f"{name} is both in {self._tensors[name].file.name} and in {path}")
                self._tensors[name] = tensor


def fitted(spec: DecoderSpec, checkpoint: TensorTable) -> tuple[DecoderSpec, dict[str, Tensor]]:
    """`check_tensors`, and the specification that is true of them: a head of its own counts, whatever the file of the
    configuration says of ties, and names of a decoder that was saved without what is around it."""
    spec = _unwrapped(spec, checkpoint)
    found = _named(spec, checkpoint)
    if _has_own_head(spec, found):
        spec = replace(spec, tied=False)
    return spec, _checked(spec, found, checkpoint.directory)


def check_tensors(spec: DecoderSpec, checkpoint: TensorTable) -> dict[str, Tensor]:
    """The tensors of a decoder by name, each of the shape that the specification asks for.

    Raises CheckpointError for one that is missing, misshapen or unexpected, with its name and file.
    """
    found = _named(spec, checkpoint)
    if _has_own_head(spec, found):
        embedding, head = _tied_names(spec)
        raise CheckpointError(f"{found[head].file}: {head} differs from {embedding}, which it should be tied to")
    return _checked(spec, found, checkpoint.directory)


def _unwrapped(spec: DecoderSpec, checkpoint: TensorTable) -> DecoderSpec:
    """Embedding models are often saved as the decoder alone: names lack `model.`, and there is no head."""
    embedding, head = _tied_names(spec)
    bare = embedding.removeprefix(OUTER)
    if embedding == bare or embedding in checkpoint or bare not in checkpoint:
        return spec
    inner = (bare.partition(".")[0], "layers", "norm")
    spec = replace(spec, other_names=(*spec.other_names, *((f"{name}.", f"{OUTER}{name}.") for name in inner)))
    if not spec.tied and head not in checkpoint:
        log.warning("%s: it has no head, so it is good for embeddings only", checkpoint.directory)
        spec = replace(spec, tied=True)
    return spec


def _named(spec: DecoderSpec, checkpoint: TensorTable) -> dict[str, Tensor]:
    """The tensors by the names that the specification has for them, without those of parts that don't run here."""
    found: dict[str, Tensor] = {}
    skipped = 0
    for stored, tensor in checkpoint.items():
        if stored.startswith(spec.other_parts):
            skipped += 1
            continue
        name = spec.meant(stored)
        if name in found:
            raise CheckpointError(f"{tensor.file}: {stored} and {found[name].name} are the same tensor")
        found[name] = tensor
    if skipped:
        log.warning("%s: %d tensors of its other parts are skipped; the text part runs", checkpoint.directory, skipped)
    return unstacked(spec, found)


def _tied_names(spec: DecoderSpec) -> tuple[str, str]:
    return spec.names.embedding[0].checkpoint, spec.names.lm_head[0].checkpoint


def _has_own_head(spec: DecoderSpec, found: Mapping[str, Tensor]) -> bool:
    embedding, head = _tied_names(spec)
    if not spec.tied or embedding not in found or head not in found:
        return False
    same = found[head].equals(found[embedding])
    for name in (embedding, head):  # both were read whole
        found[name].forget()
    return not same


def _checked(spec: DecoderSpec, found: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    wanted = spec.tensor_shapes()
    if spec.tied:  # both names may be there; which one is kept differs from program to program
        embedding, head = _tied_names(spec)
        copy = found.pop(head, None)
        if copy is not None:
            found.setdefault(embedding, copy)
    # Buffers that old programs saved; the frequencies follow from the configuration.
    found = {name: tensor for name, tensor in found.items() if not name.endswith("rotary_emb.inv_freq")}
    for name, shape in wanted.items():
        if name not in found:
            raise CheckpointError(f"{where}: tensor {name} is missing; the configuration asks for it")
        if found[name].shape != shape:
            raise CheckpointError(
                f"{found[name].file}: tensor {name} has shape {found[name].shape}; the configuration asks for {shape}"
            )
        if found[name].dtype not in FLOATS:
            raise CheckpointError(f"{found[name].file}: tensor {name} has dtype {found[name].dtype}; not a float")
    for name, tensor in found.items():
        if name not in wanted:
            raise CheckpointError(f"{tensor.file}: tensor {name} is unexpected; the configuration has no place for it")
    return found


def weight_files(directory: Path) -> list[Path]:
    """The safetensors that hold a model's weights, the first of: model.safetensors, the shards of its index, the only
    one there is. What others leave beside them (an adapter, Mistral's consolidated file) isn't looked at.

    Raises CheckpointError where there are none or it can't be told which.
    """
    index = directory / "model.safetensors.index.json"
    shards = _shards(index) if index.is_file() else []
    if (whole := directory / "model.safetensors").is_file():
        return [whole]
    for path in shards:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {index.name} names it")
    if shards:
        return shards
    found = sorted(directory.glob("*.safetensors"))
    files = [path for path in found if not path.name.startswith(STRAY)]
    if len(files) == 1:
        return files
    if files:
        raise CheckpointError(f"{directory} has {len(files)} safetensors files but no {index.name}")
    if found:
        raise CheckpointError(f"{directory} has {found[0].name}, but no model.safetensors: that is no whole model")
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise CheckpointError(
            f"{directory} has only pickled weights, which can run code when they are read: convert them to safetensors"
        )
    raise CheckpointError(f"{directory} has no *.safetensors")


def _shards(index: Path) -> list[Path]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{index}: weight_map must map tensors to files")
    names = sorted(set(table.values()))
    for name in names:  # a name with a path in it could lead out of the directory
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name!r} is not the name of a safetensors file beside it")
    return [index.with_name(name) for name in names]


def whole_numbers(value: object) -> TypeGuard[list[int]]:
    """A list of sizes or offsets as JSON may hold them: no floats, no booleans, none negative or absurd."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands there twice")
    return table
