"""`cutset random`: writes a random model of any size, as an exchange file or as a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import add_sizes, model_from
from cutset.errors import RequestError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.json|DIR", help="an exchange file, or a checkpoint"
    )
    add_sizes(parser)


def run(args: argparse.Namespace) -> int:
    model = model_from(args)
    try:
        if args.output.suffix == ".json":
            model.write_exchange(args.output)
        elif args.output.is_file():
            raise RequestError(f"{args.output} is a file; name a directory, or a file that ends in .json")
        else:
            from cutset.models.files.writer import new_directory

            with new_directory(args.output):
                model.write_checkpoint(args.output)
    except OSError as error:
        raise RequestError(f"{args.output} can't be written: {error.strerror}") from None
    print(f"{args.output}: {model.spec().family}, {model.spec().parameter_count():,} parameters, seed {model.seed}")
    return 0
