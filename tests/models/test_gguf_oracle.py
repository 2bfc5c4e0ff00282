"""Networks out of GGUF files against transformers' reading of the same files: tensors equal, logits alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

from gguf import GGMLQuantizationType as Kind

from cutset.models.files.source import open_source
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.numpy_ops import NumpyOps
from models.family_checkpoints import relative_error
from models.gguf_files import Written, write_gguf

# Those that transformers reads as llama.cpp writes them.
CASES = ["llama", "llama-tied", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3"]


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_transformers_reads(case: str, tmp_path: Path) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = tmp_path / "m.gguf"
    write_gguf(Written(case), path, lambda name: Kind.Q5_1, more={"general.name": "m"})
    source = open_source(path)
    config = transformers.AutoConfig.for_model(**source.config, pad_token_id=None)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    found = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    theirs = {name: tensor.float().numpy() for name, tensor in found["tensors"].items()}
    for name, value in found["config"].items():
        ours = getattr(config, name, None)
        if name in source.config and name not in ("eos_token_id", "rope_theta", "rope_scaling"):
            assert ours == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    for name, tensor in source.tensors.items():
        if name in theirs:
            np.testing.assert_array_equal(tensor.float32(), theirs[name], err_msg=name)
    assert sum(name in theirs for name in source.tensors) > 10
    assert model.load_state_dict(found["tensors"], strict=False).unexpected_keys == []
    model.tie_weights()

    ids = np.random.default_rng(0).integers(0, 96, (2, 40)).astype(np.int32)
    ops = NumpyOps()
    decoder = ReferenceDecoder(source.spec, source.tensors, ops, FloatLinears(source.spec, source.tensors, ops))
    batch = Batch.whole(ids, 16)
    logits = decoder.forward(batch, decoder.new_cache(8, 16))
    with torch.no_grad():
        expected = model(torch.tensor(ids.astype(np.int64))).logits.numpy()
    assert relative_error(logits.reshape(expected.shape), expected) < 1e-4
