"""What `cutset stream train` and `show` share: what changed in a network, from a file or measured now."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import output_path
from cutset.cli.output import printable
from cutset.cli.progress import Progress
from cutset.errors import ConfigError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutset.video.sparsity.changes import Changes

__all__ = ["LIMIT", "add_measuring", "changes_from", "measured", "only_endings"]

LIMIT = 400  # pictures


def add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", metavar="VIDEO", help="a video, a folder of pictures, a camera, generated:480x720, …"
    )
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="what was measured before, instead of MODEL")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"pictures at most (default {LIMIT})")
    parser.add_argument("--size", metavar="HxW", help="scale pictures to these rows x columns (default: as they are)")
    parser.add_argument("--features", action="store_true", help="stop before the head")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights (default: random ones)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default 0)")
    parser.add_argument("--keep", type=output_path, metavar="FILE.npz", help="write what was measured, for --data")


def changes_from(args: argparse.Namespace) -> Changes:
    """Reads --data, or runs MODEL over --source. Raises CutsetError."""
    from cutset.video.sparsity.changes import read_changes, write_changes

    if args.data:
        if args.model or args.source:
            raise RequestError("give either --data, or a model with --source")
        return read_changes(args.data)
    if not args.model or not args.source:
        raise RequestError("say what to measure: a model with --source VIDEO, or --data FILE.npz")
    if args.limit < 2:
        raise RequestError("--limit must be at least 2: changes are between pictures")
    if args.keep:
        only_endings(args.keep, ".npz")
    from cutset.cli.stream_graph import picture_size
    from cutset.video.sources import open_source

    size = picture_size(args.size) if args.size else None
    with open_source(args.source, limit=args.limit, size=size, tell=_tell) as source:
        pictures = (picture.pixels for picture in source)
        changes = measured(args, pictures, source.name, args.limit)
    if args.keep:
        write_changes(args.keep, changes)
    return changes


def measured(args: argparse.Namespace, pictures: Iterator[NDArray[np.uint8]], name: str, total: int) -> Changes:
    """What changes in MODEL over these pictures, with a progress bar."""
    from cutset.video.zoo import build

    network = build(args.model, head=not args.features, weights=args.weights, seed=args.seed, tell=_tell)
    # Loaded after the zoo, which says so where torch is missing.
    import torch

    from cutset.video.imports.export import export
    from cutset.video.sparsity.measure import measure

    first = next(pictures, None)
    if first is None:
        raise RequestError(f"{name} has no picture")
    graph, tensors = export(network, torch.empty(first.shape, dtype=torch.uint8))
    with Progress() as progress:
        return measure(
            graph,
            tensors,
            _again(first, pictures),
            source=Path(name).name,
            tell=lambda k: progress("measured", k, total),
        )


def only_endings(path: Path, *endings: str) -> None:
    """Raises ConfigError unless a file to write ends in one of these."""
    if path.suffix not in endings:
        raise ConfigError(f"{path} must end in {' or '.join(endings)}")


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _tell(line: str) -> None:
    import sys

    print(printable(line), file=sys.stderr)
