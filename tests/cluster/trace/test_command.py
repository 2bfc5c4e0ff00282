"""`cutset stream trace` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.trace.pipeline import pipeline
from cutset.cli import main
from cutset.cluster.trace.chrome import write_trace
from cutset.cluster.trace.record import Trace


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.trace.json"
    path.write_bytes(write_trace(Trace("alexnet, 480×720", pipeline(), {"plan": "optimal"})))
    return path


def test_tables(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "trace", str(file)]) == 0
    out = capsys.readouterr().out
    assert "alexnet, 480×720" in out
    assert "6 pictures" in out
    assert "behind 2, 3, 4" in out  # the slowest is the last
    assert "share of the time" in out


def test_chart_and_document(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, document = tmp_path / "chart.html", tmp_path / "tables.json"
    arguments = ["-o", str(page), "--json", str(document), "--pictures", "2-4", "--picture", "3"]
    assert main(["stream", "trace", str(file), *arguments]) == 0
    assert "picture 3" in capsys.readouterr().out
    assert page.read_text().count("<rect class=") == 3 * 10
    found = json.loads(document.read_text())
    assert [picture["picture"] for picture in found["pictures"]] == [2, 3, 4]
    for picture in found["pictures"]:
        assert sum(part["seconds"] for part in picture["split"]) == pytest.approx(picture["latency"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pictures", "5-2"], "range"),
        (["--pictures", "90-99"], "no pictures"),
        (["--picture", "77"], "no picture 77"),
        (["-o", "chart.pdf"], ".svg"),
    ],
)
def test_wrong_arguments(file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "trace", str(file), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert main(["stream", "trace", str(tmp_path / "x.json")]) == 2
    assert main(["stream", "trace", str(tmp_path / "none.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err
