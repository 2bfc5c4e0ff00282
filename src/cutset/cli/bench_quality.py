"""`cutset bench quality`: what 8-bit weights and activations cost a model."""

from __future__ import annotations

import argparse

from cutset.cli.bench_rows import save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import table

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "what int8 and exact cost a model in quality"
DESCRIPTION = (
    "Lets a float model continue prompts greedily and measures, on its continuations, the perplexity of each dtype and "
    "how often it finds the same token likeliest as float32 does."
)
NAMES = ("Lily", "Tom", "Tim", "Mia", "Sara", "Ben", "Max", "Anna", "Sam", "Lucy", "Jack", "Amy")
PROMPTS = [f"Once upon a time, a little girl named {name} lived in a" for name in NAMES]
PROMPTS += [f"One day, {name} went to the park with his mom. He saw a" for name in NAMES]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a float model: a directory or a name of models.yaml")
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="instead of 24 beginnings of stories; repeatable"
    )
    add_json(parser, "the figures")
    add_settings(parser, "threads", "models_file", "offline")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.quality import measure_quality
    from cutset.compare.results import Row

    settings = settings_from(args)
    prompts = args.prompt or PROMPTS
    options = (settings.threads, settings.models_file, settings.offline)
    found = measure_quality(args.model, prompts, ("int8", "exact"), *options)
    head = ("dtype", "perplexity", "rise", "top-1 agreement", "positions")
    rows = [
        (dtype, f"{one.perplexity:.4f}", f"{one.rise:+.2%}", f"{one.top1:.2%}", str(one.positions))
        for dtype, one in found.items()
    ]
    print(table([head, *rows], right=(1, 2, 3, 4)))
    workload = f"{args.model}: greedy continuations of {len(prompts)} prompts"
    figures = [
        Row(workload, f"cutset native {dtype}", metric, value * 100, "%")
        for dtype, one in found.items()
        for metric, value in (("rise of perplexity", one.rise), ("top-1 agreement", one.top1))
    ]
    save_rows(args, figures, threads=settings.thread_count)
    return 0
