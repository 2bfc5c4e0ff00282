"""CONTRIBUTING's recipes name files that exist, and each says how it is checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TITLES = (
    *("a model family", "a weight format", "a payload form", "a runtime of video stages"),
    *("a link", "a launcher", "a format of tool calls", "a sampling parameter", "a command"),
)


def recipes() -> dict[str, str]:
    """The text of each recipe, by its title."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("\n## Recipes\n", 1)[1].split("\n## ", 1)[0]
    return {part.split("\n", 1)[0]: part for part in section.split("\n### Add ")[1:]}


def paths(recipe: str) -> set[str]:
    """Every path that it names: words with a slash within backticks, and files of the root."""
    words = " ".join(re.findall(r"`([^`]+)`", recipe)).split()
    return {word for word in words if re.fullmatch(r"[\w./-]+", word) and ("/" in word or word.endswith(".md"))}


def test_there_are_no_others() -> None:
    assert tuple(recipes()) == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_the_paths_of_a_recipe_exist(title: str) -> None:
    named = paths(recipes()[title])
    assert {path.split("/")[0] for path in named} >= {"src", "tests"}
    made = {path for path in named if "NAME" in path}
    assert not [path for path in named - made if not (ROOT / path).exists()]
    assert not [path for path in made if not (ROOT / path).parent.is_dir()]


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_says_how_it_is_checked(title: str) -> None:
    [command] = re.findall(r"^\d\. Check: `pytest (.+)`$", recipes()[title], re.MULTILINE)
    assert all(word.startswith("tests/") for word in command.split())
