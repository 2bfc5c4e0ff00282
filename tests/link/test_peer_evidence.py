"""What evidence of a handshake must be bound to, and who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cutset.errors import HandshakeError, LinkError
from cutset.link.peer import (
    Binding,
    Handshake,
)
from link.hellos import hello, welcome
from link.peer_sides import CLIENT, OTHER, SERVER, TEST, dial, serving

# Evidence. A quote is made up here: what it is bound to, signed by nobody.


def quote(binding: Binding) -> bytes:
    return b"quote " + binding.digest


def verifies(evidence: bytes, binding: Binding) -> bool:
    return evidence == quote(binding)


PROVES = {"key": SERVER.public, "prove": quote}
WANTS = {"key": CLIENT.public, "verify": verifies}


def test_a_listener_shows_evidence_that_is_bound_to_the_link() -> None:
    seen: list[Binding] = []

    def check(evidence: bytes, binding: Binding) -> bool:
        seen.append(binding)
        return verifies(evidence, binding)

    with serving("tcp", Handshake(TEST, **PROVES)) as side:
        for _ in range(2):
            dial(side, Handshake(TEST, key=CLIENT.public, verify=check))
        assert dial(side, Handshake(TEST, key=CLIENT.public)).evidence == b"", "nobody asked for it"
    first, second = seen
    assert (first.prover, first.verifier) == (SERVER.public, CLIENT.public)
    assert len(first.digest) == 32
    assert first.digest != second.digest, "it could be shown again"


def test_a_dialler_shows_evidence_too() -> None:
    with serving("tcp", Handshake(TEST, key=SERVER.public, verify=verifies)) as side:
        dial(side, Handshake(TEST, key=CLIENT.public, prove=quote))
        assert len(side.accepted) == 1
        with pytest.raises(HandshakeError, match="refused: you show no evidence, and it is required"):
            dial(side, Handshake(TEST, key=CLIENT.public))
        with pytest.raises(HandshakeError, match="refused: you show evidence that isn't good"):
            dial(side, Handshake(TEST, key=CLIENT.public, prove=lambda _: b"quote of something else"))
        assert len(side.accepted) == 1


def test_both_sides_may_ask() -> None:
    with serving("tcp", Handshake(TEST, verify=verifies, **PROVES)) as side:
        assert dial(side, Handshake(TEST, prove=quote, **WANTS)).evidence.startswith(b"quote ")
        assert side.accepted[0].evidence.startswith(b"quote ")
        assert side.accepted[0].evidence != quote(Binding(CLIENT.public, SERVER.public, b""))


def test_missing_evidence_is_refused_by_who_asks() -> None:
    with (
        serving("tcp", Handshake(TEST, key=SERVER.public)) as side,
        pytest.raises(HandshakeError, match=r"the tester at tcp://.* shows no evidence, and it is required"),
    ):
        dial(side, Handshake(TEST, **WANTS))


def raises(error: Exception) -> Callable[[bytes, Binding], bool]:
    def check(evidence: bytes, binding: Binding) -> bool:
        raise error

    return check


@pytest.mark.parametrize(
    ("verify", "wanted"),
    [
        (lambda evidence, binding: False, "isn't good"),
        (lambda evidence, binding: None, "isn't good"),
        (lambda evidence, binding: 1, "isn't good"),
        (raises(LinkError("its measurement is unknown")), "isn't good: its measurement is unknown"),
        (raises(ValueError("of a parser")), "can't be read: ValueError"),
    ],
    ids=["false", "none", "one", "refused", "bug"],
)
def test_only_true_is_good(verify: Any, wanted: str) -> None:
    with serving("tcp", Handshake(TEST, **PROVES)) as side, pytest.raises(HandshakeError, match=wanted):
        dial(side, Handshake(TEST, key=CLIENT.public, verify=verify))
    with serving("tcp", Handshake(TEST, key=SERVER.public, verify=verify)) as side:
        with pytest.raises(HandshakeError, match=f"refused: .*{wanted}"):
            dial(side, Handshake(TEST, key=CLIENT.public, prove=quote))
        assert not side.accepted


def test_evidence_of_another_link_is_not_good() -> None:
    """Somebody between two links hands evidence on: with its own key it isn't the one that the evidence is bound to."""
    with serving("tcp", Handshake(TEST, **PROVES)) as honest:

        def relayed(_: Binding) -> bytes:
            """What the honest one shows to the one in between."""
            between = Handshake(TEST, key=OTHER.public, verify=lambda evidence, binding: True)
            return dial(honest, between, OTHER).evidence

        with (
            serving("tcp", Handshake(TEST, key=SERVER.public, prove=relayed)) as liar,
            pytest.raises(HandshakeError, match="shows evidence that isn't good"),
        ):
            dial(liar, Handshake(TEST, **WANTS))


@pytest.mark.parametrize("field", ["protocol", "version", "software", "model", "nonce", "about", "asks"])
def test_evidence_is_bound_to_all_that_was_said(field: str) -> None:
    """Whatever is changed on the way, the digest is another one, in hello and in the welcome's past."""
    from cutset.link.peer import _transcript

    other: dict[str, Any] = {"version": 9, "nonce": b"x" * 16, "about": b"x", "asks": True}
    changed = {field: other.get(field, "x")}
    first, answer = hello(TEST), welcome(TEST)
    assert _transcript(first) != _transcript(hello(TEST, **changed))
    assert _transcript(first, answer) != _transcript(hello(TEST, **changed), answer)
    if field != "asks":
        assert _transcript(first, answer) != _transcript(first, welcome(TEST, **changed))
    assert _transcript(first, answer) != _transcript(hello(TEST, evidence=b"x"), answer)
    assert _transcript(first) == _transcript(hello(TEST, evidence=b"its own"))


@pytest.mark.parametrize("scheme", ["inproc", "shm"])
def test_evidence_needs_a_link_with_keys(scheme: str) -> None:
    with serving(scheme, Handshake(TEST, **PROVES)) as side:
        with pytest.raises(HandshakeError, match=r"evidence is bound to the keys of a link, and .* has none: use tcp"):
            dial(side, Handshake(TEST, **WANTS))
        assert not side.accepted, "nothing was said"
        with pytest.raises(HandshakeError, match="use tcp"):
            dial(side, Handshake(TEST, key=CLIENT.public, prove=quote))


def test_evidence_that_nobody_asked_for_is_not_taken_silently() -> None:
    with serving("tcp", Handshake(TEST, key=SERVER.public)) as side:
        with pytest.raises(HandshakeError, match="you show evidence, and nobody asked for it or can verify it"):
            dial(side, Handshake(TEST, key=CLIENT.public, prove=quote))
        assert not side.accepted
    answer = msgspec.msgpack.encode(welcome(TEST, evidence=b"trust me"))
    with (
        serving("tcp", Handshake(TEST), lambda _: answer) as side,
        pytest.raises(HandshakeError, match="shows evidence, and nobody asked for it"),
    ):
        dial(side, Handshake(TEST, key=CLIENT.public))
