"""Pictures that are made up, and those that a program brings."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cutset.errors import SourceError
from cutset.video.sources import ArraySource, GeneratedSource, open_source


def test_pictures_are_the_same_everywhere():
    source = GeneratedSource((30, 41), seed=5, noise=0.1)
    pixels = source.pixels(7)
    assert pixels.shape == (1, 3, 30, 41)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert hashlib.sha256(pixels).hexdigest()[:16] == "9bf5398a2e6d570a"


def test_only_shapes_move_where_there_is_no_noise():
    source = GeneratedSource((120, 160), seed=1)
    first, second = source.pixels(3), source.pixels(4)
    assert 0.001 < np.mean(first != second) < 0.2
    still = np.all([source.pixels(i) == first for i in range(8)], axis=0)
    assert still.mean() > 0.5


def test_noise_is_another_share_of_pixels_each_time():
    quiet, noisy = (GeneratedSource((120, 160), seed=1, shapes=0, noise=noise) for noise in (0.0, 0.1))
    assert np.array_equal(quiet.pixels(0), quiet.pixels(9))
    for i in range(3):
        assert 0.05 < np.any(noisy.pixels(i) != quiet.pixels(i), axis=1).mean() < 0.11
    assert not np.array_equal(noisy.pixels(0), noisy.pixels(1))


def test_text_says_everything():
    with open_source("generated:24x32,seed=3,noise=0.5,shapes=1,pictures=4") as source:
        shown = list(source)
    assert (source.size, source.codec, source.live) == ((24, 32), None, False)
    assert [picture.index for picture in shown] == [0, 1, 2, 3]
    twin = GeneratedSource((24, 32), seed=3, noise=0.5, shapes=1)
    assert all(np.array_equal(picture.pixels, twin.pixels(i)) for i, picture in enumerate(shown))
    assert open_source("generated").size == (480, 720)
    assert open_source("generated:24x32", size=(10, 12)).size == (10, 12)


WRONG = ("24", "0x5", "99999x5", "seed=-1", "noise=2", "sed=1", "noise=nan", "shapes=many")


@pytest.mark.parametrize("text", WRONG)
def test_wrong_words_are_named(text):
    with pytest.raises(SourceError, match="generated:"):
        open_source(f"generated:{text}")


def test_arrays_pass_as_they_are():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (3, 5, 7), dtype=np.uint8) for _ in range(3)]
    shown = list(ArraySource(iter([arrays[0], arrays[1][None], arrays[2]]), rate=10))
    assert [picture.time for picture in shown] == [0.0, 0.1, 0.2]
    for picture, array in zip(shown, arrays, strict=True):
        assert np.array_equal(picture.pixels, array[None])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ([], "no pictures"),
        ([np.zeros((3, 4, 5))], "uint8 arrays, not float64"),
        (["text"], "not str"),
        ([np.zeros((4, 5, 3), np.uint8)], "transpose"),
        ([np.zeros((2, 3, 4, 5), np.uint8)], "is not"),
        ([np.zeros((3, 0, 5), np.uint8)], "0x5"),
        ([np.zeros((3, 4, 5), np.uint8), np.zeros((3, 5, 4), np.uint8)], "picture 1: 5x4 after ones of 4x5"),
    ],
)
def test_wrong_arrays_are_refused(arrays, said):
    with pytest.raises(SourceError, match=said):
        list(ArraySource(arrays))
