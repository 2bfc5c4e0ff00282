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

from cutset.models.names import (
    EXPERT,
    EXPERT_PLACE,
    LAYER,
    PLACE,
    SHARED,
    SHARED_PLACE,
    Names,
    Stacked,
    TensorName,
    TensorNames,
)
from cutset.models.parts import (
    ConvSpec,
    DeltaSpec,
    DynamicRope,
    HeadSizes,
    LayerInputSpec,
    LongRope,
    MoESpec,
    RopeSpec,
)

__all__ = [
    "EXPERT",
    "EXPERT_PLACE",
    "LAYER",
    "MOST_MLPS",
    "MOST_POSITIONS",
    "PLACE",
    "SHARED",
    "SHARED_PLACE",
    "SITES",
    "Activation",
    "ConvSpec",
    "DecoderSpec",
    "DeltaSpec",
    "DynamicRope",
    "HeadSizes",
    "LayerInputSpec",
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
Activation = Literal["silu", "gelu_tanh", "clamped", "gelu_erf", "relu", "relu2"]
Shape = tuple[int, ...]
LLAMA = TensorNames()


def activation_bits(dtype: str, site: Site) -> int:
    """Bits of the activations that a site multiplies in `exact`, or in `int8` of an integer checkpoint, where its sums
    allow it.

    `int8` takes 8 at `gate_up`, which is half of all products, and 12 elsewhere: 8 everywhere changes the likeliest
    token at 3 % of the positions of a small model, 8 there alone hardly more than the 8-bit weights do by
    themselves (`cutset bench quality`). Decoding is bound by reading the weights, which are the same.
    """
    return 8 if dtype == "int8" and site == "gate_up" else 12


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
    intermediate: int  # of the dense MLP, unless `intermediates` differ
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
    # Per layer, where layers differ; () where they don't: (key-value heads, size of a head), and the width of
    # MLPs that every row passes.
    head_sizes: tuple[tuple[int, int], ...] = ()
    intermediates: tuple[int, ...] = ()
    kv_layers: tuple[int, ...] = ()  # per layer: the one, of its sizes, whose keys and values it uses; () is its own
    equal_kv_layers: frozenset[int] = frozenset()  # layers whose v is k as it is before its norm
    v_norm: bool = False  # RMSNorm over each head of v, without gains; it goes with qk_norm
    layer_scales: bool = False  # what leaves a layer is multiplied by a number of its own
    layer_inputs: LayerInputSpec | None = None
    moe: MoESpec | None = None
    sparse_layers: frozenset[int] = frozenset()  # layers whose MLP is a mixture of experts
    recurrent: ConvSpec | DeltaSpec | None = None
    recurrent_layers: frozenset[int] = frozenset()  # layers with such a state instead of attention
    gated_attention: bool = False  # q has a gate beside each head: [q | gate], whose sigmoid multiplies what it mixed
    names: TensorNames = LLAMA
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

    def heads_of(self, layer: int) -> HeadSizes:
        """The heads of a layer."""
        return HeadSizes(self.heads, *(self.head_sizes[layer] if self.head_sizes else (self.kv_heads, self.head_dim)))

    def kv_layer(self, layer: int) -> int:
        """The layer whose keys and values a layer uses: most often its own."""
        return self.kv_layers[layer] if self.kv_layers else layer

    def qkv_parts(self, layer: int) -> tuple[int, ...]:
        """Columns of q with its gates, k and v, as far as a layer multiplies them."""
        sizes = self.heads_of(layer)
        q = 2 * sizes.q_size if self.gated_attention else sizes.q_size
        if self.kv_layer(layer) != layer:
            return (q,)
        return (q, sizes.kv_size) if layer in self.equal_kv_layers else (q, sizes.kv_size, sizes.kv_size)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have keys and values of their own, in the order in which a cache has them."""
        layers = (layer for layer in range(self.layers) if layer not in self.recurrent_layers)
        return tuple(layer for layer in layers if self.kv_layer(layer) == layer)

    @property
    def kv_floats(self) -> int:
        """Floats of one token's keys in all layers; its values are as many."""
        return sum(self.heads_of(layer).kv_size for layer in self.attention_layers)

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
            return self.heads_of(layer).q_size if mixer is None else mixer.mixed
        return self.mlp_width(expert, layer) if site == "down" else self.hidden

    def score_scale(self, layer: int) -> float:
        """What attention's scores are multiplied by."""
        return self.attention_scale or float(self.heads_of(layer).head_dim ** -0.5)

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The rotary tables, by number."""
        return (self.rope, *self.other_ropes)

    @property
    def rotary_dims(self) -> tuple[int, ...]:
        """Elements of a head that each table rotates."""
        return tuple(2 * len(rope.frequencies) for rope in self.ropes)

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
        names: Names = getattr(self.names, role)
        if role in ("qkv", "qkv_bias") and len(names) > 1:
            names = names[: len(self.qkv_parts(layer))]
        return tuple(name.at(layer, expert) for name in names)

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
        if (inputs := self.layer_inputs) is not None:
            yield from self._tensors("layer_embedding", (inputs.vocab,), self.layers * inputs.width)
            yield from self._tensors("layer_product", (self.layers * inputs.width,), self.hidden)
            yield from self._tensors("layer_product_norm", (inputs.width,), 0)
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
                if self.moe.own_norms:
                    for norm in ("router_norm", "expert_norm", "expert_output_norm", "shared_output_norm"):
                        yield from self._tensors(norm, (self.hidden,), 0, layer)
                    yield from self._tensors("expert_scale", (self.moe.experts,), 0, layer)
                if self.moe.shared_gate:
                    yield from self._tensors("shared_gate", (self.moe.shared,), self.hidden, layer)
                if self.router_bias:
                    yield from self._tensors("router_bias", (self.moe.experts,), 0, layer)
                if self.expert_bias:
                    width = 2 * self.moe.intermediate
                    yield from self._tensors("expert_gate_up_bias", (self.moe.experts,), width, layer)
                    yield from self._tensors("expert_down_bias", (self.moe.experts,), self.hidden, layer)
            for expert in self.mlps(layer):
                width = self.mlp_width(expert, layer)
                yield from self._tensors(self.role("gate_up", expert), (width, width), self.hidden, layer, expert)
                yield from self._tensors(self.role("down", expert), (self.hidden,), width, layer, expert)
                if self.mlp_bias and expert < 0:
                    yield from self._tensors("gate_up_bias", (width, width), 0, layer)
                    yield from self._tensors("down_bias", (self.hidden,), 0, layer)
            if inputs is not None:
                yield from self._tensors("layer_gate", (inputs.width,), self.hidden, layer)
                yield from self._tensors("layer_out", (self.hidden,), inputs.width, layer)
                yield from self._tensors("layer_output_norm", (self.hidden,), 0, layer)
            if self.layer_scales:
                yield from self._tensors("layer_scale", (1,), 0, layer)
        yield from self._tensors("final_norm", (self.hidden,), 0)
        if not self.tied:
            yield from self._tensors("lm_head", (self.vocab_size,), self.hidden)

    def _attention(self, layer: int) -> Iterator[WantedTensor]:
        parts, heads = self.qkv_parts(layer), self.heads_of(layer)
        qkv = [*self._tensors("qkv", parts, self.hidden, layer)]
        biases = [*self._tensors("qkv_bias", parts, 0, layer)] if self.qkv_bias else []
        own = "qk" if len(parts) > 1 else "q"
        sizes = {"q": heads.q_size, "k": heads.kv_size} if self.whole_norms else dict.fromkeys("qk", heads.head_dim)
        norms = [tensor for part in own for tensor in self._tensors(f"{part}_norm", (sizes[part],), 0, layer)]
        for row in zip_longest(qkv, biases, norms if self.qk_norm else []):
            yield from (tensor for tensor in row if tensor is not None)
        yield from self._tensors("o", (self.hidden,), heads.q_size, layer)
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

    def mlp_width(self, expert: int, layer: int = 0) -> int:
        """Intermediate size of the dense MLP (-1), of a routed or of a shared expert."""
        if expert < 0 or self.moe is None:
            return self.intermediates[layer] if self.intermediates else self.intermediate
        if expert < self.moe.experts:
            return self.moe.intermediate
        return self.intermediates[layer] if self.intermediates else self.moe.shared_intermediate

    def parameter_count(self) -> int:
        """Parameters of the decoder; tied ones once."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors())
