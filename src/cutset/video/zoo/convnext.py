"""ConvNeXt-Tiny (Liu et al., "A ConvNet for the 2020s", 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cutset.video.zoo.network import Network

__all__ = ["ConvNextTiny"]

WIDTHS, DEPTHS = (96, 192, 384, 768), (3, 3, 9, 3)
EPS = 1e-6
PARTS = ("weight", "bias")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (n, channels, rows, columns)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, rows, columns) to the same shape."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class Permute(nn.Module):
    """Dimensions in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """A view of x."""
        return x.permute(self.order)


class ConvNextBlock(nn.Module):
    """7x7 depthwise, layer norm, two linear layers of which the inner is four times as wide; scaled and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(width, eps=EPS),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, rows, columns) to the same shape."""
        result: Tensor = self.layer_scale * self.block(x) + x
        return result


class ConvNextTiny(Network):
    """Four stages of 3, 3, 9 and 3 blocks; the head is a layer norm of the means, and one linear layer."""

    HEAD = ("classifier.",)

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, 4), ChannelNorm(WIDTHS[0], eps=EPS))]
        for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            if i:
                before = WIDTHS[i - 1]
                layers.append(nn.Sequential(ChannelNorm(before, eps=EPS), nn.Conv2d(before, width, 2, 2)))
            layers.append(nn.Sequential(*(ConvNextBlock(width) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(
                ChannelNorm(WIDTHS[-1], eps=EPS), nn.Flatten(1), nn.Linear(WIDTHS[-1], 1000)
            )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 768, height/32, width/32)."""
        x: Tensor = self.features(self.pictures(pictures))
        return self.classifier(self.avgpool(x)) if self.head else x

    @staticmethod
    def gain(name: str) -> float:
        """Small branches, so that eighteen sums don't grow."""
        return 0.1 if name.endswith("layer_scale") else 1.0

    def timm_names(self) -> Iterator[tuple[str, str]]:
        """timm's names of parameters, and ours."""
        pairs = [("stem.0", "features.0.0"), ("stem.1", "features.0.1")]
        for stage, depth in enumerate(DEPTHS):
            if stage:
                pairs += [(f"stages.{stage}.downsample.{i}", f"features.{2 * stage}.{i}") for i in range(2)]
            for i in range(depth):
                theirs, ours = f"stages.{stage}.blocks.{i}", f"features.{2 * stage + 1}.{i}"
                yield f"{theirs}.gamma", f"{ours}.layer_scale"
                inner = zip(("conv_dw", "norm", "mlp.fc1", "mlp.fc2"), (0, 2, 3, 5), strict=True)
                pairs += [(f"{theirs}.{name}", f"{ours}.block.{place}") for name, place in inner]
        pairs += [("head.norm", "classifier.0"), ("head.fc", "classifier.2")]
        yield from ((f"{one}.{part}", f"{other}.{part}") for one, other in pairs for part in PARTS)
