"""Cutset runs one neural network in several places at once, and gives the answer it would have given in one.

from cutset import LLM, SamplingParams

with LLM("story") as llm:
    [output] = llm.generate(["Once upon a time"], SamplingParams(max_tokens=64, temperature=0))
    print(output.text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutset.config import StreamSettings
    from cutset.engine.grammar import Grammar
    from cutset.engine.outputs import CompletionOutput, Delta, RequestOutput, Timings, TokenLogprob, Usage
    from cutset.engine.params import SamplingParams
    from cutset.engine.structured_params import GuidedDecodingParams, StructuredOutputsParams
    from cutset.llm import LLM, AsyncLLM
    from cutset.stream import Stream

__all__ = [
    "LLM",
    "AsyncLLM",
    "CompletionOutput",
    "Delta",
    "Grammar",
    "GuidedDecodingParams",
    "RequestOutput",
    "SamplingParams",
    "Stream",
    "StreamSettings",
    "StructuredOutputsParams",
    "Timings",
    "TokenLogprob",
    "Usage",
]

_HOMES = {
    "LLM": "cutset.llm",
    "AsyncLLM": "cutset.llm",
    "Grammar": "cutset.engine.grammar",
    "GuidedDecodingParams": "cutset.engine.structured_params",
    "SamplingParams": "cutset.engine.params",
    "StructuredOutputsParams": "cutset.engine.structured_params",
    "Stream": "cutset.stream",
    "StreamSettings": "cutset.config",
} | dict.fromkeys(
    ["CompletionOutput", "Delta", "RequestOutput", "Timings", "TokenLogprob", "Usage"], "cutset.engine.outputs"
)


def __getattr__(name: str) -> Any:
    # Loaded when first used: `cutset --help` needs no engine, and an engine no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'cutset' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
