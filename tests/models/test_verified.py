"""Digests of integer checkpoints: what is remembered, and that a changed file never passes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import CheckpointError
from cutset.models.files import digests
from cutset.models.files.digests import SETTLED_NS, observe, remember, remembered
from cutset.models.files.integer import write_integer_checkpoint
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An integer checkpoint, written ten seconds ago; nothing is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    RandomModel(hidden=32, heads=4, vocab=61).write_checkpoint(tmp_path / "float")
    source = open_source(tmp_path / "float")
    write_integer_checkpoint(source.spec, source.config, source.tensors, tmp_path / "float", tmp_path / "int")
    later(monkeypatch)
    return tmp_path / "int"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed since the test began."""
    sizes: list[int] = []
    original = digests.digest

    def counting(value: Any) -> str:
        sizes.append(value.nbytes)
        return original(value)

    monkeypatch.setattr(digests, "digest", counting)
    return sizes


def later(monkeypatch: pytest.MonkeyPatch, seconds: int = 10) -> None:
    """Puts the clock forward: what is on disk has settled."""
    now = time.time_ns
    monkeypatch.setattr("cutset.models.files.digests.time.time_ns", lambda: now() + seconds * 10**9)


def places(folder: Path) -> list[Path]:
    return list((folder.parent / "cache" / "cutset" / "verified").glob("*"))


def flip(file: Path, at: int = -1) -> None:
    """Changes one bit in place."""
    with file.open("r+b") as stream:
        stream.seek(at, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(at, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))


def test_what_has_not_changed_is_hashed_once(folder: Path, hashed: list[int]) -> None:
    first = open_source(folder)
    count = len(hashed)
    assert count == len(first.tensors)
    assert set(open_source(folder).tensors) == set(first.tensors)
    assert len(hashed) == count
    open_source(folder, "always")
    assert len(hashed) == 2 * count
    assert len(places(folder)) == 1


def test_another_name_for_the_directory_is_the_same(folder: Path, hashed: list[int]) -> None:
    open_source(folder)
    count = len(hashed)
    (folder.parent / "link").symlink_to(folder)
    open_source(folder.parent / "link")
    assert len(hashed) == count


def keep_times(file: Path, change: Callable[[], None]) -> None:
    """Changes a file and puts its time of change back: the time of inode change gives it away."""
    times = file.stat()
    change()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns


def swap(file: Path) -> None:
    """Puts another file of the same size in its place."""
    other = file.with_suffix(".other")
    other.write_bytes(file.read_bytes())
    flip(other)
    other.replace(file)


@pytest.mark.parametrize(
    "change",
    [flip, swap, lambda file: keep_times(file, lambda: flip(file)), lambda file: keep_times(file, lambda: swap(file))],
    ids=["in place", "replaced", "in place with its old time", "replaced with its old time"],
)
def test_a_changed_file_is_refused(folder: Path, change: Callable[[Path], None], hashed: list[int]) -> None:
    open_source(folder)
    before, count = places(folder)[0].read_bytes(), len(hashed)
    change(folder / "model.safetensors")
    for verify in ("changed", "changed", "always"):
        with pytest.raises(CheckpointError, match="the file was changed"):
            open_source(folder, verify)
    assert len(hashed) > count
    assert places(folder)[0].read_bytes() == before


def test_changed_digests_are_refused(folder: Path) -> None:
    open_source(folder)
    content = json.loads((folder / "digests.json").read_text())
    content["model.norm.weight"] = "0" * 64
    (folder / "digests.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the file was changed"):
        open_source(folder)
    (folder / "digests.json").unlink()
    with pytest.raises(CheckpointError, match=r"digests\.json can't be read"):
        open_source(folder)


def test_a_file_that_may_still_change_unseen_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    changed = file.stat().st_ctime_ns
    for since, settled in ((-1, False), (0, False), (SETTLED_NS, False), (SETTLED_NS + 1, True)):
        monkeypatch.setattr("cutset.models.files.digests.time.time_ns", lambda since=since: changed + since)
        seen = observe([file])
        remember(tmp_path, seen)
        assert remembered(tmp_path, seen) == settled


def test_a_change_while_it_is_hashed_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = digests.digest

    def changing(value: Any) -> str:
        (folder / "model.safetensors").touch()
        return original(value)

    monkeypatch.setattr(digests, "digest", changing)
    open_source(folder)
    assert places(folder) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"[" * 100_000, b"\xff"])
def test_bad_content_of_the_cache_remembers_nothing(folder: Path, content: bytes, hashed: list[int]) -> None:
    open_source(folder)
    count = len(hashed)
    places(folder)[0].write_bytes(content)
    open_source(folder)
    assert len(hashed) == 2 * count
    open_source(folder)
    assert len(hashed) == 2 * count


def test_a_record_of_somebody_else_is_not_believed(
    folder: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source(folder)
    count = len(hashed)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    open_source(folder)
    assert len(hashed) == 2 * count


def test_where_nothing_can_be_written_it_is_hashed_each_time(folder: Path, hashed: list[int]) -> None:
    (folder.parent / "cache").write_text("in the way")
    open_source(folder)
    count = len(hashed)
    open_source(folder)
    assert len(hashed) == 2 * count
