"""Views: their data against counting by hand, and pictures that aren't empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.trace.pipeline import pipeline
from cutset.cluster.trace.chrome import read_trace, write_trace
from cutset.cluster.trace.record import Trace
from cutset.cluster.trace.table import latencies
from cutset.errors import ConfigError, RequestError
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value
from cutset.video.sparsity.changes import Changes, delta_bytes
from cutset.video.sparsity.layers import Means
from cutset.video.sparsity.predictor import Errors, Trained
from cutset.video.views import figure, runs, sparsity
from cutset.video.views.runs import Run, most_at_once, of_trace, read_run

pytest.importorskip("matplotlib")

NAMES = ("pictures", "changed", "tiles", "nonzero", "encoded")


def node(name: str, reads: str, value: Value, flops: int) -> Node:
    return Node(name, name, "aten.relu.default", (Read(reads),), (), (value,), False, flops)


@pytest.fixture(scope="module")
def changes() -> Changes:
    """A chain of an input with 3 channels, one of 4 and one of a single channel; 30 pictures."""
    pictures = Value("pictures", (1, 3, 8, 8), "uint8")
    one, two = Value("one", (1, 4, 8, 8), "float32"), Value("two", (1, 50), "float32")
    graph = Graph((pictures,), ("two",), (node("one", "pictures", one, 10), node("two", "one", two, 20)), {})
    rng = np.random.default_rng(5)
    amount = rng.random((30, 1)).astype(np.float32)
    fractions = {
        "pictures": np.repeat(amount * 0.5, 3, axis=1),
        "one": amount * np.array([[0.2, 0.4, 0.6, 0.8]], np.float32),
        "two": np.ones((30, 1), np.float32),
    }
    tiles = np.repeat(np.sqrt(amount), 4, axis=1)
    nonzero = rng.random((30, 3)).astype(np.float32)
    encoded = np.stack([np.full(30, 100), np.arange(30) * 10, np.full(30, 200)], axis=1).astype(np.int64)
    return Changes(graph, "a source", np.arange(1, 31), fractions, tiles, nonzero, encoded)


@pytest.fixture(scope="module")
def trained(changes: Changes) -> Trained:
    """Says 0.9 times the picture's changed fraction of `one`, and half of `two`."""
    layers = {"one": Means(np.full((1, 4), 0.9), np.zeros(4)), "two": Means(np.zeros((1, 1)), np.array([0.5]))}
    zeros = dict.fromkeys(changes.names, 0.0)
    masks = dict.fromkeys(changes.names, 0.5)
    return Trained(changes.graph, "a source", layers, zeros, masks, Errors(20, 10, zeros, zeros))


def test_histograms_count_every_picture(changes: Changes) -> None:
    data = sparsity.by_layer(changes)
    share = np.array(data["share"])
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert share[2, -1] == 1.0  # all pictures change all of `two`
    at = int(changes.fractions[4, 1] * sparsity.BINS)
    assert share[1, at] * 30 == pytest.approx(np.sum((changes.fractions[:, 1] * sparsity.BINS).astype(int) == at))
    assert data["percentiles"]["50"][0] == pytest.approx(np.median(changes.fractions[:, 0]))


def test_channels_are_those_of_the_picture(changes: Changes) -> None:
    data = sparsity.by_channel(changes, 7)
    assert data["channels"][1] == pytest.approx(changes.changed["one"][6])
    with pytest.raises(RequestError, match="there are 1 to 30"):
        sparsity.by_channel(changes, 31)


def test_a_pair_is_one_row(changes: Changes) -> None:
    data = sparsity.pair(changes.rows(slice(3, 4)), ("a.png", "b.png"))
    assert data["changed"] == pytest.approx(changes.fractions[3])
    assert data["nonzero"] == pytest.approx(changes.nonzero[3])
    with pytest.raises(RequestError, match="two pictures"):
        sparsity.pair(changes, ("a", "b"))


def test_fits_find_the_curve_and_the_better_input(changes: Changes) -> None:
    [panel] = sparsity.spread(changes, ["one"])["panels"]
    pixels, tiles = panel["over"]
    assert pixels["what"] == "pixels"
    assert pixels["off"] < 1e-6  # it is linear in the pixels
    line = np.polyval(pixels["fit"], [0.1, 0.3])
    np.testing.assert_allclose(line, [0.1, 0.3], atol=1e-5)
    np.testing.assert_allclose(np.polyval(tiles["fit"], np.sqrt([0.25])), [0.125], atol=1e-4)  # and square in these
    assert len(sparsity.spread(changes)["panels"]) == 2
    with pytest.raises(RequestError, match="did you mean 'one'"):
        sparsity.spread(changes, ["onee"])


def test_sizes_are_raw_measured_and_predicted(changes: Changes, trained: Trained) -> None:
    data = sparsity.sizes(changes, trained)
    assert data["raw"] == [192, 1024, 200]
    assert data["measured"] == pytest.approx([100, 145, 200])
    assert data["low"][1] < 145 < data["high"][1]
    said = 0.9 * changes.changed["pictures"].mean(axis=1, dtype=np.float64)
    value = changes.graph.values["one"]
    assert data["predicted"][1] == pytest.approx(np.mean([delta_bytes(value, f, 0.5) for f in said]), rel=1e-5)
    assert "predicted" not in sparsity.sizes(changes)


def test_errors_are_by_picture_and_layer(changes: Changes, trained: Trained) -> None:
    data = sparsity.errors(changes, trained)
    truth = changes.fractions[:, 1]
    said = 0.9 * changes.changed["pictures"].mean(axis=1)
    np.testing.assert_allclose(np.array(data["trained"])[:, 1], np.abs(said - truth)[1:], atol=1e-6)
    np.testing.assert_allclose(np.array(data["last picture"])[:, 1], np.abs(np.diff(truth)), atol=1e-6)
    np.testing.assert_allclose(np.array(data["trained"])[:, 2], 0.5, atol=1e-6)
    assert data["pictures"] == list(range(2, 31))
    assert data["seen"] == 20
    other = Changes(changes.graph, "another", *(getattr(changes, n) for n in NAMES))
    assert sparsity.errors(other, trained)["seen"] is None
    with pytest.raises(RequestError, match="three pictures"):
        sparsity.errors(changes.rows(slice(0, 1)), trained)


def test_costs_are_added_up_and_checked(changes: Changes) -> None:
    data = runs.costs(["one", "two"], {"edge": [0.5, 0.25], "cloud": [0.1, 0.1]})
    assert data["workers"] == {"edge": [0.5, 0.25], "cloud": [0.1, 0.1]}
    assert "edge 750 ms" in data["title"]
    with pytest.raises(RequestError, match="3 layers"):
        runs.costs(["one", "two"], {"edge": [1, 2, 3]})
    with pytest.raises(RequestError, match="no worker"):
        runs.costs(["one", "two"], {})


def run(count: int) -> Run:
    """As its file says it: times from 0."""
    return of_trace(read_trace(write_trace(Trace("", pipeline(count)))), "")


def test_latency_comes_from_traces() -> None:
    data = runs.latency({"many": run(8), "one": run(1)})
    one, many = data["rows"]
    assert (one["run"], one["in_flight"], one["pictures"]) == ("one", 1, 1)
    assert one["latency"]["50"] == pytest.approx(0.040)  # without the capture
    # Picture k is sent at 10 k + 1 ms and is done at 41 + 20 k ms.
    starts, ends = [0.01 * k + 0.001 for k in range(8)], [0.041 + 0.02 * k for k in range(8)]
    most = max(sum(s <= t < e for s, e in zip(starts, ends, strict=True)) for t in starts)
    assert many["in_flight"] == most == most_at_once(latencies(pipeline(8)))
    assert many["throughput"] == pytest.approx(8 / ends[-1])
    assert of_trace(Trace("", pipeline(2), {"in flight": "6"}), "").in_flight == 6
    with pytest.raises(RequestError, match="no picture"):
        of_trace(Trace("", {"x": []}), "a trace")


def test_latency_comes_from_the_documents_of_runs(tmp_path: Path) -> None:
    pictures = [{"latency_s": 0.1 * k, "picture": k} | ({"dropped": "late"} if k == 9 else {}) for k in range(10)]
    rows = [{"metric": "latency", "value": 1.0}, {"metric": "throughput", "value": 7.5}]
    document = {"command": "cutset stream run", "pictures": pictures, "rows": rows, "in_flight": 3}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    found = read_run(path)
    assert (found.in_flight, len(found.latencies), found.throughput) == (3, 9, 7.5)
    assert max(found.latencies) == pytest.approx(0.8)
    path.write_bytes(write_trace(Trace("", pipeline(4))))
    assert read_run(path) == run(4)
    for other, words in (
        (document | {"command": "cutset stream plan"}, "is of `cutset stream plan`"),
        (document | {"pictures": "many"}, "not a trace"),
        ({}, "not a trace"),
    ):
        path.write_text(json.dumps(other))
        with pytest.raises(ConfigError, match=words):
            read_run(path)
    path.write_text(json.dumps(document | {"pictures": pictures[9:]}))
    with pytest.raises(RequestError, match="no picture"):
        read_run(path)


def drawn(path: Path) -> NDArray[np.uint8]:
    from matplotlib.image import imread

    return (np.asarray(imread(path))[..., :3] * 255).astype(np.uint8)


def cases(changes: Changes, trained: Trained) -> dict[str, tuple[figure.Draw, dict[str, Any]]]:
    return {
        "changed": (sparsity.draw_by_layer, sparsity.by_layer(changes)),
        "channels": (sparsity.draw_by_channel, sparsity.by_channel(changes, 2)),
        "pair": (sparsity.draw_pair, sparsity.pair(changes.rows(slice(0, 1)), ("a", "b"))),
        "spread": (sparsity.draw_spread, sparsity.spread(changes)),
        "sizes": (sparsity.draw_sizes, sparsity.sizes(changes, trained)),
        "errors": (sparsity.draw_errors, sparsity.errors(changes, trained)),
        "costs": (runs.draw_costs, runs.costs(["one", "two"], {"edge": [0.5, 0.2], "cloud": [0.1, 0.1]})),
        "latency": (runs.draw_latency, runs.latency({"a": run(2), "b": run(5)})),
    }


@pytest.mark.parametrize("name", ["changed", "channels", "pair", "spread", "sizes", "errors", "costs", "latency"])
def test_every_view_is_drawn_from_its_json(name: str, changes: Changes, trained: Trained, tmp_path: Path) -> None:
    draw, data = cases(changes, trained)[name]
    figure.save(draw, json.loads(json.dumps(data)), tmp_path / "x.png")
    picture = drawn(tmp_path / "x.png")
    assert (picture != 255).any(axis=2).mean() > 0.01
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # colours, not only a frame


def test_the_same_data_are_the_same_file_and_dark_is_dark(changes: Changes, trained: Trained, tmp_path: Path) -> None:
    draw, data = cases(changes, trained)["costs"]
    for name in ("a.svg", "b.svg"):
        figure.save(draw, data, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "edge" in (tmp_path / "a.svg").read_text()
    figure.save(draw, data, tmp_path / "dark.png", dark=True)
    assert drawn(tmp_path / "dark.png")[0, 0].tolist() == [0x14, 0x17, 0x1A]


def test_a_folder_that_isnt_there(changes: Changes, tmp_path: Path) -> None:
    draw: Callable[..., None] = sparsity.draw_by_layer
    with pytest.raises(ConfigError, match="can't be written"):
        figure.save(draw, sparsity.by_layer(changes), tmp_path / "none" / "x.png")
