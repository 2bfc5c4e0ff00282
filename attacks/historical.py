"""The historical schemes: masks in floating point, and a client that believes its server.

They are modelled on a system of 2025 that ran a language model between an enclave and a GPU server, stage by stage:
in clear, with the mask sent beside the value, with a Gaussian "one-time pad", with two masked copies of a factor and
one secret scalar (after TwinShield, arXiv:2507.03278), and with a mixing of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attacks.setting import Array, Setting, rms_norm

__all__ = [
    "FallbackClient",
    "GaussianPad",
    "MaskBesideValue",
    "ScalarMatmul",
    "Server",
    "TokenMixing",
    "TrustingClient",
    "Unsupported",
    "receive",
]


class Unsupported(Exception):
    """The server says that it can't compute on masked values."""


class Server:
    """The accelerator when it is honest. It keeps the model, and writes down all that it is sent."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.saw: list[tuple[str, Array]] = []

    def norm(self, layer: int) -> Array:
        """The client asks the server for the weights of its own norms."""
        weight: Array = self.setting.norms[layer]
        return weight

    def embed(self, ids: Array) -> Array:
        self.saw.append(("ids", ids))
        rows: Array = self.setting.embedding[ids]
        return rows

    def linear(self, layer: int, rows: Array) -> Array:
        self.saw.append((f"linear {layer}", rows))
        product: Array = rows @ self.setting.weights[layer].T
        return product

    def masked_linear(self, layer: int, rows: Array) -> Array:
        return self.linear(layer, rows)

    def head(self, row: Array) -> Array:
        self.saw.append(("head", row))
        logits: Array = self.setting.embedding @ row
        return logits


class GaussianPad:
    """x − R with R ~ N(0, 1), drawn once for each layer and shape, and used again in every forward pass."""

    def __init__(self, setting: Setting, seed: int = 2) -> None:
        self.weights, self.rng = setting.weights, np.random.default_rng(seed)
        self.masks: dict[tuple[int, tuple[int, ...]], Array] = {}

    def hide(self, layer: int, rows: Array) -> Array:
        return rows - self._mask(layer, rows)

    def recover(self, layer: int, rows: Array, reply: Array) -> Array:
        product: Array = reply + self._mask(layer, rows) @ self.weights[layer].T
        return product

    def _mask(self, layer: int, rows: Array) -> Array:
        return self.masks.setdefault((layer, rows.shape), self.rng.normal(0, 1, rows.shape))


class MaskBesideValue:
    """x + R and R in one message, so that the server can multiply both and the client subtract."""

    def __init__(self, seed: int = 3) -> None:
        self.rng = np.random.default_rng(seed)

    def hide(self, rows: Array) -> tuple[Array, Array]:
        mask = self.rng.normal(0, 1, rows.shape)
        return rows + mask, mask

    def recover(self, reply: Array, of_mask: Array) -> Array:
        return reply - of_mask


class ScalarMatmul:
    """Q·Kᵀ of two secret factors: each is sent as (Q + R) over s·R, with one scalar s a layer.

    From the four blocks of the product the client takes QKᵀ = T₁₁ − (T₁₂ + T₂₁) / s + T₂₂ / s².
    """

    def __init__(self, seed: int = 4) -> None:
        self.rng = np.random.default_rng(seed)
        self.scalar = self.rng.uniform(0.5, 2.0)

    def hide(self, factor: Array) -> Array:
        """(n, width) becomes (2 n, width)."""
        mask = self.rng.normal(0, 0.1, factor.shape)
        return np.concatenate([factor + mask, self.scalar * mask])

    def recover(self, product: Array) -> Array:
        """(2 n, 2 m) becomes (n, m)."""
        n, m = product.shape[0] // 2, product.shape[1] // 2
        s = self.scalar
        result: Array = product[:n, :m] - (product[:n, m:] + product[n:, :m]) / s + product[n:, m:] / s**2
        return result


class TokenMixing:
    """M·x with M = D + a bᵀ, one matrix for all layers. It mixes the tokens; the features stay as they are."""

    def __init__(self, tokens: int, seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.matrix = np.diag(rng.normal(2, 1, tokens)) + np.outer(rng.normal(size=tokens), rng.normal(size=tokens))

    def hide(self, rows: Array) -> Array:
        result: Array = self.matrix @ rows
        return result

    def recover(self, reply: Array) -> Array:
        return np.linalg.solve(self.matrix, reply)


class TrustingClient:
    """A forward pass with Gaussian pads. The rest of the protocol protects nothing: the ids go out for the embedding,
    the last hidden state for the head; norms come from the server; what it answers is believed."""

    def __init__(self, setting: Setting, pads: GaussianPad | None = None) -> None:
        self.layers = setting.layers
        self.pads = pads or GaussianPad(setting)

    def answer(self, server: Server, ids: Array) -> int:
        """The token that follows `ids`."""
        hidden = server.embed(ids)
        for layer in range(self.layers):
            hidden = hidden + self.linear(server, layer, rms_norm(hidden) * server.norm(layer))
        return int(np.argmax(server.head(hidden[-1])))

    def linear(self, server: Server, layer: int, rows: Array) -> Array:
        reply = server.masked_linear(layer, self.pads.hide(layer, rows))
        return self.pads.recover(layer, rows, reply)  # any shape that numpy can broadcast will do


class FallbackClient(TrustingClient):
    """The same, and when the server says that it can't, the values go out in clear, with a warning in a log."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.log: list[str] = []

    def linear(self, server: Server, layer: int, rows: Array) -> Array:
        try:
            return super().linear(server, layer, rows)
        except Unsupported:
            self.log.append("warning: masked products are not supported, falling back")
            return server.linear(layer, rows)


def receive(length: int, payload: bytes, allocate: Callable[[int], bytearray]) -> bytearray:
    """How a message was read from shared memory: the length word in it, which the other side writes, is obeyed."""
    buffer = allocate(length)
    buffer[: len(payload)] = payload
    return buffer
