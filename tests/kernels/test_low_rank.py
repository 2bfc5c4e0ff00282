"""Products with matrices of a low rank, kept as floats or bfloat16: on every instruction set, to the bit by rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cutset.kernels._native as native
from kernels.test_glue import ISAS, Floats, close, floats, nothing


@pytest.fixture(params=ISAS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def halved(values: Floats) -> Floats:
    """Numbers of bfloat16."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (3, 40), (16, 129), (37, 16), (64, 3), (133, 37)])
def test_thin_product(instructions: str, outputs: int, depth: int, half: bool) -> None:
    rng = np.random.default_rng(outputs)
    x, weight = floats(rng, 19, depth), floats(rng, outputs, depth)
    weight = halved(weight) if half else weight
    out = nothing(19, outputs)
    native.thin_product(x, weight, out)
    close(out, (x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.float32), 2e-5)
    for rows in (slice(0, 1), slice(2, 5), slice(7, 18)):
        part = nothing(rows.stop - rows.start, outputs)
        native.thin_product(np.ascontiguousarray(x[rows]), weight, part)
        np.testing.assert_array_equal(part, out[rows])


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
