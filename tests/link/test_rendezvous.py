"""Parties that dial in and are reached through a relay: who gets through, what the relay sees, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.errors import ConfigError, FrameError, LinkClosed, LinkError
from cutset.link import Link, Timeouts, connect, listen
from cutset.link.joiner import JoinCall, Joiner, decode_call, encode_call, pauses
from cutset.link.keys import Keys, new_keys
from cutset.link.limits import Limits
from cutset.link.peer import Refused
from cutset.link.relay import ANSWER, DIAL, OPENING, TOKEN, Opening, connect_through, endpoint, opening, read_opening
from cutset.link.rendezvous import Rendezvous
from mutations import damaged

MUTATIONS = int(os.environ.get("CUTSET_FUZZ", "3000"))
QUICK = Timeouts(connect=2.0, send=3.0, recv=3.0)
ME, ONE, TWO, OTHER = (new_keys() for _ in range(4))
NAMES = {ONE.public: "one", TWO.public: "two"}


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


class Party:
    """Listens on this machine, gives back what it gets, and dials in at a rendezvous."""

    def __init__(self, keys: Keys, address: str, **how: Any) -> None:
        allow = {ME.public, ONE.public, TWO.public} - {keys.public}
        self.listener = listen("tcp://127.0.0.1:0", keys=keys, allow=allow)
        self.said: list[str] = []
        how = {"coordinators": [ME.public], "longest": 0.2} | how
        self.joiner = Joiner(address, keys, listener=self.listener.address, log=self.said.append, **how)
        self._open = True
        self._thread = threading.Thread(target=self._echo)
        self._thread.start()

    def _echo(self) -> None:
        while self._open:
            if (got := self.listener.recv(0.05)) is not None:
                link, frame = got
                link.send(frame.header, [np.array(array) for array in frame.arrays])
                frame.release()

    def close(self) -> None:
        self.joiner.close()
        self._open = False
        self._thread.join()
        self.listener.close()


@pytest.fixture
def place() -> Iterator[Rendezvous]:
    made = Rendezvous("tcp://127.0.0.1:0", ME, NAMES)
    yield made
    made.close()


@pytest.fixture
def one(place: Rendezvous) -> Iterator[Party]:
    party = Party(ONE, place.address)
    until(lambda: place.here(ONE.public))
    yield party
    party.close()


LINKS: list[Link] = []


@pytest.fixture(autouse=True)
def _close_links() -> Iterator[None]:
    yield
    while LINKS:
        LINKS.pop().close()


def through(place: Rendezvous, keys: Keys, to: Keys = ONE, relay: str = "") -> Link:
    place.check(to.public)
    LINKS.append(
        connect_through(
            relay or place.own, place.ticket(to.public), keys=keys.expecting(to.public), timeouts=QUICK, limits=Limits()
        )
    )
    return LINKS[-1]


def says(link: Link, text: bytes, size: int = 10) -> None:
    """It comes back as it was."""
    data = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    link.send(text, [data])
    frame = link.recv()
    assert frame.header == text
    np.testing.assert_array_equal(frame.arrays[0], data)
    frame.release()


class Tap:
    """Between a joiner and its rendezvous; keeps all that passes."""

    def __init__(self, address: str) -> None:
        self.passed = bytearray()
        self._to = endpoint(address)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._admit, daemon=True).start()

    def _admit(self) -> None:
        while True:
            try:
                ours, _ = self._door.accept()
            except OSError:
                return
            theirs = socket.create_connection(self._to)
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with source:
            try:
                while data := source.recv(1 << 16):
                    self.passed += data
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()


def test_two_that_nobody_can_dial_talk_to_each_other_and_the_relay_sees_no_word(place: Rendezvous) -> None:
    tap = Tap(place.own)
    first, second = Party(ONE, tap.address), Party(TWO, place.own)
    until(lambda: place.here(ONE.public) and place.here(TWO.public))
    link = through(place, TWO, relay=place.own)
    assert link.peer == ONE.public.hex()
    says(link, b"the word that nobody else may read" * 3, 300_000)
    again = through(place, ME)
    says(again, b"of the coordinator itself")
    says(link, b"and both at once", 1000)
    assert len(tap.passed) > 600_000, "it went there and back through the tap"
    assert b"nobody else may read" not in tap.passed
    assert b"the coordinator itself" not in tap.passed
    link.close()
    again.close()
    until(lambda: not place._passed or len(place._passed) == 2)  # the joiners' own links
    for party in (first, second, tap):
        party.close()


def test_only_who_has_the_right_key_gets_through(place: Rendezvous, one: Party) -> None:
    with pytest.raises(LinkError, match="refused this key"):
        through(place, OTHER)
    for ticket in (bytes(TOKEN), place.ticket(TWO.public)):
        with pytest.raises(LinkError, match=r"passed on|passes nothing on|doesn't answer as it should"):
            connect_through(place.own, ticket, keys=ME.expecting(ONE.public), timeouts=QUICK, limits=Limits())
    with pytest.raises(LinkClosed, match="hasn't dialled in"):
        through(place, ME, TWO)
    says(through(place, ME), b"still there")
    stranger = Party(OTHER, place.own, longest=0.05)
    until(lambda: any("refused this key" in line for line in stranger.said))
    assert not stranger.joiner.joined
    stranger.close()
    wrong = Party(TWO, place.own, coordinators=[OTHER.public])
    until(lambda: any("another server's key" in line for line in wrong.said))
    wrong.close()
    several = Party(TWO, place.own, coordinators=[OTHER.public, ME.public])
    until(lambda: place.here(TWO.public), 20.0)
    several.close()


def test_who_is_not_there_yet_is_dialled_with_growing_pauses() -> None:
    for longest, wanted in ((10.0, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]), (0.1, [0.1, 0.1])):
        found = list(islice(pauses(longest), len(wanted)))
        assert all(0.75 * most <= pause <= most for pause, most in zip(found, wanted, strict=True)), found
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    party = Party(ONE, f"tcp://127.0.0.1:{port}")
    until(lambda: party.said)
    assert "can't be joined yet: nobody answers" in party.said[0]
    for times in (1, 2):
        place = Rendezvous(f"tcp://127.0.0.1:{port}", ME, NAMES)
        until(lambda place=place: place.here(ONE.public))
        says(through(place, ME), b"there")
        assert party.joiner.joined == times
        place.close()
    assert len(party.said) < 12, "each reason is said once"
    party.close()


def test_a_joiner_that_goes_takes_its_links_along(place: Rendezvous, one: Party) -> None:
    link = through(place, ME)
    says(link, b"before")
    one.close()
    with pytest.raises(LinkClosed):
        link.recv(5.0)
    until(lambda: not place.here(ONE.public))
    with pytest.raises(LinkClosed, match="hasn't dialled in"):
        through(place, ME)
    back = Party(ONE, place.own)
    until(lambda: place.here(ONE.public))
    says(through(place, ME), b"with the ticket of before")
    back.close()


def test_of_two_with_one_key_the_later_one_is_called(place: Rendezvous, one: Party) -> None:
    later = Party(ONE, place.own, longest=10.0)
    until(lambda: any("refused: somebody else with this key" in line for line in one.said))
    says(through(place, ME), b"either of them")
    later.close()
    until(lambda: place.here(ONE.public))
    says(through(place, ME), b"the first again")


def test_one_that_takes_nothing_holds_up_nobody_else(place: Rendezvous, one: Party) -> None:
    stuck = socket.create_connection(endpoint(place.own))
    stuck.sendall(opening(DIAL, place.ticket(ONE.public)))
    stuck.settimeout(0.5)
    assert stuck.recv(1) == b"\xff", "it is through, and says no more"
    says(through(place, ME), b"others go on", 1_000_000)
    stuck.close()


def test_noise_at_the_door_ends_itself_alone(place: Rendezvous, one: Party) -> None:
    rng = random.Random(1)
    right = opening(ANSWER, bytes(TOKEN))
    for turn in range(150):
        data = b"" if turn == 0 else rng.randbytes(turn) if turn % 3 else damaged(right, rng)
        # It may be cut already.
        with socket.create_connection(endpoint(place.own)) as noise, contextlib.suppress(OSError):
            noise.sendall(data)
            noise.shutdown(socket.SHUT_WR)
    says(through(place, ME), b"still there")
    until(lambda: len(place._unknown) < 64 and not place._waiting)


def test_a_crowd_that_says_nothing_is_bounded(place: Rendezvous, one: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.link.rendezvous.FIRST", 0.3)
    crowd = [socket.create_connection(endpoint(place.own)) for _ in range(100)]
    until(lambda: len(place._unknown) <= 64)
    until(lambda: not place._unknown, 20.0)
    says(through(place, ME), b"after them")
    for each in crowd:
        each.close()


def test_openings_and_calls_are_exactly_what_they_are() -> None:
    token = bytes(range(TOKEN))
    assert read_opening(opening(DIAL, token)) == Opening(DIAL, token)
    assert len(opening(ANSWER, token)) == OPENING == 40
    for wrong in (b"", opening(b"x", token), opening(DIAL, token[1:]), opening(DIAL, token) + b"x", bytes(OPENING)):
        with pytest.raises(FrameError):
            read_opening(wrong)
    assert decode_call(encode_call(JoinCall(token))) == JoinCall(token)
    assert decode_call(msgspec.msgpack.encode(["call", token, 5])) == JoinCall(token), "a later release says more"
    for wrong in (["call"], ["call", token[1:]], ["call", "x" * TOKEN], ["hello"], [], 5, ["call", None]):
        with pytest.raises(FrameError):
            decode_call(msgspec.msgpack.encode(wrong))
    rng = random.Random(2)
    for turn in range(MUTATIONS):
        seed = opening(DIAL, token) if turn % 2 else encode_call(JoinCall(token))
        data = damaged(seed, rng) if turn % 4 else rng.randbytes(rng.randrange(80))
        for read in (read_opening, decode_call):
            try:
                found = read(data)
            except FrameError:
                continue
            assert isinstance(found, Opening | JoinCall | Refused)


def test_what_cannot_be_is_said(place: Rendezvous) -> None:
    with pytest.raises(ConfigError, match="can't be dialled from elsewhere"):
        Rendezvous("ipc:///tmp/x", ME, NAMES)
    with pytest.raises(ConfigError, match="nobody may dial in"):
        Rendezvous("tcp://127.0.0.1:0", ME, {})
    with pytest.raises(LinkError, match=r"can't listen at .*in use"):
        Rendezvous(place.address, ME, NAMES)
    with pytest.raises(LinkError, match="can't listen"):
        Rendezvous("tcp://203.0.113.7:0", ME, NAMES)
    for address in ("tcp://*:7000", "tcp://127.0.0.1:0"):
        with pytest.raises(ConfigError, match="name the host and the port"):
            Joiner(address, ONE, [ME.public], "tcp://127.0.0.1:5")
    with pytest.raises(LinkError, match=r"the relay at tcp://127.0.0.1:1: nobody answers"):
        connect_through(
            "tcp://127.0.0.1:1", bytes(TOKEN), keys=ME.expecting(ONE.public), timeouts=QUICK, limits=Limits()
        )
    with pytest.raises(LinkError):
        connect(place.own, keys=OTHER.expecting(ME.public), timeouts=QUICK).close()


def test_others_find_the_address_that_lies_on_their_way() -> None:
    place = Rendezvous("tcp://0.0.0.0:0", ME, NAMES)
    assert place.own == f"tcp://127.0.0.1:{place.port}"
    assert place.seen_from("tcp://127.0.0.1:5") == f"tcp://127.0.0.1:{place.port}"
    assert place.seen_from("ipc:///tmp/x") == place.own
    assert place.seen_from("tcp://no.such.host.invalid:5") == place.own
    place.close()
    place.close()
    named = Rendezvous("tcp://127.0.0.1:0", ME, NAMES)
    assert named.seen_from("tcp://192.0.2.1:5") == named.own == named.address
    named.close()
