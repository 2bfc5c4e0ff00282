"""`cutset models`: the bundled and the registered models, or what the files of one hold."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import mib, say, table
from cutset.config import Settings
from cutset.files import write_json
from cutset.models.registry import ModelInfo, catalogue, resolve

if TYPE_CHECKING:
    from cutset.models.files.contents import Contents, StoredKind

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="show what a directory, a GGUF file or a registered model holds, instead of the list",
    )
    add_json(parser, "the list, or what the model holds,")
    add_settings(parser, "models_file", "download", "offline")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    if args.model:
        return _one(args.model, settings, args.json)
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


def _one(model: str, settings: Settings, json: str | None) -> int:
    from cutset.models.files.contents import contents_of

    found = contents_of(resolve(model, settings).directory)
    spec = found.spec
    rows = [
        ("model", found.title),
        ("architecture", spec.family),
        ("format", found.format),
        ("parameters", f"{spec.parameter_count() / 1e6:,.1f} M"),
        ("layers", f"{spec.layers} of {spec.hidden:,}, {spec.heads} heads, {spec.kv_heads} with keys and values"),
        ("experts", f"{spec.moe.experts} a layer, of which {spec.moe.top_k} run" if spec.moe is not None else ""),
        ("vocabulary", f"{spec.vocab_size:,} tokens" + (", the head is the embedding" if spec.tied else "")),
        ("context", f"{spec.context:,} tokens"),
        ("weights", f"{mib(found.nbytes)} in {found.files} file{'s' * (found.files > 1)}, {found.bits:.2f} bits each"),
    ]
    print(table([row for row in rows if row[1]]))
    print()
    names = ("type", "tensors", "weights", "size", "bits", "group")
    print(table([names, *(_row(kind) for kind in found.kinds)], right=(1, 2, 3, 4, 5)))
    if json:
        write_json(json, {"model": _as_plain(found)})
    return 0


def _row(kind: StoredKind) -> tuple[str, ...]:
    weights, group = f"{kind.weights / 1e6:,.2f} M", str(kind.group) if kind.group else "–"
    return kind.name, f"{kind.tensors:,}", weights, mib(kind.nbytes), f"{kind.bits:.2f}", group


def _as_plain(found: Contents) -> dict[str, Any]:
    spec = found.spec
    return {
        "path": str(found.path),
        "title": found.title,
        "format": found.format,
        "architecture": spec.family,
        "parameters": spec.parameter_count(),
        "context": spec.context,
        "vocabulary": spec.vocab_size,
        "tied": spec.tied,
        "bytes": found.nbytes,
        "bits": found.bits,
        "types": [
            {
                "name": kind.name,
                "tensors": kind.tensors,
                "weights": kind.weights,
                "bytes": kind.nbytes,
                "bits": kind.bits,
                "group": kind.group,
            }
            for kind in found.kinds
        ],
    }
