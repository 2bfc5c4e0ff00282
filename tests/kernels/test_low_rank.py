"""Products with matrices of a low rank, as floats, bfloat16 or bytes: on every instruction set, to the bit by rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cutset.kernels._native as native
from kernels.comparing import ISAS, Floats, close, floats, nothing


@pytest.fixture(params=ISAS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def halved(values: Floats) -> Floats:
    """Numbers of bfloat16."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def drawn(rng: np.random.Generator, kind: str, outputs: int, depth: int) -> Floats:
    """A matrix that is kept as floats, bfloat16 or bytes."""
    if kind == "bytes":
        return rng.integers(-127, 128, (outputs, depth)).astype(np.float32)
    weight = floats(rng, outputs, depth)
    return halved(weight) if kind == "bfloat16" else weight


@pytest.mark.parametrize("kind", ["floats", "bfloat16", "bytes"])
@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (3, 40), (16, 129), (37, 16), (64, 3), (133, 37), (48, 1026)])
def test_thin_product(instructions: str, outputs: int, depth: int, kind: str) -> None:
    rng = np.random.default_rng(outputs)
    x, weight = floats(rng, 19, depth), drawn(rng, kind, outputs, depth)
    out = nothing(19, outputs)
    native.thin_product(x, weight, out)
    size = np.abs(weight).max()
    close(out / size, (x.astype(np.float64) @ weight.T.astype(np.float64) / size).astype(np.float32), 5e-5)
    for rows in (slice(0, 1), slice(2, 5), slice(7, 18)):
        part = nothing(rows.stop - rows.start, outputs)
        native.thin_product(np.ascontiguousarray(x[rows]), weight, part)
        np.testing.assert_array_equal(part, out[rows])


def test_a_form_changes_no_bit(instructions: str) -> None:
    """Each is one chain of multiply-adds of the same numbers: a number beside them that is no byte's makes floats."""
    rng = np.random.default_rng(5)
    for kind in ("bfloat16", "bytes"):
        x, weight = floats(rng, 5, 37), drawn(rng, kind, 33, 37)
        wider = np.concatenate([weight, np.full((1, 37), 0.1, np.float32)])
        small, large = nothing(5, 33), nothing(5, 34)
        native.thin_product(x, weight, small)
        native.thin_product(x, wider, large)
        np.testing.assert_array_equal(small, large[:, :33])


@pytest.mark.parametrize("kind", ["floats", "bfloat16", "bytes"])
@pytest.mark.parametrize(("outputs", "rank"), [(1, 1), (16, 3), (37, 16), (70, 5), (256, 16), (133, 66)])
def test_thin_add(instructions: str, outputs: int, rank: int, kind: str) -> None:
    """Any piece of the outputs and rows gets what the whole gets, and nothing beside it is touched."""
    rng = np.random.default_rng(outputs)
    x, weight, before = floats(rng, 19, rank), drawn(rng, kind, outputs, rank), floats(rng, 19, outputs)
    whole = before.copy()
    native.thin_add(x, weight, 0, 0.5, whole)
    expected = before + 0.5 * (x.astype(np.float64) @ weight.T.astype(np.float64))
    size = np.abs(weight).max()
    close(whole / size, (expected / size).astype(np.float32), 5e-5)
    for low, high in ((0, 1), (0, outputs), (outputs // 3, outputs), (outputs // 5, outputs // 2 + 1)):
        for rows in (slice(0, 19), slice(3, 4), slice(7, 13)):
            part = before[rows, low:high].copy()
            native.thin_add(np.ascontiguousarray(x[rows]), weight, low, 0.5, part)
            np.testing.assert_array_equal(part, whole[rows, low:high])


def test_one_number_that_is_no_bfloat16_keeps_all_as_they_are() -> None:
    weight = np.ones((17, 5), np.float32)
    weight[16, 4] = np.nextafter(np.float32(1), np.float32(2))
    out = nothing(1, 17)
    native.thin_product(np.array([[0, 0, 0, 0, 1]], np.float32), weight, out)
    np.testing.assert_array_equal(out[0], weight[:, 4])


def test_numbers_that_are_none_stay_so() -> None:
    weight = np.array([[np.nan, 1], [np.inf, 1], [-0.0, 1]], np.float32)
    out = nothing(1, 3)
    native.thin_product(np.array([[1, 0]], np.float32), weight, out)
    assert np.isnan(out[0, 0])
    assert np.isposinf(out[0, 1])
    assert out[0, 2] == 0
