"""Weights by digest at a worker: on disk, in a file, and as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cutset.cluster.values import digest_of
from cutset.cluster.weight_store import WeightStore, save_weight
from cutset.errors import CutsetError
from cutset.partition.node import Value


def test_a_damaged_weight_is_not_used_and_a_whole_one_is_found(tmp_path: Path) -> None:
    weight, value = np.arange(12, dtype=np.float32).reshape(3, 4), Value("w", (3, 4), "float32")
    digest = digest_of(weight, value)
    store = WeightStore(tmp_path / "cache")
    assert store.find("w", value, digest) is None
    save_weight(tmp_path / "cache", digest, weight)
    found = store.find("w", value, digest)
    assert found is not None
    assert np.array_equal(found, weight)
    store.keep([])
    path = tmp_path / "cache" / digest
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert store.find("w", value, digest) is None
    assert not path.exists(), "it is written anew when it comes"


def test_what_came_is_kept_on_disk_for_the_next_process(tmp_path: Path) -> None:
    weight, value = np.arange(300, dtype=np.float32), Value("w", (300,), "float32")
    digest, data = digest_of(weight, value), weight.view(np.uint8)
    store = WeightStore(tmp_path)
    assert not store.add(value, digest, 0, data[:700])
    assert store.add(value, digest, 700, data[700:])
    again = WeightStore(tmp_path).find("w", value, digest)
    assert again is not None
    assert np.array_equal(again, weight)
    for offset, part in ((1, data[1:]), (0, np.concatenate([data, data]))):
        with pytest.raises(CutsetError, match="out of order"):
            store.add(value, digest, offset, part)


def test_weights_of_a_file_are_found_by_digest(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from cutset.video.runtime import TorchRuntime

    right, wrong, path = torch.arange(6, dtype=torch.float32), torch.ones(6), tmp_path / "w.safetensors"
    save_file({"a": right, "b": wrong}, path)
    store = WeightStore(None, lambda: TorchRuntime().open_weights(path))
    digest = digest_of(right.numpy(), Value("a", (6,), "float32"))
    found = store.find("a", Value("a", (6,), "float32"), digest)
    assert found is not None
    assert np.array_equal(found, right.numpy())
    assert store.holds("b", Value("b", (6,), "float32"), "0" * 64), "its digest is compared when it is used"
    assert not store.holds("b", Value("b", (2, 3), "float32"), "0" * 64)
    store.keep([])
    assert store.find("b", Value("b", (6,), "float32"), digest) is None
    assert store.find("c", Value("c", (6,), "float32"), digest) is None
