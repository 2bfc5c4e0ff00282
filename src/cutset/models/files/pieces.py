"""Tensors of any file as plain arrays under names, and back: what is sent of a model to whoever hasn't its files.

A tensor of floats or integers is one array under its own name. One of codes (`GroupedTensor`) is several, under its
name and what they are: codes, scales, zero points, minima. A `TensorForm` says what no array does. Whoever joins them
again has the same codes, to the bit, whatever format the file had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.grouped import CODE_BITS, GroupedTensor, GroupedWeight, GroupScales
from cutset.models.files.tensor import Tensor

__all__ = ["TensorForm", "TensorPieces", "join"]

# What an array of a tensor is called elsewhere, and the dtype of its elements here; bfloat16 are kept as their bits.
DTYPES: dict[str, tuple[str, Any]] = {
    "F64": ("float64", np.float64),
    "F32": ("float32", np.float32),
    "F16": ("float16", np.float16),
    "BF16": ("bfloat16", np.uint16),
    "I64": ("int64", np.int64),
    "I32": ("int32", np.int32),
    "I16": ("int16", np.int16),
    "I8": ("int8", np.int8),
    "U8": ("uint8", np.uint8),
}
MARK = "#"  # between a tensor's name and a part's
PARTS = ("codes", "scales", "scale_steps", "zeros", "minima", "minimum_steps", "levels", "order")
ROWS = 1 << 16  # codes packed at a time
Array = NDArray[Any]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class TensorForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tensor is beside its arrays. Without `bits` it is one array."""

    dtype: str  # of the tensor, as safetensors names it
    shape: tuple[Size, ...]
    bits: Size = 0  # of a code
    group: Size = 0
    zero: Size = 0  # the zero point of all groups, where they haven't their own
    name: str = ""  # of the form, for people


class TensorPieces(Mapping[str, Array]):
    """The arrays of a table of tensors, computed when they are asked for. Raises CheckpointError for what has none."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._last: tuple[str, dict[str, Array]] = ("", {})  # neighbours are asked for one after the other

    def form(self, name: str) -> TensorForm:
        """What the tensor of this name is."""
        tensor = self._tensors[name]
        if not isinstance(tensor, GroupedTensor):
            if tensor.dtype not in DTYPES:
                raise CheckpointError(f"{tensor.file}: {name} has dtype {tensor.dtype}, which can't be sent")
            return TensorForm(tensor.dtype, tuple(int(size) for size in tensor.shape))
        weight = tensor.grouped()
        zero = weight.zeros if isinstance(weight.zeros, int) else 0
        shape = tuple(int(size) for size in tensor.shape)
        return TensorForm("F32", shape, weight.bits, weight.group, zero, tensor.form)

    def of(self, name: str) -> dict[str, Array]:
        """The arrays of the tensor of this name, by theirs."""
        known, found = self._last
        if known != name:
            tensor = self._tensors[name]
            found = _parts(name, tensor.grouped()) if isinstance(tensor, GroupedTensor) else {name: tensor.raw}
            self._last = name, found
        return found

    def dtype(self, piece: str) -> str:
        """What the elements of an array are."""
        tensor = self._tensors[piece.partition(MARK)[0]]
        return self[piece].dtype.name if isinstance(tensor, GroupedTensor) else DTYPES[tensor.dtype][0]

    def __getitem__(self, piece: str) -> Array:
        return self.of(piece.partition(MARK)[0])[piece]

    def __iter__(self) -> Iterator[str]:
        for name in self._tensors:
            yield from self.of(name)

    def __len__(self) -> int:
        return sum(len(self.of(name)) for name in self._tensors)


def join(name: str, form: TensorForm, pieces: Mapping[str, Array], where: Path) -> Tensor:
    """The tensor of these arrays; `where` they are from, for messages. Raises CheckpointError for what doesn't fit."""
    if form.dtype not in DTYPES:
        raise CheckpointError(f"{name} has dtype {form.dtype[:20]}, which isn't known here")
    if not form.bits:
        raw = pieces[name]
        if raw.shape != form.shape or raw.dtype != DTYPES[form.dtype][1]:
            raise CheckpointError(f"{name} came as {raw.dtype} {raw.shape}, not {form.dtype} {form.shape}")
        return Tensor(name, where, form.dtype, raw)
    parts = {part: pieces[key] for part in PARTS if (key := f"{name}{MARK}{part}") in pieces}
    _check(name, form, parts)
    return GroupedTensor(name, where, (form.shape[0], form.shape[1]), form.name, lambda: _joined(form, parts))


def _check(name: str, form: TensorForm, parts: Mapping[str, Array]) -> None:
    outputs, inputs = form.shape if len(form.shape) == 2 else (0, 0)
    right = form.bits in CODE_BITS and form.group and inputs % form.group == 0
    right = (
        right and {"codes", "scales"} <= set(parts) and parts["codes"].shape == (_packed(outputs * inputs, form.bits),)
    )
    if not right:
        raise CheckpointError(f"{name} came in codes that don't fit: {outputs} x {inputs} of {form.bits} bits")
    kinds = {"codes": "u1", "zeros": "u1", "levels": "i1", "order": "i4"}
    for part, array in parts.items():
        if part in kinds and array.dtype != np.dtype(kinds[part]):
            raise CheckpointError(f"{name}: {part} came as {array.dtype}")
    groups = (outputs, inputs // form.group)
    shapes = {"zeros": groups, "scale_steps": groups, "minimum_steps": groups, "levels": (1 << form.bits,)}
    shapes |= {"order": (inputs,)}
    for part, array in parts.items():
        factor = part in ("scales", "minima")
        wrong = part in shapes and array.shape != shapes[part]
        wrong |= factor and (array.ndim != 2 or len(array) != outputs or groups[1] % max(array.shape[1], 1) != 0)
        if wrong:
            raise CheckpointError(f"{name}: {part} came with shape {array.shape}")


def _parts(name: str, weight: GroupedWeight) -> dict[str, Array]:
    found: dict[str, Array | None] = {
        "codes": _pack(weight.codes, weight.bits),
        "scales": weight.scales.values,
        "scale_steps": weight.scales.steps,
        "zeros": None if isinstance(weight.zeros, int) else weight.zeros,
        "minima": None if weight.minima is None else weight.minima.values,
        "minimum_steps": None if weight.minima is None else weight.minima.steps,
        "levels": weight.levels,
        "order": weight.order,
    }
    return {f"{name}{MARK}{part}": array for part, array in found.items() if array is not None}


def _joined(form: TensorForm, parts: Mapping[str, Array]) -> GroupedWeight:
    minima = parts.get("minima")
    return GroupedWeight(
        _unpack(parts["codes"], form.bits, form.shape),
        form.bits,
        form.group,
        GroupScales(parts["scales"], parts.get("scale_steps")),
        parts.get("zeros", form.zero),
        None if minima is None else GroupScales(minima, parts.get("minimum_steps")),
        parts.get("levels"),
        parts.get("order"),
    )


def _packed(count: int, bits: int) -> int:
    """Bytes of so many codes: eight codes in `bits` bytes, or two of 4 bits in one."""
    return math.ceil(count / 2) if bits == 4 else count if bits == 8 else bits * math.ceil(count / 8)


def _pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes one after another, without the bits that none has; those of 4 bits the first one in the lower half."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    if bits == 8:
        return flat
    if bits == 4:
        even = flat if flat.size % 2 == 0 else np.append(flat, np.uint8(0))
        return even[::2] | (even[1::2] << np.uint8(4))
    made = np.empty(_packed(flat.size, bits), np.uint8)
    for at in range(0, flat.size, 8 * ROWS):
        some = flat[at : at + 8 * ROWS]
        some = np.append(some, np.zeros(-some.size % 8, np.uint8))
        planes = np.unpackbits(some[:, None], axis=1)[:, 8 - bits :]
        made[at // 8 * bits :][: some.size // 8 * bits] = np.packbits(planes)
    return made


def _unpack(data: NDArray[np.uint8], bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    count = math.prod(shape)
    if bits == 8:
        return data.reshape(shape)
    codes = np.empty(count + (-count % 8), np.uint8)
    if bits == 4:
        pairs = codes[: 2 * data.size]
        pairs[::2], pairs[1::2] = data & np.uint8(15), data >> np.uint8(4)
        return codes[:count].reshape(shape)
    for at in range(0, count, 8 * ROWS):
        some = data[at // 8 * bits :][: ROWS * bits]
        planes = np.zeros((some.size // bits * 8, 8), np.uint8)
        planes[:, 8 - bits :] = np.unpackbits(some).reshape(-1, bits)
        codes[at:][: len(planes)] = np.packbits(planes, axis=1)[:, 0]
    return codes[:count].reshape(shape)
