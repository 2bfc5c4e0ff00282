"""Records of files: found again while the file is what it was."""

from __future__ import annotations

import os
from pathlib import Path

from cutset.batches.file_records import FileRecords, begin_record, unread_record
from cutset.batches.shard_folder import ShardFolder


def test_a_file_is_known_until_it_changes(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "one.mp4", tmp_path / "b" / "one.mp4"
    for path in (one, other):
        path.parent.mkdir()
        path.write_bytes(b"pictures")
    with ShardFolder(tmp_path / "run", {"of": "videos"}) as folder:
        records = FileRecords(folder)
        assert records.find(one) is None
        for path, name in ((one, "one.mp4.jsonl"), (other, "one.mp4-1.jsonl")):
            record = begin_record(path)
            record.output, record.items = records.names([one, other])[path], 3
            assert record.output == name
            assert records.add(record)
            assert not records.add(record)
        assert len(list(folder.records())) == 2
    with ShardFolder(tmp_path / "run", {"of": "videos"}) as folder:
        records = FileRecords(folder)
        assert records.find(one).output == "one.mp4.jsonl"
        os.utime(one, (1, 1))
        assert records.find(one) is not None  # its bytes are the same
        one.write_bytes(b"Pictures")
        assert records.find(one) is None
        assert records.names([other, one]) == {one: "one.mp4.jsonl", other: "one.mp4-1.jsonl"}
        again = begin_record(one)
        again.error = "no video"
        assert records.add(again)
        assert records.find(one).error == "no video"
    with ShardFolder(tmp_path / "run", {"of": "videos"}) as folder:
        assert FileRecords(folder).find(one).error == "no video"
        assert FileRecords(folder).find(other).items == 3


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    """As long as a name can be, in bytes that are no UTF-8, or with what a terminal would obey."""
    names = [
        "x" * 251 + ".mp4",
        "é" * 125 + ".mp4",
        os.fsdecode(b"caf\xe9.mp4"),
        "a\n\x1b[31m.mp4",
        " .mp4",
        "\\udce9.mp4",
    ]
    outputs = set[str]()
    paths = [tmp_path / name for name in names]
    for name in names:
        (tmp_path / name).write_bytes(name.encode(errors="surrogateescape"))
    for again in (False, True):
        with ShardFolder(tmp_path / "run", {"of": "videos"}) as folder:
            records = FileRecords(folder)
            for name in names:
                path = tmp_path / name
                if again:
                    assert records.find(path) is not None
                    continue
                record = begin_record(path)
                record.output = records.names(paths)[path]
                with folder.output(tmp_path / record.output) as file:
                    file.write(b"x")
                assert records.add(record)
                outputs.add(record.output)
    assert len(outputs) == len(names)


def test_one_that_cant_be_read_is_told_and_not_kept(tmp_path: Path) -> None:
    record = unread_record(tmp_path / "gone", FileNotFoundError(2, "No such file or directory"))
    assert (record.output, record.error) == ("", "it can't be read: No such file or directory")
