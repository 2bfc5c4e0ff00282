"""Flags of `cutset serve` for files and batches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.serve.batches.batch_api import BatchApi

__all__ = ["add_batches", "batches_from"]

MIB = 1 << 20


def add_batches(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("batches")
    group.add_argument(
        "--batch-dir",
        type=Path,
        metavar="DIR",
        help="offer /v1/files and /v1/batches, and keep both there for this user alone; batches go on after a restart",
    )
    group.add_argument(
        "--batch-space",
        type=int,
        default=2048,
        metavar="N",
        help="MiB that one key's files and answers may take there (default 2048)",
    )


def batches_from(args: argparse.Namespace) -> BatchApi | None:
    """What is offered; None where nothing is. Raises ConfigError."""
    if args.batch_dir is None:
        return None
    if not 1 <= args.batch_space <= 1 << 20:
        raise ConfigError("--batch-space must be from 1 to 1048576")
    try:
        import python_multipart  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("--batch-dir needs a package more: pip install 'cutset[serve]'") from None
    from cutset.serve.batches.batch_api import BatchApi
    from cutset.serve.batches.file_store import StoreLimits

    space = args.batch_space * MIB
    return BatchApi(args.batch_dir, StoreLimits(file_bytes=min(StoreLimits().file_bytes, space), space=space))
