"""Reasoning that an answer begins with."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.models.calls.thinking import THINKING, ReasoningSplitter, begins_in

THINK = THINKING["think"]


def split(*pieces: str, name: str = "think", begun: bool = False) -> tuple[str, str]:
    """Reasoning and content."""
    splitter = ReasoningSplitter(THINKING[name], begun=begun)
    parts = [one for piece in pieces for one in splitter.feed(piece)] + splitter.end()
    return "".join(text for is_it, text in parts if is_it), "".join(text for is_it, text in parts if not is_it)


@pytest.mark.parametrize(
    ("text", "begun", "found"),
    [
        ("<think>\nWell, well.\n</think>\n\nHello.\n", False, ("Well, well.", "Hello.\n")),
        ("\n<think></think>Hello", False, ("", "Hello")),
        ("Hello <think>no</think>", False, ("", "Hello <think>no</think>")),
        ("  Hello", False, ("", "  Hello")),
        ("<thin", False, ("", "<thin")),
        ("\n<thing>", False, ("", "\n<thing>")),
        ("", False, ("", "")),
        ("<think>a < b </thin k> c  d", False, ("a < b </thin k> c  d", "")),
        ("<think>cut off </th", False, ("cut off </th", "")),
        ("Well.\n</think>\nHello </think>", True, ("Well.", "Hello </think>")),
        ("\n<think>\nWell.</think>Hello", True, ("Well.", "Hello")),
        ("<thinking> of it</think>Hello", True, ("<thinking> of it", "Hello")),
        ("</think>Hello", True, ("", "Hello")),
        ("never ends", True, ("never ends", "")),
        ("<<think>x", False, ("", "<<think>x")),
        ("<think>a<</think>b", False, ("a<", "b")),
    ],
)
def test_reasoning_and_content(text: str, begun: bool, found: tuple[str, str]) -> None:
    assert split(text, begun=begun) == found
    assert split(*text, begun=begun) == found


@pytest.mark.parametrize("name", THINKING)
def test_every_kind_of_marks(name: str) -> None:
    marks = THINKING[name]
    assert split(f"{marks.opens} Well. {marks.closes} Hello", name=name) == ("Well.", "Hello")
    assert split(f"Well.\n{marks.closes}Hello", name=name, begun=True) == ("Well.", "Hello")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think>", "<th", " ", "\n", "a", "b c"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=5),
    st.booleans(),
)
def test_cuts_change_nothing_and_nothing_but_marks_and_space_is_lost(
    parts: list[str], cuts: list[int], begun: bool
) -> None:
    text = "".join(parts)
    whole = split(text, begun=begun)
    places = sorted(min(cut, len(text)) for cut in cuts)
    assert split(*(text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)), begun=begun) == whole

    def letters(of: str) -> str:
        return "".join(of.split())

    found = letters("".join(whole))
    kept = letters(text)
    for mark in ("<think>", "</think>"):
        if len(found) < len(kept):
            kept = kept.replace(mark, "", 1) if kept.replace(mark, "", 1) != kept else kept
    assert len(found) >= len(kept)


def test_where_a_prompt_ends() -> None:
    assert begins_in(THINK, "<|im_start|>assistant\n<think>\n")
    assert not begins_in(THINK, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not begins_in(THINK, "what does <think> mean?<|im_start|>assistant\n")
