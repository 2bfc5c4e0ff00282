"""`cutset stream train`: a model of how much of every layer changes, fitted to a video and judged on the rest of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, add_settings, different, output_ending, stream_settings_from
from cutset.cli.output import log, table
from cutset.cli.progress import Progress
from cutset.cli.stream_network import MODEL_HELP
from cutset.config import STREAM_OPTIONS
from cutset.errors import RequestError
from cutset.files import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutset.video.sparsity.changes import Changes
    from cutset.video.sparsity.predictor import Trained

__all__ = ["DESCRIPTION", "HELP", "add_measuring", "changes_from", "configure", "measured", "run"]

HELP = "fit a model of how much of every layer changes from picture to picture"
DESCRIPTION = (
    "Runs the dense network over a video, fits a model that predicts each layer's changed fraction from what changed "
    "in the picture, and compares it on held-out pictures with saying that as much changes as before."
)
LIMIT = 400  # pictures
SAME = 1e-6  # of a fraction
HEAD = ("layer", "predicted by", "changes", "off: trained", "off: last picture", "better")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    add_measuring(parser)
    parser.add_argument(
        "--holdout", type=float, default=0.25, metavar="SHARE", help="of the pictures, the last (default 0.25)"
    )
    parser.add_argument(
        "-o", "--output", type=output_ending(".npz"), required=True, metavar="FILE.npz", help="where the model goes"
    )
    parser.add_argument(
        "--delta-compute",
        nargs="?",
        type=float,
        const=1.0,
        metavar="SCALE",
        help="fit to what delta compute does of each layer, with so many times its thresholds (default 1)",
    )
    add_json(parser, "the errors")


def run(args: argparse.Namespace) -> int:
    different(args, "output", "keep", "json")
    if not 0 < args.holdout < 1:
        raise RequestError(f"--holdout must be between 0 and 1, not {args.holdout:g}")
    if args.delta_compute is not None and not 0 <= args.delta_compute < float("inf"):
        raise RequestError(f"--delta-compute must be 0 or above, not {args.delta_compute:g}")
    changes = changes_from(args, scale=args.delta_compute)

    from cutset.video.sparsity.fit import fit
    from cutset.video.sparsity.predictor import choose, write_trained

    with Progress() as progress:
        trained = fit(changes, args.holdout, progress=lambda done, total: progress("fitted", done, total))
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


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Adds what says where changes are measured, or read from."""
    parser.add_argument(
        "--source", metavar="VIDEO", help="a video, a folder of pictures, a camera, generated:480x720, …"
    )
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="what was measured before, instead of MODEL")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"pictures at most (default {LIMIT})")
    parser.add_argument(
        "--keep", type=output_ending(".npz"), metavar="FILE.npz", help="write what was measured, for --data"
    )
    add_settings(parser, "size", "features", "weights", "seed", "pixels", "bgr", options=STREAM_OPTIONS)


def changes_from(args: argparse.Namespace, *, scale: float | None = None) -> Changes:
    """Reads --data, or runs MODEL over --source: what changes, or with the `scale` of its thresholds what delta compute
    does. Raises CutsetError."""
    from cutset.video.sparsity.changes import read_changes, write_changes

    if args.data:
        if args.model or args.source:
            raise RequestError("give either --data, or a model with --source")
        return read_changes(args.data)
    if not args.model or not args.source:
        raise RequestError("say what to measure: a model with --source VIDEO, or --data FILE.npz")
    if args.limit < 2:
        raise RequestError("--limit must be at least 2: changes are between pictures")
    from cutset.video.networks import open_file, own_size
    from cutset.video.sources import open_source

    size = stream_settings_from(args).picture_size or own_size(open_file(args.model))
    with open_source(args.source, limit=args.limit, size=size, log=log) as source:
        pictures = (picture.pixels for picture in source)
        changes = measured(args, pictures, source.name, args.limit, scale)
    if args.keep:
        write_changes(args.keep, changes)
    return changes


def measured(
    args: argparse.Namespace,
    pictures: Iterator[NDArray[np.uint8]],
    name: str,
    total: int,
    scale: float | None = None,
) -> Changes:
    """What changes in MODEL over these pictures, or what delta compute does of it, with a progress bar."""
    from cutset.video.networks import open_file, open_network
    from cutset.video.sparsity.measure import measure

    settings = stream_settings_from(args)
    first = next(pictures, None)
    if first is None:
        raise RequestError(f"{name} has no picture")
    model = open_network(open_file(args.model), first.shape, "uint8", settings, log=log)
    again, name = _again(first, pictures), Path(name).name
    with Progress() as bar:

        def progress(k: int) -> None:
            bar("measured", k, total)

        if scale is None:
            return measure(model.graph, model.tensors, again, source=name, progress=progress)
        from cutset.video.delta.measuring import measure_dirty

        return measure_dirty(model.graph, model.tensors, again, scale=scale, source=name, progress=progress)


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
