"""What an answer says of its prompt: the prompt itself, echoed, and how likely its tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cutset.engine.detokenizer import Detokenizer
from cutset.engine.outputs import TokenLogprob
from cutset.models.text.tokenizer import Tokenizer
from cutset.serve.logprobs import LEAST, TokenTexts, completion_logprobs

__all__ = ["Echo", "PromptReport", "Scores", "echo_of"]

Scores = Sequence[TokenLogprob | None]


class Echo(NamedTuple):
    """A prompt as it comes before an answer."""

    text: str
    ids: list[int]
    begins: list[int]  # characters of the text before each token; [] where nobody asks


class PromptReport(NamedTuple):
    """What a request wants to know of its prompts."""

    samples: int = 1  # of each prompt
    echoes: Sequence[Echo] = ()  # of each prompt, if they come before its answers
    echoed: int | None = None  # likeliest tokens that are reported in what is echoed; None: no log-probabilities
    listed: int | None = None  # the same in vLLM's `prompt_logprobs`
    alone: bool = False  # no answer is wanted

    def echo(self, choice: int) -> Echo | None:
        """What comes before the text of a choice."""
        return self.echoes[choice // self.samples] if self.echoes else None

    def logprobs(self, choice: int, scores: Scores, texts: TokenTexts) -> dict[str, Any] | None:
        """Those of what is echoed, as a completion has them; of the first token there is none."""
        echo = self.echo(choice)
        if echo is None or self.echoed is None:
            return None
        placed = [
            one._replace(text_offset=begin, top=one.top[: self.echoed])
            for one, begin in zip(scores, echo.begins, strict=True)
            if one is not None
        ]
        found = completion_logprobs(placed, texts)
        first = {"tokens": texts.of(echo.ids[0])[0], "text_offset": echo.begins[0]}
        return {name: [first.get(name), *values] for name, values in found.items()}

    def by_id(self, scores: Scores, texts: TokenTexts) -> list[dict[str, Any] | None]:
        """vLLM's `prompt_logprobs`: for each token but the first its own and the likeliest, by their ids."""
        return [None if one is None else _by_id(one, self.listed or 0, texts) for one in scores]


def _by_id(found: TokenLogprob, likeliest: int, texts: TokenTexts) -> dict[str, Any]:
    ranked = [(found.token_id, found.logprob, found.rank)]
    ranked += [(*top, rank) for rank, top in enumerate(found.top[:likeliest], 1) if top[0] != found.token_id]
    return {
        str(token_id): {"logprob": max(logprob, LEAST), "rank": rank, "decoded_token": texts.of(token_id)[0]}
        for token_id, logprob, rank in ranked
    }


def echo_of(
    tokenizer: Tokenizer, ids: list[int], given: str | None, *, skip_special_tokens: bool, begins: bool
) -> Echo:
    """A prompt's text: as it was `given`, or what its tokens say."""
    if not begins:
        return Echo(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) if given is None else given, ids, [])
    if given is None:
        return _decoded(tokenizer, ids, skip_special_tokens=skip_special_tokens)
    # Special tokens that are written out in a text are part of it; those that the tokenizer puts around it aren't.
    own = tokenizer.encode(given, add_special_tokens=False).tolist()
    before = next((at for at in range(len(ids) - len(own) + 1) if ids[at : at + len(own)] == own), 0)
    inner = _decoded(tokenizer, ids[before : before + len(own)], skip_special_tokens=False)
    after = len(ids) - before - len(own)
    starts = [0] * before + [min(begin, len(given)) for begin in inner.begins] + [len(given)] * after
    return Echo(given, ids, starts)


def _decoded(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool) -> Echo:
    stream, pieces, begins = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens), list[str](), list[int]()
    for token_id in ids:
        pieces.append(stream.push(token_id))
        begins.append(stream.begins)
    pieces.append(stream.flush())
    return Echo("".join(pieces), ids, begins)
