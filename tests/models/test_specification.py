"""The normalised specification: complete, without a family, the same decoder when it is read again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.errors import CheckpointError, ModelError
from cutset.kernels.native import extension
from cutset.models.families import spec_from_config
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.exchange import ExchangeFile, write_exchange
from cutset.models.files.source import convert, open_source, specify
from cutset.models.files.specification import SPECIFICATION, from_json, to_json
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.native import NativeDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec, TensorName, TensorNames
from models.family_checkpoints import whole_logits
from runner.files import CONFIGS, RUNNER, config_of, drawn, inputs_of, logits_of, refused, write_directory, write_file

native = extension()
needs_runner = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")


@pytest.mark.parametrize("case", CONFIGS)
def test_it_is_the_same_decoder_when_it_is_read_again(case: str) -> None:
    spec = spec_from_config(config_of(case))
    content = json.loads(json.dumps(to_json(spec)))
    again = from_json(content, "x", spec.family)
    assert replace(again, names=spec.names) == spec.bare()
    assert [*again.tensors()] == [*spec.tensors()]  # the names of what the decoder has
    text = json.dumps(content)
    for word in (spec.family, "Llama", "rope_scaling", "model_type"):  # nothing of a family in it
        assert word not in text


def old_version(path: Path, target: Path) -> Path:
    """The exchange file as version 1 had it."""
    content = json.loads(path.read_text())
    del content["specification"], content["meta"]["family"]
    target.write_text(json.dumps(content | {"version": 1}))
    return target


@pytest.mark.parametrize("case", ["llama-tied", "qwen3-moe", "rope-yarn", "minimind-old-moe"])
def test_old_files_are_read_and_brought_up_to_date(case: str, tmp_path: Path) -> None:
    new = write_file(tmp_path / "new.json", config_of(case))
    old = old_version(new, tmp_path / "old.json")
    ours, theirs = open_source(old), open_source(new)
    assert ours.spec == theirs.spec
    assert all(ours.tensors[name].raw.tobytes() == theirs.tensors[name].raw.tobytes() for name in theirs.tensors)
    assert main(["convert", str(old), "-o", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["specification"] == to_json(ours.spec)
    if RUNNER.is_file():
        assert f"bring it up to date with `cutset convert {old} -o" in refused(old)
        np.testing.assert_array_equal(logits_of(tmp_path / "again.json"), logits_of(new))


def test_a_file_without_format_and_version_is_old(tmp_path: Path) -> None:
    old = old_version(write_file(tmp_path / "new.json", config_of("minimind-old")), tmp_path / "old.json")
    content = json.loads(old.read_text())
    del content["version"], content["format"], content["config"]["model_type"]
    old.write_text(json.dumps(content))
    assert open_source(old).spec.family == "minimind"
    if RUNNER.is_file():
        assert "exchange file of version 1" in refused(old)


def test_the_specification_counts_and_not_the_configuration(tmp_path: Path) -> None:
    file = write_file(tmp_path / "x.json", config_of("llama"))
    content, spec = json.loads(file.read_text()), open_source(file).spec
    for config, message in ((None, "no config"), ({"model_type": "gpt2"}, "unknown"), (config_of("qwen2"), "another")):
        file.write_text(json.dumps(content | {"config": config}))
        assert open_source(file).spec == spec  # whoever runs it needs none
        with pytest.raises(ModelError, match=message):
            convert(open_source(file), tmp_path / "dir")
        assert not (tmp_path / "dir").exists()


def test_a_checkpoint_gets_its_specification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "story"
    shutil.copytree(BUNDLED["story"], folder)
    assert main(["convert", str(folder), "-o", str(folder / SPECIFICATION)]) == 0
    content = json.loads((folder / SPECIFICATION).read_text())
    assert from_json(content["specification"], "x", "llama") == open_source(folder).spec
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(["convert", str(folder), "-o", str(tmp_path / SPECIFICATION)]) == 2
    assert "belongs beside its weights" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def other_names() -> TensorNames:
    """Names that no family has: fused products, a prefix, experts under another word."""
    block = "text.blocks.{layer}."
    names: dict[str, Any] = {
        "embedding": (TensorName("text.wte", "tok_embedding"),),
        "qkv": (TensorName(f"{block}attention.qkv", "layers/{layer}/wqkv"),),
        "gate_up": (TensorName(f"{block}mlp.0", "layers/{layer}/w_gate_up"),),
        "expert_gate_up": (TensorName(f"{block}moe.{{expert}}.both", "layers/{layer}/moe/{expert}/w_gate_up"),),
    }
    return replace(TensorNames(), **names)


def renamed(spec: DecoderSpec, tensors: dict[str, Tensor], names: TensorNames) -> tuple[DecoderSpec, dict[str, Tensor]]:
    """The same weights under other names, the parts of a parameter stacked where one name holds all."""
    other, found = replace(spec, names=names), dict[str, Tensor]()
    parts: dict[tuple[str, int, int], list[np.ndarray]] = {}
    for wanted in spec.tensors():
        parts.setdefault(wanted[:3], []).append(tensors[wanted.name].raw)
    for wanted in other.tensors():
        whole = np.concatenate(parts[wanted[:3]]) if wanted.shape[0] != parts[wanted[:3]][0].shape[0] else None
        raw = parts[wanted[:3]].pop(0) if whole is None else whole
        found[wanted.name] = Tensor(wanted.name, Path("(made)"), "F32", raw)
    return other, found


@pytest.mark.parametrize("case", ["llama-biases", "qwen3", "qwen3-moe-mixed"])
def test_names_are_data(case: str, tmp_path: Path) -> None:
    """What a family says of names is all that every executor needs, the runner among them."""
    config = config_of(case)
    spec, tensors = spec_from_config(config), drawn(config)
    other, moved = renamed(spec, tensors, other_names())
    assert not {"text.wte"} & tensors.keys()
    assert len(moved) < len(tensors)
    ids, ops, pool = inputs_of(padded=False)[0], NumpyOps(), native.Pool(1)
    plain = whole_logits(ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops)), ids)
    np.testing.assert_allclose(
        whole_logits(ReferenceDecoder(other, moved, ops, FloatLinears(other, moved, ops)), ids), plain, atol=1e-4
    )
    ours, theirs = (whole_logits(NativeDecoder(s, t, pool), ids) for s, t in ((other, moved), (spec, tensors)))
    np.testing.assert_array_equal(ours, theirs)
    path = tmp_path / "x.json"
    write_exchange(path, config, moved.__getitem__, inputs_of(), {}, spec=other)
    assert [*ExchangeFile(path).spec.tensors()] == [*other.tensors()]
    if RUNNER.is_file():
        np.testing.assert_array_equal(logits_of(path), logits_of(write_file(tmp_path / "plain.json", config)))


@needs_runner
def test_the_runner_takes_bits_and_frequencies_from_the_file(tmp_path: Path) -> None:
    file = write_file(tmp_path / "x.json", config_of("llama"))
    content, plain, twelve = json.loads(file.read_text()), logits_of(file), logits_of(file, "--dtype", "exact")
    content["specification"]["activation_bits"]["exact"] = dict.fromkeys(("qkv", "o", "gate_up", "down", "lm_head"), 8)
    file.write_text(json.dumps(content))
    assert (logits_of(file, "--dtype", "exact") != twelve).any()
    with pytest.raises(ModelError, match="activation_bits are not those that this program computes with"):
        open_source(file)  # whose own are fixed
    content["specification"]["ropes"][0]["frequencies"][1] *= 2
    file.write_text(json.dumps(content))
    assert (logits_of(file) != plain).any()


@needs_runner
def test_the_runner_takes_what_is_stored(tmp_path: Path) -> None:
    """A tied embedding under the head's name, old buffers, a copy: named by the specification, not guessed."""
    config = config_of("llama-tied")
    tensors, inputs = drawn(config), write_file(tmp_path / "inputs.json", config)
    write_directory(tmp_path / "plain", config, tensors)
    plain = logits_of(tmp_path / "plain", "--inputs", inputs)
    embedding = tensors["model.embed_tokens.weight"].raw
    copy = {"lm_head.weight": Tensor("lm_head.weight", tmp_path, "F32", embedding)}
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = {buffer: Tensor(buffer, tmp_path, "F32", np.ones(4, np.float32))}
    alone = {name: tensor for name, tensor in tensors.items() if name != "model.embed_tokens.weight"} | copy
    for name, stored, ignored in (
        ("copy", tensors | copy, ["lm_head.weight"]),
        ("alone", alone, []),
        ("buffer", tensors | old, [buffer]),
    ):
        write_directory(tmp_path / name, config, stored)
        assert json.loads((tmp_path / name / SPECIFICATION).read_text())["ignored"] == ignored
        np.testing.assert_array_equal(logits_of(tmp_path / name, "--inputs", inputs), plain)
        assert open_source(tmp_path / name).spec.tied
    document = json.loads((tmp_path / "buffer" / SPECIFICATION).read_text())
    (tmp_path / "buffer" / SPECIFICATION).write_text(json.dumps(document | {"ignored": []}))
    assert f"{buffer} is unexpected" in refused(tmp_path / "buffer", "--inputs", inputs)


@needs_runner
def test_quantised_and_converted_checkpoints_have_theirs(tmp_path: Path) -> None:
    model = RandomModel(qk_norm=True)
    model.write_checkpoint(tmp_path / "float")
    model.write_exchange(tmp_path / "x.json")
    assert main(["quantize", str(tmp_path / "float"), "-o", str(tmp_path / "int8")]) == 0
    assert main(["convert", str(tmp_path / "x.json"), "-o", str(tmp_path / "back")]) == 0
    for name in ("float", "int8", "back"):
        logits_of(tmp_path / name, "--inputs", tmp_path / "x.json")
        written = (tmp_path / name / SPECIFICATION).read_bytes()
        specify(tmp_path / name)
        assert (tmp_path / name / SPECIFICATION).read_bytes() == written


def test_a_specification_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    RandomModel().write_checkpoint(tmp_path / "dir")
    (tmp_path / "dir" / SPECIFICATION).unlink()
    (tmp_path / "dir" / SPECIFICATION).mkdir()
    with pytest.raises(ModelError, match=r"specification\.json can't be written"):
        specify(tmp_path / "dir")
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "dir" / "config.json")
