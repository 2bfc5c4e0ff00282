"""The drawing says what the graph says, is well-formed and loads nothing; so does the command."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from cutset.cli import main
from cutset.partition.description import graph_digest, read_description
from cutset.partition.drawing import count, html, kilobytes, lay_out, lows, svg
from cutset.partition.graph import Graph
from cutset.video.imports.export import export
from video.networks import Many, Skips, filled


@pytest.fixture(scope="module")
def skips() -> Graph:
    return export(filled(Skips()), torch.zeros(1, 3, 8, 8)).graph


@pytest.fixture(scope="module")
def many() -> Graph:
    return export(filled(Many()), torch.zeros(2, 6), torch.zeros(2, 6)).graph


@pytest.mark.parametrize("name", ["skips", "many"])
def test_no_two_values_run_in_one_lane_at_once(name: str, request: pytest.FixtureRequest) -> None:
    graph: Graph = request.getfixturevalue(name)
    lanes = lay_out(graph)
    assert len(lanes.lanes) == len(graph.nodes) + 2
    assert len(lanes.edges) == sum(len(node.reads) for node in graph.nodes) + len(set(graph.outputs))
    for row in range(len(graph.nodes) + 1):
        crossing = {(edge.lane, edge.start) for edge in lanes.edges if edge.start[0] <= row < edge.end[0]}
        used = [lane for lane, _ in crossing]
        made_together = len(graph.inputs) if row == 0 else len(graph.nodes[row - 1].made)
        assert len(set(used)) >= len(used) - (made_together - 1)
        assert len(set(used)) == len(graph.cuts[row].values), row
    through = {(row, lane) for row, lane in enumerate(lanes.lanes)}
    for edge in lanes.edges:  # a line that passes a row doesn't run over that row's dot
        between = {(row, edge.lane) for row in range(edge.start[0] + 1, edge.end[0])}
        assert not between & through


def test_the_drawing_holds_every_layer_and_number(skips: Graph) -> None:
    root = ET.fromstring(svg(skips, "skips & <co>"))
    words = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "skips & <co>" in words
    for i, node in enumerate(skips.nodes):
        assert node.name in words
        cut = skips.cuts[i + 1]
        assert any(word.startswith(kilobytes(cut.nbytes)) for word in words)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(skips.nodes) + 2
    assert any(graph_digest(skips)[:12] in word for word in words)


def test_the_drawing_needs_no_network_and_has_two_palettes(skips: Graph) -> None:
    for text in (svg(skips, "x"), html(skips, "x")):
        assert set(re.findall(r"\w+://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
        assert "<script" not in text
        assert "url(" not in text
        assert "prefers-color-scheme: dark" in text
    light, dark = (
        dict(re.findall(r"\.(\w+) \{ (?:fill|stroke): (#\w{6})", half))
        for half in svg(skips, "x").split("@media (prefers-color-scheme: dark)")
    )
    assert light.keys() == dark.keys()
    assert all(light[name] != dark[name] for name in light)
    used = {word for kind in re.findall(r'class="([^"]+)"', svg(skips, "x")) for word in kind.split()}
    assert used - light.keys() == {"dot", "edge", "end", "row", "title", "under"}


def test_lows_are_the_cuts_that_nobody_before_undercuts(skips: Graph) -> None:
    sizes = [cut.nbytes for cut in skips.cuts]
    assert lows(skips) == tuple(k for k in range(len(sizes) - 1) if all(sizes[k] < size for size in sizes[:k]))
    assert lows(skips)[0] == 0


def test_sizes_are_written_in_thousands() -> None:
    assert [count(n) for n in (0, 999, 61_100_840, 1.43e9, 2e12)] == ["0 ", "999 ", "61.1 M", "1.43 G", "2 T"]
    assert kilobytes(1_036_800) == "1,036.8"


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: Any) -> None:
    out, data = tmp_path / "a.html", tmp_path / "a.json"
    assert (
        main(["stream", "graph", "alexnet", "--size", "64x96", "--features", "-o", str(out), "--json", str(data)]) == 0
    )
    text = capsys.readouterr().out
    assert re.search(r"^features\.0 +conv2d +1×64×15×23 +[\d.]+ +93\.2 +88\.3 +1$", text, re.M)
    assert "classifier" not in text
    assert "alexnet --features, 64×96" in out.read_text(encoding="utf-8")
    found = json.loads(data.read_text(encoding="utf-8"))
    graph = read_description(found["graph"])
    assert graph_digest(graph) == found["digest"]
    assert [cut["bytes"] for cut in found["cuts"]] == [cut.nbytes for cut in graph.cuts]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["alexnex"], "the zoo has no 'alexnex'"),
        (["alexnet", "--size", "480"], "--size must be rows x columns"),
        (["alexnet", "--size", "0x9"], "--size must be rows x columns"),
        (["alexnet", "--size", "99999x9"], "--size must be rows x columns"),
        (["alexnet", "-o", "a.png"], "ends neither in .svg nor in .html"),
        (["alexnet", "--size", "16x16"], "AlexNet can't be exported"),
        (["alexnet", "--features", "--size", "64x64", "-o", "no/such/a.svg"], "can't be written"),
    ],
)
def test_the_command_refuses(argv: list[str], says: str, capsys: Any) -> None:
    assert main(["stream", "graph", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) <= 2
