"""Which of two keys of a configuration counts: what transformers reads from the same file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ArchitectureError
from cutset.models.families import load_spec, spec_from_config
from cutset.models.files.source import open_source
from cutset.models.registry import BUNDLED
from models.config_pairs import PAIRS, REFUSED, SIZES, config_of
from runner.files import drawn, reference, write_directory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = np.random.default_rng(6).integers(0, 61, (2, 24)).astype(np.int32)
INPUTS = IDS, np.ones(IDS.shape, np.uint8)


def ours(folder: Path, config: dict[str, Any]) -> np.ndarray:
    write_directory(folder, config, drawn(config))
    return reference(open_source(folder), INPUTS)


@pytest.mark.parametrize("case", PAIRS)
def test_reads_what_transformers_reads(case: str, tmp_path: Path) -> None:
    changes, other = PAIRS[case]
    logits = ours(tmp_path, config_of(changes))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(IDS).long()).logits.numpy()
    assert np.linalg.norm(logits - theirs) <= 1e-4 * np.linalg.norm(theirs)
    if other is not None:
        assert np.linalg.norm(ours(tmp_path, config_of(other)) - theirs) > 1e-2 * np.linalg.norm(theirs)


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_nothing_here_follows_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        spec_from_config(config_of(changes))


def test_what_a_qwen_file_without_key_value_heads_means() -> None:
    for family in ("qwen2", "qwen3"):
        config = {**SIZES, "model_type": family, "num_attention_heads": 64, "hidden_size": 512}
        del config["num_key_value_heads"]
        theirs = getattr(transformers, f"Qwen{family[-1]}Config")
        expected = theirs(**{key: value for key, value in config.items() if key != "model_type"})
        assert spec_from_config(config).kv_heads == expected.num_key_value_heads == 32
        assert spec_from_config(config | {"num_attention_heads": 4}).kv_heads == 4  # which can't share 32


def test_end_tokens_are_united(tmp_path: Path) -> None:
    def found(config: dict[str, Any], generation: Any = None, named: int | None = None) -> set[int]:
        (tmp_path / "config.json").write_text(json.dumps(SIZES | config))
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
        return set(load_spec(tmp_path).end_tokens(named))

    assert found({"eos_token_id": 5}) == {5}
    assert found({"eos_token_id": 5}, 7) == {5, 7}
    assert found({"eos_token_id": [5, 6]}, [7, 5], 9) == {5, 6, 7, 9}
    assert found({"eos_token_id": None}, None, 9) == {9}
    assert found({"eos_token_id": [61, -1, 3]}, [1000]) == {3}  # of a larger vocabulary
    # What a family takes an absent field for counts only where no file names an end token.
    assert found({}) == {2}
    assert found({}, 7) == {7}
    assert found({}, None, 9) == {9}
    with pytest.raises(ArchitectureError, match=r"generation_config\.json: eos_token_id must be a token id or a list"):
        found({}, "</s>")


@pytest.mark.parametrize(
    ("config", "generation"),
    [({"eos_token_id": 2}, None), ({"eos_token_id": None}, None), ({"eos_token_id": 2}, {"eos_token_id": 0}), ({}, {})],
)
def test_an_answer_ends_where_the_tokenizer_says(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None
) -> None:
    folder = tmp_path / "story"
    shutil.copytree(BUNDLED["story"], folder)
    stored = json.loads((folder / "config.json").read_text())
    del stored["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(stored | config))
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    params = SamplingParams(temperature=0, max_tokens=400)
    with LLM(folder, threads=1) as llm, LLM("story", threads=1) as whole:
        [found], [expected] = llm.generate("The dog said:", params), whole.generate("The dog said:", params)
    assert found.outputs[0].finish_reason == "stop"
    assert found.outputs[0].token_ids == expected.outputs[0].token_ids
    assert len(found.outputs[0].token_ids) < 200
