"""Layers that remember in a state of a sequence instead of keys and values, over numpy or torch arrays.

States are float32 whatever the precision of the rest: what is added to one stays in it for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cutset.models.run.executor import Batch
from cutset.models.spec import ConvSpec, DeltaSpec

if TYPE_CHECKING:
    from cutset.models.run.decoder import Ops

__all__ = ["recur", "unpadded"]

Array = Any  # as in cutset.models.run.decoder
L2_EPS = 1e-6  # of the norms of queries and keys under the delta rule


def unpadded(h: Array, batch: Batch, ops: Ops) -> Array:
    """h (rows, hidden) with zeros at padding, which would find its way into states."""
    if batch.key_mask is None:
        return h
    kept = np.empty(len(batch.positions), dtype=np.float32)
    for i, length in enumerate(batch.context_lens):
        first, end = batch.row_starts[i], batch.row_starts[i + 1]
        kept[first:end] = batch.key_mask[i, length - (end - first) : length]
    return h * ops.floats(kept)[:, None]


def recur(
    mixer: ConvSpec | DeltaSpec,
    layer: int,
    x: Array,  # (rows, inputs) what the product at the site `qkv` gave
    batch: Batch,
    cache: Any,
    ops: Ops,
    parameters: Mapping[tuple[str, int], Array],
    eps: float,  # of norms
) -> Array:
    """What goes into the product at the site `o`, (rows, mixed); the states of the sequences go on."""
    states, places = cache.states[layer], batch.states
    assert places is not None
    weight = ops.wide(parameters["conv", layer]).reshape(-1, mixer.taps)
    parts = []
    for i in range(len(batch.context_lens)):
        own = slice(int(batch.row_starts[i]), int(batch.row_starts[i + 1]))
        source = int(places.sources[i])
        state = states[source] if source >= 0 else ops.wide(ops.floats(np.zeros(mixer.state, dtype=np.float32)))
        first = int(batch.context_lens[i]) - (own.stop - own.start)  # tokens before the rows
        ends = [(tokens - first, slot) for tokens, slot in places.saves_of(i)]
        ends.append((own.stop - own.start, int(places.slots[i])))
        rows, done = ops.wide(x[own]), 0
        for end, slot in sorted(ends):
            if isinstance(mixer, ConvSpec):
                bias = parameters.get(("conv_bias", layer))
                mixed, state = _conv(
                    mixer, rows[done:end], state, weight, None if bias is None else ops.wide(bias), ops
                )
            else:
                mixed, state = _delta(mixer, layer, rows[done:end], state, weight, ops, parameters, eps)
            parts.append(mixed)
            states[slot] = state
            done = end
    return ops.narrow(ops.concat([part.T for part in parts]).T)


def _convolved(history: Array, x: Array, weight: Array, bias: Array, ops: Ops) -> tuple[Array, Array]:
    """As cutset.kernels.reference.short_conv; and the history of what comes next."""
    z = ops.concat([history.T, x.T]).T
    rows, y = len(x), x * 0 if bias is None else x * 0 + bias
    for j in range(weight.shape[1]):
        y = y + z[j : j + rows] * weight[:, j]
    return y, z[rows:]


def _conv(mixer: ConvSpec, x: Array, state: Array, weight: Array, bias: Array, ops: Ops) -> tuple[Array, Array]:
    size = mixer.channels
    b, c, x = x[:, :size], x[:, size : 2 * size], x[:, 2 * size :]
    y, after = _convolved(state.reshape(-1, size), b * x, weight, bias, ops)
    return c * y, after.reshape(-1)


def _delta(
    mixer: DeltaSpec,
    layer: int,
    x: Array,
    state: Array,
    weight: Array,
    ops: Ops,
    parameters: Mapping[tuple[str, int], Array],
    eps: float,
) -> tuple[Array, Array]:
    """As cutset.kernels.reference.delta_rule."""
    heads, key_dim, wide = mixer.value_heads, mixer.key_dim, mixer.convolved
    remembered = (mixer.taps - 1) * wide
    mixed, after = _convolved(state[:remembered].reshape(-1, wide), x[:, :wide], weight, None, ops)
    mixed = ops.silu(mixed)
    keys = mixer.key_heads * key_dim
    gain = ops.wide(ops.floats(np.full(key_dim, key_dim**-0.5, dtype=np.float32)))
    shared = np.arange(heads) // (heads // mixer.key_heads)  # the key head of each value head
    q = ops.rms_norm(mixed[:, :keys].reshape(-1, mixer.key_heads, key_dim), gain * key_dim**-0.5, L2_EPS / key_dim)
    k = ops.rms_norm(mixed[:, keys : 2 * keys].reshape(-1, mixer.key_heads, key_dim), gain, L2_EPS / key_dim)
    v = mixed[:, 2 * keys :].reshape(-1, heads, mixer.value_dim)
    z, gates = x[:, wide : wide + mixer.mixed].reshape(-1, heads, mixer.value_dim), x[:, wide + mixer.mixed :]
    beta = ops.sigmoid(gates[:, :heads])
    rate, bias = (ops.wide(parameters[name, layer]) for name in ("decay", "decay_bias"))
    kept = ops.decay(gates[:, heads:], rate, bias)
    matrix = state[remembered:].reshape(heads, key_dim, mixer.value_dim)
    out = v * 0
    for t in range(len(v)):
        key, query = ops.take(k[t], shared)[:, :, None], ops.take(q[t], shared)[:, :, None]
        matrix = matrix * kept[t][:, None, None]
        delta = (v[t] - (matrix * key).sum(-2)) * beta[t][:, None]
        matrix = matrix + key * delta[:, None, :]
        out[t] = (matrix * query).sum(-2)
    normed = ops.rms_norm(out, ops.wide(parameters["delta_gain", layer]), eps) * ops.silu(z)
    state = ops.concat([after.reshape(-1), matrix.reshape(-1)])
    return normed.reshape(-1, mixer.mixed), state
