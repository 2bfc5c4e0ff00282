"""The torch executor against the numpy one, and that it never tracks gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import DeviceError
from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from models.family_cases import CASES
from models.family_checkpoints import reference, whole_logits, write_checkpoint

torch = pytest.importorskip("torch")

IDS = np.random.default_rng(4).integers(0, 131, size=(2, 21)).astype(np.int32)


def torch_decoder(directory: Path, dtype: str = "float32", device: str = "cpu") -> ReferenceDecoder:
    from cutset.models.run.torch_ops import TorchOps

    spec = load_spec(directory)
    tensors = check_tensors(spec, Checkpoint(directory))
    ops = TorchOps(device, dtype)
    return ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))


@pytest.mark.parametrize(
    "case", ["llama", "mistral-window", "qwen2", "qwen3", "qwen3-moe", "llama-dynamic", "gpt-oss", "gpt-oss-options"]
)
def test_equals_numpy(case: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CASES[case][0], **CASES[case][1])
    mask = np.ones(IDS.shape, dtype=bool)
    mask[1, :6] = False
    for key_mask in (None, mask):
        ours, theirs = (whole_logits(d, IDS, key_mask) for d in (torch_decoder(tmp_path), reference(tmp_path)))
        seen = slice(None) if key_mask is None else key_mask
        np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_follows(dtype: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "Qwen2", initializer_range=0.1)
    half, full = (whole_logits(d, IDS) for d in (torch_decoder(tmp_path, dtype), reference(tmp_path)))
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 0 < error < {"float16": 0.01, "bfloat16": 0.06}[dtype]


def test_inference_never_tracks_gradients(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "Qwen3Moe", **CASES["qwen3-moe"][1])
    decoder = torch_decoder(tmp_path)
    assert not any(p.requires_grad for p in decoder.parameters.values())
    assert not any(w.requires_grad for ws in decoder.linears.weights.values() for w in ws)
    seen: list[str] = []

    def trace(name: str, layer: int, value: Any) -> None:
        assert not torch.is_grad_enabled()
        assert value.is_inference(), f"{name} of layer {layer} could be recorded"
        seen.append(name)

    batch = Batch.whole(IDS, 16)
    with torch.enable_grad():
        decoder.forward(batch, decoder.new_cache(4, 16), trace)
    assert {"embedding", "attention", "router", "down.0", "lm_head"} <= set(seen)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    from cutset.models.run.torch_ops import torch_device

    with pytest.raises(DeviceError, match="cuda:99"):
        torch_device("cuda:99")
