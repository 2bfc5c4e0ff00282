"""compressed-tensors (vLLM's library of that name), as it stores weights on disk.

pack-quantized: `weight_packed` int32 (outputs, words), packed along the inputs, the integer + 2**(bits - 1);
`weight_shape`; `weight_scale` (outputs, groups); where the groups aren't symmetric `weight_zero_point`, packed along
the outputs, or int8 by itself; `weight_g_idx` (inputs,), the group of each column, unless the columns of a group follow
each other. int-quantized: `weight` int8 (outputs, inputs) with the same scales. float-quantized: `weight` in e4m3, with
a scale for the matrix, each row, group or block. value = (integer - zero point) * scale.

Which modules are quantised, and how, follows from their tensors; the configuration says which bits there may be.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ArchitectureError
from cutset.models.files.code_words import packed_words, unpacked_codes
from cutset.models.files.fields import Fields
from cutset.models.files.float8 import ACTIVATION_SCALES, FLOAT8, block_of, put_scaled
from cutset.models.files.gptq import scales_of
from cutset.models.files.grouped import CODE_BITS, GroupedWeight
from cutset.models.files.modules import MOST_COLUMNS, SCALES, Module, form_of, modules, place_groups
from cutset.models.files.tensor import Tensor

__all__ = ["read_compressed"]

FORMATS = ("dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
PACKED_BITS = (2, 3, 4, 5, 6, 8)
DROPPED = (*ACTIVATION_SCALES, "q_scale", "input_zero_point", "output_zero_point", "input_global_scale")


def read_compressed(config: Fields, rest: dict[str, Tensor]) -> None:
    """Puts weights in the place of compressed-tensors'. Raises CheckpointError or ArchitectureError."""
    _check_format(config)
    for name in ("transform_config", "sparsity_config"):
        table = config.value(name)
        if table and not (isinstance(table, dict) and table.get("format") == "dense"):
            raise config.wrong(name, "empty: such weights aren't read")
    schemes = _schemes(config)
    bits = {scheme.integer("num_bits", 8, 1, 64) for scheme in schemes if scheme.value("type", "int") == "int"}
    block = next((size for scheme in schemes if (size := block_of(scheme, "block_structure"))), None)
    for module in modules(rest, "weight_packed"):
        _packed(module, bits)
    for module in modules(rest, "weight", ("I8",)):
        _integers(module)
    for module in modules(rest, "weight", FLOAT8):
        weight, scale = module.need("weight", FLOAT8, 2), module.need("weight_scale", SCALES)
        zeros = module.take("weight_zero_point", ("I8", *FLOAT8))
        if zeros is not None and (zeros.raw & 127).any():
            module.wrong(".weight_zero_point isn't zero")
        put_scaled(module, weight, scale, block)
    # What is about activations, keys and values alone: they are rounded here as the dtype asks for.
    for name in [name for name in rest if name.rpartition(".")[2] in DROPPED]:
        del rest[name]


def _check_format(config: Fields) -> None:
    if config.value("format", "dense") not in FORMATS:
        raise config.wrong("format", f"one of {', '.join(FORMATS)}")


def _schemes(config: Fields) -> list[Fields]:
    """How the weights of each group of modules are quantised."""
    groups = config.table("config_groups")
    if groups is None:
        raise ArchitectureError(f"{config.source}: config_groups is missing")
    found = []
    for name in groups.values:
        group = groups.table(name)
        scheme = None if group is None else group.table("weights")
        if group is None or scheme is None:
            continue
        _check_format(group)
        if scheme.value("type", "int") not in ("int", "float"):
            raise scheme.wrong("type", "int or float")
        wanted = (*PACKED_BITS,) if scheme.value("type", "int") == "int" else (8,)
        if scheme.integer("num_bits", 8, 1, 64) not in wanted:
            raise scheme.wrong("num_bits", " or ".join(map(str, wanted)))
        size = scheme.value("group_size")
        if size is not None and (type(size) is not int or not (size == -1 or 0 <= size <= MOST_COLUMNS)):
            raise scheme.wrong("group_size", "a number of columns")
        found.append(scheme)
    return found


def _packed(module: Module, known: set[int]) -> None:
    packed, sizes = module.need("weight_packed", ("I32",), 2), module.need("weight_shape", ("I64", "I32"), 1)
    scales = module.need("weight_scale", SCALES)
    module.check(sizes, (2,))
    outputs, inputs = (int(size) for size in sizes.raw)
    if not (1 <= outputs <= MOST_COLUMNS and 1 <= inputs <= MOST_COLUMNS):
        module.wrong(f".weight_shape says {outputs} x {inputs}")
    fitting = sorted(bits for bits in known if packed.shape == (outputs, packed_words(inputs, bits)))
    if not fitting:
        module.wrong(f".weight_packed has shape {packed.shape}, which doesn't hold {outputs} x {inputs} codes of "
                     f"{' or '.join(map(str, sorted(known))) or 'no'} bits")  # fmt: skip
    bits = fitting[0]
    group = _group(module, scales, outputs, inputs)
    groups = inputs // group
    zeros = module.take("weight_zero_point", ("I32", "I8"), 2)
    if zeros is not None:
        module.check(zeros, (outputs if zeros.dtype == "I8" else packed_words(outputs, bits), groups))
    indices = module.take("weight_g_idx", ("I32", "I64"), 1)
    if indices is not None and indices.raw.size and (indices.raw == -1).all():  # written so before it is known
        indices = None
    places = module.order_of(indices, inputs, groups)
    read = partial(_packed_weight, packed, scales, zeros, bits, group, (outputs, inputs))
    place_groups(module, (outputs, inputs), form_of("packed", bits, group, inputs), read, places)


def _packed_weight(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, shape: tuple[int, int]
) -> GroupedWeight:
    codes = unpacked_codes(packed.raw, bits, shape[1])
    points: NDArray[np.uint8] | int = 1 << (bits - 1)
    if zeros is not None:
        points = _offset(zeros.raw, bits) if zeros.dtype == "I8" else unpacked_codes(zeros.raw.T, bits, shape[0]).T
        points = np.ascontiguousarray(points)
    kept = next(size for size in CODE_BITS if size >= bits)
    return GroupedWeight(np.ascontiguousarray(codes), kept, group, _factors(scales, shape, group), points)


def _integers(module: Module) -> None:
    weight, scales = module.need("weight", ("I8",), 2), module.need("weight_scale", SCALES)
    outputs, inputs = weight.shape
    group = _group(module, scales, outputs, inputs)
    zeros = module.take("weight_zero_point", ("I8",))
    if zeros is not None:
        _group(module, zeros, outputs, inputs)
        if zeros.shape != scales.shape:
            module.wrong(f".weight_zero_point has shape {zeros.shape}, its scales {scales.shape}")
    indices = module.take("weight_g_idx", ("I32", "I64"), 1)
    places = module.order_of(indices, inputs, inputs // group)

    def read() -> GroupedWeight:
        shape = outputs, inputs
        points: NDArray[np.uint8] | int = 128
        if zeros is not None and zeros.raw.any():
            points = np.ascontiguousarray(np.broadcast_to(_offset(_placed(zeros.raw), 8), (outputs, inputs // group)))
        return GroupedWeight(_offset(weight.raw, 8), 8, group, _factors(scales, shape, group), points)

    place_groups(module, (outputs, inputs), form_of("int8", 8, group, inputs), read, places)


def _group(module: Module, scales: Tensor, outputs: int, inputs: int) -> int:
    """Columns that share a scale: those of a matrix, of a row, or fewer."""
    shape = scales.shape if len(scales.shape) == 2 else (*scales.shape, 1) if scales.shape else (1, 1)
    if len(shape) != 2 or shape[0] not in (1, outputs) or (shape[0] == 1 and shape[1] != 1 and outputs > 1):
        module.wrong(f"{scales.name.removeprefix(module.name)} has shape {scales.shape}, "
                     f"which doesn't fit {outputs} outputs")  # fmt: skip
    return module.group_of(inputs, shape[1], None)


def _placed(values: NDArray[Any]) -> NDArray[Any]:
    """(outputs or 1, groups)"""
    return values if values.ndim == 2 else values.reshape(-1, 1)


def _factors(scales: Tensor, shape: tuple[int, int], group: int) -> Any:
    values = _placed(scales.float32() if scales.dtype == "BF16" else scales.raw)
    return scales_of(scales, np.broadcast_to(values, (shape[0], shape[1] // group)))


def _offset(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Signed integers as codes from 0 on."""
    return (values.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
