"""Thresholds by layer: more where it moves the output little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from cutset.video.check import difference
from cutset.video.delta.box_agreement import score_moved
from cutset.video.delta.calibrating import FactorStep, calibrate, chosen
from cutset.video.delta.program import Program
from cutset.video.onnx_model import OnnxModel
from video.onnx_networks import Builder, save


def uneven(folder: Path) -> OnnxModel:
    """A network with a branch of which next to nothing reaches the output, and one that is most of it."""
    net, rng = Builder(), np.random.default_rng(3)

    def branch(name: str, factor: float) -> str:
        first = rng.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32)
        last = (factor * rng.normal(0, 0.3, (4, 16, 3, 3))).astype(np.float32)
        x = net.add("Conv", ["images", net.constant(f"{name}1", first)], f"{name} first", pads=[1] * 4)
        x = net.add("Relu", [x], f"{name} relu")
        return net.add("Conv", [x, net.constant(f"{name}2", last)], f"{name} last", pads=[1] * 4)

    net.add("Add", [branch("faint", 0.001), branch("loud", 1.0)], "out")
    return OnnxModel.of(save(net.model(["out"], (1, 3, 24, 24)), folder / "net.onnx"), (24, 24), "float32")


def test_the_layer_that_matters_gets_less(tmp_path: Path) -> None:
    model = uneven(tmp_path)
    base = np.random.default_rng(0).random((1, 3, 24, 24), np.float32)
    noise = np.random.default_rng(1).normal(0, 0.02, (6, 1, 3, 24, 24)).astype(np.float32)
    pictures = [{model.input.name: base + one} for one in noise]
    dense = [model.run(one[model.input.name]) for one in pictures]
    program = Program(model.graph, range(len(model.graph.nodes)), model.weights)
    found = calibrate(program, pictures, dense, lambda a, b: difference(a, b)[1] / 0.006, scale=0.5)
    assert found.before[1] > 1, "with equal thresholds it is too far off"
    assert found.after[1] <= 1
    assert program.factors == found.factors
    assert found.factors["faint relu"] >= 4 * found.factors["loud relu"]
    assert found.factors["faint last"] >= 4 * found.factors["loud last"]


def test_a_price_for_all_takes_what_saves_most_for_what_moves_least() -> None:
    none = FactorStep(1.0, 0.0, 0.0)
    cheap, dear, free = FactorStep(4.0, -3.0, 0.1), FactorStep(4.0, -3.0, 2.0), FactorStep(4.0, -0.5, 0.0)
    choices = [[none, cheap], [none, dear], [none, free]]
    assert chosen(choices, 0.5) == [cheap, none, free]
    assert chosen(choices, 3.0) == [cheap, dear, free]
    assert chosen(choices, 0.0) == [none, none, free]
    lower = FactorStep(0.25, 2.0, -1.0)
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
