"""Networks of the zoo as ONNX files, and a picture that detectors of text find something in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cutset.video.zoo import build

__all__ = ["exported", "page"]


def page(height: int, width: int) -> NDArray[np.uint8]:
    """Dark strokes like letters on light paper."""
    random = np.random.default_rng(4)
    paper = np.full((1, 3, height, width), 235, np.uint8)
    for line in range(12, height - 16, 24):
        for x in range(10, width - 12, 8):
            if random.random() < 0.8:
                paper[:, :, line : line + 12, x : x + 2] = 20
                middle = line + int(random.integers(0, 10))
                paper[:, :, middle : middle + 2, x : x + 6] = 20
    return paper


def exported(name: str, folder: Path) -> Path:
    """A network of the zoo as torch's exporter writes it, for float pictures of 64 x 64."""
    network = build(name, head=name not in ("alexnet", "vgg16", "vgg19"), seed=3)
    path = folder / f"{name}.onnx"
    with torch.no_grad():
        program = torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), dynamo=True, verbose=False)
    program.save(str(path))
    return path
