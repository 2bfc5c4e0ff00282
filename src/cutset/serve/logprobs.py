"""Log-probabilities of tokens as OpenAI reports them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cutset.engine.outputs import TokenLogprob
from cutset.models.text.tokenizer import Tokenizer

__all__ = ["LEAST", "TokenTexts", "chat_logprobs", "completion_logprobs"]

LEAST = -9999.0  # OpenAI's stand-in for what is impossible; JSON has no infinity


class TokenTexts:
    """What a single token adds to a text, and its bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders of some vocabularies strip the space that a text begins with, so each token is decoded after another.
        self._anchor = tokenizer.encode("a", add_special_tokens=False).tolist()[-1:]
        self._before = tokenizer.decode(self._anchor, skip_special_tokens=False)
        self.of = lru_cache(1 << 16)(self._of)

    def _of(self, token_id: int) -> tuple[str, list[int]]:
        text = self._tokenizer.decode([*self._anchor, token_id], skip_special_tokens=False)[len(self._before) :]
        data = self._tokenizer.token_bytes(token_id)  # part of a character may be in them
        return text, list(text.encode() if data is None else data)


def chat_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts) -> dict[str, Any]:
    """`logprobs` of a chat choice."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, data = texts.of(token_id)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": data}

    content = [entry(one.token_id, one.logprob) | {"top_logprobs": [entry(*top) for top in one.top]} for one in found]
    return {"content": content, "refusal": None}


def completion_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts) -> dict[str, Any]:
    """`logprobs` of a completion choice."""
    lists: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in found:
        lists["tokens"].append(texts.of(one.token_id)[0])
        lists["token_logprobs"].append(max(one.logprob, LEAST))
        # Tokens that read alike are one key; the likeliest comes first and stays. What was drawn is always there.
        likeliest: dict[str, float] = {}
        for token_id, logprob in (*one.top, (one.token_id, one.logprob)):
            likeliest.setdefault(texts.of(token_id)[0], max(logprob, LEAST))
        lists["top_logprobs"].append(likeliest)
        lists["text_offset"].append(one.text_offset)
    return lists
