"""`cutset demo`: the bundled model answers here, and through an accelerator that nobody needs to trust."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cutset.cli.answer import PrintedAnswer, print_answer, statistics, tell
from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import table
from cutset.engine.params import SamplingParams

if TYPE_CHECKING:
    from cutset.llm import LLM

__all__ = ["configure", "run"]

PROMPTS = ("Once upon a time", "The little dog")
PARAMS = SamplingParams(max_tokens=200, temperature=0)


def configure(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    threads = settings.thread_count
    from cutset.llm import LLM

    with LLM("story", threads=threads, mode="local") as llm:
        spec = llm.spec
        tell(
            f"The bundled model: {spec.parameter_count():,} parameters in {spec.layers} layers. First it runs here, "
            f"in exact integers on {threads} threads:\n"
        )
        local, local_s = _answers(llm)
    party = max(1, threads // 2)
    tell(
        "Now an accelerator in a process of its own multiplies, in mode masked+verified: all it sees are uniform "
        "residues modulo 2^31 - 1, and a wrong product would be found before it is used.\n"
    )
    with _accelerator(party) as address, LLM("story", threads=party, offload=address) as llm:
        assert llm.offload is not None
        seen: list[tuple[str, list[int], list[int]]] = []
        llm.offload.linears.watch = lambda name, q, sent: seen.append((name, q, sent)) if len(seen) < 3 else None
        split, split_s = _answers(llm)
        parts, counters = llm.offload.linears.times, llm.offload.linears.session.counters()
    same = [answer.token_ids for answer in local] == [answer.token_ids for answer in split]
    tell(f"The same text, token by token: {'yes' if same else 'NO, and that is a bug'}.\n")
    tell("What the accelerator saw of the first activations (the numbers before and after masking):")
    tell(table([(f"  {name}", _few(q), "->", _few(sent)) for name, q, sent in seen]))
    tell(
        f"\nIt multiplied {counters['rows']:.0f} rows in {counters['calls']:.0f} calls; {parts.bytes_up / 1e6:.1f} MB "
        f"went there, {parts.bytes_down / 1e6:.1f} MB came back."
    )
    tokens = sum(len(answer.token_ids) for answer in split)
    rows = [("", "seconds", "tokens/s")]
    rows += [("here", f"{local_s:.2f}", f"{tokens / local_s:.0f}")]
    rows += [("masked+verified", f"{split_s:.2f}", f"{tokens / split_s:.0f}")]
    rows += [(f"  {part}", f"{seconds:.2f}", "") for part, seconds in parts.wall.items()]
    tell(table(rows, right=(1, 2)))
    tell(
        "\nA model this small is faster here, by far: an accelerator pays off for large ones (`cutset bench offload`). "
        "docs/threat-model.md says what the shapes and times of calls still tell."
    )
    tell("\nNext: cutset generate story --prompt 'One day' --temperature 0.8, or cutset --help.")
    return 0 if same else 1


def _answers(llm: LLM) -> tuple[list[PrintedAnswer], float]:
    """Prints what the model says to each prompt; answers, and seconds."""
    answers, seconds = [], 0.0
    for prompt in PROMPTS:
        print(prompt, end="", flush=True)
        started = time.perf_counter()
        answers.append(print_answer(llm.stream(prompt, PARAMS)))
        seconds += time.perf_counter() - started
        tell(statistics(answers[-1]) + "\n")
    return answers, seconds


def _few(numbers: list[int]) -> str:
    return " ".join(f"{number:>5}" for number in numbers[:5]) + " …"


@contextlib.contextmanager
def _accelerator(threads: int) -> Iterator[str]:
    """`cutset accelerator story` while it is needed; gives its address."""
    from cutset.link.launch import PIPE, Child

    address = f"shm://cutset-demo-{os.getpid()}"
    command = ["cutset.cli", "accelerator", "story", "--listen", address, "--threads", str(threads)]
    child = Child("the accelerator of the demo", command, stderr=PIPE)
    try:
        child.until("listening")
        yield address
    finally:
        child.end(10)
