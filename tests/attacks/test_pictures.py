"""Attacks on hidden pictures break the schemes that they are made for, and fail on ours; where ours is weakened they
don't, so what they look at is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from attacks import our_pictures
from attacks.pictures import FRAMES, make_scene
from attacks.suite import PICTURE_ATTACKS
from cutset.offload.client import ledger, pad_sources
from cutset.offload.client.convolution_check import ConvolutionCheck


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    our_pictures.scene.cache_clear()
    yield
    our_pictures.scene.cache_clear()


@pytest.mark.parametrize("attack", PICTURE_ATTACKS, ids=lambda attack: attack.name)
def test_the_attack_breaks_its_scheme_and_not_ours(attack):
    old = attack.old()
    assert old.succeeded, old.figure
    assert attack.idea.endswith(".")
    outcome = attack.ours()
    assert not outcome.succeeded, outcome.figure


def test_an_honest_run_gives_the_convolution_and_modes_agree():
    frames = make_scene().frames[:3]
    masked, clear = our_pictures.watch(frames), our_pictures.watch(frames, mode="verified")
    assert masked.error is None
    for one, other in zip(masked.answers, clear.answers, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [array.dtype.name for array in clear.arrays] == ["int16"] * 3
    np.testing.assert_array_equal(clear.sent[0], frames[0])


def test_masks_that_repeat_are_found(monkeypatch):
    monkeypatch.setattr(ledger, "seed_of", lambda master, number: bytes(32))
    assert our_pictures.masks_used_again().succeeded


def test_masks_that_are_one_mask_shifted_are_found(monkeypatch):
    honest = pad_sources.residues
    calls = []

    def shifted(seed, count, start=0):
        calls.append(seed)
        mask = honest(bytes(32), count, start)
        return np.roll(mask.reshape(16, 16), len(calls), axis=1).reshape(-1) if count == 256 else mask

    monkeypatch.setattr(pad_sources, "residues", shifted)
    assert our_pictures.masks_shifted().succeeded


def test_masks_that_are_narrow_are_found(monkeypatch):
    honest = pad_sources.residues
    monkeypatch.setattr(pad_sources, "residues", lambda *args: honest(*args) >> 22)
    assert our_pictures.mean_of_frames().succeeded


def test_a_check_without_a_secret_is_deceived(monkeypatch):
    made = ConvolutionCheck.__init__

    def known(self, weight, shape, pool=None, repetitions=2):
        monkeypatch.setattr(
            "cutset.offload.client.convolution_check.random_residues", lambda count: np.ones(count, np.uint32)
        )
        made(self, weight, shape, pool, repetitions)

    monkeypatch.setattr(ConvolutionCheck, "__init__", known)
    assert our_pictures.compensated_lie().succeeded


def test_enough_is_captured_for_the_statistics():
    assert sum(one.size for one in our_pictures.scene().sent) == 2 * FRAMES * 256
