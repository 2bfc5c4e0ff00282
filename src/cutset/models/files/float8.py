"""Floats of 8 bits with scales: e4m3 and e5m2 (Micikevicius et al. 2022), scaled by matrix, row, group or block.

The value is the float of 8 bits, which float32 holds exactly, times its scale, in float32. No kernel multiplies them as
they are: whoever reads them gets floats.
"""

from __future__ import annotations

import functools
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.fields import Fields
from cutset.models.files.modules import SCALES, Module, modules
from cutset.models.files.tensor import ComputedTensor, Tensor

__all__ = ["FLOAT8", "ScaledFloats", "block_of", "float8_values", "put_scaled", "read_fp8"]

FLOAT8 = ("F8_E4M3", "F8_E5M2")
ACTIVATION_SCALES = ("input_scale", "activation_scale", "input_scale_inv", "output_scale", "k_scale", "v_scale")
MOST_BLOCK = 1 << 24
ROWS = 256

Floats = NDArray[np.float32]


class ScaledFloats(ComputedTensor):
    """A weight of floats of 8 bits and their scales; `form` is what users call it."""

    __slots__ = ()

    @property
    def form(self) -> str:
        """Its dtype."""
        return self._sources[0].dtype


@functools.cache
def float8_values(dtype: str) -> Floats:
    """What each of the 256 bytes stands for, (256,)."""
    codes = np.arange(256)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    sizes = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(1.0 * fraction, -9))
    values = np.where(codes & 127 == 127, np.nan, np.where(codes < 128, sizes, -sizes))
    return values.astype(np.float32)


def read_fp8(config: Fields, rest: dict[str, Tensor]) -> None:
    """Puts floats in the place of FP8's tensors (DeepSeek-V3's layout, and a scale a matrix). Raises CheckpointError
    or ArchitectureError."""
    block = block_of(config, "weight_block_size")
    if config.value("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise config.wrong("fmt", "e4m3")
    for module in modules(rest, "weight", FLOAT8):
        weight = module.need("weight", FLOAT8, 2)
        scale = module.take("weight_scale_inv", (*SCALES, "F8_E8M0")) or module.need("weight_scale", SCALES)
        put_scaled(module, weight, scale, block)
        module.drop(*ACTIVATION_SCALES)


def block_of(config: Fields, name: str) -> tuple[int, int] | None:
    """The size of blocks that share a scale, (rows, columns)."""
    block = config.value(name)
    if block is None:
        return None
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(n) is int and 1 <= n <= MOST_BLOCK for n in block)
    ):
        raise config.wrong(name, "two numbers, rows and columns of a block")
    return block[0], block[1]


def put_scaled(module: Module, weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> None:
    """Puts a weight of 8-bit floats (rows, columns) into the table, with its scale: one, one a row, one a group of
    columns, or one a block."""
    rows, columns = weight.shape
    if rows < 1 or columns < 1:
        module.wrong(f".weight has shape {weight.shape}")
    blocks = block is not None and len(scale.shape) == 2 and tuple(
        -(-size // part) for size, part in zip((rows, columns), block, strict=True)
    ) == scale.shape  # fmt: skip
    if blocks:
        assert block is not None
        height, width = block
    else:
        shape = scale.shape if len(scale.shape) == 2 else (1, 1) if scale.shape in ((), (1,)) else (*scale.shape, 1)
        if len(shape) != 2 or shape[0] not in (1, rows) or shape[1] < 1 or columns % shape[1]:
            expected = "" if block is None else f" with blocks of {block[0]} x {block[1]}"
            module.wrong(f"{scale.name.removeprefix(module.name)} has shape {scale.shape}, which doesn't fit "
                         f"{weight.shape}{expected}")  # fmt: skip
        height, width = rows // shape[0], columns // shape[1]
    name = f"{module.name}.weight"
    module.put(
        ScaledFloats(name, (rows, columns), "F32", (weight, scale), partial(_values, weight, scale, height, width))
    )


def _values(weight: Tensor, scale: Tensor, height: int, width: int) -> Floats:
    rows, columns = weight.shape
    factors = np.ldexp(np.float32(1), scale.raw.astype(np.int32) - 127) if scale.dtype == "F8_E8M0" else scale.float32()
    factors = factors.reshape(-(-rows // height), -(-columns // width))
    numbers, found = float8_values(weight.dtype), np.empty((rows, columns), np.float32)
    for first in range(0, rows, ROWS):
        part = slice(first, first + ROWS)
        own = factors[np.arange(first, min(first + ROWS, rows)) // height]
        with np.errstate(over="ignore", invalid="ignore"):
            found[part] = numbers[weight.raw[part]] * np.repeat(own, width, axis=1)[:, :columns]
    if not np.isfinite(found).all():
        raise CheckpointError(f"{weight.file}: {weight.name} and its scales hold a NaN or an infinity")
    return found
