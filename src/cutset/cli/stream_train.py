"""`cutset stream train`: a model of how much of every layer changes, fitted to a video and judged on the rest of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, different, output_path
from cutset.cli.output import table
from cutset.cli.progress import Progress
from cutset.cli.stream_measuring import add_measuring, changes_from, only_endings
from cutset.errors import RequestError
from cutset.files import write_json

if TYPE_CHECKING:
    from cutset.video.sparsity.predictor import Trained

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "fit a model of how much of every layer changes from picture to picture"
DESCRIPTION = (
    "Runs the dense network over a video, fits a model that predicts each layer's changed fraction from what changed "
    "in the picture, and compares it on held-out pictures with saying that as much changes as before."
)
SAME = 1e-6  # of a fraction
HEAD = ("layer", "predicted by", "changes", "off: trained", "off: last picture", "better")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="alexnet, vgg16, vgg19, googlenet or resnet50")
    add_measuring(parser)
    parser.add_argument(
        "--holdout", type=float, default=0.25, metavar="SHARE", help="of the pictures, the last (default 0.25)"
    )
    parser.add_argument(
        "-o", "--output", type=output_path, required=True, metavar="FILE.npz", help="where the model goes"
    )
    add_json(parser, "the errors")


def run(args: argparse.Namespace) -> int:
    only_endings(args.output, ".npz")
    different(args, "output", "keep", "json")
    if not 0 < args.holdout < 1:
        raise RequestError(f"--holdout must be between 0 and 1, not {args.holdout:g}")
    changes = changes_from(args)

    from cutset.video.sparsity.fit import fit
    from cutset.video.sparsity.predictor import choose, write_trained

    with Progress() as progress:
        trained = fit(changes, args.holdout, tell=lambda done, total: progress("fitted", done, total))
    write_trained(args.output, trained)
    print(table(_rows(trained), right=(2, 3, 4)))
    predictor, words = choose(trained)
    print(f"\noff: mean absolute error on {trained.errors.pictures} held-out pictures, in % of the layer's output")
    print(words)
    if args.json:
        write_json(args.json, _document(trained, predictor.name))
    return 0


def _rows(trained: Trained) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [HEAD]
    for name in trained.graph.values:
        ours, last = trained.errors.trained[name], trained.errors.last[name]
        kind = trained.layers[name].kind if name in trained.layers else "known"
        better = "same" if abs(ours - last) < SAME else "trained" if ours < last else "last picture"
        shares = (f"{100 * x:.2f} %" for x in (trained.mean[name], ours, last))
        rows.append((name, kind, *shares, better))
    return rows


def _document(trained: Trained, used: str) -> dict[str, Any]:
    errors, graph = trained.errors, trained.graph
    return {
        "command": "cutset stream train",
        "source": trained.source,
        "seen": errors.seen,
        "held_out": errors.pictures,
        "better": used,
        "bytes_off": {
            "trained": errors.nbytes(graph, errors.trained),
            "last picture": errors.nbytes(graph, errors.last),
        },
        "layers": [
            {
                "layer": name,
                "kind": trained.layers[name].kind if name in trained.layers else "known",
                "changed": trained.mean[name],
                "trained": errors.trained[name],
                "last picture": errors.last[name],
            }
            for name in graph.values
        ],
    }
