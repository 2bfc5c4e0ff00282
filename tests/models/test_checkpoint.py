"""Checkpoints: mapped, sharded, and hostile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cutset.errors import ArchitectureError, CheckpointError, ModelError
from cutset.models.families import load_spec, spec_from_config
from cutset.models.files.checkpoint import Checkpoint, SafetensorsFile, check_tensors

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5, dtype=np.float16)}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 16,
}


def hostile(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    file = SafetensorsFile(path)
    assert set(file) == {"a", "b"}
    assert file.metadata == {"format": "pt"}
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(file[name].float32(), values)
        assert not file[name].raw.flags.writeable
    assert np.shares_memory(file["a"].float32(), file._bytes)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    values = torch.randn(7, 3).bfloat16()
    save_torch({"x": values}, tmp_path / "x.safetensors")
    read = SafetensorsFile(tmp_path / "x.safetensors")["x"].float32()
    np.testing.assert_array_equal(read, values.float().numpy())


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"", b"", 0),
        (b"{", b"", None),
        (b"[]", b"", None),
        ({}, b"", 1 << 60),
        ({}, b"", 3_000_000),
        ({"x": 3}, b"", None),
        ({"x": entry("F8")}, b"abcd", None),
        ({"x": entry("PICKLE")}, b"abcd", None),
        ({"x": entry(shape=(2,))}, b"abcd", None),
        ({"x": entry(shape=(-1,))}, b"abcd", None),
        ({"x": entry(shape=(1.0,))}, b"abcd", None),
        ({"x": entry(shape="1")}, b"abcd", None),
        ({"x": entry(shape=[1] * 9)}, b"abcd", None),
        ({"x": entry(shape=(1 << 40, 1 << 40))}, b"abcd", None),
        ({"x": entry(offsets=(4, 0))}, b"abcd", None),
        ({"x": entry(offsets=(0, 400), shape=(100,))}, b"abcd", None),
        ({"x": entry(offsets=(True, 4))}, b"abcd", None),
        ({"x": entry(), "y": entry()}, b"abcd", None),
        ({"x": entry(offsets=(4, 8))}, b"abcdefgh", None),
        ({"x": entry()}, b"abcdefgh", None),
        (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "x": {}}', b"abcd", None),
        ({"__metadata__": {"a": 1}}, b"", None),
        (b"[" * 100_000, b"", None),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: object, data: bytes, length: int | None) -> None:
    path = hostile(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        SafetensorsFile(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        for tensor in SafetensorsFile(path).values():
            tensor.raw.tobytes()
    except CheckpointError:
        pass


def write_llama(directory: Path, **changes: object) -> dict[str, np.ndarray]:
    (directory / "config.json").write_text(json.dumps(LLAMA | changes))
    shapes = load_spec(directory).tensor_shapes()
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    return tensors


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = write_llama(tmp_path)
    names = sorted(tensors)
    (tmp_path / "model.safetensors").unlink()
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = check_tensors(load_spec(tmp_path), Checkpoint(tmp_path))
    assert set(found) == set(tensors)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        Checkpoint(tmp_path)


def test_an_index_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    write_llama(tmp_path)
    for name in ("../secret.safetensors", "/etc/passwd", "pickle.bin"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(CheckpointError, match="beside it"):
            Checkpoint(tmp_path)


def test_missing_misshapen_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    tensors = write_llama(tmp_path)
    norm = "model.layers.0.input_layernorm.weight"

    def saved(changed: dict[str, np.ndarray]) -> str:
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError) as caught:
            check_tensors(load_spec(tmp_path), Checkpoint(tmp_path))
        return str(caught.value)

    assert norm in (message := saved({k: v for k, v in tensors.items() if k != norm}))
    assert "missing" in message
    message = saved(tensors | {norm: np.ones(9, dtype=np.float32)})
    assert norm in message
    assert "(9,)" in message
    assert "(8,)" in message
    message = saved(tensors | {"model.extra": np.ones(1, dtype=np.float32)})
    assert "model.extra" in message
    assert "model.safetensors" in message
    assert "I8" in saved(tensors | {norm: np.ones(8, dtype=np.int8)})


def test_tied_embeddings_may_carry_either_name(tmp_path: Path) -> None:
    tensors = write_llama(tmp_path, tie_word_embeddings=True)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    found = check_tensors(load_spec(tmp_path), Checkpoint(tmp_path))
    np.testing.assert_array_equal(found["model.embed_tokens.weight"].float32(), tensors["lm_head.weight"])


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "unknown model_type 'gpt2'; the nearest known are"),
        ({"model_type": ["llama"]}, "unknown model_type"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_attention_heads": "8"}, "num_attention_heads must be"),
        ({"num_attention_heads": True}, "num_attention_heads must be"),
        ({"hidden_size": 1 << 40}, "hidden_size must be"),
        ({"hidden_size": 9}, "doesn't divide"),
        ({"hidden_size": 6}, "odd"),
        ({"num_key_value_heads": 3}, "evenly"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"hidden_act": "mish"}, "unknown hidden_act 'mish'; known are silu, swish, gelu_pytorch_tanh"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be"),
        ({"rope_scaling": {"rope_type": "longest", "factor": 2}}, "unknown rope scaling 'longest'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"layer_types": ["mamba"], "model_type": "qwen3"}, "layer_types must be"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_theta": 10**400}, "rope_theta must be"),
        ({"rope_theta": 1e-300}, "aren't finite"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1.0, "head_dim": 8}, "aren't finite"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "head_dim": 2}, "aren't finite"),
        ({"model_type": "qwen3_moe", "num_key_value_heads": 2, "num_experts": 4096, "num_hidden_layers": 4096}, "MLPs"),
        ({"model_type": "qwen3_moe", "num_local_experts": 1 << 30}, "num_local_experts must be"),
        ({"model_type": "qwen3_moe", "num_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok is 3"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        spec_from_config(LLAMA | changes)


def test_unreadable_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a directory"):
        load_spec(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_spec(tmp_path)
    for text in ("", "[]", "{", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ModelError, match=r"config\.json"):
            load_spec(tmp_path)


def test_end_tokens_come_from_the_generation_config_too(tmp_path: Path) -> None:
    write_llama(tmp_path, eos_token_id=2)
    assert load_spec(tmp_path).eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 5, 999]}')
    assert load_spec(tmp_path).eos_token_ids == (2, 3, 5)
