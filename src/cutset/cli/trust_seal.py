"""`cutset trust seal`: encrypts a model, so that only who gets its key can load it."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import output_file, output_folder
from cutset.cli.output import mib

__all__ = ["DESCRIPTION", "HELP", "add_generation", "configure", "run"]

HELP = "encrypt a model"
DESCRIPTION = "Encrypts all files of a model with a new key. `generate` and `serve` open it with --model-key."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a directory, or a GGUF file")
    parser.add_argument("-o", "--output", type=output_folder, required=True, metavar="DIR", help="a new directory")
    parser.add_argument("--key", type=output_file, required=True, metavar="FILE", help="where the key goes (0600, new)")
    add_generation(parser)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that let a key server refuse what was sealed before."""
    parser.add_argument(
        "--line",
        default="",
        metavar="NAME",
        help="what it is a version of: `cutset trust release` releases the highest --generation of a line alone",
    )
    parser.add_argument("--generation", type=int, default=0, metavar="N", help="with --line: its number, from 1 on")


def run(args: argparse.Namespace) -> int:
    import os

    from cutset.errors import ConfigError
    from cutset.trust.sealing.seal_model import seal_model, write_model_key

    if os.path.lexists(args.key):
        raise ConfigError(f"{args.key} is there already: a key is never overwritten; choose another name")
    key = seal_model(args.model, args.output, args.line, args.generation)
    write_model_key(key, Path(args.key))
    size = sum(path.stat().st_size for path in args.output.iterdir())
    print(f"{args.output}: {mib(size)}, seal {key.seal}\n{args.key}: its key; whoever has it can read the model")
    return 0
