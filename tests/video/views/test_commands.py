"""`cutset stream train` and `cutset stream show` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from cluster.trace.pipeline import pipeline
from cutset.cli import main
from cutset.cluster.trace.chrome import write_trace
from cutset.cluster.trace.record import Trace
from cutset.partition.profile import Profile, write_profile
from cutset.video.imports.export import export
from cutset.video.zoo import build

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("av")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what was measured and the model that was trained by it."""
    folder = tmp_path_factory.mktemp("trained")
    source = "generated:64x80,seed=2,shapes=2"
    arguments = ["--features", "--source", source, "--limit", "24", "--keep", str(folder / "data.npz")]
    arguments += ["-o", str(folder / "model.npz"), "--json", str(folder / "train.json")]
    assert main(["stream", "train", "alexnet", *arguments]) == 0
    return folder


def test_training_says_what_is_better(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((measured / "train.json").read_text())
    assert (document["seen"], document["held_out"]) == (17, 6)
    ours, last = document["bytes_off"]["trained"], document["bytes_off"]["last picture"]
    assert document["better"] == ("trained" if ours < last else "last picture")
    again = measured / "again.npz"
    assert main(["stream", "train", "--data", str(measured / "data.npz"), "-o", str(again)]) == 0
    out = capsys.readouterr().out
    assert "features.12" in out
    assert "on 6 held-out pictures" in out


@pytest.mark.parametrize("view", ["changed", "channels", "spread", "sizes", "errors"])
def test_views_of_a_measurement(view: str, measured: Path, tmp_path: Path) -> None:
    arguments = [
        "--data",
        str(measured / "data.npz"),
        "-o",
        str(tmp_path / "x.png"),
        "--json",
        str(tmp_path / "x.json"),
    ]
    if view in ("sizes", "errors"):
        arguments += ["--sparsity", str(measured / "model.npz")]
    assert main(["stream", "show", view, *arguments]) == 0
    assert (tmp_path / "x.png").stat().st_size > 5000
    assert json.loads((tmp_path / "x.json").read_text())["view"] == view


def test_a_pair_of_image_files(tmp_path: Path) -> None:
    from matplotlib.image import imsave

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 80, 3), np.uint8)
    imsave(tmp_path / "a.png", picture)
    picture[:32] += 1
    imsave(tmp_path / "b.png", picture)
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    out = tmp_path / "pair.json"
    assert main(["stream", "show", "pair", "alexnet", *files, "--features", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["changed"][0] == pytest.approx(0.5)
    assert document["changed"][-1] > 0


def test_latency_of_traces(tmp_path: Path) -> None:
    for count in (1, 4):
        (tmp_path / f"run{count}.json").write_bytes(write_trace(Trace("", pipeline(count))))
    files = [str(tmp_path / f"run{count}.json") for count in (4, 1)]
    assert main(["stream", "show", "latency", *files, "-o", str(tmp_path / "x.svg")]) == 0
    assert "pictures in flight" in (tmp_path / "x.svg").read_text()


def test_costs_of_profiles(tmp_path: Path) -> None:
    """Names come from the network that a profile is of."""
    graph = export(
        build("alexnet", shapes_only=True), torch.empty(1, 3, 64, 80, dtype=torch.uint8, device="meta")
    ).graph
    seconds = tuple(0.001 * k for k in range(len(graph.nodes)))
    edge = Profile(
        format="cutset-profile-1", model="alexnet", size=(64, 80), graph="0" * 64, cpu="", cores=1, threads=1,
        versions={}, seconds=seconds, spread=seconds, whole=1.0, observing=0.0, rounds=3, encode={}, decode={},
    )  # fmt: skip
    cloud = msgspec.structs.replace(edge, seconds=tuple(s / 8 for s in seconds))
    other = msgspec.structs.replace(edge, graph="1" * 64)
    for name, profile in (("edge", edge), ("cloud", cloud), ("other", other)):
        (tmp_path / f"{name}.json").write_text(write_profile(profile))
    edge_file, cloud_file, other_file = (str(tmp_path / f"{name}.json") for name in ("edge", "cloud", "other"))
    out = tmp_path / "x.json"
    assert main(["stream", "show", "costs", edge_file, cloud_file, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["layers"] == [node.name for node in graph.nodes]
    assert document["workers"]["cloud"][8] == pytest.approx(0.001)
    assert main(["stream", "show", "costs", edge_file, other_file, "--json", str(out)]) == 2


def test_what_delta_compute_does_is_drawn_and_foreseen(measured: Path, tmp_path: Path) -> None:
    source = ["--features", "--source", "generated:64x80,seed=2,shapes=1", "--limit", "40"]
    data, model, out = (str(tmp_path / name) for name in ("data.npz", "model.npz", "x.json"))
    assert main(["stream", "train", "alexnet", *source, "--delta-compute", "0.5", "--keep", data, "-o", model]) == 0
    shown = ["--data", data, "--sparsity", model, "-o", str(tmp_path / "x.png"), "--json", out]
    assert main(["stream", "show", "dirty", *shown]) == 0
    document = json.loads(Path(out).read_text())
    assert 0.02 < np.mean(document["done"]) < 0.98
    assert document["foreseen"]["off_mean"] < 0.2, "of ten pictures, after thirty"
    assert "features.0" in document["layers"]
    assert sum(document["flops"]) == pytest.approx(1)
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert main(["stream", "show", "dirty", "--data", str(measured / "data.npz"), "--json", out]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "change", "-o", "x.png"], "did you mean 'changed'"),
        (["show", "changed", "--data", "x.npz"], "say where it goes"),
        (["show", "changed", "-o", "x.png"], "say what to measure"),
        (["show", "changed", "-o", "x.pdf"], ".svg"),
        (["show", "changed", "alexnet", "-o", "x.png", "--data", "x.npz"], "either"),
        (["show", "changed", "-o", "x.png", "--data", "none.npz"], "can't read"),
        (["show", "errors", "-o", "x.png", "--data", "none.npz"], "--sparsity"),
        (["show", "latency", "-o", "x.png"], "of runs"),
        (["show", "costs", "-o", "x.png"], "profiles"),
        (["show", "pair", "alexnet", "a.png", "-o", "x.png"], "two image files"),
        (["show", "pair", "alexnet", "a.txt", "b.txt", "-o", "x.png"], "ends in none"),
        (["show", "sizes", "alexnet", "extra", "-o", "x.png"], "takes no extra"),
        (["show", "dirty", "alexnet", "--source", "generated:64x64", "--scale", "-1", "-o", "x.png"], "--scale"),
        (["show", "dirty", "-o", "x.png"], "say what to measure"),
        (["train", "alexnet", "-o", "x.npz"], "say what to measure"),
        (
            ["train", "alexnet", "--source", "generated:64x64", "--delta-compute", "nan", "-o", "x.npz"],
            "--delta-compute",
        ),
        (["train", "alexnet", "--source", "generated:64x64", "-o", "x.json"], ".npz"),
        (["train", "alexnet", "--source", "generated:64x64", "--limit", "1", "-o", "x.npz"], "--limit"),
        (["train", "alexnet", "--source", "generated:64x64", "--holdout", "1.5", "-o", "x.npz"], "--holdout"),
        (["train", "alexnet", "--source", "nothing.mp4", "-o", "x.npz"], "no file or folder"),
        (["train", "alexnet", "--source", "generated:64x64", "--limit", "4", "--features", "-o", "x.npz"], "too few"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stream", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
