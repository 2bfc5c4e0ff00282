"""What a decoder is made of besides attention and MLPs as in Llama: rotary embeddings, experts, layers with a state."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ConvSpec", "DeltaSpec", "DynamicRope", "HeadSizes", "LayerInputSpec", "LongRope", "MoESpec", "RopeSpec"]


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
class HeadSizes:
    """The heads of one layer's attention."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def q_size(self) -> int:
        """Columns of q."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Columns of k, and of v."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class LayerInputSpec:
    """What each layer is told of a token besides the residual stream x (Gemma 3n and 4), `width` floats in each layer:

        p = scale · (embedding_scale · its own embedding + norm(product_scale · product of the token's embedding))

    After its MLP a layer adds norm(out(activation(gate(x)) · p)).
    """

    vocab: int  # rows of the embedding, which holds all layers side by side
    width: int
    embedding_scale: float
    product_scale: float
    scale: float


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Mixture of experts: a router picks `top_k` of `experts` MLPs for each row and weighs them by their softmax."""

    experts: int
    top_k: int
    intermediate: int  # width of one expert
    normalise: bool  # divide the weights of the picked experts by their sum
    shared: int = 0  # MLPs that every row passes, each of the width `shared_intermediate`
    shared_intermediate: int = 0
    shared_gate: bool = False  # what a shared MLP gives is multiplied by the sigmoid of a product of its own
    # Router, routed and shared experts each have norms of their own (Gemma 4): the router and the routed ones take the
    # residual stream, what either kind of experts gives is normed before both are added, and the weight of an expert
    # is multiplied by a number of its own.
    own_norms: bool = False
    router_scale: float = 1.0  # of the router's product


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
