"""Records of files: found again while the file is what it was."""

from __future__ import annotations

import os
from pathlib import Path

from cutset.batches.file_records import FileRecords, begin_record
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
