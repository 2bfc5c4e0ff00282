"""From what a caller hands in to a request that can be run."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.engine.bits import bits_of
from cutset.engine.blocks import root_digest
from cutset.engine.constraint import Constraint, Restriction
from cutset.engine.deltas import replay_token
from cutset.engine.detokenizer import Detokenizer, StreamingTokenizer
from cutset.engine.grammar_compiler import GrammarCompiler
from cutset.engine.params import SamplingParams
from cutset.engine.request import Request
from cutset.engine.resumption import Resumption
from cutset.engine.sampler import TokenSampler
from cutset.engine.sequence import Sequence
from cutset.errors import ConfigError, ContextLengthError, RequestError
from cutset.models.run.executor import LoadedAdapter

__all__ = ["check_fits", "check_ids", "check_prompt", "check_sizes", "open_request", "restriction_of", "truncated"]


def check_sizes(
    blocks: int,
    block_size: int,
    max_batch_tokens: int,
    max_num_seqs: int,
    max_model_len: int | None,
    longest: int,
) -> None:
    """Raises ConfigError for sizes that no engine can have."""
    for name, value in (("blocks", blocks), ("block_size", block_size), ("max_num_seqs", max_num_seqs)):
        if value < 1:
            raise ConfigError(f"{name}={value} can't be used: give 1 or more.")
    if max_batch_tokens < max_num_seqs:
        raise ConfigError(
            f"max_batch_tokens={max_batch_tokens} can't be used: each of max_num_seqs={max_num_seqs} needs a row."
        )
    if max_model_len is not None and not 2 <= max_model_len <= longest:
        raise ConfigError(f"max_model_len={max_model_len} can't be used: give 2 to {longest}, the most for this model.")


def check_ids(
    name: str, ids: Any, vocab_size: int, without_token: NDArray[np.bool_] | None = None
) -> NDArray[np.int32]:
    """Token ids as (tokens,) int32. Raises RequestError, which starts with `name`, if the vocabulary lacks one.

    `without_token` (vocab,) says of each id whether the tokenizer has none for it; such ids are refused too.
    """
    try:
        array = np.asarray(ids)
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{name} must be a flat list of token ids: {error}.") from error
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RequestError(f"{name} must be a flat list of token ids, not {array.ndim}-dimensional {array.dtype}.")
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
        raise RequestError(
            f"{name} has the token id {wrong[0]}, outside the vocabulary: ids go from 0 to {vocab_size - 1}."
        )
    if without_token is not None and (wrong := array[without_token[array]]).size:
        raise RequestError(f"{name} has the token id {wrong[0]}, for which the tokenizer has no token: leave it out.")
    return array.astype(np.int32)


def check_prompt(
    prompt_ids: Any,
    params: SamplingParams,
    *,
    without_token: NDArray[np.bool_],  # (vocab,) ids for which the tokenizer has none
    longest: int,  # tokens of prompt and answer
) -> NDArray[np.int32]:
    """A prompt as (tokens,) int32, truncated where `params` say so. Raises RequestError for ids outside the vocabulary
    or without a token, those of `params` included."""
    vocab_size = len(without_token)
    ids = truncated(check_ids("The prompt", prompt_ids, vocab_size, without_token), params, longest)
    check_ids("stop_token_ids", params.stop_ids, vocab_size)
    check_ids("logit_bias", list(params.logit_bias or ()), vocab_size)
    return ids


def restriction_of(
    params: SamplingParams,
    grammars: GrammarCompiler | None,  # None: there is no vocabulary for grammars and words
    without_token: NDArray[np.bool_],  # (vocab,) ids for which the tokenizer has none
) -> Restriction:
    """What `params` leave of the vocabulary. Raises RequestError for a grammar that can't be kept, and ids outside."""
    allowed, grammar, words, vocab_size = None, None, list[list[int]](), len(without_token)
    if params.allowed_token_ids is not None:
        found = check_ids("allowed_token_ids", params.allowed_token_ids, vocab_size, without_token)
        allowed = bits_of(found.tolist(), vocab_size)
    if params.grammar is not None or params.bad_words:
        if grammars is None:
            raise RequestError("This engine was made without a vocabulary for grammars and bad_words.")
        grammar = None if params.grammar is None else grammars.compile(params.grammar)
        words = grammars.spellings(tuple(params.bad_words or ()))
    return Restriction(grammar, allowed, words)


def check_fits(prompt_tokens: int, *, context: int, cache: int) -> None:
    """Raises RequestError for no tokens, ContextLengthError if the prompt and one token more fit nowhere.

    `context` is what the model can see and `cache` what all blocks hold, in tokens.
    """
    if prompt_tokens == 0:
        raise RequestError("The prompt is empty: give at least one token.")
    limit = min(context, cache)
    excess = prompt_tokens + 1 - limit
    if excess <= 0:
        return
    if cache < context:
        where, remedy = f"the KV cache holds {cache}", "Shorten it, or give the cache more blocks."
    else:
        where, remedy = f"the context holds {context}", "Shorten it."
    raise ContextLengthError(
        f"The prompt has {prompt_tokens} tokens and needs room for one more, but {where}: {excess} too many. {remedy}",
        prompt_tokens=prompt_tokens,
        limit=limit,
    )


def open_request(
    request_id: str,
    prompt_ids: NDArray[np.int32],  # (tokens,) checked
    params: SamplingParams,
    *,
    background: bool = False,
    arrival: int,
    added: float,
    eos_ids: frozenset[int],
    limit: int,  # tokens of a sequence
    vocab_size: int,
    tokenizer: StreamingTokenizer,
    cache_salt: str | None,
    adapter: LoadedAdapter | None = None,
    restriction: Restriction | None = None,  # of `params`
    resumption: Resumption | None = None,
) -> Request:
    """A request with its n sequences, none of which has begun; with a `resumption`, those that go on, as they were.

    Raises RequestError for a resumption of another request.
    """
    model_eos = eos_ids
    eos_ids = frozenset() if params.ignore_eos else eos_ids
    end_ids = eos_ids.union(params.stop_ids)
    request = Request(request_id, params, len(prompt_ids), arrival, added, eos_ids, end_ids, adapter)
    request.scores = None if params.prompt_logprobs is None else []
    request.background = background
    seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
    if params.max_tokens is not None:
        limit = min(limit, len(prompt_ids) + params.max_tokens)
    root = root_digest(cache_salt, adapter.digest if adapter is not None else b"")
    first = Detokenizer(
        tokenizer,
        prompt_ids.tolist(),
        stop=params.stop_strings,
        include_stop=params.include_stop_str_in_output,
        skip_special_tokens=params.skip_special_tokens,
        offsets=params.logprobs is not None,
    )
    constraint = None
    if restriction is not None:
        constraint = Constraint(
            params,
            vocab_size=vocab_size,
            prompt_tokens=len(prompt_ids),
            restriction=restriction,
            end_ids=end_ids,
            eos_ids=model_eos,
        )
    for index in range(params.n):
        sampler = TokenSampler(
            params,
            seed=seed,
            index=index,
            vocab_size=vocab_size,
            prompt_ids=prompt_ids,
            end_ids=() if constraint is not None else end_ids,  # its masks see to min_tokens
        )
        text = first.copy() if index else first
        own = constraint.copy() if index and constraint is not None else constraint
        sequence = Sequence(
            request, index, prompt_ids, limit=limit, root=root, sampler=sampler, text=text, constraint=own
        )
        request.sequences.append(sequence)
    if resumption is not None:
        resumption.replay(request, replay_token, vocab_size)
    return request


def truncated(ids: NDArray[np.int32], params: SamplingParams, longest: int) -> NDArray[np.int32]:
    """The end of a prompt (tokens,), where `params` ask for no more. `longest`: tokens of prompt and answer."""
    most = params.truncate_prompt_tokens
    if most is None or ids.ndim != 1:
        return ids
    return ids[-(longest - 1 if most == -1 else most) :]
