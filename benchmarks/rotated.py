"""The same float model off the grid that its file was rounded to: norms folded in, the residual stream rotated.

A file of 4 bits makes floats that a rounder on the same grid would find again for nothing. With gains folded into the
products that follow, and a fixed orthogonal matrix between all that writes the residual stream and all that reads it
(QuaRot, Ashkboos et al. 2024, arXiv:2404.00456; SpinQuant, Liu et al. 2025, arXiv:2405.16406), the network is the same
in real numbers and its weights lie on no grid. RMSNorm without gains commutes with a rotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ModelError
from cutset.models.files.integer import carried, carry
from cutset.models.files.source import ModelSource
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.models.spec import DecoderSpec

__all__ = ["write_rotated"]

SEED = 576
READS, WRITES = ("qkv", "gate_up", "lm_head"), ("o", "down")
NORMS = {"qkv": "attention_norm", "gate_up": "mlp_norm", "lm_head": "final_norm"}


def write_rotated(source: ModelSource, target: Path, seed: int = SEED) -> None:
    """Writes the float32 checkpoint of a rotated model, its head apart from its embedding, into the new directory
    `target`. Raises ModelError for a network that isn't the plain one that this is made for."""
    spec = source.spec
    plain = DecoderSpec.__dataclass_fields__
    for name in ("output_norms", "layer_inputs", "moe", "recurrent", "o_bias", "mlp_bias"):
        if getattr(spec, name) != plain[name].default:
            raise ModelError(f"{source.path}: a network with {name} isn't rotated here")
    config = {name: value for name, value in source.config.items() if name != "quantization_config"}
    config |= {"tie_word_embeddings": False, "torch_dtype": "float32"}
    shapes = dict(spec.tensor_shapes())
    if spec.tied:
        shapes["lm_head.weight"] = (spec.vocab_size, spec.hidden)
    layout = {name: ("F32", shape) for name, shape in shapes.items()}
    with new_directory(target):
        write_safetensors(target / "model.safetensors", layout, _values(source, shapes, seed), {"format": "pt"})
        carry(carried(source.path), source.path, target)
        (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _values(
    source: ModelSource, shapes: dict[str, tuple[int, ...]], seed: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    spec = source.spec
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((spec.hidden, spec.hidden)))
    sites = {name: key for key in spec.sites() if key[0] != "lm_head" for name in spec.site_tensors(*key)}
    head, embedding = "lm_head.weight" if spec.tied else spec.site_tensors("lm_head", -1)[0], spec.names.embedding[0]
    sites[head] = ("lm_head", -1, -1)
    norms = {name: role for (role, _), names in spec.glue().items() if role in NORMS.values() for name in names}

    def floats(name: str) -> NDArray[Any]:
        return source.tensors[name].float32().astype(np.float64)

    for name in shapes:
        if name in norms:
            value: NDArray[Any] = np.full(spec.hidden, 1 - spec.norm_offset)
        elif name in sites and sites[name][0] in READS:
            site, layer, _ = sites[name]
            gains = floats(spec.glue()[NORMS[site], layer][0]) + spec.norm_offset
            value = floats(embedding.checkpoint if name == head and spec.tied else name) * gains @ turn
        elif name in sites:
            value = turn.T @ floats(name)
        elif name == embedding.checkpoint:
            value = floats(name) @ turn
        else:
            value = floats(name)
        yield name, value.astype(np.float32)
