"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", 2019), large and small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cutset.video.zoo.inverted import InvertedResidual, SqueezeExcitation, conv_norm, gain_of, timm_block, timm_norm
from cutset.video.zoo.network import Network

__all__ = ["MobileNetV3", "MobileNetV3Large", "MobileNetV3Small", "large_body"]

EPS = 0.001  # of batch norms, as torchvision has them; timm has 1e-5

Row = tuple[int, int, int, bool, bool, int]  # kernel, expanded, outputs, squeezes, hard swish, stride

LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def large_body(*, half_tail: bool = False) -> list[nn.Module]:
    """The layers of the large one before its head; with `half_tail` the last three blocks are half as wide."""
    rows = [
        (
            kernel,
            expanded // 2 if half_tail and i > 12 else expanded,
            outputs // (2 if half_tail and i >= 12 else 1),
            *rest,
        )
        for i, (kernel, expanded, outputs, *rest) in enumerate(LARGE)
    ]
    return _body(rows)  # type: ignore[arg-type]


def _body(rows: Sequence[Row]) -> list[nn.Module]:
    layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, activation=nn.Hardswish, eps=EPS)]
    inputs = 16
    for kernel, expanded, outputs, squeezes, swish, stride in rows:
        squeeze = SqueezeExcitation(expanded, _eighths(expanded // 4), nn.ReLU, nn.Hardsigmoid) if squeezes else None
        kind = nn.Hardswish if swish else nn.ReLU
        layers.append(InvertedResidual(inputs, kernel, expanded, outputs, squeeze, stride, kind, EPS))
        inputs = outputs
    layers.append(conv_norm(inputs, 6 * inputs, 1, activation=nn.Hardswish, eps=EPS))
    return layers


def _eighths(channels: int) -> int:
    """The nearest multiple of 8 that isn't below 90 %."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class MobileNetV3(Network):
    """A convolution, inverted residual blocks, a 1x1 convolution; the head is two linear layers over the means."""

    HEAD = ("classifier.",)

    def __init__(self, rows: Sequence[Row], stages: Sequence[int], width: int, head: bool = True) -> None:
        """`stages`: how many blocks each of timm's stages has."""
        super().__init__()
        self.stages = stages
        self.features = nn.Sequential(*_body(rows))
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(
                nn.Linear(6 * rows[-1][2], width), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(width, 1000)
            )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 960 or 576, height/32, width/32)."""
        x: Tensor = self.features(self.pictures(pictures))
        return self.classifier(torch.flatten(self.avgpool(x), 1)) if self.head else x

    @staticmethod
    def gain(name: str) -> float:
        """So that activations keep their scale."""
        return gain_of(name, 0.9, 0.6, 1.05)

    def timm_names(self) -> Iterator[tuple[str, str]]:
        """timm's names of parameters, and ours."""
        yield from timm_norm("features.0", "conv_stem", "bn1")
        at = 1
        for stage, count in enumerate(self.stages):
            for i in range(count):
                yield from timm_block(f"features.{at}", f"blocks.{stage}.{i}", self.features[at])  # type: ignore[arg-type]
                at += 1
        last = f"blocks.{len(self.stages)}.0"
        yield from timm_norm(f"features.{at}", f"{last}.conv", f"{last}.bn1")
        for part in ("weight", "bias"):
            yield f"conv_head.{part}", f"classifier.0.{part}"
            yield f"classifier.{part}", f"classifier.3.{part}"

    def become_timm(self) -> None:
        """timm's batch norms add less."""
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = 1e-5


class MobileNetV3Large(MobileNetV3):
    """Fifteen blocks."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(LARGE, (1, 2, 3, 4, 2, 3), 1280, head)


class MobileNetV3Small(MobileNetV3):
    """Eleven blocks."""

    def __init__(self, head: bool = True) -> None:
        super().__init__(SMALL, (1, 2, 3, 2, 3), 1024, head)

    @staticmethod
    def gain(name: str) -> float:
        """More blocks of it squeeze."""
        return gain_of(name, 1.6, 0.8, 1.05)
