"""The list of all attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attacks import lying, reading
from attacks.setting import Outcome

__all__ = ["ATTACKS", "Attack"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: it must succeed on the old scheme, and must fail on ours."""

    scheme: str
    old: Callable[[], Outcome]

    @property
    def name(self) -> str:
        return self.old.__name__.replace("_", " ")

    @property
    def idea(self) -> str:
        """What it does, in a sentence or two."""
        return " ".join((self.old.__doc__ or "").split("\n\n")[0].split())


FLOAT_PAD = "Gaussian pads"
TRUSTING = "a client that believes"
FIELD = "pads mod p, half checked"

ATTACKS = (
    Attack(FLOAT_PAD, reading.noise_is_no_pad),
    Attack(FLOAT_PAD, reading.mask_reuse),
    Attack("mask sent beside the value", reading.mask_beside_value),
    Attack("two copies and a scalar", reading.scalar_from_shared_keys),
    Attack("two copies and a scalar", reading.scalar_from_softmax),
    Attack("mixed tokens", reading.known_plaintext),
    Attack(TRUSTING, reading.ids_in_clear),
    Attack(TRUSTING, reading.norms_from_the_accelerator),
    Attack("fallback to clear", reading.downgrade),
    Attack(TRUSTING, lying.tamper_one_element),
    Attack(TRUSTING, lying.replay),
    Attack(TRUSTING, lying.swapped_layers),
    Attack(TRUSTING, lying.truncated_reply),
    Attack("lengths obeyed", lying.oversized_reply),
    Attack(FIELD, lying.add_p),
    Attack("pads mod 2³²", lying.error_of_half_the_ring),
    Attack(FIELD, lying.lying_pad_server),
)
