"""Logits in, tokens out.

What is drawn for a sequence depends on its own logits, parameters, seed and position alone, not on who shares the
batch. Everything between logits and token is in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cutset.engine.bits import Bits, allowed_flags, allowed_ids
from cutset.engine.constraint import RowMasks
from cutset.engine.oblivious_sampler import draw_obliviously
from cutset.engine.outputs import TokenLogprob
from cutset.engine.params import SamplingParams
from cutset.engine.token_history import TokenHistory

__all__ = ["Choice", "SamplerState", "Scores", "TokenSampler", "choose", "kept_tokens", "score", "uniform"]


ALWAYS = 2**31 - 1  # tokens


class Choice(NamedTuple):
    """A token, and its logprob where the request asked for it."""

    token_id: int
    logprob: TokenLogprob | None


class Scores(NamedTuple):
    """What is asked of rows whose next token is given: how likely that is."""

    tokens: NDArray[np.int32]  # (rows,)
    likeliest: NDArray[np.int32]  # (rows,) how many of the likeliest tokens are reported beside it


class SamplerState(NamedTuple):
    """What a TokenSampler has beside its parameters when it draws: by it, another one draws the same token."""

    key: int  # of 128 bits
    masked: NDArray[np.integer]  # ids that can't be drawn now
    history: TokenHistory | None  # prompt and output, where a penalty needs them
    until: int = ALWAYS  # tokens, the prompt's included, from which on `masked` can be drawn
    biased: NDArray[np.integer] | None = None  # ids whose logits get
    biases: NDArray[np.float64] | None = None  # these added


@lru_cache(maxsize=256)  # an item is restored at every step of a sequence, and checking takes a while
def _restored_params(**params: Any) -> SamplingParams:
    return SamplingParams(**params, max_tokens=None)


class TokenSampler:
    """Draws the tokens of one sequence. Remembers which tokens it has seen, if a penalty needs it."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,  # taken modulo 2**64
        index: int,  # which of the n samples
        vocab_size: int,
        prompt_ids: NDArray[np.int32],  # (prompt,)
        end_ids: Iterable[int] = (),  # tokens that are masked until there are min_tokens
    ) -> None:
        self.params = params
        self.prompt_tokens = len(prompt_ids)
        self._key = (seed % 2**64) | index << 64
        self._end_ids = np.array(sorted(end_ids), dtype=np.intp)
        self.history: TokenHistory | None = None  # where a penalty needs it
        if params.penalises:
            seen, counts = params.penalises_seen, params.penalises_output
            self.history = TokenHistory(vocab_size, prompt_ids.tolist(), seen=seen, counts=counts)
        biases = params.logit_bias or {}
        self._biased: NDArray[np.integer] | None = None
        self._biases: NDArray[np.float64] | None = None
        if biases:
            self._biased = np.fromiter(biases.keys(), np.intp, len(biases))
            self._biases = np.fromiter(biases.values(), np.float64, len(biases))

    def state(self, known: int) -> SamplerState:
        """What the next draw depends on, after `known` tokens."""
        masked = self._end_ids[: None if self._masks(known) else 0]
        until = min(ALWAYS, self.prompt_tokens + self.params.min_tokens)
        until = until if len(masked) else 0
        return SamplerState(self._key, masked, self.history, until, self._biased, self._biases)

    @classmethod
    def restored(cls, state: SamplerState, **params: Any) -> Self:
        """A sampler for the next draw, and those of drafts behind it, by SamplingParams of these values.

        Raises RequestError.
        """
        sampler = cls(
            _restored_params(min_tokens=state.until if len(state.masked) else 0, **params),
            seed=state.key % 2**64,
            index=state.key >> 64,
            vocab_size=0,  # what was seen is given
            prompt_ids=np.empty(0, np.int32),
            end_ids=state.masked.tolist(),
        )
        sampler.history = state.history
        sampler._biased, sampler._biases = state.biased, state.biases
        return sampler

    def plain(self, known: int) -> bool:
        """The next token is the likeliest, as the logits are. `known` tokens are there, the prompt's included."""
        return self.params.greedy and self.history is None and self._biased is None and not self._masks(known)

    def ahead(self) -> TokenSampler:
        """One that can observe tokens that aren't certain yet: this one won't know of them."""
        if self.history is None:
            return self
        made = copy(self)
        made.history = self.history.ahead()
        return made

    def observe(self, token_id: int) -> None:
        """The token has become part of the output."""
        if self.history is not None:
            self.history.append(token_id)

    def draw(self, logits: NDArray[np.float32], known: int, mask: Bits | None = None) -> int | None:
        """The next token for logits (vocab,), given `known` tokens, or None if the logits are no numbers.

        `mask` says which tokens may come, where not all may.
        """
        adjusted, params = self._adjust(logits, known), self.params
        allowed = None
        if mask is not None and params.greedy:
            adjusted = np.where(allowed_flags(mask, len(logits)), adjusted, -np.inf)
        elif mask is not None:
            allowed = allowed_ids(mask, len(logits))
            if not len(allowed):
                return None
            adjusted = adjusted[allowed]
        drawn = int(adjusted.argmax())  # the first NaN, if there is one
        if not np.isfinite(adjusted[drawn]):
            return None
        if not params.greedy:
            ids, weights = kept_tokens(
                adjusted, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p
            )
            sums = np.cumsum(weights)
            drawn = int(np.searchsorted(sums, uniform(self._key, known) * sums[-1], side="right"))
            drawn = drawn if ids is None else int(ids[drawn])
        return drawn if allowed is None else int(allowed[drawn])

    def draw_obliviously(self, logits: NDArray[np.float32], known: int, mask: Bits | None = None) -> int | None:
        """As `draw`, without an address or a branch that depends on the logits."""
        adjusted, params = self._adjust_obliviously(logits, known), self.params
        if mask is not None:
            adjusted = np.where(allowed_flags(mask, len(logits)), adjusted, -np.inf)
        number = 0.0 if params.greedy else uniform(self._key, known)
        found = draw_obliviously(
            adjusted,
            number,
            temperature=0.0 if params.greedy else params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
        )
        return found if found >= 0 else None

    def _adjust_obliviously(self, logits: NDArray[np.float32], known: int) -> NDArray[np.floating]:
        """As `_adjust`: every element is read and written, whatever was seen before."""
        if self.history is None and not self._masks(known) and self._biased is None:
            return logits
        row, history, params = logits.astype(np.float64), self.history, self.params
        if history is not None and history.seen is not None:
            penalty = params.repetition_penalty
            row = np.where(history.seen, np.where(row > 0, row / penalty, row * penalty), row)
        if history is not None and history.counts is not None:
            taken = params.frequency_penalty * history.counts + params.presence_penalty
            row = np.where(history.counts > 0, row - taken, row)
        if self._biased is not None and self._biases is not None:
            row[self._biased] += self._biases
        if self._masks(known):
            row[self._end_ids] = -np.inf
        return row

    def _masks(self, known: int) -> bool:
        return known - self.prompt_tokens < self.params.min_tokens and self._end_ids.size > 0

    def _adjust(self, logits: NDArray[np.float32], known: int) -> NDArray[np.floating]:
        masks, history = self._masks(known), self.history
        if history is None and not masks and self._biased is None:
            return logits
        row = logits.astype(np.float64)
        if history is not None and history.seen is not None:
            seen = np.flatnonzero(history.seen)
            penalty, values = self.params.repetition_penalty, row[seen]
            row[seen] = np.where(values > 0, values / penalty, values * penalty)
        if history is not None and history.counts is not None:
            counted = np.flatnonzero(history.counts)
            row[counted] -= self.params.frequency_penalty * history.counts[counted] + self.params.presence_penalty
        if self._biased is not None and self._biases is not None:
            row[self._biased] += self._biases
        if masks:
            row[self._end_ids] = -np.inf
        return row


def uniform(key: int, position: int) -> float:
    """A number in [0, 1) that depends on the key (128 bits) and the position only (Philox 4x64, Salmon et al. 2011)."""
    return float(int(np.random.Philox(key=key, counter=position).random_raw()) >> 11) * 2.0**-53


def kept_tokens(
    logits: NDArray[np.floating], *, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[NDArray[np.intp] | None, NDArray[np.float64]]:
    """Ids, ascending (None: all), and weights of the tokens that may be drawn, for logits (vocab,) and temperature > 0.

    Of equally likely tokens the lower ids are kept. At least one token is kept.
    """
    vocab = len(logits)
    ids: NDArray[np.intp] | None = None
    if 0 < top_k < vocab:
        ids = _largest(logits, top_k)
        logits = logits[ids]
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()
    with np.errstate(over="ignore", under="ignore"):  # a temperature near 0 leaves the likeliest alone
        scaled /= temperature
        weights = np.exp(scaled)
    if min_p > 0:
        kept = np.flatnonzero(weights >= min_p)  # the likeliest weighs 1
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    if top_p < 1:
        kept = _nucleus(weights, top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    return ids, weights


def _largest(values: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    return _from(values, np.partition(values, len(values) - count)[len(values) - count], count)


def _from(values: NDArray[np.floating], smallest: float, count: int) -> NDArray[np.intp]:
    """The indices, ascending, of the `count` largest values, the last of which is `smallest`."""
    kept = values > smallest
    equals = np.flatnonzero(values == smallest)
    kept[equals[: count - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    probabilities = weights / weights.sum()
    # Tokens below this threshold add up to less than 1 - top_p, so the set is found among the others. Values alone are
    # sorted, which is many times faster than a stable sort of indices.
    likely = probabilities[probabilities > (1 - top_p) / (2 * len(weights))]
    likely = np.sort(likely)[::-1]
    last = min(int(np.searchsorted(np.cumsum(likely), top_p)), len(likely) - 1)
    return _from(probabilities, likely[last], last + 1)


def choose(
    logits: NDArray[np.float32],
    samplers: Sequence[TokenSampler],
    known: Sequence[int],
    drafts: Sequence[Sequence[int]] = (),
    masks: Sequence[RowMasks | None] = (),
    *,
    oblivious: bool = False,
) -> list[Choice | None]:
    """The next token of each sequence: logits (sequences, vocab), its sampler, and how many tokens it has.

    None where the logits are NaN, infinite or all masked: sampling from them would give nonsense.

    `masks` has RowMasks for each sequence, or there are none at all: what may be drawn in its rows, None for anything.
    For a row without a mask of its own there is None.

    A sequence with drafts (one list for each sequence, or none at all) has a row more for each: logits (rows, vocab).
    Behind drafts that are what is drawn, the next token is drawn as if they were known; for the rows behind the first
    that isn't there is None. There is a choice for every row.

    `oblivious`: no address depends on the logits, and no branch but whether there is a token; see `oblivious_sampler`.
    """
    best = None if oblivious else logits.argmax(axis=1)
    choices: list[Choice | None] = []
    row = 0
    for place, (sampler, length) in enumerate(zip(samplers, known, strict=True)):
        own = masks[place] if masks else None
        choice = _choice(logits[row], None if best is None else int(best[row]), sampler, length, own, 0)
        choices.append(choice)
        row += 1
        if not drafts or not drafts[place]:
            continue
        ahead = sampler.ahead()
        for number, draft in enumerate(drafts[place], 1):
            if choice is None or choice.token_id != draft:
                choice = None
            else:
                ahead.observe(draft)
                likeliest = None if best is None else int(best[row])
                choice = _choice(logits[row], likeliest, ahead, length + number, own, number)
            choices.append(choice)
            row += 1
    return choices


def score(logits: NDArray[np.float32], scores: Scores) -> list[Choice | None]:
    """The given tokens, and how likely each is by its row of logits (rows, vocab). None where these are no numbers."""
    each = zip(logits, scores.tokens.tolist(), scores.likeliest.tolist(), strict=True)
    return [Choice(token, _logprob(row, token, most)) if np.isfinite(row.max()) else None for row, token, most in each]


def _choice(
    logits: NDArray[np.float32],
    likeliest: int | None,  # None: nothing is known of the row, and is to be found obliviously
    sampler: TokenSampler,
    known: int,
    masks: RowMasks | None,  # of the sequence's rows
    number: int,  # which of them it is
) -> Choice | None:
    token: int | None
    if likeliest is not None and not np.isfinite(logits[likeliest]):  # argmax stops at a NaN
        return None
    plain = sampler.plain(known)
    if likeliest is None:
        mask = None if masks is None else masks.row(number)
        missing = masks is not None and mask is None
        token = None if missing else sampler.draw_obliviously(logits, known, mask)
    elif masks is None:
        token = likeliest if plain else sampler.draw(logits, known)
    elif plain and masks.allows(number, likeliest):
        token = likeliest
    else:
        mask = masks.row(number)
        token = None if mask is None else sampler.draw(logits, known, mask)
    if token is None:
        return None
    wanted = sampler.params.logprobs
    return Choice(token, None if wanted is None else _logprob(logits, token, wanted))


def _logprob(logits: NDArray[np.float32], token_id: int, wanted: int) -> TokenLogprob:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    own = logits[token_id]
    rank = 1 + np.count_nonzero(logits > own) + np.count_nonzero(logits[:token_id] == own)
    likeliest = _largest(logits, min(wanted, len(logits))) if wanted else np.empty(0, dtype=np.intp)
    likeliest = likeliest[np.argsort(-logits[likeliest], kind="stable")]
    top = tuple((int(one), float(values[one])) for one in likeliest if values[one] > -np.inf)
    return TokenLogprob(token_id, float(values[token_id]), int(rank), top)
