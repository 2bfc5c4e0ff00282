"""The handshake: who gets in, and what each side is told; with keys and without."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import ConfigError, FrameError, HandshakeError, LinkError, LinkTimeout
from cutset.link import Link, Timeouts, connect, listen
from cutset.link.keys import dialling_keys, key_allowed, listening_keys, new_keys, save_keys
from cutset.link.peer import (
    MOST_ABOUT,
    MOST_EVIDENCE,
    Handshake,
    Protocol,
    Refused,
    is_hello,
    peer_key,
    refusal,
    refused,
)
from link.hellos import hello, welcome
from link.peer_sides import CLIENT, NO_LINK, NUMBERS, PROTOCOLS, SERVER, TEST, dial, serving


@pytest.mark.parametrize("scheme", ["inproc", "shm", "tcp"])
def test_each_side_hears_what_the_other_says_of_itself(scheme: str) -> None:
    with serving(scheme, Handshake(TEST, model="ab" * 32)) as side:
        found = dial(side, Handshake(TEST, model="ab" * 32))
        assert (found.protocol, found.version, found.model, found.about) == ("test", 7, "ab" * 32, b"all about me")
        assert found.evidence == b""
        assert dial(side, Handshake(TEST)).nonce != found.nonce  # any model will do
        first, second = side.accepted
        assert (first.about, first.model, first.asks) == (b"me", "ab" * 32, False)
        assert first.nonce != second.nonce


def test_another_version_is_refused_and_both_are_named() -> None:
    with serving("inproc", Handshake(TEST)) as side:
        for version in (6, 8):
            with pytest.raises(HandshakeError, match=rf"refused: cutset \S+ speaks version {version} .*cutset \S+ 7:"):
                dial(side, Handshake(replace(TEST, version=version)))
    # A listener that answers whatever is said: then it is the dialler that minds.
    with (
        serving(
            "inproc", Handshake(TEST), lambda _: msgspec.msgpack.encode(["welcome", "test", 8, "new", 1, 2])
        ) as side,
        pytest.raises(HandshakeError, match=r"\(new\) speaks version 8 of the test protocol, this side 7: install"),
    ):
        dial(side, Handshake(TEST))


def test_another_protocol_is_refused_by_name() -> None:
    with (
        serving("inproc", Handshake(TEST)) as side,
        pytest.raises(HandshakeError, match="this tester speaks 'test', not 'other'"),
    ):
        dial(side, Handshake(replace(TEST, name="other")))
    answer = msgspec.msgpack.encode(welcome(replace(TEST, name="other")))
    with (
        serving("inproc", Handshake(TEST), lambda _: answer) as side,
        pytest.raises(HandshakeError, match="is no tester: it speaks 'other', not 'test'; check the address"),
    ):
        dial(side, Handshake(TEST))


# What versions before this handshake said, byte for byte.
OLD_HELLOS = {
    "offload": ["hello", 1, "cutset 0.1"],
    "cluster": ["hello", 2, "cutset 0.1", "coordinator", bytes(16), "worker1"],
}
OLD_WELCOMES = {
    "offload": ["welcome", 1, "cutset 0.1", "ab" * 32, 9, "cpu", 2, 4096, True],
    "cluster": ["welcome", 2, "cutset 0.1", ["cpu", 1, 1, 0, "2.9", "cpu"]],
}
OLD_REFUSALS = {"offload": ["refused", 0, "that isn't one"], "cluster": ["refused", "that isn't one"]}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_an_older_dialler_is_told_both_versions_in_its_own_words(protocol: Protocol) -> None:
    old = msgspec.msgpack.encode(OLD_HELLOS[protocol.name])
    with serving("inproc", Handshake(protocol)) as side:
        link = side.connect()
        link.send(old)
        answer = msgspec.msgpack.decode(link.recv(5).header)
        link.close()
    reason = answer[-1]
    assert [type(part) for part in answer] == [type(part) for part in OLD_REFUSALS[protocol.name]]
    assert len(answer) == len(OLD_REFUSALS[protocol.name])
    assert f"cutset 0.1 speaks version {protocol.before} of the {protocol.name} protocol" in reason
    assert f"{protocol.version}: install the same Cutset on both sides" in reason


@pytest.mark.parametrize("answers", [OLD_WELCOMES, OLD_REFUSALS], ids=["welcome", "refused"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_an_older_listener_is_known_by_its_answer(protocol: Protocol, answers: dict[str, Any]) -> None:
    answer = msgspec.msgpack.encode(answers[protocol.name])
    wanted = (
        rf"speaks version {protocol.before}( or older)? of the {protocol.name} protocol, this side {protocol.version}:"
    )
    with serving("inproc", Handshake(TEST), lambda _: answer) as side, pytest.raises(HandshakeError, match=wanted):
        dial(side, Handshake(protocol))


def test_another_model_is_refused_whoever_notices() -> None:
    ours, theirs = "ab" * 32, "cd" * 32
    wanted = "has loaded another model.*cdcdcdcdcdcd…, .*abababababab….*: start it with the same checkpoint"
    with serving("inproc", Handshake(TEST, model=theirs)) as side, pytest.raises(HandshakeError, match=wanted):
        dial(side, Handshake(TEST, model=ours))
    answer = msgspec.msgpack.encode(welcome(TEST, model=theirs))
    with serving("inproc", Handshake(TEST), lambda _: answer) as side, pytest.raises(HandshakeError, match=wanted):
        dial(side, Handshake(TEST, model=ours))


# Keys.


def test_who_is_on_no_list_of_keys() -> None:
    assert key_allowed(None, None)
    assert key_allowed(b"k" * 32, None)
    assert key_allowed(b"k" * 32, {b"k" * 32})
    assert not key_allowed(b"k" * 32, {b"l" * 32})
    assert not key_allowed(b"k" * 32, ())
    assert not key_allowed(None, {b"k" * 32})


def test_a_key_that_isnt_allowed_gets_no_handshake() -> None:
    stranger = new_keys()
    with serving("tcp", Handshake(TEST)) as side:
        with pytest.raises(LinkError, match="refused this key"):
            dial(side, Handshake(TEST), stranger)
        assert not side.accepted
        dial(side, Handshake(TEST))


@pytest.mark.parametrize("scheme", ["inproc", "tcp"])
def test_the_key_at_the_other_end_is_known_where_there_is_one(scheme: str) -> None:
    with serving(scheme, Handshake(TEST)) as side:
        link = side.connect()
        assert peer_key(link) == (SERVER.public if scheme == "tcp" else None)
        link.close()


def test_keys_that_are_missing_are_named(tmp_path: Any) -> None:
    assert dialling_keys("ipc:///x", None, None) is None
    assert dialling_keys("tcp://h:1", CLIENT, SERVER.public) == CLIENT.expecting(SERVER.public)
    for keys, server in ((None, SERVER.public), (CLIENT, None)):
        with pytest.raises(ConfigError, match=r"tcp://h:1 needs --key .* and the other side's public key"):
            dialling_keys("tcp://h:1", keys, server)
    save_keys(CLIENT, "mine", tmp_path)
    files = (str(tmp_path / "mine.key"), str(tmp_path / "mine.pub"))
    assert listening_keys("tcp://h:1", *files, "clients") == (CLIENT, frozenset([CLIENT.public]))
    assert listening_keys("ipc:///x", None, None, "clients") == (None, None)
    for key, allow in ((files[0], None), (None, files[1]), (None, None)):
        with pytest.raises(ConfigError, match=r"needs --key .* and --allow .the clients' public keys"):
            listening_keys("tcp://h:1", key, allow, "clients")


# What strangers send.


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": bytes(MOST_EVIDENCE + 1)},
        {"about": bytes(MOST_ABOUT + 1)},
        {"nonce": bytes(15)},
        {"nonce": bytes(17)},
        {"model": "x" * 201},
        {"model": "two\nlines"},
        {"asks": 1},
        {"evidence": "text"},
        {"about": None},
    ],
    ids=lambda changes: "-".join(f"{name} {str(value)[:5]}" for name, value in changes.items()),
)
def test_what_is_too_long_or_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    with serving("inproc", Handshake(TEST)) as side:
        link = side.connect()
        link.send(msgspec.msgpack.encode(hello(TEST, **changes)))
        answer = msgspec.msgpack.decode(link.recv(5).header, type=Refused)
        assert "this hello makes no sense" in answer.reason
        assert len(answer.reason) < 300
        link.close()
        assert not side.accepted
    changes.pop("asks", None)
    answer = msgspec.msgpack.encode(welcome(TEST, **changes)) if changes else b"\xc0"
    with serving("inproc", Handshake(TEST), lambda _: answer) as side, pytest.raises(FrameError, match="is no tester"):
        dial(side, Handshake(TEST))


def test_evidence_of_ones_own_that_is_too_long_is_an_error_here() -> None:
    with (
        serving("tcp", Handshake(TEST, key=SERVER.public)) as side,
        pytest.raises(ConfigError, match="evidence of 32769 bytes can't be sent; 32768 are the most"),
    ):
        dial(side, Handshake(TEST, key=CLIENT.public, prove=lambda _: bytes(MOST_EVIDENCE + 1)))
    with serving(
        "tcp", Handshake(TEST, key=SERVER.public, verify=lambda evidence, _: len(evidence) == MOST_EVIDENCE)
    ) as side:
        dial(side, Handshake(TEST, key=CLIENT.public, prove=lambda _: bytes(MOST_EVIDENCE)))


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\xc0",
        b"hello",
        b"\x91" * 60_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xea\x60" + b"\xc0" * 60_000,
        b"\x94\xa5hello",
        msgspec.msgpack.encode(["hello"]),
        msgspec.msgpack.encode(["hello", True, "x"]),
        msgspec.msgpack.encode(["hello", b"test", 7, "x"]),
        msgspec.msgpack.encode(["welcome", "test", 7, "x"]),
        msgspec.msgpack.encode({"hello": 1}),
        b"\x94\xa5hello\xa4\xff\xfe\xfd\xfc\x07\xa1x",
    ],
    ids=range(13),
)
def test_noise_is_refused_with_one_line(noise: bytes) -> None:
    with serving("inproc", Handshake(TEST)) as side:
        link = side.connect()
        link.send(noise)
        answer = msgspec.msgpack.decode(link.recv(5).header, type=Refused)
        assert answer.reason == "say hello first"
        link.close()
    with (
        serving("inproc", Handshake(TEST), lambda _: noise) as side,
        pytest.raises(LinkError, match=r"is no tester|speaks"),
    ):
        dial(side, Handshake(TEST))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([hello(TEST, about=b"me"), *OLD_HELLOS.values()]).map(msgspec.msgpack.encode), st.data())
def test_a_damaged_hello_is_accepted_or_refused_and_nothing_else(said: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(said)))
        said = said[:at] + data.draw(st.binary(max_size=3)) + said[at + data.draw(st.integers(0, 3)) :]
    try:
        found = Handshake(TEST).accept(NO_LINK, said)
    except (HandshakeError, FrameError) as error:
        answer = msgspec.msgpack.decode(refusal(said, str(error)))
        assert answer[0] == "refused"
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", str(answer))
    else:
        assert (found.protocol, found.version, len(found.nonce)) == ("test", 7, 16)


def test_a_refusal_says_nothing_that_a_terminal_obeys() -> None:
    said = refused("\x1b[2Jtwo\nlines \u202e" + "x" * 2000, 3)
    assert said.call == 3
    assert len(said.reason) == 1000
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Refused) == said
    for answer in (refusal(msgspec.msgpack.encode(old), "\x1b[2J") for old in OLD_HELLOS.values()):
        assert b"\x1b" not in answer


def test_a_hello_is_known_by_its_name_in_any_version() -> None:
    assert is_hello(msgspec.msgpack.encode(hello(TEST)))
    assert is_hello(msgspec.msgpack.encode(["hello", "test", 9, "x", *range(20)]))
    assert all(is_hello(msgspec.msgpack.encode(old)) for old in OLD_HELLOS.values())
    assert not is_hello(msgspec.msgpack.encode(["refused", "hello", 1]))
    assert not is_hello(b"")


# Time.


def test_silence_ends_with_the_deadline() -> None:
    with serving("inproc", Handshake(TEST), lambda _: None) as side:
        links: list[Link] = []

        def opened() -> Link:
            links.append(side.connect())
            return links[-1]

        with pytest.raises(LinkTimeout):
            Handshake(TEST).dial(opened, timeout=0.2)
        with pytest.raises(LinkError):
            links[0].send(b"x")  # it was closed
        called: list[Link] = []
        with pytest.raises(LinkTimeout):
            Handshake(TEST).dial(opened, timeout=1.2, waiting=called.append)
        assert called == links[1:] * len(called)
        assert called


def test_a_listener_waits_for_hello_as_long_as_it_says() -> None:
    name = f"shm://peer-{os.getpid()}-{next(NUMBERS)}"
    listener = listen(name, timeouts=Timeouts(first=0.1))
    link = connect(name)
    until = time.monotonic() + 20
    gone: list[Link] = []
    while not gone:
        assert time.monotonic() < until
        assert listener.recv(0.05) is None
        gone = listener.gone()
    with pytest.raises(LinkError):
        link.recv(1)
    link.close()
    listener.close()
