"""What becomes of each field of a request that isn't the engine's: vLLM's and OpenAI's, by name.

What would change the answer and isn't done is refused by name; what changes nothing is ignored. A test walks over all
parameters of OpenAI's client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cutset.serve.api_errors import invalid

__all__ = ["NOTHING", "TO_TEMPLATE", "variables", "without_unserved"]

# They say who asks, how it is billed, kept or scheduled, or how fast it may be: the text is the same.
IGNORED = frozenset(
    re.findall(
        r"\w+",
        """
    user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options
    moderation prediction length_penalty early_stopping priority request_id mm_processor_kwargs
    media_io_kwargs
    """,
    )
)

# Refused but for these values, and for those that ask for nothing (false, 0, an empty text or list).
REFUSED: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "modalities": (["text"],),
    "suffix": (),
    "web_search_options": (),
    # vLLM's
    "chat_template": (),  # a program
    "kv_transfer_params": (),
    "logits_processors": (),
    "prompt_embeds": (),
    "return_token_ids": (),
    "return_tokens_as_token_ids": (),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (),
    "vllm_xargs": (),
}
# An empty one asks for something.
REFUSED_EMPTY = frozenset({"spaces_between_special_tokens", "web_search_options"})

# Variables of chat templates that are fields of their own.
TO_TEMPLATE = ("reasoning_effort", "verbosity", "documents", "enable_thinking")
NOTHING: dict[str, tuple[Any, ...]] = {"reasoning_effort": ("none",), "documents": ([],)}  # what asks for nothing

# Names that a template finds taken: what it is given anyway, its functions, and Jinja's own.
TAKEN = frozenset(
    re.findall(
        r"\w+",
        """
    messages tools tool_choice self add_generation_prompt continue_final_message chat_template tokenize caller loop
    super varargs kwargs range dict cycler joiner namespace lipsum raise_exception strftime_now true false none True
    False None
    """,
    )
)


def without_unserved(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request without what is ignored and what asks for nothing. Raises ApiError for what is refused."""
    kept = {}
    for name, value in fields.items():
        if value is None or name in IGNORED:
            continue
        if name not in REFUSED:
            kept[name] = value
        elif (value or name in REFUSED_EMPTY) and value not in REFUSED[name]:
            raise invalid(f"{name} isn't supported by this server: leave it out", name)
    return kept


def variables(
    own: Mapping[str, Any], given: Mapping[str, Any], known: frozenset[str], special: frozenset[str]
) -> dict[str, Any]:
    """The variables for a chat template that reads those that are `known`: fields of the request, and what its
    chat_template_kwargs give. `special`: names of special tokens. Raises ApiError for one that would be ignored, or
    that is taken.
    """
    where = "chat_template_kwargs"
    for name in given:
        shown = name if len(name) <= 60 else name[:57] + "..."
        if name in TAKEN or name in special or name.startswith("_") or not name.isidentifier():
            more = (
                f"; {name} is a field of the request"
                if name in ("add_generation_prompt", "continue_final_message")
                else ""
            )
            raise invalid(f"{where} can't have {shown!r}: that name is taken, or is none{more}", f"{where}.{shown}")
        if own.get(name, given[name]) != given[name]:
            raise invalid(f"{name} is given twice, in {where} too: give it once", name)
    found = {name: value for name, value in {**own, **given}.items() if value is not None or name in known}
    for name in found:
        if name not in known:
            takes = ", ".join(sorted(known - TAKEN - special - {"documents"})) or "none"
            shown = name if len(name) <= 60 else name[:57] + "..."
            raise invalid(
                f"this model's chat template has no variable {shown!r}, so it would change nothing: leave it out (it "
                f"takes: {takes[:300]})",
                shown if name in own else f"{where}.{shown}",
            )
    return found
