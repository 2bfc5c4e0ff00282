"""Reasoning that stands before an answer, between two marks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["THINKING", "ReasoningMarks", "ReasoningSplitter", "begins_in"]

SPACE = " \t\r\n"


@dataclass(frozen=True)
class ReasoningMarks:
    """What stands before reasoning, and after it."""

    opens: str
    closes: str


THINKING = {
    "think": ReasoningMarks("<think>", "</think>"),  # Qwen3, GLM, SmolLM3, OLMo 3, DeepSeek's distillations
    "mistral": ReasoningMarks("[THINK]", "[/THINK]"),
    "gemma4": ReasoningMarks("<|channel>thought\n", "<channel|>"),
    "granite": ReasoningMarks("Here is my thought process:", "Here is my response:"),
}


def begins_in(marks: ReasoningMarks, prompt: str) -> bool:
    """Whether the prompt ends within reasoning, so that the answer begins in it: its template has opened it."""
    return prompt.rstrip(SPACE).endswith(marks.opens.rstrip(SPACE))


class ReasoningSplitter:
    """Splits the reasoning off that an answer begins with. Spaces at the marks are nobody's.

    `begun`: the prompt has opened it. Marks that come later are part of the text.
    """

    def __init__(self, marks: ReasoningMarks, *, begun: bool = False) -> None:
        self._marks, self._begun = marks, begun
        self._state = "start"  # then "reasoning", "after", "content"
        self._space = self._part = ""

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """What has become certain: (whether it is reasoning, text)."""
        if self._state == "content":
            return [(False, text)] if text else []
        found: list[tuple[bool, str]] = []
        for at, character in enumerate(text):
            if self._state == "content":
                found.append((False, text[at:]))
                break
            self._step(character, found)
        return _joined(found)

    def end(self) -> list[tuple[bool, str]]:
        """What is left, as no more text comes."""
        found: list[tuple[bool, str]] = []
        if self._state == "start":
            found.append((self._begun, self._part if self._begun else self._space + self._part))
        elif self._part:  # half a mark
            found.append((True, self._space + self._part))
        self._space = self._part = ""
        return _joined(found)

    def _step(self, character: str, found: list[tuple[bool, str]]) -> None:
        if self._state == "after":
            if character not in SPACE:
                self._state = "content"
                found.append((False, character))
            return
        mark = self._marks.opens if self._state == "start" else self._marks.closes
        if not self._part and character in SPACE and not mark.startswith(character):
            self._space += character
            return
        self._part += character
        if self._part == mark:
            self._state = "reasoning" if self._state == "start" else "after"
            self._begun, self._space, self._part = True, "", ""
            self._first = True
            return
        if mark.startswith(self._part):
            return
        held, self._part = self._part, ""
        if self._state == "start" and not self._begun:
            self._state = "content"
            found.append((False, self._space + held))
            self._space = ""
            return
        if self._state == "start":  # opened by the prompt: the same characters, against the mark that closes it
            self._state, self._space, self._first = "reasoning", "", True
            for one in held:
                self._step(one, found)
            return
        # The first character is reasoning; the others may still begin a mark.
        if held[0] in SPACE:
            self._space += held[0]
        else:
            found.append((True, ("" if self._first else self._space) + held[0]))
            self._space, self._first = "", False
        for one in held[1:]:
            self._step(one, found)

    _first = True  # nothing of the reasoning has been given


def _joined(found: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    joined: list[tuple[bool, str]] = []
    for reasoning, text in found:
        if joined and joined[-1][0] == reasoning:
            joined[-1] = (reasoning, joined[-1][1] + text)
        elif text:
            joined.append((reasoning, text))
    return joined
