"""VGG (Simonyan and Zisserman, 2015): configurations D (16 layers) and E (19 layers), without batch norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cutset.video.zoo.network import Network

__all__ = ["VGG", "VGG16", "VGG19"]

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five blocks of 3 x 3 convolutions, each ended by a pool; `depths` says how many a block has."""

    HEAD = ("classifier.",)

    def __init__(self, depths: Sequence[int], head: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(*_blocks(depths))
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(7)
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 1000),
            )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 512, height/32, width/32)."""
        x: Tensor = self.features(self.pictures(pictures))
        return self.classifier(torch.flatten(self.avgpool(x), 1)) if self.head else x


class VGG16(VGG):
    """Thirteen convolutions and three linear layers."""

    def __init__(self, head: bool = True) -> None:
        super().__init__((2, 2, 3, 3, 3), head)


class VGG19(VGG):
    """Sixteen convolutions and three linear layers."""

    def __init__(self, head: bool = True) -> None:
        super().__init__((2, 2, 4, 4, 4), head)


def _blocks(depths: Sequence[int]) -> Iterator[nn.Module]:
    channels = 3
    for depth, width in zip(depths, WIDTHS, strict=True):
        for _ in range(depth):
            yield nn.Conv2d(channels, width, kernel_size=3, padding=1)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2, stride=2)
