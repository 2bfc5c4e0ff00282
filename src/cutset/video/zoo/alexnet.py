"""AlexNet in one column (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cutset.video.zoo.network import Network

__all__ = ["AlexNet"]


class AlexNet(Network):
    """Five convolutions, three pools; the head is three linear layers over a 6 x 6 map."""

    HEAD = ("classifier.",)

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(6)
            self.classifier = nn.Sequential(
                nn.Dropout(),
                nn.Linear(256 * 6 * 6, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Linear(4096, 1000),
            )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 256, height/32, width/32)."""
        x: Tensor = self.features(self.pictures(pictures))
        return self.classifier(torch.flatten(self.avgpool(x), 1)) if self.head else x
