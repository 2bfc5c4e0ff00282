"""Values as parties keep them: where they lie, how their bits are read, and what tells them apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cutset.cluster.values import as_bytes, as_kept, copied, digest_of, empty, readable, shaped
from cutset.partition.node import ALIGNMENT, ITEM_BYTES, Value


@pytest.mark.parametrize("dtype", ITEM_BYTES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 5), (1, 3, 7, 5)])
def test_memory_for_a_value_has_its_shape_and_begins_where_torch_would(dtype: str, shape: tuple[int, ...]) -> None:
    value = Value("v", shape, dtype)
    found = empty(value)
    assert found.shape == shape
    assert found.nbytes == value.nbytes
    assert found.ctypes.data % ALIGNMENT == 0 or not value.nbytes
    assert found.flags.writeable
    assert found.flags.c_contiguous
    found[...] = 1
    assert np.array_equal(shaped(as_bytes(found), value), found)
    assert copied(found, value).tobytes() == found.tobytes()


def test_what_numpy_has_not_is_kept_as_bits_and_read_as_its_value() -> None:
    halves = Value("h", (4,), "bfloat16")
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], "<u2")
    assert readable(bits, halves).tolist() == [1.0, -2.0, float("inf"), 2.0**-133]
    truths = Value("t", (2,), "bool")
    kept = as_kept(np.array([True, False]), truths)
    assert kept.dtype == np.uint8
    assert readable(kept, truths).dtype == np.bool_
    assert readable(kept, truths).tolist() == [True, False]


def test_a_copy_is_one_also_of_what_does_not_lie_in_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    value = Value("v", (3, 2), "float32")
    found = copied(array, value)
    assert np.array_equal(found, array)
    array[0, 0] = 9
    assert found[0, 0] == 0


def test_a_digest_is_of_dtype_shape_and_bytes() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = Value("x", (2, 3), "float32")
    others = [
        (x.reshape(3, 2), Value("x", (3, 2), "float32")),
        (x.astype(np.int32), Value("x", (2, 3), "int32")),
        (x + 1, value),
        (x.view(np.int32), Value("x", (2, 3), "int32")),
        (np.ascontiguousarray(x.T), Value("x", (3, 2), "float32")),
    ]
    digests = [digest_of(x, value), *(digest_of(array, other) for array, other in others)]
    assert len(set(digests)) == 6
    assert digest_of(np.asfortranarray(x), value) == digests[0]
    assert digest_of(x, Value("another name", (2, 3), "float32")) == digests[0]
    # As `--cache` directories of earlier versions name them.
    assert digests[0] == "4a576305859fc7ef5894ac78bc6109fd9ef682a9a6008f1921e3d8004f34d013"


def test_a_coordinator_and_a_worker_need_no_torch() -> None:
    code = (
        "import sys; import cutset.cluster.coordinator.coordinator, cutset.cluster.worker.worker\n"
        "import cutset.cluster.launch.local, cutset.cluster.trace.gantt\n"
        "assert not {'torch', 'cutset.video'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
