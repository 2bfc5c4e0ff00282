"""Every key of a configuration is read, changes no answer, or is refused by its name; families are found by theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import ArchitectureError
from cutset.models import families as package
from cutset.models.families import families, spec_from_config
from cutset.models.families.common import HARMLESS, NEUTRAL
from models.config_pairs import PAIRS
from models.config_pairs import config_of as pair_of
from runner.files import CONFIGS, config_of

TRANSFORMERS = {
    "gpt_oss": "GptOssConfig",
    "gemma": "GemmaConfig",
    "gemma2": "Gemma2Config",
    "gemma3": "Gemma3Config",
    "gemma3_text": "Gemma3TextConfig",
    "gemma4": "Gemma4Config",
    "gemma4_text": "Gemma4TextConfig",
    "glm": "GlmConfig",
    "glm4": "Glm4Config",
    "granite": "GraniteConfig",
    "lfm2": "Lfm2Config",
    "llama": "LlamaConfig",
    "ministral": "MinistralConfig",
    "ministral3": "Ministral3Config",
    "mistral": "MistralConfig",
    "mistral3": "Mistral3Config",
    "olmo2": "Olmo2Config",
    "olmo3": "Olmo3Config",
    "phi3": "Phi3Config",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "qwen3_5": "Qwen3_5Config",
    "qwen3_5_moe": "Qwen3_5MoeConfig",
    "qwen3_5_moe_text": "Qwen3_5MoeTextConfig",
    "qwen3_5_text": "Qwen3_5TextConfig",
    "qwen3_moe": "Qwen3MoeConfig",
    "smollm3": "SmolLM3Config",
}
UNREAD = {
    "attn_logit_softcapping": 50.0,
    "logits_scaling": 8,
    "residual_multiplier": 0.22,
    "no_rope_layers": [1, 0],
    "clip_qkv": 8,
    "rope_interleaved": True,
    "quantization": {"bits": 4},
    "is_encoder_decoder": True,
    "per_layer_config": {"0": {}},
    "hidden_activation": "gelu_pytorch_tanh",
    "x" * 300: 1,
}


def test_a_family_is_a_file_and_nothing_more() -> None:
    folder = Path(package.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "common", "rope", "text_part"}
    assert files == set(families()) == {family.model_type for family in families().values()}
    names = [name for family in families().values() for name in family.architectures]
    assert len(names) == len(set(names))
    for path in folder.parent.parent.rglob("*.py"):  # no other file of the package knows one
        if path.parent != folder and path.name not in ("random.py",):
            text = path.read_text()
            assert not [name for name in names if name in text], path


def written_by_transformers(name: str) -> dict[str, Any]:
    """The default configuration of a family's class."""
    transformers = pytest.importorskip("transformers")
    found: dict[str, Any] = getattr(transformers, TRANSFORMERS[name])().to_dict()
    return found


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_key_that_transformers_writes_has_a_fate(name: str) -> None:
    family, written = families()[name], written_by_transformers(name)
    assert written.get("text_config", written).keys() > {"rope_parameters", "vocab_size"}
    known = family.all_reads | family.harmless | HARMLESS | NEUTRAL.keys() | family.neutral.keys()
    assert not written.keys() - known
    spec_from_config(written)


@pytest.mark.parametrize("case", [*CONFIGS, *PAIRS])
def test_families_read_what_they_declare_and_no_more(case: str) -> None:
    config = config_of(case) if case in CONFIGS else pair_of(PAIRS[case][0])
    spec = spec_from_config(config)  # which asserts it
    family = families()[spec.family]
    assert not family.all_reads & (family.harmless | HARMLESS)


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name, one in families().items() for key in UNREAD if key not in one.all_reads | one.harmless],
)
def test_what_nothing_reads_is_refused_by_its_name(name: str, key: str) -> None:
    cases = [config_of(case) for case in CONFIGS if config_of(case)["model_type"] == name]
    config = cases[0] if cases else written_by_transformers(name)
    spec = spec_from_config(config)
    with pytest.raises(ArchitectureError, match=rf"config\.json: {key[:60]} is not supported for {name}; remove it"):
        spec_from_config(config | {key: UNREAD[key]})
    assert spec_from_config(config | {key: None}) == spec  # it says nothing


@pytest.mark.parametrize("key", ["short_mscale", "mrope_section", "alpha"])
def test_what_nothing_reads_of_the_rotary_embedding_is_refused(key: str) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(ArchitectureError, match=f"rope_scaling: {key} is not supported"):
        spec_from_config(config_of("llama") | {"rope_scaling": scaling | {key: [1]}})
    spec_from_config(config_of("llama") | {"rope_scaling": scaling | {key: None, "finetuned": True}})


@pytest.mark.parametrize(
    ("model_type", "architectures", "nearest"),
    [
        ("qwen3_next", ["Qwen3NextForCausalLM"], "qwen3, "),
        ("mixtral", ["MixtralForCausalLM"], "mistral, "),
        (None, ["Llama4ForCausalLM"], "llama, "),
        ("mini-mind", None, "minimind, "),
        (7, "none", ""),
        ("x" * 5000, ["y" * 5000] * 50, ""),
    ],
)
def test_an_unknown_architecture_names_the_nearest(model_type: Any, architectures: Any, nearest: str) -> None:
    with pytest.raises(ArchitectureError, match=f"unknown model_type .*; the nearest known are {nearest}") as caught:
        spec_from_config({"model_type": model_type, "architectures": architectures})
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_family_is_found_by_its_architecture_where_the_type_is_absent() -> None:
    config = config_of("qwen3")
    spec = spec_from_config(config)
    del config["model_type"]
    assert spec_from_config(config | {"architectures": ["Qwen3ForCausalLM"]}) == spec
    with pytest.raises(ArchitectureError):
        spec_from_config(config)
    with pytest.raises(ArchitectureError):  # the type counts, where there is one
        spec_from_config(json.loads(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"], "model_type": "gpt2"})))
