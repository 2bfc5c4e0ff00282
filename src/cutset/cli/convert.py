"""`cutset convert`: a checkpoint becomes an exchange file, an exchange file a checkpoint; the bytes stay the same. A
GGUF file becomes either, of floats.

An exchange file of an older version becomes one of today's; a checkpoint gets its specification.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.output import say
from cutset.errors import RequestError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="FILE.json|FILE.gguf|DIR", help="what to convert")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR|FILE.json",
        help="the other format, or DIR/specification.json of the directory DIR, which cutset-runner reads",
    )


def run(args: argparse.Namespace) -> int:
    from cutset.models.files.source import convert, open_source, specify
    from cutset.models.files.specification import SPECIFICATION

    if args.output.name == SPECIFICATION and args.source.is_dir():
        if args.output.parent.resolve() != args.source.resolve():
            raise RequestError(f"{SPECIFICATION} belongs beside its weights: give {args.source / SPECIFICATION}")
        say(f"{specify(args.source)}: what cutset-runner reads")
        return 0
    source = open_source(args.source)
    to_file = args.output.suffix == ".json"
    if (source.path.is_dir() and not to_file) or (args.output.exists() and args.output.is_dir() == to_file):
        raise RequestError("a checkpoint directory becomes a .json file, and an exchange or GGUF file becomes either")
    try:
        convert(source, args.output)
    except OSError as error:
        raise RequestError(f"{args.output} can't be written: {error.strerror}") from None
    say(f"{args.output}: {source.spec.family}, {len(source.spec.tensor_shapes())} tensors")
    return 0
