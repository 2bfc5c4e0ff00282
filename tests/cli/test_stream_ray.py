"""Files of `cutset stream batch` that actors play: each once, whoever dies, without Ray and with it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("av")

from cutset.batches.file_records import FileRecord, begin_record
from cutset.batches.shard_folder import ShardFolder
from cutset.cli import main, stream_ray
from cutset.cli.stream_files import UnusableFile
from cutset.cli.stream_ray import ActorLost, FileActor, FileOrder, FilePiece, RayFiles
from cutset.cluster.launch import ray_pool
from cutset.config import load_stream_settings
from cutset.errors import CutsetError, EngineError, GraphError

Script = Callable[[str, int], Any]  # of a file's name and how often it was begun: pieces, or why there are none


class FakeActor:
    """Gives the pieces that its script says."""

    def __init__(self, script: Script, begun: dict[str, int]) -> None:
        self._script, self._begun = script, begun
        self._pieces: deque[Any] = deque()
        self.ended = False

    def open(self) -> str:
        return ""

    def begin(self, record: FileRecord) -> str:
        name = Path(record.file).name
        self._begun[name] = self._begun.get(name, 0) + 1
        found = self._script(name, self._begun[name])
        if isinstance(found, str):
            return found
        self._pieces = deque(found)
        return ""

    def more(self) -> FilePiece:
        found = self._pieces.popleft()
        if isinstance(found, Exception):
            raise found
        piece: FilePiece = found
        return piece


@dataclass(eq=False)
class Call:
    actor: Any
    method: str
    given: tuple[Any, ...]


class FakePool:
    """Calls are done when they are waited for, the last one first."""

    def __init__(self, make: Callable[[], Any], actors: int = 2) -> None:
        self._make, self.actors = make, actors
        self.made: list[Any] = []

    def wanted(self) -> int:
        return self.actors

    def make(self) -> Any:
        self.made.append(self._make())
        return self.made[-1]

    def call(self, actor: Any, method: str, *given: Any) -> Any:
        return Call(actor, method, given)

    def wait(self, calls: Sequence[Any], seconds: float) -> Sequence[Any]:
        return calls[-1:]

    def answer(self, call: Any) -> Any:
        return getattr(call.actor, call.method)(*call.given)

    def end(self, actor: Any) -> None:
        actor.ended = True


class Run:
    """Files of a directory over a fake pool, and what has come of them."""

    def __init__(self, where: Path, names: Sequence[str]) -> None:
        self.where = where
        self.files = []
        for name in names:
            (where / name).write_bytes(name.encode())
            self.files.append((where / name, where / f"{name}.jsonl"))
        self.records: dict[str, FileRecord] = {}
        self.doubts: list[str] = []
        self.said: list[str] = []
        self.begun: dict[str, int] = {}

    def done(self, path: Path, record: FileRecord, doubt: CutsetError | None) -> None:
        assert path.name not in self.records, "once"
        self.records[path.name] = record
        if doubt is not None:
            self.doubts.append(path.name)

    def play(self, script: Script, actors: int = 2) -> FakePool:
        order = FileOrder({}, load_stream_settings({}), {}, str(self.where))
        pool = FakePool(lambda: FakeActor(script, self.begun), actors)
        with ShardFolder(self.where / "parts", {"of": "videos"}) as folder:
            try:
                RayFiles(order, folder, self.done, self.said.append).play(pool, self.files)
            finally:
                assert not list((self.where / "parts").glob("*.tmp")), "nothing half written is left"
                assert all(one.ended for one in pool.made[-1:])
        return pool

    def written(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.where.glob("*.jsonl"))}


def whole(name: str) -> list[FilePiece]:
    return [FilePiece(f"{name} 0\n".encode(), 1, "more"), FilePiece(f"{name} 1\n{name} 2\n".encode(), 2, "done")]


def lines(name: str) -> bytes:
    return b"".join(piece.text for piece in whole(name))


def test_what_an_actor_leaves_behind_is_played_again(tmp_path: Path) -> None:
    run = Run(tmp_path, "abcdef")

    def script(name: str, times: int) -> Any:
        if name in "bd" and times == 1:
            return [whole(name)[0], ActorLost("its node is gone: away", by_node=True)]
        return whole(name)

    pool = run.play(script)
    assert run.written() == {f"{name}.jsonl": lines(name) for name in "abcdef"}
    assert {name: one.items for name, one in run.records.items()} == dict.fromkeys("abcdef", 3)
    assert {name: run.begun[name] for name in "abcdef"} == dict.fromkeys("acef", 1) | {"b": 2, "d": 2}
    assert len(pool.made) == 4
    assert [line for line in run.said if "is played again: its node is gone" in line]


def test_a_file_that_ends_actors_is_noted_and_one_whose_nodes_go_is_not(tmp_path: Path) -> None:
    run = Run(tmp_path, "abc")

    def script(name: str, times: int) -> Any:
        if name == "a":
            return [whole(name)[0], ActorLost("its actor died: segmentation fault", by_node=False)]
        if name == "b" and times <= 5:
            return [ActorLost("its node is gone", by_node=True)]
        return whole(name)

    run.play(script)
    assert run.begun == {"a": 3, "b": 6, "c": 1}
    assert "3 times it ended the actor that played it: its actor died: segmentation fault" in run.records["a"].error
    assert run.records["a"].output == ""
    assert run.written() == {f"{name}.jsonl": lines(name) for name in "bc"}


def test_what_cannot_be_played_is_noted_and_what_concerns_all_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, "abcd")
    bad = {
        "b": [whole("b")[0], FilePiece(b"", 0, "unusable", "after 1 pictures: it is cut off")],
        "c": [FilePiece(b"", 0, "doubted", "no such network")],
    }
    run.play(lambda name, times: bad.get(name) or whole(name))
    assert {name: one.error for name, one in run.records.items() if one.error} == {
        "b": "after 1 pictures: it is cut off",
        "c": "no such network",
    }
    assert run.doubts == ["c"]
    for name, wrong, message in (
        ("x", [FilePiece(b"", 0, "failed", "a worker is lost")], "an actor can't go on: a worker is lost"),
        ("y", "y is another file at there", "y is another file at there: what a batch reads must be found under"),
    ):
        (tmp_path / name).mkdir()
        other = Run(tmp_path / name, [name, "z"])
        with pytest.raises(EngineError, match=message):
            other.play(lambda given, times, wrong=wrong, name=name: wrong if given == name else whole(given), actors=1)
        assert other.written() == {}


def test_actors_that_never_begin_end_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, "ab")

    def make() -> Any:
        actor = FakeActor(lambda name, times: whole(name), {})

        def lost() -> str:
            raise ActorLost("its actor died: no memory", by_node=False)

        actor.open = lost
        return actor

    pool = FakePool(make)
    with (
        ShardFolder(tmp_path / "parts", {"of": "videos"}) as folder,
        pytest.raises(EngineError, match="actors end before they play anything: its actor died: no memory"),
    ):
        RayFiles(FileOrder({}, load_stream_settings({}), {}, "."), folder, run.done, run.said.append).play(
            pool, run.files
        )
    assert len(pool.made) == 7


def test_actors_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_ray, "JOINING_S", -1.0)
    run = Run(tmp_path, "abcdefgh")
    pools: list[FakePool] = []

    def script(name: str, times: int) -> Any:
        pools[0].actors = 3
        return whole(name)

    order = FileOrder({}, load_stream_settings({}), {}, str(tmp_path))
    pools.append(FakePool(lambda: FakeActor(script, run.begun), 1))
    with ShardFolder(tmp_path / "parts", {"of": "videos"}) as folder:
        RayFiles(order, folder, run.done, run.said.append).play(pools[0], run.files)
    assert len(pools[0].made) == 3
    assert len(run.written()) == 8


def test_an_actor_gives_pieces_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"a")
    record = begin_record(tmp_path / "a")
    actor = FileActor(FileOrder({}, load_stream_settings({}), {}, "."))
    found: list[Any] = []

    class Player:
        def lines(self, path: Path) -> Iterator[bytes]:
            for one in found:
                if isinstance(one, Exception):
                    raise one
                yield one

    actor._player = Player()

    def played(*lines: Any) -> list[FilePiece]:
        found[:] = lines
        assert actor.begin(record) == ""
        pieces = [actor.more()]
        while pieces[-1].state == "more":
            pieces.append(actor.more())
        return pieces

    assert played(b"1\n", b"2\n") == [FilePiece(b"1\n2\n", 2, "done")]
    monkeypatch.setattr(stream_ray, "PIECE", 3)
    assert played(b"1\n", b"2\n", b"3\n") == [FilePiece(b"1\n2\n", 2, "more"), FilePiece(b"3\n", 1, "done")]
    assert played(b"1\n", UnusableFile("cut off")) == [FilePiece(b"1\n", 1, "unusable", "cut off")]
    assert played(UnusableFile("odd", GraphError("odd")))[-1].state == "doubted"
    assert played(EngineError("a worker is lost"))[-1] == FilePiece(b"", 0, "failed", "a worker is lost")
    (tmp_path / "a").write_bytes(b"b")
    assert "is another file at " in actor.begin(record)
    (tmp_path / "a").unlink()
    assert "can't be read at " in actor.begin(record)


@pytest.fixture
def spots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command with a detector of spots and five files, of which two are none; Ray's actors are of this process."""
    from cutset.video import zoo
    from video.detection.spots import NAMES, Spots, picture
    from video.sources.clips import write_clip

    size = (64, 96)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUTSET_STREAM_SCHEDULER", "even")
    monkeypatch.setattr(zoo, "build", lambda name, **more: Spots(size).eval())
    monkeypatch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
    monkeypatch.setattr(ray_pool.os, "setpriority", lambda *given: None)
    for name, start in (("in/a.mp4", 0), ("in/c.mp4", 8), ("other/a.mp4", 16)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shown = [picture(size, {"red": (start + 4 * i, 10)}, seed=i) for i in range(3)]
        write_clip(tmp_path / name, shown, options={"crf": "1"})
    (tmp_path / "in" / "b.mp4").write_bytes(b"this is no video")
    (tmp_path / "labels").write_text("\n".join(NAMES))
    monkeypatch.setattr(RayFiles, "run", over_fakes)

    def go(*more: str, out: str) -> int:
        files = ("in/*.mp4", "other/a.mp4")
        return main(["stream", "batch", "spots", *files, "-o", out, "--labels", "labels", "--workers", "1", *more])

    return go


def over_fakes(self: RayFiles, options: Any, files: Any, begun: Any) -> None:
    class Closing(FakePool):
        def end(self, actor: Any) -> None:
            if actor._player is not None:
                actor._player.close()

    self.play(Closing(lambda: stream_ray.FileActor(self._order), 1), files)


@pytest.mark.slow
def test_the_same_bytes_as_without_ray(
    spots: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spots(out="here") == 0
    assert spots("--ray", "local", out="there") == 0
    names = sorted(name for name in os.listdir("here") if name != ".parts")
    assert names == ["a.mp4-1.jsonl", "a.mp4.jsonl", "c.mp4.jsonl", "files.jsonl"]
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    # A run may go on with Ray or without, with the same files alone.
    assert spots("--resume", out="there") == 0
    assert "4 of 4 files are done" in capsys.readouterr().err
    (tmp_path / "labels").write_text("other")
    assert spots("--resume", "--ray", "local", out="there") == 2
    assert "has labels labels, sha256 " in capsys.readouterr().err


def test_an_actor_with_another_network_is_refused(
    spots: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = stream_ray.FileActor.open

    def open_elsewhere(self: stream_ray.FileActor) -> str:
        (tmp_path / "labels").write_text("other")
        return real(self)

    monkeypatch.setattr(stream_ray.FileActor, "open", open_elsewhere)
    assert spots("--ray", "local", out="there") == 2
    err = capsys.readouterr().err
    assert "an actor can't go on: labels is labels, sha256 " in err
    assert "put the same there" in err
