"""Parameters of which a checkpoint has those of all experts of a layer in one tensor: cut out of it when they are read.

What lies where is said by DecoderSpec.stacked. The weights are floats, or MXFP4 (OCP Microscaling Formats 1.0, 2023):
of a matrix (rows, columns) each row's 32 columns share a scale, a power of two by its exponent + 127 in a byte, and 16
bytes hold two numbers of 4 bits each, the first one in the lower half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.code_words import unpacked_codes
from cutset.models.files.grouped import GroupedTensor, GroupedWeight, GroupScales
from cutset.models.files.tensor import FLOATS, ComputedTensor, Tensor
from cutset.models.spec import DecoderSpec, Site, Stacked

__all__ = ["StackedCodes", "StackedPart", "mxfp4_bits", "unstacked"]

GROUP = 32  # columns that share a scale
FEWEST_INFINITE = 253  # scales from which on a number may be beyond float32
ROWS = 256  # decoded at a time
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float64)
LEVELS = np.concatenate([2 * FP4, -2 * FP4]).astype(np.int8)  # twice the numbers
Cut = Callable[[int], NDArray[Any]]  # the values of an expert, (rows, columns), as they are stored
Codes = Callable[[int], GroupedWeight]  # the same of an expert, as codes
Read = tuple[str, tuple[Tensor, ...], Cut, Codes | None]  # dtype, where the values lie, and how they are read


class StackedPart(ComputedTensor):
    """A tensor of floats that is cut out of one that holds several."""

    __slots__ = ()


class StackedCodes(GroupedTensor):
    """The same of MXFP4. Whoever asks for floats gets bfloat16, which holds its numbers exactly."""

    __slots__ = ("_floats",)

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        sources: tuple[Tensor, ...],
        floats: Callable[[], NDArray[Any]],
        read: Callable[[], GroupedWeight],
    ) -> None:
        super().__init__(name, sources[0].file, shape, f"MXFP4, groups of {GROUP}", read, sources)
        self.dtype, self._floats = "BF16", floats

    @property
    def raw(self) -> NDArray[Any]:  # type: ignore[override]
        """The values, computed anew each time."""
        values = self._floats()
        values.flags.writeable = False
        return values

    @property
    def nbytes(self) -> int:
        """Bytes of the file that hold this part: half a byte a number, and one for the scale of 32."""
        rows, columns = self.shape
        return rows * columns * (GROUP // 2 + 1) // GROUP


def unstacked(spec: DecoderSpec, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` with the tensors that `spec` names in the place of those that hold several, where there are such.

    Raises CheckpointError for one of another shape or kind, of which a part is missing, or that is there twice.
    """
    rest = dict(found)
    for one in spec.stacked:
        for layer in sorted(spec.sparse_layers):
            for part in _parts(spec, one, layer, rest):
                if part.name in rest:
                    raise CheckpointError(f"{part.file}: {part.name} is there, and in {one.at(layer)} too")
                rest[part.name] = part
    return rest


def _parts(spec: DecoderSpec, one: Stacked, layer: int, rest: dict[str, Tensor]) -> Iterator[Tensor]:
    """The tensors that lie in one, which is taken out of `rest`; none if it isn't there."""
    assert spec.moe is not None
    name, experts = one.at(layer), spec.moe.experts
    if one.role.endswith("_bias"):
        if name in rest:
            stored, [(target, _)] = rest.pop(name), spec.stored(one.role, layer)
            shape = experts, 2 * spec.moe.intermediate if one.interleaved else spec.hidden
            _check(stored, shape, FLOATS)
            turn = _untaken(one)
            yield StackedPart(target, shape, stored.dtype, (stored,), lambda: turn(stored.raw.T).T)
        return
    site: Site = "gate_up" if one.role == "expert_gate_up" else "down"
    shape = spec.matrix_shape(site, 0)
    read = _floats(one, name, (experts, *shape), rest) or _mxfp4(name, (experts, *shape), rest)
    if read is None:
        return
    dtype, sources, cut, codes = read
    turn = _untaken(one)
    for expert in range(experts):
        targets = spec.stored(one.role, layer, expert)  # gate and up may have names of their own
        rows = shape[0] // len(targets)
        for first, (target, _) in zip(range(0, shape[0], rows), targets, strict=True):
            own = slice(first, first + rows)
            floats, size = partial(_turned, turn, cut, expert, own), (rows, shape[1])
            if codes is None:
                yield StackedPart(target, size, dtype, sources, floats)
            else:
                order = turn(np.arange(shape[0]))[own]
                yield StackedCodes(target, size, sources, floats, partial(_taken, codes, expert, order))


def _turned(turn: Callable[[NDArray[Any]], NDArray[Any]], cut: Cut, expert: int, own: slice) -> NDArray[Any]:
    return turn(cut(expert))[own]


def _taken(codes: Codes, expert: int, order: NDArray[Any]) -> GroupedWeight:
    return codes(expert).take(order)


def _untaken(one: Stacked) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What puts rows that take turns, (rows, columns), into the order of the parameter: gate, then up."""

    def apart(values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values[0::2], values[1::2]])

    return apart if one.interleaved else np.ascontiguousarray


def _floats(one: Stacked, name: str, shape: tuple[int, ...], rest: dict[str, Tensor]) -> Read | None:
    """dtype, sources and values of an expert (rows, columns) of a tensor of floats."""
    stored = rest.pop(name, None)
    if stored is None:
        return None
    experts, rows, columns = shape
    _check(stored, (experts, columns, rows) if one.transposed else shape, FLOATS)
    if one.transposed:
        return stored.dtype, (stored,), lambda expert: stored.raw[expert].T, None
    return stored.dtype, (stored,), lambda expert: stored.raw[expert], None


def _mxfp4(name: str, shape: tuple[int, ...], rest: dict[str, Tensor]) -> Read | None:
    """The same of two tensors in MXFP4, as bfloat16, which holds its numbers exactly."""
    pair = [rest.pop(f"{name}{end}", None) for end in ("_blocks", "_scales")]
    blocks, scales = pair
    if blocks is None or scales is None:
        if blocks is not scales:
            there = next(tensor for tensor in pair if tensor is not None)
            raise CheckpointError(f"{there.file}: {there.name} is there, but not its other half in MXFP4")
        return None
    _check(blocks, (*shape[:-1], shape[-1] // GROUP, GROUP // 2), ("U8",))
    _check(scales, (*shape[:-1], shape[-1] // GROUP), ("U8",))
    if shape[-1] % GROUP:
        raise CheckpointError(f"{blocks.file}: {blocks.name}: {shape[-1]} columns are no multiple of {GROUP}")

    def exponents(expert: int) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = scales.raw[expert]
        if (found >= FEWEST_INFINITE).any():
            raise CheckpointError(f"{scales.file}: {scales.name} has scales whose numbers aren't finite")
        return found

    def cut(expert: int) -> NDArray[np.uint16]:
        return mxfp4_bits(blocks.raw[expert], exponents(expert))

    def codes(expert: int) -> GroupedWeight:
        halves = np.ldexp(np.float32(1), exponents(expert).astype(np.int32) - 128)  # the levels are twice the numbers
        return GroupedWeight(mxfp4_codes(blocks.raw[expert]), 4, GROUP, GroupScales(halves), levels=LEVELS)

    return "BF16", (blocks, scales), cut, codes


def mxfp4_codes(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The codes of blocks (rows, groups, 16), (rows, 32 * groups)."""
    return unpacked_codes(blocks.reshape(len(blocks), -1), 4, 2 * blocks.shape[1] * blocks.shape[2])


def mxfp4_bits(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The numbers of MXFP4 as bfloat16, (rows, 32 * groups); blocks: (rows, groups, 16), scales: (rows, groups)."""
    rows, groups = scales.shape
    table, found = _table(), np.empty((rows, groups, GROUP), np.uint16)
    for first in range(0, rows, ROWS):
        part = slice(first, first + ROWS)
        place = scales[part, :, None].astype(np.uint16) << 4  # in the flat table
        found[part, :, 0::2] = table[place | (blocks[part] & 15)]
        found[part, :, 1::2] = table[place | (blocks[part] >> 4)]
    return found.reshape(rows, groups * GROUP)


@functools.cache
def _table() -> NDArray[np.uint16]:
    """bfloat16 by scale and number, (256 * 16,)."""
    numbers = np.concatenate([FP4, -FP4])
    with np.errstate(over="ignore"):
        values = np.ldexp(numbers, np.arange(256)[:, None] - 127).astype(np.float32)
    bits: NDArray[np.uint16] = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(-1)
    return bits


def _check(stored: Tensor, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    if stored.shape != shape:
        raise CheckpointError(
            f"{stored.file}: tensor {stored.name} has shape {stored.shape}; the configuration asks for {shape}"
        )
    if stored.dtype not in dtypes:
        raise CheckpointError(
            f"{stored.file}: tensor {stored.name} has dtype {stored.dtype}; known are {', '.join(dtypes)}"
        )
