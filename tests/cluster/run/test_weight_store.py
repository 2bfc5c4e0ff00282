"""Weights by digest at a worker: on disk, in a file, and as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cutset.cluster.digest import tensor_digest
from cutset.cluster.worker.weights import WeightStore, save_weight
from cutset.errors import CutsetError
from cutset.partition.node import Value


def test_a_damaged_weight_is_not_used_and_a_whole_one_is_found(tmp_path: Path) -> None:
    tensor = torch.arange(12, dtype=torch.float32).view(3, 4)
    digest, value = tensor_digest(tensor), Value("w", (3, 4), "float32")
    store = WeightStore(tmp_path / "cache")
    assert store.find("w", value, digest) is None
    save_weight(tmp_path / "cache", digest, tensor)
    found = store.find("w", value, digest)
    assert found is not None
    assert torch.equal(found, tensor)
    store.keep([])
    path = tmp_path / "cache" / digest
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert store.find("w", value, digest) is None
    assert not path.exists(), "it is written anew when it comes"


def test_what_came_is_kept_on_disk_for_the_next_process(tmp_path: Path) -> None:
    tensor = torch.arange(300, dtype=torch.float32)
    digest, value, data = tensor_digest(tensor), Value("w", (300,), "float32"), tensor.view(torch.uint8).numpy()
    store = WeightStore(tmp_path)
    assert not store.add(value, digest, 0, data[:700])
    assert store.add(value, digest, 700, data[700:])
    again = WeightStore(tmp_path).find("w", value, digest)
    assert again is not None
    assert torch.equal(again, tensor)
    for offset, part in ((1, data[1:]), (0, np.concatenate([data, data]))):
        with pytest.raises(CutsetError, match="out of order"):
            store.add(value, digest, offset, part)


def test_weights_of_a_file_are_found_by_digest(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    right, wrong = torch.arange(6, dtype=torch.float32), torch.ones(6)
    save_file({"a": right, "b": wrong}, tmp_path / "w.safetensors")
    store = WeightStore(None, tmp_path / "w.safetensors")
    found = store.find("a", Value("a", (6,), "float32"), tensor_digest(right))
    assert found is not None
    assert torch.equal(found, right)
    store.keep([])
    assert store.find("b", Value("b", (6,), "float32"), tensor_digest(right)) is None
    assert store.find("c", Value("c", (6,), "float32"), tensor_digest(right)) is None
