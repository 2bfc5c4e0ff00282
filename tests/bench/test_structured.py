"""`cutset bench structured` on a small scale, and what it answers by."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cutset.bench.schemas import DRAFT, fetch_suite, suite_schemas
from cutset.cli import main
from cutset.errors import ConfigError

GROUPS = [
    {"description": "kept", "schema": {"enum": ["a", "b"]}, "tests": []},
    {"description": "not kept", "schema": {"not": {}}, "tests": []},
]


def test_rates_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "enum.json").write_text(json.dumps(GROUPS))
    file = tmp_path / "rows" / "rows.json"
    file.parent.mkdir()
    flags = ["--tokens", "12", "--sequences", "1", "2", "--rounds", "1", "--answers", "5", "--threads", "1"]
    assert main(["bench", "structured", "story", *flags, "--suite", str(tmp_path), "--json", str(file)]) == 0
    assert "enum: not kept: structured_outputs: the schema's keyword `not`" in capsys.readouterr().err
    rows = {(row["workload"], row["metric"]): row["value"] for row in json.loads(file.read_text())["rows"]}
    assert rows["story, test suite", "schemas kept"] == rows["story, test suite", "schemas refused"] == 1
    assert rows["story, random schemas", "schemas kept"] == 5
    for workload in ("story, random schemas", "story, test suite"):
        assert rows[workload, "schemas valid"] == rows[workload, "schemas complete"] > 0
    assert rows["story, 2 at once", "decode against none"] > 0


@pytest.mark.parametrize(
    "flags", [("--tokens", "1"), ("--sequences", "0"), ("--answers", "-1"), ("--suite", "/nonexistent")]
)
def test_what_cannot_be_measured_is_said(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "structured", *flags]) == 2
    assert flags[1 if flags[0] == "--suite" else 0] in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[{}]", "[1]", "[" * 100_000])
def test_files_that_are_no_cases_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="a\\.json"):
        list(suite_schemas(tmp_path))


def test_the_suite_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        into = Path(command[command.index("--dest") + 1])
        with tarfile.open(into / "made.tar.gz", "w:gz") as archive:
            for name in (f"{DRAFT}enum.json", f"{DRAFT}optional/float.json", "json/tests/draft7/enum.json", "setup.py"):
                data = json.dumps(GROUPS).encode()
                member = tarfile.TarInfo(f"made/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", pip)
    folder = fetch_suite()
    assert fetch_suite() == folder
    assert len(calls) == 1
    assert [one.name for one in folder.iterdir()] == ["enum.json"]
    assert [name for name, _ in suite_schemas(folder)] == ["enum: kept", "enum: not kept"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(ConfigError, match="pip can't fetch"):
        fetch_suite()
