"""Names of classes: from files, and from what a model's file says, of which nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutset.errors import ConfigError
from cutset.video.detection import labels_of, read_labels


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("person\ncar\n", ("person", "car")),
        ("0 person\n2 traffic light\n", ("person", "class 1", "traffic light")),
        ("0: person\n1: car\r\n\n", ("person", "car")),
        ("# COCO\nperson\n", ("person",)),
        ("3 wheeler\ncar\n", ("3 wheeler", "car")),
        ("wei\u202erd\n", ("wei\ufffdrd",)),
    ],
)
def test_files_of_labels(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(text, encoding="utf-8")
    assert read_labels(file) == names


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    for content in (b"", b"\n# only\n", b"\xff\xfe", b"999999 far\n", b"a\n" * (1 << 20)):
        file.write_bytes(content)
        with pytest.raises(ConfigError):
            read_labels(file)
    with pytest.raises(ConfigError):
        read_labels(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: 'bicycle'}", ("person", "bicycle")),
        ("['a', \"b's\"]", ("a", "b's")),
        ("{0: 'a', 2: 'c',}", ("a", "class 1", "c")),
        ('{"0": "person", "2": "car"}', ("person", "class 1", "car")),
        ('["person", "car"]', ("person", "car")),
        ("{0: 'it\\'s {odd} [(1+1)]'}", ("it's {odd} [(1+1)]",)),
    ],
)
def test_names_in_metadata(text: str, names: tuple[str, ...]) -> None:
    assert labels_of({"names": text, "stride": "32"}) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "person",
        "{}",
        "{0: 1}",
        "{'a': 'b'}",
        "{'0': 'a', 1: 'b'}",
        "{'-1': 'a'}",
        "{'²': 'a'}",
        "{'9999999999': 'a'}",
        "{0: 'a'",
        "{-1: 'a'}",
        "{10**9: 'a'}",
        "{999999999: 'a'}",
        "__import__('os').system('true')",
        "[__import__('os')]",
        "{0: 'a', **{}}",
        "[" * 5000 + "]" * 5000,
        "-" * 5000 + "1",
        "1+" * 5000 + "1",
        "{0: " + "'a'" * 500_000 + "}",
        "{0: f'{1}'}",
    ],
)
def test_metadata_that_names_nothing_is_left_out(text: str) -> None:
    assert labels_of({"names": text}) == ()


def test_metadata_without_names() -> None:
    assert labels_of({}) == ()
