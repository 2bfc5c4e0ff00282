"""The one specification of a decoder: everything that an executor must know, whatever family it came from.

A layer is four products and the glue between them:

    norm → [qkv] → rope, append to cache, attention → [o] → add, norm → [gate_up] → swiglu → [down] → add

The bracketed ones are the sites. They and `lm_head` are where a model can be cut by operator. Some families have layers
that remember in a state of fixed size instead of keys and values; their two products stand at the same sites:

    norm → [qkv: all that goes in] → recurrence over the sequence's state → [o: out] → add, …
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, NamedTuple

__all__ = [
    "MOST_MLPS",
    "MOST_POSITIONS",
    "SITES",
    "Activation",
    "ConvSpec",
    "DecoderSpec",
    "DeltaSpec",
    "DynamicRope",
    "LongRope",
    "MoESpec",
    "RopeSpec",
    "Site",
    "Stacked",
    "TensorName",
    "TensorNames",
    "WantedTensor",
    "activation_bits",
]

MOST_POSITIONS = 1 << 27
MOST_MLPS = 1 << 18  # layers times experts

Site = Literal["qkv", "o", "gate_up", "down", "lm_head"]
SITES: tuple[Site, ...] = ("qkv", "o", "gate_up", "down", "lm_head")
Activation = Literal["silu", "gelu_tanh", "clamped"]
Shape = tuple[int, ...]


def activation_bits(dtype: str, site: Site) -> int:
    """Bits of the activations that a site multiplies in `int8` or `exact`, where its sums allow it.

    `int8` takes 8 at `gate_up`, which is half of all products, and 12 elsewhere: 8 everywhere changes the likeliest
    token at 3 % of the positions of a small model, 8 there alone hardly more than the 8-bit weights do by
    themselves (`cutset bench quality`). Decoding is bound by reading the weights, which are the same.
    """
    return 8 if dtype == "int8" and site == "gate_up" else 12


@dataclass(frozen=True, slots=True)
class DynamicRope:
    """A base that grows with the limit of a sequence, beyond `original_positions` tokens (NTK-aware)."""

    theta: float
    factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class LongRope:
    """Other frequencies for sequences whose limit is beyond `original_positions` (LongRoPE, arXiv:2402.13753)."""

    frequencies: tuple[float, ...]
    original_positions: int


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864), whatever formula a family stretches it by.

    cutset.models.families.rope has the formulas; from here on the frequencies are numbers.
    """

    frequencies: tuple[float, ...]  # radians per position of each pair, (rotary_dim / 2,), float32 values
    scale: float = 1.0  # multiplies cos and sin
    reach: int = 0  # positions that a stretched embedding is meant for; 0 where the model's own number holds
    # Both None: the same frequencies whatever the limit of a sequence.
    dynamic: DynamicRope | None = None
    long: LongRope | None = None


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
class ConvSpec:
    """Gated short convolutions (LFM2, arXiv:2511.23404): [b | c | x] = in(h), and out(c · conv(b · x)).

    The state of a sequence is the last `taps` - 1 rows of b · x.
    """

    channels: int  # the hidden size
    taps: int
    bias: bool = False  # of the products and the convolution

    @property
    def inputs(self) -> tuple[int, ...]:
        """Columns of the parts of what goes in."""
        return (3 * self.channels,)

    @property
    def mixed(self) -> int:
        """Columns of what the recurrence gives."""
        return self.channels

    @property
    def convolved(self) -> int:
        """Channels of the convolution."""
        return self.channels

    @property
    def state(self) -> int:
        """Floats of a sequence's state in one layer."""
        return (self.taps - 1) * self.channels


@dataclass(frozen=True, slots=True)
class DeltaSpec:
    """Gated delta rule (Yang et al. 2024, arXiv:2412.06464) behind a short convolution of its queries, keys and values.

    [q | k | v | z | b | a] = in(h). The state of a sequence is the last `taps` - 1 rows of [q | k | v], then a matrix
    (key_dim, value_dim) of each value head.
    """

    key_heads: int
    value_heads: int  # a multiple of key_heads
    key_dim: int
    value_dim: int
    taps: int
    bias: bool = False

    @property
    def inputs(self) -> tuple[int, ...]:
        """Columns of the parts of what goes in: [q | k | v], z, b, a."""
        return (self.convolved, self.mixed, self.value_heads, self.value_heads)

    @property
    def mixed(self) -> int:
        """Columns of what the recurrence gives."""
        return self.value_heads * self.value_dim

    @property
    def convolved(self) -> int:
        """Channels of the convolution."""
        return 2 * self.key_heads * self.key_dim + self.mixed

    @property
    def state(self) -> int:
        """Floats of a sequence's state in one layer."""
        return (self.taps - 1) * self.convolved + self.key_dim * self.mixed


class Stacked(NamedTuple):
    """A tensor in which a checkpoint may have a parameter of all experts of a layer, (experts, rows, columns).

    Its rows may also lie in `checkpoint`_blocks and _scales, in MXFP4. cutset.models.files.stacked reads it.
    """

    role: str  # the parameter: a field of TensorNames
    checkpoint: str  # a template with `{layer}`
    transposed: bool = False  # (experts, columns, rows); MXFP4 never is
    interleaved: bool = False  # rows of gate and up take turns

    def at(self, layer: int) -> str:
        """Its name in a layer."""
        return self.checkpoint.replace("{layer}", str(layer))


class TensorName(NamedTuple):
    """Templates with `{layer}` and `{expert}`: the name in a checkpoint, the place in an exchange file."""

    checkpoint: str
    place: str

    def at(self, layer: int, expert: int) -> TensorName:
        """Name and place of one layer and expert."""
        return TensorName(
            *(text.replace("{layer}", str(layer)).replace("{expert}", str(expert)) for text in (self[0], self[1]))
        )


Names = tuple[TensorName, ...]

LAYER, PLACE = "model.layers.{layer}.", "layers/{layer}/"
EXPERT, EXPERT_PLACE = f"{LAYER}mlp.experts.{{expert}}.", f"{PLACE}experts/{{expert}}/"
SHARED, SHARED_PLACE = f"{LAYER}mlp.shared_experts.{{expert}}.", f"{PLACE}shared_experts/{{expert}}/"


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Where each parameter of a decoder is stored: by default under the names of Llama, which most families took over.

    Several names are several tensors, whose rows are stacked: `qkv` has three of them, or one that holds all rows,
    `gate_up` two or one. A layer counts from 0; so do experts, and shared experts on their own.
    """

    embedding: Names = (TensorName("model.embed_tokens.weight", "tok_embedding"),)
    attention_output_norm: Names = (TensorName(LAYER + "attention_output_norm.weight", PLACE + "rms_attn_output"),)
    mlp_output_norm: Names = (TensorName(LAYER + "mlp_output_norm.weight", PLACE + "rms_ffn_output"),)
    sinks: Names = (TensorName(LAYER + "self_attn.sinks", PLACE + "sinks"),)
    final_norm: Names = (TensorName("model.norm.weight", "final_rms"),)
    lm_head: Names = (TensorName("lm_head.weight", "lm_head"),)
    attention_norm: Names = (TensorName(LAYER + "input_layernorm.weight", PLACE + "rms_attn"),)
    mlp_norm: Names = (TensorName(LAYER + "post_attention_layernorm.weight", PLACE + "rms_ffn"),)
    qkv: Names = (
        TensorName(LAYER + "self_attn.q_proj.weight", PLACE + "wq"),
        TensorName(LAYER + "self_attn.k_proj.weight", PLACE + "wk"),
        TensorName(LAYER + "self_attn.v_proj.weight", PLACE + "wv"),
    )
    qkv_bias: Names = (
        TensorName(LAYER + "self_attn.q_proj.bias", PLACE + "bq"),
        TensorName(LAYER + "self_attn.k_proj.bias", PLACE + "bk"),
        TensorName(LAYER + "self_attn.v_proj.bias", PLACE + "bv"),
    )
    q_norm: Names = (TensorName(LAYER + "self_attn.q_norm.weight", PLACE + "q_norm"),)
    k_norm: Names = (TensorName(LAYER + "self_attn.k_norm.weight", PLACE + "k_norm"),)
    o: Names = (TensorName(LAYER + "self_attn.o_proj.weight", PLACE + "wo"),)
    o_bias: Names = (TensorName(LAYER + "self_attn.o_proj.bias", PLACE + "bo"),)
    # Of layers with a state instead of attention:
    in_proj: Names = (TensorName(LAYER + "conv.in_proj.weight", PLACE + "w_in"),)
    in_proj_bias: Names = (TensorName(LAYER + "conv.in_proj.bias", PLACE + "b_in"),)
    conv: Names = (TensorName(LAYER + "conv.conv.weight", PLACE + "conv"),)
    conv_bias: Names = (TensorName(LAYER + "conv.conv.bias", PLACE + "conv_bias"),)
    out_proj: Names = (TensorName(LAYER + "conv.out_proj.weight", PLACE + "w_out"),)
    out_proj_bias: Names = (TensorName(LAYER + "conv.out_proj.bias", PLACE + "b_out"),)
    decay: Names = (TensorName(LAYER + "linear_attn.A_log", PLACE + "decay"),)
    decay_bias: Names = (TensorName(LAYER + "linear_attn.dt_bias", PLACE + "decay_bias"),)
    delta_gain: Names = (TensorName(LAYER + "linear_attn.norm.weight", PLACE + "rms_delta"),)
    router: Names = (TensorName(LAYER + "mlp.gate.weight", PLACE + "router"),)
    router_bias: Names = (TensorName(LAYER + "mlp.gate.bias", PLACE + "router_bias"),)
    gate_up: Names = (
        TensorName(LAYER + "mlp.gate_proj.weight", PLACE + "w_gate"),
        TensorName(LAYER + "mlp.up_proj.weight", PLACE + "w_up"),
    )
    gate_up_bias: Names = (
        TensorName(LAYER + "mlp.gate_proj.bias", PLACE + "b_gate"),
        TensorName(LAYER + "mlp.up_proj.bias", PLACE + "b_up"),
    )
    down: Names = (TensorName(LAYER + "mlp.down_proj.weight", PLACE + "w_down"),)
    down_bias: Names = (TensorName(LAYER + "mlp.down_proj.bias", PLACE + "b_down"),)
    expert_gate_up: Names = (
        TensorName(EXPERT + "gate_proj.weight", EXPERT_PLACE + "w_gate"),
        TensorName(EXPERT + "up_proj.weight", EXPERT_PLACE + "w_up"),
    )
    expert_down: Names = (TensorName(EXPERT + "down_proj.weight", EXPERT_PLACE + "w_down"),)
    # A row for each expert.
    expert_gate_up_bias: Names = (TensorName(LAYER + "mlp.experts.gate_up_bias", PLACE + "expert_b_gate_up"),)
    expert_down_bias: Names = (TensorName(LAYER + "mlp.experts.down_bias", PLACE + "expert_b_down"),)
    shared_gate_up: Names = (
        TensorName(SHARED + "gate_proj.weight", SHARED_PLACE + "w_gate"),
        TensorName(SHARED + "up_proj.weight", SHARED_PLACE + "w_up"),
    )
    shared_down: Names = (TensorName(SHARED + "down_proj.weight", SHARED_PLACE + "w_down"),)


class WantedTensor(NamedTuple):
    """A tensor that a decoder needs: a part of the parameter `role`; layer and expert are -1 where it has none."""

    role: str  # a field of TensorNames
    layer: int
    expert: int
    name: str
    place: str
    shape: Shape

    @property
    def product(self) -> bool:
        """It is a matrix of a site."""
        return self.role.removeprefix("expert_").removeprefix("shared_") in (*SITES, "in_proj", "out_proj")


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
    router_bias: bool = False
    expert_bias: bool = False  # of routed experts
    qk_norm: bool = False  # RMSNorm over each head of q and k before the rotary embedding
    whole_norms: bool = False  # that norm is over all heads of q, and of k, together
    input_norms: bool = True  # RMSNorm of what goes into attention and MLP
    output_norms: bool = False  # RMSNorm of what attention and MLP give, before it is added
    norm_offset: float = 0.0  # added to the gains of all norms: 1 where they are stored around zero
    activation: Activation = "silu"  # of the gate in an MLP; `clamped`: see cutset.kernels.reference.clamped_mul
    activation_limit: float = 0.0  # clamped alone
    activation_alpha: float = 0.0  # clamped alone
    sinks: bool = False  # attention's weights share with a score of nothing, one a head
    rope_interleaved: bool = False  # pairs are neighbours, not elements half a rotated part apart
    other_ropes: tuple[RopeSpec, ...] = ()  # tables 1, 2, … beside `rope`, which is table 0
    rope_tables: tuple[int, ...] = ()  # per layer: its table, -1 for none; () is table 0 everywhere
    embedding_scale: float = 1.0  # factors: of the embedding,
    attention_scale: float = 0.0  # of attention's scores (0: head_dim^-1/2),
    residual_scale: float = 1.0  # of what attention and MLP give,
    logit_scale: float = 1.0  # of the logits
    # q of position p is multiplied by 1 + query_growth * log(1 + floor(p / query_positions)) (Llama 4).
    query_growth: float = 0.0
    query_positions: int = 1
    attention_softcap: float = 0.0  # scores are limited to that by tanh (Gemma 2, arXiv:2408.00118); 0: they aren't
    logit_softcap: float = 0.0  # the same for logits
    windows: tuple[int, ...] = ()  # per layer: how many tokens back a query sees, itself included; 0 = all
    moe: MoESpec | None = None
    sparse_layers: frozenset[int] = frozenset()  # layers whose MLP is a mixture of experts
    recurrent: ConvSpec | DeltaSpec | None = None
    recurrent_layers: frozenset[int] = frozenset()  # layers with such a state instead of attention
    gated_attention: bool = False  # q has a gate beside each head: [q | gate], whose sigmoid multiplies what it mixed
    names: TensorNames = TensorNames()
    other_names: tuple[tuple[str, str], ...] = ()  # prefixes that tensors may have instead: (theirs, that of `names`)
    other_parts: tuple[str, ...] = ()  # prefixes of tensors of parts that don't run here
    stacked: tuple[Stacked, ...] = ()  # tensors that may be there instead of those of `names`
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
        return MOST_POSITIONS if self.rope.dynamic else self.context

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
    def q_parts(self) -> int:
        """Columns of q as it is multiplied, with its gates."""
        return 2 * self.q_size if self.gated_attention else self.q_size

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have keys and values, in the order in which a cache has them."""
        return tuple(layer for layer in range(self.layers) if layer not in self.recurrent_layers)

    @property
    def state_floats(self) -> int:
        """Floats of a sequence's state beside keys and values, in all layers; 0 where there is none."""
        return self.recurrent.state * len(self.recurrent_layers) if self.recurrent is not None else 0

    def mixer(self, layer: int) -> ConvSpec | DeltaSpec | None:
        """What a layer has instead of attention, if it has."""
        return self.recurrent if layer in self.recurrent_layers else None

    def depth(self, site: Site, layer: int, expert: int = -1) -> int:
        """Columns of a site's weights: the length of its sums."""
        if site == "o":
            mixer = self.mixer(layer)
            return self.q_size if mixer is None else mixer.mixed
        return self.mlp_width(expert) if site == "down" else self.hidden

    @property
    def score_scale(self) -> float:
        """What attention's scores are multiplied by."""
        return self.attention_scale or float(self.head_dim**-0.5)

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The rotary tables, by number. All rotate as many elements of a head."""
        return (self.rope, *self.other_ropes)

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that are rotated."""
        return 2 * len(self.rope.frequencies)

    def rope_table(self, layer: int) -> int:
        """The rotary table of a layer; -1 where nothing is rotated."""
        return self.rope_tables[layer] if self.rope_tables else 0

    def window(self, layer: int) -> int:
        """Tokens that a query of this layer sees, itself included; 0 = all."""
        return self.windows[layer] if self.windows else 0

    def role(self, site: Site, expert: int = -1, layer: int = -1) -> str:
        """The field of TensorNames that a site's weights go by; `expert` as in `site_tensors`."""
        if layer in self.recurrent_layers and site in ("qkv", "o"):
            return "in_proj" if site == "qkv" else "out_proj"
        if expert < 0 or self.moe is None:
            return "embedding" if site == "lm_head" and self.tied else site
        return f"expert_{site}" if expert < self.moe.experts else f"shared_{site}"

    def stored(self, role: str, layer: int = -1, expert: int = -1) -> Names:
        """Names and places of a parameter's tensors, in the order in which their rows are stacked."""
        if expert >= 0 and self.moe is not None and expert >= self.moe.experts:
            expert -= self.moe.experts
        return tuple(name.at(layer, expert) for name in getattr(self.names, role))

    def bare(self) -> DecoderSpec:
        """The decoder itself, without what only a reader of checkpoints must know."""
        return replace(self, other_names=(), other_parts=(), stacked=())

    def meant(self, stored: str) -> str:
        """The name that a tensor has here, where it is stored or spoken of under another."""
        for theirs, ours in self.other_names:
            if stored.startswith(theirs):
                return ours + stored.removeprefix(theirs)
        return stored

    def site_tensors(self, site: Site, layer: int, expert: int = -1) -> tuple[str, ...]:
        """Names of the weights of a site, in the order in which their rows are stacked.

        `expert` is -1 for a dense MLP, 0 .. experts - 1 for a routed expert, and experts + s for the shared expert s.
        """
        return tuple(name.checkpoint for name in self.stored(self.role(site, expert, layer), layer, expert))

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

    def tensor_shapes(self) -> dict[str, Shape]:
        """Every tensor that a checkpoint of this decoder holds, under its name there."""
        return {tensor.name: tensor.shape for tensor in self.tensors()}

    def glue(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """The parameters beside the products, the embedding among them: names of their tensors by role and layer."""
        found: dict[tuple[str, int], tuple[str, ...]] = {}
        for tensor in self.tensors():
            if not tensor.product:
                found[tensor.role, tensor.layer] = (*found.get((tensor.role, tensor.layer), ()), tensor.name)
        return found

    def tensors(self) -> Iterator[WantedTensor]:
        """Every tensor of this decoder, in the order in which checkpoints are written and random weights drawn."""
        yield from self._tensors("embedding", (self.vocab_size,), self.hidden)
        for layer in range(self.layers):
            if self.input_norms:
                yield from self._tensors("attention_norm", (self.hidden,), 0, layer)
            mixer = self.mixer(layer)
            yield from self._attention(layer) if mixer is None else self._recurrent(layer, mixer)
            if self.output_norms:
                yield from self._tensors("attention_output_norm", (self.hidden,), 0, layer)
            if self.input_norms:
                yield from self._tensors("mlp_norm", (self.hidden,), 0, layer)
            if self.output_norms:
                yield from self._tensors("mlp_output_norm", (self.hidden,), 0, layer)
            if layer in self.sparse_layers and self.moe is not None:
                yield from self._tensors("router", (self.moe.experts,), self.hidden, layer)
                if self.router_bias:
                    yield from self._tensors("router_bias", (self.moe.experts,), 0, layer)
                if self.expert_bias:
                    width = 2 * self.moe.intermediate
                    yield from self._tensors("expert_gate_up_bias", (self.moe.experts,), width, layer)
                    yield from self._tensors("expert_down_bias", (self.moe.experts,), self.hidden, layer)
            for expert in self.mlps(layer):
                width = self.mlp_width(expert)
                yield from self._tensors(self.role("gate_up", expert), (width, width), self.hidden, layer, expert)
                yield from self._tensors(self.role("down", expert), (self.hidden,), width, layer, expert)
                if self.mlp_bias and expert < 0:
                    yield from self._tensors("gate_up_bias", (width, width), 0, layer)
                    yield from self._tensors("down_bias", (self.hidden,), 0, layer)
        yield from self._tensors("final_norm", (self.hidden,), 0)
        if not self.tied:
            yield from self._tensors("lm_head", (self.vocab_size,), self.hidden)

    def _attention(self, layer: int) -> Iterator[WantedTensor]:
        parts = (self.q_parts, self.kv_size, self.kv_size)
        qkv = [*self._tensors("qkv", parts, self.hidden, layer)]
        biases = [*self._tensors("qkv_bias", parts, 0, layer)] if self.qkv_bias else []
        sizes = {"q": self.q_size, "k": self.kv_size} if self.whole_norms else dict.fromkeys("qk", self.head_dim)
        norms = [tensor for part in "qk" for tensor in self._tensors(f"{part}_norm", (sizes[part],), 0, layer)]
        for row in zip_longest(qkv, biases, norms if self.qk_norm else []):
            yield from (tensor for tensor in row if tensor is not None)
        yield from self._tensors("o", (self.hidden,), self.q_size, layer)
        if self.o_bias:
            yield from self._tensors("o_bias", (self.hidden,), 0, layer)
        if self.sinks:
            yield from self._tensors("sinks", (self.heads,), 0, layer)

    def _recurrent(self, layer: int, mixer: ConvSpec | DeltaSpec) -> Iterator[WantedTensor]:
        yield from self._tensors("in_proj", mixer.inputs, self.hidden, layer)
        name, place = self.stored("conv", layer)[0]
        yield WantedTensor("conv", layer, -1, name, place, (mixer.convolved, 1, mixer.taps))
        yield from self._tensors("out_proj", (self.hidden,), mixer.mixed, layer)
        if mixer.bias:
            yield from self._tensors("in_proj_bias", mixer.inputs, 0, layer)
            yield from self._tensors("conv_bias", (mixer.convolved,), 0, layer)
            yield from self._tensors("out_proj_bias", (self.hidden,), 0, layer)
        if isinstance(mixer, DeltaSpec):
            yield from self._tensors("decay", (mixer.value_heads,), 0, layer)
            yield from self._tensors("decay_bias", (mixer.value_heads,), 0, layer)
            yield from self._tensors("delta_gain", (mixer.value_dim,), 0, layer)

    def _tensors(
        self, role: str, rows: tuple[int, ...], columns: int, layer: int = -1, expert: int = -1
    ) -> Iterator[WantedTensor]:
        """The tensors of a parameter whose parts have so many `rows`; `columns` is 0 for a vector."""
        stored = self.stored(role, layer, expert)
        for (name, place), size in zip(stored, rows if len(stored) > 1 else (sum(rows),), strict=True):
            yield WantedTensor(role, layer, expert, name, place, (size, columns) if columns else (size,))

    def matrix_shape(self, site: Site, expert: int) -> tuple[int, int]:
        """Rows and columns of the product of an MLP."""
        width = self.mlp_width(expert)
        return (2 * width, self.hidden) if site == "gate_up" else (self.hidden, width)

    def mlp_width(self, expert: int) -> int:
        """Intermediate size of the dense MLP (-1), of a routed or of a shared expert."""
        if expert < 0 or self.moe is None:
            return self.intermediate
        return self.moe.intermediate if expert < self.moe.experts else self.moe.shared_intermediate

    def parameter_count(self) -> int:
        """Parameters of the decoder; tied ones once."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors())
