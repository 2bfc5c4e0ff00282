"""`cutset config`: the settings in force, and where each comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import table
from cutset.config import OPTIONS
from cutset.files import write_json

__all__ = ["configure", "run"]

WORDS = {True: "yes", False: "no", None: "none"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "the settings and their sources")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    values = {name: getattr(settings, name) for name in OPTIONS}
    shown = {name: WORDS[value] if isinstance(value, bool | None) else str(value) for name, value in values.items()}
    if not settings.threads:
        shown["threads"] = f"0 = {settings.thread_count}"
    print(table([("setting", "value", "from"), *((name, shown[name], settings.sources[name]) for name in OPTIONS)]))
    print(f"\nread: {settings.file or 'no cutset.toml'}")
    if args.json:
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        document = {name: {"value": plain[name], "source": settings.sources[name]} for name in OPTIONS}
        write_json(args.json, {"file": str(settings.file) if settings.file else None, "settings": document})
    return 0
