"""ResNet50 (He et al., "Deep residual learning for image recognition", 2016).

As in torchvision, a block that halves the map does so in its 3 x 3 convolution (the paper: in its first 1 x 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cutset.video.zoo.network import Network

__all__ = ["ResNet50"]

EXPANSION = 4  # a block's output has so many times the channels of its middle


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and the input added before the last ReLU; a `downsample` where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, rows, columns) to (n, 4 * width, rows / stride, columns / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        result: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return result


class ResNet50(Network):
    """A convolution, and 3, 4, 6 and 3 blocks of four widths; the head is one linear layer."""

    HEAD = ("fc.",)

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _blocks(64, 64, 3, stride=1)
        self.layer2 = _blocks(256, 128, 4, stride=2)
        self.layer3 = _blocks(512, 256, 6, stride=2)
        self.layer4 = _blocks(1024, 512, 3, stride=2)
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(2048, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 2048, height/32, width/32)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(self.pictures(pictures)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.head:
            x = self.fc(torch.flatten(self.avgpool(x), 1))
        return x

    @staticmethod
    def gain(name: str) -> float:
        """Small branches, so that sixteen sums don't grow."""
        return 0.25 if name.endswith("bn3.weight") else 0.7 if name.endswith("downsample.1.weight") else 1.0


def _blocks(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(width * EXPANSION, width, 1) for _ in range(count - 1)]
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)
