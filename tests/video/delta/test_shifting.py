"""A camera that moves: what is held moves along, and every bit is as if all of it were computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn
from torch.nn import functional

from cutset.partition.graph import Graph
from cutset.video.delta.delta_stage import DeltaStage
from cutset.video.delta.program import Program
from cutset.video.delta.shifting import estimated, moved
from cutset.video.imports.export import export
from cutset.video.torch_stage import TorchStage
from cutset.video.zoo.network import Network
from video.networks import filled

SIZE = (48, 56)


class Camera(Network):
    """Windows of all kinds: strides, gaps, padding on one side, pools, a gate, and two scales that come together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 8, 3, padding=3, dilation=3)
        self.halved = nn.Conv2d(8, 6, 3, 2, padding=1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(22, 4, (1, 3), padding=(0, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.first(self.pictures(pictures)))
        y = functional.silu(self.deep(x)) + x
        z = functional.relu(self.halved(self.wide(y)))
        z = z * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(z, 1)))
        small = functional.max_pool2d(z, 3, 2, 1)
        up = functional.interpolate(z, scale_factor=2.0, mode="nearest")
        return self.last(torch.cat([up, y, functional.avg_pool2d(x, 3, 1, 1)], 1)), small


@pytest.fixture(scope="module")
def camera() -> tuple[Graph, Mapping[str, Tensor]]:
    module = filled(Camera()).eval()
    module.pictures.reset()
    return export(module, torch.zeros((1, 3, *SIZE), dtype=torch.uint8))


def seen(places: list[tuple[int, int]], changes: int = 2) -> list[np.ndarray[Any, Any]]:
    """What a camera sees of a textured scene from these rows and columns, in which something changes each time."""
    rng = np.random.default_rng(4)
    scene = rng.integers(0, 256, (1, 3, 300, 300), np.uint8)
    found = []
    for top, left in places:
        found.append(np.ascontiguousarray(scene[..., top : top + SIZE[0], left : left + SIZE[1]]))
        for _ in range(changes):
            r, c = rng.integers(0, 40, 2)
            scene[..., top + r : top + r + 3, left + c : left + c + 4] = rng.integers(0, 256, (1, 3, 3, 4), np.uint8)
    return found


@pytest.mark.parametrize("step", [(8, 0), (0, -8), (-16, 8), (4, 4), (2, -2), (1, 0), (0, 40), (-48, 0), (3, 8)])
def test_what_was_moved_has_the_bits_of_all_computed(camera: Any, step: tuple[int, int]) -> None:
    graph, tensors = camera
    program = Program(graph, range(len(graph.nodes)), tensors)
    places = [(80, 60), (80 - step[0], 60 - step[1]), (80 - 2 * step[0], 60 - 2 * step[1])]
    state, name = program.state(), graph.inputs[0].name
    for k, picture in enumerate(seen([(max(r, 0), max(c, 0)) for r, c in places])):
        shift = moved(program.strides, *step, program.compiled.layers) if k else None
        if shift is not None:
            shift.apply(state.maps)
        work = program.update(state, program.take(state, {name: picture}), shift=shift)
        found, alone = program.results(state), program.state()
        program.update(alone, program.take(alone, {name: picture}))
        for one, expected in program.results(alone).items():
            assert found[one].tobytes() == expected.tobytes(), (k, one)
        if k == 2 and step in [(8, 0), (0, -8)]:
            assert work.share(program.flops) < 0.75, "the edge, and what changed"


class Patches(Network):
    """Windows side by side without padding, as of a transformer, and what looks at all of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, 8)
        self.all = nn.Linear(4 * 6 * 7, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.all(torch.flatten(self.patches(self.pictures(pictures)), 1))


def test_what_is_computed_whole_sees_a_movement_of_which_the_edges_tell_nothing() -> None:
    """Something moves before a wall of one colour: what comes in at the edge is what was there."""
    module = filled(Patches()).eval()
    module.pictures.reset()
    graph, tensors = export(module, torch.zeros((1, 3, *SIZE), dtype=torch.uint8))
    program, name = Program(graph, range(len(graph.nodes)), tensors), graph.inputs[0].name
    thing = np.random.default_rng(2).integers(0, 256, (1, 3, 32, 24), np.uint8)
    state = program.state()
    for left in (8, 16, 24):
        picture = np.full((1, 3, *SIZE), 90, np.uint8)
        picture[..., 8:40, left : left + 24] = thing
        shift = moved(program.strides, 0, 8, program.compiled.layers) if left > 8 else None
        if shift is not None:
            shift.apply(state.maps)
        work = program.update(state, program.take(state, {name: picture}), shift=shift)
        assert left == 8 or work.share(program.flops) < 0.7, "what moved isn't computed again"
        alone = program.state()
        program.update(alone, program.take(alone, {name: picture}))
        for one, expected in program.results(alone).items():
            assert program.results(state)[one].tobytes() == expected.tobytes()


def test_which_maps_move_along(camera: Any) -> None:
    graph, tensors = camera
    program = Program(graph, range(len(graph.nodes)), tensors)
    layers = program.compiled.layers
    assert {1, 2, 4, 8} == {int(rows) for rows, _ in program.strides.values()}
    few, most = moved(program.strides, 2, 0, layers), moved(program.strides, 0, 8, layers)
    assert 1 < len(few.by) < len(most.by) == len(program.strides)
    least = {name for name, (rows, _) in program.strides.items() if rows == 1}
    assert set(moved(program.strides, 1, 0, layers).by) == least >= {graph.inputs[0].name}
    assert set(most.by.values()) == {(0, 8), (0, 4), (0, 2), (0, 1)}, "what a gate reads is one place, moved or not"


def test_a_stage_finds_out_and_leaves_most_alone(camera: Any) -> None:
    graph, tensors = camera
    nodes, name = range(len(graph.nodes)), graph.inputs[0].name
    stage = DeltaStage(graph, nodes, tensors, TorchStage(graph, nodes, tensors), always=True)
    for k, picture in enumerate(seen([(60, 60), (68, 60), (68, 68), (68, 68), (60, 60)], changes=1)):
        found = stage.run(0, {name: picture})
        fresh = DeltaStage(graph, nodes, tensors, TorchStage(graph, nodes, tensors), always=True)
        assert all(found[one].tobytes() == array.tobytes() for one, array in fresh.run(0, {name: picture}).items())
        assert stage.share < 0.8 or k == 0
    assert stage.shifted == 3, "where it stands still nothing is moved"


def test_movements_are_found_to_the_pixel() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (300, 300)).astype(np.float32)
    for down, across in [(0, 1), (-3, 2), (32, 0), (16, -24), (-40, 40)]:
        before, after = scene[60:220, 60:220], scene[60 - down : 220 - down, 60 - across : 220 - across]
        noisy = after + rng.integers(-3, 4, after.shape).astype(np.float32)
        assert estimated(before, noisy) == (down, across)
    other = rng.integers(0, 256, (160, 160)).astype(np.float32)
    assert estimated(scene[60:220, 60:220], other) == (0, 0), "another scene"
    assert estimated(other, other + 3) == (0, 0), "nothing changed by enough"
    assert estimated(np.zeros((160, 160), np.float32), np.full((160, 160), 99, np.float32)) == (0, 0)
