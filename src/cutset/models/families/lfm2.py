"""LFM2 (Liquid AI 2025, arXiv:2511.23404): gated short convolutions, and attention between them."""

from __future__ import annotations

from cutset.errors import ArchitectureError
from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.files.fields import MOST, Fields
from cutset.models.spec import LAYER, PLACE, ConvSpec, DecoderSpec, TensorName, TensorNames

MOST_TAPS = 1 << 10

NAMES = TensorNames(
    attention_norm=(TensorName(LAYER + "operator_norm.weight", PLACE + "rms_attn"),),
    mlp_norm=(TensorName(LAYER + "ffn_norm.weight", PLACE + "rms_ffn"),),
    q_norm=(TensorName(LAYER + "self_attn.q_layernorm.weight", PLACE + "q_norm"),),
    k_norm=(TensorName(LAYER + "self_attn.k_layernorm.weight", PLACE + "k_norm"),),
    o=(TensorName(LAYER + "self_attn.out_proj.weight", PLACE + "wo"),),
    gate_up=(
        TensorName(LAYER + "feed_forward.w1.weight", PLACE + "w_gate"),
        TensorName(LAYER + "feed_forward.w3.weight", PLACE + "w_up"),
    ),
    down=(TensorName(LAYER + "feed_forward.w2.weight", PLACE + "w_down"),),
    final_norm=(TensorName("model.embedding_norm.weight", "final_rms"),),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    hidden = c.integer("hidden_size")
    convolutions = frozenset(layer for layer, kind in enumerate(layer_kinds(c)) if kind == "conv")
    taps = c.integer("conv_L_cache", 3, most=MOST_TAPS)
    mixer = ConvSpec(hidden, taps, bias=c.flag("conv_bias"))
    return read_decoder(
        c,
        "lfm2",
        Defaults(positions=128_000, kv_heads=8, intermediate=12288, theta=1e6, bos=1, eos=2),
        intermediate=_width(c),
        norm_eps=c.number("norm_eps", 1e-5),
        tied=c.flag("tie_embedding", c.flag("tie_word_embeddings", True)),
        qk_norm=True,
        activation="silu",  # whatever hidden_act says: transformers has no other
        recurrent=mixer if convolutions else None,
        recurrent_layers=convolutions,
        names=NAMES,
    )


def layer_kinds(c: Fields) -> list[str]:
    """`conv` or `full_attention` by layer: `layer_types`, else by `full_attn_idxs`, else attention everywhere."""
    layers = c.integer("num_hidden_layers")
    kinds, attention = c.value("layer_types"), c.value("full_attn_idxs")
    if kinds is None:
        if attention is None:
            return ["full_attention"] * layers
        if not isinstance(attention, list) or not all(type(layer) is int for layer in attention):
            raise c.wrong("full_attn_idxs", "a list of layers")
        return ["full_attention" if layer in attention else "conv" for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not all(k in ("conv", "full_attention") for k in kinds):
        raise c.wrong("layer_types", f"a list of {layers} times conv or full_attention")
    return kinds


def _width(c: Fields) -> int:
    """The width of the MLP: two thirds of what the file says, times a factor, up to the next multiple."""
    width = c.integer("block_ff_dim", c.integer("intermediate_size", 12288), most=MOST["intermediate_size"])
    if not c.flag("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    if c.value("block_ffn_dim_multiplier", 1.0) is not None:
        multiple = c.integer("block_multiple_of", 256)
        width = int(min(c.number("block_ffn_dim_multiplier", 1.0) * width, 1 << 40))
        width = multiple * ((width + multiple - 1) // multiple)
    if not 1 <= width <= MOST["intermediate_size"]:
        raise ArchitectureError(f"{c.source}: its MLPs would be {width} wide, by block_ffn_dim_multiplier")
    return width


FAMILY = Family(
    model_type="lfm2",
    architectures=("Lfm2ForCausalLM",),
    read=read,
    reads=keys(
        """
        norm_eps tie_embedding block_ff_dim block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of
        conv_L_cache conv_bias full_attn_idxs layer_types
        """
    ),
    # Of the program that trained it; transformers doesn't look at them either.
    harmless=keys(
        """
        block_dim block_mlp_init_scale block_norm_eps block_out_init_scale block_use_swiglu block_use_xavier_init
        conv_dim conv_dim_out conv_use_xavier_init num_heads use_pos_enc theta
        """
    ),
)
