"""Exchange files: one JSON file with a model's specification, its inputs and base64 weights, readable anywhere.

docs/exchange-format.md is the specification. Files are mapped and read tensor by tensor: a long string is never parsed,
only found, and decoded when its tensor is asked for.
"""

from __future__ import annotations

import binascii
import functools
import itertools
import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.files import appearing
from cutset.models.families import spec_from_config
from cutset.models.files.checkpoint import DTYPES, FLOATS, Tensor, TensorTable, whole_numbers
from cutset.models.files.lfs import MOST_POINTER_BYTES, check_no_pointer
from cutset.models.files.specification import FORMAT, VERSION, from_json, to_json
from cutset.models.run.rope import Rope
from cutset.models.spec import DecoderSpec

__all__ = ["FORMAT", "VERSION", "ExchangeFile", "write_exchange"]

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint8": "U8"}
Place = tuple[str | int, ...]
HEAD_PLACE = "lm_head"  # of a head, and of a copy of a tied embedding
LONG = 1024  # characters from which a string is left in the file
MOST_SKELETON = 256 << 20  # bytes of a file that aren't long strings
MOST_SHAPE = 8
CHUNK = 3 << 20  # bytes encoded or decoded at a time; a multiple of 3, so that pieces of base64 join


class ExchangeFile(TensorTable):
    """A model and its inputs. A mapping of tensors under their names in a checkpoint, each decoded when read.

    Raises CheckpointError for a file that is cut off, lies about itself, or holds weights that aren't finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.directory = path
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file can't be mapped
            raise CheckpointError(f"{path} can't be read: {error}") from None
        check_no_pointer(path, self.map[:MOST_POINTER_BYTES], CheckpointError)
        self._strings: set[tuple[int, int]] = set()
        content = self._parse()
        version = content.get("version", 1)  # CelerInfer's files have none
        if content.get("format", FORMAT) != FORMAT or version not in (1, VERSION):
            raise self._wrong(
                f"it is {content.get('format')!r} version {version!r}; this program reads 1 and {VERSION}"
            )
        self._config: Any = content.get("config")
        self.meta: dict[str, Any] = content["meta"] if isinstance(content.get("meta"), dict) else {}
        self.spec = self._old_spec() if version == 1 else self._spec(content.get("specification"))
        weights = content.get("weights")
        self._tensors: dict[str, Tensor] = {}
        wanted: list[tuple[str, Place, tuple[int, ...]]] = [
            (tensor.name, _steps(tensor.place), tensor.shape) for tensor in self.spec.tensors()
        ]
        if self.spec.tied and version == 1:  # whether its head is a copy is seen from the values
            head = self.spec.names.lm_head[0].checkpoint
            wanted.append((head, (HEAD_PLACE,), (self.spec.vocab_size, self.spec.hidden)))
        for name, place, shape in wanted:
            entry = _at(weights, place)
            if entry is not None:
                self._tensors[name] = self._tensor(name, entry, place, shape)
        self._check_places(weights, {(HEAD_PLACE,)} | {place for _, place, _ in wanted})
        self.inputs = self._inputs(content.get("inputs"))

    @property
    def config(self) -> dict[str, Any]:
        """The config.json that the model came with. Raises CheckpointError where there is none, or of another model."""
        if not isinstance(self._config, dict):
            raise self._wrong("it has no config, which a checkpoint needs; convert the checkpoint that it came from")
        config = {"model_type": "minimind"} | self._config
        described = spec_from_config(config, f"{self.path}: config")
        told: dict[str, Any] = {"tied": self.spec.tied, "family": "", "names": self.spec.names}
        told |= {"bos_token_id": None, "eos_token_ids": (), "eos_assumed": False}
        if replace(described.bare(), **told) != replace(self.spec.bare(), **told):
            raise self._wrong("its config describes another model than its specification")
        return config

    def _old_spec(self) -> DecoderSpec:
        """The specification of version 1, which has the configuration alone."""
        if not isinstance(self._config, dict):
            raise self._wrong("it has no config")
        return spec_from_config({"model_type": "minimind"} | self._config, f"{self.path}: config")

    def _spec(self, content: object) -> DecoderSpec:
        family = self.meta.get("family")
        return from_json(content, f"{self.path}: specification", family if isinstance(family, str) else "decoder")

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")

    def _parse(self) -> dict[str, Any]:
        """The JSON document, with [begin, end] where a long string stands in the file."""
        data, size, at = self.map, len(self.map), 0
        skeleton = bytearray()
        while at < size:
            begin = data.find(b'"', at)
            begin = size if begin < 0 else begin
            skeleton += data[at : min(begin, at + MOST_SKELETON)]
            if begin == size:
                break
            end = self._end_of_string(begin + 1)
            if end - begin > LONG:
                self._strings.add((begin + 1, end))
                skeleton += b"[%d,%d]" % (begin + 1, end)
            else:
                skeleton += data[begin : end + 1]
            at = end + 1
            if len(skeleton) > MOST_SKELETON:
                raise self._wrong(f"more than {MOST_SKELETON >> 20} MiB of it are not tensors")
        try:
            content = json.loads(bytes(skeleton))
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"it is not valid JSON, or cut off ({error})") from None
        if not isinstance(content, dict):
            raise self._wrong("it is not a JSON object")
        return content

    def _end_of_string(self, begin: int) -> int:
        end = begin - 1
        while True:
            end = self.map.find(b'"', end + 1)
            if end < 0:
                raise self._wrong("it is cut off in the middle of a string")
            escapes = end
            while escapes > begin and self.map[escapes - 1] == 0x5C:  # a quote after a backslash doesn't end it
                escapes -= 1
            if (end - escapes) % 2 == 0:
                return end

    def _tensor(self, name: str, entry: object, place: Place, wanted: tuple[int, ...]) -> Tensor:
        where = "weights." + ".".join(map(str, place))
        dtype, shape = self._described(entry, where)
        if shape != wanted:
            raise self._wrong(f"{where} has shape {shape}; the specification asks for {wanted}")
        if dtype not in FLOATS:
            raise self._wrong(f"{where} holds {dtype}; a float was expected")
        return _ExchangeTensor(name, self, where, dtype, shape, entry)

    def _described(self, entry: object, where: str) -> tuple[str, tuple[int, ...]]:
        if not isinstance(entry, dict):
            raise self._wrong(f"{where} is not a tensor")
        dtype, shape, encoding = entry.get("dtype"), entry.get("shape"), entry.get("encoding", "base64")
        if not isinstance(dtype, str) or dtype not in NAMES:
            raise self._wrong(f"{where} has dtype {dtype!r}; known are {', '.join(NAMES)}")
        if encoding != "base64":
            raise self._wrong(f"{where} has encoding {encoding!r}; known is base64")
        if not whole_numbers(shape) or len(shape) > MOST_SHAPE:
            raise self._wrong(f"{where} has no valid shape")
        return NAMES[dtype], tuple(shape)

    def text_of(self, entry: dict[str, Any]) -> NDArray[np.uint8] | None:
        """The base64 of a tensor as it lies in the file; None if it is too short to be left there."""
        text = entry.get("data")
        if isinstance(text, list) and all(type(at) is int for at in text) and tuple(text) in self._strings:
            return np.frombuffer(self.map, np.uint8)[text[0] : text[1]]
        return None

    def decode(self, entry: dict[str, Any], where: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The values of a tensor. What the base64 must measure is known before anything is allocated."""
        kind = np.dtype(DTYPES[dtype])
        size = math.prod(shape) * kind.itemsize
        text = entry.get("data")
        if isinstance(text, list) and all(type(n) is int for n in text) and tuple(text) in self._strings:
            begin, end = text
            source: Any = self.map
        elif isinstance(text, str) and text.isascii():
            begin, end, source = 0, len(text), text.encode()
        else:
            raise self._wrong(f"{where} has no data")
        if end - begin != 4 * -(-size // 3):
            raise self._wrong(
                f"{where} has {end - begin:,} base64 characters; its shape asks for {4 * -(-size // 3):,}"
            )
        raw = np.empty(size, dtype=np.uint8)
        try:
            for at in range(0, size, CHUNK):
                first = begin + at // 3 * 4
                piece = binascii.a2b_base64(source[first : min(first + CHUNK // 3 * 4, end)], strict_mode=True)
                if len(piece) != min(CHUNK, size - at):  # more padding than the length allows
                    raise ValueError("it has the wrong padding")
                raw[at : at + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        except (binascii.Error, ValueError) as error:
            raise self._wrong(f"{where} is not valid base64 ({error})") from None
        values: NDArray[Any] = raw.view(kind.newbyteorder("<")).reshape(shape)
        values.flags.writeable = False
        return values

    def _check_places(self, weights: object, places: set[Place]) -> None:
        """Refuses weights that the model has no place for: they are a slip, or another model."""
        for place in _places(weights, ()):
            if place not in places:
                where = ".".join(map(str, place))
                raise self._wrong(f"weights.{where} is unexpected; the specification has no place for it")

    def _inputs(self, entries: object) -> tuple[NDArray[np.int32], NDArray[np.bool_]] | None:
        """input_ids and attention_mask, each (batch, tokens); None if the file has none."""
        if entries is None:
            return None
        if not isinstance(entries, dict) or "input_ids" not in entries:
            raise self._wrong("its inputs have no input_ids")
        arrays = {}
        for name in ("input_ids", "attention_mask"):
            if name in entries:
                where = f"inputs.{name}"
                dtype, shape = self._described(entries[name], where)
                if dtype not in ("I32", "U8") or len(shape) != 2:
                    raise self._wrong(f"{where} must hold int32 or uint8 of shape (batch, tokens)")
                arrays[name] = self.decode(entries[name], where, dtype, shape)
        ids = arrays["input_ids"].astype(np.int32)
        mask = arrays.get("attention_mask", np.ones(ids.shape, dtype=np.uint8))
        if mask.shape != ids.shape or ids.size == 0:
            raise self._wrong(f"inputs have shapes {ids.shape} and {mask.shape}; they must be equal and not empty")
        if ids.min() < 0 or ids.max() >= self.spec.vocab_size or mask.max() > 1:
            raise self._wrong(f"inputs must be ids below {self.spec.vocab_size} and a mask of zeros and ones")
        if ids.shape[1] > self.spec.longest:
            raise self._wrong(f"inputs have {ids.shape[1]} tokens; the model has {self.spec.longest} positions")
        return ids, mask.astype(np.bool_)


class _ExchangeTensor(Tensor):
    """A tensor that is decoded each time it is read: whoever reads it decides how long it stays in memory."""

    __slots__ = ("_entry", "_source", "_where")

    def __init__(
        self, name: str, source: ExchangeFile, where: str, dtype: str, shape: tuple[int, ...], entry: Any
    ) -> None:
        self.name, self.file, self.dtype, self.shape = name, source.path, dtype, shape
        self._source, self._where, self._entry = source, where, entry

    @property
    def raw(self) -> NDArray[Any]:  # type: ignore[override]
        values = self._source.decode(self._entry, self._where, self.dtype, self.shape)
        plain = (values.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else values
        if not np.isfinite(plain).all():
            raise CheckpointError(f"{self.file}: {self._where} holds values that aren't finite")
        return values

    def equals(self, other: Tensor) -> bool:
        # A head that is a copy has the same text: most files with ties say so without being decoded.
        return self._same_text(other) or super().equals(other)

    def _same_text(self, other: Tensor) -> bool:
        if not isinstance(other, _ExchangeTensor) or (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        ours, theirs = self._source.text_of(self._entry), other._source.text_of(other._entry)
        if ours is None or theirs is None:
            return False
        pieces = (slice(at, at + CHUNK) for at in range(0, len(ours), CHUNK))
        return len(ours) == len(theirs) and all(np.array_equal(ours[piece], theirs[piece]) for piece in pieces)

    def forget(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            self._source.map.madvise(mmap.MADV_DONTNEED)


def _steps(place: str) -> Place:
    return tuple(int(step) if step.isdigit() else step for step in place.split("/"))


def _at(tree: object, place: Place) -> object:
    for step in place:
        if isinstance(step, str):
            tree = tree.get(step) if isinstance(tree, dict) else None
        else:
            tree = tree[step] if isinstance(tree, list) and step < len(tree) else None
    return tree


def _places(tree: object, place: Place) -> Iterator[Place]:
    if isinstance(tree, dict) and tree and "shape" not in tree and len(place) < MOST_SHAPE:
        for key, value in tree.items():
            yield from _places(value, (*place, key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from _places(value, (*place, index))
    elif place:
        yield place


def write_exchange(
    path: Path,
    config: Mapping[str, Any],
    read: Callable[[str], Tensor],
    inputs: tuple[NDArray[np.int32], NDArray[np.uint8]] | None,
    meta: Mapping[str, Any],
    *,
    spec: DecoderSpec | None = None,
    preview: int = 16,
) -> None:
    """Writes an exchange file, one tensor in memory at a time, whole or not at all.

    `read` gives a tensor by its name in a checkpoint; `spec` is what the configuration describes, unless more is known;
    `preview` values of each tensor are written out in plain. Raises CheckpointError for weights that aren't finite, or
    of a dtype that the format lacks.
    """
    spec = spec_from_config(dict(config), "config") if spec is None else spec
    # Of the inputs' length, where it is the longer one: a dynamic embedding is stretched to it.
    tokens = max(spec.max_positions, 0 if inputs is None else inputs[0].shape[1])
    cos, sin = Rope(spec).rows(np.arange(tokens, dtype=np.int32), np.array([0, tokens]), np.array([tokens]))
    tree: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "meta": {**meta, "family": spec.family},
        "specification": to_json(spec),
        "config": dict(config),
    }
    if inputs is not None:
        tree["inputs"] = {
            name: lambda name=name, x=x: Tensor(name, path, "I32" if x.dtype == np.int32 else "U8", x)
            for name, x in zip(("input_ids", "attention_mask"), inputs, strict=True)
        }
    if len(cos) == 1:
        cos, sin = cos[0], sin[0]
    tree["rope"] = {
        name: lambda name=name, half=half: Tensor(name, path, "F32", np.concatenate([half, half], axis=-1))
        for name, half in (("cos", cos), ("sin", sin))
    }
    tree["weights"] = {}
    places = {tensor.place: tensor.name for tensor in spec.tensors()}
    # A tied head is written out like any other, for readers that know nothing of ties.
    for where, name in (places | {HEAD_PLACE: spec.site_tensors("lm_head", -1)[0]}).items():
        node, place = tree["weights"], _steps(where)
        for step, following in itertools.pairwise(place):
            node = _grown(node, step, [] if isinstance(following, int) else {})
        node[place[-1]] = functools.partial(read, name)
    with appearing(path) as file:
        _write(file, tree, (), preview)
        file.write(b"\n")


def _grown(node: Any, step: str | int, empty: Any) -> Any:
    if isinstance(step, str):
        return node.setdefault(step, empty)
    if step == len(node):
        node.append(empty)
    return node[step]


def _write(file: IO[bytes], node: Any, place: Place, preview: int) -> None:
    if callable(node):
        _write_tensor(file, ".".join(map(str, place[1:])), node(), preview)
    elif isinstance(node, dict) and place[:1] not in (("config",), ("meta",), ("specification",)):
        for i, (key, value) in enumerate(node.items()):
            file.write(b"{" if i == 0 else b",\n")
            file.write(json.dumps(key).encode() + b":")
            _write(file, value, (*place, key), preview)
        file.write(b"}" if node else b"{}")
    elif isinstance(node, list) and place[0] == "weights":
        for i, value in enumerate(node):
            file.write(b"[" if i == 0 else b",\n")
            _write(file, value, (*place, i), preview)
        file.write(b"]" if node else b"[]")
    else:
        file.write(json.dumps(node).encode())


def _write_tensor(file: IO[bytes], name: str, tensor: Tensor, preview: int) -> None:
    raw = np.ascontiguousarray(tensor.raw)
    plain = tensor.float32() if tensor.dtype in FLOATS else raw
    if not np.isfinite(plain).all():
        raise CheckpointError(f"{tensor.file}: {tensor.name} holds values that aren't finite")
    kind = next((kind for kind, code in NAMES.items() if code == tensor.dtype), None)
    if kind is None:
        raise CheckpointError(
            f"{tensor.file}: {tensor.name} is {tensor.dtype}, which exchange files don't have; store it as float32"
        )
    file.write(
        json.dumps({"name": name, "shape": list(tensor.shape), "dtype": kind, "encoding": "base64"})[:-1].encode()
    )
    file.write(b', "preview": ' + json.dumps(plain.reshape(-1)[:preview].tolist()).encode() + b', "data": "')
    view = raw.data.cast("B") if raw.size else memoryview(b"")
    for at in range(0, len(view), CHUNK):
        file.write(binascii.b2a_base64(view[at : at + CHUNK], newline=False))
    file.write(b'"}')
