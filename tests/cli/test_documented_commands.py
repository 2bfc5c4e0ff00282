"""Every command line of Cutset's in the documentation is one of this version's, as are flags that a sentence names."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutset.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").glob("*/README.md"))]


def blocks(text: str) -> Iterator[str]:
    """The lines of what stands between fences, those that are continued as one."""
    for inside in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", " ", inside).splitlines()


def command_lines() -> Iterator[tuple[str, str]]:
    """Where a command is, and its line without what is optional."""
    for page in PAGES:
        for line in blocks(page.read_text(encoding="utf-8")):
            for one in re.split(r";\s*(?=cutset )", re.sub(r"\s+#.*", "", line)):
                if one.startswith("cutset "):
                    yield page.relative_to(ROOT).as_posix(), re.sub(r"\[(--[^]]*)\]", r"\1", one)


def named_flags() -> Iterator[tuple[str, str]]:
    """Where a sentence names a command with flags, and that."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for one in re.findall(r"`(cutset [a-z][^`]*)`", text):
            if " --" in one:
                yield page.relative_to(ROOT).as_posix(), " ".join(one.split())


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"cutset {command}", allow_abbrev=False)
    importlib.import_module(COMMANDS[command].module).configure(parser)
    return parser


def options_of(words: list[str]) -> set[str]:
    """The flags of the command that these words begin with."""
    parser, found = parser_of(words[0]), set[str]()
    for word in [*words[1:], ""]:
        found |= parser._option_string_actions.keys()
        inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        if not inner or word not in inner[0].choices:
            return found
        parser = inner[0].choices[word]
    return found


LINES, NAMED = list(command_lines()), list(named_flags())


def test_commands_are_found() -> None:
    assert len(LINES) > 100
    assert len(NAMED) > 20
    assert {page.name for page in PAGES} > {"README.md", "trust.md", "streaming.md", "scale.md"}


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_a_line_is_one_of_this_version(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("DIR", "keys"):
        (tmp_path / folder).mkdir()
    _, name, *rest = shlex.split(line)
    try:
        parser_of(name).parse_args(rest)
    except SystemExit as stop:
        raise AssertionError(f"{page}: {line}: {capsys.readouterr().err}") from stop


@pytest.mark.parametrize(("page", "span"), NAMED, ids=[f"{page}: {span[:60]}" for page, span in NAMED])
def test_flags_that_are_named_are_there(page: str, span: str) -> None:
    words = re.sub(r"[\[\]()…|]", " ", span).split()[1:]
    flags = {word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2}
    assert flags <= options_of(words), f"{page}: {span}"
