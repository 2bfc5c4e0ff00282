"""The engine: many requests at a time on one executor.

A request reads top to bottom through: `engine` (the step) → `scheduler` (who moves, in which `blocks`) → `step` (the
arrays) → the executor → `sampler` (tokens) → `detokenizer` (text) → `deltas`. `loop` runs it in a thread.
"""

from cutset.engine.detokenizer import StreamingTokenizer
from cutset.engine.engine import Engine
from cutset.engine.handle import RequestHandle
from cutset.engine.loop import EngineLoop
from cutset.engine.outputs import (
    CompletionOutput,
    Delta,
    EngineStats,
    FinishReason,
    RequestOutput,
    Timings,
    TokenLogprob,
    Usage,
    collect,
)
from cutset.engine.params import SamplingParams

__all__ = [
    "CompletionOutput",
    "Delta",
    "Engine",
    "EngineLoop",
    "EngineStats",
    "FinishReason",
    "RequestHandle",
    "RequestOutput",
    "SamplingParams",
    "StreamingTokenizer",
    "Timings",
    "TokenLogprob",
    "Usage",
    "collect",
]
