"""Experts of which a checkpoint has all of a layer in one tensor, in floats or in MXFP4."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.errors import CutsetError
from cutset.models.families import load_spec
from cutset.models.files import stacked
from cutset.models.files.checkpoint import Checkpoint, SafetensorsFile, check_tensors
from cutset.models.files.source import open_source, specify
from cutset.models.files.stacked import mxfp4_bits
from cutset.models.files.writer import write_safetensors
from models.family_cases import CASES
from models.family_checkpoints import reference, relative_error, whole_logits, write_checkpoint
from runner.files import RUNNER, assert_equal, encoded_ids, logits_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

IDS = np.random.default_rng(1).integers(0, 131, size=(2, 21)).astype(np.int32)
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
# MXFP4 is made of 32 columns.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_local_experts": 67, "num_hidden_layers": 2}


def change(folder: Path, make: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites model.safetensors; `make` changes the table of (dtype, values)."""
    path = folder / "model.safetensors"
    table: dict[str, Any] = {name: (tensor.dtype, tensor.raw.copy()) for name, tensor in SafetensorsFile(path).items()}
    make(table)
    layout = {name: (dtype, values.shape) for name, (dtype, values) in table.items()}
    write_safetensors(path, layout, ((name, values) for name, (_, values) in table.items()))


def packed(table: dict[str, Any], model: Any) -> None:
    """The experts in MXFP4, at random; `model` gets what transformers makes of them."""
    rng = np.random.default_rng(2)
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")) and name in table:
            experts, columns, rows = parameter.shape
            blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16)).astype(np.uint8)
            scales = rng.integers(119, 125, blocks.shape[:-1]).astype(np.uint8)
            del table[name]
            table[f"{name}_blocks"], table[f"{name}_scales"] = ("U8", blocks), ("U8", scales)
            values = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
            assert values.shape == parameter.shape
            with torch.no_grad():
                parameter.copy_(values.float())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, Any]]:
    """By whether it is in MXFP4: a directory, and transformers' model of it."""
    folders = {mxfp4: tmp_path_factory.mktemp("model") for mxfp4 in (False, True)}
    return {mxfp4: (folder, write(folder, mxfp4=mxfp4)) for mxfp4, folder in folders.items()}


def write(folder: Path, *, mxfp4: bool) -> Any:
    family, fields = CASES["gpt-oss"]
    model = write_checkpoint(folder, family, **{**fields, **SIZES})
    if mxfp4:
        change(folder, lambda table: packed(table, model))
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn"],
        }
        (folder / "config.json").write_text(json.dumps(config))
    return model


def test_every_number_of_mxfp4_is_that_of_transformers() -> None:
    scales = np.arange(253, dtype=np.uint8).repeat(16).reshape(-1, 1, 1)  # above there is infinity
    bytes_ = np.arange(256, dtype=np.uint8).reshape(16, 1, 16)
    blocks = np.tile(bytes_, (253, 1, 1))
    theirs = convert_moe_packed_tensors(torch.from_numpy(blocks)[None], torch.from_numpy(scales[..., 0])[None])
    ours = mxfp4_bits(blocks, scales[..., 0])
    assert theirs.dtype == torch.bfloat16
    np.testing.assert_array_equal(ours.T, theirs[0].view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize("mxfp4", [False, True])
def test_logits_are_those_of_transformers(mxfp4: bool, models: Any) -> None:
    folder, model = models[mxfp4]
    with torch.no_grad():
        theirs = model(torch.from_numpy(IDS).long()).logits.numpy()
    assert relative_error(whole_logits(reference(folder), IDS), theirs) <= 1e-4
    names = set(Checkpoint(folder))
    assert (f"{GATE_UP}_blocks" in names) == mxfp4
    assert (GATE_UP in names) != mxfp4


@pytest.mark.parametrize("mxfp4", [False, True])
def test_they_are_converted_and_quantised(mxfp4: bool, models: Any, tmp_path: Path) -> None:
    """To one tensor for each expert, with the same bytes of all others; the runner reads that."""
    folder, _ = models[mxfp4]
    source = open_source(folder)
    with pytest.raises(CutsetError, match=r"all experts of a layer in one tensor.*cutset convert"):
        specify(folder)
    for start, target in ((folder, "x.json"), (tmp_path / "x.json", "plain")):
        assert main(["convert", str(start), "-o", str(tmp_path / target)]) == 0
        again = open_source(tmp_path / target)
        assert again.spec.bare() == source.spec.bare()
        assert "quantization_config" not in again.config
        for name, tensor in source.tensors.items():
            assert again.tensors[name].raw.tobytes() == tensor.raw.tobytes()
    assert main(["quantize", str(folder), "-o", str(tmp_path / "int8")]) == 0
    assert main(["quantize", str(tmp_path / "plain"), "-o", str(tmp_path / "int8-plain")]) == 0
    first, second = (SafetensorsFile(tmp_path / name / "model.safetensors") for name in ("int8", "int8-plain"))
    assert first.bytes.tobytes() == second.bytes.tobytes()
    if RUNNER.is_file():
        inputs = tmp_path / "inputs.json"
        content = json.loads((tmp_path / "x.json").read_text())
        assert "inputs" not in content
        ids = {"dtype": "int32", "shape": [2, 21], "data": encoded_ids(IDS)}
        inputs.write_text(json.dumps({"inputs": {"input_ids": ids}}))
        expected = whole_logits(reference(folder), IDS)
        for name in ("plain", "x.json"):
            assert_equal(logits_of(tmp_path / name, "--inputs", inputs), expected, np.ones_like(IDS))
        logits_of(tmp_path / "int8", "--inputs", inputs, "--dtype", "int8")


def cut(name: str, end: int) -> Callable[[dict[str, Any]], None]:
    def make(table: dict[str, Any]) -> None:
        table[name] = (table[name][0], table[name][1][:end])

    return make


def added(table: dict[str, Any]) -> None:
    table["model.layers.1.mlp.experts.3.gate_up_proj.weight"] = ("F32", np.ones((192, 64), np.float32))


def integers(table: dict[str, Any]) -> None:
    table[GATE_UP] = ("I32", table[GATE_UP][1].astype(np.int32))


def infinite(table: dict[str, Any]) -> None:
    table[f"{GATE_UP}_scales"][1][5, 3, 1] = 254


BAD: dict[str, tuple[bool, Callable[[dict[str, Any]], Any], str]] = {
    "an expert too few": (False, cut(GATE_UP, 66), r"gate_up_proj has shape \(66, 64, 192\); .* \(67, 64, 192\)"),
    "a bias too few": (False, cut(f"{GATE_UP}_bias", 66), r"gate_up_proj_bias has shape \(66, 192\)"),
    "no such tensor": (
        False,
        lambda table: table.pop(GATE_UP),
        r"layers\.1\.mlp\.experts\.0\.gate_up_proj.* is missing",
    ),
    "no bias": (False, lambda table: table.pop(f"{GATE_UP}_bias"), r"layers\.1\.mlp\.experts\.gate_up_bias is missing"),
    "one twice": (False, added, r"experts\.3\.gate_up_proj\.weight is there, and in .*gate_up_proj too"),
    "integers": (False, integers, "has dtype I32; known are"),
    "blocks of another size": (True, cut(f"{GATE_UP}_blocks", 66), r"_blocks has shape \(66, 192, 2, 16\)"),
    "scales of another size": (True, cut(f"{GATE_UP}_scales", 66), r"_scales has shape \(66, 192, 2\)"),
    "blocks without scales": (True, lambda table: table.pop(f"{GATE_UP}_scales"), "not its other half"),
    "scales without blocks": (True, lambda table: table.pop(f"{GATE_UP}_blocks"), "not its other half"),
    "numbers that aren't finite": (True, infinite, "aren't finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_ones_are_refused(case: str, models: Any, tmp_path: Path) -> None:
    mxfp4, make, message = BAD[case]
    shutil.copytree(models[mxfp4][0], tmp_path, dirs_exist_ok=True)
    change(tmp_path, make)
    with pytest.raises(CutsetError, match=message):
        [tensor.float32() for tensor in check_tensors(load_spec(tmp_path), Checkpoint(tmp_path)).values()]


def test_an_expert_is_read_by_itself(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded before it is asked for, and of an expert no other one."""
    decoded: list[tuple[int, ...]] = []

    def noted(blocks: Any, scales: Any) -> Any:
        decoded.append(scales.shape)
        return mxfp4_bits(blocks, scales)

    monkeypatch.setattr(stacked, "mxfp4_bits", noted)
    tensors = open_source(models[True][0]).tensors
    assert not decoded
    last = tensors["model.layers.0.mlp.experts.66.gate_up_proj.weight"]
    assert last.raw.shape == last.shape == (192, 64)
    assert decoded == [(192, 2)]
    assert last.dtype == "BF16"
    assert not last.raw.flags.writeable


@pytest.mark.parametrize("case", ["qwen3.5-moe", "qwen3.5-moe-pictures"])
def test_experts_of_qwen_in_one_tensor(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, **fields)
    with torch.no_grad():
        theirs = model(torch.from_numpy(IDS).long()).logits.numpy()

    def stack(table: dict[str, Any]) -> None:
        prefix = "model.language_model.layers" if "pictures" in case else "model.layers"
        for layer in range(3):
            place = f"{prefix}.{layer}.mlp.experts"

            def take(name: str, place: str = place) -> Any:
                return np.stack([table.pop(f"{place}.{expert}.{name}.weight")[1] for expert in range(70)])

            table[f"{place}.gate_up_proj"] = ("F32", np.concatenate([take("gate_proj"), take("up_proj")], axis=1))
            table[f"{place}.down_proj"] = ("F32", take("down_proj"))

    change(tmp_path, stack)
    assert relative_error(whole_logits(reference(tmp_path), IDS), theirs) <= 1e-4
