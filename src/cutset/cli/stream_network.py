"""How commands of `cutset stream` are told which network: by name, as an ONNX file, or as code of the user's own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from cutset.errors import RequestError

__all__ = ["MODEL_HELP", "NETWORK_SETTINGS", "add_network", "network_from"]

MODEL_HELP = "a network of the zoo (resnet50, mobilenet_v3_large, …; a wrong name lists them), or FILE.onnx"
# Settings that say which network it is and what computes it.
NETWORK_SETTINGS = ("size", "features", "weights", "seed", "pixels", "bgr", "runtime", "tolerance")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL and --module, of which one must be given: see `network_from`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--module",
        metavar="FILE.py:NAME",
        help="in place of MODEL: RUN THE CODE of this file, and take the torch module that NAME() gives; it gets uint8 "
        "pictures (1, 3, rows, columns)",
    )


def network_from(args: argparse.Namespace, log: Callable[[str], None]) -> Any:
    """The name that was given, or the torch module of --module; `args.model` names either from then on.

    Raises RequestError where neither or both were given, ConfigError for code that gives none.
    """
    if (args.model is None) == (args.module is None):
        raise RequestError("name a network: MODEL, or --module FILE.py:NAME" + (", not both" if args.module else ""))
    if args.module is None:
        return args.model
    from cutset.video.networks import load_module

    args.model = args.module
    return load_module(args.module, log)
