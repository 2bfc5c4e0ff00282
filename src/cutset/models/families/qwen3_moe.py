"""Qwen3's mixture of experts: dense layers where `mlp_only_layers` or `decoder_sparse_step` say so."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_experts, read_window
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    layers, bias = c.integer("num_hidden_layers"), c.flag("attention_bias")
    step, dense = c.integer("decoder_sparse_step", 1), c.value("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise c.wrong("mlp_only_layers", "a list of layers")
    window = read_window(c) if c.flag("use_sliding_window") else 0  # of all layers: the family has no layer_types
    count_key = "num_local_experts" if c.has("num_local_experts") else "num_experts"
    return read_decoder(
        c,
        "qwen3_moe",
        Defaults(positions=32768, kv_heads=4),
        qk_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        windows=(window,) * layers,
        moe=read_experts(c, count_key, 128, 8, 768, normalise=False),
        sparse_layers=frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0),
    )


FAMILY = Family(
    model_type="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias sliding_window use_sliding_window num_experts num_local_experts num_experts_per_tok
        moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers
        """
    ),
    harmless=keys("max_window_layers layer_types output_router_logits router_aux_loss_coef"),
)
