"""What one client can do to the others of an accelerator: little."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import LinkClosed, LinkError, LinkTimeout
from cutset.kernels.reference_field import residue_product
from cutset.link import Limits, dealer, router
from cutset.link.zeromq import configure
from cutset.offload.accelerator.accelerator import Quota
from cutset.offload.messages import PROTOCOL, AskCounters, Multiply, Product, Refused
from link.hellos import hello
from offload.crowd import LINKS, WEIGHTS, Place, ask, hear, product, rows, say, serving

QUOTA = Quota(max_rows=1024, reply=0.5)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.fixture
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps little between the two: else tens of thousands of small answers are on the way before anything
    waits, at a limit that depends on the machine."""

    def small(raw: Any, limits: Limits, scheme: str) -> None:
        configure(raw, limits, scheme)
        raw.rcvbuf = raw.sndbuf = 1 << 14

    monkeypatch.setattr(dealer, "configure", small)
    monkeypatch.setattr(router, "configure", small)


@contextmanager
def deaf(place: Place, message: Any, array: Any = None) -> Iterator[list[int]]:
    """A client that sends a message in a loop, never takes an answer, and dials again when its link ends; how many
    were sent, and how many links that took."""
    stop, counted = threading.Event(), [0, 0]

    def work() -> None:
        while not stop.is_set():
            try:
                link = place.dial("b", limits=Limits(ring=1 << 20, queue=1))
                counted[1] += 1
                say(link, hello(PROTOCOL))
                tried = 0
                while not stop.is_set() and tried < 20:  # ZeroMQ doesn't notice that a link ended while nobody reads
                    try:
                        given = () if array is None else (array,)
                        say(link, message(counted[0] + 1), *given, timeout=0.05)
                        counted[0], tried = counted[0] + 1, 0
                    except LinkTimeout:
                        tried += 1
            except LinkError:
                pass
            finally:
                link.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counted
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("what", ["products", "hellos"])
@pytest.mark.usefixtures("_small_buffers")
def test_a_client_that_does_not_read_stalls_nobody(kind: str, what: str, tmp_path: Path) -> None:
    """Each of these calls would wait a second for every answer that the other one doesn't take; there is an end to
    how long this session waits."""
    with serving(kind, tmp_path, QUOTA) as place:
        session, x = place.session("a"), rows(2)
        message, array = (
            (lambda n: Multiply(n, 0), rows(512)) if what == "products" else (lambda n: hello(PROTOCOL), None)
        )
        with deaf(place, message, array) as counted:
            while counted[0] < (40 if what == "products" else 700) and counted[1] < 2:
                time.sleep(0.01)
            started = time.monotonic()
            for _ in range(100):
                np.testing.assert_array_equal(product(session, 0, x), residue_product(x, WEIGHTS[0]))
            spent = time.monotonic() - started
            while counted[1] < 2:  # it was dropped
                assert time.monotonic() - started < 100
                product(session, 0, x)
        assert spent < 20 * QUOTA.reply  # 100 calls beside at least as many answers that nobody takes
        assert place.accelerator.counters["dropped"] >= 1
        session.close()


@pytest.mark.parametrize("kind", LINKS)
def test_who_reads_late_gets_all_of_its_answers(kind: str, tmp_path: Path) -> None:
    """Four large answers, one of them in pieces over shared memory, are kept until there is room."""
    with serving(kind, tmp_path, Quota(max_rows=1024, reply=20.0)) as place:
        link = place.greeted("b", limits=Limits(ring=1 << 20, queue=1))
        asked = [rows(count) for count in (400, 400, 100, 400)]
        for number, x in enumerate(asked):
            ask(link, number + 1, x)
        session = place.session("a")
        for _ in range(50):
            product(session, 1, rows(1))
        session.close()
        found = {}
        for _ in asked:
            message, arrays = hear(link)
            assert isinstance(message, Product)
            found[message.call] = arrays[0]
        for number, x in enumerate(asked):
            np.testing.assert_array_equal(found[number + 1], residue_product(x, WEIGHTS[0]))
        link.close()


@pytest.mark.parametrize("kind", ["inproc", "shm"])
def test_calls_in_pieces_give_the_same_bits(kind: str, tmp_path: Path) -> None:
    """With two clients products of many rows are multiplied a few rows at a time."""
    with serving(kind, tmp_path) as place:
        place.accelerator._calls.speed = 1e6  # so slow that 16 rows are a slice
        links = [place.greeted(who) for who in "ab"]
        asked = {number: rows(500 + number) for number in range(1, 4)}
        for number, x in asked.items():
            for link in links:
                ask(link, number, x)
        for link in links:
            for number, x in asked.items():
                message, arrays = hear(link)
                assert isinstance(message, Product)
                assert message.call == number
                np.testing.assert_array_equal(arrays[0], residue_product(x, WEIGHTS[0]))
        time.sleep(0.3)  # native code tells its counters after a turn, which is 0.1 s
        totals = place.accelerator.totals()
        assert totals["calls"] == 6
        assert totals["products"] > totals["calls"] or totals["shared_rows"] > 0  # the rest of one beside another
        for link in links:
            link.close()


@pytest.mark.parametrize("kind", LINKS)
def test_a_client_that_only_has_refusals_coming_is_dropped(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, Quota(max_rows=16, max_refused=8)) as place:
        link = place.greeted("b")
        refused = 0
        try:
            for number in range(1, 30):
                ask(link, number, rows(17))
                refused += isinstance(hear(link)[0], Refused)
        except LinkClosed:
            pass
        assert 8 <= refused <= 9
        link.close()


@pytest.mark.parametrize("kind", LINKS)
def test_counters_are_ones_own(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as place:
        busy, other = place.session("a"), place.session("b")
        for _ in range(7):
            product(busy, 0, rows(3))
        mine, others = busy.counters(), other.counters()
        assert (mine["calls"], mine["rows"], mine["clients"]) == (7, 21, 1)
        assert {name: value for name, value in others.items() if value} == {"clients": 1}
        again = place.session("a")
        assert again.counters()["rows"] == (21 if kind == "tcp" else 0)  # a key's, where there are keys
        time.sleep(0.3)
        totals = place.accelerator.totals()
        assert (totals["rows"], totals["clients"], totals["connected"]) == (21, 3, 3)
        for session in (busy, other, again):
            session.close()


@pytest.mark.parametrize("kind", ["inproc", "shm"])
def test_an_answer_does_not_tell_how_many_rows_others_had(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, Quota(max_rows=1024, window=0.05)) as place:
        links = [place.greeted(who) for who in "ab"]
        shared = set()
        for number in range(1, 20):
            for link, count in zip(links, (1, 7), strict=True):
                ask(link, number, rows(count), number % 2)  # in the order of a decoder
            for link in links:
                message, _ = hear(link)
                assert isinstance(message, Product)
                shared.add(message.shared)
        time.sleep(0.3)
        assert place.accelerator.totals()["shared_rows"] > 0
        assert shared <= {0, 1, 2}
        for link in links:
            link.close()


@pytest.mark.parametrize("kind", ["shm", "ipc", "tcp"])
def test_one_key_or_user_has_a_part_of_the_slots(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, Quota(max_rows=64, clients=4, each=2)) as place:
        kept = [place.greeted("a") for _ in range(2)]
        with pytest.raises((LinkClosed, LinkTimeout)):
            place.greeted("a")
        if kind == "tcp":
            kept.append(place.greeted("b"))
        kept.pop(0).close()
        end = time.monotonic() + 20
        while True:  # and the slot is free again
            try:
                kept.append(place.greeted("a"))
                break
            except LinkError:
                assert time.monotonic() < end
        for link in kept:
            link.close()


@pytest.mark.parametrize("kind", LINKS)
def test_who_is_idle_or_never_says_hello_loses_its_slot(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, Quota(max_rows=64, greeting=0.3, idle=0.6)) as place:
        silent, rude, idle, active = place.dial(), place.dial(), place.greeted(), place.session()
        say(rude, AskCounters(1))
        hear(rude)  # a refusal
        end = time.monotonic() + 20
        for link in (rude, idle, *([silent] if kind != "inproc" else [])):
            while True:
                assert time.monotonic() < end
                product(active, 1, rows(1))  # calls keep a link
                try:
                    link.recv(0.05).release()
                except LinkTimeout:
                    continue
                except LinkClosed:
                    break
        assert active.redialled == 0
        for link in (silent, rude, idle):
            link.close()
        time.sleep(1.0)
        product(active, 1, rows(1))  # an idle session dials again by itself
        assert active.redialled == 1
        active.close()


def test_a_product_beside_pads_and_self_tests(tmp_path: Path) -> None:
    """Work of other kinds is done a slice at a time, and in turns."""
    with serving("inproc", tmp_path) as place:
        place.accelerator._calls.speed = 1e6
        other, session = place.session("b"), place.session("a")
        told: list[Any] = []
        seeds = [(0, bytes([n]) * 32, 128) for n in range(8)]
        thread = threading.Thread(target=lambda: told.append(other.pads(seeds, [512] * 8)))
        thread.start()
        x = rows(1)
        for _ in range(30):
            np.testing.assert_array_equal(product(session, 0, x), residue_product(x, WEIGHTS[0]))
        thread.join(30)
        from cutset.offload.arithmetic import residues

        for (_, seed, count), found in zip(seeds, told[0], strict=True):
            r = residues(seed, count * 256).reshape(count, 256)
            np.testing.assert_array_equal(found, residue_product(r, WEIGHTS[0]))
        other.close()
        session.close()
