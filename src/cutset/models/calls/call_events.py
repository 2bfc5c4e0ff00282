"""What is found in an answer's text."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ArgumentsPiece", "CallBegin", "CallBroken", "CallEnd", "ContentPiece", "Event", "ReasoningPiece"]


@dataclass(frozen=True, slots=True)
class ContentPiece:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """Text that the model wrote before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A tool is called; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """Some of the arguments of the call that has begun. Joined, those of a call are a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call that has begun is complete."""


@dataclass(frozen=True, slots=True)
class CallBroken:
    """The call that has begun is none after all: it goes on otherwise than a call does, or never ends. `text` is what
    the model wrote of it, which is content."""

    text: str


Event = ContentPiece | ReasoningPiece | CallBegin | ArgumentsPiece | CallEnd | CallBroken
