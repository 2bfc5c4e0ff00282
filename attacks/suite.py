"""The list of all attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attacks import lying, our_pictures, ours, pictures, reading
from attacks.setting import Outcome

__all__ = ["ATTACKS", "PICTURE_ATTACKS", "Attack"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: it must succeed on the old scheme, and must fail on ours."""

    scheme: str
    old: Callable[[], Outcome]
    ours: Callable[[], Outcome]

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
    Attack(FLOAT_PAD, reading.noise_is_no_pad, ours.noise_is_no_pad),
    Attack(FLOAT_PAD, reading.mask_reuse, ours.mask_reuse),
    Attack("mask sent beside the value", reading.mask_beside_value, ours.mask_beside_value),
    Attack("two copies and a scalar", reading.scalar_from_shared_keys, ours.no_product_of_secrets),
    Attack("two copies and a scalar", reading.scalar_from_softmax, ours.no_product_of_secrets),
    Attack("mixed tokens", reading.known_plaintext, ours.known_plaintext),
    Attack(TRUSTING, reading.ids_in_clear, ours.ids_in_clear),
    Attack(TRUSTING, reading.norms_from_the_accelerator, ours.norms_from_the_accelerator),
    Attack("fallback to clear", reading.downgrade, ours.downgrade),
    Attack(TRUSTING, lying.tamper_one_element, ours.tamper_one_element),
    Attack(TRUSTING, lying.replay, ours.replay),
    Attack(TRUSTING, lying.swapped_layers, ours.swapped_layers),
    Attack(TRUSTING, lying.truncated_reply, ours.truncated_reply),
    Attack("lengths obeyed", lying.oversized_reply, ours.oversized_reply),
    Attack(FIELD, lying.add_p, ours.add_p),
    Attack("pads mod 2³²", lying.error_of_half_the_ring, ours.error_of_half_the_ring),
    Attack(FIELD, lying.lying_pad_server, ours.lying_pad_server),
)

SLALOM = "Slalom, a pad stored"
SPARING = "pads made cheaper"

PICTURE_ATTACKS = (
    Attack(SLALOM, pictures.masks_used_again, our_pictures.masks_used_again),
    Attack(SPARING, pictures.masks_shifted, our_pictures.masks_shifted),
    Attack(SPARING, pictures.mean_of_frames, our_pictures.mean_of_frames),
    Attack("masked deltas", pictures.delta_pattern, our_pictures.delta_pattern),
    Attack("channels checked by sum", pictures.compensated_lie, our_pictures.compensated_lie),
    Attack("positions checked by sample", pictures.one_pixel, our_pictures.one_pixel),
)
