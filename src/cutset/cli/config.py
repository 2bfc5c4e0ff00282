"""`cutset config`: the settings in force, and where each comes from; with a model, its sampling parameters too."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import table
from cutset.config import OPTIONS, STREAM_OPTIONS, Settings, load_stream_settings
from cutset.files import write_json

__all__ = ["configure", "run"]

WORDS = {True: "yes", False: "no", None: "none"}


def configure(parser: argparse.ArgumentParser) -> None:
    # Settings of streams have no flag here: their names are others' too.
    parser.add_argument("--model", metavar="MODEL", help="also how a request to it is sampled that doesn't say how")
    add_json(parser, "the settings and their sources")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    sampling: dict[str, tuple[Any, str]] = {}
    if args.model is not None:
        settings, sampling = _of_model(args.model, settings)
    values = {name: getattr(settings, name) for name in OPTIONS}
    shown = {name: _shown(value) for name, value in values.items()}
    if not settings.threads:
        shown["threads"] = f"0 = {settings.thread_count}"
    print(table([("setting", "value", "from"), *((name, shown[name], settings.sources[name]) for name in OPTIONS)]))
    stream = load_stream_settings()
    values_of_streams = {name: getattr(stream, name) for name in STREAM_OPTIONS}
    rows = [(name, _shown(value), stream.sources[name]) for name, value in values_of_streams.items()]
    print("\n" + table([("stream", "value", "from"), *rows]))
    if sampling:
        rows = [(name, _shown(value), source) for name, (value, source) in sampling.items()]
        print("\n" + table([("sampling", "value", "from"), *rows]))
    print(f"\nread: {settings.file or 'no cutset.toml'}")
    if args.json:
        found: dict[str, Any] = {
            "file": str(settings.file) if settings.file else None,
            "settings": _document(values, settings.sources),
            "stream": _document(values_of_streams, stream.sources),
        }
        if sampling:
            found["model"] = args.model
            found["sampling"] = {name: {"value": value, "source": source} for name, (value, source) in sampling.items()}
        write_json(args.json, found)
    return 0


def _document(values: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"value": _plain(value), "source": sources[name]} for name, value in values.items()}


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(repr(_plain(each)) for each in value) or "none"
    return WORDS[value] if isinstance(value, bool | None) else str(value)


def _of_model(model: str, settings: Settings) -> tuple[Settings, dict[str, tuple[Any, str]]]:
    """The settings for one model, and its sampling parameters, each with where it comes from."""
    from cutset.engine.model_defaults import sampling_defaults
    from cutset.engine.params import SamplingParams
    from cutset.models.families import load_spec
    from cutset.models.registry import resolve, settings_for

    ref = resolve(model, settings)
    settings = settings_for(ref, settings)
    own = sampling_defaults(ref.directory, load_spec(ref.directory).max_positions, settings)
    params = SamplingParams.of({}, own.values)
    source = f"{own.file.name} ({own.file})" if own.file else "default"
    return settings, {
        name: (getattr(params, name), source if name in own.values else "default") for name in SamplingParams.names()
    }
