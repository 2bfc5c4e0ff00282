"""A model's own sampling parameters: what its `generation_config.json` says, under the names of SamplingParams, or the
metadata of a GGUF file.

They are the defaults of a request. What the file says of end tokens is the specification's business (families.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutset.errors import ModelError
from cutset.models.families import read_json
from cutset.models.files.gguf import read_gguf
from cutset.models.files.gguf_path import is_gguf

__all__ = ["FILE", "GenerationDefaults", "generation_defaults"]

FILE = "generation_config.json"

# transformers' name: ours.
OBEYED = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")} | {
    "presence_penalty": "presence_penalty",  # vLLM's, as is the next
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
}
# What GGUF files call them, after `general.sampling.`.
GGUF = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
# What would change an answer and isn't done here: the values with which it changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_time": (),
    "min_length": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ([], {}),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}
# What changes no token: caches, speculation, what is reported, beams' details where there are no beams, end tokens.
HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
    assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind bos_token_id
    cache_config cache_implementation compile_config continuous_batching_config decoder_start_token_id disable_compile
    diversity_penalty early_stopping eos_token_id is_assistant length_penalty low_memory max_cache_len
    max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups output_attentions
    output_hidden_states output_logits output_scores pad_token_id prefill_chunk_size prompt_lookup_num_tokens
    remove_invalid_values renormalize_logits return_dict_in_generate speculation_type target_lookbehind
    transformers_version use_cache use_mtp _commit_hash _from_model_config
    """,
    )
)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """`values` by the names of SamplingParams; `file` that says them; `undone`: what it asks for and isn't done."""

    values: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    undone: Mapping[str, Any] = field(default_factory=dict)


def generation_defaults(directory: Path, context: int) -> GenerationDefaults:
    """What the file of a model directory, or a GGUF file, says; nothing without one. `context`: most tokens of the
    model's sequences.

    The values' ranges are SamplingParams' to check. Raises ModelError for a file that can't be read.
    """
    if is_gguf(directory):
        metadata = read_gguf(directory).metadata
        named = {f"general.sampling.{theirs}": ours for theirs, ours in GGUF.items()}
        found = {ours: metadata[key] for key, ours in named.items() if key in metadata}
        for key in named:
            if type(metadata.get(key, 0)) not in (int, float):
                raise ModelError(f"{directory}: {key} must be a number, not {metadata[key]!r:.60}")
        return GenerationDefaults(found, directory) if found else GenerationDefaults()
    file = directory / FILE
    if not file.is_file():
        return GenerationDefaults()
    said = {name: value for name, value in read_json(file).items() if value is not None}
    sample = said.pop("do_sample", None)
    if not isinstance(sample, bool | None):
        raise ModelError(f"{file}: do_sample must be true or false, not {sample!r:.60}")
    values = {OBEYED[name]: value for name, value in said.items() if name in OBEYED}
    if sample is not None:
        values["temperature"] = values.get("temperature", 1.0) if sample else 0.0
    undone = {
        name: value
        for name, value in said.items()
        if name not in OBEYED and name not in HARMLESS and value not in NEUTRAL.get(name, ())
    }
    length = undone.get("max_length")  # of prompt and answer: no limit where it is beyond the context
    if isinstance(length, int) and length >= context:
        del undone["max_length"]
    return GenerationDefaults(values, file, undone)
