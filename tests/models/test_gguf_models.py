"""Models in GGUF files: configuration, names and order of rows are those of the checkpoints they came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Kind

from cutset.errors import ArchitectureError, CheckpointError
from cutset.models.families import load_spec
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.source import convert, open_source
from models.gguf_files import CONFIGS, Written, write_gguf


@pytest.mark.parametrize("case", CONFIGS)
def test_a_file_of_floats_is_its_checkpoint(case: str, tmp_path: Path) -> None:
    model = Written(case)
    meant = write_gguf(model, tmp_path / "m.gguf")
    source = open_source(tmp_path / "m.gguf")
    assert source.dtype == "float32"
    assert replace(source.spec, eos_assumed=False) == replace(model.spec, eos_assumed=False)
    assert load_spec(tmp_path / "m.gguf") == source.spec
    assert set(source.tensors) == set(model.tensors)
    for name, value in model.tensors.items():
        found = source.tensors[name].float32()
        assert found.shape == value.shape
        if model.architecture.startswith("gemma") and name.endswith("norm.weight"):
            np.testing.assert_array_equal(found + np.float32(1), value + np.float32(1), err_msg=name)
        else:
            np.testing.assert_array_equal(found, value, err_msg=name)
        np.testing.assert_array_equal(found, meant[name], err_msg=name)


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0, Kind.F16, Kind.BF16])
@pytest.mark.parametrize("case", CONFIGS)
def test_codes_stand_for_what_the_file_says(case: str, kind: Kind, tmp_path: Path) -> None:
    model = Written(case)
    meant = write_gguf(model, tmp_path / "m.gguf", lambda name: Kind.F32 if "conv.conv" in name else kind)
    source = open_source(tmp_path / "m.gguf")
    grouped = {name for name, tensor in source.tensors.items() if isinstance(tensor, GroupedTensor)}
    if kind in (Kind.Q4_1, Kind.Q8_0):
        assert source.dtype == "grouped"
        wanted = {name for name, value in meant.items() if value.ndim == 2 and not name.endswith("_bias")}
        assert grouped == wanted
        assert {source.tensors[name].form for name in grouped} == {kind.name}
    else:
        assert source.dtype == {Kind.F16: "float16", Kind.BF16: "bfloat16"}[kind]
    for name, value in meant.items():
        np.testing.assert_array_equal(source.tensors[name].float32(), value, err_msg=name)


def test_types_may_differ_within_a_parameter(tmp_path: Path) -> None:
    """Of gpt-oss gate and up are one matrix here, and two tensors there."""
    model = Written("gpt-oss")
    meant = write_gguf(model, tmp_path / "m.gguf", lambda name: Kind.Q4_0 if "gate_exps" in name else Kind.Q5_1)
    tensors = open_source(tmp_path / "m.gguf").tensors
    for name, value in meant.items():
        np.testing.assert_array_equal(tensors[name].float32(), value, err_msg=name)


def test_a_file_in_parts_is_found_by_its_first(tmp_path: Path) -> None:
    model = Written("qwen3")
    meant = write_gguf(model, tmp_path / "m.gguf", lambda name: Kind.Q4_0, parts=7)
    files = sorted(tmp_path.glob("*.gguf"))
    assert len(files) > 2
    assert files[0].name == f"m-00001-of-{len(files):05d}.gguf"
    source = open_source(files[0])
    for name, value in meant.items():
        np.testing.assert_array_equal(source.tensors[name].float32(), value, err_msg=name)
    with pytest.raises(CheckpointError, match=rf"is part 2 of {len(files)}; give the first, m-00001"):
        open_source(files[1])
    files[1].unlink()
    with pytest.raises(CheckpointError, match=rf"m-00002.*is missing: the model has {len(files)} parts"):
        open_source(files[0])


def test_an_unknown_architecture_is_named_with_the_nearest(tmp_path: Path) -> None:
    model = Written("llama")
    model.architecture = "gemma3n"
    write_gguf(model, tmp_path / "m.gguf")
    with pytest.raises(ArchitectureError, match=r"unknown architecture 'gemma3n'; the nearest known are gemma3, "):
        open_source(tmp_path / "m.gguf")


def test_what_the_network_lacks_or_has_no_place_for_is_named(tmp_path: Path) -> None:
    model = Written("llama")
    del model.tensors["model.layers.1.mlp.down_proj.weight"]
    write_gguf(model, tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=r"the tensor blk\.1\.ffn_down\.weight is missing"):
        open_source(tmp_path / "m.gguf")
    model = Written("llama")
    model.tensors["model.layers.0.mlp.gate.weight"] = np.zeros((4, 64), np.float32)
    write_gguf(model, tmp_path / "n.gguf")
    with pytest.raises(CheckpointError, match=r"tensor blk\.0\.ffn_gate_inp\.weight is unexpected"):
        open_source(tmp_path / "n.gguf")
    model = Written("llama")
    model.tensors["model.layers.0.mlp.down_proj.weight"] = np.zeros((64, 96), np.float32)
    write_gguf(model, tmp_path / "o.gguf")
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_down\.weight \(64, 96\); the network asks for \(64, 128\)"):
        open_source(tmp_path / "o.gguf")


def test_floats_are_written_as_a_directory_that_is_the_same_model(tmp_path: Path) -> None:
    model = Written("gemma2")
    write_gguf(model, tmp_path / "m.gguf", lambda name: Kind.Q5_0)
    source = open_source(tmp_path / "m.gguf")
    convert(source, tmp_path / "out")
    again = open_source(tmp_path / "out")
    assert again.spec == source.spec
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].float32(), tensor.float32())
