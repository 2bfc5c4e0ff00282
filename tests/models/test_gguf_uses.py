"""Wherever a model is named a GGUF file may stand: it answers as the directory that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Kind

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import Settings
from cutset.errors import CheckpointError, ModelError
from cutset.models.files.contents import contents_of
from cutset.models.files.formats import weight_files
from cutset.models.files.source import convert, open_source
from cutset.models.generation_config import generation_defaults
from cutset.models.registry import ModelRef, catalogue, resolve
from cutset.models.run.executor import Batch
from cutset.models.run.native import NativeDecoder, thread_pool
from cutset.offload.matrices import each_matrix
from models.gguf_files import Written, write_directory, write_gguf

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.mark.parametrize("case", ["llama", "gemma2", "qwen3moe", "gpt-oss", "phi3-long", "granite-still", "lfm2"])
def test_logits_are_those_of_the_directory_to_the_bit(case: str, tmp_path: Path) -> None:
    model = Written(case)
    write_gguf(model, tmp_path / "m.gguf")
    write_directory(model, tmp_path / "dir")
    ids = np.random.default_rng(0).integers(0, 96, (2, 17)).astype(np.int32)
    found = []
    for path in (tmp_path / "m.gguf", tmp_path / "dir"):
        source = open_source(path)
        decoder = NativeDecoder(source.spec, source.tensors, thread_pool(1))
        found.append(decoder.forward(Batch.whole(ids, 16), decoder.new_cache(8, 16)))
    assert np.abs(found[0]).max() > 0.1
    np.testing.assert_array_equal(found[0], found[1])


def test_codes_answer_as_the_floats_that_they_stand_for(tmp_path: Path) -> None:
    write_gguf(Written("qwen2"), tmp_path / "m.gguf", lambda name: Kind.Q4_0)
    convert(open_source(tmp_path / "m.gguf"), tmp_path / "dir")
    convert(open_source(tmp_path / "m.gguf"), tmp_path / "m.json")
    answers = []
    for name in ("m.gguf", "dir"):
        with LLM(tmp_path / name, threads=1, dtype="float32") as llm:
            answers.append(llm.generate(["!hello", "abc"], GREEDY))
    ours, theirs = ([out.outputs[0].token_ids for out in answer] for answer in answers)
    assert ours == theirs
    floats = {name: tensor.float32() for name, tensor in open_source(tmp_path / "m.gguf").tensors.items()}
    for name, tensor in open_source(tmp_path / "m.json").tensors.items():
        np.testing.assert_array_equal(tensor.float32(), floats[name])


def test_a_file_is_found_by_path_name_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "some" / "tiny-Q4_0.gguf"
    path.parent.mkdir()
    write_gguf(Written("llama"), path, lambda name: Kind.Q4_0)
    assert resolve(path, Settings()) == ModelRef(path, "tiny-Q4_0")
    assert resolve(path.parent, Settings()).directory == path
    (tmp_path / "models.yaml").write_text(json.dumps({"mine": str(path), "folder": str(path.parent)}))
    settings = Settings(models_file=tmp_path / "models.yaml")
    for name in ("mine", "folder"):
        assert resolve(name, settings).directory == path
    found = {info.ref.name: info for info in catalogue(settings)}
    for name in ("mine", "folder"):
        info = found[name]
        assert (info.problem, info.architecture, info.nbytes) == ("", "llama", path.stat().st_size)
    write_gguf(Written("llama"), path.with_name("other.gguf"))
    with pytest.raises(ModelError, match=r"has 2 GGUF files \(other\.gguf, tiny-Q4_0\.gguf\); name one of them"):
        resolve(path.parent, settings)


def test_a_folder_with_a_model_in_parts(tmp_path: Path) -> None:
    write_gguf(Written("llama"), tmp_path / "m.gguf", parts=8)
    found = resolve(tmp_path, Settings()).directory
    assert found.name.startswith("m-00001-of-")
    assert weight_files(found) == sorted(tmp_path.glob("*.gguf"))
    with LLM(tmp_path, threads=1) as llm:
        assert llm.generate(["abc"], GREEDY)[0].outputs[0].token_ids


def test_its_own_sampling_parameters(tmp_path: Path) -> None:
    more = {"general.sampling.temp": 0.25, "general.sampling.top_p": 0.5, "general.sampling.mirostat": 1}
    write_gguf(Written("llama"), tmp_path / "m.gguf", more=more)
    found = generation_defaults(tmp_path / "m.gguf", 10)
    assert (found.values, found.file) == ({"temperature": 0.25, "top_p": 0.5}, tmp_path / "m.gguf")
    write_gguf(Written("llama"), tmp_path / "n.gguf", more={"general.sampling.top_k": "all"})
    with pytest.raises(ModelError, match=r"general\.sampling\.top_k must be a number, not 'all'"):
        generation_defaults(tmp_path / "n.gguf", 10)


def test_ends_of_turns_count_where_the_file_names_none(tmp_path: Path) -> None:
    model = Written("llama")
    tokens = ["<unk>", "<s>", "</s>", "<|im_end|>", "<|eot_id|>", *(f"w{i}" for i in range(91))]
    more = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 3, 1] + [1] * 91,
        "tokenizer.ggml.merges": ["w 1"],
        "tokenizer.ggml.eos_token_id": 2,
    }
    write_gguf(model, tmp_path / "m.gguf", more=more)
    assert open_source(tmp_path / "m.gguf").spec.eos_token_ids == (2, 3)
    write_gguf(model, tmp_path / "n.gguf", more=more | {"tokenizer.ggml.eot_token_id": 7})
    assert open_source(tmp_path / "n.gguf").spec.eos_token_ids == (2, 7)
    write_gguf(model, tmp_path / "o.gguf", more=more | {"tokenizer.ggml.eos_token_id": 5000})
    assert open_source(tmp_path / "o.gguf").spec.eos_token_ids == (3,)


def test_an_offload_refuses_groups_and_says_what_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(Written("llama"), path, lambda name: Kind.Q8_0)
    helps = rf"integer checkpoints alone: make one with `cutset quantize {path} -o DIR`"
    with pytest.raises(CheckpointError, match=helps):
        next(each_matrix(open_source(path)))
    assert main(["accelerator", str(path), "--listen", "shm://nobody"]) == 2
    assert "cutset quantize" in capsys.readouterr().err
    assert main(["manifest", str(path), "-o", str(tmp_path / "out"), "--offload", "shm://nobody"]) == 2
    assert "cutset quantize" in capsys.readouterr().err
    assert main(["quantize", str(path), "-o", str(tmp_path / "int")]) == 0
    assert "rounded once (Q8_0) and are rounded again" in capsys.readouterr().err
    assert len(list(each_matrix(open_source(tmp_path / "int")))) == 9


@pytest.mark.parametrize(("kind", "bits"), [(Kind.Q4_0, 4), (Kind.Q4_0, 8), (Kind.Q8_0, 8), (Kind.Q5_1, 8)])
def test_few_bits_are_not_rounded_to_as_many_or_more(
    kind: Kind, bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(Written("llama"), path, lambda name: kind)
    assert main(["quantize", str(path), "-o", str(tmp_path / "few"), "--bits", str(bits), "--group", "32"]) == 2
    error = capsys.readouterr().err
    assert f"bits already ({kind.name}): use it as it is" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "few").exists()


def test_more_bits_are_rounded_to_fewer_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(Written("llama"), path, lambda name: Kind.Q8_0)
    assert main(["quantize", str(path), "-o", str(tmp_path / "few"), "--bits", "4", "--group", "32"]) == 0
    assert "rounded once (Q8_0) and are rounded again: the float model loses less" in capsys.readouterr().err


def test_what_a_model_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    model = Written("qwen3moe")
    write_gguf(
        model, path, lambda name: Kind.Q4_1 if "exps" in name else Kind.Q8_0, more={"general.name": "A \x1b[2J B"}
    )
    found = contents_of(path)
    weights = {kind.name: kind.weights for kind in found.kinds}
    experts = 2 * 4 * 3 * 64 * 64
    assert weights["Q4_1"] == experts
    assert sum(weights.values()) == found.spec.parameter_count()
    assert [(kind.bits, kind.group) for kind in found.kinds if kind.name == "Q4_1"] == [(5.0, 32)]
    assert main(["models", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "4 a layer, of which 2 run" in out
    write_directory(model, tmp_path / "dir")
    assert main(["models", str(tmp_path / "dir"), "--json", str(tmp_path / "m.json")]) == 0
    kinds = json.loads((tmp_path / "m.json").read_text())["model"]["types"]
    assert [(kind["name"], kind["bits"], kind["weights"]) for kind in kinds] == [
        ("F32", 32.0, found.spec.parameter_count())
    ]
