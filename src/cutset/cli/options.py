"""Flags that several commands share. Those of settings are made from the tables in cutset.config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.config import (
    OPTIONS,
    STREAM_OPTIONS,
    Option,
    Settings,
    StreamSettings,
    load_settings,
    load_stream_settings,
)
from cutset.errors import ConfigError
from cutset.files import check_writable

if TYPE_CHECKING:
    from cutset.models.random import RandomModel

__all__ = [
    "SIZES",
    "add_json",
    "add_settings",
    "add_sizes",
    "different",
    "model_from",
    "output_ending",
    "output_file",
    "output_folder",
    "output_path",
    "settings_from",
    "settings_with",
    "stream_settings_from",
]

# Default and meaning of each size; the defaults are those of RandomModel, which isn't imported for `--help`.
SIZES = {
    "hidden": (64, "hidden size"),
    "layers": (2, "layers"),
    "heads": (8, "query heads"),
    "kv_heads": (2, "key-value heads"),
    "vocab": (128, "tokens of the vocabulary"),
    "max_pos": (128, "positions"),
    "seq_len": (5, "tokens of each input sequence"),
    "batch_size": (2, "input sequences"),
    "seed": (123, "of weights and inputs"),
    "experts": (0, "experts of each layer; 0 is dense"),
    "top_k": (2, "experts that a row passes"),
}


def add_settings(parser: argparse.ArgumentParser, *names: str, options: Mapping[str, Option] = OPTIONS) -> None:
    """Adds a flag for each of these settings, or for all without names. Values are checked by `settings_from`, or of
    STREAM_OPTIONS by `stream_settings_from`.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names or options:
        option = options[name]
        if option.group not in groups:
            words = f"also {option.variable.removesuffix(name.upper())}… variables and cutset.toml; see `cutset config`"
            groups[option.group] = parser.add_argument_group(option.group, None if groups else words)
        default = option.default
        shown = ("yes" if default else "no") if isinstance(default, bool) else default
        shown = f"{shown:g}" if isinstance(shown, float) else shown
        text = option.help if default in (None, (), "") else f"{option.help} (default {shown})"
        more: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction}
            if option.kind is bool
            else {"metavar": option.metavar or _metavar(option)}
        )
        if option.separator == ";":  # its values have commas
            more["action"] = "append"
        groups[option.group].add_argument(option.flag, dest=_dest(option), help=text, **more)


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings in force: these flags over environment over file over defaults. Raises `ConfigError`."""
    return load_settings(_flags(args, OPTIONS))


def settings_with(args: argparse.Namespace, **more: Any) -> Settings:
    """`settings_from`, with some that have flags of other names. Raises `ConfigError`."""
    return load_settings(_flags(args, OPTIONS) | more)


def stream_settings_from(args: argparse.Namespace) -> StreamSettings:
    """The same of a stream."""
    return load_stream_settings(_flags(args, STREAM_OPTIONS))


def _flags(args: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: getattr(args, _dest(option), None) for name, option in options.items()}


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--json FILE`, which is `args.json` (None without); write it with `cutset.files.write_json`."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help=f"write {what} to FILE as JSON")


def output_file(text: str) -> str:
    """The `type` of an argument that names a file to write: one that can't be is refused before anything takes time.

    Raises ConfigError.
    """
    check_writable(text)
    return text


def output_path(text: str) -> Path:
    """`output_file` as a Path."""
    return Path(output_file(text))


def output_ending(*endings: str) -> Callable[[str], Path]:
    """`output_path` for files whose names must end in one of these."""

    def read(text: str) -> Path:
        path = output_path(text)
        if path.suffix not in endings:
            one = len(endings) == 1
            raise ConfigError(f"{path} {'must end' if one else 'ends neither'} in {' nor in '.join(endings)}")
        return path

    return read


def output_folder(text: str) -> Path:
    """The same for a directory, which may not be there yet."""
    path = Path(text)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        check_writable(there / "file")
    except ConfigError as error:
        raise ConfigError(f"no files can be written in {text!r}: {error}") from None
    return path


def different(args: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError where two of these outputs are one file, of which the last would be left."""
    found: dict[str, str] = {}
    for name in names:
        path = getattr(args, name)
        place = os.path.realpath(path) if path is not None else ""
        if place and (os.path.isfile(place) or not os.path.exists(place)):
            if place in found:
                raise ConfigError(f"--{found[place]} and --{name} name the same file, {os.fspath(path)!r}")
            found[place] = name


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Adds the sizes of a random model as flags."""
    group = parser.add_argument_group("sizes")
    for name, (default, text) in SIZES.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="N", help=f"{text} (default {default})"
        )
    group.add_argument(
        "--intermediate", type=int, metavar="N", help="width of the MLP (default 8/3 of hidden, rounded up to 64)"
    )
    tied = group.add_mutually_exclusive_group()
    tied.add_argument("--tied", action="store_true", default=True, help="lm_head is the embedding (default)")
    tied.add_argument("--untied", action="store_false", dest="tied", help="lm_head has weights of its own")
    group.add_argument("--qk-norm", action="store_true", help="RMSNorm over each head of q and k, as in Qwen3")


def model_from(args: argparse.Namespace) -> RandomModel:
    """The RandomModel that the flags describe."""
    from cutset.models.random import RandomModel

    return RandomModel(
        **{name: getattr(args, name) for name in SIZES},
        intermediate=args.intermediate,
        tied=args.tied,
        qk_norm=args.qk_norm,
    )


def _dest(option: Option) -> str:
    return f"settings.{option.key}"  # the dot keeps clear of a command's own arguments


def _metavar(option: Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    return "N" if option.kind is int else "FILE"
