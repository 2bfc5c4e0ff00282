"""A trained detector of text in integers, against floats, on pictures of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from cutset.video.delta.box_agreement import BoxAgreement
from cutset.video.detection import HeadLimits, choose_decoder, facts_of
from cutset.video.onnx_model import OnnxModel
from cutset.video.quantised.integer_stage import IntegerModel
from cutset.video.quantised.picture_products import LocalProducts
from cutset.video.quantised.quantising import quantise_network

WORDS = ("exit", "baker street", "open", "platform 9", "tickets", "library", "no entry", "museum", "24 hours", "coffee")


def signs(count: int, seed: int, size: tuple[int, int]) -> list[Any]:
    """Words of several sizes and shades on plain or noisy ground."""
    from PIL import Image, ImageDraw, ImageFont

    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        ground = np.full((*size, 3), rng.integers(120, 255), np.uint8)
        ground = np.clip(ground + rng.normal(0, rng.uniform(0, 12), ground.shape), 0, 255).astype(np.uint8)
        picture = Image.fromarray(ground)
        draw, y = ImageDraw.Draw(picture), 6
        while y < size[0] - 26:
            height = int(rng.integers(14, 26))
            x = int(rng.integers(4, 30))
            shade = tuple(int(one) for one in rng.integers(0, 90, 3))
            draw.text((x, y), str(rng.choice(WORDS)), shade, ImageFont.load_default(height))
            y += height + 12
        found.append(np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)[None]))
    return found


def agreement(path: Path, size: tuple[int, int], calibrate: int, pictures: int) -> BoxAgreement:
    """Of the boxes that integers and floats find."""
    model = OnnxModel.of(path, size, pixels="signed")
    network = quantise_network(model, signs(calibrate, 1, size), path.name)
    assert len(network.layers) > 10
    decoder = choose_decoder(facts_of(model.graph, model.metadata, (), None), HeadLimits())
    assert decoder is not None
    integers, found = IntegerModel(network, LocalProducts(network.layers)), BoxAgreement()
    for picture in signs(pictures, 2, size):
        boxes = [decoder.decode(one.run(picture)) for one in (integers, model)]
        ours, truth = (np.c_[one.boxes, one.scores, one.classes] for one in boxes)
        found.add(ours, truth)
    return found


@pytest.mark.slow
def test_the_detector_of_text_finds_the_same(text_detector: Path) -> None:
    found = agreement(text_detector, (224, 320), 10, 16)
    assert found.truth >= 100
    assert found.f1 >= 0.98
