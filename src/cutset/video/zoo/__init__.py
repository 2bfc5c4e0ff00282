"""Convolutional networks with torchvision's parameter names, so that its weight files load, and timm's; random weights
otherwise.

A network takes pictures (n, 3, height, width): uint8 in 0..255 as a camera gives them, which it normalises itself, or
float32 that is normalised already. It gives logits (n, 1000), or with `head=False` the feature map before the head;
a detector gives logits and offsets of its anchors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.config import did_you_mean
from cutset.errors import ModelError

if TYPE_CHECKING:
    from cutset.video.zoo.network import Network

__all__ = ["ZOO", "build"]

# The name on the command line: module and class.
ZOO = {
    "alexnet": ("cutset.video.zoo.alexnet", "AlexNet"),
    "vgg16": ("cutset.video.zoo.vgg", "VGG16"),
    "vgg19": ("cutset.video.zoo.vgg", "VGG19"),
    "googlenet": ("cutset.video.zoo.googlenet", "GoogLeNet"),
    "resnet18": ("cutset.video.zoo.resnet", "ResNet18"),
    "resnet34": ("cutset.video.zoo.resnet", "ResNet34"),
    "resnet50": ("cutset.video.zoo.resnet", "ResNet50"),
    "resnet101": ("cutset.video.zoo.resnet", "ResNet101"),
    "mobilenet_v3_large": ("cutset.video.zoo.mobilenet", "MobileNetV3Large"),
    "mobilenet_v3_small": ("cutset.video.zoo.mobilenet", "MobileNetV3Small"),
    "efficientnet_b0": ("cutset.video.zoo.efficientnet", "EfficientNetB0"),
    "convnext_tiny": ("cutset.video.zoo.convnext", "ConvNextTiny"),
    "ssdlite320_mobilenet_v3_large": ("cutset.video.zoo.ssdlite", "SsdLite"),
}


def build(
    name: str,
    *,
    head: bool = True,
    weights: Path | None = None,
    seed: int = 0,
    shapes_only: bool = False,
    log: Callable[[str], None] | None = None,
) -> Network:
    """A network of the zoo in inference mode, with the weights of a file or random ones by seed.

    With `shapes_only` its parameters lie on torch's meta device: shapes without values or memory, for a graph. `log`
    hears what of a file was not needed: auxiliary heads, and the head where it is left out.
    Raises ModelError for an unknown name or where torch isn't installed, CheckpointError for weights that don't fit.
    """
    if name not in ZOO:
        raise ModelError(
            f"the zoo has no {name!r}{did_you_mean(name, ZOO)}; it has {', '.join(ZOO)}. Files of ONNX end in .onnx"
        )
    try:
        import torch
    except ImportError:
        raise ModelError("stream needs torch: pip install 'cutset[torch]'") from None
    from cutset.video.zoo.weights import fill_random, load_weights

    module, class_name = ZOO[name]
    with torch.device("meta"):  # spares the time of an initialisation that is overwritten
        network: Network = getattr(importlib.import_module(module), class_name)(head=head)
    network.eval().requires_grad_(False)
    if shapes_only:
        return network
    network.to_empty(device="cpu")
    network.pictures.reset()
    if weights is None:
        fill_random(network, seed)
    else:
        rest = load_weights(network, weights)
        if rest and log:
            parts = sorted({name.split(".")[0] for name in rest})
            log(f"{weights}: {len(rest)} tensors are not needed and were left out ({', '.join(parts)})")
    return network
