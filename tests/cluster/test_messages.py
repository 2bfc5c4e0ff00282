"""Messages of this release and of its neighbours: what was recorded is read for ever, what is new is ignored, what is
damaged is refused."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import msgspec
import pytest

from cluster.recorded_frames import FOLDER, examples, fields, frame, header, setup
from cutset.cluster import messages
from cutset.cluster.messages import MINOR, PROTOCOL, Card, Introduction, Peer, check_minor, decode, encode
from cutset.cluster.wire import unpack
from cutset.engine.stage_item import decode_setup, encode_setup
from cutset.errors import CutsetError, FrameError, HandshakeError
from cutset.link.frames import Frame
from cutset.link.peer import Hello, Welcome, read_about
from mutations import damaged

MUTATIONS = int(os.environ.get("CUTSET_FUZZ", "3000"))
RECORDED = sorted(FOLDER.glob(f"cluster-{PROTOCOL.version}.*.json"))
EXAMPLES = examples()
OF_OTHERS = ("hello", "welcome", "refused", "key?")  # by layers below, which have versions of their own
# How many of the last fields of a message have defaults: an older party may send none.
OPTIONAL = {"prepare": 4, "work": 1, "report": 6, "allow": 2}


def test_there_is_a_recording_of_this_version() -> None:
    assert f"cluster-{PROTOCOL.version}.{MINOR}.json" in [path.name for path in RECORDED]


def starts_alike(found: Any, recorded: Any) -> bool:
    """Whether all that was recorded is there; each part may have got fields since, behind the others."""
    if isinstance(found, list) and isinstance(recorded, list):
        return len(found) >= len(recorded) and all(map(starts_alike, found, recorded))
    return bool(found == recorded)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_frames_are_read(path: Any) -> None:
    content = json.loads(path.read_text())
    for name, recorded in content["frames"].items():
        found = decode(header(bytes.fromhex(recorded["frame"])))
        assert starts_alike(fields(found), recorded["fields"]), name
        assert type(found) is type(EXAMPLES[name])
    assert starts_alike(fields(decode_setup(bytes.fromhex(content["setup"]["bytes"]))), content["setup"]["fields"])


def test_this_release_sends_what_was_recorded() -> None:
    content = json.loads((FOLDER / f"cluster-{PROTOCOL.version}.{MINOR}.json").read_text())
    assert set(content["frames"]) == set(EXAMPLES), "a new kind of message: record it, and raise MINOR"
    for name, message in EXAMPLES.items():
        assert frame(message).hex() == content["frames"][name]["frame"], f"{name} has changed: raise MINOR"
    assert encode_setup(setup()).hex() == content["setup"]["bytes"]


def test_every_kind_of_message_is_an_example() -> None:
    kinds = set(messages.Message.__args__)
    assert {type(one) for one in EXAMPLES.values()} == kinds


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_newer_release_adds_is_ignored(name: str) -> None:
    message, words = EXAMPLES[name], msgspec.msgpack.decode(encode(EXAMPLES[name]))
    for more in ([None], [5, {"a": [b"x"]}], ["x" * 1000, [[]]]):
        longer = msgspec.msgpack.encode([*words, *more])
        if name in OF_OTHERS:
            with pytest.raises(FrameError):
                decode(longer)
        else:
            assert decode(longer) == message


def test_what_a_newer_release_adds_inside_is_ignored() -> None:
    words = msgspec.msgpack.decode(encode(EXAMPLES["prepare"]))
    words[8] += ["more", 7]
    assert decode(msgspec.msgpack.encode(words)) == EXAMPLES["prepare"]
    report = msgspec.msgpack.decode(encode(EXAMPLES["report"]))
    for part in (report[6][0], report[7], report[8][0], report[9][0]):
        part.append("more")
    assert decode(msgspec.msgpack.encode(report)) == EXAMPLES["report"]
    told = msgspec.msgpack.decode(encode_setup(setup()))
    with pytest.raises(FrameError):  # an engine's own, of which stages must understand all
        decode_setup(msgspec.msgpack.encode([*told, "more"]))


def test_what_an_older_release_leaves_out_has_its_default() -> None:
    for name, count in OPTIONAL.items():
        words = msgspec.msgpack.decode(encode(EXAMPLES[name]))
        for left in range(1, count + 1):
            found = fields(decode(msgspec.msgpack.encode(words[:-left])))
            defaults = [msgspec.to_builtins(one) for one in _defaults(type(EXAMPLES[name]))[-left:]]
            assert found == [*fields(EXAMPLES[name])[:-left], *(["" if one == b"" else one for one in defaults])]
        with pytest.raises(FrameError):
            decode(msgspec.msgpack.encode(words[: -count - 1]))
    old = msgspec.msgpack.encode(["worker", b"s" * 16, "b"])
    assert msgspec.msgpack.decode(old, type=Introduction).minor == 0
    card = msgspec.msgpack.decode(msgspec.msgpack.encode(["cpu", 1, 1, 0, "cutset", "cpu"]), type=Card)
    assert (card.minor, card.isas, card.build, card.dtypes) == (0, [], "", [])
    peer = msgspec.msgpack.decode(msgspec.msgpack.encode(["b", "tcp://b:1", None]), type=Peer)
    assert peer.ticket == b""


def _defaults(kind: Any) -> list[Any]:
    found = []
    for one in msgspec.structs.fields(kind):
        if one.default_factory is not msgspec.NODEFAULT:
            found.append(one.default_factory())
        elif one.default is not msgspec.NODEFAULT:
            found.append(one.default)
    return found


def test_neighbours_talk_and_others_are_refused_in_words_of_both() -> None:
    check_minor(MINOR, "b")
    check_minor(MINOR + 1, "b")
    check_minor(max(MINOR - 1, 0), "b")
    ours, theirs = (rf"{PROTOCOL.version}\.{minor}" for minor in (MINOR, MINOR + 2))
    with pytest.raises(HandshakeError, match=rf"the worker b speaks version {theirs} .* this side {ours}: .*install"):
        check_minor(MINOR + 2, "the worker b")


def test_damaged_messages_are_refused_or_mean_something() -> None:
    """As they come from a link, in a frame; nothing else than a CutsetError, whatever the bytes are."""
    rng = random.Random(7)
    whole, heads = [frame(one) for one in EXAMPLES.values()], [encode(one) for one in EXAMPLES.values()]
    for turn in range(MUTATIONS):
        try:
            if turn % 3 == 0:
                data = damaged(rng.choice(whole), rng)
                found = decode(header(data))
            elif turn % 3 == 1:
                found = decode(damaged(rng.choice(heads), rng))
            else:
                found, _ = unpack(Frame(_absurd(rng.choice(heads), rng), ()))
            if isinstance(found, Hello):
                read_about(found, Introduction)
            elif isinstance(found, Welcome):
                read_about(found, Card)
            encode(found)
        except CutsetError:
            continue


def _absurd(head: bytes, rng: random.Random) -> bytes:
    """One number, text or list of a message is one that can't be."""
    words = msgspec.msgpack.decode(head)
    place = words
    while True:
        at = rng.randrange(len(place)) if place else 0
        if place and isinstance(place[at], list) and place[at] and rng.random() < 0.7:
            place = place[at]
            continue
        break
    nasty = [
        -1,
        2**63,
        2**64 - 1,
        1e308,
        float("nan"),
        float("-inf"),
        None,
        True,
        "",
        "x" * 5000,
        b"",
        b"\xff" * 70_000,
    ]
    nasty += [[], [[]], {"": 1}, [0] * 9000, "\x1b[2J", "\x00"]
    if place:
        place[at] = rng.choice(nasty)
    else:
        place.append(rng.choice(nasty))
    return msgspec.msgpack.encode(words)
