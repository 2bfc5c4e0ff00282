"""`cutset quantize`: writes an integer checkpoint, once, for every party."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import say
from cutset.cli.progress import Progress
from cutset.errors import ModelError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a float model: a directory or a name of models.yaml")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new directory")
    add_settings(parser, "models_file", "download", "offline")


def run(args: argparse.Namespace) -> int:
    from cutset.models.files.integer import write_integer_checkpoint
    from cutset.models.files.source import open_source
    from cutset.models.registry import resolve

    source = open_source(resolve(args.model, settings_from(args)).directory)
    if source.dtype == "int8":
        raise ModelError(f"{source.path} is an integer checkpoint already")
    with Progress() as progress:
        try:
            write_integer_checkpoint(source.spec, source.config, source.tensors, source.path, args.output, progress)
        except OSError as error:
            raise ModelError(f"{args.output} can't be written: {error.strerror}") from None
    before, after = (_megabytes(folder) for folder in (source.path, args.output))
    say(f"{args.output}: {source.spec.parameter_count():,} parameters, {before:.1f} MB became {after:.1f} MB")
    return 0


def _megabytes(folder: Path) -> float:
    from cutset.models.files.formats import weight_files

    return sum(file.stat().st_size for file in weight_files(folder)) / 1e6
