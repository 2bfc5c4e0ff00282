"""A run that dies at any call to the system and goes on has each line's answer once."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from cutset.batches import line_results
from cutset.batches.input_lines import InputLine, survey
from cutset.batches.line_results import LineResults
from cutset.batches.shard_folder import ShardFolder
from cutset.errors import ConfigError
from cutset.serve.api_errors import ApiError
from cutset.serve.batches.batch_lines import LineAnswer
from cutset.serve.batches.batch_run import BatchRun, NotAnswering

COUNT = 13


class Crash(BaseException):
    """The process is killed here."""


class Clerk:
    """Answers lines, in an order of chance."""

    def __init__(self) -> None:
        self.chance, self.most, self.running = random.Random(4), 0, 0
        self.asked: list[int] = []
        self.status = 200

    async def answer(self, line: InputLine, first: int | None) -> LineAnswer:
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.append(line.number)
        try:
            for _ in range(self.chance.randrange(6)):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        return LineAnswer(line.number % 5 != 0, self.status, b'{"line":%d}' % line.number)


def source(folder: Path) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(f'{{"custom_id": "{number}"}}\n' for number in range(COUNT)))
    return path


def go(path: Path, out: Path, clerk: Clerk, **more: Any) -> LineResults:
    """As the command does it."""
    found = survey(path, 1000, lambda text: None)
    with ShardFolder(out.with_suffix(".parts"), {"input": found.sha256}) as folder:
        results = LineResults(folder, found.lines)
        how = {"longest": 1000, "at_once": lambda: 5, "check_open": lambda: None} | more
        stopped = how.pop("stopped", None) or asyncio.Event()
        if asyncio.run(BatchRun(path, found, results, clerk.answer, **how).run(stopped)):
            results.assemble(out)
            folder.remove()
        return results


CALLS = ("replace", "rename", "fsync", "unlink", "rmdir")


def dying(monkeypatch: pytest.MonkeyPatch, at: int, before: bool) -> None:
    """Has the call with number `at` kill the process, before or after it is done; what comes then isn't done."""
    seen = [0]

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            seen[0] += 1
            if seen[0] <= at or (seen[0] == at + 1 and not before):
                result = real(*args, **more)
                if seen[0] <= at:
                    return result
            raise Crash

        monkeypatch.setattr(os, name, call)

    for name in CALLS:
        wrap(name)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_wherever_it_dies_each_line_has_its_one_answer(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_results, "SHARD_LINES", 4)
    expected = [{"line": number} for number in range(COUNT)]
    for at in range(1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        path, out, died = source(folder), folder / "out.jsonl", False
        with monkeypatch.context() as patch:
            dying(patch, at, before)
            try:
                go(path, out, Clerk())
            except Crash:
                died = True
        if out.exists():
            assert [json.loads(line) for line in out.read_text().splitlines()] == expected
        if not died:
            break
        clerk = Clerk()
        if not (out.exists() and not out.with_suffix(".parts").exists()):
            results = go(path, out, clerk)
            assert results.done == COUNT
            assert len(clerk.asked) == len(set(clerk.asked))
        assert [json.loads(line) for line in out.read_text().splitlines()] == expected
        assert sorted(name for name in os.listdir(folder) if not name.endswith(".done")) == ["in.jsonl", "out.jsonl"]
    assert at > 12, "nothing was killed: this looks at no call any more"


def test_no_more_run_at_once_than_may(tmp_path: Path) -> None:
    clerk = Clerk()
    results = go(source(tmp_path), tmp_path / "out.jsonl", clerk, at_once=lambda: 3)
    assert (clerk.most, sorted(clerk.asked), results.failed) == (3, list(range(COUNT)), 3)


def test_an_input_that_changes_meanwhile_is_found(tmp_path: Path) -> None:
    path = source(tmp_path)
    found = survey(path, 1000, lambda text: None)
    path.write_text(path.read_text().replace('"12"', '"13"'))
    with ShardFolder(tmp_path / "run", {}) as folder:
        run = BatchRun(
            path,
            found,
            LineResults(folder, found.lines),
            Clerk().answer,
            longest=1000,
            at_once=lambda: 5,
            check_open=lambda: None,
        )
        with pytest.raises(ConfigError, match="was changed while its batch ran"):
            asyncio.run(run.run(asyncio.Event()))


def test_what_says_nothing_of_a_request_isn_t_kept(tmp_path: Path) -> None:
    clerk = Clerk()
    clerk.status = 500

    def closed() -> None:
        raise ApiError(503, "the engine has stopped")

    with pytest.raises(NotAnswering, match="the engine has stopped"):
        go(source(tmp_path), tmp_path / "out.jsonl", clerk, check_open=closed)
    assert go(source(tmp_path), tmp_path / "out.jsonl", clerk).done == COUNT  # its own failure is the line's answer


def test_what_was_stopped_keeps_what_has_come(tmp_path: Path) -> None:
    stopped = asyncio.Event()

    class Stopping(Clerk):
        async def answer(self, line: InputLine, first: int | None) -> LineAnswer:
            if line.number == 8:
                stopped.set()
                await asyncio.sleep(60)
            return await super().answer(line, first)

    clerk = Stopping()
    results = go(source(tmp_path), tmp_path / "out.jsonl", clerk, stopped=stopped)
    assert 0 < results.done < COUNT
    assert not (tmp_path / "out.jsonl").exists()
    again = Clerk()
    assert go(source(tmp_path), tmp_path / "out.jsonl", again).done == COUNT
    assert len(again.asked) == COUNT - results.done
