"""LoRA adapters: against merged weights in transformers, beside each other in one batch, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import save_file

from cutset import LLM, SamplingParams
from cutset.engine.blocks import root_digest
from cutset.errors import AdapterError, RequestError
from cutset.models.families import load_spec
from cutset.models.files.adapter import read_adapter, rounded
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.run.native import NativeDecoder, thread_pool
from models.family_cases import CASES
from models.family_checkpoints import reference, relative_error, whole_logits, write_checkpoint

IDS = np.random.default_rng(4).integers(0, 131, size=(3, 21)).astype(np.int32)
DEFAULTS = ("q_proj", "v_proj")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def write_adapter(
    directory: Path,
    model: Any,
    targets: tuple[str, ...] = DEFAULTS,
    *,
    seed: int = 1,
    rank: int = 3,
    half: bool = False,
    **config: Any,
) -> dict[str, Any]:
    """An adapter for some modules of a model, in bfloat16 where `half`; by module, what it adds to its weight."""
    torch.manual_seed(seed)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": list(targets), **config}
    tensors, added = {}, {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or not name.endswith(targets):
            continue
        short = name.rpartition(".")[2]
        own = config.get("rank_pattern", {}).get(short, rank)
        alpha = config.get("alpha_pattern", {}).get(short, 6)
        down, up = torch.randn(own, module.in_features) / 7, torch.randn(module.out_features, own) / 2
        if half:
            down, up = down.bfloat16(), up.bfloat16()
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
        added[name] = up.float() @ down.float() * (alpha / (own**0.5 if config.get("use_rslora") else own))
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return added


def merged_logits(model: Any, added: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    """What transformers gives with the adapter added to its weights, which stay as they were."""
    modules = dict(model.named_modules())
    with torch.no_grad():
        kept = {name: modules[name].weight.clone() for name in added}
        for name, more in added.items():
            modules[name].weight += more
        logits = model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
        for name, weight in kept.items():
            modules[name].weight.copy_(weight)
    return logits


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
@pytest.mark.parametrize(
    ("case", "targets", "config"),
    [
        ("llama", DEFAULTS, {}),
        ("llama-mqa-bias", ALL, {"use_rslora": True}),
        ("qwen3-bias", ALL, {"rank_pattern": {"o_proj": 5}, "alpha_pattern": {"k_proj": 20}}),
        ("llama", ALL, {"rank_pattern": {"q_proj": 16, "v_proj": 37}, "half": True}),
        ("gemma4-text", ("per_layer_model_projection", "per_layer_input_gate", "per_layer_projection"), {}),
    ],
)
def test_equals_merged_weights(case: str, targets: tuple[str, ...], config: Any, backend: str, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", CASES[case][0], **CASES[case][1])
    added = write_adapter(tmp_path / "adapter", model, targets, **config)
    decoder: Any = reference(tmp_path / "model")
    if backend == "torch":
        from models.test_torch_ops import torch_decoder

        decoder = torch_decoder(tmp_path / "model")
    elif backend == "native":
        decoder = native_decoder(tmp_path / "model")
    loaded = decoder.load_adapter(read_adapter("a", tmp_path / "adapter", decoder.spec))
    plain = whole_logits(decoder, IDS)
    assert relative_error(plain, model(torch.from_numpy(IDS.astype(np.int64))).logits.detach().numpy()) < 1e-4
    mixed = whole_logits(decoder, IDS, adapters=(loaded, None, loaded))
    expected = merged_logits(model, added, IDS)
    assert relative_error(mixed[[0, 2]], expected[[0, 2]]) < 1e-4
    assert relative_error(expected, plain) > 0.05  # it does something
    np.testing.assert_allclose(mixed[1], plain[1], rtol=1e-5, atol=1e-5)


def native_decoder(directory: Path, dtype: str = "float32", threads: int = 2) -> NativeDecoder:
    spec = load_spec(directory)
    return NativeDecoder(spec, check_tensors(spec, Checkpoint(directory)), thread_pool(threads), dtype=dtype)


def prompts() -> list[list[int]]:
    return [IDS[i % 3, : 5 + 3 * i].tolist() for i in range(5)]


@pytest.mark.parametrize("dtype", ["float32", "int8", "exact"])
def test_each_gets_what_it_gets_alone(dtype: str, tmp_path: Path) -> None:
    """Several adapters in one batch, with prefixes that are equal but for their adapter."""
    model = write_checkpoint(tmp_path / "model", "Llama", tokenizer=True)
    names = [f"a{i}" for i in range(4)]
    for i, name in enumerate(names):
        write_adapter(tmp_path / name, model, ALL if i % 2 else DEFAULTS, seed=i, rank=1 + i, half=i > 1)
    adapters = {name: tmp_path / name for name in names}
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    same = IDS[0].tolist()
    with LLM(tmp_path / "model", dtype=dtype, threads=2, adapters=adapters) as llm:
        wanted = [None, *names, None, names[1]]
        together = llm.generate([same] * len(wanted), params, adapter=wanted)
        ids = [one.outputs[0].token_ids for one in together]
        assert len({tuple(one) for one in ids[:5]}) == 5
        assert ids[5] == ids[0]
        assert ids[6] == ids[2]
        again = [llm.generate([same], params, adapter=one)[0].outputs[0].token_ids for one in wanted]
        assert again == ids
        assert llm.adapters == tuple(names)
        with pytest.raises(RequestError, match="no adapter 'b'; known are a0"):
            llm.generate([same], params, adapter="b")


def test_in_eight_bits_it_is_nearly_the_same(tmp_path: Path) -> None:
    """Where weights are rounded; native and numpy round alike."""
    model = write_checkpoint(tmp_path / "model", "Llama")
    write_adapter(tmp_path / "adapter", model, ALL, rank=16)
    adapter = read_adapter("a", tmp_path / "adapter", load_spec(tmp_path / "model"))
    small = rounded(adapter)
    assert small.digest == adapter.digest
    for whole, part in zip(adapter.parts, small.parts, strict=True):
        assert part.scales is not None
        assert all(np.array_equal(m, np.rint(m)) and np.abs(m).max() == 127 for m in (part.down, part.up))
        wanted = whole.up @ whole.down
        found = part.whole_up @ part.down
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)
    found = []
    for make in (reference, native_decoder):
        decoder = make(tmp_path / "model")
        loaded = [decoder.load_adapter(one) for one in (adapter, small, small)]
        found.append(whole_logits(decoder, IDS[[0, 0, 1]], adapters=tuple(loaded)))
    assert relative_error(found[1], found[0]) < 1e-5
    assert 0 < relative_error(found[1][1], found[1][0]) < 0.04  # of an adapter that changes more than half of them


def test_what_is_no_number_in_an_adapter_shows(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", "Llama")
    write_adapter(tmp_path / "adapter", model)
    adapter = read_adapter("a", tmp_path / "adapter", load_spec(tmp_path / "model"))
    decoder = native_decoder(tmp_path / "model")
    for name in ("down", "up"):
        matrix = getattr(adapter.parts[0], name).copy()
        matrix[0, 0] = np.nan
        spoilt = replace(adapter, parts=(replace(adapter.parts[0], **{name: matrix}), *adapter.parts[1:]))
        for one in (spoilt, rounded(spoilt)):
            assert np.isnan(whole_logits(decoder, IDS[:1], adapters=(decoder.load_adapter(one),))).any()


def test_a_prefix_is_that_of_one_adapter() -> None:
    digests = {root_digest(salt, adapter) for salt in (None, "", "x") for adapter in (b"", b"1", b"2")}
    assert len(digests) == 9


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"rank_pattern": {"(.*a)+b": 2}}, "not the plain name"),
        ({"r": 1 << 20}, "rank of 1048576"),
        ({"r": 4}, "has shape"),
        ({"new_option": 3}, "new_option is not supported"),
    ],
)
def test_what_is_refused(change: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", "Llama")
    write_adapter(tmp_path / "adapter", model)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match=wanted.replace("(", r"\(")):
        read_adapter("a", tmp_path / "adapter", load_spec(tmp_path / "model"))


def test_files_that_are_not_there_or_not_of_this_model(tmp_path: Path) -> None:
    spec = load_spec(tmp_path / "small") if write_checkpoint(tmp_path / "small", "Llama") else None
    assert spec is not None
    other = write_checkpoint(tmp_path / "other", "Llama", num_hidden_layers=4)
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        read_adapter("a", tmp_path, spec)
    write_adapter(tmp_path / "adapter", other)
    with pytest.raises(AdapterError, match=r"layers\.3\.self_attn\.q_proj\.lora_A\.weight belongs to no product"):
        read_adapter("a", tmp_path / "adapter", spec)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        read_adapter("a", tmp_path / "adapter", spec)
