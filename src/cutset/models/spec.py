"""The one specification of a decoder: everything that an executor must know, whatever family it came from.

A layer is four products and the glue between them:

    norm → [qkv] → rope, append to cache, attention → [o] → add, norm → [gate_up] → swiglu → [down] → add

The bracketed ones are the sites. They and `lm_head` are where a model can be cut by operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MOST_POSITIONS", "Activation", "DecoderSpec", "MoESpec", "RopeSpec", "Site"]

MOST_POSITIONS = 1 << 27

Site = Literal["qkv", "o", "gate_up", "down", "lm_head"]
Activation = Literal["silu", "gelu_tanh", "clamped"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864) and how it is stretched beyond the trained length.

    `kind` is `default`, `linear`, `dynamic`, `llama3` or `yarn`; a field that its kind doesn't use is ignored.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0  # the trained length that `linear`, `dynamic`, `llama3` and `yarn` stretch
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the ends of the ramp to whole dimensions
    half_ramp: bool = False  # yarn: MiniMind ends the ramp at head_dim / 2 - 1, the others at head_dim - 1
    attention_factor: float = 1.0  # yarn: multiplies cos and sin

    @property
    def reach(self) -> int:
        """Positions that a stretched embedding is meant for; 0 where the model's own number holds.

        Files with `llama3`, and MiniMind's with `yarn`, count them in that number.
        """
        if self.kind in ("linear", "dynamic", "yarn") and not self.half_ramp:
            return int(min(self.factor * self.original_positions, MOST_POSITIONS))
        return 0


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Mixture of experts: a router picks `top_k` of `experts` MLPs for each row and weighs them by their softmax."""

    experts: int
    top_k: int
    intermediate: int  # width of one expert
    normalise: bool  # divide the weights of the picked experts by their sum
    shared: int = 0  # MLPs that every row passes, each of the width `shared_intermediate`
    shared_intermediate: int = 0


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer: RMSNorm before, rotary embedding, grouped queries, SwiGLU. Sizes are in elements."""

    family: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    norm_eps: float
    max_positions: int  # as the configuration has it; see `context`
    rope: RopeSpec
    tied: bool = False  # lm_head is the embedding
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head of q and k before the rotary embedding
    whole_norms: bool = False  # that norm is over all heads of q, and of k, together
    input_norms: bool = True  # RMSNorm of what goes into attention and MLP
    output_norms: bool = False  # RMSNorm of what attention and MLP give, before it is added
    activation: Activation = "silu"  # of the gate in an MLP; `clamped`: see cutset.kernels.reference.clamped_mul
    activation_limit: float = 0.0  # clamped
    sinks: bool = False  # attention's weights share with a score of nothing, one a head
    rotary_dim: int = 0  # elements of a head that are rotated; 0: all
    rope_interleaved: bool = False  # pairs are neighbours, not elements half a head apart
    other_ropes: tuple[RopeSpec, ...] = ()  # tables 1, 2, … beside `rope`, which is table 0
    rope_tables: tuple[int, ...] = ()  # per layer: its table, -1 for none; () is table 0 everywhere
    embedding_scale: float = 1.0  # factors: of the embedding,
    attention_scale: float = 0.0  # of attention's scores (0: head_dim^-1/2),
    residual_scale: float = 1.0  # of what attention and MLP give,
    logit_scale: float = 1.0  # of the logits
    attention_softcap: float = 0.0  # scores are limited to that by tanh (Gemma 2, arXiv:2408.00118); 0: they aren't
    logit_softcap: float = 0.0  # the same for logits
    windows: tuple[int, ...] = ()  # per layer: how many tokens back a query sees, itself included; 0 = all
    moe: MoESpec | None = None
    sparse_layers: frozenset[int] = frozenset()  # layers whose MLP is a mixture of experts
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    eos_assumed: bool = False  # no configuration names an end token: the family's usual one is taken

    @property
    def context(self) -> int:
        """Tokens that a sequence may have unless a limit is given: those that its rotary embedding is made for."""
        return max(self.max_positions, self.rope.reach)

    @property
    def longest(self) -> int:
        """The largest limit that can be given. A `dynamic` embedding is stretched to any."""
        return MOST_POSITIONS if self.rope.kind == "dynamic" else self.context

    def end_tokens(self, named: int | None) -> tuple[int, ...]:
        """Tokens that end an answer: those of the configurations, and the one that the tokenizer names, if any."""
        if named is None:
            return self.eos_token_ids
        return tuple(dict.fromkeys((*(() if self.eos_assumed else self.eos_token_ids), named)))

    @property
    def q_size(self) -> int:
        """Columns of q."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Columns of k, and of v."""
        return self.kv_heads * self.head_dim

    @property
    def score_scale(self) -> float:
        """What attention's scores are multiplied by."""
        return self.attention_scale or float(self.head_dim**-0.5)

    def rope_table(self, layer: int) -> int:
        """The rotary table of a layer; -1 where nothing is rotated."""
        return self.rope_tables[layer] if self.rope_tables else 0

    def window(self, layer: int) -> int:
        """Tokens that a query of this layer sees, itself included; 0 = all."""
        return self.windows[layer] if self.windows else 0

    def site_tensors(self, site: Site, layer: int, expert: int = -1) -> tuple[str, ...]:
        """Names of the weights of a site, in the order in which their rows are stacked.

        `expert` is -1 for a dense MLP, 0 .. experts - 1 for a routed expert, and experts + s for the shared expert s.
        """
        if site == "lm_head":
            return ("model.embed_tokens.weight" if self.tied else "lm_head.weight",)
        block = f"model.layers.{layer}."
        if site == "qkv":
            return tuple(f"{block}self_attn.{part}_proj.weight" for part in "qkv")
        if site == "o":
            return (f"{block}self_attn.o_proj.weight",)
        mlp = f"{block}mlp."
        if expert >= 0:
            assert self.moe is not None
            routed = expert < self.moe.experts
            mlp += f"experts.{expert}." if routed else f"shared_experts.{expert - self.moe.experts}."
        if site == "gate_up":
            return (f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight")
        return (f"{mlp}down_proj.weight",)

    def mlps(self, layer: int) -> tuple[int, ...]:
        """The values of `expert` that a layer has: (-1,) if it is dense."""
        if layer in self.sparse_layers and self.moe is not None:
            return tuple(range(self.moe.experts + self.moe.shared))
        return (-1,)

    def sites(self) -> list[tuple[Site, int, int]]:
        """Every (site, layer, expert) in the order of a forward pass; `lm_head` has layer -1."""
        found: list[tuple[Site, int, int]] = []
        for layer in range(self.layers):
            found += [("qkv", layer, -1), ("o", layer, -1)]
            for expert in self.mlps(layer):
                found += [("gate_up", layer, expert), ("down", layer, expert)]
        return [*found, ("lm_head", -1, -1)]

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a checkpoint of this decoder holds, under its name in Hugging Face layout."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden)}
        for layer in range(self.layers):
            block = f"model.layers.{layer}."
            attention = f"{block}self_attn."
            if self.input_norms:
                shapes[f"{block}input_layernorm.weight"] = (self.hidden,)
            for part, size in (("q", self.q_size), ("k", self.kv_size), ("v", self.kv_size)):
                shapes[f"{attention}{part}_proj.weight"] = (size, self.hidden)
                if self.qkv_bias:
                    shapes[f"{attention}{part}_proj.bias"] = (size,)
                if self.qk_norm and part != "v":
                    shapes[f"{attention}{part}_norm.weight"] = (size if self.whole_norms else self.head_dim,)
            if self.sinks:
                shapes[f"{attention}sinks"] = (self.heads,)
            shapes[f"{attention}o_proj.weight"] = (self.hidden, self.q_size)
            if self.o_bias:
                shapes[f"{attention}o_proj.bias"] = (self.hidden,)
            if self.output_norms:
                shapes[f"{block}attention_output_norm.weight"] = (self.hidden,)
                shapes[f"{block}mlp_output_norm.weight"] = (self.hidden,)
            if self.input_norms:
                shapes[f"{block}post_attention_layernorm.weight"] = (self.hidden,)
            if layer in self.sparse_layers and self.moe is not None:
                shapes[f"{block}mlp.gate.weight"] = (self.moe.experts, self.hidden)
            for expert in self.mlps(layer):
                width = self.mlp_width(expert)
                gate, up = self.site_tensors("gate_up", layer, expert)
                (down,) = self.site_tensors("down", layer, expert)
                shapes |= {gate: (width, self.hidden), up: (width, self.hidden), down: (self.hidden, width)}
                if self.mlp_bias and expert < 0:
                    for name, size in ((gate, width), (up, width), (down, self.hidden)):
                        shapes[name.removesuffix("weight") + "bias"] = (size,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden)
        return shapes

    def mlp_width(self, expert: int) -> int:
        """Intermediate size of the dense MLP (-1), of a routed or of a shared expert."""
        if expert < 0 or self.moe is None:
            return self.intermediate
        return self.moe.intermediate if expert < self.moe.experts else self.moe.shared_intermediate

    def parameter_count(self) -> int:
        """Parameters of the decoder; tied ones once."""
        total = 0
        for shape in self.tensor_shapes().values():
            size = 1
            for n in shape:
                size *= n
            total += size
        return total
