"""Sealed models: the same answer, and no change of what lies on the disk that isn't noticed before it is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.errors import CheckpointError, ConfigError, CutsetError, ModelError
from cutset.models.files import digests
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED
from cutset.trust.evidence.served_files import manifest_digest, served_files
from cutset.trust.sealing.opened_model import opened_model
from cutset.trust.sealing.seal_model import seal_model, write_model_key
from cutset.trust.sealing.sealed_format import CHUNK, TAG, ModelKey, load_model_key, read_manifest

SIZES = {"a.bin": 3 * CHUNK + 5, "b.bin": 3 * CHUNK + 5, "empty": 0, "folder/c.json": 2, "whole.bin": CHUNK}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "a-model"
    draw = np.random.default_rng(18)
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.bytes(size))
    return folder


Sealed = tuple[Path, ModelKey]


@pytest.fixture(scope="module")
def sealed_once(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    target = tmp_path_factory.mktemp("sealed") / "model"
    return target, seal_model(plain, target)


@pytest.fixture
def sealed(sealed_once: Sealed, tmp_path: Path) -> Sealed:
    """A copy that a test may change."""
    return Path(shutil.copytree(sealed_once[0], tmp_path / "copy")), sealed_once[1]


def refused(folder: Path, key: ModelKey, match: str = ".") -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CheckpointError, match=match), opened_model(folder, key):
        pytest.fail("it was opened")
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # nothing is left of what was decrypted


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_sealed_is_what_is_opened(plain: Path, sealed: Sealed, threads: int) -> None:
    folder, key = sealed
    with opened_model(folder, key, threads) as opened:
        assert opened.name == "a-model"
        for name in SIZES:
            assert (opened / name).read_bytes() == (plain / name).read_bytes()
        assert manifest_digest(served_files({"m": opened})) == manifest_digest(served_files({"m": plain}))
    assert not opened.exists()


def test_nothing_of_it_lies_on_the_disk(plain: Path, sealed: Sealed) -> None:
    everything = b"".join(path.read_bytes() for path in sealed[0].iterdir())
    for name, size in SIZES.items():
        data = (plain / name).read_bytes()
        for at in range(0, size - 32, CHUNK // 2):
            assert data[at : at + 32] not in everything
    assert sealed[1].secret not in everything


def test_nobody_can_write_to_what_was_decrypted(sealed: Sealed) -> None:
    """Neither through the link nor through the descriptor itself, nor by mapping it; not even this process."""
    import mmap

    folder, key = sealed
    with opened_model(folder, key) as opened:
        descriptor = int(os.readlink(opened / "a.bin").rpartition("/")[2])
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, CHUNK)
        for length in (0, 10 * CHUNK):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, length)
        mapped = np.memmap(opened / "a.bin", dtype=np.uint8, mode="r")  # as checkpoints are read
        before = mapped[:100].tobytes()
        for path in folder.glob("*.sealed"):  # what lies on the disk may change now
            path.write_bytes(b"other")
        assert mapped[:100].tobytes() == before
        assert os.stat(opened).st_mode & 0o077 == 0


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit of a chunk": lambda folder: flip(folder / "0.sealed", 100),
    "a bit of a tag": lambda folder: flip(folder / "0.sealed", CHUNK + 3),
    "a bit of the last chunk": lambda folder: flip(folder / "0.sealed", -1),
    "a bit of the empty file": lambda folder: flip(folder / "2.sealed", 0),
    "cut off": lambda folder: os.truncate(folder / "0.sealed", CHUNK + TAG),
    "a byte cut off": lambda folder: os.truncate(folder / "0.sealed", 3 * (CHUNK + TAG) + 5 + TAG - 1),
    "bytes behind": lambda folder: append(folder / "0.sealed", b"x"),
    "a chunk behind": lambda folder: append(folder / "0.sealed", bytes(CHUNK + TAG)),
    "two chunks swapped": lambda folder: swap(folder / "0.sealed", folder / "0.sealed", 0, 1),
    "a chunk twice": lambda folder: swap(folder / "0.sealed", folder / "0.sealed", 0, 1, back=False),
    "a chunk of another file": lambda folder: swap(folder / "0.sealed", folder / "1.sealed", 1, 1),
    "two files swapped": lambda folder: swap_files(folder, "0.sealed", "1.sealed"),
    "a file gone": lambda folder: (folder / "3.sealed").unlink(),
    "the manifest's name": lambda folder: rewrite(folder, name="other"),
    "the manifest's files": lambda folder: rewrite(folder, files=[["a.bin", SIZES["a.bin"]]]),
    "a file by another name": lambda folder: rewrite(folder, files=renamed(folder)),
    "the seal": lambda folder: rewrite(folder, seal="ab" * 32),
    "the MAC": lambda folder: rewrite(folder, mac="00" * 32),
    "the format": lambda folder: rewrite(folder, format="cutset sealed 2"),
    "a key more": lambda folder: rewrite(folder, more=1),
    "no manifest": lambda folder: (folder / "sealed.json").unlink(),
    "half a manifest": lambda folder: os.truncate(folder / "sealed.json", 100),
}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def append(path: Path, more: bytes) -> None:
    with path.open("ab") as file:
        file.write(more)


def swap(first: Path, second: Path, one: int, other: int, *, back: bool = True) -> None:
    step = CHUNK + TAG
    a, b = bytearray(first.read_bytes()), bytearray(second.read_bytes())
    ours, theirs = a[one * step : (one + 1) * step], b[other * step : (other + 1) * step]
    a[one * step : (one + 1) * step] = theirs
    if first == second:
        b = a
    if back:
        b[other * step : (other + 1) * step] = ours
    first.write_bytes(bytes(a))
    second.write_bytes(bytes(b))


def swap_files(folder: Path, one: str, other: str) -> None:
    (folder / one).rename(folder / "x")
    (folder / other).rename(folder / one)
    (folder / "x").rename(folder / other)


def rewrite(folder: Path, **fields: object) -> None:
    content = json.loads((folder / "sealed.json").read_text()) | fields
    (folder / "sealed.json").write_text(json.dumps(content))


def renamed(folder: Path) -> list[list[object]]:
    files = json.loads((folder / "sealed.json").read_text())["files"]
    return [["z.bin", files[0][1]], *files[1:]]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused(sealed: Sealed, change: str) -> None:
    folder, key = sealed
    CHANGES[change](folder)
    refused(folder, key)


def test_another_key_and_another_seal(plain: Path, sealed: Sealed, tmp_path: Path) -> None:
    folder, key = sealed
    refused(folder, ModelKey(key.seal, bytes(32)), "key is wrong")
    other = tmp_path / "other"
    theirs = seal_model(plain, other)
    refused(folder, theirs, "another sealed model")
    shutil.copy(other / "0.sealed", folder / "0.sealed")  # the same file of the same model, sealed at another time
    refused(folder, key, "changed since")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "./a", "", "a\0b"])
def test_names_that_lead_out(sealed: Sealed, name: str) -> None:
    folder, key = sealed
    rewrite(folder, files=[[name, 1]])
    with pytest.raises(CheckpointError):
        read_manifest(folder)
    refused(folder, key)


def test_keys_are_for_their_owner(sealed: Sealed, tmp_path: Path) -> None:
    path = tmp_path / "the.key"
    write_model_key(sealed[1], path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_model_key(path).secret == sealed[1].secret
    with pytest.raises(ConfigError, match="never overwritten"):
        write_model_key(sealed[1], path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="by others"):
        load_model_key(path)
    path.chmod(0o600)
    path.write_text("key 00")
    with pytest.raises(ConfigError, match="holds no key"):
        load_model_key(path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sealed model writes what the plain one does."""
    target, key = tmp_path / "sealed", tmp_path / "story.key"
    assert main(["trust", "seal", str(BUNDLED["story"]), "-o", str(target), "--key", str(key)]) == 0
    capsys.readouterr()
    words = ["--prompt", "Once upon a time", "--max-tokens", "16"]
    assert main(["generate", "story", *words]) == 0
    wanted = capsys.readouterr().out
    assert main(["generate", str(target), "--model-key", str(key), *words]) == 0
    assert capsys.readouterr().out == wanted
    for flags, match in (
        ([str(target), *words], "--model-key FILE"),
        (["story", "--model-key", str(key), *words], "isn't"),
        ([str(target), "--model-key", str(tmp_path / "none"), *words], "can't be read"),
        ([str(target), "--model-key", "https://127.0.0.1:1", *words], "--evidence"),
    ):
        assert main(["generate", *flags]) == 2
        said = capsys.readouterr().err
        assert match in said
        assert len(said.splitlines()) == 1
    flip(target / "3.sealed", 5)
    assert main(["generate", str(target), "--model-key", str(key), *words]) == 2
    assert "changed since" in capsys.readouterr().err
    assert main(["trust", "seal", str(BUNDLED["story"]), "-o", str(target), "--key", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b").exists()


def test_a_sealed_model_is_read_as_any_other(tmp_path: Path) -> None:
    key = seal_model(BUNDLED["story"], tmp_path / "sealed")
    with opened_model(tmp_path / "sealed", key, 2) as opened:
        ours, theirs = open_source(opened), open_source(BUNDLED["story"])
        assert ours.spec == theirs.spec
        for name, tensor in theirs.tensors.items():
            assert tensor.equals(ours.tensors[name])


@pytest.mark.parametrize("what", ["nothing", "target"])
def test_what_cannot_be_sealed(tmp_path: Path, plain: Path, what: str) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "x").touch()
    model, target = (tmp_path / "none", tmp_path / "new") if what == "nothing" else (plain, tmp_path / "target")
    with pytest.raises((ModelError, ConfigError)) as caught:
        seal_model(model, target)
    assert isinstance(caught.value, CutsetError)
    assert not (tmp_path / "new").exists()


def test_a_key_says_which_generation_it_is_of(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sealing = ["trust", "seal", str(plain), "-o", str(tmp_path / "s"), "--key", str(tmp_path / "k")]
    assert main([*sealing, "--line", "bot", "--generation", "7"]) == 0
    key = load_model_key(tmp_path / "k")
    assert (key.line, key.generation) == ("bot", 7)
    with opened_model(tmp_path / "s", key) as folder:
        assert (folder / "folder" / "c.json").read_bytes() == (plain / "folder" / "c.json").read_bytes()
    mount = ["trust", "mount-key", "--key", str(tmp_path / "m"), "--wrap", str(tmp_path / "w")]
    assert main([*mount, "--line", "bot", "--generation", "8"]) == 0
    assert load_model_key(tmp_path / "m").generation == 8
    capsys.readouterr()
    for number, wrong in enumerate(
        (["--line", "bot"], ["--generation", "1"], ["--line", "../x", "--generation", "1"],
         ["--line", "bot", "--generation", "-1"], ["--line", "bot", "--generation", str(2**60)])
    ):  # fmt: skip
        words = [*sealing[:4], str(tmp_path / f"t{number}"), "--key", str(tmp_path / f"k{number}"), *wrong]
        assert main(words) == 2
        assert "a line is a name" in capsys.readouterr().err
        assert not (tmp_path / f"t{number}").exists()
    for spoil in ("generation x", "generation 1", "line bot", "line a/b\ngeneration 1"):
        place = tmp_path / "spoilt"
        place.write_text(ModelKey("ab" * 32, bytes(32)).text() + spoil + "\n")
        place.chmod(0o600)
        with pytest.raises(ConfigError):
            load_model_key(place)


def test_digests_are_compared_when_it_is_sealed_and_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is authenticated when it is opened: to hash all of them once more would double that."""
    RandomModel(layers=1).write_checkpoint(tmp_path / "floats")
    assert main(["quantize", str(tmp_path / "floats"), "-o", str(tmp_path / "model")]) == 0
    key, hashed = seal_model(tmp_path / "model", tmp_path / "sealed"), list[Any]()

    def wrong(value: Any) -> str:
        hashed.append(value)
        return ""

    monkeypatch.setattr(digests, "digest", wrong)
    with opened_model(tmp_path / "sealed", key) as opened:
        assert open_source(opened, "always").dtype == "int8"
        assert hashed == []
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "model", "always")
    assert hashed
    with pytest.raises(CheckpointError, match="digest"):
        seal_model(tmp_path / "model", tmp_path / "again")
    assert not (tmp_path / "again").exists()
