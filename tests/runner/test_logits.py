"""The stand-alone runner against the Python reference: the same logits from the same files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.compare.forward import run_forward
from cutset.errors import ArchitectureError, CutsetError
from cutset.kernels import native
from cutset.models.files.exchange import write_exchange
from cutset.models.files.integer import IntegerLinears, write_integer_checkpoint
from cutset.models.files.source import ModelSource, open_source, specify
from cutset.models.files.specification import describable, to_json
from cutset.models.files.tensor import Tensor
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel
from cutset.models.run.decoder import ReferenceDecoder
from cutset.models.run.grouped_linears import GroupedLinears
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.run.recipe import CalibratedRecipe
from models.test_integer import QKV, put
from models.test_integer import change as change_tensor
from old_checkpoint import write_version_1
from runner.files import (
    CONFIGS,
    RUNNER,
    SPECS,
    assert_equal,
    call,
    config_of,
    drawn,
    inputs_of,
    logits_of,
    reference,
    refused,
    write_directory,
    write_file,
    write_spec,
)

pytestmark = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")


@pytest.mark.parametrize("case", CONFIGS)
def test_equals_the_reference(case: str, tmp_path: Path) -> None:
    config, (_, mask) = config_of(case), inputs_of()
    file = write_file(tmp_path / "model.json", config)
    write_directory(tmp_path / "dir", config, drawn(config))
    expected = reference(open_source(file))
    ours = logits_of(file)
    assert_equal(ours, expected, mask)
    from_directory = logits_of(tmp_path / "dir", "--inputs", file, "--threads", 1)
    np.testing.assert_array_equal(ours, from_directory)  # of one model in both forms, whatever the threads
    assert np.isfinite(ours).all()


def in_integers(source: ModelSource, dtype: str, stored: bool = False) -> NDArray[np.float32]:
    """The reference's logits: in int8 floats have a scale for each group, what is stored one for each row."""
    grouped = dtype == "int8" and not stored
    linears = (GroupedLinears if grouped else IntegerLinears)(source.spec, source.tensors, dtype)
    assert source.inputs is not None
    return run_forward(ReferenceDecoder(source.spec, source.tensors, NumpyOps(), linears), source.inputs).logits


@pytest.mark.parametrize("case", [case for case, spec in SPECS.items() if describable(spec)])
def test_every_decoder_equals_the_reference(case: str, tmp_path: Path) -> None:
    """Whatever a specification can say, in float32 and in integers."""
    file, (_, mask) = write_spec(tmp_path / "model.json", SPECS[case]), inputs_of()
    source = open_source(file)
    assert replace(source.spec, family="test") == SPECS[case]
    assert_equal(logits_of(file), reference(source), mask)
    write_integer_checkpoint(source.spec, {}, source.tensors, tmp_path, tmp_path / "int8")
    for dtype in ("int8", "exact"):
        ours = logits_of(file, "--dtype", dtype)
        assert_equal(ours, in_integers(source, dtype), mask, 2e-2)  # a value on the edge may fall either way
        stored = logits_of(tmp_path / "int8", "--inputs", file, "--dtype", dtype)
        if dtype == "exact":
            np.testing.assert_array_equal(stored, ours)
        else:
            assert_equal(stored, in_integers(source, dtype, stored=True), mask, 2e-2)


def test_the_array_is_as_numpy_writes_it(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("llama"))
    values = logits_of(file)
    np.save(tmp_path / "numpy.npy", values)
    assert values.shape == (3, 24, 61)
    assert values.flags.c_contiguous
    assert (tmp_path / "numpy.npy").read_bytes() == (tmp_path / "logits.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.npy", "model.json", "numpy.npy"]


def test_a_mask_hides_padding(tmp_path: Path) -> None:
    config = config_of("llama")
    padded = logits_of(write_file(tmp_path / "padded.json", config))
    whole = logits_of(write_file(tmp_path / "whole.json", config, inputs_of(padded=False)))
    np.testing.assert_array_equal(padded[2], whole[2])
    np.testing.assert_array_equal(padded[1, :-7], whole[1, :-7])
    assert np.abs(padded[0, 5:] - whole[0, 5:]).max() > 0.01


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_read_exactly(dtype: str, tmp_path: Path) -> None:
    config = config_of("qwen3-moe")
    tensors = drawn(config)
    values = tensors["model.norm.weight"].raw
    values[:4] = [6e-8, -3e-6, 65504, -0.0]  # subnormal in float16, its largest, and a signed zero
    write_directory(tmp_path / "dir", config, tensors, dtype)
    inputs = write_file(tmp_path / "inputs.json", config)
    expected = reference(open_source(tmp_path / "dir"), inputs_of())
    assert_equal(logits_of(tmp_path / "dir", "--inputs", inputs), expected, inputs_of()[1])
    read = open_source(tmp_path / "dir").tensors.__getitem__
    write_exchange(tmp_path / "half.json", config, read, inputs_of(), {})
    assert_equal(logits_of(tmp_path / "half.json"), expected, inputs_of()[1])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_gives_the_bits_of_the_same_floats(tied: bool, dtype: str, tmp_path: Path) -> None:
    config = config_of("qwen3-moe") | {"tie_word_embeddings": tied}
    write_directory(tmp_path / "half", config, drawn(config), dtype)
    wide = {
        name: Tensor(name, tensor.file, "F32", np.ascontiguousarray(tensor.float32()))
        for name, tensor in open_source(tmp_path / "half").tensors.items()
    }
    write_directory(tmp_path / "wide", config, wide)
    inputs = write_file(tmp_path / "inputs.json", config)
    ours, theirs = (logits_of(tmp_path / name, "--inputs", inputs) for name in ("half", "wide"))
    if dtype == "BF16" and native.isa() == "amx":  # whose tiles sum up in another order
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["int8", "exact"])
@pytest.mark.parametrize("tied", [False, True])
def test_integer_products(dtype: str, tied: bool, tmp_path: Path) -> None:
    config = config_of("llama") | {"tie_word_embeddings": tied}
    file = write_file(tmp_path / "model.json", config)
    source = open_source(file)
    write_integer_checkpoint(source.spec, config, source.tensors, tmp_path, tmp_path / "int8")
    assert source.inputs is not None
    ours = logits_of(file, "--dtype", dtype)
    # A value on the edge between two codes may fall either way.
    assert_equal(ours, in_integers(source, dtype), source.inputs[1], 2e-2)
    write_version_1(tmp_path / "int8", tmp_path / "old")
    specify(tmp_path / "old")
    current, old = (logits_of(tmp_path / name, "--inputs", file, "--dtype", dtype) for name in ("int8", "old"))
    np.testing.assert_array_equal(current, old)
    if dtype == "exact":
        np.testing.assert_array_equal(current, ours)
    assert_equal(current, in_integers(source, dtype, stored=True), source.inputs[1], 2e-2)


@pytest.mark.parametrize("dtype", ["int8", "exact"])
@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3-moe"])
def test_calibrated_integers(case: str, dtype: str, tmp_path: Path) -> None:
    config = config_of(case)
    file = write_file(tmp_path / "model.json", config)
    source, folder = open_source(file), tmp_path / "int8"
    recipe = CalibratedRecipe(source.spec, source.tensors, [np.arange(3, 35, dtype=np.int32)])
    write_integer_checkpoint(source.spec, config, source.tensors, tmp_path, folder, recipe=recipe)
    assert source.inputs is not None
    stored = replace(open_source(folder), inputs=source.inputs)
    ours = logits_of(folder, "--inputs", file, "--dtype", dtype)
    assert_equal(ours, in_integers(stored, dtype, stored=True), source.inputs[1], 2e-2)
    name = "model.layers.0.self_attn.o_proj.weight_channel_scale"
    for value, message in ((0, "must be above 0"), (-1, "must be above 0"), (np.nan, "aren't finite")):
        shutil.copytree(folder, tmp_path / "bad", dirs_exist_ok=True)
        change_tensor(tmp_path / "bad", name, put((1,), value))
        assert message in refused(tmp_path / "bad", "--inputs", file)


def test_bad_integer_checkpoints_are_refused(tmp_path: Path) -> None:
    config = config_of("llama")
    file = write_file(tmp_path / "model.json", config)
    source, folder = open_source(file), tmp_path / "int8"
    write_integer_checkpoint(source.spec, config, source.tensors, tmp_path, folder)
    good = {file: file.read_bytes() for file in folder.iterdir()}
    for name, index, value, message in (
        (QKV, (0, 3, 5, 1), -128, "between -127 and 127"),
        (QKV, (0, -1, 0, 0), 1, "padding must be zero"),
        (f"{QKV}_scale", (3,), -1, "must not be negative"),
        (f"{QKV}_scale", (3,), np.nan, "aren't finite"),
    ):
        change_tensor(folder, name, put(index, value))
        assert message in refused(folder, "--inputs", file)
        for path, content in good.items():
            path.write_bytes(content)
    digests = json.loads((folder / "digests.json").read_text())
    for wrong in ({**digests, QKV: "0" * 64}, {**digests, QKV: None}, {**digests, "more": "0"}, {"more": "0"}, {}, []):
        (folder / "digests.json").write_text(json.dumps(wrong))
        assert "digest" in refused(folder, "--inputs", file)
    (folder / "digests.json").unlink()
    assert "digests.json" in refused(folder, "--inputs", file)
    (folder / "digests.json").write_text(json.dumps(digests))
    stored = json.loads((folder / "config.json").read_text())
    for version, message in (
        (1, r"q_proj\.weight is missing"),
        (3, "version 3 must have its recipe"),
        (4, "version 4"),
        (True, "version True"),
        (None, "version"),
    ):
        stored["quantization_config"]["version"] = version
        (folder / "config.json").write_text(json.dumps(stored))
        with pytest.raises(CutsetError, match=message):
            specify(folder)
        assert "has changed since specification.json" in refused(folder, "--inputs", file)


@pytest.mark.parametrize("hidden", [12, 14, 16, 30])
def test_digests_are_compared(hidden: int, tmp_path: Path) -> None:
    """Norms of 48, 56, 64 and 120 bytes: padding begins before, at and after the end of a block."""
    model = RandomModel(hidden=hidden, heads=1, kv_heads=1, vocab=61)
    model.write_checkpoint(tmp_path / "float")
    model.write_exchange(tmp_path / "file.json")
    source, folder = open_source(tmp_path / "float"), tmp_path / "int8"
    write_integer_checkpoint(source.spec, source.config, source.tensors, tmp_path / "float", folder)
    logits_of(folder, "--inputs", tmp_path / "file.json")
    flipped = bytearray((folder / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (folder / "model.safetensors").write_bytes(flipped)
    assert "the file was changed" in refused(folder, "--inputs", tmp_path / "file.json")


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    config = config_of("qwen2")
    tensors = drawn(config)
    file = write_file(tmp_path / "model.json", config)
    folder = tmp_path / "dir"
    write_directory(folder, config, tensors)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        write_safetensors(
            folder / shard, {n: ("F32", tensors[n].shape) for n in part}, ((n, tensors[n].raw) for n in part)
        )
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    assert "2 safetensors files but no model.safetensors.index.json" in refused(folder, "--inputs", file)
    index.write_text(json.dumps({"weight_map": {n: s for s, part in shards.items() for n in part}}))
    np.testing.assert_array_equal(logits_of(folder, "--inputs", file), logits_of(file))
    for wrong, message in (("../a.safetensors", "beside it"), ("c.safetensors", "is missing"), (3, "must map")):
        index.write_text(json.dumps({"weight_map": {"x": wrong}}))
        assert message in refused(folder, "--inputs", file)


def test_every_instruction_set_agrees_and_another_is_refused(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("qwen3-moe"))
    message = refused(file, CUTSET_ISA="sparc")
    for isa in message.rpartition("has ")[2].strip().split(", "):
        assert_equal(logits_of(file, CUTSET_ISA=isa), reference(open_source(file)), inputs_of()[1])


def test_the_line_of_times(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("llama"))
    done = call(file, tmp_path / "x.npy", "--warmup", 2, "--repeat=5", "--threads", 2, CUTSET_ISA="portable")
    pattern = r"cutset-runner float32 portable: \d+\.\d{3} ms ± \d+\.\d% for 3 x 24 tokens, median of 5, threads 2\n"
    assert re.fullmatch(pattern, done.stdout), done.stdout
    assert "±" not in call(file, "/dev/null").stdout


def test_what_has_a_state_is_refused_in_one_line() -> None:
    """The specification has no form for it yet; nothing is written that the runner would read as something else."""
    without = [case for case, spec in SPECS.items() if not describable(spec)]
    assert without
    for case in without:
        with pytest.raises(ArchitectureError) as caught:
            to_json(SPECS[case])
        assert "\n" not in str(caught.value)
