"""The native executor: the C++ core runs from site to site, and the products are computed there or elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError, DeviceError
from cutset.kernels import native
from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.channel_scales import fitted
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.integer import Progress, activation_bits, channel_scales, packed, quantized_parts
from cutset.models.run.decoder import Trace
from cutset.models.run.executor import Batch, LoadedAdapter
from cutset.models.run.grouped_linears import ACTIVATION_BITS, native_linears, runs_grouped, site_weights
from cutset.models.run.rope import Rope, query_scales
from cutset.models.spec import ConvSpec, DecoderSpec, DeltaSpec, Site
from cutset.models.stages import check_stage, stage_glue, stage_part, stage_parts, stage_sites

__all__ = ["NativeCache", "NativeDecoder", "SplitLinears", "local_linears", "thread_pool"]

Floats = NDArray[np.float32]

# Parameters of the glue that the core multiplies with, or looks up rows in, in the precision that they came in.
MATRICES = (
    "embedding",
    "layer_embedding",
    "layer_product",
    "layer_gate",
    "layer_out",
    "router",
    "shared_gate",
)
MOVED_BYTES = 4 << 20  # of weights in one step, at least: a fraction of what the step reads

# (site, layer, expert, rows, out): rows (n, in) to out (n, out), without bias, in float32.
SplitLinears = Callable[[Site, int, int, Floats, Floats], None]


@runtime_checkable
class StepLinears(Protocol):
    """SplitLinears that can also answer all products of a native.Step themselves."""

    def __call__(self, site: Site, layer: int, expert: int, rows: Floats, out: Floats) -> None: ...
    def run(self, step: native.Step) -> None: ...


class NativeCache:
    """Keys and values, laid out as native/kernels/glue.h says, states of sequences, and the steps that have run."""

    def __init__(self, decoder: native.Decoder, blocks: int, block_size: int, states: int, *, int8: bool) -> None:
        self.kv = native.KvCache(decoder, blocks, block_size, states, int8)
        self.blocks, self.block_size = blocks, block_size
        self.nbytes = self.kv.nbytes
        self.idle: list[native.Step] = []  # steps keep their memory, so they are used again

    def block(self, number: int) -> list[NDArray[np.uint8]]:
        """See KVCache."""
        return [self.kv.block(number)]


class NativeDecoder:
    """Runs a DecoderSpec in float32 between the sites; an Executor (see cutset.models.run.executor).

    `linears` computes the products: `native.LocalLinears` in one call for all of them, or a function that is called
    at each site. Several threads may call `forward` at once on blocks of their own.

    With `layers` it is a stage of that decoder, a StageExecutor, with the weights and the cache of these layers alone.
    Raises ConfigError where the decoder can't be cut there.
    """

    data_oblivious = False  # see `be_data_oblivious`

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        pool: native.Pool,
        linears: SplitLinears | native.Linears | None = None,
        *,
        dtype: str = "float32",  # of the products, where they are computed here
        progress: Progress | None = None,
        layers: range | None = None,  # those that run here; None: all
    ) -> None:
        self.spec, self.pool, self.rope = spec, pool, Rope(spec)
        self._channels = channel_scales(spec, tensors)
        self.layers = range(spec.layers) if layers is None else layers
        check_stage(spec, self.layers)
        moe = spec.moe
        sizes: dict[str, Any] = {}
        if moe is not None:
            sizes = {
                "experts": moe.experts,
                "top_k": moe.top_k,
                "normalise": moe.normalise,
                "expert_intermediate": moe.intermediate,
                "shared": moe.shared,
                "shared_intermediate": moe.shared_intermediate,
                "router_scale": moe.router_scale,
            }
        sizes |= _recurrence(spec) | _layers(spec)
        as_stored = linears is None and dtype in ("float32", "stored")
        parameters = _parameters(spec, self.layers, tensors, pool, dtype if as_stored else None)
        self.core = native.Decoder(
            vocab=spec.vocab_size,
            hidden=spec.hidden,
            layers=spec.layers,
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            intermediate=spec.intermediate,
            norm_eps=spec.norm_eps,
            windows=list(spec.windows),
            activation=spec.activation,
            activation_limit=spec.activation_limit,
            activation_alpha=spec.activation_alpha,
            rotary_dim=max(spec.rotary_dims),
            rotary_dims=list(spec.rotary_dims),
            rotary_interleaved=spec.rope_interleaved,
            rotary_tables=len(spec.ropes),
            rotary_table=list(spec.rope_tables),
            attention_scale=spec.attention_scale,
            attention_softcap=spec.attention_softcap,
            embedding_scale=spec.embedding_scale,
            residual_scale=spec.residual_scale,
            logit_scale=spec.logit_scale,
            logit_softcap=spec.logit_softcap,
            whole_norms=spec.whole_norms,
            gated_attention=spec.gated_attention,
            sparse=[layer in spec.sparse_layers for layer in range(spec.layers)],
            parameters=parameters,
            pool=pool,
            first=self.layers.start,
            stop=self.layers.stop,
            **sizes,
        )
        # Weights that lie in a mapped file, which is quick to start with but slower than huge pages in the long run.
        self._mapped: list[native.LinearI8] = []
        self._tensors, self._started = tensors, False
        embedding = parameters.get(("embedding", -1))
        # A table of few bits, which a tied head multiplies with, too.
        self.embedding_codes = embedding if isinstance(embedding, native.LinearGrouped) else None
        self.linears = linears or local_linears(self, tensors, dtype, progress)

    def be_data_oblivious(self) -> None:
        """Before anything runs: addresses that are read don't depend on tokens, and samplers should see to the same.
        Raises DeviceError for a mixture of experts."""
        if self.spec.moe is not None:
            raise DeviceError("data_oblivious isn't for mixtures of experts: which of them are read tells of the text")
        self.core.data_oblivious = self.data_oblivious = True

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> NativeCache:
        """Room for keys and values of `blocks` blocks and for states; `block_size` must be a multiple of 16."""
        states = blocks if states is None else states
        return NativeCache(self.core, blocks, block_size, states, int8=kv_dtype == "int8")

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """Packs an adapter's matrices, of the layers that run here."""
        adapter = fitted(adapter, self._channels, in_bytes=in_bytes)
        packed = native.Adapter(self.core)
        for part in stage_parts(self.spec, self.layers, adapter.parts):
            packed.put(part.site, part.layer, part.expert, part.down, part.up, part.first, part.scale, part.scales)
        return LoadedAdapter(adapter.name, adapter.digest, packed)

    def final_hidden(self, batch: Batch, cache: Any, *, hidden: Floats | None = None) -> Floats:
        """See Executor and StageExecutor."""
        return self.forward(batch, cache, hidden=hidden, head=False)

    def forward(
        self,
        batch: Batch,
        cache: Any,
        trace: Trace | None = None,
        *,
        hidden: Floats | None = None,
        head: bool = True,  # False: (wanted, hidden) after the final norm in place of logits
        prepared: Mapping[str, Any] | None = None,
    ) -> Floats:
        """Runs the rows of a batch; logits (wanted, vocab). A stage takes `hidden` and gives it: see StageExecutor and
        PreparingExecutor."""
        self._move_in()
        if trace is not None or not cache.idle:
            step = native.Step(self.core, cache.kv, self.pool, trace)
        else:
            step = cache.idle.pop()
        step.begin(hidden=hidden, head=head, **(self.prepare(batch) if prepared is None else prepared))
        if isinstance(self.linears, native.Linears):
            step.run(self.linears)
        elif isinstance(self.linears, StepLinears):
            self.linears.run(step)
        else:
            while (waiting := step.waiting) is not None:
                site, layer, expert, rows = waiting
                self.linears(site, layer, expert, rows, step.output)
                step.resume()
        found = step.logits if head and self.layers.stop == self.spec.layers else step.hidden
        if trace is None:
            cache.idle.append(step)
        return found

    def ready_step(self, cache: NativeCache, prepared: Mapping[str, Any]) -> native.Step | None:
        """A step that only needs its hidden states, for native code that has these; `close_step` follows. None where
        products aren't computed here."""
        if not isinstance(self.linears, native.Linears):
            return None
        self._move_in()
        step = cache.idle.pop() if cache.idle else native.Step(self.core, cache.kv, self.pool)
        step.prepare(**prepared)
        return step

    def close_step(self, cache: NativeCache, step: native.Step, end: native.HopEnd | None, sent: bool) -> Floats | None:
        """What a step that ran has made, as `forward` gives it; None where it didn't, or that was `sent`. The step may
        be used again."""
        cache.idle.append(step)
        if end is None or not end.ran or sent:
            return None
        return step.logits if self.layers.stop == self.spec.layers else step.hidden

    def prepare(self, batch: Batch) -> Mapping[str, Any]:
        """See PreparingExecutor: the arguments of a native.Step."""
        cos, sin = self.rope.rows(batch.positions, batch.row_starts, batch.limits)
        return {
            "token_ids": batch.token_ids,
            "row_starts": batch.row_starts,
            "context_lens": batch.context_lens,
            "block_tables": batch.block_tables,
            "logit_rows": batch.logit_rows,
            "key_mask": batch.key_mask,
            "cos": cos.reshape(-1, cos.shape[-1]),
            "sin": sin.reshape(-1, sin.shape[-1]),
            "query_scales": query_scales(self.spec, batch.positions),
            "adapters": [None if one is None else one.handle for one in batch.adapters] if batch.adapters else None,
            **_states(batch),
        }

    @property
    def mapped(self) -> bool:
        """Some weights are still used where they lie in the file."""
        return bool(self._mapped)

    def _move_in(self) -> None:
        """Moves some weights to huge pages, once the first token is out."""
        if not self._started or not self._mapped:
            self._started = True
            return
        moved = 0
        with suppress(IndexError):  # another thread took the last one
            while moved < MOVED_BYTES:
                moved += self._mapped.pop().move_in(self.pool)
        if not self._mapped:
            for tensor in self._tensors.values():
                tensor.forget()


def thread_pool(threads: int) -> native.Pool:
    """Threads for a NativeDecoder, its caller among them."""
    return native.Pool(threads)


def local_linears(
    decoder: NativeDecoder, tensors: Mapping[str, Tensor], dtype: str = "float32", progress: Progress | None = None
) -> native.LocalLinears:
    """All products of a decoder, computed in this process in float32, exact, or one of the dtypes of grouped weights.

    Raises CheckpointError where the sums of a site may pass 2^30 - 1 even with 8-bit activations.
    """
    linears = native.LocalLinears(decoder.core, decoder.pool)
    # The head first: it is the largest, so the pages of the file that are in use beside its packed form are fewest.
    sites = sorted(stage_sites(decoder.spec, decoder.layers), key=lambda site: site[0] != "lm_head")
    whole = dtype != "float32" and not runs_grouped(dtype, tensors)
    for number, (site, layer, expert) in enumerate(sites):
        if progress is not None:
            progress("packing weights", number + 1, len(sites))
        if whole:
            linear = _integer_linear(decoder, tensors, site, layer, expert)
            bits = min(activation_bits(dtype, site), linear.most_bits)
            if bits < 8:
                raise CheckpointError(f"site {site} of layer {layer}: its sums of {linear.depth} products overflow")
            linears.put(site, layer, expert, linear, bits)
            continue
        parts = _packed_parts(decoder, tensors, dtype, site, layer, expert)
        linears.put(site, layer, expert, parts, ACTIVATION_BITS)
        for name in decoder.spec.site_tensors(site, layer, expert):  # packed: not to be in memory twice
            tensors[name].forget()
    return linears


def _packed_parts(
    decoder: NativeDecoder, tensors: Mapping[str, Tensor], dtype: str, site: Site, layer: int, expert: int
) -> tuple[native.LinearGrouped | native.LinearF32, ...]:
    if site == "lm_head" and decoder.spec.tied and decoder.embedding_codes is not None:
        return (decoder.embedding_codes,)
    quantize = functools.partial(native.quantize_groups, pool=decoder.pool)
    try:
        weights = site_weights(decoder.spec, tensors, dtype, (site, layer, expert), quantize)
        return native_linears(weights, decoder.pool)
    except ValueError as error:
        raise CheckpointError(f"site {site} of layer {layer} can't be used: {error}") from None


def _integer_linear(
    decoder: NativeDecoder, tensors: Mapping[str, Tensor], site: Site, layer: int, expert: int
) -> native.LinearI8:
    stored = packed(decoder.spec, tensors, site, layer, expert)
    try:
        if stored is not None:
            linear = native.LinearI8.packed(*stored, decoder.spec.depth(site, layer, expert), decoder.pool)
            if getattr(stored[0], "_mmap", None) is not None:  # else it is in memory of ours already, as what was sent
                decoder._mapped.append(linear)
            return linear
        parts = quantized_parts(
            decoder.spec, tensors, site, layer, expert, lambda w: native.quantize_weight(w, decoder.pool)
        )
        return native.LinearI8([q for q, _ in parts], [scales for _, scales in parts], decoder.pool)
    except ValueError as error:
        raise CheckpointError(f"site {site} of layer {layer} can't be used: {error}") from None


def _parameters(
    spec: DecoderSpec, layers: range, tensors: Mapping[str, Tensor], pool: native.Pool, dtype: str | None
) -> dict[tuple[str, int], NDArray[Any] | native.LinearGrouped]:
    """The parameters of the glue of these layers, by role and layer: the core goes by the same names. With a dtype,
    matrices stay as the file has them: floats of 16 bits, and in `stored` the codes of an embedding."""
    found: dict[tuple[str, int], NDArray[Any] | native.LinearGrouped] = {}
    for key, names in stage_glue(spec, layers).items():
        table = tensors[names[0]]
        if dtype == "stored" and key == ("embedding", -1) and isinstance(table, GroupedTensor):
            (linear,) = native_linears([table.grouped()], pool)
            assert isinstance(linear, native.LinearGrouped)
            found[key] = linear
            continue
        if dtype is not None and key[0] in MATRICES and len(names) == 1:
            found[key] = np.require(stage_part(spec, layers, key[0], table.floats()), requirements=("C", "A"))
            continue
        values = [tensors[name].float32() for name in names]
        value = values[0] if len(values) == 1 else np.concatenate(values)
        if key[0].endswith("_norm") and spec.norm_offset:
            value = value + np.float32(spec.norm_offset)
        if key[0] == "conv":
            value = value[:, 0].T  # (taps, channels)
        found[key] = np.require(stage_part(spec, layers, key[0], value), requirements=("C", "A"))
    for layer in spec.attention_layers if spec.v_norm else ():
        if layer in layers:
            found["v_norm", layer] = np.ones(spec.heads_of(layer).head_dim, np.float32)
    return found


def _layers(spec: DecoderSpec) -> dict[str, Any]:
    """What the core must know of layers that differ, or are told of tokens."""
    found: dict[str, Any] = {
        "layer_kv_heads": [kv_heads for kv_heads, _ in spec.head_sizes],
        "layer_head_dims": [head_dim for _, head_dim in spec.head_sizes],
        "intermediates": list(spec.intermediates),
        "kv_layers": list(spec.kv_layers),
        "equal_kv": [layer in spec.equal_kv_layers for layer in range(spec.layers)],
    }
    if (inputs := spec.layer_inputs) is None:
        return found
    return found | {
        "layer_vocab": inputs.vocab,
        "layer_width": inputs.width,
        "layer_embedding_scale": inputs.embedding_scale,
        "layer_product_scale": inputs.product_scale,
        "layer_input_scale": inputs.scale,
    }


def _recurrence(spec: DecoderSpec) -> dict[str, Any]:
    """What the core must know of layers that have states of sequences."""
    mixer = spec.recurrent
    if mixer is None:
        return {}
    found = {"taps": mixer.taps, "recurrent": [layer in spec.recurrent_layers for layer in range(spec.layers)]}
    if isinstance(mixer, ConvSpec):
        return found | {"mixer": "conv"}
    assert isinstance(mixer, DeltaSpec)
    sizes = {name: getattr(mixer, name) for name in ("key_heads", "value_heads", "key_dim", "value_dim")}
    return found | sizes | {"mixer": "delta"}


def _states(batch: Batch) -> dict[str, Any]:
    if batch.states is None:
        return {}
    states = batch.states
    return {"state_slots": states.slots, "state_sources": states.sources, "state_saves": states.saves}
