"""What comes out of the engine: pieces while a request runs, and the whole when it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from cutset.errors import CutsetError

__all__ = [
    "CompletionOutput",
    "Delta",
    "EngineStats",
    "FinishReason",
    "RequestOutput",
    "Timings",
    "TokenLogprob",
    "Usage",
    "clamp_offsets",
    "collect",
    "joined",
]

# stop: an end token, a stop token or a stop string. length: max_tokens or the end of the context. abort: cancelled.
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request. `cached_tokens` are those of the prompt that were not computed again."""

    prompt_tokens: int
    completion_tokens: int  # of all samples
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, and tokens a second. None where there was nothing to measure."""

    load_s: float | None = None  # loading the model; the engine doesn't know it, its caller may
    ttft_s: float | None = None  # from handing in the request to its first token
    prefill_tps: float | None = None  # prompt tokens that were computed, over the time of their steps
    decode_tps: float | None = None  # tokens after the first one, over the time since the first one


class TokenLogprob(NamedTuple):
    """Natural logarithm of a token's probability before penalties, temperature and filters."""

    token_id: int
    logprob: float
    rank: int  # 1 = likeliest; of equals the lower id comes first
    top: tuple[tuple[int, float], ...]  # the likeliest tokens (id, logprob), likeliest first; none that is impossible
    text_offset: int = 0  # characters of its sample's text before the token's


@dataclass(frozen=True, slots=True)
class Delta:
    """One sample of one request has moved on: a token more, its end, or both.

    `text` may be empty while a later token could change it (a character is incomplete, say) or a stop string may be
    coming. The texts of a sample, joined, are its text. The last delta of a request is `finished`, and has `usage` and
    `timings` unless the engine died.
    """

    request_id: str
    index: int  # which of the n samples
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None  # the stop string or the stop token that ended the sample
    logprobs: tuple[TokenLogprob, ...] | None = None
    finished: bool = False  # the request, all its samples
    usage: Usage | None = None
    timings: Timings | None = None
    error: CutsetError | None = None  # why the request was ended; then finish_reason is "abort"
    special: tuple[tuple[int, str], ...] = ()  # special tokens that show: where in the sample's text, and what
    # Of each token of the prompt, with the request's first token: nothing says how likely the first one is.
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_tokens: int | None = None  # of the prompt, with the request's first token


@dataclass(slots=True)
class CompletionOutput:
    """One sample. `token_ids` include the token that ended it; `text` doesn't, nor the stop string.

    `text` is what prompt and output, decoded together, have beyond the decoded prompt.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] | None = None


@dataclass(slots=True)
class RequestOutput:
    """A request and its samples."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    usage: Usage | None
    timings: Timings | None
    finished: bool
    prompt_logprobs: list[TokenLogprob | None] | None = None  # of each token of the prompt; None of the first one

    @property
    def text(self) -> str:
        """Text of the first sample."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first sample."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first sample ended."""
        return self.outputs[0].finish_reason


def clamp_offsets(logprobs: Iterable[TokenLogprob], length: int) -> list[TokenLogprob]:
    """Log-probabilities with offsets into a text of `length` characters: tokens that a stop string cut away begin at
    its end."""
    return [one if one.text_offset <= length else one._replace(text_offset=length) for one in logprobs]


def joined(deltas: Sequence[Delta]) -> Delta:
    """Pieces of one sample that follow each other, one at least, as one piece."""
    if len(deltas) == 1:
        return deltas[0]
    first, last = deltas[0], deltas[-1]
    scored = any(one.logprobs is not None for one in deltas)
    return Delta(
        first.request_id,
        first.index,
        "".join([one.text for one in deltas]),
        tuple(chain.from_iterable(one.token_ids for one in deltas)),
        last.finish_reason,
        last.stop_reason,
        tuple(chain.from_iterable(one.logprobs or () for one in deltas)) if scored else None,
        last.finished,
        last.usage,
        last.timings,
        last.error,
        tuple(chain.from_iterable(one.special for one in deltas)),
        first.prompt_logprobs,
        first.cached_tokens,
    )


def collect(
    request_id: str, deltas: Iterable[Delta], *, prompt: str | None = None, prompt_token_ids: Sequence[int] = ()
) -> RequestOutput:
    """Joins the deltas of one request, in the order in which they came. Raises the error that ended it, if one did."""
    outputs: dict[int, CompletionOutput] = {}
    texts: dict[int, list[str]] = {}
    usage, timings, finished = None, None, False
    prompt_logprobs: list[TokenLogprob | None] | None = None
    for delta in deltas:
        if delta.error is not None:
            raise delta.error
        if delta.prompt_logprobs is not None:
            prompt_logprobs = list(delta.prompt_logprobs)
        output = outputs.get(delta.index)
        if output is None:
            output = outputs[delta.index] = CompletionOutput(delta.index, "", [], None)
            texts[delta.index] = []
        texts[delta.index].append(delta.text)
        output.token_ids += delta.token_ids
        if delta.logprobs is not None:
            output.logprobs = output.logprobs or []
            output.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
        if delta.finished:
            usage, timings, finished = delta.usage, delta.timings, True
    for index, pieces in texts.items():
        output = outputs[index]
        output.text = "".join(pieces)
        if output.logprobs is not None:
            output.logprobs = clamp_offsets(output.logprobs, len(output.text))
    return RequestOutput(
        request_id=request_id,
        prompt=prompt,
        prompt_token_ids=[int(one) for one in prompt_token_ids],
        outputs=[outputs[index] for index in sorted(outputs)],
        usage=usage,
        timings=timings,
        finished=finished,
        prompt_logprobs=prompt_logprobs,
    )


class EngineStats(NamedTuple):
    """How the engine stands, and what it has done since it started."""

    running: int  # sequences
    waiting: int
    blocks: int
    blocks_free: int  # those kept for reuse too
    blocks_used: int
    prefix_queries: int  # prompt tokens that were looked up
    prefix_hits: int  # of these, tokens found
    stored_hits: int  # of these, tokens found on disk
    preemptions: int
    steps: int
    prompt_tokens: int  # computed in prefill, again after a preemption too
    generated_tokens: int
    in_flight: int = 0  # steps that are on their way through the stages
    losses: int = 0  # how often stages were lost, and what they held had to be computed again
    drafted_tokens: int = 0  # guessed by speculation, and judged
    accepted_tokens: int = 0  # of these, right
