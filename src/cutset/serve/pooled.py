"""Models of a pool, before they are loaded: what each is, and how much memory it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cutset.config import Settings
from cutset.errors import ConfigError
from cutset.llm import AsyncLLM
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource, open_source
from cutset.models.registry import resolve, settings_for
from cutset.models.run.backend import BackendChoice, block_bytes, choose, stored_dtype
from cutset.models.text.tokenizer import Tokenizer
from cutset.serve.model_facts import facts_of
from cutset.serve.model_pool import PooledModel

__all__ = ["pooled_models"]

WEIGHT_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.1, "exact": 1.1, "int4": 0.65}
BESIDE = 32 << 20  # bytes of what is neither weights nor cache
CACHE_PART = 4  # of what the weights leave; a model's cache gets this part of it, unless cache_mib says how much
LEAST_CONTEXT = 256  # tokens that a cache holds at least
ALONE = ("offload", "mode", "stages", "stages_listen", "pads_from")


def pooled_models(
    texts: Sequence[str], settings: Settings, memory: int, progress: Progress | None = None
) -> list[PooledModel]:
    """The models that texts mean, as MODEL or NAME=MODEL. Reads their headers and tokenizers, no weights.

    Raises ConfigError for settings that several models can't have, and what loading would raise of their files.
    """
    for name in ALONE:
        if getattr(settings, name):
            raise ConfigError(f"--{name.replace('_', '-')} is for one model: serve it alone, without --memory")
    if settings.speculate not in ("off", "ngram"):
        raise ConfigError("--speculate MODEL is for one model: serve it alone, without --memory, or guess by ngram")
    return [_pooled(text, settings, memory, progress) for text in texts]


def _pooled(text: str, settings: Settings, memory: int, progress: Progress | None) -> PooledModel:
    name, equals, where = text.partition("=")
    if not equals or "/" in name or not name or not where:
        name, where = "", text
    found = resolve(where, settings, progress)
    settings = settings_for(found, settings)
    source = open_source(found.directory, settings.verify)
    spec = source.spec
    choice = choose(settings, stored_dtype(source))
    context = min(settings.max_model_len or spec.context, spec.longest)
    template = found.overrides.chat_template or Tokenizer.load(found.directory).chat_template
    facts = facts_of(name or found.name, found.directory, spec, context=context, dtype=choice.dtype, template=template)
    weights = _weights(source, choice, facts.nbytes)
    block = block_bytes(spec, choice, settings)
    states = 4 * spec.state_floats * settings.max_num_seqs
    if not settings.cache_mib:
        wanted = settings.max_num_seqs * -(-context // settings.block_size) * block
        least = -(-min(context, LEAST_CONTEXT) // settings.block_size) * block
        room = max(least, max(0, memory - weights - BESIDE) // CACHE_PART - states)
        settings = replace(settings, cache_mib=max(1, -(-(min(wanted, room) + states) >> 20)))
    cache = settings.cache_mib << 20
    if block:
        facts = replace(facts, context=min(context, (cache - states) // block * settings.block_size))
    source.forget()

    def load() -> AsyncLLM:
        return AsyncLLM(where, settings=settings, progress=progress)

    return PooledModel(facts, weights + cache + BESIDE, load)


def _weights(source: ModelSource, choice: BackendChoice, on_disk: int) -> int:
    """About how many bytes the weights take in memory: packed for products, and the table of the embedding again."""
    spec = source.spec
    table = 2 * spec.vocab_size * spec.hidden
    if choice.dtype == "stored" or source.dtype == "int8":
        return int(1.1 * on_disk) + table
    return int(spec.parameter_count() * WEIGHT_BYTES[choice.dtype]) + table
