"""A tiny model with a prompt: enough of a transformer for every attack, at sizes that print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Outcome", "Setting", "make_setting", "rms_norm"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attack: whether it reached its aim, and a figure or a reason in a few words."""

    succeeded: bool
    figure: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Weights are public, as those of most models are; the ids are the secret."""

    ids: Array  # (tokens,)
    embedding: Array  # (vocabulary, hidden)
    norms: Array  # (layers, hidden)
    weights: Array  # (layers, hidden, hidden): outputs, depth
    queries: Array  # (heads, tokens, head_dim)
    keys: Array  # (kv_heads, tokens, head_dim): two query heads share one

    @property
    def layers(self) -> int:
        return len(self.weights)

    def inputs(self) -> list[Array]:
        """What the client has to send at each layer, in clear: (tokens, hidden)."""
        hidden, found = self.embedding[self.ids], []
        for norm, weight in zip(self.norms, self.weights, strict=True):
            found.append(rms_norm(hidden) * norm)
            hidden = hidden + found[-1] @ weight.T
        return found

    def answer(self) -> int:
        """The token that the model says next."""
        hidden = self.embedding[self.ids]
        for rows, weight in zip(self.inputs(), self.weights, strict=True):
            hidden = hidden + rows @ weight.T
        return int(np.argmax(self.embedding @ hidden[-1]))


def rms_norm(rows: Array) -> Array:
    """Rows divided by their root mean square: (tokens, hidden)."""
    result: Array = rows / np.sqrt(np.mean(rows**2, axis=-1, keepdims=True) + 1e-6)
    return result


def make_setting(seed: int = 1, tokens: int = 12) -> Setting:
    """A model of random weights. One channel is sixty times the others, as in trained models."""
    rng = np.random.default_rng(seed)
    vocabulary, hidden, layers, heads, head_dim = 256, 64, 3, 4, 16
    norms = rng.uniform(0.5, 1.5, (layers, hidden))
    norms[:, 7] *= 60
    weights = rng.normal(0, 0.4, (layers, hidden, hidden))
    weights[:, :, 7] /= 60
    return Setting(
        ids=rng.permutation(vocabulary)[:tokens],
        embedding=rng.normal(0, 1, (vocabulary, hidden)),
        norms=norms,
        weights=weights,
        queries=rng.normal(0, 1, (heads, tokens, head_dim)),
        keys=rng.normal(0, 1, (heads // 2, tokens, head_dim)),
    )
