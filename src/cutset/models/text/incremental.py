"""Text of tokens as they come, without decoding what came before again.

A decoder of the tokenizers library is a chain of steps that each see all tokens at once. Here every step gives out what
no later token can change and keeps the rest as its state: half a character, a run of byte tokens (which is text as a
whole or not at all), a space that cleaning may take away. So joined pieces are what the library says of all tokens.
"""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, cast

from cutset.models.text.tokenizer_files import from_rust

if TYPE_CHECKING:
    from tokenizers.decoders import Decoder

__all__ = ["BYTE_CHARACTERS", "DecodingSteps", "IncrementalDecoder"]

# What comes after these tokens: more of them; nothing, as far as is known; nothing.
Until = Literal["more", "now", "end"]
_Run = tuple[str, bytes] | None
REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2}|\\+[0-9A-Fa-f])>")  # Rust reads a sign too


def _byte_characters() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTE_CHARACTERS = _byte_characters()


class _Step:
    """One step of a decoder. It has no state of its own: `run` takes one, never changes it, and gives the next."""

    start: Any = None

    def run(self, state: Any, tokens: list[str], until: Until) -> tuple[Any, list[str]]:
        """The state after these tokens, and what goes on to the next step."""
        raise NotImplementedError

    def half(self, state: Any) -> bytes:
        """The beginning of a character."""
        return b""


class _Cached(dict[str, str]):
    def __init__(self, make: Callable[[str], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, token: str) -> str:
        with from_rust("the tokenizer failed to decode"):
            made = self[token] = self._make(token)
        return made


class _Each(_Step):
    """A step of the library that looks at one token at a time, and at most at whether it is the first one."""

    start = False  # a token has come

    def __init__(self, decoder: Decoder, *, positional: bool) -> None:
        def alone(token: str) -> str:
            return str(decoder.decode([token]))

        def after(token: str) -> str:
            return str(decoder.decode(["a", token]))[len(alone("a")) :]

        self.first = _Cached(alone)
        self.later = _Cached(after) if positional else self.first

    def run(self, state: bool, tokens: list[str], until: Until) -> tuple[bool, list[str]]:
        if state:
            return True, [self.later[token] for token in tokens]
        return bool(tokens), [self.later[t] if i else self.first[t] for i, t in enumerate(tokens)]


class _Spaces(_Step):
    """No decoder at all: tokens with spaces between."""

    start = False

    def run(self, state: bool, tokens: list[str], until: Until) -> tuple[bool, list[str]]:
        return state or bool(tokens), [f" {token}" if i or state else token for i, token in enumerate(tokens)]


class _ByteTokens(_Step):
    """ByteFallback: a run of tokens like `<0x0A>` is one text if it is UTF-8, otherwise U+FFFD for every byte."""

    start = ("", b"")  # text of the run, bytes of a character that isn't complete; None: the run is no text

    def run(self, state: _Run, tokens: list[str], until: Until) -> tuple[_Run, list[str]]:
        given: list[str] = []
        run = bytearray()
        for token in tokens:
            byte = byte_of(token)
            if byte is not None:
                run.append(byte)
                continue
            if run or state != self.start:
                state, bad = self._extended(state, run)
                given += [*bad, *self._ended(state)]
                state, run = self.start, bytearray()
            given.append(token)
        if run:
            state, bad = self._extended(state, run)
            given += bad
        if until == "end":
            given += self._ended(state)
        elif until == "now" and state is not None and state[0]:
            given.append(state[0])
        return state, given

    def half(self, state: _Run) -> bytes:
        return b"" if state is None else state[1]

    @staticmethod
    def _extended(state: _Run, run: bytearray) -> tuple[_Run, list[str]]:
        """The state after more bytes, and what has become certain: that nothing of the run is text."""
        if state is None:
            return None, [REPLACEMENT] * len(run)
        text, half = state[0], state[1] + run
        try:
            more, used = utf_8_decode(half, "strict", False)
        except UnicodeDecodeError:
            return None, [REPLACEMENT] * (len(text.encode()) + len(half))
        return (text + more, half[used:]), []

    @staticmethod
    def _ended(state: _Run) -> list[str]:
        if state is None:
            return []
        text, half = state
        if half:
            return [REPLACEMENT] * (len(text.encode()) + len(half))
        return [text] if text else []


class _Bytes(_Step):
    """ByteLevel: the characters of tokens are bytes, and all bytes together the text."""

    start = b""  # the beginning of a character

    def __init__(self) -> None:
        self._bytes: dict[str, bytes] = {}

    def bytes_of(self, token: str) -> bytes:
        """A token with another character in it is what it looks like."""
        found = self._bytes.get(token)
        if found is None:
            known = all(one in BYTE_CHARACTERS for one in token)
            found = bytes(BYTE_CHARACTERS[one] for one in token) if known else token.encode()
            self._bytes[token] = found
        return found

    def half(self, state: bytes) -> bytes:
        return state

    def run(self, state: bytes, tokens: list[str], until: Until) -> tuple[bytes, list[str]]:
        data = state + b"".join([self.bytes_of(token) for token in tokens])
        text, used = utf_8_decode(data, "replace", until == "end")
        return data[used:], [text] if text else []


class _Suffix(_Step):
    """BPEDecoder: a suffix ends a word, and so is a space before any other token."""

    start = None  # the last token

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix

    def run(self, state: str | None, tokens: list[str], until: Until) -> tuple[str | None, list[str]]:
        held = [*([] if state is None else [state]), *tokens]
        if not held:
            return None, []
        given = [token.replace(self._suffix, " ") for token in held[:-1]]
        return held[-1], given if until == "more" else [*given, held[-1].replace(self._suffix, "")]


class _Replace(_Step):
    """Replaces a string in what is one text by now."""

    start = ""  # the end of the text, which may be the beginning of the string

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def run(self, state: str, tokens: list[str], until: Until) -> tuple[str, list[str]]:
        parts = (state + "".join(tokens)).split(self.old)
        last = parts[-1]
        held = 0 if until != "more" else self._begun(last)
        parts[-1] = last[: len(last) - held]
        return last[len(last) - held :], [self.new.join(parts)]

    def _begun(self, text: str) -> int:
        for length in range(min(len(text), len(self.old) - 1), 0, -1):
            if self.old.startswith(text[-length:]):
                return length
        return 0


class _Strip(_Step):
    """Takes a character away at both ends of what is one text by now, a limited number of times."""

    def __init__(self, content: str, left: int, right: int) -> None:
        self._content, self.right = content, right
        self.start = (left, 0)  # how often it may still be taken away, how often the text ends in it

    def run(self, state: tuple[int, int], tokens: list[str], until: Until) -> tuple[tuple[int, int], list[str]]:
        left, held = state
        text = self._content * held + "".join(tokens)
        while left and text:
            left, text = (left - 1, text[1:]) if text.startswith(self._content) else (0, text)
        bare = text.rstrip(self._content)
        held = min(len(text) - len(bare), self.right)
        return (left, held), [text[: len(text) - held]]


class _All(_Step):
    """Steps that look at everything at once: all is kept, and decoded where the text ends."""

    start: tuple[str, ...] = ()

    def __init__(self, decoder: Decoder, *, joined: bool) -> None:
        self._decoder, self._joined = decoder, joined

    def run(self, state: tuple[str, ...], tokens: list[str], until: Until) -> tuple[tuple[str, ...], list[str]]:
        state = (*state, *tokens)
        if until == "more" or not state:
            return state, []
        with from_rust("the tokenizer failed to decode"):
            return state, [self._decoder.decode(["".join(state)] if self._joined else list(state))]


def byte_of(token: str) -> int | None:
    """The byte that a token like `<0x0A>` stands for."""
    if not token.startswith("<0x"):
        return None
    found = BYTE_TOKEN.fullmatch(token)
    return None if found is None else int(found[1], 16)


class DecodingSteps:
    """The steps of a decoder, and of the cleaning after it, for all texts of a tokenizer.

    `decoder` is the library's, None if the tokenizer has none. `cleanups` are strings and what replaces them, in order.
    """

    def __init__(self, decoder: Decoder | None, cleanups: Iterable[tuple[str, str]] = ()) -> None:
        self.steps: list[_Step] = [_Spaces()] if decoder is None else _steps_of(decoder)
        self.steps += [_Replace(old, new) for old, new in cleanups]

    def bytes_of(self, token: str) -> bytes | None:
        """The bytes that a token stands for, None where it stands for a text."""
        for step in self.steps:
            if isinstance(step, _Bytes):
                return step.bytes_of(token)
            if isinstance(step, _ByteTokens):
                byte = byte_of(token)
                return None if byte is None else bytes([byte])
            if not isinstance(step, _Each):
                return None
            token = step.later[token]
        return None

    @property
    def additive(self) -> bool:
        """A text is what its tokens add to it, each by itself, whatever is beside them."""
        bytes_there = False
        for step in self.steps:
            if isinstance(step, _Strip) and not step.right:  # takes away no more than a text's beginning
                continue
            each = isinstance(step, _Each | _Spaces) or (isinstance(step, _Replace) and len(step.old) == 1)
            if bytes_there or not (each or isinstance(step, _Bytes | _ByteTokens)):
                return False
            bytes_there = not each
        return True

    def written(self, token: str) -> bytes:
        """What a token adds to a text behind another one, where that is `additive`."""
        for step in self.steps:
            if isinstance(step, _Bytes):
                return step.bytes_of(token)
            if isinstance(step, _ByteTokens) and (byte := byte_of(token)) is not None:
                return bytes([byte])
            if isinstance(step, _Each):
                token = step.later[token]
            elif isinstance(step, _Spaces):
                token = f" {token}"
            elif isinstance(step, _Replace):
                token = token.replace(step.old, step.new)
        return token.encode()


def _steps_of(decoder: Decoder) -> list[_Step]:
    # The library tells what its decoders are made of in the state that it would pickle, which is JSON.
    listed = _flat(json.loads(cast(Any, decoder).__getstate__()))
    steps: list[_Step] = []
    joined = False  # what comes to the next step is one text, in pieces
    for place, state in enumerate(listed):
        kind = state["type"]
        if kind == "Fuse":
            joined = True
        elif kind == "ByteLevel" and not joined:
            steps.append(_Bytes())
            joined = True
        elif kind in ("Replace", "Strip", "Metaspace", "WordPiece") and not joined:
            steps.append(_Each(_library([state]), positional=kind in ("Metaspace", "WordPiece")))
        elif kind == "ByteFallback" and not joined:
            steps.append(_ByteTokens())
        elif kind == "BPEDecoder" and not joined:
            steps.append(_Suffix(state["suffix"]))
        elif kind == "Replace" and state["pattern"].get("String"):
            steps.append(_Replace(state["pattern"]["String"], state["content"]))
        elif kind == "Strip":
            steps.append(_Strip(state["content"], state["start"], state["stop"]))
        else:
            return [*steps, _All(_library(listed[place:]), joined=joined)]
    return steps


def _flat(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [dict(state)]
    return [step for part in state["decoders"] for step in _flat(part)]


def _library(states: Sequence[Mapping[str, Any]]) -> Decoder:
    from tokenizers import decoders

    made: Any = decoders.Sequence([])
    made.__setstate__(json.dumps({"type": "Sequence", "decoders": list(states)}).encode())
    return cast("Decoder", made)


class IncrementalDecoder:
    """One text while its tokens come. The pieces that `push` gave and then `rest` are the text of all tokens."""

    def __init__(self, steps: DecodingSteps, texts: Callable[[Iterable[int]], list[str]]) -> None:
        """`texts` gives the tokens that show, as the library writes them."""
        self._bytes_of = steps.bytes_of
        self._steps = steps.steps
        self._texts = texts
        self._states = tuple(step.start for step in self._steps)

    def push(self, ids: Iterable[int]) -> str:
        """The text that has become certain with these tokens: no later one can change it. RequestError as `decode`."""
        self._states, text = self._run(self._texts(ids), "more")
        return text

    def so_far(self) -> str:
        """What would follow if no token came any more, but for the half of a character."""
        return self._run([], "now")[1]

    def rest(self) -> str:
        """What follows if no token comes any more."""
        return self._run([], "end")[1]

    def completes(self, token_id: int) -> bool:
        """Whether this token would go on with a character that is half there."""
        half = next(filter(None, (step.half(one) for step, one in zip(self._steps, self._states, strict=True))), b"")
        begins = b"".join(self._bytes_of(text) or b"" for text in self._texts((token_id,)) if half)[:1]
        try:
            utf_8_decode(half + begins, "strict", False)
        except UnicodeDecodeError:
            return False
        return bool(begins)

    def copy(self) -> IncrementalDecoder:
        """Another one that has got the same tokens."""
        return copy(self)

    def _run(self, tokens: list[str], until: Until) -> tuple[tuple[Any, ...], str]:
        states = []
        for step, state in zip(self._steps, self._states, strict=True):
            after, tokens = step.run(state, tokens, until)
            states.append(after)
        return tuple(states), "".join(tokens)
