"""Attacks of an accelerator that lies: each changes the answer of a historical scheme, and nobody notices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attacks.careless import FieldClient, P, PowerOfTwoClient, Refused, matmul
from attacks.historical import Server, TrustingClient, receive
from attacks.setting import Array, Outcome, Setting, make_setting

__all__ = [
    "add_p",
    "error_of_half_the_ring",
    "lying_pad_server",
    "oversized_reply",
    "replay",
    "swapped_layers",
    "tamper_one_element",
    "truncated_reply",
]


class _Liar(Server):
    """A server that gives `lie(layer, rows, honest)` instead of the honest product."""

    def __init__(self, setting: Setting, lie: Callable[[int, Array, Array], Array]) -> None:
        super().__init__(setting)
        self.lie = lie

    def linear(self, layer: int, rows: Array) -> Array:
        return self.lie(layer, rows, super().linear(layer, rows))


def _deceived(lie: Callable[[int, Array, Array], Array]) -> Outcome:
    """Succeeded if the client says another token than the model does, without a word."""
    setting = make_setting()
    said = TrustingClient(setting).answer(_Liar(setting, lie), setting.ids)
    return Outcome(said != setting.answer(), f"token {said} believed instead of {setting.answer()}")


def tamper_one_element() -> Outcome:
    """One number of one product is changed, towards the token that the server wants to be said."""
    setting = make_setting()
    wanted = (setting.answer() + 1) % len(setting.embedding)
    column = int(setting.embedding[wanted].argmax())

    def lie(layer: int, rows: Array, honest: Array) -> Array:
        if layer == setting.layers - 1:
            honest[-1, column] += 1e4
        return honest

    return _deceived(lie)


def replay() -> Outcome:
    """The replies to another prompt of the same length are given again."""
    setting = make_setting()
    recorded: dict[int, Array] = {}

    def record(layer: int, rows: Array, honest: Array) -> Array:
        recorded[layer] = honest
        return honest

    TrustingClient(setting).answer(_Liar(setting, record), setting.ids[::-1])
    return _deceived(lambda layer, rows, honest: recorded[layer])


def swapped_layers() -> Outcome:
    """The weights of one layer are used for another: the shapes are the same."""
    setting = make_setting()
    return _deceived(lambda layer, rows, honest: rows @ setting.weights[layer - 1].T)


def truncated_reply() -> Outcome:
    """One row comes back instead of all. It is added to every token's, as numpy adds rows."""
    return _deceived(lambda layer, rows, honest: honest[:1])


def oversized_reply() -> Outcome:
    """A message of eight bytes says that it has a million million; the client allocates what it is told."""
    asked = []

    def allocate(length: int) -> bytearray:
        asked.append(length)
        return bytearray(8)  # so that this table can be printed

    receive(10**12, b"\0" * 8, allocate)
    return Outcome(asked == [10**12], f"the client allocates {asked[0] / 1e9:.0f} GB")


def _matrix(seed: int = 7) -> tuple[Array, Array]:
    """int8 weight (outputs, depth) and rows (n, depth) of 12-bit activations."""
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (24, 16)), rng.integers(-2047, 2048, (8, 16))


def add_p() -> Outcome:
    """p is added to every residue. The check computes modulo p and sees nothing; the subtraction is off by two."""
    weight, rows = _matrix()
    got = FieldClient(weight).multiply(rows, lambda masked: matmul(masked, weight) + P)
    wrong = np.mean(got != rows @ weight.T)
    return Outcome(bool(wrong > 0.1), f"{wrong:.0%} of the values wrong, the check passed")


def error_of_half_the_ring() -> Outcome:
    """Modulo 2³² an error of 2³¹ meets an even secret half of the time, and is gone."""
    weight, rows = _matrix()
    fooled = 0
    for seed in range(16):
        client = PowerOfTwoClient(weight, seed=seed)
        try:
            got = client.multiply(rows, lambda masked: (matmul(masked, weight, 2**32) + 2**31) % 2**32)
        except Refused:  # an odd secret
            continue
        fooled += bool((got != rows @ weight.T).all())
    return Outcome(fooled > 0, f"{fooled} of 16 clients fooled in one try each")


def lying_pad_server() -> Outcome:
    """The pad's product is wrong by one. The check looked at the masked product, which is right."""
    weight, rows = _matrix()
    client = FieldClient(weight, pad_server=lambda mask: (matmul(mask, weight) + 1) % P)
    got = client.multiply(rows, lambda masked: matmul(masked, weight))
    return Outcome(bool((got == rows @ weight.T - 1).all()), "every value wrong by one, the check passed")
