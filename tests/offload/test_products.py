"""The products of every kind of accelerator against the numpy twins."""

import numpy as np
import pytest

from cutset.errors import CheckpointError, DeviceError
from cutset.kernels.reference_field import HALF, P, residue_product
from cutset.kernels.reference_linear import integer_linear
from cutset.offload.accelerator.products import NativeProducts, self_test

torch = pytest.importorskip("torch")
from cutset.offload.accelerator import torch_products
from cutset.offload.accelerator.torch_products import TorchProducts

KINDS = {
    "native": lambda: NativeProducts(2),
    "cpu int8": lambda: TorchProducts("cpu", way="int8"),
    "cpu float64": lambda: TorchProducts("cpu", way="float64"),
    "cpu": lambda: TorchProducts("cpu", threads=1),
    "cuda int8": lambda: TorchProducts("cuda", way="int8"),
    "cuda float64": lambda: TorchProducts("cuda", way="float64"),
    "cuda": lambda: TorchProducts("cuda"),
}


@pytest.fixture(params=KINDS, scope="module")
def products(request):
    if request.param.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if "int8" in request.param and not hasattr(torch, "_int_mm"):
        pytest.skip("this build of torch has no 8-bit product")
    return KINDS[request.param]()  # a device that multiplies wrongly is a failure, not a skip


def case(n, outputs, depth, top=2047):
    rng = np.random.default_rng(n + outputs)
    weight = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
    weight[0], weight[-1] = 127, -127
    q = rng.integers(-top, top + 1, (n, depth)).astype(np.int16)
    x = rng.integers(0, P, (n, depth), np.uint32)
    if n:
        q[0], q[-1, ::2], x[0] = top, -top, P - 1
        x[-1] = rng.choice(np.array([0, 1, HALF, HALF + 1, 127, 128, 2**31 - 129, P - 1], np.uint32), depth)
    return weight, q, x


def test_self_test(products):
    self_test(products)
    assert products.device


@pytest.mark.parametrize(
    ("n", "outputs", "depth"), [(1, 1, 1), (0, 5, 9), (2, 33, 65), (17, 64, 128), (130, 70, 517), (5, 40, 4130)]
)
def test_products(products, n, outputs, depth):
    weight, q, x = case(n, outputs, depth)
    other, *_ = case(n, outputs + 1, depth)
    for array in (weight, q, x):
        array.flags.writeable = False  # as those of a link are
    products.put(("qkv", 3), weight)
    products.put(("qkv", 4), other)
    z, m = products.integers(("qkv", 3), q), products.residues(("qkv", 3), x)
    assert (z.dtype, m.dtype) == (np.int32, np.uint32)
    assert np.array_equal(z, integer_linear(q, weight))
    assert np.array_equal(m, residue_product(x, weight))
    assert np.array_equal(products.residues(("qkv", 4), x), residue_product(x, other))
    kept = m.copy()
    whole, masked = np.zeros((n, outputs), np.int32), np.zeros((n, outputs), np.uint32)
    products.integers(("qkv", 3), q, out=whole)
    products.residues(("qkv", 3), x[::-1].copy(), out=masked)
    assert np.array_equal(whole, z)
    assert np.array_equal(masked, m[::-1])
    assert np.array_equal(m, kept)  # not in memory that the next call uses
    products.drop(("qkv", 3))
    with pytest.raises(KeyError):
        products.integers(("qkv", 3), q)


def test_long_sums(products):
    """11 bits are what these sums allow; and residues at the ends of their range."""
    weight, q, x = case(2, 3, 8000, 1023)
    products.put("long", weight)
    assert np.array_equal(products.integers("long", q), integer_linear(q, weight))
    assert np.array_equal(products.residues("long", x), residue_product(x, weight))
    with pytest.raises(ValueError, match="must lie between -1023 and 1023"):
        products.integers("long", np.full((1, 8000), 1024, np.int16))


def test_what_is_refused(products):
    weight, q, x = case(2, 3, 40)
    products.put("m", weight)
    bad = x.copy()
    bad[1, 39] = P
    with pytest.raises(ValueError, match="below 2147483647"):
        products.residues("m", bad)
    with pytest.raises(ValueError, match="must lie between"):
        products.integers("m", np.full((1, 40), 2048, np.int16))
    for call in (
        lambda: products.integers("m", q[:, 1:].copy()),
        lambda: products.integers("m", q.astype(np.int32)),
        lambda: products.residues("m", x[:, 1:].copy()),
        lambda: products.residues("m", x.view(np.int32)),
        lambda: products.integers("m", q, out=np.zeros((2, 4), np.int32)),
        lambda: products.residues("m", x, out=np.zeros((2, 3), np.int32)),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(CheckpointError, match="overflow"):
        products.put("huge", np.full((1, 67000), 127, np.int8))
    with pytest.raises(CheckpointError, match="between -127 and 127"):
        products.put("odd", np.full((1, 4), -128, np.int8))


def test_two_limbs_in_float64(monkeypatch):
    monkeypatch.setattr(torch_products, "MOST_FLOAT_DEPTH", 100)
    monkeypatch.setattr(torch_products, "WEIGHTS_AT_ONCE", 1000)
    products = TorchProducts("cpu", way="float64")
    weight, q, x = case(4, 19, 700)
    products.put("m", weight)
    assert np.array_equal(products.integers("m", q), integer_linear(q, weight))
    assert np.array_equal(products.residues("m", x), residue_product(x, weight))


def test_a_device_that_multiplies_wrong_is_refused(monkeypatch):
    class Wrong(NativeProducts):
        def residues(self, matrix, x, out=None):
            product = super().residues(matrix, x, out)
            product[-1, -1] ^= 1
            return product

    with pytest.raises(DeviceError, match="multiplies wrong"):
        self_test(Wrong(1))
    real = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: real(a, b) + 1)
    assert "float64" in TorchProducts("cpu").device
    with pytest.raises(DeviceError, match="can't multiply exactly"):
        TorchProducts("cpu", way="int8")


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="can't be used"):
        TorchProducts("cuda:77")
