"""The audit log: lines are only ever added, whole, for their owner alone, and what can't be logged is an error."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from cutset.cli import main
from cutset.errors import ConfigError, EvidenceError
from cutset.trust.audit import AuditLog, audit_head


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"event": "older"}\n')
    logs = [AuditLog(path) for _ in range(3)]  # as three processes would have it open

    def write(log: AuditLog, name: str) -> None:
        for number in range(20):
            log.write("refused", peer=name, number=number, reason="x" * 400)

    threads = [threading.Thread(target=write, args=(log, f"{i}")) for i, log in enumerate([*logs, logs[0]])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"event": "older"}
    assert len(lines) == 81
    assert audit_head(path)[0] == 81, "and each knows the one before"
    for name in "012":
        assert [line["number"] for line in lines[1:] if line["peer"] == name] == list(range(20))


def test_what_others_say_is_bounded_and_obeyed_by_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.write("refused", reason="\x1b[2J\n{}" + "y" * 10_000)
    [line] = path.read_text().splitlines()
    assert "\x1b" not in json.loads(line)["reason"]
    assert "\n" not in json.loads(line)["reason"]
    assert len(line) < 1200
    assert path.stat().st_mode & 0o077 == 0
    log.close()
    log.close()
    with pytest.raises(ConfigError, match="can't be written"):
        log.write("refused")


def test_what_cannot_be_logged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened"):
        AuditLog(tmp_path / "none" / "audit.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="can't be opened"):  # somebody else's choice of where it goes
        AuditLog(tmp_path / "link")
    with pytest.raises(ConfigError, match="can't be written"):
        AuditLog(Path("/dev/full")).write("refused", reason="the disk is full")


def test_a_line_that_fits_in_part_alone_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or all that are written once there is room again would belong to it, and nobody could tell that from a change."""
    path, write = tmp_path / "audit.jsonl", os.write
    log = AuditLog(path)
    log.write("refused", number=1)
    with monkeypatch.context() as patch:
        patch.setattr("cutset.trust.audit.os.write", lambda file, data: write(file, data[:20]))
        with pytest.raises(ConfigError, match="only a part of a line"):
            log.write("refused", number=2)
    log.write("refused", number=3)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [1, 3]
    assert audit_head(path)[0] == 2


def test_a_line_that_is_changed_taken_out_or_put_in_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    assert audit_head(path) == (0, "")
    heads = []
    for number in range(5):
        log.write("refused", number=number, reason="line")
        heads.append(audit_head(path)[1])
    log.close()
    lines = path.read_text().splitlines(keepends=True)
    for kept in heads:
        assert audit_head(path, kept) == (5, heads[-1])
    made = [
        lines[1:],
        lines[:2] + lines[3:],
        [*lines[:2], lines[2].replace("line", "lime"), *lines[3:]],
        [*lines[:2], lines[3], lines[2], *lines[4:]],
        [*lines[:2], lines[1], *lines[2:]],
        [*lines[:2], '{"event": "refused"}\n', *lines[2:]],
        [*lines, '{"event": "refused"}\n'],
        [*lines[:4], lines[4][:-1]],
        [*lines[:2], "[]\n", *lines[2:]],
        [*lines[:2], "\xff\n", *lines[2:]],
    ]
    for wrong in made:
        path.write_text("".join(wrong))
        with pytest.raises(EvidenceError, match="line"):
            audit_head(path)
    path.write_text("".join(lines[:3]))  # cut short: of itself it is whole, and a digest that was kept tells
    assert audit_head(path) == (3, heads[2])
    assert main(["trust", "audit", str(path), "--since", heads[1]]) == 0
    assert capsys.readouterr().out.startswith(heads[2])
    assert main(["trust", "audit", str(path), "--since", heads[4]]) == 1
    assert "cut short" in capsys.readouterr().err
    assert main(["trust", "audit", str(path), "--since", "x"]) == 2
    assert main(["trust", "audit", str(tmp_path / "none")]) == 2
