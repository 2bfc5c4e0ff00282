"""A small network with branches, pictures with a moving square, and what they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cutset.video.imports.export import Exported, export
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.measure import measure

SIZE = (48, 64)


class Branches(nn.Module):
    """Convolution, ReLU, pooling; two branches that are concatenated, one skip that is added; a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 2, 5, padding=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.first(pictures.float() / 255)))
        y = torch.cat([self.left(x), self.right(x)], 1)
        z = torch.relu(self.norm(y) + x)
        logits: Tensor = self.head(z.mean((2, 3)))
        return logits


def moving(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures whose background stands still, with a square that jumps by other steps and sizes each time."""
    rng = np.random.default_rng(seed)
    back = rng.integers(0, 256, (3, *SIZE), np.uint8)
    found = []
    for _ in range(count):
        picture = back.copy()
        side = int(rng.integers(2, 30))
        top, left = rng.integers(0, SIZE[0] - side), rng.integers(0, SIZE[1] - side)
        picture[:, top : top + side, left : left + side] = rng.integers(0, 256, (3, 1, 1), np.uint8)
        found.append(picture[None])
    return found


@pytest.fixture(scope="session")
def exported() -> Exported:
    torch.manual_seed(3)
    return export(Branches().eval(), torch.zeros(1, 3, *SIZE, dtype=torch.uint8))


@pytest.fixture(scope="session")
def changes(exported: Exported) -> Changes:
    return measure(*exported, moving(61), source="a square")
