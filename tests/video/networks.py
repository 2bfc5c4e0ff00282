"""Small networks whose graphs are awkward: branches, long skips, several inputs and outputs, writes in place."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in inference mode, with values that would show swapped or missing weights."""
    torch.manual_seed(seed)
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.0)
            tensor.data -= 0.5 * (tensor.dim() > 1)
    return module.eval()


class Skips(nn.Module):
    """A trunk with three skips of different length that overlap, and a branch that is joined late."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5))
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.side = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.MaxPool2d(3, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x)
        a = self.relu(self.first(x))
        b = self.relu(self.norm(self.layers[0](a)))
        c = self.relu(self.layers[1](b)) + a
        d = self.relu(self.layers[2](c)) * b
        e = self.layers[3](d).add_(a)
        f = self.relu(self.layers[4](e) - c)
        pooled = torch.cat([f, side], 1).mean((2, 3))
        logits: Tensor = self.head(pooled)
        return logits


class InPlace(nn.Module):
    """Writes into a view, after which both the view and the whole are read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        part = y[:, 1:3]
        part.mul_(3).relu_()
        return torch.cat([y * 2, part - 1], 1)


class Many(nn.Module):
    """Two inputs; a dictionary of outputs, one of them made early, one of them an input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(6), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        early = self.a(x)
        left, _, right = torch.cat([early, self.b(y)], -1).chunk(3, -1)
        late = (left + right).flatten() * torch.tensor([2.0]) + torch.zeros(1)
        return {"early": early, "late": late, "rest": (y, early * self.scale)}


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.two(torch.tanh(self.one(x)))
        return result
