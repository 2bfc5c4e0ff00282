"""SSDLite with MobileNetV3-Large (Howard et al., 2019; Sandler et al., "MobileNetV2", 2018): a detector.

As in torchvision, whose network begins with pictures of 320 x 320 scaled to -1..1 and has 91 classes, the first of
which is the background. What is made of the outputs (boxes, and which of them count) is no part of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cutset.video.zoo.inverted import InvertedResidual, conv_norm, gain_of
from cutset.video.zoo.mobilenet import EPS, large_body
from cutset.video.zoo.network import Network

__all__ = ["SsdLite"]

CLASSES, ANCHORS = 91, 6  # anchors of each place
CUT = 13  # the block whose inner map is the first that is looked at
WIDTHS = (672, 480, 512, 256, 256, 128)


class SsdLite(Network):
    """Logits (n, anchors, 91) and offsets (n, anchors, 4) of six maps; 3,234 anchors for pictures of 320 x 320.

    With `head=False` the six maps.
    """

    STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    HEAD = ("head.",)

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.backbone = SsdLiteBody()
        self.head = SsdLiteHeads() if head else None

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        maps = self.backbone(self.pictures(pictures))
        return tuple(maps) if self.head is None else self.head(maps)

    @staticmethod
    def gain(name: str) -> float:
        """So that activations keep their scale."""
        return 2.0 if "module_list" in name and name.endswith("0.1.weight") else gain_of(name, 1.0, 0.6, 1.1)


class SsdLiteBody(nn.Module):
    """Six maps, each half as large as the one before."""

    def __init__(self) -> None:
        super().__init__()
        layers = large_body(half_tail=True)
        block = layers[CUT]
        if not isinstance(block, InvertedResidual):
            raise TypeError("the network is cut inside of a block")
        self.features = nn.Sequential(
            nn.Sequential(*layers[:CUT], block.block[0]), nn.Sequential(block.block[1:], *layers[CUT + 1 :])
        )
        self.extra = nn.ModuleList(_extra(WIDTHS[i], WIDTHS[i + 1]) for i in range(1, len(WIDTHS) - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (n, 3, rows, columns) to maps (n, width, rows, columns)."""
        maps = []
        for part in (*self.features, *self.extra):
            x = part(x)
            maps.append(x)
        return maps


class SsdLiteHeads(nn.Module):
    """What six maps say of classes, and of offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.classification_head, self.regression_head = SsdLiteHead(CLASSES), SsdLiteHead(4)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and offsets of all maps' anchors."""
        return self.classification_head(maps), self.regression_head(maps)


class SsdLiteHead(nn.Module):
    """`columns` numbers of every anchor, map after map, row by row."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.module_list = nn.ModuleList(
            nn.Sequential(
                conv_norm(width, width, 3, groups=width, activation=nn.ReLU6, eps=EPS),
                nn.Conv2d(width, ANCHORS * columns, 1),
            )
            for width in WIDTHS
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (n, width, rows, columns) to (n, anchors, columns of this head)."""
        found = []
        for part, x in zip(self.module_list, maps, strict=True):
            y = part(x)
            count, _, rows, columns = y.shape
            y = y.view(count, ANCHORS, self.columns, rows, columns).permute(0, 3, 4, 1, 2)
            found.append(y.reshape(count, -1, self.columns))
        return torch.cat(found, 1)


def _extra(inputs: int, outputs: int) -> nn.Sequential:
    inner = outputs // 2
    return nn.Sequential(
        conv_norm(inputs, inner, 1, activation=nn.ReLU6, eps=EPS),
        conv_norm(inner, inner, 3, 2, groups=inner, activation=nn.ReLU6, eps=EPS),
        conv_norm(inner, outputs, 1, activation=nn.ReLU6, eps=EPS),
    )
