"""`cutset demo`: what Cutset does, with the bundled model; nothing is downloaded."""

from __future__ import annotations

import argparse

from cutset.cli.answer import print_answer, statistics, tell
from cutset.cli.options import add_settings, settings_from
from cutset.engine.params import SamplingParams

__all__ = ["configure", "run"]

PROMPTS = ("Once upon a time", "The little dog", "One rainy morning")


def configure(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, "threads", "backend", "dtype")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    from cutset.llm import LLM

    with LLM("story", settings=settings) as llm:
        spec = llm.spec
        tell(
            f"The bundled model: {spec.parameter_count():,} parameters in {spec.layers} layers, "
            f"run by the {llm.choice.backend} backend in {llm.choice.dtype} on {llm.choice.threads} threads."
        )
        for prompt in PROMPTS:
            tell("")
            print(prompt, end="", flush=True)
            answer = print_answer(llm.stream(prompt, SamplingParams(max_tokens=320, temperature=0)))
            tell(statistics(answer))
        tell("\nNext: cutset generate story --prompt 'One day' --temperature 0.8, or cutset --help.")
    return 0
