"""Inverted residual blocks with squeeze and excitation, which MobileNetV3 and EfficientNet are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

__all__ = ["InvertedResidual", "SqueezeExcitation", "conv_norm", "gain_of", "timm_block", "timm_norm"]

Activation = Callable[[], nn.Module]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch norm, and an activation unless it is None: 0, 1 and 2 of a sequence."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs, eps=eps), *([] if activation is None else [activation()])]
    return nn.Sequential(*layers)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what two small layers make of all channels' means."""

    def __init__(self, channels: int, squeezed: int, activation: Activation, scale: Activation) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = activation(), scale()

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, rows, columns) to the same shape."""
        scale: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """1x1 to `expanded` channels where they are more, depthwise, squeeze and excitation, 1x1 back without activation.

    The input is added where the shapes are equal.
    """

    def __init__(
        self,
        inputs: int,
        kernel: int,
        expanded: int,
        outputs: int,
        squeeze: SqueezeExcitation | None,
        stride: int,
        activation: Activation,
        eps: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv_norm(inputs, expanded, 1, activation=activation, eps=eps))
        layers.append(conv_norm(expanded, expanded, kernel, stride, groups=expanded, activation=activation, eps=eps))
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(conv_norm(expanded, outputs, 1, activation=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, rows, columns) to (n, outputs, rows / stride, columns / stride)."""
        y: Tensor = self.block(x)
        return torch.add(y, x) if self.adds else y


def gain_of(name: str, squeezed: float, plain: float, other: float) -> float:
    """The scale of a random parameter: batch norms that end a block with squeeze and excitation, which halve what
    passes, those that end one without, and the other ones. Branches that are added must not grow."""
    if not name.endswith(".1.weight") or name.startswith("classifier"):
        return 1.0
    last = re.search(r"(?:block|features\.1\.0)\.([23])\.1\.weight$", name)
    return other if last is None else squeezed if last[1] == "3" else plain


def timm_norm(own: str, conv: str, norm: str) -> Iterator[tuple[str, str]]:
    """timm's names of a `conv_norm`'s parameters and ours, which begin with `own`."""
    yield f"{conv}.weight", f"{own}.0.weight"
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{norm}.{part}", f"{own}.1.{part}"


def timm_block(own: str, theirs: str, block: InvertedResidual) -> Iterator[tuple[str, str]]:
    """timm's names of a block's parameters and ours."""
    kinds: Sequence[nn.Module] = list(block.block)
    expands = sum(isinstance(kind, nn.Sequential) for kind in kinds) == 3
    convs = iter(("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw"))
    norms = iter(("bn1", "bn2", "bn3"))
    for i, kind in enumerate(kinds):
        if isinstance(kind, SqueezeExcitation):
            for ours, other in (("fc1", "conv_reduce"), ("fc2", "conv_expand")):
                for part in ("weight", "bias"):
                    yield f"{theirs}.se.{other}.{part}", f"{own}.block.{i}.{ours}.{part}"
        else:
            yield from timm_norm(f"{own}.block.{i}", f"{theirs}.{next(convs)}", f"{theirs}.{next(norms)}")
