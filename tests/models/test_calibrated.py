"""Calibrated integer checkpoints (version 3): less error than canonical rounding, the same bits in every mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import Settings, load_settings
from cutset.errors import CheckpointError
from cutset.kernels.reference_linear import quantize_weight
from cutset.models.files.adapter import LoraAdapter, LowRank
from cutset.models.files.channel_search import search_scales
from cutset.models.files.error_spreading import compensation
from cutset.models.files.integer import channel_scales, quantized, write_integer_checkpoint
from cutset.models.files.row_rounding import compensated_rows
from cutset.models.files.source import open_source, specify
from cutset.models.random import RandomModel
from cutset.models.run.backend import build_executor
from cutset.models.run.executor import Batch
from cutset.models.run.recipe import CalibratedRecipe
from cutset.models.spec import Site
from cutset.offload.accelerator.accelerator import Quota
from cutset.offload.accelerator.loading import open_accelerator
from models.test_integer import change, logits, put
from offload.conftest import NUMBERS, serve_in_thread

MODELS = {
    "tied": RandomModel(hidden=64, heads=4, kv_heads=2, vocab=61, layers=2, intermediate=96),
    "mixture": RandomModel(hidden=40, heads=4, kv_heads=2, vocab=61, layers=2, experts=3, top_k=2, tied=False),
}
RNG = np.random.default_rng(3)
CHANNELS = "model.layers.0.self_attn.o_proj.weight_channel_scale"


def calibrated(model: RandomModel, folder: Path) -> Path:
    model.write_checkpoint(folder / "float")
    source = open_source(folder / "float")
    pieces = list(np.random.default_rng(5).integers(3, 61, (4, 64)).astype(np.int32))
    recipe = CalibratedRecipe(source.spec, source.tensors, pieces)
    write_integer_checkpoint(
        source.spec, source.config, source.tensors, folder / "float", folder / "int", recipe=recipe
    )
    return folder / "int"


def activations(rows: int, depth: int) -> NDArray[np.float32]:
    """Correlated, and some channels much larger than others."""
    x = RNG.standard_normal((rows, depth // 4), np.float32) @ RNG.standard_normal((depth // 4, depth), np.float32)
    x += 0.3 * RNG.standard_normal(x.shape, np.float32)
    return x * np.exp(RNG.standard_normal(depth, np.float32))


def test_errors_of_rows_are_compensated() -> None:
    x, weight = activations(900, 128), RNG.standard_normal((48, 128), np.float32)
    weight[0], weight[1, 1:] = 0, 0
    how = compensation(x.T @ x)
    assert how is not None
    codes, scales = compensated_rows(weight, how)
    assert (codes.dtype, int(np.abs(codes).max())) == (np.int8, 127)
    assert not codes[0].any()
    assert scales[0] == 0
    canonical, factors = quantize_weight(weight)
    assert (scales <= factors).all()
    ours, theirs = (
        np.square(x @ (q * s[:, None] - weight).T).sum() for q, s in ((codes, scales), (canonical, factors))
    )
    assert ours < 0.6 * theirs
    with pytest.raises(ValueError, match="NaN"):
        compensated_rows(np.full_like(weight, np.nan), how)


def error_of(weight: Any, x: Any, columns: Any) -> float:
    """Of the outputs, with the nearest integers and activations of 12 bits."""
    q, scales = quantize_weight(weight * columns)
    moved = x / columns
    steps = np.abs(moved).max(axis=1, keepdims=True) / 2047
    found = np.rint(moved / steps) * steps @ (q * scales[:, None]).T
    return float(np.square(found - x @ weight.T).sum())


def test_the_search_lowers_the_error() -> None:
    x, weight = activations(400, 96), RNG.standard_normal((64, 96), np.float32)
    weight *= np.exp(RNG.standard_normal(96, np.float32))
    cost, makers = np.square(x).sum(axis=0), np.arange(96)
    columns = search_scales(weight, cost, x, len(x), makers)
    assert error_of(weight, x, columns) < 0.5 * error_of(weight, x, np.ones(96, np.float32))
    shared = search_scales(weight, cost, x, len(x), makers // 4)
    np.testing.assert_array_equal(shared.reshape(24, 4), shared.reshape(24, 4)[:, :1].repeat(4, axis=1))
    assert np.ptp(shared) > 0.1
    assert error_of(weight, x, columns) <= 1.1 * error_of(weight, x, shared)
    # One huge channel of the activations must not take all their steps.
    x[:, 5] *= 3000
    columns = search_scales(weight, np.square(x).sum(axis=0), x, len(x), makers)
    assert error_of(weight, x, columns) < 0.5 * error_of(weight, x, np.ones(96, np.float32))


def test_the_search_survives_channels_of_zeros() -> None:
    x, weight = activations(100, 64), RNG.standard_normal((32, 64), np.float32)
    x[:, 3], weight[:, 9] = 0, 0
    for rows in (x, np.zeros_like(x), x[:0]):
        columns = search_scales(weight, np.square(rows).sum(axis=0), rows, 100, np.arange(64))
        assert np.isfinite(columns).all()
        assert (columns > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_calibrated_checkpoint(name: str, tmp_path: Path) -> None:
    folder = calibrated(MODELS[name], tmp_path)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["version"] == 3
    assert config["recipe"] | {"calibration_sha256": ""} == {
        "rounding": "compensated", "channel_scales": "searched", "calibration_tokens": 256, "calibration_sha256": "",
    }  # fmt: skip
    source, floats = open_source(folder), open_source(tmp_path / "float")
    assert source.dtype == "int8"
    moved = channel_scales(source.spec, source.tensors)
    assert moved is not None
    for key in source.spec.sites():
        weight = np.concatenate([floats.tensors[part].raw for part in floats.spec.site_tensors(*key)])
        q, scales = quantized(source.spec, source.tensors, *key)
        back = q * scales[:, None] / moved.columns(key) * moved.rows(key)[:, None]
        assert np.abs(back - weight).max() < 0.05 * np.abs(weight).max()
        dense = key[0] != "gate_up" or name == "tied"
        assert (np.ptp(moved.columns(key)) > 0.01) == dense
    write_integer_checkpoint(floats.spec, floats.config, floats.tensors, tmp_path / "float", tmp_path / "canonical")
    expected = logits(tmp_path / "float", "float32")
    ours, canonical = (np.square(logits(tmp_path / f, "exact") - expected).mean() for f in ("int", "canonical"))
    assert ours < 0.95 * canonical  # of random weights, whose activations hardly correlate
    np.testing.assert_array_equal(logits(folder, "exact"), logits(folder, "exact", steps=9))
    np.testing.assert_allclose(logits(folder, "exact", "reference"), logits(folder, "exact"), atol=0.02)
    specify(folder)  # as it was written with the weights


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_an_adapter_is_fitted_when_it_is_loaded(backend: str, tmp_path: Path) -> None:
    folder = calibrated(MODELS["tied"], tmp_path)

    def part(site: Site, inputs: int, outputs: int, first: int) -> LowRank:
        down = RNG.standard_normal((2, inputs), np.float32) / 8
        return LowRank(site, 1, -1, first, down, RNG.standard_normal((outputs, 2), np.float32), 1.0)

    adapter = LoraAdapter("a", b"a", (part("qkv", 64, 32, 96), part("o", 64, 64, 0), part("down", 96, 64, 0)))
    ids, found = np.arange(3, 19, dtype=np.int32)[None], []
    for name, dtype in (("float", "float32"), ("int", "exact")):
        executor, _ = build_executor(open_source(tmp_path / name), Settings(backend=backend, dtype=dtype, threads=1))
        loaded = executor.load_adapter(adapter)
        batch = Batch.whole(ids, 16)
        for adapters in ((), (loaded,)):
            found.append(
                np.array(executor.forward(replace(batch, adapters=adapters), executor.new_cache(1, 16, None, "auto")))
            )
    plain, expected, _, ours = found
    assert folder.is_dir()
    assert np.abs(expected - plain).mean() > 0.3 * np.abs(plain).mean()  # it does something
    assert np.abs(ours - expected).mean() < 0.05 * np.abs(expected).mean()


def test_an_offload_gives_its_bits(tmp_path: Path) -> None:
    folder = calibrated(MODELS["tied"], tmp_path)
    address = f"inproc://calibrated-{next(NUMBERS)}"
    settings = load_settings({"threads": 1})
    ended = serve_in_thread(open_accelerator(str(folder), address, settings, quota=Quota()))
    prompt, params = [5, 6, 7, 8], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    try:
        found = []
        for options in ({"dtype": "exact"}, {"offload": address, "mode": "masked+verified"}):
            with LLM(folder, threads=1, **options) as llm:
                found.append([each.outputs[0].token_ids for each in llm.generate([prompt], params)])
        assert found[0] == found[1]
    finally:
        ended()


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_bad_channel_scales_are_refused(value: float, tmp_path: Path) -> None:
    folder = calibrated(MODELS["tied"], tmp_path)
    change(folder, CHANNELS, put((2,), value))
    with pytest.raises(CheckpointError, match="weight_channel_scale must be finite and above 0"):
        open_source(folder)


def renumbered(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": None}, "must have its recipe"),
        ({"recipe": "one"}, "must have its recipe"),
        ({"version": 2}, "weight_channel_scale is unexpected"),
        ({"version": 4}, "version 4; 1 to 3 are read"),
    ],
)
def test_a_version_without_its_parts_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = calibrated(MODELS["tied"], tmp_path)
    renumbered(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_source(folder)


def test_version_2_is_no_version_3(tmp_path: Path) -> None:
    MODELS["tied"].write_checkpoint(tmp_path / "float")
    assert main(["quantize", str(tmp_path / "float"), "-o", str(tmp_path / "int")]) == 0
    assert json.loads((tmp_path / "int" / "config.json").read_text())["quantization_config"] == {
        "quant_method": "cutset",
        "version": 2,
    }
    renumbered(tmp_path / "int", version=3, recipe={})
    with pytest.raises(CheckpointError, match="weight_channel_scale is missing"):
        open_source(tmp_path / "int")


def test_a_text_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("One day a dog went to the park. He saw a big red ball. " * 60)
    target = tmp_path / "int"

    def command(folder: Path) -> list[str]:
        return ["quantize", "story", "-o", str(folder), "--calibrate", str(text)]

    assert main(command(target)) == 0
    assert main(["generate", str(target), "--prompt", "One day", "--dtype", "exact", "--max-tokens", "4"]) == 0
    assert main(command(target)) == 2
    assert "is not an empty directory" in capsys.readouterr().err
    text.write_text("too short")
    assert main(command(tmp_path / "short")) == 2
    assert "are too few to calibrate with" in capsys.readouterr().err
    assert not (tmp_path / "short").exists()


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    made = [calibrated(MODELS["tied"], tmp_path / name) / "model.safetensors" for name in ("a", "b")]
    assert made[0].read_bytes() == made[1].read_bytes()
