"""ResNet18, 34, 50 and 101 (He et al., "Deep residual learning for image recognition", 2016).

As in torchvision, a block of three convolutions that halves the map does so in the 3 x 3 one (the paper: in the first
1 x 1). timm has the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cutset.video.zoo.network import Network

__all__ = ["ResNet", "ResNet18", "ResNet34", "ResNet50"]

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """3x3, 3x3, and the input added before the last ReLU; a `downsample` where shapes differ."""

    EXPANSION = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, rows, columns) to (n, width, rows / stride, columns / stride)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and the input added before the last ReLU; a `downsample` where shapes differ."""

    EXPANSION = 4  # a block's output has so many times the channels of its middle

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, rows, columns) to (n, 4 * width, rows / stride, columns / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        result: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return result


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(Network):
    """A convolution, and `depths` blocks of four widths; the head is one linear layer."""

    HEAD = ("fc.",)

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], head: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = 64
        for i, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), 1):
            outputs = width * block.EXPANSION
            rest = [block(outputs, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i}", nn.Sequential(block(inputs, width, 1 if i == 1 else 2), *rest))
            inputs = outputs
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(inputs, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 512 or 2048, height/32, width/32)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(self.pictures(pictures)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.head:
            x = self.fc(torch.flatten(self.avgpool(x), 1))
        return x

    @staticmethod
    def gain(name: str) -> float:
        """Small branches, so that the sums don't grow."""
        return 0.25 if name.endswith("bn3.weight") else 0.7 if name.endswith("downsample.1.weight") else 1.0


class ResNet18(ResNet):
    """Blocks of two convolutions: 2, 2, 2 and 2."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), head)

    @staticmethod
    def gain(name: str) -> float:
        """Small branches, so that the sums don't grow."""
        return 0.25 if name.endswith("bn2.weight") else 0.7 if name.endswith("downsample.1.weight") else 1.0


class ResNet34(ResNet):
    """Blocks of two convolutions: 3, 4, 6 and 3."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(BasicBlock, (3, 4, 6, 3), head)

    @staticmethod
    def gain(name: str) -> float:
        """Small branches, so that the sums don't grow."""
        return ResNet18.gain(name)


class ResNet50(ResNet):
    """Blocks of three convolutions: 3, 4, 6 and 3."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), head)


class ResNet101(ResNet):
    """Blocks of three convolutions: 3, 4, 23 and 3."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(Bottleneck, (3, 4, 23, 3), head)
