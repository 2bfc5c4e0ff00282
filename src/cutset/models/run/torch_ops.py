"""The reference executor's kernels over torch tensors: CUDA, float16 and bfloat16."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cutset.errors import DeviceError
from cutset.models.files.checkpoint import Tensor
from cutset.models.run.executor import Batch
from cutset.models.spec import DecoderSpec

__all__ = ["DTYPES", "TorchCache", "TorchOps", "torch_device"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N` as a device that is there. Raises DeviceError otherwise."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"device {name!r}: torch {torch.__version__} sees no CUDA device here; use --device cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return torch.device("cuda", index)


class TorchCache:
    """Keys and values, (2, blocks * block_size, kv_heads, head_dim), and states, (slots, floats), of each of
    `layers` that has such. In 8 bits they are codes, and `scales` has the same shape without head_dim."""

    def __init__(
        self,
        spec: DecoderSpec,
        layers: range,
        blocks: int,
        block_size: int,
        states: int,
        ops: TorchOps,
        kv_dtype: str = "auto",
    ) -> None:
        self.blocks, self.block_size, self.dtype = blocks, block_size, ops.dtype
        self.data: dict[int, torch.Tensor] = {}
        self.scales: dict[int, torch.Tensor] = {}
        for layer in (one for one in spec.attention_layers if one in layers):
            heads = spec.heads_of(layer)
            shape = (2, blocks * block_size, heads.kv_heads, heads.head_dim)
            dtype = torch.int8 if kv_dtype == "int8" else ops.dtype
            self.data[layer] = torch.zeros(shape, dtype=dtype, device=ops.device)
            if kv_dtype == "int8":
                self.scales[layer] = torch.zeros(shape[:-1], dtype=torch.float32, device=ops.device)
        size = spec.recurrent.state if spec.recurrent is not None else 0
        self.states = {
            layer: torch.zeros((states, size), dtype=torch.float32, device=ops.device)
            for layer in layers
            if layer in spec.recurrent_layers
        }
        stores = [*self.data.values(), *self.scales.values(), *self.states.values()]
        self.nbytes = sum(one.nbytes for one in stores)

    def block(self, number: int) -> list[NDArray[np.uint8]]:
        """See cutset.models.run.executor.KVCache. Raises DeviceError where the cache isn't in this machine's memory."""
        if any(data.device.type != "cpu" for data in self.data.values()):
            raise DeviceError("the blocks of a cache on a GPU can't be read here")
        parts = [*self.data.values(), *self.scales.values()]
        tokens = slice(number * self.block_size, (number + 1) * self.block_size)
        return [one[tokens].reshape(-1).view(torch.uint8).numpy() for part in parts for one in part]

    def write(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keys and values (rows, kv_heads, head_dim) of an attention layer go where `slots` (rows,) says."""
        for part, x in enumerate((k, v)):
            if not self.scales:
                self.data[layer][part][slots] = x
            else:
                self.data[layer][part][slots], self.scales[layer][part][slots] = _quantize_heads(x)

    def read(self, layer: int, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (tokens, kv_heads, head_dim) that `write` put there, in the dtype of the rest."""
        keys, values = self.data[layer][0][slots], self.data[layer][1][slots]
        if not self.scales:
            return keys, values
        scales = self.scales[layer][:, slots, :, None]  # (2, tokens, kv_heads, 1)
        return (keys * scales[0]).to(self.dtype), (values * scales[1]).to(self.dtype)


class TorchOps:
    """See cutset.models.run.decoder.Ops."""

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        self.device, self.dtype = torch_device(device), DTYPES[dtype]
        self._loaded: dict[str, torch.Tensor] = {}  # a tied embedding is asked for twice and kept once

    def inference(self) -> AbstractContextManager[None]:
        return torch.inference_mode()

    def load(self, tensor: Tensor) -> torch.Tensor:
        if tensor.name not in self._loaded:
            self._loaded[tensor.name] = self._load(tensor)
        return self._loaded[tensor.name]

    def _load(self, tensor: Tensor) -> torch.Tensor:
        with warnings.catch_warnings():  # the mapped file is read-only, and nothing here writes to a weight
            warnings.simplefilter("ignore", UserWarning)
            raw = torch.from_numpy(tensor.raw)
        if tensor.dtype == "BF16":
            raw = raw.view(torch.bfloat16)
        return raw.to(device=self.device, dtype=self.dtype)

    def floats(self, values: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values).to(device=self.device, dtype=self.dtype)

    def to_numpy(self, x: torch.Tensor) -> NDArray[Any]:
        array: NDArray[Any] = x.float().cpu().numpy()
        return array

    def _indices(self, values: NDArray[np.integer]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self.device)

    def new_cache(
        self, spec: DecoderSpec, layers: range, blocks: int, block_size: int, states: int, kv_dtype: str
    ) -> TorchCache:
        return TorchCache(spec, layers, blocks, block_size, states, self, kv_dtype)

    def embedding(self, table: torch.Tensor, ids: NDArray[np.int32]) -> torch.Tensor:
        return table[self._indices(ids)]

    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)

    def concat(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def take(self, x: torch.Tensor, rows: NDArray[np.integer]) -> torch.Tensor:
        return x[self._indices(rows)]

    def add_at(self, x: torch.Tensor, rows: NDArray[np.integer], weights: torch.Tensor, y: torch.Tensor) -> None:
        x.index_add_(0, self._indices(rows), weights[:, None].to(y.dtype) * y)

    def rms_norm(self, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()  # the mean of squares overflows in float16
        return gain * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)

    def apply_rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
        turned = 2 * cos.shape[-1]
        cos, sin = cos[:, None, :], sin[:, None, :]
        if interleaved:
            first, second = x[..., 0:turned:2], x[..., 1:turned:2]
            pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
            return torch.cat([pairs, x[..., turned:]], dim=-1)
        first, second = x[..., :turned].chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, x[..., turned:]], dim=-1)

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: int,
        batch: Batch,
        cache: TorchCache,
        spec: DecoderSpec,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        if cache.scales:
            q, k = _mix_heads(q.float()).to(q.dtype), None if k is None else _mix_heads(k.float())
        if k is not None and v is not None:
            cache.write(layer, self._indices(batch.slots(cache.block_size)), k, v)
        parts = []
        for i in range(len(batch.context_lens)):
            own = slice(int(batch.row_starts[i]), int(batch.row_starts[i + 1]))
            past = self._indices(batch.context_slots(i, cache.block_size))
            seen = self._seen(batch, i, own.stop - own.start, spec.window(layer))
            qs, ks, vs = (x.transpose(0, 1)[None] for x in (q[own], *cache.read(spec.kv_layer(layer), past)))
            scale = spec.score_scale(layer)
            if spec.attention_softcap or sinks is not None:
                mixed = _plain_attention(qs, ks, vs, seen, scale, spec.attention_softcap, sinks)
            else:
                mixed = F.scaled_dot_product_attention(qs, ks, vs, attn_mask=seen, enable_gqa=True, scale=scale)
            if batch.key_mask is not None and seen is not None:  # a row that sees nothing is NaN in some kernels
                mixed = torch.where(seen.any(-1)[:, None], mixed, 0)
            parts.append(mixed[0].transpose(0, 1).reshape(own.stop - own.start, -1))
        return torch.cat(parts)

    def _seen(self, batch: Batch, i: int, rows: int, window: int) -> torch.Tensor | None:
        tokens = int(batch.context_lens[i])
        if rows == 1 and not window and batch.key_mask is None:
            return None
        query = torch.arange(tokens - rows, tokens, device=self.device)[:, None]
        key = torch.arange(tokens, device=self.device)[None, :]
        seen = key <= query
        if window:
            seen &= key > query - window
        if batch.key_mask is not None:
            seen &= torch.from_numpy(batch.key_mask[i, :tokens]).to(self.device)
        return seen

    def wide(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()

    def narrow(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)

    def sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def decay(self, a: torch.Tensor, rate: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.exp(rate) * F.softplus(a + bias))

    def gated(self, gate_up: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
        """The activation of rows [gate | up]: (rows, 2 · n) to (rows, n)."""
        gate, up = gate_up.chunk(2, dim=-1)
        if spec.activation == "clamped":
            limit = spec.activation_limit
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            return gate * torch.sigmoid(spec.activation_alpha * gate) * (up + 1)
        if spec.activation in ("relu", "relu2"):
            gate = F.relu(gate)
            return (gate * gate if spec.activation == "relu2" else gate) * up
        if spec.activation == "silu":
            return F.silu(gate) * up
        return F.gelu(gate, approximate="none" if spec.activation == "gelu_erf" else "tanh") * up

    def softcap(self, x: torch.Tensor, cap: float) -> torch.Tensor:
        return cap * torch.tanh(x / cap)

    def moe_route(self, logits: torch.Tensor, top_k: int, *, normalise: bool) -> tuple[NDArray[np.int64], torch.Tensor]:
        scores = torch.softmax(logits.float(), dim=-1)
        picked = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
        weights = torch.gather(scores, 1, picked)
        if normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return picked.cpu().numpy(), weights


def _mix_heads(x: torch.Tensor) -> torch.Tensor:
    """cutset.kernels.reference.mix_heads over torch."""
    run = min(x.shape[-1] & -x.shape[-1], 128)
    parts = x.reshape(*x.shape[:-1], -1, run)
    for _ in range(run.bit_length() - 1):
        first, second = parts[..., : run // 2], parts[..., run // 2 :]
        parts = torch.stack([first + second, first - second], dim=-1).reshape(parts.shape)
    return parts.mul(run**-0.5).reshape(x.shape)


def _quantize_heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cutset.kernels.reference.quantize_heads over torch."""
    wide = x.float()
    most = wide.abs().amax(-1)
    scales = most / 127
    scales = torch.where(scales < torch.finfo(torch.float32).tiny, 0, scales)
    scales = torch.where(torch.isfinite(most), scales, torch.nan)
    codes = wide / torch.where(scales > 0, scales, torch.inf)[..., None]
    return torch.where(scales[..., None] > 0, codes.round(), 0).to(torch.int8), scales


def _plain_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float,
    cap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with what torch's own doesn't know: limited scores, and a score of nothing for each head.

    q: (1, heads, rows, d); keys, values: (1, kv_heads, tokens, d); sinks: (heads,)
    """
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scores = (q @ keys.transpose(-1, -2)).float() * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.float()[None, :, None, None].expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values
