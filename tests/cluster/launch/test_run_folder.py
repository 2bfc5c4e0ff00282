"""Directories of runs: a killed process's is removed by the next run, and nobody else's is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutset.cluster.launch.run_folder import RunFolder

Make = Callable[[], tuple["subprocess.Popen[str]", Path]]
MAKE = "from cutset.cluster.launch.run_folder import RunFolder\nprint(RunFolder().path, flush=True)\ninput()"


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes another process with such a directory, which waits."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made: list[subprocess.Popen[str]] = []

    def make() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen([sys.executable, "-c", MAKE], stdin=-1, stdout=-1, text=True)
        made.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield make
    for process in made:
        process.kill()
        process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next(another: Make, tmp_path: Path) -> None:
    dead, left = another()
    _, used = another()
    (left / "ray").mkdir()
    (left / "ray" / "log").write_text("x")
    for name in ("cutset-out.jsonl.parts/lock", "cutset-abcdefgh/file", "cutset-01234567.parts/.run", "mine/.run"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    (tmp_path / "cutset-linkedto").symlink_to(tmp_path / "mine")
    dead.kill()
    dead.wait()
    assert left.exists()
    before = {path.name for path in tmp_path.iterdir()}
    folder = RunFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in tmp_path.iterdir()} == before - {left.name} | {folder.path.name}
    assert used.exists()
    assert (tmp_path / "mine" / ".run").exists()
    folder.close()
    folder.close()
    assert not folder.path.exists()
