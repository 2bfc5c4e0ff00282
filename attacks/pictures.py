"""Pictures, and schemes that hide them from whoever convolves them: Slalom's with its pads used again, and what was
thought of since to spare the making of pads. All weights are public; the pictures are the secret.

A camera stands still; one bright square walks through its picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attacks.careless import P, Refused
from attacks.setting import Array, Outcome

__all__ = [
    "Scene",
    "compensated_lie",
    "delta_pattern",
    "make_scene",
    "masks_shifted",
    "masks_used_again",
    "mean_of_frames",
    "one_pixel",
    "shifts_that_show",
]

SIDE, FRAMES, CHANNELS = 16, 24, 6


@dataclass(frozen=True, slots=True)
class Scene:
    """frames (count, side, side) of 8 bits; where the square is, (count, 2); weights (3, 3, channels) of a layer."""

    frames: Array
    places: Array
    weight: Array


def make_scene(seed: int = 1) -> Scene:
    """A textured background with a square of 3 x 3 that moves by a pixel a frame."""
    rng = np.random.default_rng(seed)
    background = rng.integers(20, 120, (SIDE, SIDE))
    frames, places = np.repeat(background[None], FRAMES, axis=0), np.zeros((FRAMES, 2), int)
    for i in range(FRAMES):
        places[i] = i % (SIDE - 3), (2 + i // 2) % (SIDE - 3)
        y, x = places[i]
        frames[i, y : y + 3, x : x + 3] = 250
    return Scene(frames, places, rng.integers(-127, 128, (3, 3, CHANNELS)))


def convolved(picture: Array, weight: Array) -> Array:
    """(side, side) with (3, 3, channels): (side, side, channels) mod p, zeros around. Exact: sums stay below 2^63."""
    padded = np.pad(picture.astype(np.int64), 1)
    total = np.zeros((*picture.shape, weight.shape[-1]), np.int64)
    for y in range(3):
        for x in range(3):
            total += padded[y : y + picture.shape[0], x : x + picture.shape[1], None] * weight[y, x]
    return total % P


class StoredPads:
    """Slalom precomputes pads and stores them. This one has a store of one, as its offline phase was too slow."""

    def __init__(self, seed: int = 3) -> None:
        self.mask = np.random.default_rng(seed).integers(0, P, (SIDE, SIDE))

    def hide(self, number: int, picture: Array) -> Array:
        """What is sent."""
        return (picture + self.mask) % P


class ShiftedPads(StoredPads):
    """A convolution moves with its map, so one pad makes many: each picture gets the mask, rolled another way."""

    def hide(self, number: int, picture: Array) -> Array:
        """What is sent."""
        return (picture + np.roll(self.mask, (3 * number, 5 * number), axis=(0, 1))) % P


class NarrowPads:
    """Masks as wide as the pixels, so that 8-bit hardware can be used: nothing wraps."""

    def __init__(self, seed: int = 4) -> None:
        self.rng = np.random.default_rng(seed)

    def hide(self, number: int, picture: Array) -> Array:
        """What is sent."""
        return picture + self.rng.integers(0, 256, picture.shape)


class SummedCheck:
    """Believes a convolution whose channels add up right: the secret of Freivalds' check left out."""

    def __init__(self, weight: Array) -> None:
        self.weight = weight

    def believes(self, picture: Array, reply: Array) -> None:
        """Raises Refused."""
        if ((reply.sum(axis=-1) - convolved(picture, self.weight).sum(axis=-1)) % P).any():
            raise Refused


class SampledCheck(SummedCheck):
    """Computes a few positions again."""

    def believes(self, picture: Array, reply: Array) -> None:
        """Raises Refused."""
        at = np.random.default_rng(5).choice(SIDE * SIDE, 12, replace=False)
        right = convolved(picture, self.weight).reshape(-1, reply.shape[-1])
        if (reply.reshape(right.shape)[at] != right[at]).any():
            raise Refused


def masks_used_again() -> Outcome:
    """Two masked pictures are subtracted: the mask is gone, and what moved is left, to the pixel."""
    scene, client = make_scene(), StoredPads()
    first, second = (client.hide(i, scene.frames[i]) for i in (0, 5))
    apart = (second - first) % P
    same = (apart == (scene.frames[5] - scene.frames[0]) % P).all()
    return Outcome(bool(same), f"{int((apart != 0).sum())} pixels that changed are seen")


def shifts_that_show(first: Array, second: Array) -> list[tuple[int, int]]:
    """The shifts of the first map after which its difference to the second is small everywhere but at few places."""
    found = []
    for y in range(first.shape[0]):
        for x in range(first.shape[1]):
            apart = (second.astype(np.int64) - np.roll(first, (y, x), axis=(0, 1))) % P
            small = np.minimum(apart, P - apart) < 4096
            if small.mean() > 0.5:
                found.append((y, x))
    return found


def masks_shifted() -> Outcome:
    """All shifts of one message are subtracted from another; where the masks meet, the difference is of pixels."""
    scene, client = make_scene(), ShiftedPads()
    first, second = (client.hide(i, scene.frames[i]) for i in (1, 2))
    found = shifts_that_show(first, second)
    return Outcome(found == [(3, 5)], f"{len(found)} of {SIDE * SIDE} shifts leaves pixels: {found}")


def mean_of_frames() -> Outcome:
    """What is sent of a camera that stands still is averaged: masks that don't wrap have a mean, and it comes off."""
    scene, client = make_scene(), NarrowPads()
    still = scene.frames[0]
    mean = np.mean([client.hide(i, still) for i in range(4000)], axis=0) - 127.5
    right = float(np.corrcoef(mean.reshape(-1), still.reshape(-1))[0, 1])
    return Outcome(right > 0.99, f"4,000 frames give the picture with a correlation of {right:.3f}")


def delta_pattern() -> Outcome:
    """Masks are right, but only positions that changed are sent: which ones says where somebody walks."""
    scene = make_scene()
    hits = 0
    for i in range(1, FRAMES):
        sent = np.argwhere(scene.frames[i] != scene.frames[i - 1])  # the positions of the masked residues
        here = (sent >= scene.places[i]).all(axis=1) & (sent < scene.places[i] + 3).all(axis=1)
        before = (sent >= scene.places[i - 1]).all(axis=1) & (sent < scene.places[i - 1] + 3).all(axis=1)
        hits += bool(here.any() and (here | before).all())
    return Outcome(hits == FRAMES - 1, f"where the square is and was shows in {hits} of {FRAMES - 1} messages")


def compensated_lie() -> Outcome:
    """A lie in two channels of one pixel whose errors add up to nothing, where channels are checked by their sum."""
    return _believed(SummedCheck, lambda reply: _add(_add(reply, (4, 7, 0), 9), (4, 7, 3), -9))


def one_pixel() -> Outcome:
    """A lie in one channel of one pixel, where some positions are computed again."""
    return _believed(SampledCheck, lambda reply: _add(reply, (3, 3, 1), 1))


def _believed(kind: type[SummedCheck], lie: Callable[[Array], Array]) -> Outcome:
    scene = make_scene()
    client, right = kind(scene.weight), convolved(scene.frames[0], scene.weight)
    client.believes(scene.frames[0], right)
    try:
        client.believes(scene.frames[0], lie(right))
    except Refused:
        return Outcome(False, "the lie was found")
    return Outcome(True, f"{int((lie(right) != right).sum())} wrong elements were believed")


def _add(reply: Array, at: tuple[int, ...], error: int) -> Array:
    changed = reply.copy()
    changed[at] = (changed[at] + error) % P
    return changed
