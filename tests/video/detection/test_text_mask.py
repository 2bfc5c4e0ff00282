"""Masks of text: turned boxes of their regions, as the reference's geometry gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from cutset.errors import ConfigError
from cutset.video.detection import HeadFacts, HeadLimits, choose_decoder
from cutset.video.detection.text_mask import smallest_rectangle


def turned(angle: float, middle: tuple[float, float], sides: tuple[float, float], share: float = 0.9) -> np.ndarray:
    """A map with one turned rectangle."""
    rows, columns = np.mgrid[0:120, 0:160].astype(float)
    along = (columns - middle[0]) * math.cos(angle) + (rows - middle[1]) * math.sin(angle)
    across = -(columns - middle[0]) * math.sin(angle) + (rows - middle[1]) * math.cos(angle)
    inside = (np.abs(along) <= sides[0] / 2) & (np.abs(across) <= sides[1] / 2)
    return np.where(inside, share, 0.02).astype(np.float32)[None, None]


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.6, math.pi / 2])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_turned_region_grows_by_its_area_and_perimeter(angle: float, scale: int) -> None:
    mask = turned(angle, (80, 60), (70, 14))
    facts = HeadFacts([("maps", mask.shape)], (120 * scale, 160 * scale))
    decoder = choose_decoder(facts, HeadLimits())
    assert decoder is not None
    assert decoder.kind == "db"
    found = decoder.decode({"maps": mask})
    assert len(found) == 1
    assert found.label(0) == "text"
    assert 0.7 < found.scores[0] <= 0.9001, "with the pixels on its edge"
    assert found.polygons is not None
    corners = found.polygons[0] / scale
    grow = 2 * 70 * 14 * 1.6 / (2 * (70 + 14))
    sides = sorted(float(np.hypot(*(corners[i] - corners[(i + 1) % 4]))) for i in range(4))
    assert sides == pytest.approx([14 + grow] * 2 + [70 + grow] * 2, abs=3)
    assert np.allclose(corners.mean(axis=0), (80, 60), atol=1)
    box = found.boxes[0] / scale
    assert np.allclose(box, [*corners.min(axis=0), *corners.max(axis=0)], atol=1e-3)
    assert int(corners.sum(axis=1).argmin()) == 0, "from the top left on"


def test_small_faint_and_far_regions() -> None:
    mask = np.full((1, 1, 120, 160), 0.01, np.float32)
    mask[0, 0, 5:15, 10:60] = 0.95
    mask[0, 0, 40:42, 10:60] = 0.95  # two rows: too thin
    mask[0, 0, 60:70, 10:60] = 0.35  # text, and not likely
    mask[0, 0, 90:100, 100:150] = 0.8
    mask[0, 0, 110, 80] = np.nan
    facts = HeadFacts([("maps", mask.shape)], (120, 160))
    for limits, count in ((HeadLimits(), 2), (HeadLimits(score=0.3), 3), (HeadLimits(score=0.3, most=1), 1)):
        decoder = choose_decoder(facts, limits)
        assert decoder is not None
        found = decoder.decode({"maps": mask})
        assert len(found) == count
        assert np.array_equal(np.sort(found.scores)[::-1], found.scores)
        assert (found.boxes[0, :2] < (10, 5)).all(), "it has grown"
    logits = np.log(np.clip(np.nan_to_num(mask), 1e-3, 0.99) / (1 - np.clip(np.nan_to_num(mask), 1e-3, 0.99)))
    assert decoder is not None
    other = choose_decoder(facts, HeadLimits())
    assert other is not None
    assert len(other.decode({"maps": logits})) == 2
    with pytest.raises(ConfigError):
        decoder.decode({"maps": mask[0]})
    assert len(decoder.decode({"maps": np.zeros_like(mask)})) == 0


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_rectangle_is_no_larger_than_any_of_many_angles(seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 30, (3 + 2 * seed, 2))
    middle, axes, sides = smallest_rectangle(points)
    away = np.abs((points - middle) @ axes.T)
    assert (away <= sides / 2 + 1e-9).all(), "all points are in it"
    area = float(sides.prod())
    for angle in np.linspace(0, math.pi / 2, 400):
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        placed = points @ turn.T
        assert area <= float(np.ptp(placed, axis=0).prod()) + 1e-6


def test_rectangles_around_little() -> None:
    for points in ([[3, 4]], [[3, 4], [3, 4]], [[0, 0], [4, 4], [2, 2]]):
        _, axes, sides = smallest_rectangle(np.array(points))
        assert sides.min() == pytest.approx(0)
        assert np.allclose(axes @ axes.T, np.eye(2))
