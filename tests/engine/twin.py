"""The engine as one would write it in an afternoon: one sequence, no cache, no batch, plain Python loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cutset.engine import SamplingParams

from .fake import slow_logits


def slow_uniform(seed: int, index: int, position: int) -> float:
    generator = np.random.Philox(key=(seed % 2**64) + index * 2**64, counter=position)
    return (int(generator.random_raw()) // 2**11) / 2**53


def slow_adjust(
    logits: NDArray[np.float32], params: SamplingParams, prompt: Sequence[int], output: Sequence[int], ends: set[int]
) -> list[float]:
    adjusted = [float(x) for x in logits]
    for token in {*prompt, *output}:
        if adjusted[token] > 0:
            adjusted[token] /= params.repetition_penalty
        else:
            adjusted[token] *= params.repetition_penalty
    for token in set(output):
        adjusted[token] -= params.frequency_penalty * list(output).count(token) + params.presence_penalty
    if len(output) < params.min_tokens:
        for token in ends:
            adjusted[token] = -math.inf
    return adjusted


def slow_kept(adjusted: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """The tokens that may be drawn, with their weights: vLLM's order of filters."""
    top = max(adjusted)
    weights = {token: math.exp((x - top) / params.temperature) for token, x in enumerate(adjusted)}
    weights = {token: w for token, w in weights.items() if w >= params.min_p}
    ranked = sorted(weights, key=lambda token: (-adjusted[token], token))
    if params.top_k > 0:
        ranked = ranked[: params.top_k]
    total = math.fsum(weights[token] for token in ranked)
    kept: list[int] = []
    for token in ranked:
        kept.append(token)
        if params.top_p < 1 and math.fsum(weights[one] for one in kept) / total >= params.top_p:
            break
    return {token: weights[token] for token in sorted(kept)}


def slow_sample(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    index: int = 0,
    ends: set[int] | None = None,
) -> int:
    adjusted = slow_adjust(logits, params, prompt, output, ends or set())
    if params.temperature == 0:
        return adjusted.index(max(adjusted))
    kept = slow_kept(adjusted, params)
    assert params.seed is not None
    left = slow_uniform(params.seed, index, len(prompt) + len(output)) * math.fsum(kept.values())
    for token, weight in kept.items():
        left -= weight
        if left < 0:
            return token
    return list(kept)[-1]


def slow_generate(
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    index: int = 0,
    eos: set[int] | None = None,
    vocab: int | None = None,
) -> list[int]:
    """The tokens of one sample, stop strings aside."""
    output: list[int] = []
    ends = (set() if params.ignore_eos else set(eos or ())) | set(params.stop_ids)
    assert params.max_tokens is not None
    while len(output) < params.max_tokens:
        logits = slow_logits([*prompt, *output]) if vocab is None else slow_logits([*prompt, *output], vocab)
        output.append(slow_sample(logits, params, prompt, output, index=index, ends=ends))
        if output[-1] in ends:
            break
    return output
