"""`cutset bench exchange`: random models through every backend, timed and compared."""

from __future__ import annotations

import argparse

from cutset.cli.bench_rows import save_rows, tell
from cutset.cli.options import add_json, add_settings, add_sizes, model_from, output_path, settings_from
from cutset.cli.output import table

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "random models through every backend, timed and compared"
DESCRIPTION = (
    "Makes a random model, runs its exchange file through every backend, times each and compares its logits with the "
    "reference's. Exits with 1 if one doesn't agree."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_sizes(parser)
    parser.add_argument("--sweep", action="store_true", help="four sizes, from 64 x 2 to 512 x 8, instead of one")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="passes before those that count (default 5)")
    parser.add_argument("--repeat", type=int, default=20, metavar="N", help="passes that count (default 20)")
    parser.add_argument("--plot", type=output_path, metavar="FILE", help="draw the times to FILE (.png, .svg)")
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.exchange import SWEEP, plot, run_sizes
    from cutset.compare.metric_units import format_value

    settings = settings_from(args)
    models = SWEEP if args.sweep else (model_from(args),)
    found = []
    for one in run_sizes(models, settings, args.warmup, args.repeat, tell):
        found.append(one)
        tell(f"{one.workload}: {one.system} done")
    head = ("workload", "system", "median ms", "spread", "to reference", "relative L2", "top-1", "agrees")
    rows = [
        (
            one.workload,
            one.system,
            format_value(one.row.value),
            "–" if one.row.spread is None else f"{one.row.spread:.1%}",
            f"{one.speedup:.2f}x",
            f"{one.agreement.relative_l2:.2e}",
            f"{one.agreement.top1:.1%}",
            "yes" if one.agrees else f"NO {one.agreement.problem}",
        )
        for one in found
    ]
    print(table([head, *rows], right=(2, 3, 4, 5, 6)))
    if args.plot is not None:
        plot(found, args.plot)
    save_rows(args, [one.row for one in found], threads=settings.thread_count, packages=("torch",))
    return 0 if all(one.agrees for one in found) else 1
