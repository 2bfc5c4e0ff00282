"""Thresholds by layer: more where it moves the output little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cutset.video.check import difference
from cutset.video.delta.box_agreement import score_moved
from cutset.video.delta.calibrating import Choice, calibrate, chosen
from cutset.video.delta.program import Program
from cutset.video.imports.export import export
from video.networks import filled


class Uneven(nn.Module):
    """A branch of which next to nothing reaches the output, and one that is most of it."""

    def __init__(self) -> None:
        super().__init__()
        self.faint = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
        self.loud = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return 0.001 * self.faint(x) + self.loud(x)


@pytest.fixture(scope="module")
def uneven() -> Any:
    graph, tensors = export(filled(Uneven()), torch.zeros(1, 3, 24, 24))
    base = np.random.default_rng(0).random((1, 3, 24, 24), np.float32)
    noise = np.random.default_rng(1).normal(0, 0.02, (6, 1, 3, 24, 24)).astype(np.float32)
    return graph, tensors, [{graph.inputs[0].name: base + one} for one in noise]


def test_the_layer_that_matters_gets_less(uneven: Any) -> None:
    graph, tensors, pictures = uneven
    program = Program(graph, range(len(graph.nodes)), tensors)
    dense = []
    for values in pictures:
        state = program.state()
        program.update(state, program.take(state, values))
        dense.append(program.results(state))
    found = calibrate(program, pictures, dense, lambda a, b: difference(a, b)[1] / 0.02, scale=0.5)
    assert found.after[1] <= 1.0, "within what is allowed"
    assert found.after[0] <= found.before[0]
    made = {node.name.partition(".")[0]: node.made[0].name for node in graph.nodes if "conv" in node.op}
    assert program.factors == found.factors
    faint, loud = (
        max(factor for name, factor in found.factors.items() if branch in graph.nodes[graph.maker[name]].name)
        for branch in ("faint", "loud")
        if made
    )
    assert faint >= 4 * loud


def test_a_price_for_all_takes_what_saves_most_for_what_moves_least() -> None:
    none = Choice(1.0, 0.0, 0.0)
    cheap, dear, free = Choice(4.0, -3.0, 0.1), Choice(4.0, -3.0, 2.0), Choice(4.0, -0.5, 0.0)
    choices = [[none, cheap], [none, dear], [none, free]]
    assert chosen(choices, 0.5) == [cheap, none, free]
    assert chosen(choices, 3.0) == [cheap, dear, free]
    assert chosen(choices, 0.0) == [none, none, free]
    lower = Choice(0.25, 2.0, -1.0)
    assert chosen([[none, lower]], -0.5) == [lower], "more is computed where it is too far off"
    assert chosen([[none, lower]], -5.0) == [lower], "as near as can be"
    assert chosen([], 1.0) == []


def test_what_scores_move_by() -> None:
    truth = np.array([[0, 0, 10, 10, 0.8, 1], [20, 20, 40, 40, 0.6, 1]])
    found = truth.copy()
    assert score_moved(found, truth) == 0
    found[:, 4] += [0.05, -0.1]
    assert score_moved(found, truth) == pytest.approx(np.sqrt((1 + 4) / 2))
    assert score_moved(found[:1], truth) == pytest.approx(np.sqrt((1 + 4) / 2)), "a box that is missed"
    found[0, 5] = 2
    assert score_moved(found[:1], truth) == pytest.approx(2.0)
    none = np.zeros((0, 6))
    assert score_moved(none, none) == 0
    assert score_moved(none, truth) == score_moved(truth, none) == 2
