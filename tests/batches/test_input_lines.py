"""Lines of input files: read in pieces, whatever is in them."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from cutset.batches import input_lines
from cutset.batches.input_lines import LineReader, survey
from cutset.errors import ConfigError


def lines(path: Path) -> list[bytes | None]:
    return [line.text for line in LineReader(path, 100)]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"\xef\xbb\xbfa\r\nb\n", [b"a\r", b"b"]),
        (b"a\n" + b"x" * 101 + b"\nb\n", [b"a", None, b"b"]),
        (b"x" * 100 + b"\n" + b"y" * 300, [b"x" * 100, None]),
        (b"a\x00b\n\xff\xfe\n", [b"a\x00b", b"\xff\xfe"]),
    ],
)
@pytest.mark.parametrize("chunk", [3, 7, 1 << 20])
def test_lines_are_the_same_in_any_pieces(
    data: bytes, found: list[bytes | None], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_lines, "CHUNK", chunk)
    path = tmp_path / "in"
    path.write_bytes(data)
    reader = LineReader(path, 100)
    read = list(reader)
    assert [line.text for line in read] == found
    assert [line.number for line in read] == list(range(len(found)))
    assert reader.sha256 == hashlib.sha256(data).hexdigest()
    sizes = [len(one) for one in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    assert [line.size for line in read] == sizes[: len(found)]
    for line in read:
        assert line.text in (None, data[line.begin : line.begin + line.size])


def test_a_survey_finds_names_that_come_again(tmp_path: Path) -> None:
    names = [random.Random(1).choice("abcdefgh") * 3 for _ in range(200)] + [f"n{number}" for number in range(500)]
    random.Random(2).shuffle(names)
    path = tmp_path / "in"
    path.write_bytes(
        b"".join(b"%s\n%s" % (name.encode(), b" \n" if at % 7 == 0 else b"") for at, name in enumerate(names))
    )
    found = survey(path, 100, lambda text: text.decode())
    kept = [(line.number, line.text) for line in LineReader(path, 100) if not line.blank]
    assert (found.items, found.lines) == (len(names), kept[-1][0] + 1)
    first: dict[bytes | None, int] = {}
    for number, text in kept:
        assert found.first(number) == first.get(text)
        first.setdefault(text, number)
    assert found.repeated == len(names) - len(first)


def test_nothing_named_and_nothing_there(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\nb\n")
    found = survey(path, 100, lambda text: None)
    assert (found.items, found.repeated, found.first(0)) == (2, 0, None)
    path.write_bytes(b"\n \n")
    assert survey(path, 100, lambda text: "x").items == 0


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="no regular file"):
            lines(path)
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        lines(tmp_path / "gone")
