"""Random models of any size, reproducible by seed: for tests, and to compare backends on the same work.

Weights are drawn so that mistakes show: every layer moves the logits, gains of norms lie between 0.5 and 1.5 (ones
would hide a norm that is left out), biases aren't zero.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import RequestError
from cutset.models.families import spec_from_config
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.exchange import write_exchange
from cutset.models.files.specification import write_specification
from cutset.models.files.writer import write_safetensors
from cutset.models.spec import DecoderSpec

__all__ = ["RandomModel", "write_word_tokenizer"]

MOST_PARAMETERS = 1 << 38  # a terabyte
MOST_TOKENS = 1 << 24  # of all inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """Sizes of a random model and of its inputs. The defaults make a tiny one."""

    hidden: int = 64
    layers: int = 2
    heads: int = 8
    kv_heads: int = 2
    vocab: int = 128
    max_pos: int = 128
    seq_len: int = 5
    batch_size: int = 2
    seed: int = 123
    intermediate: int | None = None  # None: 8/3 of hidden, rounded up to 64
    experts: int = 0  # 0: dense
    top_k: int = 2
    tied: bool = True
    qk_norm: bool = False
    bfloat16: bool = False  # of the weights; float32 otherwise

    def config(self) -> dict[str, Any]:
        """The model's config.json: the plainest family that has what is asked for, so that others can run it too.

        Raises ArchitectureError or RequestError for sizes that make no model.
        """
        if self.seed < 0 or self.experts < 0:
            raise RequestError(f"seed and experts must be at least 0, not {self.seed} and {self.experts}")
        family = {
            (False, False): ("llama", "LlamaForCausalLM"),
            (False, True): ("qwen3", "Qwen3ForCausalLM"),
            (True, True): ("qwen3_moe", "Qwen3MoeForCausalLM"),
            (True, False): ("minimind", "MiniMindForCausalLM"),
        }[self.experts > 0, self.qk_norm]
        width = 64 * -(-(self.hidden * 8 // 3) // 64) if self.intermediate is None else self.intermediate
        config: dict[str, Any] = {
            "model_type": family[0],
            "architectures": [family[1]],
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_pos,
            "intermediate_size": width,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        if family[0] != "minimind":
            config |= {"head_dim": self.hidden // max(self.heads, 1), "attention_bias": False}
        if self.experts and self.qk_norm:
            config |= {
                "num_experts": self.experts,
                "num_experts_per_tok": self.top_k,
                "moe_intermediate_size": width,
                "norm_topk_prob": True,
                "decoder_sparse_step": 1,
            }
        elif self.experts:
            config |= {
                "use_moe": True,
                "n_routed_experts": self.experts,
                "n_shared_experts": 0,
                "num_experts_per_tok": self.top_k,
                "moe_intermediate_size": width,
            }
        spec = spec_from_config(config, "cutset random")
        if spec.head_dim * self.heads != self.hidden:
            raise RequestError(f"hidden {self.hidden} doesn't divide into {self.heads} heads")
        if (parameters := spec.parameter_count()) > MOST_PARAMETERS:
            raise RequestError(f"{parameters:,} parameters are more than {MOST_PARAMETERS:,}: use smaller sizes")
        return config

    def spec(self) -> DecoderSpec:
        """The specification of the model."""
        return spec_from_config(self.config(), "cutset random")

    def inputs(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """input_ids and attention_mask, each (batch, tokens); the mask is all ones. The first draw of the seed."""
        if not (1 <= self.batch_size <= 1 << 16 and 1 <= self.seq_len <= self.max_pos):
            raise RequestError(f"batch_size and seq_len must be at least 1, seq_len at most max_pos ({self.max_pos})")
        if self.batch_size * self.seq_len > MOST_TOKENS:
            raise RequestError(f"{self.batch_size} x {self.seq_len} are more than {MOST_TOKENS} tokens")
        rng = np.random.default_rng(self.seed)
        ids = rng.integers(0, self.vocab, size=(self.batch_size, self.seq_len)).astype(np.int32)
        return ids, np.ones(ids.shape, dtype=np.uint8)

    def tensor(self, name: str) -> Tensor:
        """One tensor, by its name in Hugging Face layout. Each has a random stream of its own."""
        number, shape = _places(self)[name]
        rng = np.random.default_rng([self.seed, number])
        if name.endswith("norm.weight"):
            values = rng.uniform(0.5, 1.5, size=shape).astype(np.float32)
        elif len(shape) == 1:
            values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.3)
        else:
            values = rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)
        if self.bfloat16:
            return Tensor(name, Path("(random)"), "BF16", bfloat16_bits(values))
        return Tensor(name, Path("(random)"), "F32", values)

    def write_checkpoint(self, directory: Path) -> None:
        """Writes config.json, model.safetensors and a tokenizer whose words are `t0`, `t1`, …"""
        kind = "BF16" if self.bfloat16 else "F32"
        config, layout = self.config(), {n: (kind, shape) for n, shape in self.spec().tensor_shapes().items()}
        directory.mkdir(parents=True, exist_ok=True)
        tensors = ((name, self.tensor(name).raw) for name in layout)
        write_safetensors(directory / "model.safetensors", layout, tensors, {"format": "pt"})
        write_word_tokenizer(directory, self.vocab)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_specification(directory, self.spec())

    def write_exchange(self, path: Path, *, preview: int = 16) -> None:
        """Writes an exchange file: model and inputs."""
        meta = {
            "generator": "cutset random",
            "seed": self.seed,
            "B": self.batch_size,
            "S": self.seq_len,
            "head_dim": self.spec().head_dim,
        }
        write_exchange(path, self.config(), self.tensor, self.inputs(), meta, preview=preview)


@functools.lru_cache(maxsize=1)  # of thousands of tensors, each asks
def _places(model: RandomModel) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Number, from 1 on, and shape of each tensor by name."""
    return {name: (number, shape) for number, (name, shape) in enumerate(model.spec().tensor_shapes().items(), 1)}


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite values rounded to the nearest bfloat16, ties to even, as the bits that `Tensor.raw` has."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_word_tokenizer(directory: Path, vocab: int) -> None:
    """Writes a tokenizer of `vocab` words, `t0`, `t1`, …, split at spaces."""
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "t1", "eos_token": "t2", "unk_token": "t0"}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(vocab)}, "unk_token": "t0"},
    }
    for name, value in {"tokenizer.json": tokenizer, "tokenizer_config.json": words}.items():
        (directory / name).write_text(json.dumps(value, indent=2) + "\n")
