"""The reference executor's kernels over numpy arrays, in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import reference
from cutset.models.files.checkpoint import Tensor
from cutset.models.run.executor import Batch
from cutset.models.spec import DecoderSpec

__all__ = ["NumpyCache", "NumpyOps"]

Floats = NDArray[np.float32]


class NumpyCache:
    """Keys and values, (2, blocks * block_size, kv_heads, head_dim), and states, (slots, floats), of each of
    `layers` that has such. In 8 bits they are codes, and `scales` has the same shape without head_dim."""

    def __init__(
        self, spec: DecoderSpec, layers: range, blocks: int, block_size: int, states: int, kv_dtype: str = "auto"
    ) -> None:
        self.blocks, self.block_size = blocks, block_size
        # Zeros, which cost no memory until a page is written: long caches are left to the operating system.
        int8 = kv_dtype == "int8"
        self.data: dict[int, NDArray[Any]] = {}
        self.scales: dict[int, Floats] = {}
        for layer in (one for one in spec.attention_layers if one in layers):
            heads = spec.heads_of(layer)
            shape = (2, blocks * block_size, heads.kv_heads, heads.head_dim)
            self.data[layer] = np.zeros(shape, dtype=np.int8 if int8 else np.float32)
            if int8:
                self.scales[layer] = np.zeros(shape[:-1], dtype=np.float32)
        size = spec.recurrent.state if spec.recurrent is not None else 0
        self.states: dict[int, Floats] = {
            layer: np.zeros((states, size), dtype=np.float32) for layer in layers if layer in spec.recurrent_layers
        }
        stores = [*self.data.values(), *self.scales.values(), *self.states.values()]
        self.nbytes = sum(one.nbytes for one in stores)

    def block(self, number: int) -> list[NDArray[np.uint8]]:
        """See cutset.models.run.executor.KVCache."""
        parts = [*self.data.values(), *self.scales.values()]
        tokens = slice(number * self.block_size, (number + 1) * self.block_size)
        return [one[tokens].reshape(-1).view(np.uint8) for part in parts for one in part]

    def write(self, layer: int, slots: NDArray[np.int64], k: Floats, v: Floats) -> None:
        """Keys and values (rows, kv_heads, head_dim) of an attention layer go where `slots` (rows,) says."""
        for part, x in enumerate((k, v)):
            if not self.scales:
                self.data[layer][part, slots] = x
            else:
                self.data[layer][part, slots], self.scales[layer][part, slots] = reference.quantize_heads(x)

    def read(self, layer: int, slots: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Keys and values (tokens, kv_heads, head_dim) that `write` put there, as floats."""
        keys, values = self.data[layer][0, slots], self.data[layer][1, slots]
        if not self.scales:
            return keys, values
        scales = self.scales[layer][:, slots, :, None]  # (2, tokens, kv_heads, 1)
        return keys * scales[0], values * scales[1]


class NumpyOps:
    """See cutset.models.run.decoder.Ops."""

    def inference(self) -> AbstractContextManager[None]:
        return nullcontext()

    def load(self, tensor: Tensor) -> Floats:
        return tensor.float32()

    def floats(self, values: Floats) -> Floats:
        return values

    def to_numpy(self, x: Floats) -> Floats:
        return x

    def new_cache(
        self, spec: DecoderSpec, layers: range, blocks: int, block_size: int, states: int, kv_dtype: str
    ) -> NumpyCache:
        return NumpyCache(spec, layers, blocks, block_size, states, kv_dtype)

    def embedding(self, table: Floats, ids: NDArray[np.int32]) -> Floats:
        return reference.embedding(table, ids)

    def linear(self, x: Floats, weight: Floats) -> Floats:
        product: Floats = x @ weight.T
        return product

    def concat(self, parts: list[Floats]) -> Floats:
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def take(self, x: Floats, rows: NDArray[np.integer]) -> Floats:
        taken: Floats = x[rows]
        return taken

    def add_at(self, x: Floats, rows: NDArray[np.integer], weights: Floats, y: Floats) -> None:
        x[rows] += weights[:, None] * y  # an expert gets a row once, so no row stands there twice

    def rms_norm(self, x: Floats, gain: Floats, eps: float) -> Floats:
        return reference.rms_norm(x, gain, eps)

    def apply_rope(self, x: Floats, cos: Floats, sin: Floats, *, interleaved: bool) -> Floats:
        return reference.apply_rope(x, cos, sin, interleaved=interleaved)

    def attend(
        self,
        q: Floats,
        k: Floats | None,
        v: Floats | None,
        layer: int,
        batch: Batch,
        cache: NumpyCache,
        spec: DecoderSpec,
        sinks: Any,
    ) -> Floats:
        if cache.scales:
            q, k = reference.mix_heads(q), None if k is None else reference.mix_heads(k)
        if k is not None and v is not None:
            cache.write(layer, batch.slots(cache.block_size), k, v)
        parts = []
        for i in range(len(batch.context_lens)):
            own = slice(int(batch.row_starts[i]), int(batch.row_starts[i + 1]))
            past = batch.context_slots(i, cache.block_size)
            mask = None if batch.key_mask is None else batch.key_mask[i, : len(past)]
            options: dict[str, Any] = {"window": spec.window(layer), "key_mask": mask}
            options |= {"scale": spec.score_scale(layer), "softcap": spec.attention_softcap, "sinks": sinks}
            parts.append(reference.attention(q[own], *cache.read(spec.kv_layer(layer), past), **options))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def wide(self, x: Floats) -> Floats:
        return x

    def narrow(self, x: Floats) -> Floats:
        return x

    def silu(self, x: Floats) -> Floats:
        return reference.silu(x)

    def sigmoid(self, x: Floats) -> Floats:
        return reference.sigmoid(x)

    def decay(self, a: Floats, rate: Floats, bias: Floats) -> Floats:
        return reference.decay(a, rate, bias)

    def gated(self, gate_up: Floats, spec: DecoderSpec) -> Floats:
        """The activation of rows [gate | up]: (rows, 2 · n) to (rows, n)."""
        if spec.activation == "clamped":
            return reference.clamped_mul(gate_up, spec.activation_limit, spec.activation_alpha)
        if spec.activation in ("relu", "relu2"):
            return reference.relu_mul(gate_up, squared=spec.activation == "relu2")
        usual = {"silu": reference.silu_mul, "gelu_tanh": reference.gelu_mul, "gelu_erf": reference.gelu_erf_mul}
        return usual[spec.activation](gate_up)

    def softcap(self, x: Floats, cap: float) -> Floats:
        return reference.soft_capped(x, cap)

    def moe_route(self, logits: Floats, top_k: int, *, normalise: bool) -> tuple[NDArray[np.int64], Any]:
        return reference.moe_route(logits, top_k, normalise=normalise)
