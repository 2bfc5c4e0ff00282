"""Weights by digest at a worker: on disk, in a file, and as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cutset.cluster.messages import WeightPart
from cutset.cluster.values import Bytes, digest_of
from cutset.cluster.weight_store import WeightStore, save_weight
from cutset.cluster.worker import preparation
from cutset.cluster.worker.preparation import Preparation
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

    from cutset.video.worker_runtime import VideoRuntime

    right, wrong, path = torch.arange(6, dtype=torch.float32), torch.ones(6), tmp_path / "w.safetensors"
    save_file({"a": right, "b": wrong}, path)
    store = WeightStore(None, lambda: VideoRuntime().open_weights(path))
    digest = digest_of(right.numpy(), Value("a", (6,), "float32"))
    found = store.find("a", Value("a", (6,), "float32"), digest)
    assert found is not None
    assert np.array_equal(found, right.numpy())
    assert store.holds("b", Value("b", (6,), "float32"), "0" * 64), "its digest is compared when it is used"
    assert not store.holds("b", Value("b", (2, 3), "float32"), "0" * 64)
    store.keep([])
    assert store.find("b", Value("b", (6,), "float32"), digest) is None
    assert store.find("c", Value("c", (6,), "float32"), digest) is None


def test_weights_that_come_quicker_than_they_are_taken_wait_at_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a worker's memory, where hundreds of MB would pile up while a large one is looked at."""
    monkeypatch.setattr(preparation, "MOST_WAITING", 10)
    monkeypatch.setattr(preparation, "MOST_WAIT", 30.0)
    free, taken = threading.Event(), list[int]()

    def take(self: Preparation, message: WeightPart, arrays: Sequence[Bytes]) -> None:
        assert free.wait(20)
        taken.append(message.offset)

    monkeypatch.setattr(Preparation, "_weight", take)
    settings: Any = SimpleNamespace(runtime=SimpleNamespace(begin_thread=lambda: None), weights=None, cache=None)
    outbox: Any = SimpleNamespace(say=lambda message: None)
    made = Preparation(b"", "w", settings, outbox, lambda keys: None)

    def put(count: int) -> None:
        for number in range(count):
            made.put(WeightPart("0" * 64, number, 100), [np.zeros(8, np.uint8)])

    sender = threading.Thread(target=put, args=(6,))
    sender.start()
    sender.join(0.3)
    assert sender.is_alive(), "it waits for room"
    free.set()
    sender.join(20)
    assert not sender.is_alive()
    until = time.monotonic() + 20
    while len(taken) < 6 and time.monotonic() < until:  # `close` would leave out what waits
        time.sleep(0.001)
    made.close()
    made.threads[0].join(20)
    assert taken == list(range(6))
