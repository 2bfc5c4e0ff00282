"""Archives of arrays: nothing in them is run, and nothing is allocated on their word."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import ConfigError
from cutset.video.sparsity.archive import read_archive, write_archive

HEADER = np.frombuffer(json.dumps({"format": "f"}).encode(), np.uint8)


def npy(array: np.ndarray[Any, Any], **flags: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **flags)
    return out.getvalue()


def write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.zeros((0, 4), np.float32), "c": np.float64(2.5)}
    arrays["d"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    write_archive(tmp_path / "x.npz", {"format": "f", "more": [1]}, {k: np.asarray(v) for k, v in arrays.items()})
    header, back = read_archive(tmp_path / "x.npz", "f", "a test")
    assert header == {"format": "f", "more": [1]}
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle ran",))


@pytest.mark.parametrize(
    "member",
    [
        npy(np.array([Evil()], dtype=object), allow_pickle=True),
        npy(np.array(["text"])),
        npy(np.zeros(4))[:-1],
        npy(np.zeros(4)) + b"x",
        npy(np.zeros((3, 4), order="F")),
        npy(np.zeros(4)).replace(b"(4,)", b"(9,)"),
        npy(np.zeros(4)).replace(b"(4,), }      ", b"(99999999,),}"),  # more than there is
        b"\x93NUMPY\x02\x00" + npy(np.zeros(4))[8:],
        b"no array",
        b"",
    ],
)
def test_what_is_no_plain_array_is_refused(tmp_path: Path, member: bytes) -> None:
    path = write(tmp_path / "x.npz", {"header.npy": npy(HEADER), "a.npy": member})
    with pytest.raises(ConfigError, match="is not a test"):
        read_archive(path, "f", "a test")


def test_another_format_or_no_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {"header.npy": npy(HEADER)})
    with pytest.raises(ConfigError, match="format is not g"):
        read_archive(path, "g", "a test")
    write(path, {"a.npy": npy(np.zeros(3))})
    with pytest.raises(ConfigError, match="no header"):
        read_archive(path, "f", "a test")
    write(path, {"header.npy": npy(np.frombuffer(b"[" * 100_000, np.uint8))})
    with pytest.raises(ConfigError, match="is not a test"):
        read_archive(path, "f", "a test")


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "x.npz", {"format": "f"}, {"zeros": np.zeros(1_000_000)})
    assert (tmp_path / "x.npz").stat().st_size < 20_000
    monkeypatch.setattr("cutset.video.sparsity.archive.MOST_BYTES", 1_000_000)
    with pytest.raises(ConfigError, match="too large"):
        read_archive(tmp_path / "x.npz", "f", "a test")


def test_a_folder_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be written"):
        write_archive(tmp_path / "none" / "x.npz", {}, {})
