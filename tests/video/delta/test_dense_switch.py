"""When dense takes over, by a clock that stands still but for what the test lets things cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from cutset.video.delta.delta_stage import DeltaStage
from cutset.video.delta.dense_switch import FIRST_WAIT, PATIENCE, DenseSwitch
from cutset.video.imports.export import export
from cutset.video.torch_stage import TorchStage
from video.networks import filled

Played = Callable[..., tuple[list[str], float]]
DENSE, KEY = 1.0, 2.2  # seconds of whole pictures: the runtime's own, and our layers'


class Clock:
    """Seconds that pass only where something is said to cost them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Costly:
    """A dense stage that costs so much, and counts."""

    def __init__(self, inner: TorchStage, clock: Clock) -> None:
        self.inner, self.clock, self.calls = inner, clock, 0
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, source: int, values: Any, observe: Any = None) -> Any:
        self.calls += 1
        self.clock.now += DENSE
        return self.inner.run(source, values, observe)


@pytest.fixture(scope="module")
def network() -> tuple[Any, Mapping[str, Any]]:
    module = filled(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)))
    return export(module, torch.zeros(1, 3, 8, 8))


@pytest.fixture
def played(network: Any, monkeypatch: pytest.MonkeyPatch) -> Played:
    return partial(play, monkeypatch, network)


def play(
    patch: pytest.MonkeyPatch,
    network: Any,
    costs: Iterator[float],
    pictures: int,
    check: Callable[[int], float] = lambda _: 0.0,
) -> tuple[list[str], float]:
    """The kinds of pictures, and all their seconds, where a picture of what changed takes what `costs` says."""
    graph, tensors = network
    nodes, clock = range(len(graph.nodes)), Clock()
    dense = Costly(TorchStage(graph, nodes, tensors), clock)
    stage = DeltaStage(graph, nodes, tensors, dense, scale=1.0, dense_seconds=DENSE, clock=clock)
    update = stage.program.update

    def timed(state: Any, masks: Any, scale: float = 0.0, **more: Any) -> Any:
        cost = KEY if state.stale else next(costs)
        clock.now += min(cost, KEY)
        return update(state, masks, scale)

    patch.setattr(stage.program, "update", timed)
    base, kinds, begin = np.random.default_rng(0).random((1, 3, 8, 8), np.float32), [], clock.now
    for k in range(pictures):
        stage.run(0, {graph.inputs[0].name: base + np.float32(0.1 * (k % 2) * (k % 40 < 20))})
        kinds.append("dense" if stage.whole else "delta")
        if not stage.whole and (cost := check(k)):
            clock.now += cost
            stage.charge(0, cost)
    return kinds, clock.now - begin


def always(cost: float) -> Iterator[float]:
    while True:
        yield cost


def drawn(seed: int, low: float, high: float) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield float(rng.uniform(low, high))


def test_dense_takes_over_after_two_slow_pictures(played: Played) -> None:
    kinds, _ = played(always(1.2), 12)
    assert kinds == ["delta"] * (1 + PATIENCE) + ["dense"] * 9, "a key, and two that were slow"


@pytest.mark.parametrize(
    "costs",
    [
        lambda: always(1.01),
        lambda: always(1.6),
        lambda: drawn(1, 0.9, 1.3),
        lambda: drawn(2, 0.2, 3.0),
        lambda: iter([0.5, 1.7] * 10_000),
    ],
)
def test_all_of_it_is_never_slower_than_dense_by_more_than_what_was_put_by(played: Played, costs: Any) -> None:
    kinds, spent = played(costs(), 300)
    assert len(kinds) * DENSE / spent >= 0.97


def test_what_either_takes_is_known_before_the_first_picture(network: Any) -> None:
    graph, tensors = network
    nodes, clock = range(len(graph.nodes)), Clock()
    dense = Costly(TorchStage(graph, nodes, tensors), clock)
    stage = DeltaStage.timed(graph, nodes, tensors, dense, threads=1, scale=1.0, clock=clock)
    calls = dense.calls
    stage.run(0, {graph.inputs[0].name: np.zeros((1, 3, 8, 8), np.float32)})
    assert dense.calls == calls, "a key at first"
    assert not stage.whole


def test_checks_count(played: Played) -> None:
    """Pictures at 0.95 of dense don't pay where every fourth is computed dense as well."""
    kinds, spent = played(always(0.95), 300, check=lambda k: DENSE if k % 4 == 0 else 0.0)
    assert kinds.count("dense") > 200
    assert len(kinds) * DENSE / spent >= 0.97
    kinds, spent = played(always(0.3), 100, check=lambda k: DENSE if k % 4 == 0 else 0.0)
    assert kinds.count("dense") == 0
    assert spent < 60


def test_pauses_grow_where_it_does_not_last(played: Played) -> None:
    kinds, _ = played(always(1.1), 1500)
    starts = [k for k in range(1, len(kinds)) if kinds[k] == "delta" and kinds[k - 1] == "dense"]
    pauses = np.diff(starts)
    assert len(starts) >= 3
    assert min(pauses) >= FIRST_WAIT
    assert pauses[-1] >= 2 * pauses[0]


def test_a_scene_that_moves_turns_it_off_within_two_pictures_and_a_key_begins_again() -> None:
    switch = DenseSwitch(1.0)
    assert switch.choose(1.0, stale=True) == "key"
    switch.took("key", 1.5, 1.0)
    for _ in range(20):
        assert switch.choose(0.01, stale=False) == "delta"
        switch.took("delta", 0.2, 0.01)
    seen = []
    for _ in range(4):
        seen.append(switch.choose(0.9, stale=False))
        switch.took(seen[-1], 1.3 if seen[-1] == "delta" else 1.0, 0.9)
    assert seen == ["delta", "delta", "dense", "dense"]
    for _ in range(100):  # as long as it moves
        assert switch.choose(0.8, stale=True) == "dense"
        switch.took("dense", 1.0, 0.8)
    calm = []
    while not calm or calm[-1] == "dense":
        calm.append(switch.choose(0.02, stale=True))
        switch.took(calm[-1], 1.0, 0.02)
    assert len(calm) <= FIRST_WAIT
    assert calm[-1] == "key"


def test_a_scene_that_is_never_calm_for_long_is_tried_ever_more_rarely() -> None:
    switch, tries = DenseSwitch(1.0), 0
    kinds = []
    for _ in range(1000):
        kind = switch.choose(0.5 if switch.on else 0.1, stale=not kinds or kinds[-1] == "dense")
        kinds.append(kind)
        tries += kind == "key"
        took = 1.0 if kind == "dense" else 1.3
        switch.took(kind, took, 0.5)
        switch.paid(took, dense=kind == "dense")
    assert 2 <= tries <= 9
    assert sum(kind != "dense" for kind in kinds) < 0.03 * len(kinds)


def test_dense_is_timed_again_where_it_decides() -> None:
    switch = DenseSwitch(4.0)
    looks = 0
    for _ in range(60):
        assert switch.choose(0.3, stale=False) == "delta"
        switch.took("delta", 1.5, 0.3)
        if switch.wants_dense():
            looks += 1
            switch.took("dense", 1.0, 0.3)
    assert not looks, "far from it"
    slow = DenseSwitch(4.0)
    kinds = []
    for _ in range(60):
        kinds.append(slow.choose(0.3, stale=False))
        slow.took(kinds[-1], 3.5 if kinds[-1] == "delta" else 1.0, 0.3)
        if slow.wants_dense():
            looks += 1
            slow.took("dense", 1.0, 0.3)
    assert looks
    assert kinds[-1] == "dense"
