"""Profiles: layers and sizes as they were measured, their file, the cache, and problems made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from cutset.cluster.codecs import channel_of
from cutset.codec import Encoder
from cutset.errors import CutsetError
from cutset.partition.description import graph_digest
from cutset.partition.hop import Hop
from cutset.partition.profile import Profile, keep, kept, read_profile, write_profile
from cutset.partition.schedulers import scheduler
from cutset.partition.timing import measure_layers
from cutset.video.imports.export import export
from cutset.video.picture_forms import FORMS
from cutset.video.privacy import picture_like
from cutset.video.profile.payloads import measure_sizes, measured_inputs
from cutset.video.profile.setup import (
    Wish,
    measure_pictures,
    measure_profile,
    network_run,
    other_inputs,
    problem_of,
    typical_pairs,
)
from cutset.video.torch_stage import TorchStage, to_array
from video.networks import Skips, filled

SIZE = (24, 32)


class Net(torch.nn.Module):
    """Skips, for pictures of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Skips()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.rest(x.float() / 255)
        return result


@pytest.fixture(scope="module")
def exported() -> tuple[object, dict[str, torch.Tensor]]:
    return tuple(export(filled(Net()), torch.zeros(1, 3, *SIZE, dtype=torch.uint8)))


@pytest.fixture
def net(exported):
    graph, tensors = exported
    return graph, tensors, graph_digest(graph)


def pictures(count: int) -> list[np.ndarray]:
    """A small square that moves over a still picture."""
    base = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE), np.uint8)
    found = []
    for i in range(count):
        each = base.copy()
        each[:, :, 4:10, i : i + 6] = 200 + i
        found.append(each)
    return found


def test_layers_add_up_to_the_whole(net) -> None:
    graph, tensors, _ = net
    seen: list[tuple[str, int, int]] = []
    times = measure_layers(network_run(graph, tensors), rounds=3, progress=lambda *what: seen.append(what))
    assert len(times.seconds) == len(times.spread) == len(graph.nodes)
    assert min(times.seconds) > 0
    assert sum(times.seconds) == pytest.approx(times.whole)
    assert times.rounds == 3
    assert seen[-1] == ("layers", 3, 3)
    assert measure_layers(network_run(graph, tensors), rounds=50, budget=0.0).rounds == 2


def test_sizes_are_those_of_the_encoder_on_every_value(net) -> None:
    """The twin runs the whole network for each picture, and one encoder for each value."""
    graph, tensors, _ = net
    taken = pictures(5)
    found = measure_sizes(graph, tensors, [taken[:3], taken[3:]])
    assert set(found) == set(graph.values)
    everything = replace(graph, outputs=tuple(graph.values)[1:])
    stage = TorchStage(everything, range(len(graph.nodes)), tensors)
    runs = [stage.forward({graph.inputs[0].name: torch.from_numpy(each)}) for each in taken]
    for name, value in graph.values.items():
        encoder = Encoder(channel_of(0, value))
        arrays = [taken[i] if name == graph.inputs[0].name else to_array(runs[i][name]) for i in range(5)]
        made = [encoder.encode(array, i) for i, array in enumerate(arrays[:3])]
        encoder.lost()
        made += [encoder.encode(array, 3 + i) for i, array in enumerate(arrays[3:])]
        deltas = [made[1], made[2], made[4]]
        assert found[name].traffic.key[0].nbytes == np.median([made[0].nbytes, made[3].nbytes])
        assert found[name].traffic.delta[0].nbytes == np.median([each.nbytes for each in deltas])
        assert found[name].traffic.mean * np.median([each.nbytes for each in deltas]) == pytest.approx(
            np.mean([each.nbytes for each in deltas])
        )
        assert found[name].changed == np.median([each.changed for each in deltas])
    assert 0 < found[graph.inputs[0].name].changed < 0.2
    assert max(one.changed for one in found.values()) > 0.2


def test_too_few_pictures_are_refused(net) -> None:
    graph, tensors, _ = net
    for groups in ([], [pictures(2), pictures(1)]):
        with pytest.raises(CutsetError, match="at least two pictures"):
            measure_sizes(graph, tensors, groups)


def test_pairs_are_typical() -> None:
    """Twenty pictures of which one changes altogether and the others by their number: no pair is an extreme one."""
    pictures = [np.zeros(1000, np.uint8)]
    for i in range(1, 20):
        each = pictures[-1].copy()
        each[: 1000 if i == 7 else i] += 1
        pictures.append(each)
    for count in (2, 4, 8):
        groups = typical_pairs(pictures, count)
        changed = [np.count_nonzero(a != b) for a, b in groups]
        assert len(groups) == count // 2
        assert abs(np.median(changed) - 11) <= 1
    assert len(typical_pairs(pictures[:3], 100)) == 1
    with pytest.raises(CutsetError, match="at least two"):
        typical_pairs(pictures[:1], 8)


@pytest.fixture
def profile(net) -> Profile:
    graph, tensors, digest = net
    return measure_profile("net", graph, digest, tensors, threads=1)


def test_a_profile_is_remembered_for_what_it_depends_on(net, profile) -> None:
    graph, tensors, digest = net
    assert measure_profile("net", graph, digest, tensors, threads=1) == profile
    assert measure_profile("net", graph, digest, tensors, threads=1, fresh=True).whole != profile.whole
    versions = profile.versions
    assert set(versions) == {"cutset", "torch"}
    assert kept(digest, 1, versions) is not None
    assert kept(digest, 2, versions) is None
    assert kept("0" * 64, 1, versions) is None
    assert kept(digest, 1, versions | {"torch": "9"}) is None


def test_a_profile_from_a_busy_machine_is_measured_again(net, profile, tmp_path: Path, monkeypatch) -> None:
    graph, tensors, digest = net
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep(msgspec.structs.replace(profile, whole=100.0))
    assert measure_profile("net", graph, digest, tensors, threads=1).whole < 50
    found = kept(digest, 1, profile.versions)
    assert found is not None
    assert found.whole < 50


def test_the_file_gives_the_profile_back(net, profile, tmp_path: Path) -> None:
    graph, tensors, _ = net
    sizes = measure_pictures(graph, tensors, f"generated:{SIZE[0]}x{SIZE[1]},seed=2", size=SIZE, count=4)
    whole = msgspec.structs.replace(profile, sizes=sizes)
    (tmp_path / "p.json").write_text(write_profile(whole))
    assert read_profile(tmp_path / "p.json") == whole


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "cutset-profile-1"}', "\xff"])
def test_what_is_no_profile_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text, encoding="latin-1")
    with pytest.raises(CutsetError, match="not a profile"):
        read_profile(tmp_path / "p.json")
    with pytest.raises(CutsetError, match="can't read"):
        read_profile(tmp_path / "none.json")


def test_a_profile_of_another_network_is_refused(net, profile) -> None:
    graph, _, digest = net
    profile.check(graph, digest)
    with pytest.raises(CutsetError, match="another model"):
        profile.check(graph, "0" * 64)
    with pytest.raises(CutsetError, match="times for"):
        msgspec.structs.replace(profile, seconds=(1.0,)).check(graph, digest)


def test_a_problem_of_what_was_measured(net, profile) -> None:
    graph, tensors, digest = net
    sizes = measure_pictures(graph, tensors, f"generated:{SIZE[0]}x{SIZE[1]}", size=SIZE, count=4)
    wish = Wish(speeds=(0.5, 1.0), hops=(Hop(1e6), Hop(1e5)), names=("a", "b"), memory=(None, 10**9), in_flight=2)
    problem = problem_of(graph, digest, profile, sizes, wish)
    assert [machine.name for machine in problem.machines] == ["a", "b"]
    assert problem.machines[0].seconds == pytest.approx(2 * np.array(profile.seconds))
    assert (problem.machines[0].codec, problem.machines[1].codec) == (2.0, 1.0)
    lossless = {name for name, form in FORMS.items() if form.planned and not form.lossy}
    assert set(problem.inputs) == {"", *lossless}
    with_jpeg = problem_of(graph, digest, profile, sizes, replace(wish, jpeg=True))
    assert set(with_jpeg.inputs) == {"", *lossless, *({"jpeg"} & sizes.inputs().keys())}
    assert problem.private == frozenset()
    assert problem_of(graph, digest, profile, sizes, replace(wish, pictures_stay=True)).private == picture_like(graph)
    assert set(other_inputs(problem, sizes)) == {"float32", *sizes.inputs()}
    assert set(other_inputs(problem, None)) == {"float32"}
    assert scheduler("optimal").plan(problem).stages
    slow = msgspec.structs.replace(
        profile, encode={"bits": profile.encode["bits"] * 3}, decode={"bits": profile.decode["bits"] * 3}
    )
    other = problem_of(graph, digest, profile, sizes, replace(wish, profiles=(profile, slow)))
    assert other.machines[1].codec == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hops": (Hop(), Hop())}, "1 workers and 2 links"),
        ({"names": ("a", "b")}, "2 names"),
        ({"speeds": (0.0,)}, "speed"),
        ({"changed": 1.5}, "share"),
        ({"in_flight": -1}, "in-flight"),
    ],
)
def test_wishes_that_do_not_go_together(net, profile, wrong, says) -> None:
    graph, _, digest = net
    with pytest.raises(CutsetError, match=says):
        problem_of(graph, digest, profile, None, Wish(**wrong))


def test_guessed_sizes(net, profile) -> None:
    graph, _, digest = net
    problem = problem_of(graph, digest, profile, None, Wish(changed=0.25))
    name = graph.inputs[0].name
    elements = math.prod(graph.inputs[0].shape)
    assert problem.traffic[name].key[0].nbytes == elements
    assert problem.traffic[name].delta[0].nbytes == elements / 4 + elements / 8


def test_pictures_of_another_size_are_scaled(net, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(4):
        image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    graph, tensors, _ = net
    assert SIZE != (48, 64)
    assert measure_pictures(graph, tensors, str(tmp_path), size=SIZE, count=4).items == 4


def test_forms_of_encoded_pictures() -> None:
    pytest.importorskip("av")
    from cutset.video.sources import H264Encoder, Picture

    taken = pictures(6)
    encoder = H264Encoder(SIZE)
    encoded = [encoder.encode(each) for each in taken]
    list_of = [Picture(i, each, i / 25, (encoded[i][0],), encoded[i][1]) for i, each in enumerate(taken)]
    found = measured_inputs(encoder.codec, list_of)
    lengths = [len(packet) for packet, _ in encoded]
    assert found["packets"].delta[0].nbytes == np.median(lengths)
    assert found["packets"].delta[0].nbytes * found["packets"].mean == pytest.approx(np.mean(lengths))
    assert found["packets"].delta[0].decode > 0
    assert found["float32"].key[0].nbytes == 4 * taken[0].nbytes
    assert 0 < found["jpeg"].key[0].nbytes < taken[0].nbytes
    found = measured_inputs(None, list_of)
    assert set(found) == set(FORMS)
    assert all(traffic.key[0].encode > 0 and traffic.key[0].decode > 0 for traffic in found.values())
