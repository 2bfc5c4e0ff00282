"""Which replica a prompt goes to."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from cutset.serve.replicas.prefix_routes import MOST_BLOCKS, MOST_KNOWN, PrefixRoutes

NAMES = ("replica1", "replica2", "replica3")


def prompt(*parts: int, length: int = 64) -> NDArray[np.int32]:
    """Parts of 64 tokens each, the same for the same number."""
    return np.concatenate([np.random.default_rng(part).integers(0, 1000, length) for part in parts]).astype(np.int32)


def send(routes: PrefixRoutes, ids: NDArray[np.int32], loads: dict[str, int], salt: str | None = None) -> str:
    digests = routes.digests(ids, salt, None)
    name = routes.choose(digests, loads)
    routes.note(digests, name)
    return name


def idle() -> dict[str, int]:
    return dict.fromkeys(NAMES, 0)


def test_a_conversation_stays_where_it_is() -> None:
    routes = PrefixRoutes(16)
    for first in range(30):
        homes = {send(routes, prompt(first, *range(100, 100 + turns)), idle()) for turns in range(6)}
        assert len(homes) == 1


def test_others_are_spread_and_a_new_front_sends_them_alike() -> None:
    homes = [send(PrefixRoutes(16), prompt(first), idle()) for first in range(300)]
    routes = PrefixRoutes(16)
    assert homes == [send(routes, prompt(first), idle()) for first in range(300)]
    assert min(Counter(homes).values()) > 60
    short = [send(PrefixRoutes(16), prompt(first, length=5), idle()) for first in range(300)]
    assert min(Counter(short).values()) > 60, "those of less than a block too"


def test_a_replica_that_goes_moves_nobody_elses_prompts() -> None:
    before = {first: send(PrefixRoutes(16), prompt(first), idle()) for first in range(200)}
    left = {"replica1": 0, "replica3": 0}
    for first, home in before.items():
        moved = send(PrefixRoutes(16), prompt(first), left)
        assert moved == home or home == "replica2"


def test_one_that_is_overloaded_is_passed_over_and_the_next_one_shares() -> None:
    routes = PrefixRoutes(16)
    home = send(routes, prompt(1, 2), idle())
    assert send(routes, prompt(1, 3), idle() | {home: 4}) == home, "it has half of it"
    other = send(routes, prompt(1, 4), idle() | {home: 5})
    assert other != home
    assert send(routes, prompt(1, 5), {home: 4, other: 3, **dict.fromkeys({*NAMES} - {home, other}, 9)}) == other
    assert send(routes, prompt(1, 2), idle() | {home: 6}) == home, "it has all of it"
    busy = dict.fromkeys(NAMES, 40)
    assert send(routes, prompt(1, 2), busy | {home: 76}) == home, "a little more of much is no overload"
    assert send(routes, prompt(1, 2), busy | {home: 77}) != home


def test_what_nobody_has_goes_to_the_least_busy() -> None:
    for first in range(20):
        assert send(PrefixRoutes(16), prompt(first), {"replica1": 3, "replica2": 2, "replica3": 3}) == "replica2"


def test_sixteen_clients_of_one_beginning_use_both() -> None:
    routes, loads = PrefixRoutes(16), {"replica1": 0, "replica2": 0}
    for client in range(16):
        loads[send(routes, prompt(1, client), loads)] += 1
    assert min(loads.values()) >= 6


def test_salts_and_adapters_share_nothing() -> None:
    routes = PrefixRoutes(16)
    ids = prompt(1)
    every = {
        tuple(routes.digests(ids, salt, adapter)[1:]) for salt in (None, "", "a") for adapter in (None, "b", "c" * 200)
    }
    assert len(every) == 9
    assert len({send(PrefixRoutes(16), ids, idle(), salt) for salt in "abcdefghij"}) > 1
    assert routes.digests(ids, "\ud800", None)


def test_what_is_remembered_is_bounded_and_forgotten_with_its_replica() -> None:
    routes = PrefixRoutes(1)
    for start in range(0, MOST_KNOWN + 2 * MOST_BLOCKS, MOST_BLOCKS):
        ids = np.arange(start, start + MOST_BLOCKS + 40, dtype=np.int32)
        assert len(routes.digests(ids, None, None)) == MOST_BLOCKS + 1
        send(routes, ids, idle())
    assert len(routes._known) == MOST_KNOWN
    for name in NAMES:
        routes.forget(name)
    assert not routes._known
