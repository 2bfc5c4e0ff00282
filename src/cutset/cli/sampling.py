"""Flags for SamplingParams, under vLLM's names."""

from __future__ import annotations

import argparse
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
    """Adds the flags; `defaults` differ from those of SamplingParams where the command says so."""
    group = parser.add_argument_group("sampling")
    standard = SamplingParams(**defaults)
    for name, kind, text in FLAGS:
        default = getattr(standard, name)
        shown = "" if default is None else f" (default {default:g})"
        letter = "N" if kind is int else "X"
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, metavar=letter, help=f"{text}{shown}"
        )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")


def sampling_from(args: argparse.Namespace) -> SamplingParams:
    """The parameters that the flags say. Raises RequestError for a value out of its range."""
    values = {name: getattr(args, name) for name, _, _ in FLAGS}
    return SamplingParams(**values, stop=args.stop, ignore_eos=args.ignore_eos)
