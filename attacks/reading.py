"""Attacks of an accelerator that reads: each gets at the prompt or the activations behind a historical scheme."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attacks.historical import (
    FallbackClient,
    GaussianPad,
    MaskBesideValue,
    ScalarMatmul,
    Server,
    TokenMixing,
    TrustingClient,
    Unsupported,
)
from attacks.setting import Array, Outcome, Setting, make_setting, rms_norm

__all__ = [
    "downgrade",
    "ids_in_clear",
    "known_plaintext",
    "mask_beside_value",
    "mask_reuse",
    "noise_is_no_pad",
    "norms_from_the_accelerator",
    "scalar_from_shared_keys",
    "scalar_from_softmax",
]


def _read(guess: Array, truth: Array, limit: float = 1e-6) -> Outcome:
    """Succeeded if the activations were found to within `limit` of their size."""
    error = float(np.abs(guess - truth).max() / np.abs(truth).max())
    return Outcome(error < limit, f"activations read, relative error {error:.0e}")


def _nearest(rows: Array, setting: Setting) -> Array:
    """For each row the token whose input to layer 0 is nearest."""
    candidates = rms_norm(setting.embedding) * setting.norms[0]
    distances = np.square(rows[:, None] - candidates[None]).sum(axis=-1)
    return np.asarray(distances.argmin(axis=1))


def noise_is_no_pad() -> Outcome:
    """Noise of a fixed size on values of any size: the prompt's tokens are the nearest neighbours of what was sent."""
    setting = make_setting()
    rows = setting.inputs()[0]
    wire = GaussianPad(setting).hide(0, rows)
    explained = 1 - np.var(wire - rows) / np.var(rows)
    found = np.mean(_nearest(wire, setting) == setting.ids)
    return Outcome(bool(found == 1), f"{found:.0%} of the prompt read; noise hides {1 - explained:.1%} of the variance")


def mask_reuse() -> Outcome:
    """Two requests of one shape under one mask: their difference is the difference of the secrets."""
    setting = make_setting()
    pads = GaussianPad(setting)
    rows = setting.inputs()[0]
    others = replace(setting, ids=setting.ids[::-1]).inputs()[0]
    return _read(pads.hide(0, rows) - pads.hide(0, others), rows - others)


def mask_beside_value() -> Outcome:
    """The message holds the value plus the mask, and the mask."""
    rows = make_setting().inputs()[0]
    masked, mask = MaskBesideValue().hide(rows)
    return _read(masked - mask, rows)


def scalar_from_shared_keys() -> Outcome:
    """Two query heads share one key: its two disguises differ by masks alone, and one division gives the scalar."""
    setting, scheme = make_setting(), ScalarMatmul()
    tokens = setting.keys.shape[1]
    first, second = scheme.hide(setting.keys[0]), scheme.hide(setting.keys[0])
    masks, scaled = first[:tokens] - second[:tokens], first[tokens:] - second[tokens:]
    at = np.unravel_index(np.abs(masks).argmax(), masks.shape)
    scalar = scaled[at] / masks[at]
    return _read(first[:tokens] - first[tokens:] / scalar, setting.keys[0])


def scalar_from_softmax() -> Outcome:
    """Rows of attention sum to one, so a masked row's sum gives that of its mask, and one division the scalar."""
    setting, scheme = make_setting(), ScalarMatmul()
    tokens = setting.keys.shape[1]
    scores = setting.queries[0] @ setting.keys[0].T
    attention = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wire = scheme.hide(attention)
    sums, scaled = wire[:tokens].sum(axis=1) - 1, wire[tokens:].sum(axis=1)
    at = np.abs(sums).argmax()
    return _read(wire[:tokens] - wire[tokens:] / (scaled[at] / sums[at]), attention)


def known_plaintext() -> Outcome:
    """The ids are known, so layer 0's input is: it gives the mixing matrix, and that opens every other layer.

    The tokens of this prompt differ; where one repeats, the form D + a bᵀ gives the equations that are missing.
    """
    setting = make_setting()
    scheme, rows = TokenMixing(len(setting.ids)), setting.inputs()
    wires = [scheme.hide(x) for x in rows]
    matrix = wires[0] @ np.linalg.pinv(rows[0])
    return _read(np.linalg.solve(matrix, wires[2]), rows[2])


def ids_in_clear() -> Outcome:
    """The embedding is looked up by the server and the head computed by it: it has the prompt and the answer."""
    setting = make_setting()
    server = Server(setting)
    answer = TrustingClient(setting).answer(server, setting.ids)
    saw = dict(server.saw)
    prompt = bool((saw["ids"] == setting.ids).all())
    said = int(np.argmax(setting.embedding @ saw["head"])) == answer
    return Outcome(prompt and said, "the whole prompt and the answer read off the wire")


class _LoudNorms(Server):
    def norm(self, layer: int) -> Array:
        return super().norm(layer) * 1e9


def norms_from_the_accelerator() -> Outcome:
    """The server hands out norms a thousand million times too large: beside such values any mask is nothing."""
    setting = make_setting()
    server = _LoudNorms(setting)
    TrustingClient(setting).answer(server, setting.ids)
    return _read(dict(server.saw)["linear 0"] / 1e9, setting.inputs()[0])


class _Unwilling(Server):
    def masked_linear(self, layer: int, rows: Array) -> Array:
        raise Unsupported


def downgrade() -> Outcome:
    """The server says that masked products aren't supported, and is sent the values."""
    setting = make_setting()
    server = _Unwilling(setting)
    FallbackClient(setting).answer(server, setting.ids)
    return _read(dict(server.saw)["linear 0"], setting.inputs()[0])
