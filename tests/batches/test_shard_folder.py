"""Shards: whole or not there, of one run, written by one process; and each line's result once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
from pathlib import Path

import pytest

from cutset.batches.file_records import FileRecords
from cutset.batches.line_results import LineResults
from cutset.batches.shard_folder import Record, ShardFolder
from cutset.errors import ConfigError
from mutations import mutations

OF = {"of": "requests", "input": "abc"}


def bodies(folder: ShardFolder) -> list[tuple[str, bool, bytes]]:
    return [(one.key, one.ok, folder.read(one)) for one in folder.records()]


def test_what_was_committed_is_found(tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run", OF) as folder:
        assert folder.fresh
        folder.commit([Record("1", True, b'{"a": "+ - "}'), Record("0", False, b"[]")])
        folder.commit([Record("7", True, b"{}")])
    with ShardFolder(tmp_path / "run", OF) as folder:
        assert not folder.fresh
        assert bodies(folder) == [("1", True, b'{"a": "+ - "}'), ("0", False, b"[]"), ("7", True, b"{}")]
        for path in folder.path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_shard_counts_as_missing(damage: str, tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run", OF) as folder:
        folder.commit([Record("1", True, b"11111"), Record("2", True, b"22222")])
        folder.commit([Record("3", True, b"33333")])
        shard = min(folder.path.glob("*.shard"))
        data = shard.read_bytes()
        shard.write_bytes({"cut": data[:-3], "changed": data.replace(b"22222", b"22223"), "emptied": b""}[damage])
        assert bodies(folder) == [("3", True, b"33333")]
        assert not shard.exists()


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run", OF), pytest.raises(ConfigError, match="another process works on"):
        ShardFolder(tmp_path / "run", OF)
    ShardFolder(tmp_path / "run", OF).close()


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run", OF) as folder:
        folder.require({"model": "story"})
        folder.require({"model": "story"})
    with pytest.raises(ConfigError, match=r"has input abc, not def: give the same as before, or remove that directory"):
        ShardFolder(tmp_path / "run", {**OF, "input": "def"})
    with ShardFolder(tmp_path / "run", OF) as folder, pytest.raises(ConfigError, match="has model story, not other"):
        folder.require({"model": "other"})
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="none of this version's"):
        ShardFolder(tmp_path / "run", OF)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run[1]", OF) as folder:
        folder.commit([Record("1", True, b"1")])
        (folder.path / ".00000002-ab.shard.123.tmp").write_bytes(b"half")
    (tmp_path / ".run[1].abc.done").mkdir()
    (tmp_path / ".run1.abc.done").mkdir()  # another run's
    with ShardFolder(tmp_path / "run[1]", OF) as folder:
        assert len(bodies(folder)) == 1
        assert not [name for name in os.listdir(folder.path) if name.endswith(".tmp")]
        assert sorted(os.listdir(tmp_path)) == [".run1.abc.done", "run[1]"]
        folder.remove()
    assert sorted(os.listdir(tmp_path)) == [".run1.abc.done"]


def test_each_line_has_one_result_in_the_order_of_lines(tmp_path: Path) -> None:
    """Results come in any order, some again, in this run and after another one."""
    chance, count = random.Random(3), 300
    expected = {line: b'"%d"' % (line * line) for line in range(count) if line % 10}
    with ShardFolder(tmp_path / "run", OF) as folder:
        results = LineResults(folder, count)
        early = chance.sample(sorted(expected), 150)
        for line in early:
            assert results.add(line, line % 3 != 0, expected[line])
            assert not results.add(line, True, b'"late"')
            if chance.random() < 0.1:
                results.commit()
        results.commit()
        assert results.late == 150
    with ShardFolder(tmp_path / "run", OF) as folder:
        folder.commit([Record(str(early[0]), True, b'"late"'), Record(str(early[1]), True, b'"late"')])
        folder.commit([Record("99999", True, b'"beyond"'), Record("x", True, b'"none"')])
        results = LineResults(folder, count)
        assert (results.done, results.late) == (150, 4)
        for line in chance.sample(sorted(expected), len(expected)):
            assert results.add(line, line % 3 != 0, expected[line]) == (line not in early)
        results.commit()
        assert (results.done, results.failed) == (len(expected), sum(line % 3 == 0 for line in expected))
        out = tmp_path / "out.jsonl"
        assert results.assemble(out) == len(expected)
        assert out.read_bytes().splitlines() == [expected[line] for line in sorted(expected)]
        assert results.assemble(out, ok=False) == results.count(ok=False) == results.failed
        assert out.read_bytes().splitlines() == [expected[line] for line in sorted(expected) if line % 3 == 0]


def test_results_that_can_t_be_written_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardFolder(tmp_path / "run", OF) as folder:
        results = LineResults(folder, 3)
        results.add(1, True, b"1")
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                results.commit()
        assert results.has(1)
        results.add(2, True, b"2")
        results.commit()
        assert bodies(folder) == [("1", True, b"1"), ("2", True, b"2")]
        assert results.pending_bytes == 0
        assert results.wait_s is None


def test_whatever_is_in_its_files_it_begins_or_says_so(tmp_path: Path) -> None:
    with ShardFolder(tmp_path / "run", OF) as folder:
        folder.require({"model": "story"})
        [stored, *_] = folder.commit(
            [Record(str(line), line > 1, b'{"file": "a", "sha256": "b"}') for line in range(3)]
        )
    manifest, shard = tmp_path / "run" / "manifest.json", tmp_path / "run" / stored.shard
    good, whole = manifest.read_bytes(), shard.read_bytes()
    shard.unlink()
    for data in mutations(good, 150, 1):
        manifest.write_bytes(data)
        with contextlib.suppress(ConfigError), ShardFolder(tmp_path / "run", OF) as folder:
            folder.require({"model": "story"})
    manifest.write_bytes(good)
    for data in mutations(whole, 150, 2):  # with the digest that belongs to it
        path = tmp_path / "run" / f"00000001-{hashlib.sha256(data).hexdigest()[:32]}.shard"
        path.write_bytes(data)
        with ShardFolder(tmp_path / "run", OF) as folder:
            LineResults(folder, 3)
            FileRecords(folder)
        path.unlink(missing_ok=True)
