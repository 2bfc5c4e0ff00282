"""A small network with every kind of layer that is a product, and one of them folded into a norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutset.video.torch_model import TorchModel
from video.networks import filled

SIZE = (18, 22)


class Mixed(nn.Module):
    """Odd windows, a norm, groups, a depthwise layer, a skip, a concatenation, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, (3, 5), stride=2, padding=(1, 2))
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=2, bias=False)
        self.grouped_norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.wide = nn.Conv2d(12, 16, 3, padding="same", dilation=2)
        self.shared_norm = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(28, 20, 1)
        self.hidden, self.head = nn.Linear(20, 40), nn.Linear(40, 7, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures.float() - 100) / 60
        a = torch.relu(self.norm(self.first(x)))
        b = torch.relu(self.grouped_norm(self.grouped(a))) + a
        c = self.wide(self.deep(b))
        d = torch.cat([b, self.shared_norm(c) + c], 1)
        e = torch.nn.functional.max_pool2d(torch.relu(self.point(d)), 2)
        rows: Tensor = self.head(torch.relu(self.hidden(e.flatten(2).transpose(1, 2))))
        return rows.mean(1)


def centred(module: nn.Module, seed: int = 0) -> nn.Module:
    """Filled so that sums grow little and statistics matter."""
    filled(module, seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data /= float(np.sqrt(parameter[0].numel())) / 2
    return module


def mixed() -> TorchModel:
    return TorchModel.of(centred(Mixed()), (1, 3, *SIZE))


def pictures(count: int = 3, seed: int = 0, size: tuple[int, int] = SIZE) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (1, 3, *size), np.uint8) for _ in range(count)]
