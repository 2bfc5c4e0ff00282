"""How commands show an answer: text to stdout as it comes, one line of statistics to stderr, figures as JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cutset.cli.output import log
from cutset.engine.outputs import Delta, Timings, Usage

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

if TYPE_CHECKING:
    from cutset.llm import LLM, AsyncLLM

__all__ = ["PrintedAnswer", "figures", "print_answer", "speculated", "statistics", "warn_of"]


class PrintedAnswer:
    """What was printed: text, tokens, and the statistics of its last piece."""

    def __init__(self) -> None:
        self.text, self.token_ids = "", list[int]()
        self.finish_reason: str | None = None
        self.usage, self.timings = Usage(0, 0, 0), Timings()


def print_answer(deltas: Iterable[Delta]) -> PrintedAnswer:
    """Prints the pieces of one sample as they come, and a line end if the text has none."""
    answer, watched = PrintedAnswer(), sys.stdout.isatty()
    try:
        for delta in deltas:
            if delta.error is not None:
                raise delta.error
            answer.text += delta.text
            answer.token_ids += delta.token_ids
            # A file or another program gets what the model said; a terminal nothing that it would obey.
            print(CONTROL.sub("\ufffd", delta.text) if watched else delta.text, end="", flush=True)
            if delta.usage is not None and delta.timings is not None:
                answer.usage, answer.timings, answer.finish_reason = delta.usage, delta.timings, delta.finish_reason
    finally:
        if answer.text and not answer.text.endswith("\n"):
            print()
    return answer


def statistics(answer: PrintedAnswer) -> str:
    """One line: how long loading and the first token took, and how fast the rest was."""
    usage, t = answer.usage, answer.timings
    parts = [
        f"loaded in {t.load_s:.2f} s" if t.load_s is not None else "",
        f"first token after {t.ttft_s * 1000:.0f} ms" if t.ttft_s is not None else "",
        f"prompt {usage.prompt_tokens} tokens" + (f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""),
        f"prefill {t.prefill_tps:.0f} tokens/s" if t.prefill_tps else "",
        f"{usage.completion_tokens} generated" + (f" at {t.decode_tps:.0f} tokens/s" if t.decode_tps else ""),
        f"ended by {answer.finish_reason}" if answer.finish_reason else "",
    ]
    return "[" + ", ".join(part for part in parts if part) + "]"


def speculated(llm: LLM | AsyncLLM) -> str:
    """One line: how many guesses were right, and what pads the wrong ones took; an empty one without speculation."""
    if llm.settings.speculate == "off":
        return ""
    stats = llm.stats()
    wrong = stats.drafted_tokens - stats.accepted_tokens
    said = f"{stats.drafted_tokens} tokens guessed ahead, {stats.accepted_tokens} right"
    if llm.offload is not None:
        rows = stats.prompt_tokens + stats.generated_tokens + wrong
        burned, seconds = llm.offload.burned(wrong, rows)
        if burned:
            said += f"; the wrong ones burned about {burned} rows of pads, {seconds:.2f} s of making them"
    return f"[{said}]"


def figures(command: str, llm: LLM, answer: PrintedAnswer) -> dict[str, Any]:
    """The answer and its figures in the shape of a result file."""
    from cutset.compare.results import machine

    t = answer.timings
    system = f"cutset {llm.choice.backend} {llm.choice.dtype}"
    rows = [
        {"workload": llm.name, "system": system, "metric": metric, "value": value, "unit": unit, "spread": None}
        for metric, value, unit in (
            ("load", t.load_s, "s"),
            ("first_token", t.ttft_s, "s"),
            ("prefill", t.prefill_tps, "tok/s"),
            ("decode", t.decode_tps, "tok/s"),
        )
        if value is not None
    ]
    return {
        "command": command,
        "machine": machine(threads=llm.choice.threads),
        "rows": rows,
        "output": {
            "text": answer.text,
            "token_ids": answer.token_ids,
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": answer.usage.prompt_tokens,
                "completion_tokens": answer.usage.completion_tokens,
                "cached_tokens": answer.usage.cached_tokens,
            },
        },
    }


def warn_of(llm: LLM | AsyncLLM, say: Callable[[str], None] = log) -> None:
    """Says at the start what the user should know about the accelerator, if there is one."""
    if llm.offload is not None and llm.offload.caution:
        say(f"cutset: warning: {llm.offload.caution}")
