"""Boxes of a network's outputs that thresholds of delta compute are found by."""

from __future__ import annotations

import numpy as np

from cutset.video.detection import HeadLimits, choose_decoder
from cutset.video.detection.choosing import HeadFacts
from cutset.video.detection.late_boxes import LateBoxes


def test_boxes_scores_and_classes_stand_beside_each_other() -> None:
    outputs = np.zeros((1, 6, 2100), np.float32)  # middle, size, scores of two classes
    outputs[0, :, 7] = 100, 50, 20, 10, 0.1, 0.9
    outputs[0, :, 9] = 200, 150, 40, 30, 0.8, 0.1
    facts = HeadFacts((("output0", outputs.shape),), (320, 320), ("a", "b"), None)
    decoder = choose_decoder(facts, HeadLimits(0.25, 0.45), "yolo")
    found = LateBoxes(decoder)({"output0": outputs})
    assert found.dtype == np.float32
    assert np.allclose(found, [[90, 45, 110, 55, 0.9, 1], [180, 135, 220, 165, 0.8, 0]])
    assert LateBoxes(decoder)({"output0": np.zeros_like(outputs)}).shape == (0, 6)
