"""GoogLeNet (Szegedy et al., "Going deeper with convolutions", 2015) with batch norm, for inference.

As in torchvision, whose weights came from TensorFlow: the third branch of a block has 3 x 3 kernels where the paper has
5 x 5, batch norm adds 0.001, and pictures are scaled to -1..1. The two auxiliary heads, which only training needs, are
left out; their tensors in a weight file are ignored.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cutset.video.zoo.network import Network

__all__ = ["GoogLeNet"]


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches over one input, joined by channel: 1x1; 1x1, 3x3; 1x1, 3x3; pool, 1x1.

    `outputs` is the width of branch 1, of both layers of branches 2 and 3, and of branch 4.
    """

    def __init__(self, inputs: int, outputs: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce2, two, reduce3, three, four = outputs
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, reduce2, 1), BasicConv2d(reduce2, two, 3))
        self.branch3 = nn.Sequential(BasicConv2d(inputs, reduce3, 1), BasicConv2d(reduce3, three, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), BasicConv2d(inputs, four, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(Network):
    """Three convolutions and nine inception blocks; the head is one linear layer."""

    STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    HEAD = ("fc.",)
    UNUSED = ("aux1.", "aux2.")

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32))
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64))
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128))
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128))
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.dropout = nn.Dropout(0.2)
            self.fc = nn.Linear(1024, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 1024, height/32, width/32)."""
        x: Tensor = self.maxpool1(self.conv1(self.pictures(pictures)))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        if self.head:
            x = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return x
