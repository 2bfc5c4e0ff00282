"""LoRA on parameters of all experts of a layer, in the forms that versions of PEFT save: against merged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import save_file

from cutset import LLM, SamplingParams
from cutset.errors import CutsetError
from cutset.models.families import load_spec
from cutset.models.files.adapter import read_adapter
from models.family_cases import CASES
from models.family_checkpoints import reference, relative_error, whole_logits, write_checkpoint
from models.test_adapter import native_decoder

IDS = np.random.default_rng(4).integers(0, 131, size=(3, 21)).astype(np.int32)
GATE_UP, DOWN = "gate_up_proj", "down_proj"
RANK = 3


def write_adapter(
    directory: Path,
    model: Any,
    names: tuple[str, ...] = (GATE_UP, DOWN),
    *,
    version: str | None = "0.19.1",
    seed: int = 1,
    **config: Any,
) -> dict[str, Any]:
    """As PEFT of that version writes it for `target_parameters`; by parameter, what it adds.

    Layers and formulas: peft.tuners.lora.ParamWrapper, before 0.19 with every parameter as (experts, inputs, outputs).
    """
    torch.manual_seed(seed)
    turned_version = version is None or version.startswith("0.18")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 6,
        "target_modules": [],
        "target_parameters": [f"experts.{name}" for name in names],
        **({"peft_version": version} if version else {}),
        **config,
    }
    tensors, added = {}, {}
    for module_name, module in model.named_modules():
        wanted = [name for name, _ in module.named_parameters(recurse=False) if name in names]
        if not module_name.endswith("experts") or not wanted:
            continue
        for depth, name in enumerate(reversed(wanted)):
            value = getattr(module, name)
            experts, first, second = value.shape
            rank = config.get("rank_pattern", {}).get(name, RANK)
            plain = getattr(module, "is_transposed", False) or turned_version
            inputs, outputs = (first, second) if plain else (second, first)
            a, b = torch.randn(experts * rank, inputs) / 7, torch.randn(outputs, rank * experts) / 2
            prefix = f"base_model.model.{module_name}{'.base_layer' * depth}"
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
            both = b.reshape(outputs, rank, experts), a.reshape(experts, rank, inputs)
            delta = torch.einsum("ore,eri->eio" if plain else "ore,eri->eoi", *both) * (6 / rank)
            assert delta.shape == value.shape
            added[f"{module_name}.{name}"] = delta
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return added


def merged_logits(model: Any, added: dict[str, Any]) -> np.ndarray:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, more in added.items():
            parameters[name] += more
        logits = model(torch.from_numpy(IDS.astype(np.int64))).logits.numpy()
        for name, more in added.items():
            parameters[name] -= more
    return logits


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("case", "names", "options"),
    [
        ("qwen3-moe", (GATE_UP, DOWN), {}),
        ("qwen3-moe", (GATE_UP, DOWN), {"version": None}),
        ("qwen3-moe", (DOWN,), {"version": "0.18.0"}),
        ("qwen3.5-moe", (GATE_UP,), {"version": "0.19.0"}),
        ("qwen3.5-moe-pictures", (GATE_UP, DOWN), {"version": "0.21.2"}),
        ("gemma4-text-mixture", (GATE_UP, DOWN), {"rank_pattern": {GATE_UP: 5}}),
        ("gpt-oss", (GATE_UP, DOWN), {}),
        ("gpt-oss", (GATE_UP, DOWN), {"version": "0.18.1"}),
    ],
)
def test_equals_merged_weights(
    case: str, names: tuple[str, ...], options: dict[str, Any], backend: str, tmp_path: Path
) -> None:
    model = write_checkpoint(tmp_path / "model", CASES[case][0], **CASES[case][1])
    added = write_adapter(tmp_path / "adapter", model, names, **options)
    assert added
    make: Any = {"native": native_decoder, "reference": reference}[backend]
    decoder = make(tmp_path / "model")
    loaded = decoder.load_adapter(read_adapter("a", tmp_path / "adapter", decoder.spec))
    plain = whole_logits(decoder, IDS)
    mixed = whole_logits(decoder, IDS, adapters=(loaded, None, loaded))
    expected = merged_logits(model, added)
    assert relative_error(mixed[[0, 2]], expected[[0, 2]]) < 1e-4
    assert relative_error(expected, plain) > 0.02  # it does something
    np.testing.assert_allclose(mixed[1], plain[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", [None, "0.18.0", "0.19.0"])
def test_square_matrices_are_told_by_the_version(version: str | None, tmp_path: Path) -> None:
    fields = {**CASES["qwen3-moe"][1], "moe_intermediate_size": 48}
    model = write_checkpoint(tmp_path / "model", "Qwen3Moe", **fields)
    experts = next(module for name, module in model.named_modules() if name.endswith("experts"))
    assert experts.down_proj.shape[1] == experts.down_proj.shape[2]
    added = write_adapter(tmp_path / "adapter", model, version=version)
    decoder = native_decoder(tmp_path / "model")
    loaded = decoder.load_adapter(read_adapter("a", tmp_path / "adapter", decoder.spec))
    mixed = whole_logits(decoder, IDS, adapters=(loaded,) * 3)
    assert relative_error(mixed, merged_logits(model, added)) < 1e-4


def test_each_gets_what_it_gets_alone(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", *CASES["qwen3-moe"][:1], tokenizer=True, **CASES["qwen3-moe"][1])
    for i in range(3):
        write_adapter(tmp_path / f"a{i}", model, seed=i)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    wanted = [None, "a0", "a1", "a2", "a1"]
    prompts = [IDS[0].tolist()] * len(wanted)
    with LLM(tmp_path / "model", threads=2, adapters={f"a{i}": tmp_path / f"a{i}" for i in range(3)}) as llm:
        together = [one.outputs[0].token_ids for one in llm.generate(prompts, params, adapter=wanted)]
        alone = [llm.generate(prompts[:1], params, adapter=one)[0].outputs[0].token_ids for one in wanted]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 4


def test_patterns_that_peft_itself_writes(tmp_path: Path) -> None:
    """What it makes of an adapter of single experts when it loads one: twice the rank for gate and up together."""
    model = write_checkpoint(tmp_path / "model", "Qwen3Moe", **CASES["qwen3-moe"][1])
    write_adapter(tmp_path / "adapter", model, rank_pattern={GATE_UP: 6}, alpha_pattern={GATE_UP: 12})
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"rank_pattern": {r".*\.gate_up_proj": 6}, "alpha_pattern": {r".*\.gate_up_proj": 12}}
    path.write_text(json.dumps(config))
    parts = read_adapter("a", tmp_path / "adapter", load_spec(tmp_path / "model")).parts
    assert {(part.site, len(part.down), part.scale) for part in parts} == {("gate_up", 6, 2.0), ("down", 3, 2.0)}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"target_parameters": "experts.down_proj"}, "target_parameters must be a list"),
        ({"target_parameters": []}, r"experts\.(base_layer\.)?lora_[AB]\.weight belongs to no product"),
        ({"target_parameters": ["experts.down_proj"]}, r"experts\.base_layer\.lora_[AB]\.weight belongs to no product"),
        ({"r": 2}, r"lora_A of model\.layers\.\d+\.mlp\.experts\.\w+_proj has shape"),
        ({"target_parameters": ["experts.gate_up_proj_bias", "experts.down_proj"]}, "gate_up_proj_bias is a bias"),
    ],
)
def test_what_is_refused(change: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", CASES["gpt-oss"][0], **CASES["gpt-oss"][1])
    write_adapter(tmp_path / "adapter", model)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CutsetError, match=wanted):
        read_adapter("a", tmp_path / "adapter", load_spec(tmp_path / "model"))
