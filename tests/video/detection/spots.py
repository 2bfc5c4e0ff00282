"""A detector whose answers are known: it finds the red, the green and the blue spot of a grey picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cutset.video.detection.yolo_head import box_counts

SIDE = 16
NAMES = ("red", "green", "blue")


class Spots(nn.Module):
    """8-bit pictures (1, 3, rows, columns) to a YOLO head (1, 7, n), of which one place each has a spot."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.places = min(count for count in box_counts(size) if count > 3)
        rows, columns = size
        self.register_buffer("across", torch.arange(columns).float().add(0.5).expand(rows, columns).clone())
        self.register_buffer("down", torch.arange(rows).float().add(0.5)[:, None].expand(rows, columns).clone())

    def forward(self, pictures: Tensor) -> Tensor:
        colours = pictures.float() / 255
        others = torch.cat([colours[:, 1:], colours[:, :1]], 1), torch.cat([colours[:, 2:], colours[:, :2]], 1)
        spots = (colours - torch.maximum(*others)).clamp(0) * (colours > 0.5)  # (1, 3, rows, columns)
        mass = spots.sum((2, 3))  # (1, 3)
        x = (spots * self.across).sum((2, 3)) / (mass + 1e-6)
        y = (spots * self.down).sum((2, 3)) / (mass + 1e-6)
        side = torch.full_like(x, SIDE)
        score = (mass / (SIDE * SIDE)).clamp(0, 1) * 0.9
        shares = torch.diag_embed(score)  # (1, 3, 3): each place has its class
        head = torch.cat([torch.stack([x, y, side, side], 1), shares], 1)  # (1, 7, 3)
        return torch.nn.functional.pad(head, (0, self.places - 3))


def picture(size: tuple[int, int], spots: dict[str, tuple[int, int]], seed: int = 0) -> NDArray[Any]:
    """Grey noise (1, 3, rows, columns), with spots whose left upper corners (x, y) are given by colour."""
    grey = np.random.default_rng(seed).integers(90, 110, (1, 1, *size), np.uint8)
    pixels = np.repeat(grey, 3, axis=1)
    for name, (x, y) in spots.items():
        colour = np.zeros(3, np.uint8)
        colour[NAMES.index(name)] = 255
        pixels[0, :, max(y, 0) : y + SIDE, max(x, 0) : x + SIDE] = colour[:, None, None]
    return pixels


def box_of(corner: tuple[int, int]) -> list[float]:
    """A spot's box."""
    return [corner[0], corner[1], corner[0] + SIDE, corner[1] + SIDE]
