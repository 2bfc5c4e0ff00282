"""The text part of a model with pictures: whatever its tensors are called, whatever lies beside them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ArchitectureError, CheckpointError
from cutset.models.families import load_spec, spec_from_config
from cutset.models.files.adapter import read_adapter
from cutset.models.files.checkpoint import SafetensorsFile
from cutset.models.files.integer import write_integer_checkpoint
from cutset.models.files.source import open_source, specify
from cutset.models.files.writer import write_safetensors

pytest.importorskip("transformers")

from models.family_cases import CASES
from models.family_checkpoints import write_checkpoint
from models.test_adapter import write_adapter

IDS = np.random.default_rng(3).integers(0, 131, 12).tolist()
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=1)
OLD, NEW = "language_model.model.", "model.language_model."


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("gemma3")
    return directory, write_checkpoint(directory, CASES["gemma3"][0], tokenizer=True, **CASES["gemma3"][1])


def rewritten(saved: Path, target: Path, rename: Any = None, config: Any = None, more: Any = None) -> Path:
    """The same model with its tensors' names or its configuration changed."""
    target.mkdir()
    for path in saved.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    if config is not None:
        (target / "config.json").write_text(json.dumps(config(json.loads((saved / "config.json").read_text()))))
    tensors = dict(SafetensorsFile(saved / "model.safetensors"))
    named = {(rename or (lambda name: name))(name): tensor.raw for name, tensor in tensors.items()} | (more or {})
    layout = {name: ("F32", raw.shape) for name, raw in named.items()}
    write_safetensors(target / "model.safetensors", layout, named.items(), {"format": "pt"})
    return target


def answer(directory: Path, **settings: Any) -> Any:
    with LLM(directory, threads=1, **settings) as llm:
        output = llm.generate([IDS], GREEDY)[0].outputs[0]
        return output.token_ids, output.logprobs


def modern(name: str) -> str:
    return name.replace(OLD, NEW) if name.startswith(OLD) else f"model.{name}"


def test_either_kind_of_names(saved: tuple[Path, Any], tmp_path: Path) -> None:
    names = set(SafetensorsFile(saved[0] / "model.safetensors"))
    assert all(name.startswith((OLD, "vision_tower.", "multi_modal_projector.")) for name in names)
    assert answer(rewritten(saved[0], tmp_path / "modern", modern)) == answer(saved[0])


def test_what_is_skipped_is_said_in_a_line(saved: tuple[Path, Any], caplog: pytest.LogCaptureFixture) -> None:
    others = [n for n in SafetensorsFile(saved[0] / "model.safetensors") if not n.startswith(OLD)]
    with caplog.at_level(logging.WARNING):
        open_source(saved[0])
    [record] = caplog.records
    assert (
        record.getMessage() == f"{saved[0]}: {len(others)} tensors of its other parts are skipped; the text part runs"
    )


@pytest.mark.parametrize("head", ["language_model.lm_head.weight", "lm_head.weight"])
@pytest.mark.parametrize("own", [True, False])
def test_a_head_under_either_name(head: str, own: bool, saved: tuple[Path, Any], tmp_path: Path) -> None:
    embedding = SafetensorsFile(saved[0] / "model.safetensors")[OLD + "embed_tokens.weight"].raw
    weight = np.ascontiguousarray(embedding[::-1]) if own else embedding
    directory = rewritten(saved[0], tmp_path / "m", more={head: weight})
    assert open_source(directory).spec.tied is not own
    assert (answer(directory) == answer(saved[0])) is not own


def test_a_tensor_under_two_names_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    norm = SafetensorsFile(saved[0] / "model.safetensors")[OLD + "norm.weight"].raw
    directory = rewritten(saved[0], tmp_path / "m", more={NEW + "norm.weight": norm})
    with pytest.raises(CheckpointError, match=r"norm\.weight and .*norm\.weight are the same tensor"):
        open_source(directory)


def test_a_part_that_nobody_knows_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    directory = rewritten(saved[0], tmp_path / "m", more={"audio_tower.weight": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"audio_tower\.weight is unexpected"):
        open_source(directory)


def test_its_specification_names_what_is_stored(saved: tuple[Path, Any], tmp_path: Path) -> None:
    for name, rename in (("old", None), ("new", modern)):
        directory = rewritten(saved[0], tmp_path / name, rename)
        document = json.loads(specify(directory).read_text())
        names = set(SafetensorsFile(directory / "model.safetensors"))
        templates = [name for role in document["specification"]["tensors"].values() for name, _ in role]
        stored = {one.replace("{layer}", str(layer)) for one in templates for layer in range(3)}
        assert stored <= names
        assert stored | set(document["ignored"]) == names


def test_quantised_and_written_again(saved: tuple[Path, Any], tmp_path: Path) -> None:
    source = open_source(saved[0])
    write_integer_checkpoint(source.spec, source.config, source.tensors, saved[0], tmp_path / "int8")
    assert answer(tmp_path / "int8", dtype="exact") == answer(saved[0], dtype="exact")


def test_adapters_of_either_kind_of_names(
    saved: tuple[Path, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, model = saved
    added = write_adapter(tmp_path / "new", model, ("q_proj", "down_proj"))
    others = sum("vision" in name for name in added)
    assert others
    (tmp_path / "old").mkdir()
    (tmp_path / "old/adapter_config.json").write_bytes((tmp_path / "new/adapter_config.json").read_bytes())
    tensors = {
        n.replace(NEW, OLD): t.raw for n, t in SafetensorsFile(tmp_path / "new/adapter_model.safetensors").items()
    }
    layout = {name: ("F32", raw.shape) for name, raw in tensors.items()}
    write_safetensors(tmp_path / "old/adapter_model.safetensors", layout, tensors.items(), {})
    spec = load_spec(directory)
    found = [read_adapter("a", tmp_path / name, spec).parts for name in ("new", "old")]
    assert [f"{2 * others} tensors for other parts" in record.getMessage() for record in caplog.records] == [True] * 2
    assert len(found[0]) == 6
    for ours, theirs in zip(*found, strict=True):
        assert (ours.site, ours.layer, ours.first) == (theirs.site, theirs.layer, theirs.first)
        np.testing.assert_array_equal(ours.up, theirs.up)


# What the published files say of the 4B model, and no more.
PUBLISHED: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "vision_use_head": False},
}


def test_what_published_files_leave_out() -> None:
    import transformers

    spec = spec_from_config(PUBLISHED)
    theirs = transformers.Gemma3Config(**{k: v for k, v in PUBLISHED.items() if k != "model_type"}).text_config
    assert (spec.vocab_size, spec.heads, spec.kv_heads) == (262208, 8, 4)
    assert (theirs.vocab_size, theirs.num_attention_heads, theirs.num_key_value_heads) == (262208, 8, 4)
    assert (spec.head_dim, spec.tied, spec.bos_token_id, spec.eos_token_ids) == (256, True, 2, (1, 106))
    assert [bool(w) for w in spec.windows] == [kind == "sliding_attention" for kind in theirs.layer_types]
    assert spec.windows[0] == 1024
    assert spec.context == spec.longest == 131072
    assert spec.rope_tables[4:7] == (1, 0, 1)
    assert spec.ropes[0].frequencies[0] == 1 / 8
    assert spec.ropes[1].frequencies[0] == 1
    assert spec.ropes[1].frequencies[-1] > 2 * spec.ropes[0].frequencies[-1]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"text_config": None}, "text_config is missing"),
        ({"text_config": {"model_type": "llama"}}, "text_config: model_type must be gemma3_text"),
        ({"text_config": {"surprise": 1}}, "text_config: surprise is not supported for gemma3_text"),
        ({"text_config": {"use_bidirectional_attention": True}}, "text_config: use_bidirectional_attention"),
        ({"text_config": {"hidden_activation": "quick_gelu"}}, "unknown hidden_activation 'quick_gelu'"),
        ({"text_config": {"rope_parameters": {"rope_type": "linear"}}}, "rope_parameters: rope_type is not supported"),
        ({"text_config": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor other than 1"),
        ({"text_config": {"sliding_window": None}}, "some layers slide, but sliding_window is null"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantised checkpoint of another program"),
        ({"surprise": 1}, "surprise is not supported for gemma3"),
    ],
)
def test_what_is_refused(change: dict[str, Any], wanted: str) -> None:
    inner = change.get("text_config")
    changed = {**change, "text_config": {**PUBLISHED["text_config"], **inner}} if isinstance(inner, dict) else change
    with pytest.raises(ArchitectureError, match=wanted):
        spec_from_config({**PUBLISHED, **changed})
