"""Faces in pictures, for detectors of faces: drawn by proportions, with shadows, each before a plain wall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.detection.box_drawing import pillow

__all__ = ["FaceBoard", "draw_face"]

FINE = 4  # times as large it is drawn, for smooth edges
SKINS = ((234, 192, 164), (222, 172, 140), (198, 146, 112), (168, 116, 84), (240, 204, 180))
HAIRS = ((42, 30, 24), (78, 52, 34), (24, 22, 24), (120, 84, 46), (150, 118, 76))
CLOTHES = ((60, 78, 120), (120, 40, 48), (52, 88, 64), (90, 90, 98), (36, 40, 52))
NODS, STILL = 12, 5  # steps of a nod, and of one sway; pictures until the next step


@dataclass(frozen=True)
class _Face:
    picture: NDArray[np.float32]  # (3, rows, columns)
    cover: NDArray[np.float32]  # (rows, columns), 0 to 1


@dataclass(frozen=True)
class _Tile:
    top: int
    left: int
    side: int
    wall: NDArray[np.float32]  # its colour
    moves: int
    face: _Face


class FaceBoard:
    """Tiles with faces as of a video call, at places in the upper half that depend on the size alone; a few nod or sway
    a little now and then. Raises DeviceError without Pillow."""

    def __init__(self, size: tuple[int, int], seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        side = max(min(size) // 5, 24)
        tile = side + side // 4
        self._tiles: list[_Tile] = []
        for top in range(side // 8, max(size[0] // 2, tile) - tile // 2, tile):
            for left in range(side // 8, size[1] - tile, tile + side // 8):
                walls = rng.integers(95, 150, 3).astype(np.float32)
                self._tiles.append(_Tile(top, left, tile, walls, len(self._tiles) % 4, draw_face(rng, side)))

    def drawn(self, picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """A copy of picture `number` (1, 3, rows, columns), with faces."""
        found = picture.copy()
        turn = 2 * np.pi * (number // STILL % NODS) / NODS
        for tile in self._tiles:
            wall = np.broadcast_to(tile.wall[:, None, None], (3, tile.side, tile.side)).copy()
            rows, columns = tile.face.cover.shape
            down = (tile.side - rows) + (round(1.5 * np.sin(turn)) - 2 if tile.moves == 1 else 0)
            across = (tile.side - columns) // 2 + (round(2 * np.sin(turn)) if tile.moves == 2 else 0)
            there = wall[:, down : down + rows, across : across + columns]
            there += tile.face.cover * (tile.face.picture - there)
            to = found[0, :, tile.top : tile.top + tile.side, tile.left : tile.left + tile.side]
            to[...] = np.clip(np.rint(wall), 0, 255).astype(np.uint8)[:, : to.shape[1], : to.shape[2]]
        return found


def draw_face(rng: np.random.Generator, side: int) -> _Face:
    """A head with shoulders of about `side` pixels, by a few numbers that are drawn."""
    big, image, draw = side * FINE, pillow().Image, pillow().ImageDraw
    skin, hair = (np.array(colours[int(rng.integers(len(colours)))]) for colours in (SKINS, HAIRS))
    cloth = CLOTHES[int(rng.integers(len(CLOTHES)))]
    wide, tall = big * rng.uniform(0.24, 0.28), big * rng.uniform(0.33, 0.37)  # half of the head
    x, y, long = big / 2, big * 0.47, bool(rng.integers(2))
    canvas, cover = image.new("RGB", (big, big), tuple(skin)), image.new("L", (big, big), 0)
    pen, mask = draw.Draw(canvas), draw.Draw(cover)

    def oval(cx: float, cy: float, rx: float, ry: float, colour: Any, *, covers: bool = False) -> None:
        box = (cx - rx, cy - ry, cx + rx, cy + ry)
        pen.ellipse(box, fill=tuple(int(c) for c in colour))
        if covers:
            mask.ellipse(box, fill=255)

    oval(x, y - tall * 0.12, wide * 1.18, tall * 1.08, hair, covers=True)
    if long:
        oval(x, y + tall * 0.45, wide * 1.22, tall * 1.0, hair * 0.9, covers=True)
    oval(x, big * 1.08, big * 0.46, big * 0.26, cloth, covers=True)
    neck = (x - wide * 0.45, y + tall * 0.6, x + wide * 0.45, big * 0.92)
    pen.rounded_rectangle(neck, wide * 0.2, fill=tuple(int(c) for c in skin * 0.8))
    mask.rounded_rectangle(neck, wide * 0.2, fill=255)
    for part in range(12):  # rounder towards the middle, by light from above
        light, less = 0.84 + 0.02 * part, 1 - 0.05 * part
        oval(x - wide * 0.012 * part, y - tall * 0.015 * part, wide * less, tall * less, skin * light, covers=part == 0)
    for one in (-1, 1):
        oval(x + one * wide * 1.0, y + tall * 0.02, wide * 0.1, tall * 0.16, skin * 0.82, covers=True)
        ex, ey = x + one * wide * 0.42, y - tall * 0.08
        oval(ex, ey, wide * 0.25, tall * 0.115, skin * 0.74)
        oval(ex, ey + tall * 0.01, wide * 0.185, tall * 0.065, (236, 232, 228))
        iris = (70, 50, 36) if rng.integers(3) else (70, 96, 120)
        oval(ex, ey + tall * 0.005, wide * 0.085, tall * 0.065, iris)
        oval(ex, ey + tall * 0.005, wide * 0.045, tall * 0.036, (16, 14, 14))
        oval(ex - wide * 0.03, ey - tall * 0.015, wide * 0.02, tall * 0.016, (250, 250, 250))
        pen.arc(
            (ex - wide * 0.2, ey - tall * 0.075, ex + wide * 0.2, ey + tall * 0.09), 190, 350, (40, 28, 24), big // 110
        )
        pen.arc(
            (ex - wide * 0.28, ey - tall * 0.23, ex + wide * 0.28, ey + tall * 0.1),
            205,
            335,
            tuple(int(c) for c in hair),
            big // 48,
        )
        oval(x + one * wide * 0.55, y + tall * 0.3, wide * 0.2, tall * 0.11, skin * 0.97 + np.array([8, -4, -4]))
    pen.line(
        (x - wide * 0.07, y - tall * 0.1, x - wide * 0.12, y + tall * 0.2),
        tuple(int(c) for c in skin * 0.84),
        big // 70,
    )
    oval(x, y + tall * 0.24, wide * 0.17, tall * 0.075, skin * 0.86)
    oval(x + wide * 0.01, y + tall * 0.215, wide * 0.1, tall * 0.055, skin * 1.04)
    for one in (-1, 1):
        oval(x + one * wide * 0.09, y + tall * 0.275, wide * 0.045, tall * 0.02, skin * 0.45)
    lips = np.array([170, 84, 80]) if long else skin * np.array([0.78, 0.6, 0.6])
    oval(x, y + tall * 0.52, wide * 0.32, tall * 0.075, lips)
    oval(x, y + tall * 0.56, wide * 0.24, tall * 0.05, lips * 1.1)
    pen.line((x - wide * 0.31, y + tall * 0.52, x + wide * 0.31, y + tall * 0.52), (90, 40, 40), big // 100)
    oval(x, y + tall * 0.66, wide * 0.2, tall * 0.025, skin * 0.84)
    pen.chord(
        (x - wide * 1.02, y - tall * 1.05, x + wide * 1.02, y + tall * 0.35), 202, 338, tuple(int(c) for c in hair)
    )
    small = (side, side)
    canvas = canvas.filter(pillow().ImageFilter.GaussianBlur(FINE * 0.6))
    pixels = np.asarray(canvas.resize(small, image.Resampling.BOX), np.float32).transpose(2, 0, 1)
    covered = np.asarray(cover.resize(small, image.Resampling.BOX), np.float32) * np.float32(1 / 255)
    return _Face(pixels + rng.normal(0, 2.5, pixels.shape).astype(np.float32), covered)
