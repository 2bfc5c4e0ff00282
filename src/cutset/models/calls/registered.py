"""Every format by its name, and which of them a chat template writes."""

from __future__ import annotations

from functools import lru_cache

from cutset.errors import ConfigError
from cutset.models.calls.call_parser import CallParser
from cutset.models.calls.gemma_calls import GemmaCalls
from cutset.models.calls.harmony import HarmonyCalls
from cutset.models.calls.line_calls import LineCalls
from cutset.models.calls.llama_calls import LlamaCalls
from cutset.models.calls.marked_json import GraniteCalls, HermesCalls, PhiCalls
from cutset.models.calls.mistral_calls import MistralCalls
from cutset.models.calls.python_calls import LfmCalls, OlmoCalls, PythonicCalls
from cutset.models.calls.tagged_calls import GlmCalls, QwenCoderCalls
from cutset.models.calls.thinking import THINKING

__all__ = ["REASONING_PARSERS", "TOOL_PARSERS", "check_names", "reasoning_of", "tools_of"]

TOOL_PARSERS: dict[str, type[CallParser]] = {
    "gemma": GemmaCalls,
    "glm4": LineCalls,
    "glm45": GlmCalls,
    "granite": GraniteCalls,
    "harmony": HarmonyCalls,
    "hermes": HermesCalls,
    "lfm2": LfmCalls,
    "llama3_json": LlamaCalls,
    "mistral": MistralCalls,
    "olmo3": OlmoCalls,
    "phi4": PhiCalls,
    "pythonic": PythonicCalls,
    "qwen3_coder": QwenCoderCalls,
}
REASONING_PARSERS = ("harmony", *THINKING)

# The first whose texts all stand in a template is its format.
TOOL_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>", "<|message|>")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("gemma", ("<|tool_call>",)),
    ("gemma", ("<start_function_call>",)),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("glm45", ("<arg_key>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("lfm2", ("<|tool_list_start|>",)),
    ("olmo3", ("<function_calls>",)),
    ("phi4", ("<|/tool|>",)),
    ("granite", ("<|tool_call|>",)),
    ("granite", ("<|start_of_role|>", "<tool_call>[")),
    ("hermes", ("<tool_call>",)),
    ("pythonic", ("func_name1(",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ('"parameters": dictionary',)),
    ("glm4", ("<|observation|>",)),
)
REASONING_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>", "<|message|>")),
    ("mistral", ("[THINK]",)),
    ("gemma4", ("<|channel>",)),
    ("think", ("<think>",)),
    ("think", ("</think>",)),
    ("granite", ("Here is my thought process:",)),
)


@lru_cache(16)
def tools_of(template: str) -> str:
    """The format of calls that a template writes; Hermes's where none is known."""
    return _first(TOOL_SIGNS, template) or "hermes"


@lru_cache(16)
def reasoning_of(template: str) -> str:
    """The format of reasoning that a template knows; "" for none."""
    return _first(REASONING_SIGNS, template)


def check_names(tool_parser: str, reasoning_parser: str) -> None:
    """Raises ConfigError for a name that no format has."""
    for flag, name, known in (
        ("--tool-parser", tool_parser, ("auto", *TOOL_PARSERS)),
        ("--reasoning-parser", reasoning_parser, ("auto", "off", *REASONING_PARSERS)),
    ):
        if name not in known:
            raise ConfigError(f"{flag} {name[:60]!r} is none that is known: give {', '.join(known)}")


def _first(signs: tuple[tuple[str, tuple[str, ...]], ...], template: str) -> str:
    return next((name for name, texts in signs if all(text in template for text in texts)), "")
