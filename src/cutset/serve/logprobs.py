"""Log-probabilities of tokens as OpenAI reports them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cutset.engine.outputs import TokenLogprob
from cutset.models.tokenizer import Tokenizer

__all__ = ["TokenTexts", "chat_logprobs", "completion_logprobs"]

LEAST = -9999.0  # OpenAI's stand-in for what is impossible; JSON has no infinity


def _byte_table() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _byte_table()


class TokenTexts:
    """What a single token adds to a text, and its bytes where they are known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders of some vocabularies strip the space that a text begins with, so each token is decoded after another.
        self._anchor = tokenizer.encode("a", add_special_tokens=False).tolist()[-1:]
        self._before = tokenizer.decode(self._anchor, skip_special_tokens=False)
        self.of = lru_cache(1 << 16)(self._of)

    def _of(self, token_id: int) -> tuple[str, list[int] | None]:
        text = self._tokenizer.decode([*self._anchor, token_id], skip_special_tokens=False)[len(self._before) :]
        if "\ufffd" not in text:
            return text, list(text.encode())
        piece = self._tokenizer.token(token_id)  # part of a character
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):
            return text, [int(byte[1], 16)]
        return text, [BYTES[one] for one in piece] if all(one in BYTES for one in piece) else None


def chat_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts) -> dict[str, Any]:
    """`logprobs` of a chat choice."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, data = texts.of(token_id)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": data}

    content = [entry(one.token_id, one.logprob) | {"top_logprobs": [entry(*top) for top in one.top]} for one in found]
    return {"content": content, "refusal": None}


def completion_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts, offset: int) -> tuple[dict[str, Any], int]:
    """`logprobs` of a completion choice whose text so far has `offset` characters, and the offset after it."""
    told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in found:
        text = texts.of(one.token_id)[0]
        told["tokens"].append(text)
        told["token_logprobs"].append(max(one.logprob, LEAST))
        # Tokens that read alike are one key; the likeliest comes first and stays. What was drawn is always there.
        likeliest: dict[str, float] = {}
        for token_id, logprob in (*one.top, (one.token_id, one.logprob)):
            likeliest.setdefault(texts.of(token_id)[0], max(logprob, LEAST))
        told["top_logprobs"].append(likeliest)
        told["text_offset"].append(offset)
        offset += len(text)
    return told, offset
