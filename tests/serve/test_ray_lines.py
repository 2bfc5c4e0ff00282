"""Lines of a batch that end the engines which run them: each is given up, and all others are answered; without Ray."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from cutset.batches.input_lines import InputLine
from cutset.serve.batches import ray_lines
from cutset.serve.batches.batch_lines import LineAnswer, LineAnswerer
from cutset.serve.batches.ray_lines import ALONE, COLUMNS, MOST_GIVEN_UP, OPENINGS, TOGETHER, LineActor, LineSource
from cutset.serve.batches.shared_lock import SharedLock


class Died(Exception):
    """An actor's process has ended."""


class Remote:
    """A method is called where it is asked for."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._target, name))


class Order:
    """Of an engine that some lines end, or that ends when it is opened."""

    longest = 100

    def __init__(self, deadly: set[int], *, opens: bool = True) -> None:
        self.deadly, self.opens = deadly, opens
        self.opened = 0
        self.asked: list[list[int]] = [[]]  # of each engine

    def open(self) -> Any:
        self.opened += 1
        if not self.opens:
            raise Died
        self.asked.append([])
        return SimpleNamespace(ready=True)

    def answerer(self, service: Any, digest: str) -> Any:
        async def answer(line: InputLine, first: int | None) -> LineAnswer:
            self.asked[-1].append(line.number)
            if line.number in self.deadly:
                raise Died
            assert line.text is not None
            return LineAnswer(True, 200, line.text)

        return SimpleNamespace(answer=answer, refused=LineAnswerer({}, digest, longest=100).refused)


@pytest.fixture(autouse=True)
def _ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda found: found))
    monkeypatch.setattr(ray_lines, "settle", lambda directory: None)
    monkeypatch.setattr(ray_lines, "answer_facts", lambda service: {})


def source_of(folder: Path, count: int, actors: int = 1) -> tuple[LineSource, list[dict[str, Any]]]:
    """Lines, and what actors get of them: four at a time."""
    texts = [json.dumps({"custom_id": f"r {number}"}).encode() for number in range(count)]
    (folder / "in").write_bytes(b"".join(texts))
    ends = np.cumsum([len(text) for text in texts])
    table = np.array([[n, ends[n] - len(text), len(text), -1] for n, text in enumerate(texts)], np.int64)
    batches = [dict(zip(COLUMNS, table[at : at + 4].T, strict=True)) for at in range(0, count, 4)]
    return LineSource(str(folder / "in"), actors), batches


def run(order: Any, source: LineSource, batches: list[dict[str, Any]]) -> list[Any]:
    """As Ray Data does it: another actor, and the same batch again. The answers, or why there are none."""
    found, actor = list[Any](), None
    for batch in batches:
        for _ in range(1000):
            try:
                actor = actor or LineActor(order, "0" * 64, Remote(source), "/")
                got = actor(batch)
                break
            except Died:
                actor = None
        else:
            raise AssertionError("it goes on without end")
        found += [json.loads(text) for text in got["text"]]
    return found


def test_a_line_that_ends_engines_is_given_up_and_the_others_are_answered(tmp_path: Path) -> None:
    order, (source, batches) = Order({5, 6, 9}), source_of(tmp_path, 12)
    found = run(order, source, batches)
    assert [n for n, one in enumerate(found) if one.get("error")] == [5, 6, 9]
    error = found[5]["error"]
    assert (error["code"], error["line"], found[5]["custom_id"]) == ("engine_ended", 6, "r 5")
    assert "4 engines ended while they ran it" in error["message"]
    assert [one["custom_id"] for one in found] == [f"r {n}" for n in range(12)]
    assert sum(5 in asked for asked in order.asked) == TOGETHER + ALONE
    alone = [asked[-1] for asked in order.asked if asked and asked[-1] in order.deadly]
    assert alone == [5, 5, 6, 6, 9, 9], "nothing else ran meanwhile"
    assert order.asked[1][:4] == [0, 1, 2, 3]
    assert sum(0 in asked for asked in order.asked) == 1, "what was answered isn't asked again"


def test_engines_that_never_open_end_the_run(tmp_path: Path) -> None:
    order, (source, batches) = Order(set(), opens=False), source_of(tmp_path, 4, actors=2)
    assert run(order, source, batches) == ["engines end before they answer anything; the logs of their nodes say why"]
    assert order.opened == 2 * OPENINGS


def test_engines_that_end_whatever_they_run_end_the_run(tmp_path: Path) -> None:
    """Else every line of a file would be given up, one after the other."""
    order, (source, batches) = Order(set(range(40))), source_of(tmp_path, 40)
    found = run(order, source, batches)
    assert found[-1] == "engines end before they answer anything; the logs of their nodes say why"
    assert sum(isinstance(one, dict) for one in found) <= MOST_GIVEN_UP + 1


def test_a_line_is_alone_with_its_engine() -> None:
    lock, inside, most = SharedLock(), list[bool](), list[tuple[int, bool]]()
    guard = threading.Lock()

    def enter(alone: bool) -> None:
        for _ in range(50):
            with lock.hold(alone=alone):
                with guard:
                    inside.append(alone)
                    most.append((len(inside), any(inside)))
                with guard:
                    inside.remove(alone)

    threads = [threading.Thread(target=enter, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 300
    assert all(count == 1 for count, alone in most if alone)
    with lock.hold(alone=False):
        other = threading.Thread(target=enter, args=(False,))
        other.start()
        other.join()  # many hold it together
