"""Checkpoints as GPTQ, AWQ and compressed-tensors store them, written element by element from the layouts' rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel

__all__ = ["DTYPE", "MODEL", "Parts", "awq", "bits_of_floats", "fp8", "gptq", "integers", "packed", "stream", "write"]

MODEL = RandomModel(hidden=128, heads=4, kv_heads=2, vocab=61, layers=1, intermediate=256)
AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
DTYPE = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32", "int64": "I64", "int8": "I8"}
Parts = dict[str, tuple[str, NDArray[Any]]]  # dtype and values by the end of the name
Made = tuple[Parts, NDArray[np.float32]]  # and the floats that they stand for
Rng = np.random.Generator


def stream(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Codes (rows, count) as words, as one number of many bits a row."""
    rows, count = codes.shape
    words = -(-count * bits // 32)
    found = np.zeros((rows, words), np.uint32)
    for row in range(rows):
        whole = sum(int(code) << (bits * place) for place, code in enumerate(codes[row]))
        for word in range(words):
            found[row, word] = (whole >> (32 * word)) & 0xFFFFFFFF
    return found.view(np.int32)


def bits_of_floats(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 cut to bfloat16."""
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


def _values(codes: Any, zeros: Any, scales: Any, places: Any) -> NDArray[np.float32]:
    """(outputs, inputs): (code - zero) * scale, one by one column."""
    found = np.empty(codes.shape, np.float32)
    for column, group in enumerate(places):
        difference = (codes[:, column].astype(np.int64) - zeros[:, group].astype(np.int64)).astype(np.float32)
        found[:, column] = difference * scales[:, group].astype(np.float32)
    return found


def gptq(
    rng: Rng, outputs: int, inputs: int, bits: int, group: int, *, v2: bool = False, order: bool = False,
    symmetric: bool = False, uneven: bool = False,
) -> Made:  # fmt: skip
    groups = 1 if group < 0 else inputs // group
    codes = rng.integers(0, 1 << bits, (outputs, inputs))
    stored = rng.integers(0, 1 << bits, (outputs, groups))
    if symmetric:
        stored[:] = (1 << (bits - 1)) - (0 if v2 else 1)
    scales = rng.uniform(0.001, 0.1, (outputs, groups)).astype(np.float16)
    places = np.arange(inputs) * groups // inputs
    if order:
        places = rng.integers(0, groups, inputs) if uneven else rng.permutation(places)
    values = _values(codes, stored + (0 if v2 else 1), scales, places)
    return {
        "qweight": ("I32", stream(codes, bits).T),
        "qzeros": ("I32", stream(stored.T, bits)),
        "scales": ("F16", scales.T),
        "g_idx": ("I32", places.astype(np.int32)),
    }, values


def awq(rng: Rng, outputs: int, inputs: int, group: int) -> Made:
    groups = 1 if group < 0 else inputs // group
    codes, zeros = rng.integers(0, 16, (outputs, inputs)), rng.integers(0, 16, (outputs, groups))
    scales = rng.uniform(0.001, 0.1, (outputs, groups)).astype(np.float16)

    def words(numbers: NDArray[Any]) -> NDArray[np.int32]:
        rows, count = numbers.shape
        found = np.zeros((rows, count // 8), np.uint32)
        for word in range(count // 8):
            for place, which in enumerate(AWQ_PLACES):
                found[:, word] |= numbers[:, 8 * word + which].astype(np.uint32) << np.uint32(4 * place)
        return found.view(np.int32)

    parts = {"qweight": words(codes.T), "qzeros": words(zeros.T), "scales": scales.T}
    values = _values(codes, zeros, scales, np.arange(inputs) * groups // inputs)
    return {name: (DTYPE[str(part.dtype)], part) for name, part in parts.items()}, values


def packed(
    rng: Rng, outputs: int, inputs: int, bits: int, group: int, *, zeros: str = "", order: bool = False,
    half: str = "BF16",
) -> Made:  # fmt: skip
    """`zeros`: how zero points are stored, I32 or I8; none otherwise."""
    groups, offset = 1 if group < 0 else inputs // group, 1 << (bits - 1)
    integers = rng.integers(-offset, offset, (outputs, inputs))
    points = rng.integers(-offset, offset, (outputs, groups)) if zeros else np.zeros((outputs, groups), np.int64)
    scales = rng.uniform(0.001, 0.1, (outputs, groups)).astype(np.float32)
    stored: NDArray[Any] = scales
    if half == "BF16":
        stored = bits_of_floats(scales)
        scales = (stored.astype(np.uint32) << 16).view(np.float32)
    elif half == "F16":
        stored = scales = scales.astype(np.float16)
    places = np.arange(inputs) * groups // inputs
    parts: Parts = {
        "weight_packed": ("I32", stream(integers + offset, bits)),
        "weight_shape": ("I64", np.array([outputs, inputs])),
        "weight_scale": (half, stored),
    }
    if zeros:
        parts["weight_zero_point"] = (
            ("I8", points.astype(np.int8)) if zeros == "I8" else ("I32", stream((points + offset).T, bits).T)
        )
    if order:
        places = rng.permutation(places)
        parts["weight_g_idx"] = ("I32", places.astype(np.int32))
    return parts, _values(integers, points, scales, places)


def integers(rng: Rng, outputs: int, inputs: int, shape: tuple[int, ...], *, zeros: bool = False) -> Made:
    """W8A8: int8 with a scale a matrix, a row or a group."""
    weight = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, shape).astype(np.float32)
    points = rng.integers(-128, 128, shape).astype(np.int8) if zeros else np.zeros(shape, np.int8)
    parts: Parts = {
        "weight": ("I8", weight), "weight_scale": ("F32", scales), "input_scale": ("F32", np.ones(1, np.float32)),
    }  # fmt: skip
    if zeros:
        parts["weight_zero_point"] = ("I8", points)
    wide = [np.broadcast_to(each.reshape(shape if len(shape) == 2 else (-1, 1)), (outputs, shape[1] if len(shape) == 2
            else 1)) for each in (points, scales)]  # fmt: skip
    groups = wide[0].shape[1]
    return parts, _values(weight, wide[0], wide[1], np.arange(inputs) * groups // inputs)


def fp8(
    rng: Rng, outputs: int, inputs: int, shape: tuple[int, ...], block: tuple[int, int], name: str = "weight_scale"
) -> Made:
    """e4m3 with a scale for each block of rows and columns."""
    codes = rng.integers(0, 256, (outputs, inputs)).astype(np.uint8)
    codes[codes & 127 == 127] = 0
    scales = rng.uniform(0.001, 0.1, shape).astype(np.float32)
    table = scales.reshape(-(-outputs // block[0]), -(-inputs // block[1]))
    values = np.empty(codes.shape, np.float32)
    for i in range(outputs):
        for j in range(inputs):
            code = int(codes[i, j])
            exponent, fraction = (code >> 3) & 15, code & 7
            size = 2.0 ** (exponent - 7) * (1 + fraction / 8) if exponent else 2.0**-6 * fraction / 8
            values[i, j] = np.float32(-size if code >> 7 else size) * table[i // block[0], j // block[1]]
    return {"weight": ("F8_E4M3", codes), name: ("F32", scales)}, values


def write(
    folder: Path,
    config: dict[str, Any],
    make: Callable[[str, int, int], Made | None],
    model: RandomModel = MODEL,
    extra: Parts | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Writes a checkpoint of which `make` quantises the matrices by name (None: it stays); returns their floats."""
    model.write_checkpoint(folder)
    table: dict[str, tuple[str, NDArray[Any]]] = {}
    floats = {}
    for name, shape in model.spec().tensor_shapes().items():
        made = make(name, *shape) if name.endswith("_proj.weight") else None
        if made is None:
            table[name] = ("F32", model.tensor(name).raw)
            continue
        parts, floats[name] = made
        table |= {f"{name.removesuffix('weight')}{end}": part for end, part in parts.items()}
    table |= extra or {}
    layout = {name: (dtype, array.shape) for name, (dtype, array) in table.items()}
    write_safetensors(folder / "model.safetensors", layout, ((name, array) for name, (_, array) in table.items()))
    (folder / "specification.json").unlink()
    whole = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(whole))
    return floats
