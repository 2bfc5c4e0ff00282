"""GPTQ and AWQ: codes of 2, 3, 4 or 8 bits in words of 32, with a scale and a zero point for each group of inputs.

GPTQ (Frantar et al. 2022, as AutoGPTQ and GPTQModel have it): `qweight` (inputs * bits / 32, outputs), packed along the
inputs; `qzeros` (groups, outputs * bits / 32), packed along the outputs, less 1 in the format `gptq`, as they are in
`gptq_v2`; `scales` (groups, outputs); `g_idx` (inputs,), the group of each input, which counts wherever it is there.
value = (code - zero) * scale.

AWQ (Lin et al. 2023, AutoAWQ's order `gemm`): `qweight` (inputs, outputs / 8) and `qzeros` (groups, outputs / 8), both
packed along the outputs, of which a word has 0, 2, 4, 6, 1, 3, 5, 7; `scales` (groups, outputs). The same values.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.code_words import packed_words, unpacked_codes
from cutset.models.files.fields import Fields
from cutset.models.files.grouped import CODE_BITS, GroupedWeight, GroupScales
from cutset.models.files.modules import SCALES, Module, form_of, modules, place_groups
from cutset.models.files.tensor import Tensor

__all__ = ["read_awq", "read_gptq"]

GPTQ_BITS = (2, 3, 4, 8)
WORDS = ("I32", "U32")
AWQ_ORDER = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])  # where in a word an output lies

Codes = NDArray[np.uint8]


def read_gptq(config: Fields, rest: dict[str, Tensor]) -> None:
    """Puts weights in the place of GPTQ's tensors. Raises CheckpointError or ArchitectureError."""
    bits, group = _bits(config, "bits", GPTQ_BITS), _group(config, "group_size")
    name = config.value("checkpoint_format", config.value("format"))
    if name not in (None, "gptq", "gptq_v2"):
        raise config.wrong("checkpoint_format", "gptq or gptq_v2")
    if config.value("is_marlin_format"):
        raise config.wrong("is_marlin_format", "false: that order of weights isn't read")
    rotation = config.value("rotation")
    if rotation:
        raise config.wrong("rotation", "null: rotated weights aren't read")
    less = 0 if name == "gptq_v2" else 1
    several = bool(config.value("dynamic"))  # modules of other bits and groups
    for module in modules(rest, "qweight"):
        qweight, qzeros = module.need("qweight", WORDS, 2), module.need("qzeros", WORDS, 2)
        scales, indices = module.need("scales", SCALES, 2), module.take("g_idx", ("I32", "I64"), 1)
        groups, outputs = scales.shape
        own = _own_bits(module, qzeros, outputs) if several else bits
        inputs = qweight.shape[0] * 32 // own
        module.check(qweight, (packed_words(inputs, own), outputs))
        module.check(qzeros, (groups, packed_words(outputs, own)), f" for codes of {own} bits")
        size = module.group_of(inputs, groups, None if several else group)
        if outputs * own % 32:
            module.wrong(f" has {outputs} outputs, which fill no words with codes of {own} bits")
        places = module.order_of(indices, inputs, groups)
        read = partial(_gptq_weight, module, qweight, qzeros, scales, own, size, less)
        place_groups(module, (outputs, inputs), form_of("GPTQ", own, size, inputs), read, places)


def read_awq(config: Fields, rest: dict[str, Tensor]) -> None:
    """Puts weights in the place of AWQ's tensors. Raises CheckpointError or ArchitectureError."""
    bits, group = ("bits", "group_size") if config.has("bits") else ("w_bit", "q_group_size")
    _bits(config, bits, (4,))
    stated = _group(config, group)
    version = config.value("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise config.wrong("version", "gemm, the one order that is read")
    for module in modules(rest, "qweight"):
        qweight, qzeros = module.need("qweight", WORDS, 2), module.need("qzeros", WORDS, 2)
        scales = module.need("scales", SCALES, 2)
        (inputs, words), (groups, outputs) = qweight.shape, scales.shape
        if outputs % 8 or words * 8 != outputs:
            module.wrong(f".qweight has shape {qweight.shape}, which doesn't hold {outputs} outputs of 4 bits")
        module.check(qzeros, (groups, words))
        size = module.group_of(inputs, groups, stated)
        read = partial(_awq_weight, qweight, qzeros, scales, size)
        place_groups(module, (outputs, inputs), form_of("AWQ", 4, size, inputs), read, None)


def _gptq_weight(
    module: Module, qweight: Tensor, qzeros: Tensor, scales: Tensor, bits: int, group: int, less: int
) -> GroupedWeight:
    outputs = scales.shape[1]
    codes = unpacked_codes(qweight.raw.T, bits, qweight.shape[0] * 32 // bits)
    zeros = unpacked_codes(qzeros.raw, bits, outputs).T.astype(np.uint16) + np.uint16(less)
    return _weight(module, codes, bits, group, scales, zeros)


def _awq_weight(qweight: Tensor, qzeros: Tensor, scales: Tensor, group: int) -> GroupedWeight:
    codes, zeros = (_awq_codes(tensor) for tensor in (qweight, qzeros))
    return _weight(None, codes, 4, group, scales, zeros)


def _awq_codes(tensor: Tensor) -> Codes:
    """(outputs, inputs or groups)"""
    rows, words = tensor.shape
    codes = unpacked_codes(tensor.raw, 4, 8 * words).reshape(rows, words, 8)[..., AWQ_ORDER]
    return np.ascontiguousarray(codes.reshape(rows, -1).T)


def _weight(
    module: Module | None, codes: Codes, bits: int, group: int, scales: Tensor, zeros: NDArray[np.integer]
) -> GroupedWeight:
    """The weight of codes (outputs, inputs) and zeros (outputs, groups)."""
    factors = scales_of(scales, scales.raw.T if scales.dtype != "BF16" else scales.float32().T)
    kept = next(size for size in CODE_BITS if size >= bits)
    codes = np.ascontiguousarray(codes)
    if zeros.size and (zeros == zeros.flat[0]).all() and zeros.flat[0] < 256:
        return GroupedWeight(codes, kept, group, factors, int(zeros.flat[0]))  # symmetric
    if not zeros.size or zeros.max() < 256:
        return GroupedWeight(codes, kept, group, factors, np.ascontiguousarray(zeros, np.uint8))
    if scales.dtype == "F32":
        assert module is not None
        module.wrong(".qzeros has zero points of 256, which are read only with scales of 16 bits")
    # A zero point of 256 needs 9 bits. With scales of 16 bits both products and their sum are exact in float32.
    minima = GroupScales(-(zeros.astype(np.float32) * factors.float32()))
    return GroupedWeight(codes, kept, group, factors, 0, minima)


def scales_of(tensor: Tensor, values: NDArray[Any]) -> GroupScales:
    """Scales (outputs, groups) of float16 as they are, others in float32. Raises CheckpointError where one isn't
    finite."""
    if not np.isfinite(values).all():
        raise CheckpointError(f"{tensor.file}: {tensor.name} has scales that aren't finite")
    return GroupScales(np.ascontiguousarray(values))


def _own_bits(module: Module, qzeros: Tensor, outputs: int) -> int:
    bits = qzeros.shape[1] * 32 // outputs if outputs else 0
    if bits not in GPTQ_BITS:
        module.wrong(f".qzeros has shape {qzeros.shape}, of which {outputs} outputs have no known number of bits")
    return bits


def _bits(config: Fields, name: str, known: tuple[int, ...]) -> int:
    bits = config.integer(name, most=64)
    if bits not in known:
        raise config.wrong(name, " or ".join(map(str, known)))
    return bits


def _group(config: Fields, name: str) -> int:
    group = config.value(name, 128)
    if type(group) is not int or (group != -1 and not 1 <= group <= 1 << 24):
        raise config.wrong(name, "-1 or a number of columns")
    return group
