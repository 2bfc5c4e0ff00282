"""A numpy reference of every kernel, written to be read. The native kernels are tested against these."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "apply_rope",
    "attention",
    "clamped_mul",
    "decay",
    "delta_rule",
    "embedding",
    "gelu_erf_mul",
    "gelu_mul",
    "mix_heads",
    "moe_route",
    "quantize_heads",
    "relu_mul",
    "rms_norm",
    "short_conv",
    "sigmoid",
    "silu",
    "silu_mul",
    "soft_capped",
]

Floats = NDArray[np.float32]
_erfc = np.frompyfunc(math.erfc, 1, 1)


def embedding(table: Floats, ids: NDArray[np.int32]) -> Floats:
    """Rows of `table` (vocab, hidden) by `ids` (rows,): (rows, hidden)."""
    return table[ids]


def rms_norm(x: Floats, gain: Floats, eps: float) -> Floats:
    """x / sqrt(mean(x²) + eps) · gain over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    squares = np.square(x).mean(axis=-1, keepdims=True)
    result: Floats = x / np.sqrt(squares + np.float32(eps)) * gain
    return result


def apply_rope(x: Floats, cos: Floats, sin: Floats, *, interleaved: bool = False) -> Floats:
    """Turns each pair (x[i], x[i + r/2]) of the first r elements of every head, or (x[2 i], x[2 i + 1]) if interleaved.

    x: (rows, heads, d); cos, sin: (rows, r/2).
    """
    turned = 2 * cos.shape[-1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    if interleaved:
        result = x.copy()
        first, second = x[..., 0:turned:2], x[..., 1:turned:2]
        result[..., 0:turned:2] = first * cos - second * sin
        result[..., 1:turned:2] = second * cos + first * sin
        return result
    first, second = np.split(x[..., :turned], 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, x[..., turned:]], axis=-1)


def attention(
    q: Floats,
    keys: Floats,
    values: Floats,
    *,
    scale: float = 0.0,
    softcap: float = 0.0,
    sinks: Floats | None = None,
    window: int = 0,
    key_mask: NDArray[np.bool_] | None = None,
) -> Floats:
    """Causal attention of the last rows of one sequence over all of it.

    q: (rows, heads, d); keys, values: (tokens, kv_heads, d), the rows' own tokens at the end. Scores are multiplied by
    `scale` (0: d^-1/2) and, with `softcap` > 0, limited to softcap · tanh(score / softcap). `sinks` (heads,): the score
    of nothing, which takes its share of the weights (Xiao et al. 2023, arXiv:2309.17453). `window` > 0: a query
    sees that many tokens back, itself included. `key_mask` (tokens,): False where a key may not be seen; a row
    that sees none yields zeros. Returns (rows, heads · d).
    """
    rows, heads, size = q.shape
    tokens, kv_heads, _ = keys.shape
    grouped = q.reshape(rows, kv_heads, heads // kv_heads, size).transpose(1, 2, 0, 3)  # (kv_heads, group, rows, d)
    scores = grouped @ keys.transpose(1, 2, 0)[:, None] * np.float32(scale or size**-0.5)  # (kv, group, rows, tokens)
    if softcap:
        scores = soft_capped(scores, softcap)
    if rows > 1 or window or key_mask is not None:
        query = np.arange(tokens - rows, tokens)[:, None]
        key = np.arange(tokens)[None, :]
        seen = key <= query
        if window:
            seen &= key > query - window
        if key_mask is not None:
            seen &= key_mask
        scores = np.where(seen, scores, -np.inf)
    most = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sinks = sinks.reshape(kv_heads, -1, 1, 1)
        most = np.maximum(most, sinks)
    weights = np.exp(scores - np.where(np.isneginf(most), 0, most))
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks - most)
    mixed = weights / np.where(total == 0, 1, total) @ values.transpose(1, 0, 2)[:, None]
    result: Floats = mixed.transpose(2, 0, 1, 3).reshape(rows, heads * size)
    return result


def mix_heads(x: Floats) -> Floats:
    """Queries or keys (rows, heads, d), the elements of each head mixed by an orthogonal matrix: Walsh and Hadamard's,
    over runs of the largest power of two that divides d, at most 128. Products of queries with keys stay what they are,
    and no element is much larger than the others (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456)."""
    run = min(x.shape[-1] & -x.shape[-1], 128)
    parts = x.reshape(*x.shape[:-1], -1, run)
    for _ in range(run.bit_length() - 1):
        first, second = parts[..., : run // 2], parts[..., run // 2 :]
        parts = np.stack([first + second, first - second], axis=-1).reshape(parts.shape)
    mixed: Floats = (parts * (np.float32(1) / np.sqrt(np.float32(run)))).reshape(x.shape)
    return mixed


def quantize_heads(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Keys or values (rows, heads, d) as a cache in 8 bits has them: codes of the same shape, scales (rows, heads).

    The scale is the largest element / 127, the codes x / scale to the nearest whole number, of halves the even one. A
    head with an element that isn't finite has the scale NaN; zeros, and one whose scale would be subnormal, 0.
    """
    most = np.abs(x).max(axis=-1)
    scales = most / np.float32(127)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(0), scales)
    scales = np.where(np.isfinite(most), scales, np.float32(np.nan))
    usable = (scales > 0)[..., None]
    codes = np.rint(np.divide(x, scales[..., None], out=np.zeros_like(x), where=usable))
    return codes.astype(np.int8), scales


def silu_mul(gate_up: Floats) -> Floats:
    """silu(gate) · up of rows [gate | up]: (rows, 2 · n) to (rows, n) (Shazeer 2020, arXiv:2002.05202)."""
    gate, up = np.split(gate_up, 2, axis=-1)
    with np.errstate(over="ignore"):  # exp of a very negative gate is infinite and the quotient right: zero
        result: Floats = gate / (1 + np.exp(-gate)) * up
    return result


def gelu_mul(gate_up: Floats) -> Floats:
    """gelu(gate) · up of rows [gate | up]: (rows, 2 · n) to (rows, n), with GELU's approximation by tanh.

    Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    gate, up = np.split(gate_up, 2, axis=-1)
    inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
    result: Floats = np.float32(0.5) * gate * (1 + np.tanh(inner)) * up
    return result


def gelu_erf_mul(gate_up: Floats) -> Floats:
    """The same with GELU itself, gate · Φ(gate): Φ is the share of a normal distribution below it."""
    gate, up = np.split(gate_up, 2, axis=-1)
    below = np.asarray(_erfc(gate.astype(np.float64) * -math.sqrt(0.5)), np.float64) / 2
    with np.errstate(invalid="ignore"):  # nothing of -inf is no number, as in other programs
        result: Floats = (gate * below).astype(np.float32) * up
    return result


def relu_mul(gate_up: Floats, *, squared: bool) -> Floats:
    """max(gate, 0) · up of rows [gate | up], or max(gate, 0)² · up (So et al. 2021, arXiv:2109.08668)."""
    gate, up = np.split(gate_up, 2, axis=-1)
    gate = np.maximum(gate, np.float32(0))
    result: Floats = (gate * gate if squared else gate) * up
    return result


def clamped_mul(gate_up: Floats, limit: float, alpha: float) -> Floats:
    """gate · sigmoid(alpha · gate) · (up + 1) of rows [gate | up], where gate is at most `limit` and up within ±limit.

    The SwiGLU of gpt-oss (OpenAI 2025, arXiv:2508.10925).
    """
    gate, up = np.split(gate_up, 2, axis=-1)
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    with np.errstate(over="ignore"):
        result: Floats = gate / (1 + np.exp(np.float32(-alpha) * gate)) * (up + 1)
    return result


def soft_capped(x: Floats, cap: float) -> Floats:
    """cap · tanh(x / cap): close to x where x is small, never beyond cap."""
    result: Floats = np.float32(cap) * np.tanh(x / np.float32(cap))
    return result


def moe_route(logits: Floats, top_k: int, *, normalise: bool) -> tuple[NDArray[np.int64], Floats]:
    """The `top_k` experts of each row and their weights, each (rows, top_k); logits: (rows, experts).

    Ties go to the lower expert. With `normalise` a row's weights sum to one.
    """
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    picked = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(scores, picked, axis=-1)
    if normalise:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + np.float32(1e-20))
    return picked, weights


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):
        result: Floats = np.float32(1) / (np.float32(1) + np.exp(-x))
    return result


def silu(x: Floats) -> Floats:
    """x · sigmoid(x)."""
    return x * sigmoid(x)


def short_conv(history: Floats, x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """A causal convolution of each channel: y[t] = bias + Σ_j weight[:, j] · z[t + j], z being history and x.

    history: (taps - 1, channels) what came before; x: (rows, channels); weight: (channels, taps).
    """
    rows, taps = len(x), weight.shape[1]
    z = np.concatenate([history, x])
    y: Floats = np.zeros_like(x)
    if bias is not None:
        y += bias
    for j in range(taps):
        y += z[j : j + rows] * weight[:, j]
    return y


def decay(a: Floats, rate: Floats, bias: Floats) -> Floats:
    """What is kept of a state, exp(-e^rate · softplus(a + bias)).  a: (rows, heads); rate, bias: (heads,)"""
    result: Floats = np.exp(-np.exp(rate) * np.logaddexp(0, a + bias)).astype(np.float32)
    return result


def delta_rule(state: Floats, q: Floats, k: Floats, v: Floats, kept: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """The gated delta rule over the rows of one sequence: what is read (rows, heads, value_dim), and the last state.

    S = kept · S; S += k ⊗ (v - kᵀS) · beta; out = qᵀS.
    state: (heads, key_dim, value_dim); q, k: (rows, heads, key_dim); v: (rows, heads, value_dim); kept, beta:
    (rows, heads).
    """
    out = np.empty_like(v)
    for t in range(len(v)):
        state = state * kept[t, :, None, None]
        delta = (v[t] - np.einsum("hk,hkv->hv", k[t], state)) * beta[t, :, None]
        state = state + k[t, :, :, None] * delta[:, None, :]
        out[t] = np.einsum("hk,hkv->hv", q[t], state)
    return out, state
