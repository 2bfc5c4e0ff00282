"""Random checkpoints of families that transformers writes, and how ours are run and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.numpy_ops import NumpyOps

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "initializer_range": 0.2,  # wide enough that every part moves the logits
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **more}}


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    short, long = ([1 + i / 10 for i in range(pairs)], [1.5 + i * 0.9 for i in range(pairs)])
    return rope("longrope", short_factor=short, long_factor=long, **more)


def write_checkpoint(directory: Path, family: str, *, tokenizer: bool = False, **fields: Any) -> Any:
    """A random model of a family, saved; its norms and biases are no ones and zeros, which would hide mistakes.

    `family` may also be a whole class with text and other parts; sizes and `text_config` in `fields` are the text's.
    """
    torch.manual_seed(7)
    made = getattr(transformers, family if "For" in family else f"{family}ForCausalLM")
    if "text_config" in fields:
        fields = {**fields, "text_config": {**SMALL, **fields["text_config"]}}
    else:
        fields = {**SMALL, **fields}
    config = made.config_class(**fields)
    model = made(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", "norm_1.weight", "norm_2.weight", "router.scale", "per_expert_scale")):
                value.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.3)
        for name, value in model.named_buffers():
            if name.endswith("layer_scalar"):
                value.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    if tokenizer:
        write_tokenizer(directory, config.get_text_config().vocab_size)
    return model


def write_tokenizer(directory: Path, vocab: int) -> None:
    """A tokenizer whose words are `t0`, `t1`, …"""
    words = {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(vocab)}, "unk_token": "t0"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    split = {"type": "WhitespaceSplit"}
    whole = {"version": "1.0", "added_tokens": [], **parts, "pre_tokenizer": split, "model": words}
    (directory / "tokenizer.json").write_text(json.dumps(whole))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def reference(directory: Path) -> ReferenceDecoder:
    spec = load_spec(directory)
    tensors = check_tensors(spec, Checkpoint(directory))
    ops = NumpyOps()
    return ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))


def whole_logits(
    decoder: Any, ids: np.ndarray, mask: np.ndarray | None = None, adapters: tuple[Any, ...] = ()
) -> np.ndarray:
    batch = replace(Batch.whole(ids, 16, mask), adapters=adapters)
    logits = decoder.forward(batch, decoder.new_cache(batch.block_tables.size, 16))
    return logits.reshape(*ids.shape, -1)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0.1, "the oracle's own logits must say something"
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
