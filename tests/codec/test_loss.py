"""Payloads that are lost, repeated, reordered; ends that restart."""

from __future__ import annotations

import numpy as np
import pytest

from codec.payloads import FREE, same, sent, stream
from cutset.codec import Decoder, EdgeSpec, Encoder, Verdict
from cutset.codec.payload import KeyRequest
from cutset.errors import ConfigError


def test_a_gap_costs_one_request():
    encoder, decoder, tensors, payloads = stream(6)
    verdicts = [decoder.decode(*payloads[i]).verdict for i in (0, 1, 3, 4, 5)]
    assert [v.name for v in verdicts] == ["APPLIED", "APPLIED", "NEED_KEY", "WAITING", "WAITING"]
    assert same(decoder.tensor, tensors[1])
    request = decoder.key_request()
    assert request.sequence == 3
    assert encoder.request(request)
    assert not encoder.request(request)  # it is on its way
    encoded = encoder.encode(tensors[0], 6)
    assert encoded.payload.kind == "key"
    assert not encoder.request(request)  # it has gone
    assert decoder.decode(*sent(encoded)).verdict is Verdict.APPLIED
    assert decoder.decode(*sent(encoder.encode(tensors[1], 7))).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[1])


def test_a_key_that_is_lost_is_asked_for_again():
    encoder, decoder, tensors, payloads = stream(3)
    assert decoder.decode(*payloads[0]).verdict is Verdict.APPLIED
    assert decoder.decode(*payloads[2]).verdict is Verdict.NEED_KEY
    assert encoder.request(decoder.key_request())
    encoder.encode(tensors[0], 3)  # lost
    assert decoder.decode(*sent(encoder.encode(tensors[1], 4))).verdict is Verdict.NEED_KEY
    assert decoder.decode(*sent(encoder.encode(tensors[2], 5))).verdict is Verdict.WAITING
    assert encoder.request(decoder.key_request())
    assert decoder.decode(*sent(encoder.encode(tensors[0], 6))).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])


def test_repeated_and_reordered():
    _, decoder, tensors, payloads = stream(4)
    order = (0, 0, 1, 0, 1, 2, 2, 3, 1)
    verdicts = [decoder.decode(*payloads[i]).verdict for i in order]
    fresh = [max(order[: n + 1]) == i and i not in order[:n] for n, i in enumerate(order)]
    assert [v is Verdict.APPLIED for v in verdicts] == fresh
    assert {v for v, new in zip(verdicts, fresh, strict=True) if not new} == {Verdict.STALE}
    assert same(decoder.tensor, tensors[3])


def test_the_receiver_restarts():
    encoder, _, tensors, _ = stream(4)
    decoder = Decoder(encoder.spec)
    assert decoder.tensor is None
    assert decoder.decode(*sent(encoder.encode(tensors[1], 4))).verdict is Verdict.NEED_KEY
    assert decoder.tensor is None
    assert encoder.request(decoder.key_request())
    assert decoder.decode(*sent(encoder.encode(tensors[2], 5))).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[2])


def test_the_sender_restarts():
    """A new epoch begins with a key; what is left of the old one is dropped, a delta of the new one isn't applied."""
    _, decoder, tensors, payloads = stream(4)
    for payload in payloads[:3]:
        decoder.decode(*payload)
    again = Encoder(decoder.spec, epoch=1, costs=FREE.copy())
    first, second = (sent(again.encode(tensors[i], i)) for i in (0, 1))
    assert decoder.decode(*second).verdict is Verdict.NEED_KEY
    assert decoder.decode(*first).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])
    assert decoder.decode(*payloads[3]).verdict is Verdict.STALE
    assert decoder.decode(*second).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[1])
    assert not again.request(KeyRequest(0, "conv1", 0, 0, 99))  # for the one before


def test_plans():
    encoder, _, tensors, payloads = stream(2)
    decoder = Decoder(encoder.spec, plan=1)
    assert decoder.decode(*payloads[0]).verdict is Verdict.STALE
    ahead = Encoder(encoder.spec, plan=2, costs=FREE.copy()).encode(tensors[0], 0)
    assert decoder.decode(*sent(ahead)).verdict is Verdict.AHEAD
    assert decoder.tensor is None


def test_what_was_not_sent_is_not_counted_on():
    encoder, decoder, tensors, payloads = stream(2)
    decoder.decode(*payloads[0])
    encoder.lost()
    assert decoder.decode(*sent(encoder.encode(tensors[0], 2))).verdict is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])


def test_a_picture_of_another_size():
    encoder, *_ = stream(1)
    with pytest.raises(ConfigError, match="items of one size"):
        encoder.encode(np.zeros((5, 61), np.float32), 9)
    with pytest.raises(ConfigError, match="after item"):
        encoder.encode(np.zeros((5, 60), np.float32), 0)
    for wrong in ({"dtype": "<c8"}, {"shape": (1 << 20, 1 << 20)}, {"shape": (-1,)}, {"edge": "x" * 200}):
        with pytest.raises(ConfigError):
            EdgeSpec(**{"source": 0, "edge": "x", "dtype": "u1", "shape": (1,), **wrong})
    with pytest.raises(ConfigError, match="bandwidth"):
        Encoder(encoder.spec, bandwidth=0, costs=FREE)
