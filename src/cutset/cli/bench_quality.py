"""`cutset bench quality`: what fewer bits cost a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log, table
from cutset.errors import ModelError

if TYPE_CHECKING:
    from cutset.bench.quality import Quality
    from cutset.compare.results import Row

__all__ = ["DESCRIPTION", "HELP", "configure", "quality_rows", "quality_table", "read_texts", "run"]

HELP = "what fewer bits cost a model in quality"
DESCRIPTION = (
    "Reads texts with a model in float32, in other dtypes and from other files of it, and says how far their "
    "probabilities of the next token are from those of float32 (Kullback-Leibler divergence in nats: the mean, and "
    "what it stays below at 99 % of the positions), what becomes of the perplexity, and how often the likeliest token "
    "is the same. Windows of equal length are read one by one, and the second half of each is scored."
)
MOST_BYTES = 64 << 20
WINDOW, POSITIONS = 512, 1024
HEAD = ("text", "dtype", "divergence", "99 %", "top-1", "perplexity", "rise", "positions")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model whose floats are known: a directory, file or name")
    parser.add_argument(
        "--against", action="append", default=[], metavar="MODEL", help="another file of the same model; repeatable"
    )
    parser.add_argument(
        "--text", action="append", type=Path, metavar="FILE", help="a text instead of Python's own; repeatable"
    )
    parser.add_argument("--dtype", action="append", metavar="NAME", help="only these, as int8; repeatable")
    parser.add_argument("--window", type=int, default=WINDOW, metavar="N", help=f"tokens (default {WINDOW})")
    parser.add_argument(
        "--positions", type=int, default=POSITIONS, metavar="N", help=f"to score of a text (default {POSITIONS})"
    )
    add_json(parser, "the figures")
    add_settings(parser, "threads", "models_file", "offline")


def read_texts(files: list[Path] | None) -> dict[str, str]:
    """Files by name, or what every machine has. Raises ModelError for one that can't be read."""
    from cutset.bench.quality import common_texts

    texts = {}
    for path in files or ():
        try:
            with path.open("rb") as file:
                data = file.read(MOST_BYTES)
            texts[path.name] = data.decode("utf-8", "strict" if len(data) < MOST_BYTES else "ignore")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it isn't text in UTF-8"
            raise ModelError(f"--text {path} can't be read: {reason}") from None
    return texts or common_texts()


def run(args: argparse.Namespace) -> int:
    from cutset.bench.quality import measure_quality

    if args.window < 4 or args.positions < 1:
        raise ModelError("--window must be at least 4 and --positions at least 1")
    settings = settings_from(args)
    options = {name: getattr(settings, name) for name in ("threads", "models_file", "offline")}
    rows: list[Row] = []
    measured = measure_quality(
        args.model,
        read_texts(args.text),
        args.dtype,
        args.against,
        window=args.window,
        positions=args.positions,
        **options,
    )
    shown: dict[str, dict[str, Quality]] = {}
    for name, found in measured:
        log(f"{name}: measured")
        shown[name] = found
        rows += quality_rows(args.model, f"cutset native {name}", found)
    print(quality_table(shown))
    save_rows(args, rows, threads=settings.thread_count)
    return 0


def quality_table(measured: dict[str, dict[str, Quality]]) -> str:
    """A line for each text and dtype."""
    lines = [
        (
            text,
            name,
            f"{max(one.divergence, 0):.5f}",
            f"{one.divergence_99:.4f}",
            f"{one.top1:.2%}",
            f"{one.perplexity:.4f}",
            f"{one.rise:+.2%}",
            str(one.positions),
        )
        for name, found in measured.items()
        for text, one in found.items()
    ]
    return table([HEAD, *sorted(lines, key=lambda line: line[0])], right=range(2, len(HEAD)))


def quality_rows(model: str, system: str, found: dict[str, Quality]) -> list[Row]:
    """The figures of a result file."""
    from cutset.compare.results import Row

    return [
        Row(f"{model}: {text}", system, metric, value, unit)
        for text, one in found.items()
        for metric, value, unit in (
            ("divergence from float32, mean", one.divergence, "nats"),
            ("divergence from float32, 99 %", one.divergence_99, "nats"),
            ("top-1 agreement", one.top1 * 100, "%"),
            ("rise of perplexity", one.rise * 100, "%"),
        )
    ]
