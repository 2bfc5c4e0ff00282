"""The reference executor: one decoder step, written to be read, over numpy or torch arrays.

Who computes `linears(site, layer, expert, rows)` is the whole difference between a local and a split model; nothing
else here knows where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.channel_scales import fitted
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.integer import channel_scales
from cutset.models.run.executor import Batch, KVCache, LoadedAdapter
from cutset.models.run.recurrent import recur, unpadded
from cutset.models.run.rope import Rope, query_scales
from cutset.models.spec import DecoderSpec, Site
from cutset.models.stages import check_stage, stage_glue, stage_part, stage_parts, stage_sites

__all__ = ["FloatLinears", "Linears", "Ops", "ReferenceDecoder", "Trace"]

Array = Any  # a numpy array or a torch tensor: what the Ops at hand work on

# Called with each operator's name, its layer (-1 outside of layers) and what it gave.
Trace = Callable[[str, int, Array], None]


class Linears(Protocol):
    """Computes the products of a decoder: rows (n, in) to (n, out), without bias."""

    def __call__(self, site: Site, layer: int, expert: int, rows: Array) -> Array: ...


class Ops(Protocol):
    """The kernels between the sites over one kind of array; see cutset.kernels.reference for what each computes."""

    def inference(self) -> AbstractContextManager[None]: ...  # nothing inside is recorded for gradients
    def load(self, tensor: Tensor) -> Array: ...
    def floats(self, values: NDArray[np.float32]) -> Array: ...
    def to_numpy(self, x: Array) -> NDArray[Any]: ...
    def new_cache(
        self, spec: DecoderSpec, layers: range, blocks: int, block_size: int, states: int, kv_dtype: str
    ) -> KVCache: ...
    def embedding(self, table: Array, ids: NDArray[np.int32]) -> Array: ...
    def linear(self, x: Array, weight: Array) -> Array: ...
    def concat(self, parts: list[Array]) -> Array: ...
    def take(self, x: Array, rows: NDArray[np.integer]) -> Array: ...
    def add_at(self, x: Array, rows: NDArray[np.integer], weights: Array, y: Array) -> None: ...
    def rms_norm(self, x: Array, gain: Array, eps: float) -> Array: ...
    def apply_rope(self, x: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array: ...
    def attend(
        self, q: Array, k: Array, v: Array, layer: int, batch: Batch, cache: Any, spec: DecoderSpec, sinks: Array
    ) -> Array: ...  # k and v are None where a layer uses those of another
    def gated(self, gate_up: Array, spec: DecoderSpec) -> Array: ...
    def wide(self, x: Array) -> Array: ...  # in float32, as states of sequences are kept
    def narrow(self, x: Array) -> Array: ...  # in the precision of the rest
    def silu(self, x: Array) -> Array: ...
    def sigmoid(self, x: Array) -> Array: ...
    def decay(self, a: Array, rate: Array, bias: Array) -> Array: ...
    def softcap(self, x: Array, cap: float) -> Array: ...
    def moe_route(self, logits: Array, top_k: int, *, normalise: bool) -> tuple[NDArray[np.int64], Array]: ...


class FloatLinears:
    """The products computed here, in the precision of the `ops`. Weights stay as the checkpoint has them."""

    def __init__(self, spec: DecoderSpec, tensors: Mapping[str, Tensor], ops: Ops, layers: range | None = None) -> None:
        self.ops = ops
        loaded: dict[str, Array] = {}  # tied weights are loaded once
        self.weights: dict[tuple[Site, int, int], list[Array]] = {}
        for site, layer, expert in stage_sites(spec, layers):
            names = spec.site_tensors(site, layer, expert)
            for name in names:
                if name not in loaded:
                    loaded[name] = ops.load(tensors[name])
            self.weights[site, layer, expert] = [loaded[name] for name in names]

    def __call__(self, site: Site, layer: int, expert: int, rows: Array) -> Array:
        return self.ops.concat([self.ops.linear(rows, weight) for weight in self.weights[site, layer, expert]])


class ReferenceDecoder:
    """Runs a DecoderSpec; an Executor (see cutset.models.run.executor), or with `layers` a StageExecutor, whose
    `linears` need the products of these layers only."""

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        ops: Ops,
        linears: Linears,
        layers: range | None = None,  # those that run here; None: all
    ) -> None:
        self.spec, self.ops, self.linears, self.rope = spec, ops, linears, Rope(spec)
        self._channels = channel_scales(spec, tensors)
        self.layers = range(spec.layers) if layers is None else layers
        check_stage(spec, self.layers)
        self.parameters: dict[tuple[str, int], Array] = {}
        for (role, layer), names in stage_glue(spec, self.layers).items():
            value = stage_part(spec, self.layers, role, ops.concat([ops.load(tensors[name]) for name in names]))
            self.parameters[role, layer] = value + spec.norm_offset if role.endswith("_norm") else value
        for layer in set(spec.attention_layers).intersection(self.layers) if spec.v_norm else ():
            self.parameters["v_norm", layer] = ops.floats(np.ones(spec.heads_of(layer).head_dim, np.float32))

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> KVCache:
        """Room for keys and values of `blocks` blocks of `block_size` tokens, and for `states` states of sequences."""
        states = blocks if states is None else states
        return self.ops.new_cache(self.spec, self.layers, blocks, block_size, states, kv_dtype)

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """Loads an adapter's matrices: the parts of each site, as (first output, down, up, scale)."""
        adapter = fitted(adapter, self._channels, in_bytes=in_bytes)
        handle: dict[tuple[str, int, int], list[tuple[int, Array, Array, float]]] = {}
        for part in stage_parts(self.spec, self.layers, adapter.parts):
            pair = self.ops.floats(part.down), self.ops.floats(part.whole_up)
            handle.setdefault((part.site, part.layer, part.expert), []).append((part.first, *pair, part.scale))
        return LoadedAdapter(adapter.name, adapter.digest, handle)

    def forward(
        self,
        batch: Batch,
        cache: KVCache,
        trace: Trace | None = None,
        *,
        hidden: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Runs the rows of a batch; logits (wanted, vocab). A stage takes `hidden` and gives it: see StageExecutor."""
        with self.ops.inference():
            return self._forward(batch, cache, trace or _no_trace, hidden)

    def final_hidden(
        self, batch: Batch, cache: KVCache, *, hidden: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """See Executor and StageExecutor."""
        with self.ops.inference():
            return self._forward(batch, cache, _no_trace, hidden, head=False)

    def _forward(
        self, batch: Batch, cache: KVCache, trace: Trace, hidden: NDArray[np.float32] | None, *, head: bool = True
    ) -> NDArray[np.float32]:
        ops, spec = self.ops, self.spec
        cos, sin = self.rope.rows(batch.positions, batch.row_starts, batch.limits)  # (tables, rows, pairs)
        turned = zip(cos, sin, spec.rotary_dims, strict=True)
        turns = [(ops.floats(c[:, : size // 2]), ops.floats(s[:, : size // 2])) for c, s, size in turned]
        scales = query_scales(spec, batch.positions)
        q_scales = None if scales is None else ops.floats(scales[:, None, None])
        adapted = _Adapted.of(batch)
        x, told = self._entered(batch, hidden, adapted, trace)  # (rows, hidden)
        for layer in self.layers:
            table = spec.rope_table(layer)
            turn = turns[table] if table >= 0 else None
            mixed = self._mixed(layer, x, turn, q_scales, batch, cache, adapted, trace)
            x = x + self._given("attention_output_norm", layer, mixed)
            trace("attention_add", layer, x)
            h = self._taken("mlp_norm", layer, x)
            trace("mlp_norm", layer, h)
            sparse = layer in spec.sparse_layers
            y = self._experts(layer, x, h, adapted, trace) if sparse else self._mlp(layer, -1, h, adapted, trace)
            x = x + self._given("mlp_output_norm", layer, y)
            if told is not None:
                trace("mlp_add", layer, x)
                x = x + self._layer_input(layer, x, told, adapted)
            if spec.layer_scales:
                x = x * self.parameters["layer_scale", layer]
            trace("mlp_add" if told is None else "layer_add", layer, x)
        if self.layers.stop < spec.layers:
            return ops.to_numpy(x).astype(np.float32, copy=False)
        x = ops.rms_norm(ops.take(x, batch.logit_rows), self.parameters["final_norm", -1], spec.norm_eps)
        trace("final_norm", -1, x)
        if not head:
            return ops.to_numpy(x).astype(np.float32, copy=False)
        adapted = adapted.take(batch.logit_rows)
        logits = adapted.add(ops, "lm_head", -1, -1, x, self.linears("lm_head", -1, -1, x))
        logits = _scaled(logits, spec.logit_scale)
        if spec.logit_softcap:
            logits = ops.softcap(logits, spec.logit_softcap)
        trace("lm_head", -1, logits)
        return ops.to_numpy(logits).astype(np.float32, copy=False)

    def _entered(
        self, batch: Batch, hidden: NDArray[np.float32] | None, adapted: _Adapted, trace: Trace
    ) -> tuple[Array, Array | None]:
        """The residual stream as it comes to the layers here, and what they are told of the rows' tokens."""
        if (hidden is None) != (self.layers.start == 0):
            raise ValueError("the first stage takes tokens, the others what the one before gave")
        table = self.parameters.get(("embedding", -1))
        tokens = (
            None if table is None else _scaled(self.ops.embedding(table, batch.token_ids), self.spec.embedding_scale)
        )
        told = self._layer_inputs(tokens, batch, adapted)
        if hidden is not None:
            return self.ops.floats(hidden), told
        trace("embedding", -1, tokens)
        return tokens, told

    def _layer_inputs(self, x: Array, batch: Batch, adapted: _Adapted) -> Array | None:
        """What the layers here are told of the rows' tokens, whose embedding is x: (rows, layers, width)."""
        inputs, ops = self.spec.layer_inputs, self.ops
        if inputs is None:
            return None
        shape = (-1, len(self.layers), inputs.width)
        product = ops.linear(x, self.parameters["layer_product", -1])
        product = adapted.add(ops, "layer_product", -1, -1, x, product) * inputs.product_scale
        product = ops.rms_norm(product.reshape(shape), self.parameters["layer_product_norm", -1], self.spec.norm_eps)
        own = ops.embedding(self.parameters["layer_embedding", -1], batch.token_ids).reshape(shape)
        return (product + own * inputs.embedding_scale) * inputs.scale

    def _layer_input(self, layer: int, x: Array, told: Array, adapted: _Adapted) -> Array:
        """What a layer adds at its end by what it is told."""
        ops = self.ops
        gate = adapted.add(ops, "layer_gate", layer, -1, x, ops.linear(x, self.parameters["layer_gate", layer]))
        active = ops.gated(ops.concat([gate, told[:, layer - self.layers.start]]), self.spec)
        out = ops.linear(active, self.parameters["layer_out", layer])
        return self._taken("layer_output_norm", layer, adapted.add(ops, "layer_out", layer, -1, active, out))

    def _taken(self, norm: str, layer: int, x: Array) -> Array:
        """What attention or MLP takes of the residual stream."""
        gain = self.parameters.get((norm, layer))
        return x if gain is None else self.ops.rms_norm(x, gain, self.spec.norm_eps)

    def _given(self, norm: str, layer: int, y: Array) -> Array:
        """What is added to the residual stream of that which attention or MLP gives."""
        return _scaled(self._taken(norm, layer, y), self.spec.residual_scale)

    def _product(self, site: Site, layer: int, expert: int, rows: Array, adapted: _Adapted) -> Array:
        """A site's product with what adapters add, and its biases, which stay with the glue."""
        y = adapted.add(self.ops, site, layer, expert, rows, self.linears(site, layer, expert, rows))
        bias = self.parameters.get((f"{self.spec.role(site, expert, layer)}_bias", layer))
        if bias is None:
            return y
        return y + (bias if expert < 0 else bias[expert])

    def _mixed(
        self,
        layer: int,
        x: Array,
        turn: tuple[Array, Array] | None,
        q_scales: Array | None,
        batch: Batch,
        cache: KVCache,
        adapted: _Adapted,
        trace: Trace,
    ) -> Array:
        """What attention, or a recurrence in its place, gives."""
        h = self._taken("attention_norm", layer, x)
        mixer = self.spec.mixer(layer)
        if mixer is not None:
            h = unpadded(h, batch, self.ops)
        trace("attention_norm", layer, h)
        qkv = self._product("qkv", layer, -1, h, adapted)  # (rows, qkv_parts), or what a mixer takes
        trace("qkv", layer, qkv)
        if mixer is None:
            mixed = self._attention(layer, qkv, turn, q_scales, batch, cache, trace)  # (rows, q_size)
        else:
            mixed = recur(mixer, layer, qkv, batch, cache, self.ops, self.parameters, self.spec.norm_eps)
        trace("attention", layer, mixed)
        out = self._product("o", layer, -1, mixed, adapted)
        trace("o", layer, out)
        return out

    def _attention(
        self,
        layer: int,
        qkv: Array,
        turn: tuple[Array, Array] | None,
        q_scales: Array | None,
        batch: Batch,
        cache: KVCache,
        trace: Trace,
    ) -> Array:
        ops, spec, sizes = self.ops, self.spec, self.spec.heads_of(layer)
        edge = spec.qkv_parts(layer)[0]
        q, kv, gates = qkv[:, :edge], qkv[:, edge:], None
        if spec.gated_attention:  # [q | gate] of each head
            pairs = q.reshape(-1, spec.heads, 2 * sizes.head_dim)
            gates = pairs[:, :, sizes.head_dim :].reshape(-1, sizes.q_size)
            q = pairs[:, :, : sizes.head_dim].reshape(-1, sizes.q_size)
        q = self._turned("q_norm", layer, q, turn)
        if q_scales is not None:
            q = q * q_scales
        trace("rope_q", layer, q.reshape(-1, sizes.q_size))
        k = v = None
        if spec.kv_layer(layer) == layer:
            k = kv[:, : sizes.kv_size]
            v = k if layer in spec.equal_kv_layers else kv[:, sizes.kv_size :]
            v = self._taken("v_norm", layer, v.reshape(-1, sizes.kv_heads, sizes.head_dim))
            k = self._turned("k_norm", layer, k, turn)
            trace("rope_k", layer, k.reshape(-1, sizes.kv_size))
        sinks = self.parameters.get(("sinks", layer))
        mixed = ops.attend(q, k, v, layer, batch, cache, spec, sinks)
        return mixed if gates is None else mixed * ops.sigmoid(gates)

    def _turned(self, norm: str, layer: int, x: Array, turn: tuple[Array, Array] | None) -> Array:
        """q or k with its norm and rotary embedding, (rows, heads, head_dim)."""
        size = self.spec.heads_of(layer).head_dim
        if self.spec.whole_norms:
            x = self._taken(norm, layer, x).reshape(-1, x.shape[-1] // size, size)
        else:
            x = self._taken(norm, layer, x.reshape(-1, x.shape[-1] // size, size))
        return x if turn is None else self.ops.apply_rope(x, *turn, interleaved=self.spec.rope_interleaved)

    def _mlp(self, layer: int, expert: int, h: Array, adapted: _Adapted, trace: Trace) -> Array:
        label = "" if expert < 0 else f".{expert}"
        gate_up = self._product("gate_up", layer, expert, h, adapted)  # (rows, 2 * intermediate)
        trace(f"gate_up{label}", layer, gate_up)
        active = self.ops.gated(gate_up, self.spec)
        trace(f"swiglu{label}", layer, active)
        out = self._product("down", layer, expert, active, adapted)
        trace(f"down{label}", layer, out)
        return out

    def _experts(self, layer: int, x: Array, h: Array, adapted: _Adapted, trace: Trace) -> Array:
        ops, moe = self.ops, self.spec.moe
        assert moe is not None
        told, taken = (self._taken(f"{part}_norm", layer, x) if moe.own_norms else h for part in ("router", "expert"))
        logits = _scaled(ops.linear(told, self.parameters["router", layer]), moe.router_scale)  # (rows, experts)
        if (bias := self.parameters.get(("router_bias", layer))) is not None:
            logits = logits + bias
        trace("router", layer, logits)
        picked, weights = ops.moe_route(logits, moe.top_k, normalise=moe.normalise)
        if moe.own_norms:
            weights = weights * ops.take(self.parameters["expert_scale", layer], picked)
        out = h * 0
        for expert in range(moe.experts):  # in ascending order for every row, whoever shares the batch
            rows, place = np.nonzero(picked == expert)
            if len(rows):
                y = self._mlp(layer, expert, ops.take(taken, rows), adapted.take(rows), trace)
                ops.add_at(out, rows, weights[rows, place], y)
        out = self._taken("expert_output_norm", layer, out)
        gates = ops.sigmoid(ops.linear(h, self.parameters["shared_gate", layer])) if moe.shared_gate else None
        for number in range(moe.shared):
            y = self._mlp(layer, moe.experts + number, h, adapted, trace)
            y = self._taken("shared_output_norm", layer, y)
            out = out + (y if gates is None else y * gates[:, number : number + 1])
        trace("experts", layer, out)
        return out


class _Adapted:
    """Which adapter each row of a product has."""

    def __init__(self, adapters: list[LoadedAdapter | None]) -> None:
        self.adapters = adapters  # (rows,), or empty

    @classmethod
    def of(cls, batch: Batch) -> _Adapted:
        counts = np.diff(batch.row_starts)
        return cls([one for one, count in zip(batch.adapters, counts, strict=False) for _ in range(count)])

    def take(self, rows: NDArray[np.integer]) -> _Adapted:
        """Of some of the rows."""
        return _Adapted([self.adapters[row] for row in rows]) if self.adapters else self

    def add(self, ops: Ops, site: str, layer: int, expert: int, x: Array, y: Array) -> Array:
        """y (rows, outputs) with what the rows' adapters add to the product of x (rows, inputs)."""
        for adapter in {id(one): one for one in self.adapters if one is not None}.values():
            rows = np.array([row for row, one in enumerate(self.adapters) if one is adapter])
            for first, down, up, scale in adapter.handle.get((site, layer, expert), ()):
                more = ops.linear(ops.linear(ops.take(x, rows), down), up)
                y[rows, first : first + more.shape[-1]] += scale * more
        return y


def _scaled(x: Array, factor: float) -> Array:
    return x if factor == 1.0 else x * factor


def _no_trace(name: str, layer: int, value: Array) -> None:
    pass
