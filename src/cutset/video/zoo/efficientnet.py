"""EfficientNet-B0 (Tan and Le, "EfficientNet: Rethinking model scaling", 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cutset.video.zoo.inverted import InvertedResidual, SqueezeExcitation, conv_norm, gain_of, timm_block, timm_norm
from cutset.video.zoo.network import Network

__all__ = ["EfficientNetB0"]

# Times of expansion, kernel, stride, inputs, outputs, blocks.
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
EPS = 1e-5


class EfficientNetB0(Network):
    """A convolution, sixteen inverted residual blocks, a 1x1 convolution; the head is one linear layer."""

    HEAD = ("classifier.",)

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation=nn.SiLU, eps=EPS)]
        layers += [nn.Sequential(*_stage(*stage)) for stage in STAGES]
        layers.append(conv_norm(320, 1280, 1, activation=nn.SiLU, eps=EPS))
        self.features = nn.Sequential(*layers)
        self.head = head
        if head:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, 1000), or features (n, 1280, height/32, width/32)."""
        x: Tensor = self.features(self.pictures(pictures))
        return self.classifier(torch.flatten(self.avgpool(x), 1)) if self.head else x

    @staticmethod
    def gain(name: str) -> float:
        """So that activations keep their scale."""
        return gain_of(name, 1.5, 0.8, 1.03)

    def timm_names(self) -> Iterator[tuple[str, str]]:
        """timm's names of parameters, and ours."""
        yield from timm_norm("features.0", "conv_stem", "bn1")
        for stage, (*_, count) in enumerate(STAGES):
            for i in range(count):
                block: InvertedResidual = self.features[stage + 1][i]  # type: ignore[index]
                yield from timm_block(f"features.{stage + 1}.{i}", f"blocks.{stage}.{i}", block)
        yield from timm_norm(f"features.{len(STAGES) + 1}", "conv_head", "bn2")
        for part in ("weight", "bias"):
            yield f"classifier.{part}", f"classifier.1.{part}"


def _stage(times: int, kernel: int, stride: int, inputs: int, outputs: int, count: int) -> Iterator[nn.Module]:
    for i in range(count):
        squeeze = SqueezeExcitation(inputs * times, max(1, inputs // 4), nn.SiLU, nn.Sigmoid)
        yield InvertedResidual(inputs, kernel, inputs * times, outputs, squeeze, 1 if i else stride, nn.SiLU, EPS)
        inputs = outputs
