"""What a decoder says of changed elements, against tensors before and after, compared bit by bit."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from codec.payloads import pair, same, sent, stream, video
from cutset.codec import Budget, Changed, Verdict
from cutset.codec.payload import DTYPES
from cutset.errors import FrameError


def raw(tensor):
    """Each element's bytes, so that -0.0 isn't 0.0 and a NaN is itself."""
    return np.frombuffer(tensor.tobytes(), f"V{tensor.itemsize}").reshape(tensor.shape)


def differs(before, after):
    """The slow twin: an element at a time."""
    flat = [a.tobytes() != b.tobytes() for a, b in zip(raw(before).flat, raw(after).flat, strict=True)]
    return np.array(flat, bool).reshape(after.shape)


@pytest.mark.parametrize("compressor", [None, "best"])
@pytest.mark.parametrize("bandwidth", [1e4, 1e6, math.inf])
def test_the_mask_names_what_differs_bit_by_bit(bandwidth, compressor):
    """Masks as they are, nested and compressed; values plain and as changes; NaNs, zeros of both signs."""
    rng = np.random.default_rng(3)
    tensor = rng.standard_normal((3, 7, 19), np.float32)
    encoder, decoder = pair(tensor, bandwidth=bandwidth, compressor=compressor)
    kinds, held = [], None
    for sequence, share in enumerate((0.1, 0.1, 0.0, 0.02, 0.5, 1.0, 0.1, 0.25)):
        tensor = video(rng, tensor, share)
        tensor[sequence % 3, 2] *= -1  # zeros change their sign
        tensor[0, 0, sequence] = np.nan
        payload, arrays = sent(encoder.encode(tensor, sequence))
        verdict, got, changed = decoder.decode(payload, arrays)
        assert verdict is Verdict.APPLIED
        assert same(got, tensor)
        assert changed.everything == (payload.kind == "key") == (changed.bits is None)
        if payload.kind == "key":
            assert changed.count == tensor.size
            assert changed.mask().all()
        else:
            assert np.array_equal(changed.mask(), differs(held, tensor))
            assert changed.count == payload.count == changed.mask().sum()
            assert np.array_equal(changed.bits, np.packbits(differs(held, tensor), bitorder="little"))
        assert changed.mask().shape == tensor.shape
        kinds.append(payload.kind)
        held = np.array(got)
    assert {"key", "delta"} == set(kinds)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    rng = np.random.default_rng(1)
    tensor = np.zeros((3, 37), dtype)
    encoder, decoder = pair(tensor)
    for sequence in range(5):
        before, tensor = tensor, video(rng, tensor, 0.2)
        changed = decoder.decode(*sent(encoder.encode(tensor, sequence))).changed
        if not changed.everything:
            assert np.array_equal(changed.mask(), differs(before, tensor))
    assert not changed.everything


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (2, 4)])
def test_odd_shapes(shape):
    tensor = np.zeros(shape, np.float32)
    encoder, decoder = pair(tensor, bandwidth=math.inf)
    for sequence in range(3):
        before, tensor = tensor, np.full(shape, sequence // 2, np.float32)
        changed = decoder.decode(*sent(encoder.encode(tensor, sequence))).changed
        mask = changed.mask()
        assert mask.shape == shape
        assert changed.everything or np.array_equal(mask, differs(before, tensor))


@pytest.mark.parametrize("budget", [Budget(0.5), Budget(half=True), Budget(0.5, half=True)])
def test_with_a_budget_the_mask_is_of_what_the_receiver_holds(budget):
    rng = np.random.default_rng(5)
    tensor = rng.standard_normal((4, 50)).astype(np.float32)
    encoder, decoder = pair(tensor, budget=budget)
    held, deltas = None, 0
    for sequence in range(12):
        tensor = tensor + rng.standard_normal((4, 50)).astype(np.float32) * (rng.random((4, 50)) < 0.4)
        _, got, changed = decoder.decode(*sent(encoder.encode(tensor, sequence)))
        if not changed.everything:
            assert np.array_equal(changed.mask(), differs(held, got))
            deltas += 1
        held = np.array(got)
    assert deltas > 5


def test_a_key_without_its_zeros_changes_everything():
    """Its mask names what isn't zero: the zeros may have been something else before."""
    tensor = np.zeros((4, 100), np.float32)
    tensor[1] = 7
    encoder, decoder = pair(tensor, compressor=None)
    decoder.decode(*sent(encoder.encode(tensor, 0)))
    encoder.lost()
    payload, arrays = sent(encoder.encode(np.roll(tensor, 1, 0), 1))
    assert (payload.kind, payload.encoding) == ("key", "bits")
    changed = decoder.decode(payload, arrays).changed
    assert changed.everything
    assert changed.count == 400


def test_only_an_applied_payload_has_a_mask():
    _, decoder, _, payloads = stream(4)
    assert decoder.decode(*payloads[1]) == (Verdict.NEED_KEY, None, None)
    assert decoder.decode(*payloads[0]).changed is not None
    assert decoder.decode(*payloads[0]) == (Verdict.STALE, None, None)
    assert decoder.decode(*payloads[2]) == (Verdict.NEED_KEY, None, None)
    ahead = msgspec.structs.replace(payloads[1][0], plan=1)
    assert decoder.decode(ahead, payloads[1][1]) == (Verdict.AHEAD, None, None)
    payload, (mask, values) = payloads[1]
    with pytest.raises(FrameError):
        decoder.decode(payload, (mask[:-1], values))


def test_masks_of_items_that_are_left_out_are_joined():
    """An item is computed, the next two aren't: what the fourth has to compute anew is all that changed since."""
    rng = np.random.default_rng(6)
    tensor = rng.standard_normal((5, 61)).astype(np.float32)
    encoder, decoder = pair(tensor)
    decoder.decode(*sent(encoder.encode(tensor, 0)))
    first, since, copies = tensor, None, []
    for sequence in range(1, 4):
        tensor = video(rng, tensor, 0.1)
        payload, arrays = sent(encoder.encode(tensor, sequence))
        arrays = [array.copy() for array in arrays]
        changed = decoder.decode(payload, arrays).changed
        copies.append((changed.copy(), changed.mask()))
        since = changed if since is None else since | changed
        if sequence > 1:
            for array in arrays:  # their memory is used for something else
                array[...] = 0xFF
    assert since.count == since.mask().sum()
    assert not (differs(first, tensor) & ~since.mask()).any()
    assert np.array_equal(since.mask(), np.any([mask for _, mask in copies], axis=0))
    assert all(np.array_equal(copy.mask(), mask) for copy, mask in copies)
    whole = Changed((5, 61), 305, None)
    assert (since | whole).everything
    assert (whole | since).everything
    with pytest.raises(ValueError, match="joined"):
        since | Changed((61, 5), 305, None)


def test_nothing_is_copied_for_it():
    """A mask that comes as it is stays where it lies, and the decoder holds on to none of a payload's memory."""
    _, decoder, _, payloads = stream(2, compressor=None, bandwidth=math.inf)
    decoder.decode(*payloads[0])
    payload, arrays = payloads[1]
    assert payload.compression[0] == "none"
    update = decoder.decode(payload, arrays)
    assert update.changed.bits is arrays[0]
    assert update.tensor.base is decoder.tensor.base
    assert all(value is not arrays[0] for value in vars(decoder).values())
