"""The benchmark of the delta codec, on tensors so small that its figures mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import delta
from cutset.compare.results import Results, load, machine, save


@pytest.mark.parametrize("dtype", ["u1", "<f4"])
@pytest.mark.parametrize("share", delta.SHARES)
def test_tensors_differ_by_the_share(dtype, share):
    before, after = delta.two_tensors((3, 60, 80), dtype, share)
    assert before.dtype == after.dtype == dtype
    assert np.mean(before != after) == pytest.approx(share, abs=0.01)


def test_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(delta, "TENSORS", {"small": ((3, 20, 30), "<f4"), "bytes": ((3, 20, 30), "u1")})
    rows = tuple(delta.run_delta(["small", "bytes"], 2, lambda line: None))
    save(Results("cutset bench delta", machine(1), rows), tmp_path / "delta.json")
    assert load(tmp_path / "delta.json").rows == rows
    sizes = {(row.workload, row.system): row.value for row in rows if row.metric == "bytes, of dense"}
    for (workload, system), value in sizes.items():
        if system == "csr" and not workload.endswith((" 30% changed", " 100% changed")):
            assert sizes[workload, "cutset"] <= value
