"""Tensors as plain arrays and back: the same codes and numbers, whatever format they came in; damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import CheckpointError
from cutset.models.files.grouped import GroupedTensor, GroupedWeight, GroupScales
from cutset.models.files.pieces import TensorForm, TensorPieces, join
from cutset.models.files.tensor import Tensor

HERE = Path("model")


def grouped(seed: int, bits: int, *, outputs: int = 3, inputs: int = 64, group: int = 32, **more: Any) -> GroupedWeight:
    random = np.random.default_rng(seed)
    groups = inputs // group
    factors = random.standard_normal((outputs, groups)).astype(np.float16)
    codes = random.integers(0, 1 << bits, (outputs, inputs)).astype(np.uint8)
    return GroupedWeight(codes, bits, group, GroupScales(factors), **more)


def full(seed: int) -> GroupedWeight:
    """One with everything that a form may have."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((5, 1)).astype(np.float32)
    steps = random.integers(0, 60, (5, 4)).astype(np.uint8)
    return GroupedWeight(
        random.integers(0, 16, (5, 128)).astype(np.uint8),
        4,
        32,
        GroupScales(values, steps),
        random.integers(0, 16, (5, 4)).astype(np.uint8),
        GroupScales(-values, steps[:, ::-1].copy()),
        random.integers(-9, 9, 16).astype(np.int8),
        random.permutation(128).astype(np.int32),
    )


def through(tensor: Tensor) -> Tensor:
    pieces = TensorPieces({"t": tensor})
    sent = {name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape) for name, array in pieces.items()}
    return join("t", pieces.form("t"), sent, HERE)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I8", "F64"])
def test_plain_tensors_keep_their_bits(dtype: str) -> None:
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "F64": np.float64}[dtype]
    raw = np.random.default_rng(1).integers(0, 100, (3, 5)).astype(kind)
    back = through(Tensor("t", HERE, dtype, raw))
    assert (back.dtype, back.shape) == (dtype, (3, 5))
    assert np.array_equal(back.raw, raw)


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("outputs", [1, 3])
def test_codes_keep_their_bits(bits: int, outputs: int) -> None:
    weight = grouped(bits, bits, outputs=outputs, inputs=34 * 16 + 2 if bits == 8 else 48, group=2 if bits == 8 else 16)
    back = through(GroupedTensor("t", HERE, weight.shape, "Q", lambda: weight))
    assert isinstance(back, GroupedTensor)
    assert np.array_equal(back.grouped().codes, weight.codes)
    assert np.array_equal(back.raw, weight.float32())


def test_every_part_of_a_form_comes_back() -> None:
    weight = full(3)
    pieces = TensorPieces({"t": GroupedTensor("t", HERE, weight.shape, "Q4_K", lambda: weight)})
    assert pieces["t#codes"].nbytes * 2 == weight.codes.size, "two codes of 4 bits share a byte"
    back = join("t", pieces.form("t"), dict(pieces), HERE)
    assert isinstance(back, GroupedTensor)
    found = back.grouped()
    assert found.scales.values.dtype == np.float32
    for ours, theirs in ((found.zeros, weight.zeros), (found.levels, weight.levels), (found.order, weight.order)):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(found.float32(), weight.float32())
    assert pieces.dtype("t#order") == "int32"


def test_a_zero_point_of_all_groups_comes_back() -> None:
    weight = grouped(0, 4, zeros=8)
    back = through(GroupedTensor("t", HERE, weight.shape, "Q4_0", lambda: weight))
    assert isinstance(back, GroupedTensor)
    assert back.grouped().zeros == 8
    assert np.array_equal(back.raw, weight.float32())


def damaged() -> list[tuple[TensorForm, dict[str, Any]]]:
    weight = full(5)
    pieces = TensorPieces({"t": GroupedTensor("t", HERE, weight.shape, "Q", lambda: weight)})
    form, arrays = pieces.form("t"), dict(pieces)
    forms = [
        TensorForm("F32", (5, 127), 4, 32),
        TensorForm("F32", (5, 128), 3, 32),
        TensorForm("F32", (1 << 40, 1 << 40), 4, 32),
        TensorForm("F32", (5,), 4, 32),
        TensorForm("F32", (5, 128), 4, 0),
        TensorForm("X9", (5, 128)),
    ]
    changed = [
        arrays | {"t#codes": arrays["t#codes"][:-1]},
        arrays | {"t#scales": arrays["t#scales"][:-1]},
        arrays | {"t#zeros": arrays["t#zeros"][:, :-1]},
        arrays | {"t#levels": arrays["t#levels"][:-1]},
        arrays | {"t#order": arrays["t#order"].astype(np.int64)},
        {name: array for name, array in arrays.items() if name != "t#codes"},
    ]
    return [(one, arrays) for one in forms] + [(form, one) for one in changed]


@pytest.mark.parametrize("number", range(12))
def test_what_does_not_fit_is_refused(number: int) -> None:
    form, arrays = damaged()[number]
    with pytest.raises(CheckpointError):
        join("t", form, arrays, HERE)


def test_a_plain_tensor_of_another_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match="came as"):
        join("t", TensorForm("F32", (3, 4)), {"t": np.zeros((4, 3), np.float32)}, HERE)
    with pytest.raises(CheckpointError, match="can't be sent"):
        TensorPieces({"t": Tensor("t", HERE, "F8_E4M3", np.zeros(3, np.uint8))}).form("t")
