"""What a step brings to those who wait: sampled tokens become deltas."""

from __future__ import annotations

from dataclasses import replace

from cutset.engine.outputs import Delta, FinishReason
from cutset.engine.request import Request
from cutset.engine.sampler import Choice
from cutset.engine.sequence import Sequence
from cutset.engine.step import Step
from cutset.errors import CutsetError, EngineError, LinkError, OffloadError, RequestError

__all__ = ["end_deltas", "replay_token", "take_scores", "token_delta", "why_no_token"]


def token_delta(sequence: Sequence, choice: Choice, now: float) -> Delta:
    """Appends a token to a sequence and says what that means. A finish_reason is the caller's to act on."""
    request, token_id = sequence.request, choice.token_id
    request.count_token(now)
    text, offset, finish_reason, stop_reason = _append(sequence, token_id)
    last = finish_reason is not None and request.unfinished == [sequence]
    return Delta(
        request_id=request.request_id,
        index=sequence.index,
        text=text,
        token_ids=(token_id,),
        finish_reason=finish_reason,
        stop_reason=stop_reason,
        logprobs=None if choice.logprob is None else (choice.logprob._replace(text_offset=offset),),
        finished=last,
        usage=request.usage if last else None,
        timings=request.timings if last else None,
        special=sequence.text.take_special(),
        prompt_logprobs=request.take_scores() if sequence.index == 0 else None,
        cached_tokens=(request.cached_tokens or 0) if request.generated == 1 else None,
    )


def replay_token(sequence: Sequence, token_id: int) -> bool:
    """Appends a token that was given out elsewhere; whether it ends its sample."""
    _, _, finish_reason, _ = _append(sequence, token_id)
    sequence.text.take_special()
    return finish_reason is not None


def take_scores(step: Step, choices: list[Choice | None]) -> list[Request]:
    """Takes what a step says of tokens of prompts, its last choices. Gives the requests whose logits are no numbers."""
    failed: list[Request] = []
    row = len(choices) - sum(count for _, count in step.scored)
    for place, count in step.scored:
        sequence, own = step.sequences[place], choices[row : row + count]
        row += count
        if sequence.epoch != step.epochs[place] or sequence.request.scores is None:
            continue
        found = [one.logprob for one in own if one is not None and one.logprob is not None]
        sequence.request.scores += found
        if len(found) < count:
            failed.append(sequence.request)
    return failed


def end_deltas(request: Request, error: BaseException | None) -> list[Delta]:
    """The last delta of each sample that goes on: its request was cancelled, or lost to an error."""
    shown: CutsetError | None = None
    if isinstance(error, LinkError | OffloadError | RequestError):  # says itself what was lost and what to do
        shown = error
    elif error is not None:
        why = str(error).rstrip(".") or type(error).__name__
        shown = EngineError(f"Request {request.request_id!r} was lost: {why}.")
        shown.__cause__ = error
    # Text that is held back stays back: it may be half a stop string.
    deltas = [Delta(request.request_id, one.index, finish_reason="abort", error=shown) for one in request.unfinished]
    deltas[-1] = replace(deltas[-1], finished=True, usage=request.usage, timings=request.timings)
    return deltas


def why_no_token(sequence: Sequence) -> CutsetError:
    """What ends a request for which nothing could be drawn."""
    if sequence.constraint is not None and sequence.constraint.failed:
        return RequestError(sequence.constraint.failed)
    return EngineError("its logits are not numbers, or all are masked")


def _append(sequence: Sequence, token_id: int) -> tuple[str, int, FinishReason | None, str | int | None]:
    sequence.append(token_id)
    sequence.sampler.observe(token_id)
    if sequence.constraint is not None:
        sequence.constraint.observe(token_id)
    return _extend_text(sequence, token_id)


def _extend_text(sequence: Sequence, token_id: int) -> tuple[str, int, FinishReason | None, str | int | None]:
    """What a sampled token does to the text of its sample.

    The text that it brings, where in the sample's text it begins, whether and why it ends the sample, and by which stop
    string or token. The token is already part of the sequence. A token that ends the sample shows only with
    include_stop_str_in_output.
    """
    request, stream = sequence.request, sequence.text
    params = request.params
    ends = token_id in request.end_ids
    may_stop = sequence.output_tokens > params.min_tokens
    text = ""
    shows = not ends or params.include_stop_str_in_output
    if shows:
        text = stream.push(token_id, may_stop=may_stop)
    complete = sequence.constraint is not None and sequence.constraint.ended
    last = ends or complete or sequence.known == sequence.limit
    if last and stream.found is None:
        text += stream.flush(may_stop=may_stop)
    offset = stream.begins if shows else stream.length
    if stream.found is not None:
        return text, offset, "stop", stream.found
    if ends:
        return text, offset, "stop", None if token_id in request.eos_ids else token_id
    if complete:  # its grammar has no more
        return text, offset, "stop", None
    return text, offset, "length" if last else None, None
