"""Integer checkpoints: what is stored, both versions of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.config import Settings
from cutset.errors import CheckpointError
from cutset.kernels.reference_linear import pack_weight, quantize_weight
from cutset.models.files.digests import digest
from cutset.models.files.integer import packed, quantized, write_integer_checkpoint
from cutset.models.files.source import open_source
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel
from cutset.models.run.backend import build_executor
from cutset.models.run.executor import Batch
from old_checkpoint import write_version_1

# Sizes that fill neither panels of 32 outputs nor steps of 64 along the depth.
DENSE = RandomModel(hidden=40, heads=4, kv_heads=2, vocab=61, layers=2)
MODELS = {
    "tied": DENSE,
    "untied": RandomModel(hidden=64, heads=4, kv_heads=2, vocab=61, layers=2, tied=False),
    "mixture": RandomModel(hidden=40, heads=4, kv_heads=2, vocab=61, layers=2, experts=3, top_k=2),
}


def written(model: RandomModel, folder: Path) -> Path:
    model.write_checkpoint(folder / "float")
    source = open_source(folder / "float")
    write_integer_checkpoint(source.spec, source.config, source.tensors, folder / "float", folder / "int")
    return folder / "int"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(DENSE, tmp_path)


def logits(folder: Path, dtype: str, backend: str = "native", steps: int = 1) -> NDArray[np.float32]:
    """Of the last of several equal passes."""
    executor, _ = build_executor(open_source(folder), Settings(backend=backend, dtype=dtype, threads=2))
    ids = np.arange(3, 15, dtype=np.int32).reshape(1, 12)
    for _ in range(steps):
        found = np.array(executor.forward(Batch.whole(ids, 16), executor.new_cache(1, 16)))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_site_is_what_quantising_gives(name: str, tmp_path: Path) -> None:
    floats, integers = open_source(written(MODELS[name], tmp_path).parent / "float"), open_source(tmp_path / "int")
    for site in floats.spec.sites():
        weight = np.concatenate([floats.tensors[part].raw for part in floats.spec.site_tensors(*site)])
        for ours, expected in zip(
            quantized(integers.spec, integers.tensors, *site), quantize_weight(weight), strict=True
        ):
            np.testing.assert_array_equal(ours, expected)
        stored = packed(integers.spec, integers.tensors, *site)
        assert stored is not None
        np.testing.assert_array_equal(stored[0], pack_weight(quantize_weight(weight)[0]))
        assert stored[0].ctypes.data % 64 == 0


@pytest.mark.parametrize("dtype", ["int8", "exact"])
@pytest.mark.parametrize("name", MODELS)
def test_both_versions_give_the_same(name: str, dtype: str, tmp_path: Path) -> None:
    current = written(MODELS[name], tmp_path)
    write_version_1(current, tmp_path / "old")
    # In int8 a float checkpoint has a scale for each group.
    expected = logits(tmp_path / "float" if dtype == "exact" else current, dtype)
    assert np.ptp(expected) > 0.1
    for folder in (current, tmp_path / "old"):
        np.testing.assert_array_equal(logits(folder, dtype), expected)
    np.testing.assert_array_equal(*(logits(folder, dtype, "reference") for folder in (current, tmp_path / "old")))


def test_weights_move_while_the_model_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One site a step, then nothing; and no logit changes by it."""
    monkeypatch.setattr("cutset.models.run.native.MOVED_BYTES", 1)
    source = open_source(folder)
    executor: Any = build_executor(source, Settings(backend="native", dtype="exact", threads=2))[0]
    sites = len(source.spec.sites())
    assert len(executor._mapped) == sites
    expected = logits(folder, "exact")
    for steps in (1, 2, sites, sites + 1, sites + 5):
        np.testing.assert_array_equal(logits(folder, "exact", steps=steps), expected)
    counts = []
    for _ in range(sites + 2):
        executor._move_in()
        counts.append(len(executor._mapped))
    assert counts == [*range(sites, -1, -1), 0]
    assert not executor.mapped


def change(folder: Path, name: str, changed: Callable[[NDArray[Any]], None]) -> None:
    """Changes a tensor and its digest: only what is checked besides can find it."""
    source = open_source(folder)
    layout = {n: (tensor.dtype, tensor.shape) for n, tensor in source.tensors.items()}
    values = {n: np.array(tensor.raw) for n, tensor in source.tensors.items()}
    changed(values[name])
    write_safetensors(folder / "model.safetensors", layout, values.items())
    (folder / "digests.json").write_text(json.dumps({n: digest(value) for n, value in values.items()}))


QKV = "model.layers.0.self_attn.qkv_proj.weight"


def put(index: tuple[int, ...], value: float) -> Callable[[NDArray[Any]], None]:
    return lambda array: array.__setitem__(index, value)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        (QKV, (0, 3, 5, 1), -128, "between -127 and 127"),
        (QKV, (0, 10, 0, 0), 1, "padding"),  # depth 40: the eleventh group of four
        ("lm_head.weight", (1, 0, 29, 0), 1, "padding"),  # the 62nd word
        (f"{QKV}_scale", (3,), np.nan, "finite"),
        (f"{QKV}_scale", (3,), -1, "not negative"),
    ],
)
def test_bad_weights_are_refused(folder: Path, name: str, index: Any, value: float, message: str) -> None:
    change(folder, name, put(index, value))
    with pytest.raises(CheckpointError, match=message):
        logits(folder, "exact")


def test_a_weight_at_the_end_of_its_range_is_fine(folder: Path) -> None:
    change(folder, QKV, put((0, 9, 31, 3), -127))
    assert np.isfinite(logits(folder, "exact")).all()


@pytest.mark.parametrize("version", [0, 4, True, None, "2", [], 1.5])
def test_an_unknown_version_is_refused(folder: Path, version: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = version
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="version"):
        open_source(folder)


def test_one_version_under_the_name_of_the_other_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight is missing"):
        open_source(folder)


def test_a_misshapen_tensor_is_refused(folder: Path) -> None:
    source = open_source(folder)
    values = {n: np.array(tensor.raw) for n, tensor in source.tensors.items()}
    values[QKV] = values[QKV][:, :8].copy()
    layout = {n: (source.tensors[n].dtype, value.shape) for n, value in values.items()}
    write_safetensors(folder / "model.safetensors", layout, values.items())
    with pytest.raises(CheckpointError, match=r"qkv_proj\.weight is I8 \(3, 8, 32, 4\), not I8 \(3, 16, 32, 4\)"):
        open_source(folder)
