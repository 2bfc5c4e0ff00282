"""What the client of the offload benchmark measures of a run here."""

from __future__ import annotations

import pytest

from cutset.bench.offload import integer_checkpoint
from cutset.bench.offload_client import OffloadClient
from cutset.models.random import RandomModel

SIZE = RandomModel(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocab=64, max_pos=64)


@pytest.mark.parametrize("dtype", ["exact", "float32"])
def test_a_local_run_counts_what_its_products_cost(dtype: str) -> None:
    with integer_checkpoint(SIZE) as integers:
        folder = integers if dtype == "exact" else integers.with_name("floats")
        client = OffloadClient(folder, dtype, "", 1, 64, 1, {})
        try:
            counted = client.run(8, 4, whole=False, count_cpu=True)
            assert counted["part_cpu"]["accelerator"] > 0
            assert counted["tokens"] == client.run(8, 4, whole=False)["tokens"]
        finally:
            client.close()
