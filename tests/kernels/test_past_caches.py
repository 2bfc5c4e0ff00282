"""Much data is written past the caches: the same numbers as little data, which isn't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cutset.kernels.native import extension

native = extension()
P = 2**31 - 1
RNG = np.random.default_rng(11)


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Any:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def aligned(rows: int, columns: int, dtype: Any) -> Any:
    """An array of that type at a multiple of 64 bytes, filled with what must not stay."""
    memory = np.full(rows * columns * np.dtype(dtype).itemsize + 64, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + memory.size - 64].view(dtype).reshape(rows, columns)


def test_mask() -> None:
    q = RNG.integers(-2047, 2048, (20, 4099)).astype(np.int16)
    r = RNG.integers(0, P, q.shape, np.uint32)
    r[0], r[1] = 0, P - 1
    expected = ((q.astype(np.int64) + r) % P).astype(np.uint32)
    np.testing.assert_array_equal(native.mask(q, r, out=aligned(*q.shape, np.uint32)), expected)
    np.testing.assert_array_equal(native.mask(q, r), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("checks", [0, 1, 2])
@pytest.mark.parametrize("outputs", [4096, 8208])
def test_settle(masked: bool, checks: int, outputs: int) -> None:
    rows = 70
    z = RNG.integers(-(2**29), 2**29, (rows, outputs)).astype(np.int32)
    pad = RNG.integers(0, P, z.shape, np.uint32)
    reply = ((z.astype(np.int64) + pad) % P).astype(np.uint32) if masked else z
    row_scales, scales = (RNG.uniform(0.5, 2, n).astype(np.float32) for n in (rows, outputs))
    secrets = RNG.integers(0, P, (max(1, checks), outputs), np.uint32)
    more: dict[str, Any] = {"pad": pad} if masked else {}
    if checks:
        more |= {"secrets": secrets, "expected": native.dots(z, secrets)}
    small = np.empty(z.shape, np.float32)
    for first in range(0, rows, 7):
        part = slice(first, first + 7)
        some = {name: value[part] if name in ("pad", "expected") else value for name, value in more.items()}
        assert native.settle(reply[part], row_scales[part], scales, small[part], **some)[0] == 0
    out = aligned(rows, outputs, np.float32)
    assert native.settle(reply, row_scales, scales, out, **more) == (0, -1, -1)
    np.testing.assert_array_equal(out, small)
    assert np.abs(out).min() >= 0
    if checks:  # one wrong element, in the last block of columns
        reply = reply.copy()
        reply[69, -1] = (int(reply[69, -1]) + 1) % P if masked else reply[69, -1] + 1
        assert native.settle(reply, row_scales, scales, out, **more) == (3, 69, -1)
        assert not out.any()
