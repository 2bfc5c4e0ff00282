"""A batch goes on with the model that it began with alone: its weights and tokenizer, and those of every node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from cutset.batches.line_results import LineResults
from cutset.batches.shard_folder import ShardFolder
from cutset.cli import main
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_pool import PoolOptions, RayPool
from cutset.models.random import RandomModel
from cutset.serve.batches import ray_lines

SHAPE: dict[str, Any] = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocab": 64}
FLAGS = ("--threads", "1", "--max-num-seqs", "2", "--cache-mib", "4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model and six requests; what is remembered of files is kept in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    RandomModel(**SHAPE).write_checkpoint(tmp_path / "model")
    body = {"prompt": [3, 4], "max_tokens": 2, "seed": 1}
    lines = [{"custom_id": f"{n}", "method": "POST", "url": "/v1/completions", "body": body} for n in range(6)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(*more: str) -> int:
    return main(["batch", "model", "in.jsonl", "-o", "out.jsonl", *FLAGS, *more])


@pytest.fixture
def begun(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """All lines are answered, and the output wasn't written."""

    def full(self: LineResults, path: Path, **more: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LineResults, "assemble", full)
        assert run() == 2
    assert "No space left" in capsys.readouterr().err
    manifest = json.loads((folder / "out.jsonl.parts" / "manifest.json").read_text())
    assert manifest["weights"].startswith("model, sha256 ")
    assert manifest["tokenizer"].startswith("sha256 ")
    return folder


def test_other_weights_under_the_same_name(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RandomModel(**SHAPE, seed=7).write_checkpoint(begun / "model")
    assert run("--resume") == 2
    err = capsys.readouterr().err
    assert "the run in " in err
    assert "has weights model, sha256 " in err
    assert ", not model, sha256 " in err
    assert not (begun / "out.jsonl").exists()
    RandomModel(**SHAPE).write_checkpoint(begun / "model")
    assert run("--resume") == 0
    assert len((begun / "out.jsonl").read_text().splitlines()) == 6


def test_another_tokenizer(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = begun / "model" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert run("--resume") == 2
    assert "has tokenizer sha256 " in capsys.readouterr().err


class FakeData:
    """Blocks that are mapped here, by actors in turn."""

    def __init__(self, blocks: Sequence[Any], actors: int) -> None:
        self._blocks, self._actors = blocks, actors

    def map_batches(self, kind: Any, *, fn_constructor_args: Any, batch_size: int, **more: Any) -> FakeData:
        self._make = lambda: kind(*fn_constructor_args)
        return self

    def iter_batches(self, **more: Any) -> Iterator[Mapping[str, Any]]:
        actors = [self._make() for _ in range(self._actors)]
        for number, block in enumerate(self._blocks):
            columns = {name: block.column(name).to_numpy() for name in block.column_names}
            yield actors[number % len(actors)](columns)
            if number == 0:
                yield actors[0](columns)  # as when what came was lost on its way


class FakeSource:
    """An actor of the driver's that reads lines: what a call gives is there at once."""

    def __init__(self, path: str, actors: int) -> None:
        source = ray_lines.LineSource(path, actors)
        for name in ("may_open", "read", "may_begin", "answered"):
            setattr(self, name, SimpleNamespace(remote=getattr(source, name)))


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> list[Needs]:
    """Ray as far as lines use it, with two actors; what was asked for."""
    pytest.importorskip("pyarrow")
    made = SimpleNamespace(options=lambda **more: SimpleNamespace(remote=FakeSource))
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    data = SimpleNamespace(
        DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace()),
        ActorPoolStrategy=lambda **more: more,
        from_blocks=lambda blocks: FakeData(blocks, 2),
        exceptions=SimpleNamespace(UserCodeException=KeyError),
    )
    fake = SimpleNamespace(
        get=lambda found: found,
        remote=lambda kind: made,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
        util=SimpleNamespace(scheduling_strategies=strategies),
        exceptions=SimpleNamespace(RayError=KeyError),
        data=data,
    )
    asked: list[Needs] = []

    @contextmanager
    def opened(options: PoolOptions, needs: Needs) -> Iterator[RayPool]:
        asked.append(needs)
        yield RayPool(fake, options, needs, 2)

    monkeypatch.setitem(__import__("sys").modules, "ray", fake)
    monkeypatch.setitem(__import__("sys").modules, "ray.data", data)
    monkeypatch.setattr(ray_lines, "open_pool", opened)
    monkeypatch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
    monkeypatch.setattr("os.setpriority", lambda *given: None)
    return asked


def test_lines_over_actors_are_those_without(folder: Path, fake_ray: list[Needs]) -> None:
    def said() -> list[Any]:
        found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
        return [(one["id"], one["custom_id"], one["response"]["body"]["choices"]) for one in found]

    assert run("--ray", "local") == 0
    assert [needs.cpus for needs in fake_ray] == [1.0]
    over = said()
    (folder / "out.jsonl").unlink()
    assert run() == 0
    assert said() == over
    assert len(over) == 6


def test_a_node_with_other_weights_is_refused_and_its_answers_are_not_taken(
    folder: Path, fake_ray: list[Needs], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, opened = ray_lines.answer_facts, list[int]()

    def facts(service: Any) -> dict[str, Any]:
        opened.append(1)
        return real(service) | ({"weights": "model, sha256 another"} if len(opened) == 2 else {})

    monkeypatch.setattr(ray_lines, "answer_facts", facts)
    assert run("--ray", "local") == 2
    assert "not model, sha256 another: give the same as before" in capsys.readouterr().err
    lines = [json.loads(line) for line in (folder / "in.jsonl").read_text().splitlines()]
    with ShardFolder(folder / "out.jsonl.parts", {"of": "requests"}) as parts:
        kept = sum(1 for _ in parts.records())
    assert 0 < kept < len(lines)


def test_nothing_left_asks_no_cluster(begun: Path, fake_ray: list[Needs]) -> None:
    assert run("--resume", "--ray", "local") == 0
    assert fake_ray == []
    assert len((begun / "out.jsonl").read_text().splitlines()) == 6


def test_blocks_are_as_small_as_what_an_actor_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is lost takes along what it was at, and no more."""
    pytest.importorskip("pyarrow")
    table = np.arange(400, dtype=np.int64).reshape(100, 4)
    sizes = [block.num_rows for block in ray_lines._blocks(table, 3, 16)]
    assert sum(sizes) == 100
    assert max(sizes) <= 16
    assert len(ray_lines._blocks(table[:2], 3, 16)) == 2
    monkeypatch.setattr(ray_lines, "MOST_BLOCKS", 4)
    blocks = ray_lines._blocks(table, 3, 16)
    assert len(blocks) == 4
    assert [int(one) for block in blocks for one in block.column("begin")] == table[:, 1].tolist()
