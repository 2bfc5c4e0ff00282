"""The header of GGUF files: what is in it, and what hostile ones get."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.errors import CheckpointError
from cutset.models.files.gguf import GGUFFile, Strings, read_gguf
from cutset.models.files.gguf_path import is_gguf
from gguf_bytes import array, file, key, tensor, text

F32 = np.arange(64, dtype="<f4")
GOOD = file(
    [
        key("general.architecture", 8, text("llama")),
        key("a.u8", 0, b"\xff"), key("a.i8", 1, b"\xff"), key("a.u16", 2, b"\xff\xff"), key("a.i16", 3, b"\xff\xff"),
        key("a.u32", 4, b"\xff" * 4), key("a.i32", 5, b"\xff" * 4), key("a.f32", 6, struct.pack("<f", 1e-5)),
        key("a.true", 7, b"\1"), key("a.u64", 10, b"\xff" * 8), key("a.i64", 11, b"\xff" * 8),
        key("a.f64", 12, struct.pack("<d", 0.1)),
        key("a.texts", 9, array(8, 3, text("one") + text("") + text("drei\u00df"))),
        key("a.numbers", 9, array(5, 3, struct.pack("<3i", 1, -2, 3))),
        key("a.nested", 9, array(9, 2, array(0, 2, b"\1\2") + array(0, 0))),
    ],
    [tensor("one", (4, 8), 0, 0), tensor("two", (2, 32), 8, 128), tensor("three", (16,), 1, 224)],
    F32[:32].tobytes() + bytes(range(68)) + bytes(28) + bytes(range(32)),
)  # fmt: skip


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_values_and_tensors(tmp_path: Path) -> None:
    found = GGUFFile(written(tmp_path / "m.gguf", GOOD))
    values: dict[str, Any] = {name: value for name, value in found.metadata.items() if name.startswith("a.")}
    texts, numbers, nested = (values.pop(f"a.{name}") for name in ("texts", "numbers", "nested"))
    assert values == {
        "a.u8": 255, "a.i8": -1, "a.u16": 65535, "a.i16": -1, "a.u32": 2**32 - 1, "a.i32": -1, "a.f32": 1e-5,
        "a.true": True, "a.u64": 2**64 - 1, "a.i64": -1, "a.f64": 0.1,
    }  # fmt: skip
    assert isinstance(texts, Strings)
    assert (list(texts), len(texts), texts[2].decode()) == ([b"one", b"", "dreiß".encode()], 3, "dreiß")
    assert numbers.tolist() == [1, -2, 3]
    assert [part.tolist() for part in nested] == [[1, 2], []]
    one, two, three = found.tensors.values()
    assert (one.name, one.kind.name, one.shape) == ("one", "F32", (4, 8))
    np.testing.assert_array_equal(one.data.view("<f4"), F32[:32].reshape(4, 8))
    assert (two.kind.name, two.shape, two.data.shape) == ("Q8_0", (2, 32), (2, 34))
    assert two.data.reshape(-1).tolist() == list(range(68))
    assert (three.shape, three.data.shape) == ((16,), (1, 32))


def test_it_is_told_by_name_or_first_bytes(tmp_path: Path) -> None:
    assert is_gguf(written(tmp_path / "a", GOOD))
    assert is_gguf(written(tmp_path / "b.GGUF", b"x"))
    assert not is_gguf(written(tmp_path / "c.json", b"{}"))
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "absent.gguf")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", GOOD)
    first = read_gguf(path)
    assert read_gguf(path) is first
    written(path, GOOD.replace(b"llama", b"lloma"))  # in place, of the same size
    assert read_gguf(path).metadata["general.architecture"] == "lloma"
    path.unlink()
    written(path, file([key("other", 0, b"\1")], []))
    assert read_gguf(path).metadata == {"other": 1}


def big(count: int) -> bytes:
    return struct.pack("<Q", count)


HUGE = 1 << 60
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "can't be read"),
    "short": (b"GG", "is no GGUF file: it begins with b'GG'"),
    "another format": (b"PK\3\4" + bytes(60), "is no GGUF file"),
    "GGML": (b"tjgg" + bytes(60), "is no GGUF file of before GGUF: convert the model again"),
    "magic alone": (b"GGUF", "it ends within its version, at byte 4"),
    "version 1": (file([], [], version=1), "is GGUF version 1; version 3 is read"),
    "version 2": (file([], [], version=2), "is GGUF version 2; version 3 is read"),
    "version 4": (file([], [], version=4), "is GGUF version 4; version 3 is read"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF"),
    "no counts": (b"GGUF\3\0\0\0" + bytes(8), "it ends within its counts"),
    "tensors": (file([], [], counts=(HUGE, 0)), r"it claims 1,152,921,504,606,846,976 tensors; at most 262,144"),
    "keys": (file([], [], counts=(0, HUGE)), r"it claims 1,152,921,504,606,846,976 keys"),
    "more keys than there are": (file([], [], counts=(0, 3)), "it ends within '', at byte 32"),
    "a key of 4 GB": (file([big(4 << 30)], []), "key 1 claims 4,294,967,296 bytes; at most 1,024"),
    "a text of 4 GB": (file([key("a", 8, big(4 << 30))], []), "'a' claims 4,294,967,296 bytes; at most 16,777,216"),
    "a text beyond the file": (file([key("a", 8, big(5000))], []), "it ends within 'a'"),
    "a key that is no UTF-8": (file([key("a", 0, b"\1"), text(b"\xff") + bytes(4)], []), "key 2 is not UTF-8"),
    "a text that is no UTF-8": (file([key("a", 8, text(b"\xff"))], []), "'a' is not UTF-8"),
    "a type of value": (file([key("a", 13, bytes(8))], []), "'a' has a value of type 13; known are 0 to 12"),
    "a type of element": (file([key("a", 9, array(77, 1))], []), "'a' has elements of type 77"),
    "elements": (file([key("a", 9, array(0, HUGE))], []), "'a' claims 1,152,921,504,606,846,976 elements"),
    "texts": (file([key("a", 9, array(8, HUGE))], []), "'a' claims 1,152,921,504,606,846,976 elements"),
    "elements beyond the file": (file([key("a", 9, array(10, 8000000))], []), "it ends within 'a'"),
    "texts beyond the file": (file([key("a", 9, array(8, 8000000))], []), "'a' ends beyond the file|ends within"),
    "a text beyond it": (file([key("a", 9, array(8, 2, text("x") + big(1 << 62)))], []), "ends within 'a'"),
    "the longest text of texts": (file([key("a", 9, array(8, 2, text("x") + b"\xff" * 8))], []), "ends within 'a'"),
    "nested": (file([key("a", 9, array(9, 1) * 50)], []), "'a' has arrays in arrays more than 3 deep"),
    "nested wide": (file([key("a", 9, array(9, 1 << 40, array(9, 1 << 40)))], []), "claims 1,099,511,627,776 elements"),
    "a key twice": (file([key("a", 0, b"\1")] * 2, []), "the key 'a' is there twice"),
    "a name of 4 GB": (file([], [big(4 << 30)], counts=(1, 0)), "the name of tensor 1 claims 4,294,967,296 bytes"),
    "no dimensions": (file([], [text("t") + struct.pack("<IIQ", 0, 0, 0)]), "'t' has 0 dimensions"),
    "dimensions": (file([], [text("t") + struct.pack("<I", 1 << 31)]), "'t' has 2,147,483,648 dimensions; 1 to 4"),
    "no rows": (file([], [tensor("t", (0, 8), 0, 0)]), r"'t' claims the shape \(0, 8\)"),
    "a shape": (file([], [tensor("t", (HUGE, HUGE), 0, 0)]), "'t' claims the shape"),
    "a type": (file([], [tensor("t", (1, 256), 99, 0)], bytes(256)), "t is of type 99, which isn't known; read are"),
    "a type that isn't read": (file([], [tensor("t", (1, 256), 16, 0)], bytes(256)), "t is of type IQ2_XXS; read are"),
    "integers": (file([], [tensor("t", (1, 256), 26, 0)], bytes(1024)), "t is of type I32; read are F32"),
    "half a block": (file([], [tensor("t", (1, 40), 2, 0)], bytes(256)), "rows of 40, no multiple of 32 in Q4_0"),
    "cut off": (GOOD[:-1], "'three' ends at byte 256 of 255 of its tensors: it is cut off"),
    "no data": (file([], [tensor("t", (1, 32), 0, 0)]), "'t' ends at byte 128 of 0"),
    "an offset": (file([], [tensor("t", (1, 32), 0, 1 << 63)], bytes(256)), "ends at byte 9,223,372,036,854,775,936"),
    "an offset in between": (file([], [tensor("t", (1, 8), 0, 4)], bytes(64)), "begins at 4, which is no multiple"),
    "overlapping": (
        file([], [tensor("t", (2, 8), 0, 0), tensor("u", (2, 8), 0, 32)], bytes(128)),
        "its tensors 't' and 'u' overlap",
    ),
    "the same place": (
        file([], [tensor("t", (2, 8), 0, 0), tensor("u", (2, 8), 0, 0)], bytes(128)),
        "its tensors 't' and 'u' overlap",
    ),
    "a name twice": (
        file([], [tensor("t", (1, 8), 0, 0), tensor("t", (1, 8), 0, 32)], bytes(64)),
        "the tensor 't' is there twice",
    ),
}  # fmt: skip
for value in (0, 3, 24, 1, 4, 1 << 31):
    WRONG[f"alignment {value}"] = (
        file([key("general.alignment", 4, struct.pack("<I", value))], [tensor("t", (1, 8), 0, 0)], bytes(99)),
        f"its alignment is {value}, not a power of two",
    )
WRONG["alignment text"] = (file([key("general.alignment", 8, text("x" * 99))], []), "its alignment is 'x+")


@pytest.mark.parametrize("name", WRONG)
def test_hostile_files_get_one_clear_line_and_nothing_is_allocated(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    path = written(tmp_path / "m.gguf", data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("command", ["generate", "tokenize", "models", "convert", "quantize"])
def test_commands_say_it_and_end_with_2(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "m.gguf", GOOD[:-1])
    more = {"generate": ["--prompt", "x"], "tokenize": ["x"], "models": []}
    assert main([command, str(path), *more.get(command, ["-o", str(tmp_path / "out")])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), "Traceback" in err) == ("", 1, False)
    assert "cut off" in err
    assert not (tmp_path / "out").exists()


def test_a_header_larger_than_any_model_has_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A sparse file that claims texts of 16 MiB, one after the other."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 100))
        for number in range(100):
            out.write(key(f"k{number}", 9, array(0, 1 << 22)))
            out.seek(1 << 22, os.SEEK_CUR)
        out.truncate()
    with pytest.raises(CheckpointError, match="at most 8,388,608 in all arrays are read"):
        GGUFFile(path)


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_every_shorter_file_is_refused(cut: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        GGUFFile(written(tmp_path / "m.gguf", GOOD[:cut]))


def test_holes_between_tensors_and_any_alignment_are_fine(tmp_path: Path) -> None:
    entries = [tensor("t", (1, 8), 0, 0), tensor("u", (1, 8), 0, 4096)]
    data = F32[:8].tobytes() + bytes(4096 - 32) + F32[8:16].tobytes()
    keys = [key("general.alignment", 4, struct.pack("<I", 4096))]
    found = GGUFFile(written(tmp_path / "m.gguf", file(keys, entries, data, align=4096)))
    np.testing.assert_array_equal(found.tensors["u"].data.view("<f4")[0], F32[8:16])


def test_a_git_lfs_pointer_is_named_as_one(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        GGUFFile(written(tmp_path / "m.gguf", pointer))
