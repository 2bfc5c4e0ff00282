"""`cutset models`: the bundled and the registered models."""

from __future__ import annotations

import argparse
from typing import Any

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import mib, say, table
from cutset.files import write_json
from cutset.models.registry import ModelInfo, catalogue

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "the list")
    add_settings(parser, "models_file")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    found = catalogue(settings)
    rows = [
        (
            info.ref.name,
            info.architecture or "–",
            f"{info.parameters / 1e6:.1f} M" if info.parameters else "–",
            mib(info.nbytes),
            "no" if info.problem else "yes",
            str(info.ref.directory),
        )
        for info in found
    ]
    print(table([("name", "architecture", "parameters", "weights", "usable", "directory"), *rows], right=(2, 3)))
    for info in found:
        if info.problem:
            say(f"{info.ref.name} can't be used: {info.problem}")
    say(f"\nregistered in: {settings.models_file or 'no models.yaml'}")
    if args.json:
        write_json(args.json, {"models": [_plain(info) for info in found]})
    return 0


def _plain(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.ref.name,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "bytes": info.nbytes,
        "usable": not info.problem,
        "problem": info.problem,
        "directory": str(info.ref.directory),
        "origin": info.ref.origin,
        "description": info.ref.overrides.description,
    }
