"""What the types of GGUF's tensors are: blocks of a row's weights, cut into codes, scales and minima. Never rounded.

The layouts are those of ggml (ggml-common.h); floats of each equal what the gguf package's dequantiser makes of the
same bytes, bit for bit. A field named V16 is 16 bytes, moved as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.grouped import GroupedWeight, GroupScales

__all__ = ["BLOCKS", "TYPE_NAMES", "BlockType", "cut"]

Bytes = NDArray[np.uint8]
Blocks = NDArray[Any]  # structured: (rows, blocks)
Scales = tuple[GroupScales, GroupScales | None]  # and minima

AT_ONCE = 1 << 20  # codes made at a time: temporaries stay in the cache
LOW_HALVES = np.uint64(0x0F0F0F0F0F0F0F0F)
LOW_PAIRS = np.uint64(0x0303030303030303)
LOW_BITS = np.uint64(0x0101010101010101)
NONLINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
FP4_TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # e2m1 times two


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of tensors. Those of floats have `dtype`, the others what a GroupedWeight needs."""

    name: str
    weights: int  # of a block
    nbytes: int  # of a block
    dtype: str = ""  # of safetensors: F32, F16, BF16
    layout: np.dtype[Any] | None = None
    bits: int = 0
    group: int = 0
    zeros: int = 0
    levels: NDArray[np.int8] | None = None
    codes: Callable[[Blocks, Bytes], None] | None = None  # of blocks (n,) into (n, weights)
    scales: Callable[[Blocks], Scales] | None = None

    @property
    def bits_per_weight(self) -> float:
        """With scales and all."""
        return 8 * self.nbytes / self.weights


def cut(kind: BlockType, data: Bytes) -> GroupedWeight:
    """The codes and factors of rows as a file has them, (rows, bytes of a row)."""
    assert kind.layout is not None
    assert kind.codes is not None
    assert kind.scales is not None
    rows, row_bytes = data.shape
    blocks = data.view(kind.layout)  # (rows, blocks)
    codes = np.empty((rows, row_bytes // kind.nbytes * kind.weights), np.uint8)
    step = max(1, AT_ONCE // codes.shape[1])
    for first in range(0, rows, step):
        part = slice(first, first + step)
        kind.codes(blocks[part].reshape(-1), codes[part].reshape(-1, kind.weights))
    scales, minima = kind.scales(blocks)
    return GroupedWeight(codes, kind.bits, kind.group, scales, kind.zeros, minima, kind.levels)


def _words(field: NDArray[Any]) -> NDArray[np.uint64]:
    """A copy of the bytes of a field (n,) as (n, words)."""
    return field.copy().view(np.uint64).reshape(len(field), -1)


def _halves(field: NDArray[Any], out: Bytes, piece: int) -> None:
    """Codes of 4 bits: the low halves of `piece` bytes, then their high halves, then those of the next."""
    words = _words(field)
    size = np.dtype(("V", piece))
    parts = out.view(size).reshape(-1, 2)  # (n * pieces, low and high)
    parts[:, 0] = (words & LOW_HALVES).view(size).reshape(-1)
    words >>= np.uint64(4)
    words &= LOW_HALVES
    parts[:, 1] = words.view(size).reshape(-1)


def _quarters(field: NDArray[Any]) -> NDArray[np.uint64]:
    """Two bits of each of 32 bytes after the other: (n, 2, 4, 4 words of 8 codes), of 64 bytes."""
    words = _words(field).reshape(-1, 2, 1, 4)
    shifts = np.arange(0, 8, 2, dtype=np.uint64)[:, None]
    found = words >> shifts
    found &= LOW_PAIRS
    return found


def _bits(field: NDArray[Any]) -> NDArray[np.uint64]:
    """One bit of each of 32 bytes after the other: (n, 8, 4 words of 8 codes)."""
    words = _words(field).reshape(-1, 1, 4)
    found = words >> np.arange(8, dtype=np.uint64)[:, None]
    found &= LOW_BITS
    return found


def _add(out: Bytes, more: NDArray[np.uint64], shift: int) -> None:
    """Puts higher bits into codes."""
    more <<= np.uint64(shift)
    wide = out.reshape(-1).view(np.uint64)
    wide |= more.reshape(-1)


def _codes_q8_0(blocks: Blocks, out: Bytes) -> None:
    signed = np.ascontiguousarray(blocks["qs"]).view(np.uint8).reshape(out.shape)
    np.bitwise_xor(signed, 128, out=out)  # int8 + 128


def _codes_halves(blocks: Blocks, out: Bytes) -> None:
    _halves(blocks["qs"], out, 16)


def _codes_q5(blocks: Blocks, out: Bytes) -> None:
    _halves(blocks["qs"], out, 16)
    high = np.ascontiguousarray(blocks["qh"]).view(np.uint8)
    _add(out, np.unpackbits(high, bitorder="little").view(np.uint64), 4)


def _codes_q4_k(blocks: Blocks, out: Bytes) -> None:
    _halves(blocks["qs"], out, 32)


def _codes_q5_k(blocks: Blocks, out: Bytes) -> None:
    _halves(blocks["qs"], out, 32)
    _add(out, _bits(blocks["qh"]), 4)


def _codes_q6_k(blocks: Blocks, out: Bytes) -> None:
    _halves(blocks["ql"], out, 64)
    _add(out, _quarters(blocks["qh"]), 4)


def _codes_q2_k(blocks: Blocks, out: Bytes) -> None:
    out.view(np.uint64)[...] = _quarters(blocks["qs"]).reshape(len(out), -1)


def _codes_q3_k(blocks: Blocks, out: Bytes) -> None:
    _codes_q2_k(blocks, out)
    _add(out, _bits(blocks["hmask"]), 2)


def _one(blocks: Blocks) -> Scales:
    return GroupScales(blocks["d"].astype(np.float16)), None


def _with_minimum(blocks: Blocks) -> Scales:
    return GroupScales(blocks["d"].astype(np.float16)), GroupScales(blocks["m"].astype(np.float16))


def _steps(blocks: Blocks, steps: NDArray[Any]) -> GroupScales:
    return GroupScales(blocks["d"].astype(np.float16), steps.reshape(len(blocks), -1))


def _lessened(blocks: Blocks, steps: NDArray[Any]) -> GroupScales:
    """Minima that the format subtracts."""
    return GroupScales(-blocks["dmin"].astype(np.float16), steps.reshape(len(blocks), -1))


def _scales_q2_k(blocks: Blocks) -> Scales:
    both = _words(blocks["scales"].reshape(-1))
    return (
        _steps(blocks, (both & LOW_HALVES).view(np.uint8)),
        _lessened(blocks, (both >> np.uint64(4) & LOW_HALVES).view(np.uint8)),
    )


def _scales_q3_k(blocks: Blocks) -> Scales:
    """6 bits each: the low halves of 8 bytes, then their high halves; two bits more in 4 bytes, quarter by quarter."""
    first, second, high = (blocks["scales"][..., word].astype(np.uint32) for word in range(3))
    low = (first, second, first >> np.uint32(4), second >> np.uint32(4))
    words = np.empty((*blocks.shape, 4), np.uint32)
    for part in range(4):
        pairs = (high >> np.uint32(2 * part)) & np.uint32(0x03030303)
        words[..., part] = low[part] & np.uint32(0x0F0F0F0F) | pairs << np.uint32(4)
    return _steps(blocks, words.view(np.int8) - np.int8(32)), None


def _scales_q4_k(blocks: Blocks) -> Scales:
    """6 bits each: four of each kind whole in bytes, whose upper bits are those of the next four."""
    scales, minima, both = (blocks["scales"][..., word].astype(np.uint32) for word in range(3))
    words = np.empty((2, *blocks.shape, 2), np.uint32)
    for kind, whole in enumerate((scales, minima)):
        rest = both >> np.uint32(4 * kind) & np.uint32(0x0F0F0F0F)
        words[kind, ..., 0] = whole & np.uint32(0x3F3F3F3F)
        words[kind, ..., 1] = rest | whole >> np.uint32(2) & np.uint32(0x30303030)
    return _steps(blocks, words[0].view(np.uint8)), _lessened(blocks, words[1].view(np.uint8))


def _scales_q6_k(blocks: Blocks) -> Scales:
    return _steps(blocks, blocks["scales"].copy().view(np.int8)), None


def _scales_iq4_xs(blocks: Blocks) -> Scales:
    low = np.stack([blocks["low"] & 15, blocks["low"] >> 4], axis=-1).reshape(*blocks.shape, 8)
    high = (blocks["high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    return _steps(blocks, (low | high << 4).astype(np.int8) - np.int8(32)), None


def _scales_mxfp4(blocks: Blocks) -> Scales:
    """Half of the powers of two that the bytes are exponents of: the levels are twice the numbers."""
    exponents = blocks["e"].astype(np.uint32)
    bits = np.where(exponents < 2, np.uint32(0x00200000) << exponents, (exponents - np.uint32(1)) << np.uint32(23))
    return GroupScales(bits.view(np.float32)), None


def _block(name: str, weights: int, fields: str, bits: int, group: int, **more: Any) -> BlockType:
    """`fields`: name and numpy's type of each, in the order of the bytes."""
    pairs = [tuple(field.split(":")) for field in fields.split()]
    layout = np.dtype([(called, np.dtype(kind)) for called, kind in pairs])
    return BlockType(name, weights, layout.itemsize, layout=layout, bits=bits, group=group, **more)


# By the numbers that files have for them.
BLOCKS: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4, "F32"),
    1: BlockType("F16", 1, 2, "F16"),
    30: BlockType("BF16", 1, 2, "BF16"),
    2: _block("Q4_0", 32, "d:<f2 qs:V16", 4, 32, zeros=8, codes=_codes_halves, scales=_one),
    3: _block("Q4_1", 32, "d:<f2 m:<f2 qs:V16", 4, 32, codes=_codes_halves, scales=_with_minimum),
    6: _block("Q5_0", 32, "d:<f2 qh:V4 qs:V16", 5, 32, zeros=16, codes=_codes_q5, scales=_one),
    7: _block("Q5_1", 32, "d:<f2 m:<f2 qh:V4 qs:V16", 5, 32, codes=_codes_q5, scales=_with_minimum),
    8: _block("Q8_0", 32, "d:<f2 qs:V32", 8, 32, zeros=128, codes=_codes_q8_0, scales=_one),
    10: _block("Q2_K", 256, "scales:V16 qs:V64 d:<f2 dmin:<f2", 4, 16, codes=_codes_q2_k, scales=_scales_q2_k),
    11: _block(
        "Q3_K", 256, "hmask:V32 qs:V64 scales:3<u4 d:<f2", 4, 16, zeros=4, codes=_codes_q3_k, scales=_scales_q3_k
    ),
    12: _block("Q4_K", 256, "d:<f2 dmin:<f2 scales:3<u4 qs:V128", 4, 32, codes=_codes_q4_k, scales=_scales_q4_k),
    13: _block("Q5_K", 256, "d:<f2 dmin:<f2 scales:3<u4 qh:V32 qs:V128", 5, 32, codes=_codes_q5_k, scales=_scales_q4_k),
    14: _block("Q6_K", 256, "ql:V128 qh:V64 scales:V16 d:<f2", 6, 16, zeros=32, codes=_codes_q6_k, scales=_scales_q6_k),
    20: _block("IQ4_NL", 32, "d:<f2 qs:V16", 4, 32, levels=NONLINEAR, codes=_codes_halves, scales=_one),
    23: _block(
        "IQ4_XS",
        256,
        "d:<f2 high:<u2 low:4u1 qs:V128",
        4,
        32,
        levels=NONLINEAR,
        codes=_codes_halves,
        scales=_scales_iq4_xs,
    ),
    39: _block("MXFP4", 32, "e:u1 qs:V16", 4, 32, levels=FP4_TWICE, codes=_codes_halves, scales=_scales_mxfp4),
}

# The others that ggml has names for.
TYPE_NAMES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4",
    32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
