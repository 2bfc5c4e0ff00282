"""GGUF files, version 3: mapped, never copied. Their header is checked whole before anything in it is used.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", a version, the numbers of tensors and
of keys; the keys with typed values; the tensors' names, dimensions, types and offsets; and from the next multiple of
the alignment on their bytes. What tensors' types mean is cutset.models.files.gguf_blocks' business.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.gguf_blocks import BLOCKS, TYPE_NAMES, BlockType
from cutset.models.files.gguf_path import MAGIC
from cutset.models.files.lfs import MOST_POINTER_BYTES, check_no_pointer

__all__ = ["GGUFFile", "Strings", "TensorInfo", "read_gguf"]

VERSION = 3
ALIGNMENT = 32  # where the file names none

# What is beyond these is no model but an attack or a slip; nothing is allocated for it.
MOST_HEADER = 1 << 28  # bytes before the tensors'
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 18
MOST_KEY = 1 << 10  # bytes of a name
MOST_STRING = 1 << 24  # bytes of a value; chat templates have thousands
MOST_ELEMENTS = 1 << 23  # of all arrays; a vocabulary has hundreds of thousands, and as many merges
MOST_NESTED = 3  # arrays in arrays
MOST_DIMS = 4
MOST_ALIGNMENT = 1 << 16
MOST_WEIGHTS = 1 << 48

STRING, ARRAY = 8, 9
SCALARS: dict[int, str] = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
READERS = {kind: struct.Struct("<" + code) for kind, code in SCALARS.items()}
NUMPY = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
UINT32, UINT64 = struct.Struct("<I"), struct.Struct("<Q")

MOST_KEPT = 8  # files with their headers; strings aren't in those, but numbers and places
_KEPT: dict[tuple[int, int, int], GGUFFile] = {}


class Strings(Sequence[bytes]):
    """An array of strings in a mapped file: read again each time it is gone through, so that nobody keeps it."""

    def __init__(self, view: memoryview, at: int, count: int) -> None:
        self._view, self._at, self._count = view, at, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        view, at, length_at = self._view, self._at, UINT64.unpack_from
        for _ in range(self._count):
            end = at + 8 + length_at(view, at)[0]
            yield bytes(view[at + 8 : end])
            at = end

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return list(self)[index]


class TensorInfo(NamedTuple):
    """A tensor as its file has it. `shape` is in the order of numpy, rows before columns."""

    name: str
    kind: BlockType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]  # (rows, bytes of a row), in the mapped file


def read_gguf(path: Path) -> GGUFFile:
    """A file with its header read, which is kept for who asks next: several do while a model is loaded.

    Raises CheckpointError for what can't be used.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    key = found.st_dev, found.st_ino, found.st_size  # nobody else gets the number while the file is mapped
    kept = _KEPT.get(key)
    if kept is None or kept.path != path or not kept.unchanged():
        kept = GGUFFile(path)
        if len(_KEPT) >= MOST_KEPT:
            _KEPT.clear()
        _KEPT[key] = kept
    return kept


class GGUFFile:
    """A file's metadata by key, and its tensors by name.

    Values are int, float, bool, str, numpy arrays of numbers, `Strings`, or lists of arrays. Raises CheckpointError for
    a file that is cut off, lies about itself, or is of a version or has types that aren't known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # numpy refuses to map an empty file with a ValueError
            raise CheckpointError(f"{path} can't be read: {error}") from None
        check_no_pointer(path, self._bytes[:MOST_POINTER_BYTES].tobytes(), CheckpointError)
        self._header = self._bytes.data[:MOST_HEADER]
        self._at = self._elements = 0
        tensors, keys = self._read_counts()
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            self._read_key()
        self.tensors = self._read_tensors(tensors)
        self._digest = self._header_digest()

    def unchanged(self) -> bool:
        """Whether the header is still what was read."""
        return self._header_digest() == self._digest

    def _header_digest(self) -> bytes:
        return hashlib.sha256(self._header[: self._at]).digest()

    def wrong(self, what: str) -> CheckpointError:
        """The error for a file that isn't what it says."""
        return CheckpointError(f"{self.path}: {what}; the file is damaged or no GGUF")

    def _refuse(self, what: str) -> NoReturn:
        raise self.wrong(what)

    def _take(self, size: int, what: str) -> int:
        """Where the next `size` bytes of the header lie."""
        at = self._at
        if at + size > len(self._header):
            if len(self._header) < len(self._bytes):
                self._refuse(f"its header has more than {MOST_HEADER >> 20} MiB")
            self._refuse(f"it ends within {what}, at byte {len(self._bytes):,}")
        self._at = at + size
        return at

    def _uint32(self, what: str) -> int:
        return int(UINT32.unpack_from(self._header, self._take(4, what))[0])

    def _uint64(self, what: str) -> int:
        return int(UINT64.unpack_from(self._header, self._take(8, what))[0])

    def _string(self, most: int, what: str) -> str:
        length = self._uint64(what)
        if length > most:
            self._refuse(f"{what} claims {length:,} bytes; at most {most:,} are read")
        at = self._take(length, what)
        try:
            return str(self._header[at : at + length], "utf-8")
        except UnicodeDecodeError:
            self._refuse(f"{what} is not UTF-8")

    def _read_counts(self) -> tuple[int, int]:
        start = bytes(self._header[:4])
        if start != MAGIC:
            old = start in (b"lmgg", b"fmgg", b"tjgg", b"algg")  # read as little-endian words
            note = " of before GGUF: convert the model again" if old else ""
            raise CheckpointError(f"{self.path} is no GGUF file{note}: it begins with {start!r}")
        self._at = 4
        version = self._uint32("its version")
        if version & 0xFFFF == 0 and version:
            raise CheckpointError(f"{self.path} is a big-endian GGUF; little-endian ones are read: convert it again")
        if version != VERSION:
            raise CheckpointError(
                f"{self.path} is GGUF version {version}; version {VERSION} is read: convert it again with a llama.cpp "
                "of today"
            )
        tensors, keys = self._uint64("its counts"), self._uint64("its counts")
        for count, most, what in ((tensors, MOST_TENSORS, "tensors"), (keys, MOST_KEYS, "keys")):
            if count > most:
                self._refuse(f"it claims {count:,} {what}; at most {most:,} are read")
        return tensors, keys

    def _read_key(self) -> None:
        key = self._string(MOST_KEY, f"key {len(self.metadata) + 1}")
        if key in self.metadata:
            self._refuse(f"the key {key!r} is there twice")
        self.metadata[key] = self._value(self._uint32(f"{key!r}"), f"{key!r}", 0)

    def _value(self, kind: int, what: str, depth: int) -> Any:
        if kind in READERS:
            reader = READERS[kind]
            at = self._take(reader.size, what)
            value = reader.unpack_from(self._header, at)[0]
            # The shortest number that float32 keeps so is what was meant: 1e-05, not 9.999999747378752e-06.
            return float(str(np.float32(value))) if kind == 6 else value
        if kind == STRING:
            return self._string(MOST_STRING, what)
        if kind != ARRAY:
            self._refuse(f"{what} has a value of type {kind}; known are 0 to 12")
        return self._array(what, depth + 1)

    def _array(self, what: str, depth: int) -> Any:
        if depth > MOST_NESTED:
            self._refuse(f"{what} has arrays in arrays more than {MOST_NESTED} deep")
        kind, count = self._uint32(what), self._uint64(what)
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            self._refuse(f"{what} claims {count:,} elements; at most {MOST_ELEMENTS:,} in all arrays are read")
        if kind in NUMPY:
            dtype = np.dtype(NUMPY[kind])
            at = self._take(count * dtype.itemsize, what)
            return np.frombuffer(self._header, dtype, count, at)
        if kind == STRING:
            return self._strings(count, what)
        if kind != ARRAY:
            self._refuse(f"{what} has elements of type {kind}; known are 0 to 12")
        return [self._array(what, depth + 1) for _ in range(count)]

    def _strings(self, count: int, what: str) -> Strings:
        """Looks at the lengths alone."""
        begin, view, length_at = self._at, self._header, UINT64.unpack_from
        at, last = begin, len(view) - 8
        for _ in range(count):
            if at > last:
                break
            at += 8 + length_at(view, at)[0]
        self._take(at - begin, what)
        if at > last + 8 or count * 8 > at - begin:
            self._refuse(f"{what} ends beyond the file")
        return Strings(view, begin, count)

    def _read_tensors(self, count: int) -> dict[str, TensorInfo]:
        listed = [self._read_entry(number) for number in range(count)]
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 8 <= alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            self._refuse(f"its alignment is {alignment!r:.40}, not a power of two from 8 to {MOST_ALIGNMENT}")
        data = self._bytes[-(-self._at // alignment) * alignment :]
        found: dict[str, TensorInfo] = {}
        spans = []
        for name, kind, shape, offset in listed:
            if name in found:
                self._refuse(f"the tensor {name!r} is there twice")
            rows, row_bytes = math.prod(shape[:-1]), shape[-1] // kind.weights * kind.nbytes
            end = offset + rows * row_bytes
            if offset % alignment:
                self._refuse(f"{name!r} begins at {offset:,}, which is no multiple of the alignment {alignment}")
            if end > len(data):
                self._refuse(f"{name!r} ends at byte {end:,} of {len(data):,} of its tensors: it is cut off")
            spans.append((offset, end, name))
            found[name] = TensorInfo(name, kind, shape, data[offset:end].reshape(rows, row_bytes))
        spans.sort()
        for (_, end, name), (begin, _, other) in pairwise(spans):
            if begin < end:
                self._refuse(f"its tensors {name!r} and {other!r} overlap")
        return found

    def _read_entry(self, number: int) -> tuple[str, BlockType, tuple[int, ...], int]:
        """Name, type, shape and offset of a tensor."""
        name = self._string(MOST_KEY, f"the name of tensor {number + 1}")
        what = f"tensor {name!r}"
        dims = self._uint32(what)
        if not 1 <= dims <= MOST_DIMS:
            self._refuse(f"{name!r} has {dims:,} dimensions; 1 to {MOST_DIMS} are read")
        shape = tuple(self._uint64(what) for _ in range(dims))[::-1]
        kind, offset = self._uint32(what), self._uint64(what)
        if math.prod(shape) > MOST_WEIGHTS or 0 in shape:
            self._refuse(f"{name!r} claims the shape {shape}")
        if kind not in BLOCKS:
            called = f"type {TYPE_NAMES[kind]}" if kind in TYPE_NAMES else f"type {kind}, which isn't known"
            known = ", ".join(block.name for block in BLOCKS.values())
            raise CheckpointError(f"{self.path}: {name} is of {called}; read are {known}")
        if shape[-1] % BLOCKS[kind].weights:
            self._refuse(
                f"{name!r} has rows of {shape[-1]:,}, no multiple of {BLOCKS[kind].weights} in {BLOCKS[kind].name}"
            )
        return name, BLOCKS[kind], shape, offset
