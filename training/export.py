"""Writes the trained model as a checkpoint directory in Hugging Face layout."""

import json
import os
import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file
from tokenizers import Tokenizer

from training.data import BEGIN, END, PAD
from training.model import Llama, Shape

CARD = """---
language: en
library_name: transformers
pipeline_tag: text-generation
---

# Cutset story model

A Llama of {params:,} parameters (float16, {layers} layers of width {hidden}, {heads} heads over {kv_heads} key heads,
context {context}, byte-level BPE of {vocab} tokens) that tells very short children's stories. It is here so that demos
and tests have a real model without a download.

**Data.** {stories:,} stories written by `training/stories.py`, a generator of this repository: templates and word lists
of our own. No text of anyone else was used, and there is nothing to download.

**Training.** {steps:,} steps, {tokens:.1f} M tokens, {threads} threads, {cpu:.0f} CPU minutes, {minutes:.0f} minutes
by the clock. Loss on {heldout} held-out stories of the same generator: {loss:.3f} nats a token, measured on the float16
weights.

**Rebuild.** `python training/train.py --out DIR` (needs torch, tokenizers and safetensors). Training stops by the
clock, so weights differ from run to run; `--steps N` fixes the number of steps.

**Try.** It continues openings such as `Once upon a time`, `One day`, `The little dog` or `Mia and Tom`.

**Limits.** It knows some 1,400 words and nineteen kinds of story. It cannot answer questions, follow instructions or
hold facts, and it sometimes mixes up who is who or what was lost. A prompt far from a children's story gives nonsense.
Its held-out loss says how well it knows its generator, not how well it knows English.
"""


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    """The contents of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": shape.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": tokenizer.token_to_id(BEGIN),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "torch_dtype": "float16",
    }


def check_target(out: Path) -> None:
    """Ends the program for an `out` that holds something other than a model: it would be replaced."""
    there = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file()))
    if there or out.absolute() == Path.cwd():
        sys.exit(f"{out} is no model of an earlier run, and would be replaced: give another --out")


def write(out: Path, model: Llama, tokenizer: Tokenizer, facts: dict[str, float]) -> None:
    """Write everything to a directory beside `out`, then put it in its place."""
    out = out.absolute()
    part = out.with_name(out.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    full = config(model.s, tokenizer)
    ids = {key: full[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    save_file(model.checkpoint(), part / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(part / "tokenizer.json"), pretty=False)
    write_json(part / "config.json", full)
    write_json(part / "generation_config.json", ids)
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    write_json(
        part / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": model.s.context,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(part / "special_tokens_map.json", special)
    (part / "README.md").write_text(CARD.format(**vars(model.s), **facts), encoding="utf-8")
    (part / "model.safetensors").chmod(0o644)  # safetensors makes it private
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
