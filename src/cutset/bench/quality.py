"""What a dtype costs in quality: perplexity and agreement with float32, on text that the model itself finds likely.

The text is the model's own greedy continuation of prompts, so no data set is needed and none flatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.engine.params import SamplingParams
from cutset.llm import LLM
from cutset.models.run.executor import Batch

__all__ = ["Quality", "likely_texts", "measure_quality"]

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Text:
    """Ids (tokens,) of a prompt and its continuation; the first `prompt` of them are nobody's guess."""

    ids: NDArray[np.int32]
    prompt: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a dtype against float32, over `positions`."""

    perplexity: float
    rise: float  # of the perplexity, as a share
    top1: float  # share of positions at which the likeliest token is the same
    positions: int


def likely_texts(llm: LLM, prompts: Sequence[str], tokens: int = 200) -> list[Text]:
    """The model's greedy continuations of prompts."""
    outputs = llm.generate(list(prompts), SamplingParams(max_tokens=tokens, temperature=0))
    return [
        Text(np.array(output.prompt_token_ids + output.token_ids, dtype=np.int32), len(output.prompt_token_ids))
        for output in outputs
    ]


def _score(executor: Any, texts: Sequence[Text]) -> tuple[float, NDArray[np.int64]]:
    """Perplexity of all continuations, and the likeliest token at each of their positions."""
    loss, count, likeliest = 0.0, 0, []
    for text in texts:
        batch = Batch.whole(text.ids[None], BLOCK)
        every = executor.forward(batch, executor.new_cache(batch.block_tables.size, BLOCK))
        logits, following = every[text.prompt - 1 : -1].astype(np.float64), text.ids[text.prompt :]
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss -= log_probabilities[np.arange(len(following)), following].sum()
        count += len(following)
        likeliest.append(logits.argmax(axis=1))
    return float(np.exp(loss / count)), np.concatenate(likeliest)


def measure_quality(
    model: str,
    prompts: Sequence[str],
    dtypes: Sequence[str],
    threads: int = 0,
    models_file: Path | None = None,
    offline: bool | None = None,  # None: as CUTSET_OFFLINE or cutset.toml say
) -> dict[str, Quality]:
    """The quality of each dtype of a float model, on the native backend. `threads` 0: all usable cores."""
    options: dict[str, Any] = {"backend": "native", "threads": threads, "models_file": models_file, "offline": offline}
    options["generation_config"] = False
    with LLM(model, dtype="float32", **options) as llm:
        texts = likely_texts(llm, prompts)
        base, plain = _score(llm.executor, texts)
    found = {"float32": Quality(base, 0.0, 1.0, len(plain))}
    for dtype in dtypes:
        with LLM(model, dtype=dtype, **options) as llm:
            perplexity, likeliest = _score(llm.executor, texts)
        agreement = float((likeliest == plain).mean())
        found[dtype] = Quality(perplexity, perplexity / base - 1, agreement, len(plain))
    return found
