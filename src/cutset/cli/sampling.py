"""Flags for SamplingParams, under vLLM's names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cutset.engine.params import SamplingParams

__all__ = ["add_sampling", "sampling_from"]

# Flag, type, help. Ranges are checked by SamplingParams, whose error says what they are.
FLAGS: list[tuple[str, type, str]] = [
    ("max_tokens", int, "most tokens to generate"),
    ("min_tokens", int, "no end before that many"),
    ("temperature", float, "0 is greedy: always the likeliest token"),
    ("top_p", float, "the likeliest tokens that add up to this probability; 1 is off"),
    ("top_k", int, "that many of the likeliest tokens; 0 is off"),
    ("min_p", float, "tokens at least that likely, relative to the likeliest; 0 is off"),
    ("seed", int, "the same seed gives the same text; without one it differs from run to run"),
    ("repetition_penalty", float, "over 1: what is there already gets less likely"),
    ("presence_penalty", float, "taken off the logits of tokens that were generated"),
    ("frequency_penalty", float, "the same, for each time they were"),
]


def add_sampling(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Adds the flags; `defaults` differ from those of SamplingParams where the command says so. A model's own values
    (`generation_config.json`) come before either."""
    group = parser.add_argument_group("sampling", "what isn't given here is the model's to say, or the default")
    standard = SamplingParams(**defaults)
    for name, kind, text in FLAGS:
        default = getattr(standard, name)
        shown = "" if default is None else f" (default {default:g})"
        letter = "N" if kind is int else "X"
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=letter, help=f"{text}{shown}")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")
    parser.set_defaults(sampling_defaults=defaults)


def sampling_from(args: argparse.Namespace, model: Mapping[str, Any] | None = None) -> SamplingParams:
    """The parameters that the flags say, then `model`'s own, then the command's. Raises RequestError for a value out of
    its range."""
    given = {name: getattr(args, name) for name in (*(name for name, _, _ in FLAGS), "stop")}
    named = {name: value for name, value in given.items() if value is not None} | {"ignore_eos": args.ignore_eos}
    return SamplingParams.of(named, {**args.sampling_defaults, **(model or {})})
