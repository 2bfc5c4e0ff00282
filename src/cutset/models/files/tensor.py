"""A tensor of a checkpoint, and what the dtypes of safetensors are."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from cutset.errors import CheckpointError

__all__ = ["DTYPES", "FLOATS", "HALVES", "ComputedTensor", "Tensor"]

PIECE = 1 << 22  # bytes compared at a time

# bfloat16 and floats of 8 bits have no numpy type: their bits are kept as unsigned integers.
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "F8_E8M0": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
FLOATS = ("F64", "F32", "F16", "BF16")
HALVES = ("F16", "BF16")


class Tensor:
    """One tensor of a checkpoint: `raw` is a read-only view of the file, of `shape`."""

    __slots__ = ("dtype", "file", "name", "raw", "shape")

    def __init__(self, name: str, file: Path, dtype: str, raw: NDArray[Any]) -> None:
        self.name, self.file, self.dtype, self.raw = name, file, dtype, raw
        self.shape: tuple[int, ...] = raw.shape

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What it is read from, where that isn't itself."""
        return ()

    def float32(self) -> NDArray[np.float32]:
        """The values in float32: the mapped file itself where it holds float32, a converted copy otherwise."""
        if self.dtype not in FLOATS:
            raise CheckpointError(f"{self.file}: {self.name} has dtype {self.dtype}; a float was expected")
        if self.dtype == "F32":
            values: NDArray[np.float32] = self.raw
        elif self.dtype == "BF16":
            values = (self.raw.astype(np.uint32) << 16).view(np.float32)
        else:
            values = self.raw.astype(np.float32)
        return values

    def floats(self) -> NDArray[Any]:
        """The values as they are kept, C-contiguous and aligned: float32, float16, or bfloat16 as uint16. The mapped
        file itself where it can be; what is stored in another way becomes float32."""
        values = self.raw if self.dtype in HALVES else self.float32()
        return np.require(values, requirements=("C", "A"))

    def equals(self, other: Tensor) -> bool:
        """The same values in the same shape, whatever they are stored as; NaN equals the same bits alone."""
        if self.shape != other.shape:
            return False
        if self.dtype != other.dtype:
            return self.dtype in FLOATS and other.dtype in FLOATS and bool((self.float32() == other.float32()).all())
        ours, theirs = (np.ascontiguousarray(each.raw).reshape(-1).view(np.uint8) for each in (self, other))
        pieces = (slice(at, at + PIECE) for at in range(0, len(ours), PIECE))
        return all(np.array_equal(ours[piece], theirs[piece]) for piece in pieces)

    def forget(self) -> None:
        """Lets go of the pages of the file that this tensor lies in."""
        mapped: mmap.mmap | None = getattr(self.raw, "_mmap", None)
        if mapped is not None and self.raw.size and hasattr(mmap, "MADV_DONTNEED"):
            first, end = byte_bounds(self.raw)
            begin = byte_bounds(np.frombuffer(mapped, np.uint8))[0]
            start = (first - begin) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, start, end - begin - start)


class ComputedTensor(Tensor):
    """A tensor that is computed from stored ones each time it is read."""

    __slots__ = ("_compute", "_sources")

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        sources: tuple[Tensor, ...],
        compute: Callable[[], NDArray[Any]],
    ) -> None:
        self.name, self.file, self.dtype, self.shape = name, sources[0].file, dtype, shape
        self._sources, self._compute = sources, compute

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return self._sources

    @property
    def raw(self) -> NDArray[Any]:  # type: ignore[override]
        """The values, computed anew each time."""
        values = self._compute()
        values.flags.writeable = False
        return values

    @property
    def nbytes(self) -> int:
        """Bytes of the file that it is computed from."""
        return sum(int(source.raw.nbytes) for source in self._sources)

    def forget(self) -> None:
        for source in self._sources:
            source.forget()
