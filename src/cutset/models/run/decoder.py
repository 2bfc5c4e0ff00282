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

from cutset.models.files.checkpoint import Tensor
from cutset.models.run.executor import Batch, KVCache
from cutset.models.run.rope import Rope
from cutset.models.spec import DecoderSpec, Site

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
    def new_cache(self, spec: DecoderSpec, blocks: int, block_size: int) -> KVCache: ...
    def embedding(self, table: Array, ids: NDArray[np.int32]) -> Array: ...
    def linear(self, x: Array, weight: Array) -> Array: ...
    def concat(self, parts: list[Array]) -> Array: ...
    def take(self, x: Array, rows: NDArray[np.integer]) -> Array: ...
    def add_at(self, x: Array, rows: NDArray[np.integer], weights: Array, y: Array) -> None: ...
    def rms_norm(self, x: Array, gain: Array, eps: float) -> Array: ...
    def apply_rope(self, x: Array, cos: Array, sin: Array) -> Array: ...
    def attend(self, q: Array, k: Array, v: Array, layer: int, batch: Batch, cache: Any, window: int) -> Array: ...
    def silu_mul(self, gate_up: Array) -> Array: ...
    def moe_route(self, logits: Array, top_k: int, *, normalise: bool) -> tuple[NDArray[np.int64], Array]: ...


class FloatLinears:
    """The products computed here, in the precision of the `ops`. Weights stay as the checkpoint has them."""

    def __init__(self, spec: DecoderSpec, tensors: Mapping[str, Tensor], ops: Ops) -> None:
        self.ops = ops
        loaded: dict[str, Array] = {}  # tied weights are loaded once
        self.weights: dict[tuple[Site, int, int], list[Array]] = {}
        for site, layer, expert in spec.sites():
            names = spec.site_tensors(site, layer, expert)
            for name in names:
                if name not in loaded:
                    loaded[name] = ops.load(tensors[name])
            self.weights[site, layer, expert] = [loaded[name] for name in names]

    def __call__(self, site: Site, layer: int, expert: int, rows: Array) -> Array:
        return self.ops.concat([self.ops.linear(rows, weight) for weight in self.weights[site, layer, expert]])


class ReferenceDecoder:
    """Runs a DecoderSpec; an Executor (see cutset.models.run.executor)."""

    def __init__(self, spec: DecoderSpec, tensors: Mapping[str, Tensor], ops: Ops, linears: Linears) -> None:
        self.spec, self.ops, self.linears, self.rope = spec, ops, linears, Rope(spec)
        self.parameters: dict[tuple[str, int], Array] = {
            key: ops.concat([ops.load(tensors[name]) for name in names]) for key, names in spec.glue().items()
        }

    def new_cache(self, blocks: int, block_size: int) -> KVCache:
        """Room for keys and values of `blocks` blocks of `block_size` tokens."""
        return self.ops.new_cache(self.spec, blocks, block_size)

    def forward(self, batch: Batch, cache: KVCache, trace: Trace | None = None) -> NDArray[np.float32]:
        """Runs the rows of a batch; logits (wanted, vocab)."""
        with self.ops.inference():
            return self._forward(batch, cache, trace or _no_trace)

    def _forward(self, batch: Batch, cache: KVCache, trace: Trace) -> NDArray[np.float32]:
        ops, spec = self.ops, self.spec
        cos, sin = self.rope.rows(batch.positions, batch.row_starts, batch.limits)
        turn = ops.floats(cos), ops.floats(sin)
        x = ops.embedding(self.parameters["embedding", -1], batch.token_ids)  # (rows, hidden)
        trace("embedding", -1, x)
        for layer in range(spec.layers):
            x = x + self._attention(layer, x, turn, batch, cache, trace)
            trace("attention_add", layer, x)
            h = ops.rms_norm(x, self.parameters["mlp_norm", layer], spec.norm_eps)
            trace("mlp_norm", layer, h)
            x = x + (self._experts(layer, h, trace) if layer in spec.sparse_layers else self._mlp(layer, -1, h, trace))
            trace("mlp_add", layer, x)
        x = ops.rms_norm(ops.take(x, batch.logit_rows), self.parameters["final_norm", -1], spec.norm_eps)
        trace("final_norm", -1, x)
        logits = self.linears("lm_head", -1, -1, x)
        trace("lm_head", -1, logits)
        return ops.to_numpy(logits).astype(np.float32, copy=False)

    def _product(self, site: Site, layer: int, expert: int, rows: Array) -> Array:
        """A site's product and its biases, which stay with the glue."""
        y = self.linears(site, layer, expert, rows)
        bias = self.parameters.get((f"{site}_bias", layer)) if expert < 0 else None
        return y if bias is None else y + bias

    def _attention(
        self, layer: int, x: Array, turn: tuple[Array, Array], batch: Batch, cache: KVCache, trace: Trace
    ) -> Array:
        ops, spec = self.ops, self.spec
        h = ops.rms_norm(x, self.parameters["attention_norm", layer], spec.norm_eps)
        trace("attention_norm", layer, h)
        qkv = self._product("qkv", layer, -1, h)  # (rows, q_size + 2 * kv_size)
        trace("qkv", layer, qkv)
        edges = spec.q_size, spec.q_size + spec.kv_size
        q = qkv[:, : edges[0]].reshape(-1, spec.heads, spec.head_dim)
        k = qkv[:, edges[0] : edges[1]].reshape(-1, spec.kv_heads, spec.head_dim)
        v = qkv[:, edges[1] :].reshape(-1, spec.kv_heads, spec.head_dim)
        if spec.qk_norm:
            q = ops.rms_norm(q, self.parameters["q_norm", layer], spec.norm_eps)
            k = ops.rms_norm(k, self.parameters["k_norm", layer], spec.norm_eps)
        q, k = ops.apply_rope(q, *turn), ops.apply_rope(k, *turn)
        trace("rope_q", layer, q.reshape(-1, spec.q_size))
        trace("rope_k", layer, k.reshape(-1, spec.kv_size))
        mixed = ops.attend(q, k, v, layer, batch, cache, spec.window(layer))  # (rows, q_size)
        trace("attention", layer, mixed)
        out = self._product("o", layer, -1, mixed)
        trace("o", layer, out)
        return out

    def _mlp(self, layer: int, expert: int, h: Array, trace: Trace) -> Array:
        label = "" if expert < 0 else f".{expert}"
        gate_up = self._product("gate_up", layer, expert, h)  # (rows, 2 * intermediate)
        trace(f"gate_up{label}", layer, gate_up)
        active = self.ops.silu_mul(gate_up)
        trace(f"swiglu{label}", layer, active)
        out = self._product("down", layer, expert, active)
        trace(f"down{label}", layer, out)
        return out

    def _experts(self, layer: int, h: Array, trace: Trace) -> Array:
        ops, moe = self.ops, self.spec.moe
        assert moe is not None
        logits = ops.linear(h, self.parameters["router", layer])  # (rows, experts)
        trace("router", layer, logits)
        picked, weights = ops.moe_route(logits, moe.top_k, normalise=moe.normalise)
        out = h * 0
        for expert in range(moe.experts):  # in ascending order for every row, whoever shares the batch
            rows, place = np.nonzero(picked == expert)
            if len(rows):
                ops.add_at(out, rows, weights[rows, place], self._mlp(layer, expert, ops.take(h, rows), trace))
        for expert in range(moe.experts, moe.experts + moe.shared):
            out = out + self._mlp(layer, expert, h, trace)
        trace("experts", layer, out)
        return out


def _no_trace(name: str, layer: int, value: Array) -> None:
    pass
